//! SIGINT and SIGTERM, as something to wait for.

use crate::reactor::Io;
use futures_lite::future::poll_fn;
use signal_hook::{
    SigId,
    consts::{SIGINT, SIGTERM},
    flag, low_level,
};
use std::{
    io,
    os::unix::net::UnixStream,
    sync::{Arc, atomic::AtomicBool},
};

/// The signals that end a process, taken from the system for as long as this lives.
pub(crate) struct Signals {
    caught: Io<UnixStream>,
    actions: Vec<SigId>,
}

impl Signals {
    pub(crate) fn take() -> io::Result<Self> {
        let (caught, catch) = UnixStream::pair()?;
        let mut signals = Self {
            caught: Io::new(caught)?,
            actions: Vec::new(),
        };
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // As shells count.
            let status = 128 + signal;
            signals.actions.extend([
                // Not the first time, when it is not set yet.
                flag::register_conditional_shutdown(signal, status, again.clone())?,
                flag::register(signal, again.clone())?,
                low_level::pipe::register(signal, catch.try_clone()?)?,
            ]);
        }
        Ok(signals)
    }

    /// Waits for a signal.
    pub(crate) async fn wait(&self) {
        // That it could not be read says all the same that there will be no other.
        let _ = poll_fn(|cx| self.caught.poll_read(cx, &mut [0])).await;
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for action in &self.actions {
            low_level::unregister(*action);
        }
    }
}

//! What signals do to a server.

use crate::{
    config::Config,
    house::House,
    reactor::{Io, register},
};
use futures_lite::future::{self, poll_fn};
use signal_hook::{
    SigId,
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag, low_level,
};
use std::{
    error::Error,
    ffi::c_int,
    fmt, io,
    os::unix::net::UnixStream,
    sync::{Arc, atomic::AtomicBool},
};

/// Gives the configuration to go on with.
pub(crate) type Reload = Box<dyn Fn() -> Result<Config, Box<dyn Error>>>;

/// The signals that a server is to heed.
#[derive(Default)]
pub(crate) struct Heeded {
    /// SIGINT and SIGTERM.
    pub(crate) ends: bool,
    /// SIGHUP.
    pub(crate) reload: Option<Reload>,
}

impl Heeded {
    /// Takes them from the system.
    pub(crate) fn take(self) -> io::Result<Signals> {
        Ok(Signals {
            ends: match self.ends {
                true => Some(Caught::ends()?),
                false => None,
            },
            reloads: match self.reload {
                Some(reload) => Some((Caught::of([SIGHUP])?, reload)),
                None => None,
            },
        })
    }
}

impl fmt::Debug for Heeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heeded")
            .field("ends", &self.ends)
            .field("reload", &self.reload.is_some())
            .finish()
    }
}

/// The signals that are heeded, for as long as this lives.
pub(crate) struct Signals {
    ends: Option<Caught>,
    reloads: Option<(Caught, Reload)>,
}

impl Signals {
    /// Does what they tell. Never returns.
    pub(crate) async fn obey(&self, house: &House) {
        future::zip(self.end(house), self.reload(house)).await;
    }

    async fn end(&self, house: &House) {
        if let Some(caught) = &self.ends {
            caught.wait().await;
            log::info!("shutting down");
            house.shutdown.set(());
        }
        future::pending().await
    }

    async fn reload(&self, house: &House) {
        let Some((caught, reload)) = &self.reloads else {
            return future::pending().await;
        };
        loop {
            caught.wait().await;
            let loaded = reload().and_then(|config| {
                config.check()?;
                Ok(config)
            });
            match loaded {
                Ok(config) => {
                    house.reconfigure(config);
                    log::info!("reloaded");
                }
                Err(error) => log::error!("not reloaded, all stays as it was: {error}"),
            }
            house.reloaded.notify(usize::MAX);
        }
    }
}

/// Signals, as bytes to be waited for.
struct Caught {
    bytes: Io<UnixStream>,
    actions: Vec<SigId>,
}

impl Caught {
    fn of(signals: impl IntoIterator<Item = c_int>) -> io::Result<Self> {
        let (caught, catch) = UnixStream::pair()?;
        let mut this = Self {
            bytes: register(caught)?,
            actions: Vec::new(),
        };
        for signal in signals {
            let action = low_level::pipe::register(signal, catch.try_clone()?)?;
            this.actions.push(action);
        }
        Ok(this)
    }

    /// Those that end a process: the second one does so at once.
    fn ends() -> io::Result<Self> {
        const ENDS: [c_int; 2] = [SIGINT, SIGTERM];
        let again = Arc::new(AtomicBool::new(false));
        let mut actions = Vec::new();
        for signal in ENDS {
            // As shells count.
            let status = 128 + signal;
            actions.extend([
                // Not the first time, when it is not set yet.
                flag::register_conditional_shutdown(signal, status, again.clone())?,
                flag::register(signal, again.clone())?,
            ]);
        }
        let mut this = Self::of(ENDS)?;
        this.actions.extend(actions);
        Ok(this)
    }

    async fn wait(&self) {
        // So many at once are as good as one.
        let mut bytes = [0; 64];
        if poll_fn(|cx| self.bytes.poll_read(cx, &mut bytes))
            .await
            .is_err()
        {
            future::pending().await
        }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        for action in &self.actions {
            low_level::unregister(*action);
        }
    }
}

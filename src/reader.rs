//! The read future: from the socket into the inbound queue.

use crate::{
    close::{CloseCode, Closed, ClosedBy},
    config::Config,
    decoder::Incoming,
    link::Link,
    reactor,
    wire::{Fault, FrameReader},
};
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// The stream ended or failed: nothing can be sent any more.
#[derive(Debug)]
pub(crate) struct Lost;

/// Reads until the peer's Close, or until it breaks a rule, or is lost.
pub(crate) async fn run(
    link: &Link,
    frames: &mut FrameReader,
    config: &Config,
) -> Result<(), Lost> {
    let mut control_frames = Rate::at_most(config.max_control_frames_per_second);
    loop {
        room(link).await;
        let mut ended = false;
        let read = frames
            .read(|incoming| {
                ended = take(link, incoming, &mut control_frames).is_break();
                if ended || is_full(link) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .await;
        match read {
            Ok(()) if ended => return Ok(()),
            Ok(()) => {}
            Err(Fault::Violation(closed)) => {
                link.close_input(closed);
                return Ok(());
            }
            Err(Fault::Lost(reason)) => {
                link.close(Closed::lost(ClosedBy::Peer, &reason));
                return Err(Lost);
            }
        }
    }
}

fn is_full(link: &Link) -> bool {
    !link.closing.is_set() && (link.inbound.is_full() || link.control.is_full())
}

/// Waits until what comes next can be taken, whatever it is.
async fn room(link: &Link) {
    if is_full(link) {
        link.reader_waits.set(true);
        link.inbound.has_room().await;
        link.reader_waits.set(false);
        link.control.room().await;
    }
}

/// Takes what was sent, for which there is room. Breaks off at the end of all.
fn take(link: &Link, incoming: Incoming, control_frames: &mut Rate) -> ControlFlow<()> {
    match incoming {
        Incoming::Ping(_) | Incoming::Pong if !control_frames.allows_one_more() => {
            let closed = Closed::new(
                ClosedBy::Local,
                CloseCode::POLICY_VIOLATION,
                "too many pings and pongs in a second",
            );
            link.close_input(closed.at_limit("max_control_frames_per_second"));
            return ControlFlow::Break(());
        }
        // After our own Close the peer's messages may still be on their way: they are discarded, and
        // nothing can be answered.
        Incoming::Message(_) | Incoming::Ping(_) if link.closing.is_set() => {}
        Incoming::Message(message) => {
            let message_bytes = message.len();
            if link.inbound.try_push(message).is_ok() {
                link.count_received(message_bytes);
            }
        }
        Incoming::Ping(payload) => link.control.ask(|due| due.pongs.push_back(payload)),
        Incoming::Pong => {}
        Incoming::Close { code, reason } => {
            link.close_input(Closed::new(ClosedBy::Peer, code, &reason));
            return ControlFlow::Break(());
        }
    }
    ControlFlow::Continue(())
}

/// How many there were in the second that began with the first of them.
struct Rate {
    max: usize,
    count: usize,
    since: Instant,
}

impl Rate {
    fn at_most(max: usize) -> Self {
        Self {
            max,
            count: 0,
            since: reactor::now(),
        }
    }

    fn allows_one_more(&mut self) -> bool {
        let now = reactor::now();
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.count, self.since) = (0, now);
        }
        self.count += 1;
        self.count <= self.max
    }
}

//! The read future: from the socket into the inbound queue.

use crate::{
    close::{CloseCode, Closed, ClosedBy},
    config::Config,
    link::Link,
    queue::Rejected,
    reactor,
    wire::{Fault, FrameReader, Incoming},
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
        match frames.next().await {
            Ok(Incoming::Ping(_) | Incoming::Pong) if !control_frames.allows_one_more() => {
                let closed = Closed::new(
                    ClosedBy::Local,
                    CloseCode::POLICY_VIOLATION,
                    "too many pings and pongs in a second",
                );
                link.close_input(closed.at_limit("max_control_frames_per_second"));
                return Ok(());
            }
            Ok(incoming) => {
                if take(link, incoming).await.is_break() {
                    return Ok(());
                }
            }
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

async fn take(link: &Link, incoming: Incoming) -> ControlFlow<()> {
    match incoming {
        // After our own Close the peer's messages may still be on their way: they are discarded, and
        // nothing can be answered.
        Incoming::Message(_) | Incoming::Ping(_) if link.closing.is_set() => {}
        Incoming::Message(message) => {
            let message_bytes = message.len();
            let pushed = match link.inbound.try_push(message) {
                Err(Rejected::Full(message)) => {
                    link.reader_waits.set(true);
                    let pushed = link.inbound.push(message).await.is_ok();
                    link.reader_waits.set(false);
                    pushed
                }
                result => result.is_ok(),
            };
            if pushed {
                link.count_received(message_bytes);
            }
        }
        Incoming::Ping(payload) => link.control.pong(payload).await,
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

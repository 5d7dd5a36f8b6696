//! The read future: from the socket into the inbound queue.

use crate::{
    close::{Closed, ClosedBy},
    link::Link,
    queue::Rejected,
    wire::{Fault, FrameReader, Incoming},
};
use std::ops::ControlFlow;

/// The stream ended or failed: nothing can be sent any more.
#[derive(Debug)]
pub(crate) struct Lost;

/// Reads until the peer's Close, or until it breaks a rule, or is lost.
pub(crate) async fn run(link: &Link, frames: &mut FrameReader) -> Result<(), Lost> {
    loop {
        match frames.next().await {
            Ok(incoming) => {
                if take(link, incoming).await.is_break() {
                    return Ok(());
                }
            }
            Err(Fault::Violation(code, reason)) => {
                link.close_input(Closed::new(ClosedBy::Local, code, &reason));
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
                link.received.add(message_bytes);
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

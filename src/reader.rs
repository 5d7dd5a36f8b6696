//! The read future: from the socket into the inbound queue.

use crate::{
    close::{Closed, ClosedBy},
    link::Link,
    queue::Rejected,
    wire::{Fault, FrameReader, Incoming},
};
use futures_lite::future;
use std::ops::ControlFlow;

/// The stream ended or failed: nothing can be sent any more.
#[derive(Debug)]
pub(crate) struct Lost;

/// A peer whose bytes are always there already shall not keep the thread: after so many frames the others
/// have their turn.
const FRAMES_IN_A_TURN: u32 = 32;

/// Reads until the peer's Close, or until it breaks a rule, or is lost.
pub(crate) async fn run(link: &Link, frames: &mut FrameReader) -> Result<(), Lost> {
    let mut turn = 0;
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
        turn += 1;
        if turn == FRAMES_IN_A_TURN {
            turn = 0;
            future::yield_now().await;
        }
    }
}

async fn take(link: &Link, incoming: Incoming) -> ControlFlow<()> {
    match incoming {
        // After our own Close the peer's messages may still be on their way: they are discarded.
        Incoming::Message(_) if link.closing.is_set() => {}
        Incoming::Message(message) => {
            link.received.add(message.len());
            if let Err(Rejected::Full(message)) = link.inbound.try_push(message) {
                link.reader_waits.set(true);
                // An error means that the connection was closed meanwhile: discarded as above.
                let _ = link.inbound.push(message).await;
                link.reader_waits.set(false);
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

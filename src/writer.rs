//! The write future: from the outbound queue to the socket.

use crate::{
    close::{Closed, ClosedBy},
    config::{Config, HEARTBEAT},
    link::Link,
    message::Message,
    reactor,
    reader::Lost,
    wire::{FrameWriter, close_frame_for},
};
use futures_lite::future;
use std::time::Instant;

enum Work {
    Message(Message),
    Control,
    Close,
}

/// Writes until the connection is closed and all that was accepted before is written, the Close last.
pub(crate) async fn run(link: &Link, frames: &FrameWriter, config: &Config) -> Result<(), Lost> {
    let mut last = None;
    loop {
        let work = future::or(
            async {
                link.control.wait().await;
                Work::Control
            },
            async { link.outbound.pop().await.map_or(Work::Close, Work::Message) },
        )
        .await;
        if frames.pending_bytes() > 0 {
            // Left from what was sent past the queue.
            flush(link, frames, config, &mut last).await?;
        }
        push_control(link, frames);
        match work {
            Work::Control => {}
            Work::Message(message) => {
                push_message(link, frames, message);
                while !frames.is_full() {
                    let Some(message) = link.outbound.try_pop() else {
                        break;
                    };
                    push_message(link, frames, message);
                }
            }
            Work::Close => {
                // The queue is closed only after the reason was recorded.
                let Some(closed) = link.closing.get().filter(|closed| closed.is_clean()) else {
                    return Err(Lost);
                };
                let (code, reason) = close_frame_for(closed);
                frames.push_close(code, reason);
                return flush(link, frames, config, &mut last).await;
            }
        }
        flush(link, frames, config, &mut last).await?;
    }
}

fn push_control(link: &Link, frames: &FrameWriter) {
    let due = link.control.take();
    for pong in due.pongs {
        frames.push_pong(&pong);
    }
    if due.ping {
        frames.push_ping();
    }
    if due.heartbeat && !link.closing.is_set() {
        link.count_heartbeat();
        frames.push_message(Message::from(HEARTBEAT));
    }
}

fn push_message(link: &Link, frames: &FrameWriter, message: Message) {
    link.count_sent(message.len());
    frames.push_message(message);
}

/// Writes all that was pushed. Each step has `write_timeout`; once nothing more can be queued all that is left
/// has, until `last`, or a peer could choose how long it stays.
async fn flush(
    link: &Link,
    frames: &FrameWriter,
    config: &Config,
    last: &mut Option<Instant>,
) -> Result<(), Lost> {
    while frames.pending_bytes() > 0 {
        let written = match future::poll_once(frames.write_some()).await {
            Some(written) => Some(written),
            None => {
                let step = reactor::now() + config.write_timeout;
                if last.is_none() && link.outbound.is_closed() {
                    *last = Some(step);
                }
                let arrived = frames.arrived();
                let writing = reactor::timeout_at(last.unwrap_or(step), frames.write_some());
                // Allocated only where it has to wait: most connections never do.
                let written = Box::pin(writing).await;
                // The system makes room in large steps: over a thin link the peer may be busy all the time.
                if written.is_none() && last.is_none() && frames.arrived() > arrived {
                    continue;
                }
                written
            }
        };
        let closed = match written {
            Some(Ok(())) => continue,
            Some(Err(error)) => Closed::lost(ClosedBy::Peer, &error.to_string()),
            None => Closed::lost(
                ClosedBy::Local,
                &format!("the peer took nothing for {:?}", config.write_timeout),
            )
            .at_limit("write_timeout"),
        };
        link.close(closed);
        return Err(Lost);
    }
    Ok(())
}

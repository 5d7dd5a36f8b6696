//! The read future: from the socket into the inbound queue.

use crate::{
    close::{CloseCode, Closed, ClosedBy},
    config::Config,
    decoder::Incoming,
    link::Link,
    reactor,
    wire::{Fault, FrameReader},
};
use futures_lite::ready;
use std::{
    ops::ControlFlow,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// The stream ended or failed: nothing can be sent any more.
#[derive(Debug)]
pub(crate) struct Lost;

/// Reads until the peer's Close, or until it breaks a rule, or is lost.
pub(crate) struct Reader {
    link: Rc<Link>,
    frames: FrameReader,
    control_frames: Rate,
}

impl Reader {
    /// So many messages are taken before the handler has a look at them: what it lets go of is then used for the next ones, and
    /// allocators have a few pieces of a size at hand at little cost.
    const BATCH: usize = 7;

    pub(crate) fn new(link: Rc<Link>, frames: FrameReader, config: &Config) -> Self {
        Self {
            link,
            frames,
            control_frames: Rate::at_most(config.max_control_frames_per_second),
        }
    }

    #[inline]
    pub(crate) fn end_turn(&mut self) {
        self.frames.end_turn();
    }
}

impl Future for Reader {
    type Output = Result<(), Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            link,
            frames,
            control_frames,
        } = &mut *self;
        let link = &**link;
        loop {
            let full = is_full(link);
            link.reader_waits.set(full && link.inbound.is_full());
            if full {
                // Who makes room wakes the task.
                return Poll::Pending;
            }
            let mut ended = false;
            let mut count = 0;
            let read = frames.poll_read(cx, &mut |incoming| {
                ended = take(link, incoming, control_frames).is_break();
                count += 1;
                if ended || count == Self::BATCH || is_full(link) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            match ready!(read) {
                Ok(()) if ended => return Poll::Ready(Ok(())),
                Ok(()) if frames.has_unread() => {
                    link.gate.wake();
                    return Poll::Pending;
                }
                Ok(()) => {}
                Err(Fault::Violation(closed)) => {
                    link.close_input(closed);
                    return Poll::Ready(Ok(()));
                }
                Err(Fault::Lost(reason)) => {
                    link.close(Closed::lost(ClosedBy::Peer, &reason));
                    return Poll::Ready(Err(Lost));
                }
            }
        }
    }
}

/// Whether what comes next could not be taken, whatever it is.
#[inline]
fn is_full(link: &Link) -> bool {
    !link.closing.is_set() && (link.inbound.is_full() || link.owes_pongs())
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
        Incoming::Ping(payload) => link.ask(|due| due.pongs.push_back(payload)),
        Incoming::Pong => {}
        Incoming::Close { code, reason } => {
            link.peer_closed.set(true);
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

//! The write future: from the outbound queue to the socket.

use crate::{
    close::{Closed, ClosedBy},
    config::{Config, HEARTBEAT},
    link::Link,
    message::Message,
    reactor,
    reader::Lost,
    shown::Time,
    wire::{FrameWriter, close_frame_for},
};
use futures_lite::ready;
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

/// Writes until the connection is closed and all that was accepted before is written, the Close last.
pub(crate) struct Writer<'a> {
    link: Rc<Link>,
    frames: Rc<FrameWriter>,
    config: &'a Config,
    /// There while the peer takes nothing.
    step: Option<Box<Step>>,
    /// Until when all that is left has to be taken.
    last: Option<Instant>,
    closed: bool,
}

/// A wait for the peer to take something.
struct Step {
    timeout: Pin<Box<dyn Future<Output = ()>>>,
    /// What had arrived when it began.
    arrived: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(link: Rc<Link>, frames: Rc<FrameWriter>, config: &'a Config) -> Self {
        Self {
            link,
            frames,
            config,
            step: None,
            last: None,
            closed: false,
        }
    }

    /// Pushes what is to be sent, up to a batch. Tells whether there is something.
    fn push(&self) -> bool {
        let mut any = self.push_control();
        while !self.frames.is_full() {
            let Some(message) = self.link.next_outbound() else {
                break;
            };
            self.link.count_sent(message.len());
            self.frames.push_message(message);
            any = true;
        }
        any || self.link.has_outbound()
    }

    fn push_control(&self) -> bool {
        let Some(due) = self.link.take_due() else {
            return false;
        };
        for pong in due.pongs {
            self.frames.push_pong(&pong);
        }
        if due.ping {
            self.frames.push_ping();
        }
        if due.heartbeat && !self.link.closing.is_set() {
            self.link.count_heartbeat();
            self.frames.push_message(Message::from(HEARTBEAT));
        }
        true
    }

    /// Writes all that was pushed. Each step has `write_timeout`; once nothing more can be queued all that is left
    /// has, until `last`, or a peer could choose how long it stays.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        while self.frames.has_pending() {
            let closed = match self.frames.poll_write(cx) {
                Poll::Ready(Ok(())) => {
                    self.step = None;
                    continue;
                }
                Poll::Ready(Err(error)) => Closed::lost(ClosedBy::Peer, &error.to_string()),
                Poll::Pending => {
                    let mut step = match self.step.take() {
                        Some(step) => step,
                        None => self.begin_step(),
                    };
                    if step.timeout.as_mut().poll(cx).is_pending() {
                        self.step = Some(step);
                        return Poll::Pending;
                    }
                    // The system makes room in large steps: over a thin link the peer may be busy all the time.
                    if self.last.is_none() && self.frames.arrived() > step.arrived {
                        continue;
                    }
                    let reason = format!(
                        "the peer took nothing for {}",
                        Time(self.config.write_timeout)
                    );
                    Closed::lost(ClosedBy::Local, &reason).at_limit("write_timeout")
                }
            };
            self.link.close(closed);
            return Poll::Ready(Err(Lost));
        }
        Poll::Ready(Ok(()))
    }

    fn begin_step(&mut self) -> Box<Step> {
        let until = reactor::now() + self.config.write_timeout;
        if self.last.is_none() && self.link.outbound.is_closed() {
            self.last = Some(until);
        }
        Box::new(Step {
            timeout: Box::pin(reactor::sleep_until(self.last.unwrap_or(until))),
            arrived: self.frames.arrived(),
        })
    }
}

impl Future for Writer<'_> {
    type Output = Result<(), Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.frames.is_blocked() {
            ready!(this.poll_flush(cx))?;
        }
        while !this.closed {
            if !this.push() {
                if !this.link.outbound.is_closed() {
                    // Who has something to send wakes the task.
                    return Poll::Pending;
                }
                // The queue is closed only after the reason was recorded.
                let closed = this.link.closing.get().filter(|closed| closed.is_clean());
                let Some((code, reason)) = closed.map(close_frame_for) else {
                    return Poll::Ready(Err(Lost));
                };
                this.frames.push_close(code, reason);
                this.closed = true;
            }
            ready!(this.poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

//! What many clients send to one who takes it a message at a time.

use async_channel::{Receiver, Sender};
use event_listener::{Event, EventListener, Listener};
use futures_lite::{future::poll_fn, ready};
use std::{
    pin::{Pin, pin},
    task::Poll,
};
use whit::{Closed, Message};

/// One message waits in it. A client's next is taken from its connection when there is room for it, and is charged to that until then.
pub(crate) struct Funnel {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    /// There may be room for the next, or it is closed.
    changed: Event,
}

impl Funnel {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = async_channel::bounded(1);
        Self {
            sender,
            receiver,
            changed: Event::new(),
        }
    }

    /// Takes what `reading` gives. Once it is closed that is lost.
    pub(crate) async fn put(
        &self,
        reading: impl Future<Output = Result<Message, Closed>>,
    ) -> Result<(), Closed> {
        let mut reading = pin!(reading);
        let mut listener: Option<EventListener> = None;
        poll_fn(|cx| {
            while self.sender.is_full() && !self.sender.is_closed() {
                match &mut listener {
                    // There may be room since that was asked.
                    None => listener = Some(self.changed.listen()),
                    Some(changed) => {
                        ready!(Pin::new(changed).poll(cx));
                        listener = None;
                    }
                }
            }
            // Dropped, it hands on to another client the news that nothing was made of here.
            let listener = listener.take();
            let message = ready!(reading.as_mut().poll(cx))?;
            listener.map(EventListener::discard);
            let _ = self.sender.try_send(message);
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The next message, or `None` once it is closed and empty.
    #[cfg(target_os = "linux")]
    pub(crate) async fn next(&self) -> Option<Message> {
        let message = self.receiver.recv().await.ok();
        self.changed.notify(1);
        message
    }

    /// The same, blocking the thread.
    pub(crate) fn next_blocking(&self) -> Option<Message> {
        let message = self.receiver.recv_blocking().ok();
        self.changed.notify(1);
        message
    }

    pub(crate) fn close(&self) {
        self.sender.close();
        self.changed.notify(usize::MAX);
    }
}

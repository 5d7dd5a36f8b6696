//! The handle that a handler holds, and the life of a connection: its futures joined, and one end.

use crate::{
    close::{CloseCode, Closed, ClosedBy},
    config::Config,
    link::{Link, Open},
    message::Message,
    queue::Rejected,
    reactor,
    reader::{Lost, Reader},
    request::{Peer, Request},
    shown::Tenths,
    wire::{FrameReader, FrameWriter},
    writer::Writer,
};
use futures_lite::{
    Stream,
    future::{self, poll_fn},
    ready,
};
use std::{
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

/// A WebSocket connection: what its handler holds of it.
///
/// A cheap handle: clones are of the same connection, and all their methods take `&self`, so that reading and
/// writing can go on side by side. It is not `Send`; everything runs on one thread.
///
/// The connection ends when either side closes it, when its handler returns, or when all its handles
/// are dropped. A handler that returns `Ok` closes with [`NORMAL`](CloseCode::NORMAL); one that returns an error
/// or panics, with [`INTERNAL_ERROR`](CloseCode::INTERNAL_ERROR).
///
/// A handler that only writes should read all the same, if only to throw away what comes: messages that
/// nobody reads fill the inbound queue, and a Close that the peer sends after them is not seen. One that reads no
/// more should watch [`closed`](Self::closed): a peer's Close is answered when the handler comes back to read,
/// or returns, or after [`close_timeout`](crate::Config::close_timeout), since until then it may be about to
/// answer a message.
///
/// As a [`Stream`], a handle gives the messages that [`read`](Self::read) would, and ends where that fails.
///
/// # Examples
///
/// Reading and writing in turn, and side by side:
///
/// ```
/// use futures_lite::{StreamExt, future};
/// use std::time::Duration;
/// use whit::{Closed, Connection, sleep};
///
/// async fn echo(conn: Connection) -> Result<(), Closed> {
///     loop {
///         conn.write(conn.read().await?).await?;
///     }
/// }
///
/// async fn clock(conn: Connection) -> Result<(), Closed> {
///     let tick = async {
///         loop {
///             conn.write("tick").await?;
///             sleep(Duration::from_secs(1)).await;
///         }
///     };
///     let count = async {
///         let asked = conn.clone().count().await;
///         println!("{asked} messages from {:?}", conn.request().peer_addr());
///         Err(conn.closed().await)
///     };
///     future::or(tick, count).await
/// }
/// # whit::Server::new().route("/echo", echo).route("/clock", clock);
/// ```
#[derive(Clone)]
pub struct Connection {
    handle: Rc<Handle>,
    /// Made when this handle is first used as a stream.
    stream: Messages,
}

struct Handle {
    link: Rc<Link>,
    request: Request,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.link.abandon();
    }
}

/// The wait for the next message, while there is one.
#[derive(Default)]
struct Messages(Option<Pin<Box<dyn Future<Output = Option<Message>>>>>);

impl Clone for Messages {
    fn clone(&self) -> Self {
        Self(None)
    }
}

/// Why [`Connection::try_write`] did not take a message, with the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TryWriteError {
    /// As many messages wait already as [`outbound_capacity`](crate::Config::outbound_capacity) allows.
    Full(Message),
    /// The connection is closed: [`Connection::close_reason`] tells why.
    Closed(Message),
}

impl TryWriteError {
    /// The message that was not taken.
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message) | Self::Closed(message) => message,
        }
    }
}

impl fmt::Display for TryWriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the outbound queue is full",
            Self::Closed(_) => "the connection is closed",
        })
    }
}

impl Error for TryWriteError {}

impl Connection {
    /// Waits for the next message.
    ///
    /// Messages come whole, in order, each to one reader only. What was received before the peer closed, or
    /// before [`close`](Self::close) was called, can still be read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready loses no message.
    ///
    /// # Errors
    ///
    /// [`Closed`] once the connection is closed and all messages are read, and ever after.
    pub async fn read(&self) -> Result<Message, Closed> {
        let link = &self.handle.link;
        link.begin_receive();
        let Some(message) = link.inbound.pop().await else {
            return Err(self.ended());
        };
        link.end_receive();
        Ok(message)
    }

    /// Sends a message, after all that was written before; waits while the outbound queue is full.
    ///
    /// A message that was taken is sent before the connection's Close, unless the connection breaks, or
    /// the peer closes it first.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the message is not sent.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the connection is closed, or is closed while this waits. The message is not sent then. To keep
    /// it, use [`try_write`](Self::try_write).
    pub async fn write(&self, message: impl Into<Message>) -> Result<(), Closed> {
        let link = &self.handle.link;
        let Err(message) = link.send(message.into()) else {
            return Ok(());
        };
        self.queue(message).await
    }

    /// Allocated where it has to wait: or every handler's future would be larger.
    #[cold]
    fn queue(&self, message: Message) -> Pin<Box<dyn Future<Output = Result<(), Closed>> + '_>> {
        Box::pin(async {
            let queued = self.handle.link.queue(message).await;
            queued.map_err(|_| self.ended())
        })
    }

    /// Sends a message, after all that was written before, if the outbound queue has room for it now.
    ///
    /// # Errors
    ///
    /// [`TryWriteError`] gives the message back and tells whether there was no room, or the connection is closed.
    pub fn try_write(&self, message: impl Into<Message>) -> Result<(), TryWriteError> {
        let link = &self.handle.link;
        let Err(message) = link.send(message.into()) else {
            return Ok(());
        };
        link.try_queue(message).map_err(|rejected| match rejected {
            Rejected::Full(message) => TryWriteError::Full(message),
            Rejected::Closed(message) => TryWriteError::Closed(message),
        })
    }

    /// Closes the connection, with a reason for the peer of up to 123 bytes; a longer one is cut.
    ///
    /// It returns at once. Messages that were queued before are still sent, then the Close; then the peer has
    /// [`close_timeout`](crate::Config::close_timeout) to part. A connection that is closing already stays as it is:
    /// only the first close counts (RFC 6455 7.1.1 to 7.1.4).
    ///
    /// Two codes cannot be sent: [`NO_STATUS`](CloseCode::NO_STATUS) makes a Close without a code;
    /// [`ABNORMAL`](CloseCode::ABNORMAL) drops the connection at once and what is still queued with it, and
    /// the peer is told 1008 if that takes no waiting.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.handle
            .link
            .close(Closed::new(ClosedBy::Local, code, reason));
    }

    /// Waits until the connection is closed, by whomever, and tells how.
    ///
    /// The Close may still be on its way then, and messages that came before it may still be unread.
    ///
    /// # Cancel safety
    ///
    /// It only waits: it can be dropped and called again.
    pub async fn closed(&self) -> Closed {
        self.handle.link.closing.wait().await.clone()
    }

    /// How the connection was closed, or `None` while it is open.
    pub fn close_reason(&self) -> Option<Closed> {
        self.handle.link.closing.get().cloned()
    }

    /// The request that the connection began with.
    pub fn request(&self) -> &Request {
        &self.handle.request
    }

    pub(crate) fn link(&self) -> &Rc<Link> {
        &self.handle.link
    }

    /// The handler came to the end: what it has not answered by now it will not.
    fn ended(&self) -> Closed {
        let link = &self.handle.link;
        link.close_output();
        let never = || Closed::lost(ClosedBy::Local, "");
        link.closing.get().cloned().unwrap_or_else(never)
    }
}

impl Stream for Connection {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let Self { handle, stream } = &mut *self;
        let next = stream.0.get_or_insert_with(|| {
            let conn = Self {
                handle: handle.clone(),
                stream: Messages(None),
            };
            Box::pin(async move { conn.read().await.ok() })
        });
        let next = ready!(next.as_mut().poll(cx));
        stream.0 = None;
        Poll::Ready(next)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.handle.link.id)
            .field("path", &self.handle.request.path())
            .field("peer_addr", &self.handle.request.peer_addr())
            .field("closed", &self.handle.link.closing.get())
            .finish_non_exhaustive()
    }
}

/// A handler's future, whatever its type was.
pub(crate) type Handling = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error>>>>>;
pub(crate) type Handler = Rc<dyn Fn(Connection) -> Handling>;

/// Runs a connection from its upgrade until nothing of it is left.
pub(crate) fn run<'a>(
    open: Open,
    request: Request,
    frames_in: FrameReader,
    frames_out: Rc<FrameWriter>,
    handler: &Handler,
    config: &'a Config,
) -> impl Future<Output = ()> + use<'a> {
    let link = open.link().clone();
    let log = Log::open(open, &request);
    let conn = Connection {
        handle: Rc::new(Handle {
            link: link.clone(),
            request,
        }),
        stream: Messages(None),
    };
    // Made here and not within the future, which would have room for both.
    let mut talk = Talk {
        reader: Some(Reader::new(link.clone(), frames_in, config)),
        writer: Some(Writer::new(link.clone(), frames_out.clone(), config)),
        handling: begin(&link, handler, conn),
        deadline: None,
        link,
        config,
    };
    async move {
        let parting = poll_fn(|cx| talk.poll_turn(cx, Talk::poll_round)).await;
        // Nothing more is read: what it has of a message is of no use.
        (talk.reader, talk.writer) = (None, None);
        // Allocated when it comes to it, or every connection's future would be larger all its life.
        Box::pin(end(&mut talk, frames_out, parting, log)).await;
        talk.link.account.retire();
    }
}

/// Begins to run a handler, which may panic even so early.
fn begin(link: &Link, handler: &Handler, conn: Connection) -> Option<Handling> {
    let handling = catch_unwind(AssertUnwindSafe(|| handler(conn)));
    handling.map_err(|_| fail(link, "panicked")).ok()
}

fn fail(link: &Link, how: &str) {
    log::warn!("#{} its handler {how}", link.id);
    link.close(Closed::new(
        ClosedBy::Local,
        CloseCode::INTERNAL_ERROR,
        "the handler failed",
    ));
}

/// What goes on between the two ends of a connection, until it is closed both ways, or lost.
struct Talk<'a> {
    link: Rc<Link>,
    /// There until it is done, as are the others.
    reader: Option<Reader>,
    writer: Option<Writer<'a>>,
    handling: Option<Handling>,
    /// Of the one that is not done, once the other is.
    deadline: Option<Box<Deadline>>,
    config: &'a Config,
}

struct Deadline {
    at: Instant,
    timer: Pin<Box<dyn Future<Output = ()>>>,
}

impl Talk<'_> {
    /// Polls `round` as a part of the connection's turn.
    fn poll_turn<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut round: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let link = self.link.clone();
        let poll = link.gate.poll_turn(cx, |cx| round(self, cx));
        if let Some(reader) = &mut self.reader {
            reader.end_turn();
        }
        link.end_turn();
        poll
    }

    /// Polls all that goes on. Gives the time by which the peer has to part.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Poll<Result<Instant, Lost>> {
        if let Some(reader) = &mut self.reader {
            if let Poll::Ready(read) = Pin::new(reader).poll(cx) {
                read?;
                self.reader = None;
            }
        }
        let _ = self.poll_handler();
        if let Some(writer) = &mut self.writer {
            if let Poll::Ready(wrote) = Pin::new(writer).poll(cx) {
                wrote?;
                self.writer = None;
                self.deadline = None;
            }
        }
        let link = &self.link;
        if link.account.poll_shed(cx).is_ready() {
            link.close_shed();
            return Poll::Ready(Err(Lost));
        }
        if link.closing.get().is_some_and(|closed| !closed.is_clean()) {
            return Poll::Ready(Err(Lost));
        }
        self.poll_close(cx)
    }

    /// Judges what is done, and what is late.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<Instant, Lost>> {
        let until = || reactor::now() + self.config.close_timeout;
        match (&self.reader, &self.writer) {
            (Some(_), Some(_)) => return Poll::Pending,
            (None, None) => {
                let deadline = self.deadline.as_ref();
                return Poll::Ready(Ok(deadline.map_or_else(until, |deadline| deadline.at)));
            }
            _ => {}
        }
        let deadline = self.deadline.get_or_insert_with(|| {
            let at = until();
            let timer = Box::pin(reactor::sleep_until(at));
            Box::new(Deadline { at, timer })
        });
        if self.writer.is_none() {
            return deadline.timer.as_mut().poll(cx).map(|()| Err(Lost));
        }
        // The handler may still answer what came before the peer's Close, then ours is sent.
        if !self.link.outbound.is_closed() {
            ready!(deadline.timer.as_mut().poll(cx));
            self.link.close_output();
        }
        Poll::Pending
    }

    /// Polls the handler if something woke it, and closes as its end demands. Ready when it has ended.
    fn poll_handler(&mut self) -> Poll<()> {
        let link = &self.link;
        let Some(handling) = &mut self.handling else {
            // Its own close may have woken it, or anyone who still has its waker.
            link.gate.dismiss();
            return Poll::Ready(());
        };
        let poll = || {
            link.gate.poll_woken(|cx| {
                handling.as_mut().poll(cx).map(|result| match result {
                    // The connection's end, handed on with `?`.
                    Err(error) if !error.is::<Closed>() => Err(error.to_string()),
                    _ => Ok(()),
                })
            })
        };
        let close = || link.close(Closed::new(ClosedBy::Local, CloseCode::NORMAL, ""));
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => {
                if link.is_abandoned() && !link.closing.is_set() {
                    close();
                }
                return Poll::Pending;
            }
            Ok(Poll::Ready(Ok(()))) => close(),
            Ok(Poll::Ready(Err(error))) => fail(link, &format!("failed: {error}")),
            Err(_) => fail(link, "panicked"),
        }
        self.handling = None;
        Poll::Ready(())
    }
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        self.link.gate.shut();
    }
}

/// Ends the stream, and then the handler, if it does not see the end.
async fn end(
    talk: &mut Talk<'_>,
    frames_out: Rc<FrameWriter>,
    parting: Result<Instant, Lost>,
    log: Log,
) {
    let (link, config) = (talk.link.clone(), talk.config);
    let mut parting = Box::pin(part(&link, &frames_out, config, parting));
    let parted = poll_fn(|cx| {
        talk.poll_turn(cx, |talk, cx| {
            let _ = talk.poll_handler();
            parting.as_mut().poll(cx)
        })
    });
    log.close(parted.await.is_ok());
    // The handler may take its time: the stream ends now.
    drop(parting);
    drop(frames_out);
    if talk.handling.is_none() {
        return;
    }
    let late = future::or(reactor::sleep(config.close_timeout), link.account.shed());
    let mut late = pin!(late);
    poll_fn(|cx| {
        talk.poll_turn(cx, |talk, cx| {
            if talk.poll_handler().is_pending() {
                ready!(late.as_mut().poll(cx));
                log::warn!(
                    "#{} its handler has not returned in time after the end: dropped",
                    talk.link.id
                );
            }
            Poll::Ready(())
        })
    })
    .await;
}

/// Ends the stream, in peace if there is some time for it.
async fn part(
    link: &Link,
    frames_out: &FrameWriter,
    config: &Config,
    parting: Result<Instant, Lost>,
) -> Result<(), Lost> {
    match parting {
        Ok(deadline) => {
            // It sends nothing more, and it is ours to end the stream (RFC 6455 7.1.1).
            if link.has_peer_parted() && frames_out.socket().part() {
                return Ok(());
            }
            let ending = future::or(frames_out.end(), link.account.shed());
            reactor::timeout_at(deadline, ending).await;
            Ok(())
        }
        Err(Lost) => {
            link.clear();
            let Some(closed) = link.closing.get() else {
                return Err(Lost);
            };
            if link.account.is_shed() {
                if frames_out.try_close(CloseCode::TRY_AGAIN_LATER, closed.reason()) {
                    reactor::timeout(config.close_timeout, frames_out.end()).await;
                }
            } else if closed.by() == ClosedBy::Local && !closed.is_clean() {
                // A peer that does not answer any more may still listen.
                frames_out.try_close(CloseCode::POLICY_VIOLATION, closed.reason());
            }
            Err(Lost)
        }
    }
}

/// The two lines that the log has of every connection.
struct Log {
    open: Open,
    who: String,
    opened: Instant,
    /// The peer did its part of the close (RFC 6455 7.1.3).
    answered: bool,
}

impl Log {
    fn open(open: Open, request: &Request) -> Self {
        let mut who = String::new();
        if log::log_enabled!(log::Level::Info) {
            let peer = Peer(request.peer_addr());
            who = format!("#{} {peer} {}", open.link().id, request.shown_path());
            log::info!("{who} open");
        }
        Self {
            open,
            who,
            opened: reactor::now(),
            answered: false,
        }
    }

    fn close(mut self, answered: bool) {
        self.answered = answered;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let link = self.open.end();
        let Some(closed) = link.closing.get() else {
            return;
        };
        let (received, received_bytes) = link.received.totals();
        let (sent, sent_bytes) = link.sent_but_heartbeats();
        log::info!(
            "{} {closed}{}, after {} s, received {received} messages ({received_bytes} bytes), sent {sent} ({sent_bytes} bytes)",
            self.who,
            if closed.is_clean() && !self.answered {
                ", which the peer did not answer"
            } else {
                ""
            },
            Tenths::seconds(reactor::now().saturating_duration_since(self.opened)),
        );
    }
}

//! Frames: the WebSocket over a socket.
//!
//! tungstenite reads: it unmasks, joins fragments and judges UTF-8, after the headers were judged. What it would
//! send by itself is left unsent, because only the writer knows the order that a close has to keep: the
//! answers to what came before it, then the Close, then nothing. Frames that a server sends are not masked and
//! need a header of 2 to 10 bytes (RFC 6455 5.2), so [`FrameWriter`] writes them itself.

use crate::{
    budget::{Account, Charge},
    close::{CloseCode, Closed, ClosedBy},
    framing::{FINAL, FrameLimits, Pieces, broken, write_header},
    message::Message,
    reactor,
    socket::Socket,
};
use async_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self,
        error::{Error, ProtocolError},
        protocol::{Role, WebSocketConfig},
    },
};
use bytes::Bytes;
use futures_lite::{AsyncRead, AsyncWrite, StreamExt, future, ready};
use std::{
    cell::RefCell,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

/// What a peer sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Message),
    Ping(Bytes),
    Pong,
    Close { code: CloseCode, reason: String },
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The peer broke a rule, and is told so.
    Violation(Closed),
    /// The stream ended or failed without a Close.
    Lost(String),
}

/// The reading half of a connection.
#[derive(Debug)]
pub(crate) struct FrameReader {
    frames: WebSocketStream<Source>,
}

impl FrameReader {
    /// tungstenite's buffer: it holds one frame at a time, which [`Pieces`] keeps short. Allocated for each connection as
    /// long as it lives.
    const BUFFER_BYTES: usize = 512;

    /// Reads from `socket` through `scratch`, after the bytes of `already_read` that came along with the
    /// handshake.
    pub(crate) async fn new(
        socket: Rc<Socket>,
        scratch: Scratch,
        already_read: Vec<u8>,
        limits: FrameLimits,
        account: Rc<Account>,
    ) -> Self {
        let mut source = Source {
            charge: Charge::new(account.clone()),
            account,
            waiting: None,
            socket,
            scratch,
            pieces: Pieces::new(limits),
            ready: Vec::new(),
            taken: 0,
            violation: None,
        };
        source.take_in(&already_read);
        drop(already_read);
        // Frames come to it in pieces, and need no limit here.
        let config = WebSocketConfig::default()
            .read_buffer_size(Self::BUFFER_BYTES)
            .max_message_size(Some(limits.max_message_bytes));
        let frames = WebSocketStream::from_raw_socket(source, Role::Server, Some(config)).await;
        Self { frames }
    }

    /// The next message or control frame. Nothing is lost when this is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Result<Incoming, Fault> {
        loop {
            let message = match self.frames.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    let violation = self.frames.get_mut().violation.take();
                    return Err(match (error, violation) {
                        // All that came before it was taken.
                        (Error::Io(_), Some(closed)) => Fault::Violation(closed),
                        (error, _) => error.into(),
                    });
                }
                None => return Err(Fault::Lost("the stream ended".into())),
            };
            return Ok(match message {
                tungstenite::Message::Ping(payload) => {
                    Incoming::Ping(Bytes::copy_from_slice(&payload))
                }
                tungstenite::Message::Pong(_) => Incoming::Pong,
                tungstenite::Message::Close(None) => Incoming::Close {
                    code: CloseCode::NO_STATUS,
                    reason: String::new(),
                },
                tungstenite::Message::Close(Some(frame)) => Incoming::Close {
                    code: CloseCode::from_wire(frame.code.into()),
                    reason: frame.reason.as_str().to_owned(),
                },
                data => match Message::from_wire(&data) {
                    Some(message) => Incoming::Message(message),
                    None => continue,
                },
            });
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Utf8(_) => {
                Self::Violation(broken(CloseCode::INVALID_PAYLOAD, "text that is not UTF-8"))
            }
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Self::Lost("the stream ended without a Close".into())
            }
            Error::Protocol(error) => {
                Self::Violation(broken(CloseCode::PROTOCOL_ERROR, &error.to_string()))
            }
            error => Self::Lost(error.to_string()),
        }
    }
}

/// Where a server's connections read to, one after the other, before the bytes are looked at.
pub(crate) type Scratch = Rc<RefCell<Box<[u8]>>>;

/// The socket as tungstenite sees it: frames come in pieces, and what it writes goes nowhere.
struct Source {
    socket: Rc<Socket>,
    scratch: Scratch,
    pieces: Pieces,
    /// What was read and is not taken yet.
    ready: Vec<u8>,
    taken: usize,
    /// A rule was broken after what is ready.
    violation: Option<Closed>,
    account: Rc<Account>,
    /// For what is ready, and for what tungstenite has of it.
    charge: Charge,
    /// The wait for memory, while there is one.
    waiting: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Source {
    fn take_in(&mut self, bytes: &[u8]) {
        self.violation = self.pieces.push(bytes, &mut self.ready).err();
        self.recharge();
    }

    fn recharge(&mut self) {
        // tungstenite joins fragments in a vector that doubles when it is full.
        self.charge
            .set(self.ready.capacity() + 2 * self.pieces.under_way());
    }

    /// Waits while memory is tight and this connection has much of it.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        /// So long others have to give some back; then the largest is shed.
        const PATIENCE: Duration = Duration::from_secs(1);

        if self.waiting.is_none() && self.account.must_wait() {
            let account = self.account.clone();
            self.waiting = Some(Box::pin(async move {
                while account.must_wait() {
                    if reactor::timeout(PATIENCE, account.returned())
                        .await
                        .is_none()
                    {
                        account.press();
                    }
                }
            }));
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        Poll::Ready(())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Source {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let source = self.get_mut();
        while source.taken == source.ready.len() {
            source.ready = Vec::new();
            source.taken = 0;
            source.recharge();
            if source.violation.is_some() {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            ready!(source.poll_room(cx));
            let scratch = source.scratch.clone();
            let mut scratch = scratch.borrow_mut();
            match ready!(source.socket.poll_read(cx, &mut scratch))? {
                0 => return Poll::Ready(Ok(0)),
                count => source.take_in(&scratch[..count]),
            }
        }
        let ready = &source.ready[source.taken..];
        let count = ready.len().min(buf.len());
        buf[..count].copy_from_slice(&ready[..count]);
        source.taken += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Source {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// RFC 6455 5.2.
#[derive(Clone, Copy)]
enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// The writing half of a connection: whole frames in, as few writes as possible out.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    socket: Rc<Socket>,
    buffer: Vec<u8>,
    /// How much of the buffer is written already.
    written: usize,
    /// A Close was pushed: nothing may follow it (RFC 6455 5.5.1).
    closed: bool,
    charge: Charge,
}

impl FrameWriter {
    /// A buffer that grew beyond this is given back once it is written.
    const KEPT_BUFFER_BYTES: usize = 4 * 1024;

    pub(crate) fn new(socket: Rc<Socket>, account: Rc<Account>) -> Self {
        Self {
            socket,
            buffer: Vec::new(),
            written: 0,
            closed: false,
            charge: Charge::new(account),
        }
    }

    pub(crate) fn push_message(&mut self, message: &Message) {
        let opcode = match message {
            Message::Text(_) => Opcode::Text,
            Message::Binary(_) => Opcode::Binary,
        };
        self.push(opcode, message.as_bytes());
    }

    pub(crate) fn push_ping(&mut self) {
        self.push(Opcode::Ping, b"");
    }

    pub(crate) fn push_pong(&mut self, payload: &[u8]) {
        self.push(Opcode::Pong, payload);
    }

    /// A code that may not be on the wire makes a Close without one (RFC 6455 7.4.1).
    pub(crate) fn push_close(&mut self, code: CloseCode, reason: &str) {
        let mut payload = Vec::new();
        if code.is_sendable() {
            payload.extend(u16::from(code).to_be_bytes());
            payload.extend(reason.as_bytes());
        }
        self.push(Opcode::Close, &payload);
        self.closed = true;
    }

    fn push(&mut self, opcode: Opcode, payload: &[u8]) {
        // Room for the longest header that a server writes.
        self.buffer.reserve(payload.len() + 10);
        write_header(
            FINAL | opcode as u8,
            payload.len() as u64,
            None,
            &mut self.buffer,
        );
        self.buffer.extend(payload);
        self.charge.set(self.buffer.capacity());
    }

    /// The bytes that are still to be written.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// How many of the bytes written have arrived at the peer's system.
    pub(crate) fn arrived(&self) -> u64 {
        self.socket.sending().1
    }

    /// Writes as much as is taken at once, at least one byte. Nothing is lost when this is dropped before it
    /// is ready.
    pub(crate) async fn write_some(&mut self) -> io::Result<()> {
        self.written += self.socket.write(&self.buffer[self.written..]).await?;
        if self.pending_bytes() == 0 {
            self.buffer.clear();
            self.written = 0;
            self.buffer.shrink_to(Self::KEPT_BUFFER_BYTES);
            self.charge.set(self.buffer.capacity());
        }
        Ok(())
    }

    /// Sends a Close if that can be done without waiting. Tells whether it could.
    pub(crate) async fn try_close(&mut self, code: CloseCode, reason: &str) -> bool {
        if self.closed || self.pending_bytes() > 0 {
            return false;
        }
        self.push_close(code, reason);
        future::poll_once(self.write_some())
            .await
            .is_some_and(|written| written.is_ok())
    }

    /// Ends the stream so that the peer gets all that was written.
    pub(crate) async fn end(&mut self) {
        self.buffer = Vec::new();
        self.charge.set(0);
        self.socket.end().await;
    }
}

/// What a peer is told of a connection's end.
pub(crate) fn close_frame_for(closed: &Closed) -> (CloseCode, &str) {
    match closed.by() {
        // RFC 6455 5.5.1: the answer to a Close typically has its code.
        ClosedBy::Peer => (closed.code(), ""),
        ClosedBy::Local => (closed.code(), closed.reason()),
    }
}

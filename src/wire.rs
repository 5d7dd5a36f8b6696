//! The WebSocket over a socket: what is read and decoded, framed and written.
//!
//! Frames that a server sends are not masked and need a header of 2 to 10 bytes (RFC 6455 5.2), so [`FrameWriter`] writes
//! them itself.

use crate::{
    budget::{Account, Charge},
    close::{CloseCode, Closed, ClosedBy},
    decoder::{Decoder, Incoming},
    framing::{
        BINARY, CLOSE, FINAL, FrameLimits, MAX_HEADER_BYTES, PING, PONG, TEXT, write_header,
    },
    message::Message,
    pool, reactor,
    scratch::Scratch,
    socket::Socket,
};
use bytes::{Buf, Bytes};
use futures_lite::ready;
use std::{
    cell::RefCell,
    io, mem,
    ops::{ControlFlow, Range},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Why nothing more can be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The peer broke a rule, and is told so.
    Violation(Closed),
    /// The stream ended or failed without a Close.
    Lost(String),
}

/// The reading half of a connection.
pub(crate) struct FrameReader {
    /// Has the socket.
    writer: Rc<FrameWriter>,
    decoder: Decoder,
    /// What was read, of which some is not taken yet.
    bytes: Vec<u8>,
    unread: Range<usize>,
    /// The bytes are in the scratch, which goes back before anyone waits.
    in_scratch: bool,
    account: Rc<Account>,
    /// For the bytes, and for what is under way.
    charge: Charge,
    /// The wait for memory, while there is one.
    waiting: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl FrameReader {
    /// What is read may have to be kept, and twice as much: it is little where little room is left, but so much at least.
    const LEAST_READ_BYTES: usize = 4 * 1024;

    /// Reads from the socket that `writer` writes to, after the bytes of `already_read` that came along with the
    /// handshake.
    pub(crate) fn new(
        writer: Rc<FrameWriter>,
        already_read: Vec<u8>,
        limits: FrameLimits,
        account: Rc<Account>,
    ) -> Self {
        let mut reader = Self {
            charge: Charge::new(account.clone()),
            decoder: Decoder::new(limits, account.budget().clone()),
            account,
            waiting: None,
            writer,
            unread: 0..already_read.len(),
            bytes: already_read,
            in_scratch: false,
        };
        reader.recharge();
        reader
    }

    /// Has all messages go through tungstenite, as those in fragments do.
    #[cfg(fuzzing)]
    pub(crate) fn join_all(&mut self) {
        self.decoder.joins_all = true;
    }

    /// Whether there is something to take that was read already.
    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Reads what is there and gives `take` what it means, until it breaks off or all is taken. What is left comes with the next
    /// call.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut impl FnMut(Incoming) -> ControlFlow<()>,
    ) -> Poll<Result<(), Fault>> {
        if self.unread.is_empty() {
            // Else there is nothing to do: it is asked once more after each message.
            ready!(self.writer.socket.poll_may_read(cx));
        }
        ready!(self.poll_room(cx));
        if self.unread.is_empty() {
            if let Some(room) = self.decoder.room() {
                let read = self.writer.socket.poll_read_more(cx, room);
                // The room was made now, whether there was something to read or not.
                self.recharge();
                return Poll::Ready(match ready!(read) {
                    Ok(0) => Err(lost()),
                    Ok(_) => self.decode_in_place(take),
                    Err(error) => Err(Fault::Lost(error.to_string())),
                });
            }
            let FrameWriter {
                socket, scratch, ..
            } = &*self.writer;
            let mut bytes = scratch.take_read();
            let most = self
                .account
                .room()
                .clamp(Self::LEAST_READ_BYTES, bytes.len());
            let read = socket.poll_read(cx, &mut bytes[..most]);
            let Poll::Ready(Ok(count @ 1..)) = read else {
                scratch.give_read(bytes);
                return read.map(|read| match read {
                    Ok(_) => Err(lost()),
                    Err(error) => Err(Fault::Lost(error.to_string())),
                });
            };
            self.bytes = bytes;
            self.in_scratch = true;
            self.unread = 0..count;
        }
        Poll::Ready(self.decode(take))
    }

    fn decode_in_place(
        &mut self,
        take: &mut impl FnMut(Incoming) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let decoded = self.decoder.decode_in_place();
        self.recharge();
        // It is asked before the next one whether it has room.
        let _ = decoded.map_err(Fault::Violation)?.map(take);
        Ok(())
    }

    fn decode(&mut self, take: &mut impl FnMut(Incoming) -> ControlFlow<()>) -> Result<(), Fault> {
        let mut rest = &mut self.bytes[self.unread.clone()];
        let decoded = self.decoder.decode(&mut rest, take);
        self.unread.start = self.unread.end - rest.len();
        if self.unread.is_empty() {
            self.let_go();
        }
        self.recharge();
        decoded.map_err(Fault::Violation)
    }

    /// Gives the scratch back: what is still in it is copied out.
    #[inline]
    pub(crate) fn end_turn(&mut self) {
        if self.in_scratch {
            let own = self.bytes[self.unread.clone()].to_vec();
            self.let_go();
            self.unread = 0..own.len();
            self.bytes = own;
            self.recharge();
        }
    }

    #[inline]
    fn let_go(&mut self) {
        let bytes = mem::take(&mut self.bytes);
        if mem::take(&mut self.in_scratch) {
            self.writer.scratch.give_read(bytes);
        }
    }

    fn recharge(&mut self) {
        let own = match self.in_scratch {
            true => 0,
            false => self.bytes.capacity(),
        };
        self.charge.set(own + self.decoder.allocated_bytes());
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

fn lost() -> Fault {
    Fault::Lost("the stream ended without a Close".into())
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The writing half of a connection: whole frames in, as few writes as possible out.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    socket: Socket,
    scratch: Rc<Scratch>,
    pending: RefCell<Pending>,
}

/// A message framed for all who get it.
pub(crate) struct Frame {
    /// The header, and a short payload.
    start: Vec<u8>,
    /// A long payload is not copied: it follows.
    payload: Bytes,
    payload_allocated: usize,
    message_bytes: usize,
}

impl Frame {
    pub(crate) fn new(message: &Message) -> Self {
        let (mut copied, message_bytes) = (message.as_bytes(), message.len());
        let (mut payload, mut payload_allocated) = (Bytes::new(), 0);
        if message_bytes >= FrameWriter::LONG_PAYLOAD_BYTES {
            copied = &[];
            payload = message.clone().into_bytes();
            payload_allocated = pool::allocated(message);
        }
        let mut start = Vec::with_capacity(MAX_HEADER_BYTES + copied.len());
        write_header(first_of(message), message_bytes as u64, None, &mut start);
        start.extend_from_slice(copied);
        Self {
            start,
            payload,
            payload_allocated,
            message_bytes,
        }
    }

    /// How long its message is.
    pub(crate) fn message_bytes(&self) -> usize {
        self.message_bytes
    }
}

/// The first byte of a message's frame.
#[inline]
fn first_of(message: &Message) -> u8 {
    FINAL
        | match message {
            Message::Text(_) => TEXT,
            Message::Binary(_) => BINARY,
        }
}

/// What is to be written.
#[derive(Debug)]
struct Pending {
    frames: Vec<u8>,
    /// How much of the frames is written already.
    written: usize,
    /// A long payload is not copied: it follows the frames.
    payload: Bytes,
    /// What its message takes, until all of it is written.
    payload_allocated: usize,
    /// The frames are in the scratch, which goes back before anyone waits.
    in_scratch: bool,
    /// A Close was pushed: nothing may follow it (RFC 6455 5.5.1).
    closed: bool,
    charge: Charge,
}

impl FrameWriter {
    /// Copying less than this costs less than a second piece in a system call.
    const LONG_PAYLOAD_BYTES: usize = 4 * 1024;

    pub(crate) fn new(socket: Socket, scratch: Rc<Scratch>, account: Rc<Account>) -> Self {
        Self {
            socket,
            scratch,
            pending: RefCell::new(Pending {
                frames: Vec::new(),
                written: 0,
                payload: Bytes::new(),
                payload_allocated: 0,
                in_scratch: false,
                closed: false,
                charge: Charge::new(account),
            }),
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn push_message(&self, mut message: Message) {
        self.push_to(&mut self.pending.borrow_mut(), &mut message);
    }

    /// Takes a message if nothing stands before it but what was pushed since the last attempt to write. Tells whether there is
    /// so much now that it is worth a write.
    pub(crate) fn try_push(&self, message: &mut Message) -> Option<bool> {
        let mut pending = self.pending.borrow_mut();
        if pending.closed || pending.is_blocked() {
            return None;
        }
        self.push_to(&mut pending, message);
        Some(pending.is_full())
    }

    fn push_to(&self, pending: &mut Pending, message: &mut Message) {
        let payload = message.as_bytes();
        self.push_header(pending, first_of(message), payload.len());
        if payload.len() < Self::LONG_PAYLOAD_BYTES {
            pending.frames.extend_from_slice(payload);
        } else {
            pending.payload_allocated = pool::allocated(message);
            pending.payload = mem::replace(message, Message::Binary(Bytes::new())).into_bytes();
        }
    }

    /// Writes a message past all that is pushed, if nothing is. Tells whether all of it was taken; what was not is pending.
    pub(crate) fn try_write_frame(&self, frame: &Frame) -> Option<bool> {
        let mut pending = self.pending.borrow_mut();
        if pending.closed || pending.len() > 0 {
            return None;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let (start, payload) = (&frame.start, &frame.payload);
        // What went wrong shows with the next write, too.
        let written = match self.socket.poll_write(&mut cx, start, payload) {
            Poll::Ready(Ok(count)) => count,
            _ => 0,
        };
        if written == start.len() + payload.len() {
            return Some(true);
        }
        let of_start = written.min(start.len());
        pending.frames = start[of_start..].to_vec();
        pending.payload = payload.slice(written - of_start..);
        pending.payload_allocated = frame.payload_allocated;
        pending.recharge();
        Some(false)
    }

    pub(crate) fn push_ping(&self) {
        self.push(PING, b"");
    }

    pub(crate) fn push_pong(&self, payload: &[u8]) {
        self.push(PONG, payload);
    }

    /// A code that may not be on the wire makes a Close without one (RFC 6455 7.4.1).
    pub(crate) fn push_close(&self, code: CloseCode, reason: &str) {
        let mut payload = Vec::new();
        if code.is_sendable() {
            payload.extend(u16::from(code).to_be_bytes());
            payload.extend(reason.as_bytes());
        }
        self.push(CLOSE, &payload);
        self.pending.borrow_mut().closed = true;
    }

    /// A control frame.
    fn push(&self, opcode: u8, payload: &[u8]) {
        let mut pending = self.pending.borrow_mut();
        self.push_header(&mut pending, FINAL | opcode, payload.len());
        pending.frames.extend_from_slice(payload);
    }

    #[inline(always)]
    fn push_header(&self, pending: &mut Pending, first: u8, len: usize) {
        if pending.len() == 0 {
            pending.frames = self.scratch.take_write();
            pending.in_scratch = true;
        }
        if !pending.payload.is_empty() {
            let payload = mem::take(&mut pending.payload);
            pending.frames.extend_from_slice(&payload);
        }
        write_header(first, len as u64, None, &mut pending.frames);
    }

    /// Whether so much is to be written that it is worth a write.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.borrow().is_full()
    }

    /// Whether something is to be written.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.borrow().len() > 0
    }

    /// Whether something is to be written that the socket did not take.
    pub(crate) fn is_blocked(&self) -> bool {
        self.pending.borrow().is_blocked()
    }

    /// How many of the bytes written have arrived at the peer's system.
    pub(crate) fn arrived(&self) -> u64 {
        self.socket.sending().1
    }

    /// Writes as much as is taken at once, at least one byte.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_of(&mut self.pending.borrow_mut(), cx)
    }

    fn poll_write_of(&self, pending: &mut Pending, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let frames = &pending.frames[pending.written..];
        let result = match self.socket.poll_write(cx, frames, &pending.payload) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => {
                pending.advance(count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        if pending.in_scratch && (pending.len() == 0 || !matches!(result, Poll::Ready(Ok(())))) {
            let frames = mem::take(&mut pending.frames);
            let left = &frames[pending.written..];
            if !left.is_empty() {
                pending.frames = left.to_vec();
            }
            pending.written = 0;
            pending.in_scratch = false;
            self.scratch.give_write(frames);
        }
        pending.recharge();
        result
    }

    /// Writes what is taken at once of what was pushed and not tried yet. Tells whether that was all there is.
    pub(crate) fn try_write(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut pending = self.pending.borrow_mut();
        while pending.in_scratch {
            // What went wrong shows with the next write, too.
            let _ = self.poll_write_of(&mut pending, &mut cx);
        }
        pending.len() == 0
    }

    /// Sends a Close if that can be done without waiting. Tells whether it could.
    pub(crate) fn try_close(&self, code: CloseCode, reason: &str) -> bool {
        if self.pending.borrow().closed || self.has_pending() {
            return false;
        }
        self.push_close(code, reason);
        self.try_write()
    }

    /// Ends the stream so that the peer gets all that was written.
    pub(crate) async fn end(&self) {
        self.pending.borrow_mut().clear();
        self.socket.end().await;
    }
}

impl Pending {
    fn is_full(&self) -> bool {
        /// Little enough that a ping or a close does not wait long behind it.
        const BATCH_BYTES: usize = 64 * 1024;

        !self.payload.is_empty() || self.len() >= BATCH_BYTES
    }

    fn is_blocked(&self) -> bool {
        !self.in_scratch && self.len() > 0
    }

    fn len(&self) -> usize {
        self.frames.len() - self.written + self.payload.len()
    }

    fn advance(&mut self, count: usize) {
        let of_frames = count.min(self.frames.len() - self.written);
        self.written += of_frames;
        if count > of_frames {
            self.payload.advance(count - of_frames);
            if self.payload.is_empty() {
                // Let go of the message.
                self.payload = Bytes::new();
            }
        }
        if self.len() == 0 && !self.in_scratch {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.frames = Vec::new();
        self.written = 0;
        self.payload = Bytes::new();
        self.recharge();
    }

    fn recharge(&mut self) {
        let own = match self.in_scratch {
            true => 0,
            false => self.frames.capacity(),
        };
        let payload = match self.payload.is_empty() {
            true => 0,
            false => self.payload_allocated,
        };
        self.charge.set(own + payload);
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

//! A client's connection: its socket, what it sends, and the exact bytes that it expects.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};
use whit_benches::frame;

/// Constant, so that what is sent can be prepared. Servers cannot tell.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The key of RFC 6455 1.3, and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// In a message's first bytes, of whom it is and which: 4 and 8 hex digits.
pub const STAMP: usize = 12;

pub type Result<T> = std::result::Result<T, String>;

pub fn request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into()
}

/// The length of the response, once all of its head is there and it is the right one.
pub fn response(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end + 4];
    let accepted = head.windows(ACCEPT.len()).any(|window| window == ACCEPT);
    if head.starts_with(b"HTTP/1.1 101 ") && accepted {
        Ok(Some(head.len()))
    } else {
        Err(format!(
            "a handshake was answered with {}",
            head.escape_ascii()
        ))
    }
}

/// A Close with 1000.
pub fn close() -> Vec<u8> {
    frame::frame(frame::CLOSE, &1000_u16.to_be_bytes(), Some(MASK))
}

/// Connects and shakes hands. Gives also what came behind the response.
pub fn connect(addr: SocketAddr, path: &str) -> Result<(TcpStream, Vec<u8>)> {
    shake_hands(dial(addr)?, path)
}

/// Connects, and says nothing yet.
pub fn dial(addr: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect(addr)
        .and_then(|socket| {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(socket)
        })
        .map_err(|error| format!("connecting to {addr}: {error}"))
}

pub fn shake_hands(mut socket: TcpStream, path: &str) -> Result<(TcpStream, Vec<u8>)> {
    let error = |error: io::Error| format!("a handshake: {error}");
    socket.write_all(&request(path)).map_err(error)?;
    let mut bytes = Vec::new();
    let mut buf = [0; 4096];
    loop {
        let count = socket.read(&mut buf).map_err(error)?;
        if count == 0 {
            return Err("the end came in place of the response to a handshake".into());
        }
        bytes.extend(&buf[..count]);
        if let Some(len) = response(&bytes)? {
            socket.set_nonblocking(true).map_err(error)?;
            return Ok((socket, bytes.split_off(len)));
        }
    }
}

/// What all clients of a run send and expect: messages of one size and type, that differ in their stamps.
pub struct Messages {
    /// So many messages as are sent at once, framed and masked.
    batch: Vec<u8>,
    /// The length of one of them.
    sent_len: usize,
    /// A message as it is to come back.
    expected: Vec<u8>,
    /// Where its stamp is; at its end, where there is none.
    stamp_at: usize,
}

impl Messages {
    pub fn new(first: u8, payload: &[u8], depth: usize) -> Self {
        let sent = frame::frame(first, payload, Some(MASK));
        let expected = frame::frame(first, payload, None);
        Self {
            sent_len: sent.len(),
            batch: sent.repeat(depth),
            stamp_at: expected.len() - payload.len(),
            expected,
        }
    }

    /// Messages without stamps that are only expected.
    pub fn constant(first: u8, payload: &[u8]) -> Self {
        let mut messages = Self::new(first, payload, 0);
        messages.stamp_at = messages.expected.len();
        messages
    }

    pub fn depth(&self) -> u32 {
        (self.batch.len() / self.sent_len) as u32
    }

    /// The next messages of a client, masked.
    fn stamp(&mut self, id: u32, seq: u32) -> &[u8] {
        let at = self.stamp_at + MASK.len();
        for (frame, seq) in self.batch.chunks_exact_mut(self.sent_len).zip(seq..) {
            let mut bytes = stamp(id, seq);
            frame::mask(&mut bytes, MASK);
            frame[at..at + STAMP].copy_from_slice(&bytes);
        }
        &self.batch
    }
}

/// Hex digits are text too.
fn stamp(id: u32, seq: u32) -> [u8; STAMP] {
    let number = u64::from(id) << 32 | u64::from(seq);
    std::array::from_fn(|i| b"0123456789abcdef"[(number >> (4 * (STAMP - 1 - i))) as usize & 15])
}

pub struct Client {
    pub socket: TcpStream,
    /// Whose stamps it expects: its own, or the publisher's.
    id: u32,
    /// The message that comes next, how much of it has come, and its stamp.
    seq: u32,
    pos: usize,
    stamp: [u8; STAMP],
    /// How many messages are sent, the present batch included while it is `sending`; and how much of that is sent.
    asked: u32,
    sending: bool,
    sent: usize,
}

impl Client {
    pub fn new(socket: TcpStream, id: u32) -> Self {
        Self {
            socket,
            id,
            seq: 0,
            pos: 0,
            stamp: stamp(id, 0),
            asked: 0,
            sending: false,
            sent: 0,
        }
    }

    /// How many messages have come.
    pub fn received(&self) -> u32 {
        self.seq
    }

    /// Whether all messages that were sent came back.
    pub fn is_answered(&self) -> bool {
        self.seq == self.asked
    }

    /// Sends the next batch, as much of it as is taken. `send_rest` sends the rest.
    pub fn send(&mut self, messages: &mut Messages) -> Result<()> {
        self.asked += messages.depth();
        self.sending = true;
        self.send_rest(messages)
    }

    pub fn send_rest(&mut self, messages: &mut Messages) -> Result<()> {
        if !self.sending {
            return Ok(());
        }
        let batch = messages.stamp(self.id, self.asked - messages.depth());
        while self.sent < batch.len() {
            match self.socket.write(&batch[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("client {}: sending: {error}", self.id)),
            }
        }
        (self.sending, self.sent) = (false, 0);
        Ok(())
    }

    /// Reads what is there and compares all of it with what is to come, byte by byte. Gives how many messages were completed.
    pub fn receive(&mut self, messages: &Messages, scratch: &mut [u8]) -> Result<u32> {
        let before = self.seq;
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return Err(self.wrong("the connection has ended")),
                Ok(count) => {
                    self.check(messages, &scratch[..count])?;
                    if count < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.wrong(&error.to_string())),
            }
        }
        Ok(self.seq - before)
    }

    pub fn check(&mut self, messages: &Messages, mut bytes: &[u8]) -> Result<()> {
        let frame = &messages.expected;
        let len = frame.len();
        let stamp_at = messages.stamp_at;
        let stamp_end = len.min(stamp_at + STAMP);
        while !bytes.is_empty() {
            let (here, next) = bytes.split_at(bytes.len().min(len - self.pos));
            let end = self.pos + here.len();
            for (from, to, wanted, what) in [
                (0, stamp_at, &frame[..stamp_at], "another type or length"),
                (stamp_at, stamp_end, &self.stamp[..], "another message"),
                (stamp_end, len, &frame[stamp_end..], "another payload"),
            ] {
                let (low, high) = (from.max(self.pos), to.min(end));
                if low >= high {
                    continue;
                }
                let came = &here[low - self.pos..high - self.pos];
                let wanted = &wanted[low - from..high - from];
                if came != wanted {
                    let at = came.iter().zip(wanted).take_while(|(a, b)| a == b).count();
                    let shown =
                        |bytes: &[u8]| bytes[at..].iter().take(16).copied().collect::<Vec<_>>();
                    return Err(self.wrong(&format!(
                        "{what}: \"{}\" for \"{}\" at byte {} of the frame",
                        shown(came).escape_ascii(),
                        shown(wanted).escape_ascii(),
                        low + at,
                    )));
                }
            }
            self.pos = end;
            if end == len {
                self.pos = 0;
                self.seq += 1;
                self.stamp = stamp(self.id, self.seq);
            }
            bytes = next;
        }
        Ok(())
    }

    pub fn wrong(&self, what: &str) -> String {
        format!(
            "client {}: in place of message {} came {what}",
            self.id, self.seq
        )
    }
}

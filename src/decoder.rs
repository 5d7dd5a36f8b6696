//! Messages and control frames, made of the bytes that come.
//!
//! A message in one frame, which nearly all are, is unmasked where it lies and copied out once. Fragments and control frames go
//! through tungstenite, which joins the ones and judges the others; it lives only as long as there are some. In both cases the
//! headers were judged before, and a message takes room as it arrives and not as it is claimed, but for a buffer that was filled by
//! another before (`pool.rs`).

use crate::{
    budget::Budget,
    close::{CloseCode, Closed},
    framing::{
        CLOSE, CONTINUATION, FINAL, FrameLimits, Header, Headers, PING, PONG, TEXT, broken,
        split_off, unmask, write_header,
    },
    message::{Message, Text},
    pool,
};
use async_tungstenite::tungstenite::{
    WebSocket,
    error::Error,
    protocol::{Role, WebSocketConfig},
};
use bytes::Bytes;
use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    rc::Rc,
    str,
};

/// What a peer sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Message),
    Ping(Bytes),
    Pong,
    Close { code: CloseCode, reason: String },
}

/// Turns bytes into what they mean.
#[derive(Debug)]
pub(crate) struct Decoder {
    headers: Headers,
    max_message_bytes: usize,
    under_way: UnderWay,
    /// There while a message in fragments is under way.
    joiner: Option<Box<Joiner>>,
    /// Has buffers for long messages.
    budget: Rc<Budget>,
    /// No message goes past tungstenite, for a comparison.
    #[cfg(fuzzing)]
    pub(crate) joins_all: bool,
}

#[derive(Debug)]
enum UnderWay {
    Nothing,
    Message(Partial),
    Fragment(Fragment),
}

impl Decoder {
    pub(crate) fn new(limits: FrameLimits, budget: Rc<Budget>) -> Self {
        Self {
            headers: Headers::new(limits),
            max_message_bytes: limits.max_message_bytes,
            under_way: UnderWay::Nothing,
            joiner: None,
            budget,
            #[cfg(fuzzing)]
            joins_all: false,
        }
    }

    fn goes_past_tungstenite(&self, header: Header) -> bool {
        #[cfg(fuzzing)]
        if self.joins_all {
            return header.is_control();
        }
        !header.is_fragment()
    }

    /// How much is allocated for what is under way.
    pub(crate) fn allocated_bytes(&self) -> usize {
        let message = match &self.under_way {
            UnderWay::Message(partial) => partial.buffer.capacity(),
            UnderWay::Nothing | UnderWay::Fragment(_) => 0,
        };
        let joiner = self.joiner.as_ref();
        message + joiner.map_or(0, |joiner| joiner.allocated_bytes())
    }

    /// Room for what is still to come of a long message, so that it can be read right there: for all of it, or for as much again
    /// as there is. What was read there is to be [taken](Self::decode_in_place).
    pub(crate) fn room(&mut self) -> Option<&mut Vec<u8>> {
        /// Less is read with what follows it.
        const LONG_BYTES: usize = 32 * 1024;

        let UnderWay::Message(partial) = &mut self.under_way else {
            return None;
        };
        let rest = usize::try_from(partial.rest()).unwrap_or(usize::MAX);
        if rest < LONG_BYTES {
            return None;
        }
        if partial.buffer.len() == partial.buffer.capacity() {
            let more = partial.buffer.len().max(LONG_BYTES);
            partial.buffer.reserve_exact(more.min(rest));
        }
        Some(&mut partial.buffer)
    }

    /// Takes what was read into the [`room`](Self::room).
    pub(crate) fn decode_in_place(&mut self) -> Result<Option<Incoming>, Closed> {
        if let UnderWay::Message(partial) = &mut self.under_way {
            partial.take_in_place()?;
        }
        self.go_on(&mut &mut [][..])
    }

    /// Takes from the front of `bytes` what they mean and gives it to `take`, until that breaks off or all of them are taken.
    pub(crate) fn decode(
        &mut self,
        bytes: &mut &mut [u8],
        take: &mut impl FnMut(Incoming) -> ControlFlow<()>,
    ) -> Result<(), Closed> {
        while !bytes.is_empty() {
            if matches!(self.under_way, UnderWay::Nothing) {
                let Some(header) = self.headers.take(bytes)? else {
                    return Ok(());
                };
                if !self.goes_past_tungstenite(header) {
                    self.under_way = UnderWay::Fragment(Fragment::begin(header));
                } else if header.len <= bytes.len() as u64 {
                    #[allow(clippy::cast_possible_truncation, reason = "there are so many bytes")]
                    let payload = split_off(bytes, header.len as usize);
                    unmask(payload, header.mask_at(0));
                    if take(whole(header, payload, &self.budget)?).is_break() {
                        return Ok(());
                    }
                    continue;
                } else {
                    self.under_way = UnderWay::Message(Partial::begin(header, &self.budget));
                }
            }
            if let Some(incoming) = self.go_on(bytes)? {
                if take(incoming).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes from the front of `bytes` what belongs to what is under way. Gives that once it is complete.
    fn go_on(&mut self, bytes: &mut &mut [u8]) -> Result<Option<Incoming>, Closed> {
        match &mut self.under_way {
            UnderWay::Nothing => Ok(None),
            UnderWay::Message(partial) => {
                partial.take(bytes)?;
                if partial.rest() > 0 {
                    return Ok(None);
                }
                let message = partial.finish()?;
                self.under_way = UnderWay::Nothing;
                Ok(Some(message))
            }
            UnderWay::Fragment(fragment) => {
                let joiner = self
                    .joiner
                    .get_or_insert_with(|| Box::new(Joiner::new(self.max_message_bytes)));
                let incoming = joiner.take(fragment, bytes)?;
                if fragment.rest() == 0 {
                    self.under_way = UnderWay::Nothing;
                    if !self.headers.is_message_unfinished() {
                        self.joiner = None;
                    }
                }
                Ok(incoming)
            }
        }
    }
}

/// What has come whole, unmasked.
fn whole(header: Header, payload: &[u8], budget: &Rc<Budget>) -> Result<Incoming, Closed> {
    if header.is_control() {
        return control(header, payload);
    }
    if header.opcode() == TEXT && !pool::is_long(payload.len()) {
        let text = simdutf8::basic::from_utf8(payload).map_err(|_| not_utf8())?;
        return Ok(Incoming::Message(Message::from(text)));
    }
    message(header, pool::copy(payload, budget))
}

#[inline]
fn message(header: Header, payload: Bytes) -> Result<Incoming, Closed> {
    let message = if header.opcode() == TEXT {
        Message::Text(Text::from_utf8(payload).map_err(|_| not_utf8())?)
    } else {
        Message::Binary(payload)
    };
    Ok(Incoming::Message(message))
}

#[cold]
fn control(header: Header, payload: &[u8]) -> Result<Incoming, Closed> {
    Ok(match header.opcode() {
        PING => Incoming::Ping(Bytes::copy_from_slice(payload)),
        PONG => Incoming::Pong,
        _ => {
            let reason = str::from_utf8(payload.get(2..).unwrap_or_default());
            Incoming::Close {
                code: close_code(payload)?.unwrap_or(CloseCode::NO_STATUS),
                reason: reason.map_err(|_| not_utf8())?.to_owned(),
            }
        }
    })
}

/// The code that a Close begins with (RFC 6455 7.4), if it has come.
fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, Closed> {
    let Some(code) = payload.first_chunk() else {
        return Ok(None);
    };
    let code = u16::from_be_bytes(*code);
    CloseCode::new(code).map(Some).ok_or_else(|| {
        let reason = format!("a Close with the code {code}");
        broken(CloseCode::PROTOCOL_ERROR, &reason)
    })
}

fn not_utf8() -> Closed {
    broken(CloseCode::INVALID_PAYLOAD, "text that is not UTF-8")
}

/// A message in one frame, or a control frame, of which not all has come.
#[derive(Debug)]
struct Partial {
    header: Header,
    /// What came of the payload begins at `start`.
    buffer: Vec<u8>,
    start: usize,
    /// Up to where it is unmasked.
    unmasked: usize,
    /// Up to where it is known to be UTF-8, if it has to be.
    valid: usize,
}

impl Partial {
    fn begin(header: Header, budget: &Rc<Budget>) -> Self {
        let buffer = match usize::try_from(header.len) {
            Ok(len) => pool::take(len, budget),
            Err(_) => Vec::new(),
        };
        let start = buffer.len();
        Self {
            header,
            buffer,
            start,
            unmasked: start,
            valid: start,
        }
    }

    fn rest(&self) -> u64 {
        self.header.len - (self.buffer.len() - self.start) as u64
    }

    fn take(&mut self, bytes: &mut &mut [u8]) -> Result<(), Closed> {
        let rest = usize::try_from(self.rest()).unwrap_or(usize::MAX);
        let came = split_off(bytes, rest.min(bytes.len()));
        if self.buffer.capacity() - self.buffer.len() < came.len() {
            // Twice as much each time, and no more than it will be.
            let more = came.len().max(self.buffer.len());
            self.buffer.reserve_exact(more.min(rest));
        }
        self.buffer.extend_from_slice(came);
        self.take_in_place()
    }

    fn take_in_place(&mut self) -> Result<(), Closed> {
        let mask = self.header.mask_at((self.unmasked - self.start) as u64);
        unmask(&mut self.buffer[self.unmasked..], mask);
        self.unmasked = self.buffer.len();
        if self.header.opcode() == TEXT {
            self.valid += match str::from_utf8(&self.buffer[self.valid..]) {
                Ok(text) => text.len(),
                // A character may come in two parts.
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(not_utf8()),
            };
        }
        if self.header.opcode() == CLOSE {
            close_code(&self.buffer)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Incoming, Closed> {
        if self.header.is_control() {
            return control(self.header, &self.buffer);
        }
        let payload = pool::lend(std::mem::take(&mut self.buffer), self.start);
        message(self.header, payload)
    }
}

/// A fragment of a message.
#[derive(Debug)]
struct Fragment {
    header: Header,
    /// How much of the payload was handed on.
    done: u64,
    /// Whether a header was handed on.
    begun: bool,
}

impl Fragment {
    fn begin(header: Header) -> Self {
        Self {
            header,
            done: 0,
            begun: false,
        }
    }

    fn rest(&self) -> u64 {
        self.header.len - self.done
    }

    /// Hands on the next piece of the payload under a header of its own, if it needs one.
    fn hand_on(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let first = self.header.first;
        let last = piece.len() as u64 == self.rest();
        if last || !piece.is_empty() {
            let opcode = if self.begun {
                CONTINUATION
            } else {
                first & !FINAL
            };
            let fin = if last { first & FINAL } else { 0 };
            let mask = self.header.mask_at(self.done);
            write_header(opcode | fin, piece.len() as u64, Some(mask), out);
            self.begun = true;
        }
        out.extend(piece);
        self.done += piece.len() as u64;
    }
}

/// tungstenite, given fragments whose headers were judged. Long ones come in shorter ones, each as it arrives, so that text
/// that is not UTF-8 is seen at once.
#[derive(Debug)]
struct Joiner {
    frames: WebSocket<Feed>,
    /// How much it has joined.
    joined: usize,
}

impl Joiner {
    /// tungstenite keeps a buffer as large as the largest frame that it saw.
    const PIECE_BYTES: usize = 2 * 1024;

    fn new(max_message_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(512)
            .max_message_size(Some(max_message_bytes));
        Self {
            frames: WebSocket::from_raw_socket(Feed::default(), Role::Server, Some(config)),
            joined: 0,
        }
    }

    fn allocated_bytes(&self) -> usize {
        // Measured for what it has before there is anything to join; that is in a vector that doubles when it is full.
        2 * Self::PIECE_BYTES + 2 * self.joined
    }

    /// Takes more of a fragment. Gives the message that it completes.
    fn take(
        &mut self,
        fragment: &mut Fragment,
        bytes: &mut &mut [u8],
    ) -> Result<Option<Incoming>, Closed> {
        loop {
            let wanted = usize::try_from(fragment.rest()).unwrap_or(usize::MAX);
            let piece = split_off(bytes, wanted.min(bytes.len()).min(Self::PIECE_BYTES));
            fragment.hand_on(piece, &mut self.frames.get_mut().bytes);
            self.joined += piece.len();
            let message = self.read()?;
            if message.is_some() || fragment.rest() == 0 || bytes.is_empty() {
                return Ok(message.map(Incoming::Message));
            }
        }
    }

    fn read(&mut self) -> Result<Option<Message>, Closed> {
        match self.frames.read() {
            Ok(message) => Ok(Message::from_wire(&message)),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(Error::Utf8(_)) => Err(not_utf8()),
            // All that a peer can do wrong was judged before: its words for the rest would be 13 KB of the program.
            Err(_) => Err(broken(CloseCode::PROTOCOL_ERROR, "a broken frame")),
        }
    }
}

/// What tungstenite is to read. It has nothing to write.
#[derive(Debug, Default)]
struct Feed {
    bytes: Vec<u8>,
    taken: usize,
}

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = (&self.bytes[self.taken..]).read(buf)?;
        self.taken += count;
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        }
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }
}

impl Write for Feed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

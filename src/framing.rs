//! Frame headers (RFC 6455 5.2): read, written, and judged as early as they can be.
//!
//! tungstenite looks at a frame when all of it is there, and makes room for what its header claims. [`Pieces`] stands before
//! it: it judges each header, and hands on a long data frame in fragments, each as it arrives. So a broken rule is seen at
//! once, invalid UTF-8 too, and a claimed length costs nothing.

use crate::close::{CloseCode, Closed, ClosedBy};

pub(crate) const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const CONTINUATION: u8 = 0;
/// Opcodes from here on are of control frames, which are short and whole (RFC 6455 5.5).
const FIRST_CONTROL: u8 = CLOSE;
const CLOSE: u8 = 8;
const MAX_CONTROL_BYTES: u64 = 125;
const MASKED: u8 = 0x80;

/// A data frame goes on in pieces of at most this: tungstenite keeps a buffer as large as the largest that it saw.
const PIECE_BYTES: usize = 2 * 1024;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// The final bit, the reserved bits and the opcode.
    first: u8,
    len: u64,
    /// Whether the length came in as few bytes as it can, with its first bit 0.
    is_len_sound: bool,
    mask: Option<[u8; 4]>,
}

impl Header {
    /// Takes a header from the front of `bytes`, with its own length; `None` if it is not complete.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (&[first, second], mut rest) = bytes.split_first_chunk()?;
        let (len, is_len_sound) = match second & !MASKED {
            126 => {
                let (len, after) = rest.split_first_chunk()?;
                rest = after;
                let len = u16::from_be_bytes(*len);
                (len.into(), len >= 126)
            }
            127 => {
                let (len, after) = rest.split_first_chunk()?;
                rest = after;
                let len = u64::from_be_bytes(*len);
                (len, (1 << 16..1 << 63).contains(&len))
            }
            len => (len.into(), true),
        };
        let mask = if second & MASKED == 0 {
            None
        } else {
            let (mask, after) = rest.split_first_chunk()?;
            rest = after;
            Some(*mask)
        };
        let header = Self {
            first,
            len,
            is_len_sound,
            mask,
        };
        Some((header, bytes.len() - rest.len()))
    }

    fn is_final(self) -> bool {
        self.first & FINAL != 0
    }

    fn opcode(self) -> u8 {
        self.first & OPCODE
    }

    fn is_control(self) -> bool {
        self.opcode() >= FIRST_CONTROL
    }
}

/// Appends a header to `out`.
pub(crate) fn write_header(first: u8, len: u64, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let masked = if mask.is_some() { MASKED } else { 0 };
    out.push(first);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..=125), _) => out.push(masked | len),
        (_, Ok(len)) => {
            out.push(masked | 126);
            out.extend(len.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend(len.to_be_bytes());
        }
    }
    out.extend(mask.into_iter().flatten());
}

/// What a client may send before it is told to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLimits {
    pub(crate) max_message_bytes: usize,
    pub(crate) max_fragments: usize,
}

/// Turns frames as they come into frames that are whole as far as they came.
#[derive(Debug)]
pub(crate) struct Pieces {
    limits: FrameLimits,
    /// The beginning of a header that is not complete.
    start: Vec<u8>,
    /// The frame whose payload is under way.
    frame: Option<Frame>,
    /// What the message under way has had: bytes, claimed ones included, and frames.
    message_bytes: u64,
    fragments: usize,
    /// Whether the last frame of a message was not its final one.
    unfinished: bool,
}

#[derive(Debug)]
struct Frame {
    header: Header,
    /// How much of the payload was handed on.
    done: u64,
    /// Whether a header was handed on.
    begun: bool,
    /// The first two bytes of a Close, as far as they came.
    close_code: u16,
}

impl Pieces {
    pub(crate) fn new(limits: FrameLimits) -> Self {
        Self {
            limits,
            start: Vec::new(),
            frame: None,
            message_bytes: 0,
            fragments: 0,
            unfinished: false,
        }
    }

    /// Takes bytes as they came and appends to `out` what is to be judged further. After a broken rule `out` has
    /// what came before it.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Closed> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => {
                    let Some(header) = self.take_header(&mut bytes) else {
                        return Ok(());
                    };
                    self.judge(header)?;
                    Frame {
                        header,
                        done: 0,
                        begun: false,
                        close_code: 0,
                    }
                }
            };
            let wanted = usize::try_from(frame.rest()).unwrap_or(usize::MAX);
            let (piece, after) = bytes.split_at(wanted.min(bytes.len()).min(PIECE_BYTES));
            bytes = after;
            frame.judge_close_code(piece)?;
            frame.hand_on(piece, out);
            if frame.rest() > 0 {
                self.frame = Some(frame);
                if bytes.is_empty() {
                    return Ok(());
                }
            }
        }
    }

    /// How many bytes of the message under way were handed on.
    pub(crate) fn under_way(&self) -> usize {
        let rest = self.frame.as_ref().map_or(0, Frame::rest);
        let whole = self.frame.is_none() && !self.unfinished;
        if whole {
            0
        } else {
            usize::try_from(self.message_bytes.saturating_sub(rest)).unwrap_or(usize::MAX)
        }
    }

    fn take_header(&mut self, bytes: &mut &[u8]) -> Option<Header> {
        if self.start.is_empty() {
            if let Some((header, len)) = Header::parse(bytes) {
                *bytes = &bytes[len..];
                return Some(header);
            }
        }
        while let Some((byte, after)) = bytes.split_first() {
            *bytes = after;
            self.start.push(*byte);
            if let Some((header, _)) = Header::parse(&self.start) {
                self.start = Vec::new();
                return Some(header);
            }
        }
        None
    }

    /// Judges what only the header tells, or tells first.
    fn judge(&mut self, header: Header) -> Result<(), Closed> {
        if let Some(reason) = self.broken_rule(header) {
            return Err(broken(CloseCode::PROTOCOL_ERROR, reason));
        }
        if header.is_control() {
            return Ok(());
        }
        let (bytes_before, fragments_before) = if header.opcode() == CONTINUATION {
            (self.message_bytes, self.fragments)
        } else {
            (0, 0)
        };
        let message_bytes = bytes_before.saturating_add(header.len);
        let fragments = fragments_before + 1;
        let FrameLimits {
            max_message_bytes,
            max_fragments,
        } = self.limits;
        if message_bytes > max_message_bytes as u64 {
            let reason = format!(
                "a message of {message_bytes} bytes or more, at most {max_message_bytes} are taken"
            );
            return Err(broken(CloseCode::MESSAGE_TOO_BIG, &reason).at_limit("max_message_bytes"));
        }
        if fragments > max_fragments {
            let reason = format!("a message of more than {max_fragments} fragments");
            return Err(broken(CloseCode::POLICY_VIOLATION, &reason).at_limit("max_fragments"));
        }
        // Only now: what was refused is not under way.
        self.unfinished = !header.is_final();
        (self.message_bytes, self.fragments) = (message_bytes, fragments);
        Ok(())
    }

    /// What RFC 6455 5.1 to 5.5 forbid, if the header is so.
    fn broken_rule(&self, header: Header) -> Option<&'static str> {
        let reason = match header.opcode() {
            _ if header.first & RESERVED != 0 => "a frame with a reserved bit",
            _ if header.mask.is_none() => "a frame that is not masked",
            _ if !header.is_len_sound => "a length that is not written as it has to be",
            3..=7 | 11.. => "a reserved opcode",
            FIRST_CONTROL.. if !header.is_final() => "a control frame in fragments",
            FIRST_CONTROL.. if header.len > MAX_CONTROL_BYTES => {
                "a control frame of more than 125 bytes"
            }
            CLOSE if header.len == 1 => "a Close with half a code",
            CONTINUATION if !self.unfinished => "a fragment of no message",
            1 | 2 if self.unfinished => "a message within a message",
            _ => return None,
        };
        Some(reason)
    }
}

impl Frame {
    fn rest(&self) -> u64 {
        self.header.len - self.done
    }

    /// Judges a Close's code once it is there (RFC 6455 7.4): tungstenite would put another in its place.
    fn judge_close_code(&mut self, piece: &[u8]) -> Result<(), Closed> {
        if self.header.opcode() != CLOSE {
            return Ok(());
        }
        let mask = turned(self.header.mask.unwrap_or_default(), self.done);
        for (at, (byte, mask)) in (self.done..2).zip(piece.iter().zip(mask)) {
            self.close_code = self.close_code << 8 | u16::from(byte ^ mask);
            if at == 1 && CloseCode::new(self.close_code).is_none() {
                let reason = format!("a Close with the code {}", self.close_code);
                return Err(broken(CloseCode::PROTOCOL_ERROR, &reason));
            }
        }
        Ok(())
    }

    /// Hands on the next piece of the payload under a header of its own, if it needs one.
    fn hand_on(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Header {
            first, len, mask, ..
        } = self.header;
        let last = piece.len() as u64 == self.rest();
        if self.header.is_control() {
            // It may not be fragmented, and it is short.
            if !self.begun {
                write_header(first, len, mask, out);
                self.begun = true;
            }
        } else if last || !piece.is_empty() {
            let opcode = if self.begun {
                CONTINUATION
            } else {
                first & !FINAL
            };
            let fin = if last { first & FINAL } else { 0 };
            write_header(
                opcode | fin,
                piece.len() as u64,
                mask.map(|mask| turned(mask, self.done)),
                out,
            );
            self.begun = true;
        }
        out.extend(piece);
        self.done += piece.len() as u64;
    }
}

/// What the peer is told of a rule that it broke.
pub(crate) fn broken(code: CloseCode, reason: &str) -> Closed {
    Closed::new(ClosedBy::Local, code, reason)
}

/// The mask as it stands over the payload from this offset on.
fn turned(mut mask: [u8; 4], offset: u64) -> [u8; 4] {
    mask.rotate_left((offset % 4) as usize);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claiming(len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_header(CONTINUATION, len, Some([0; 4]), &mut bytes);
        bytes
    }

    #[test]
    fn no_claimed_length_wraps_around() {
        for len in [1 << 32, (1 << 32) + 10, (1 << 63) - 1, u64::MAX] {
            let mut pieces = Pieces::new(FrameLimits {
                max_message_bytes: 100,
                max_fragments: 10,
            });
            let mut out = Vec::new();
            let begun = [0x02, 0x81, 0, 0, 0, 0, b'x'];
            assert_eq!(pieces.push(&begun, &mut out), Ok(()));
            assert!(pieces.push(&claiming(len), &mut out).is_err(), "{len}");
            // What was refused is not counted as there.
            assert_eq!(pieces.under_way(), 1, "{len}");
        }
    }
}

//! Frame headers (RFC 6455 5.2): read, written, and judged as soon as they are complete.

use crate::close::{CloseCode, Closed, ClosedBy};

pub(crate) const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
/// Opcodes from here on are of control frames, which are short and whole (RFC 6455 5.5).
const FIRST_CONTROL: u8 = CLOSE;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
const MAX_CONTROL_BYTES: u64 = 125;
const MASKED: u8 = 0x80;
/// Of one that a server sends.
pub(crate) const MAX_HEADER_BYTES: usize = 10;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The final bit, the reserved bits and the opcode.
    pub(crate) first: u8,
    pub(crate) len: u64,
    /// Whether the length came in as few bytes as it can, with its first bit 0.
    is_len_sound: bool,
    mask: Option<[u8; 4]>,
}

impl Header {
    /// Takes a header from the front of `bytes`, with its own length; `None` if it is not complete.
    #[inline(always)]
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

    pub(crate) fn opcode(self) -> u8 {
        self.first & OPCODE
    }

    pub(crate) fn is_control(self) -> bool {
        self.opcode() >= FIRST_CONTROL
    }

    /// Whether it is of a message in several frames.
    pub(crate) fn is_fragment(self) -> bool {
        !self.is_final() || self.opcode() == CONTINUATION
    }

    /// The mask as it stands over the payload from this offset on.
    pub(crate) fn mask_at(self, offset: u64) -> [u8; 4] {
        let mut mask = self.mask.unwrap_or_default();
        mask.rotate_left((offset % 4) as usize);
        mask
    }
}

/// Appends a header to `out`.
#[inline(always)]
pub(crate) fn write_header(first: u8, len: u64, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let masked = if mask.is_some() { MASKED } else { 0 };
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..=125), _) => {
            out.push(first);
            out.push(masked | len);
        }
        (_, Ok(len)) => {
            let [a, b] = len.to_be_bytes();
            out.push(first);
            out.push(masked | 126);
            out.push(a);
            out.push(b);
        }
        _ => {
            out.extend_from_slice(&[first, masked | 127]);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    if let Some(mask) = mask {
        out.extend_from_slice(&mask);
    }
}

/// What a client may send before it is told to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLimits {
    pub(crate) max_message_bytes: usize,
    pub(crate) max_fragments: usize,
}

/// Takes the headers of frames out of what comes, and judges them.
#[derive(Debug)]
pub(crate) struct Headers {
    limits: FrameLimits,
    /// The beginning of a header that is not complete.
    start: Vec<u8>,
    /// What the message under way has had: bytes, claimed ones included, and frames.
    message_bytes: u64,
    fragments: usize,
    /// Whether the last frame of a message was not its final one.
    unfinished: bool,
}

impl Headers {
    pub(crate) fn new(limits: FrameLimits) -> Self {
        Self {
            limits,
            start: Vec::new(),
            message_bytes: 0,
            fragments: 0,
            unfinished: false,
        }
    }

    /// Whether a message in fragments lacks some.
    pub(crate) fn is_message_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Takes the next header from the front of `bytes`; `None` if more is needed for it.
    pub(crate) fn take(&mut self, bytes: &mut &mut [u8]) -> Result<Option<Header>, Closed> {
        let Some(header) = self.take_unjudged(bytes) else {
            return Ok(None);
        };
        self.judge(header)?;
        Ok(Some(header))
    }

    fn take_unjudged(&mut self, bytes: &mut &mut [u8]) -> Option<Header> {
        if self.start.is_empty() {
            if let Some((header, len)) = Header::parse(bytes) {
                split_off(bytes, len);
                return Some(header);
            }
        }
        self.take_piecemeal(bytes)
    }

    #[cold]
    fn take_piecemeal(&mut self, bytes: &mut &mut [u8]) -> Option<Header> {
        while !bytes.is_empty() {
            self.start.extend(&*split_off(bytes, 1));
            if let Some((header, _)) = Header::parse(&self.start) {
                self.start = Vec::new();
                return Some(header);
            }
        }
        None
    }

    /// Judges what only the header tells, or tells first.
    #[inline]
    fn judge(&mut self, header: Header) -> Result<(), Closed> {
        // What nearly all are, and what leaves nothing to remember: a message in one frame.
        let is_whole = matches!(header.first ^ FINAL, TEXT | BINARY) && !self.unfinished;
        if is_whole
            && header.mask.is_some()
            && header.is_len_sound
            && header.len <= self.limits.max_message_bytes as u64
        {
            return Ok(());
        }
        self.judge_other(header)
    }

    fn judge_other(&mut self, header: Header) -> Result<(), Closed> {
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
            TEXT | BINARY if self.unfinished => "a message within a message",
            _ => return None,
        };
        Some(reason)
    }
}

/// Takes the first `len` bytes.
#[inline]
pub(crate) fn split_off<'a>(bytes: &mut &'a mut [u8], len: usize) -> &'a mut [u8] {
    let (taken, rest) = std::mem::take(bytes).split_at_mut(len);
    *bytes = rest;
    taken
}

/// What the peer is told of a rule that it broke.
pub(crate) fn broken(code: CloseCode, reason: &str) -> Closed {
    Closed::new(ClosedBy::Local, code, reason)
}

/// Takes a mask off a payload (RFC 6455 5.3), or puts it on.
#[inline]
pub(crate) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    // Told in words, four at once: byte by byte it is made into words only where the compiler has vectors, and is to use them.
    let word = u64::from(u32::from_ne_bytes(mask)) * 0x1_0000_0001;
    let xor = |bytes: &mut [u8; WORD]| *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    let mut blocks = payload.chunks_exact_mut(4 * WORD);
    for block in &mut blocks {
        if let Some([one, two, three, four]) = words(block) {
            xor(one);
            xor(two);
            xor(three);
            xor(four);
        }
    }
    let mut single = blocks.into_remainder().chunks_exact_mut(WORD);
    for bytes in &mut single {
        if let Some(word) = bytes.first_chunk_mut() {
            xor(word);
        }
    }
    let rest = single.into_remainder();
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

const WORD: usize = size_of::<u64>();

/// The first four words.
fn words(bytes: &mut [u8]) -> Option<[&mut [u8; WORD]; 4]> {
    let (one, rest) = bytes.split_first_chunk_mut()?;
    let (two, rest) = rest.split_first_chunk_mut()?;
    let (three, rest) = rest.split_first_chunk_mut()?;
    let (four, _) = rest.split_first_chunk_mut()?;
    Some([one, two, three, four])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_claimed_length_wraps_around() {
        for len in [1 << 32, (1 << 32) + 10, (1 << 63) - 1, u64::MAX] {
            let mut headers = Headers::new(FrameLimits {
                max_message_bytes: 100,
                max_fragments: 10,
            });
            let mut begun = Vec::new();
            write_header(BINARY, 1, Some([0; 4]), &mut begun);
            assert!(headers.take(&mut &mut *begun).unwrap().is_some());
            let mut claiming = Vec::new();
            write_header(CONTINUATION, len, Some([0; 4]), &mut claiming);
            assert!(headers.take(&mut &mut *claiming).is_err(), "{len}");
        }
    }

    #[test]
    fn a_mask_is_taken_off_bytes_of_any_number() {
        let mask = [1, 2, 4, 8];
        for len in 0..100 {
            let mut payload = vec![0; len];
            unmask(&mut payload, mask);
            let expected: Vec<u8> = mask.iter().copied().cycle().take(len).collect();
            assert_eq!(payload, expected);
        }
    }
}

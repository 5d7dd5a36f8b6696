//! Frames (RFC 6455 5.2), of both sides.

/// Whole message, text.
pub const TEXT: u8 = 0x81;
/// Whole message, binary.
pub const BINARY: u8 = 0x82;
/// Close.
pub const CLOSE: u8 = 0x88;
/// Ping.
pub const PING: u8 = 0x89;
/// Pong.
pub const PONG: u8 = 0x8a;

/// The header of a frame that a client sent.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// FIN and opcode.
    pub first: u8,
    /// The header's own length, the mask's four bytes included.
    pub head: usize,
    /// The payload's length.
    pub len: usize,
    /// What the payload is masked with.
    pub mask: [u8; 4],
}

impl Header {
    /// Reads a header; `None` until all of it is there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (len, at) = match bytes.get(1)? & 0x7f {
            126 => (u16::from_be_bytes(array(bytes, 2)?).into(), 4),
            127 => (u64::from_be_bytes(array(bytes, 2)?) as usize, 10),
            len => (len.into(), 2),
        };
        Some(Self {
            first: bytes[0],
            head: at + 4,
            len,
            mask: array(bytes, at)?,
        })
    }

    /// The whole frame's length.
    pub fn total(&self) -> usize {
        self.head + self.len
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Masks, or unmasks. The mask begins with the payload.
pub fn mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        let masked = u64::from_ne_bytes(array(word, 0).unwrap_or_default()) ^ wide;
        word.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A frame; masked as a client's have to be, or not, as a server's.
pub fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if key.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        len @ ..126 => frame.push(bit | len as u8),
        len @ ..65_536 => {
            frame.push(bit | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(bit | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(key.into_iter().flatten());
    let head = frame.len();
    frame.extend(payload);
    if let Some(key) = key {
        mask(&mut frame[head..], key);
    }
    frame
}

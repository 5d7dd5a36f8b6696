//! The frames that a client sends, as RFC 6455 has a server take them.

use std::str;
use whit::{
    Message,
    fuzzing::{End, Event},
};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A message of which not all frames have come.
struct Unfinished {
    is_text: bool,
    /// What the headers claimed.
    len: u64,
    frames: usize,
    payload: Vec<u8>,
}

/// Everything in `bytes`, and how it ends if nothing comes after them.
///
/// A header is judged once it is complete, text byte by byte, a Close once its code is there and again once its reason is.
pub fn read(mut bytes: &[u8], max_message_bytes: usize, max_fragments: usize) -> (Vec<Event>, End) {
    let mut events = Vec::new();
    let mut unfinished = None;
    let end = loop {
        match read_frame(
            &mut bytes,
            &mut unfinished,
            max_message_bytes,
            max_fragments,
        ) {
            Ok(Some(event)) => events.push(event),
            Ok(None) => {}
            Err(end) => break end,
        }
    };
    (events, end)
}

fn read_frame(
    bytes: &mut &[u8],
    unfinished: &mut Option<Unfinished>,
    max_message_bytes: usize,
    max_fragments: usize,
) -> Result<Option<Event>, End> {
    // 5.2: the header.
    let start = take(bytes, 2)?;
    let (first, second) = (start[0], start[1]);
    let (fin, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
    let len = match second & 0x7f {
        126 => number(take(bytes, 2)?),
        127 => number(take(bytes, 8)?),
        len => len.into(),
    };
    let shortest = match second & 0x7f {
        126 => len > 125,
        127 => len > 0xffff,
        _ => true,
    };
    let masked = second & 0x80 != 0;
    let mask = if masked { take(bytes, 4)? } else { &[0; 4] };

    // 5.2: reserved bits, opcodes, lengths. 5.1: the mask.
    let known = [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG].contains(&opcode);
    if reserved != 0 || !known || !shortest || len >> 63 != 0 || !masked {
        return Err(End::Violation(1002));
    }
    let is_control = opcode >= CLOSE;
    if is_control {
        // 5.5, and 5.5.1 for the Close.
        if !fin || len > 125 || (opcode == CLOSE && len == 1) {
            return Err(End::Violation(1002));
        }
    } else {
        // 5.4.
        if (opcode == CONTINUATION) != unfinished.is_some() {
            return Err(End::Violation(1002));
        }
        let message = unfinished.get_or_insert_with(|| Unfinished {
            is_text: opcode == TEXT,
            len: 0,
            frames: 0,
            payload: Vec::new(),
        });
        message.len = message.len.saturating_add(len);
        message.frames += 1;
        if message.len > max_message_bytes as u64 {
            return Err(End::Violation(1009));
        }
        if message.frames > max_fragments {
            return Err(End::Violation(1008));
        }
    }

    // 5.3: what is there of the payload.
    let there = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
    let whole = there as u64 == len;
    let mut payload = take(bytes, there)?.to_vec();
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[i % 4];
    }

    if is_control {
        // 7.4.
        if let (CLOSE, [high, low, ..]) = (opcode, &payload[..]) {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999) {
                return Err(End::Violation(1002));
            }
        }
        if !whole {
            return Err(End::Lost);
        }
        return match opcode {
            PING => Ok(Some(Event::Ping(payload.into()))),
            PONG => Ok(Some(Event::Pong)),
            _ => Err(close(&payload)),
        };
    }

    let mut message = unfinished.take().expect("a data frame is of a message");
    message.payload.extend(payload);
    // 8.1.
    if message.is_text {
        match str::from_utf8(&message.payload) {
            Err(error) if error.error_len().is_some() || (whole && fin) => {
                return Err(End::Violation(1007));
            }
            _ => {}
        }
    }
    if !whole {
        return Err(End::Lost);
    }
    if !fin {
        *unfinished = Some(message);
        return Ok(None);
    }
    let payload = message.payload;
    Ok(Some(Event::Message(if message.is_text {
        Message::from(String::from_utf8(payload).expect("it was judged"))
    } else {
        Message::from(payload)
    })))
}

fn close(payload: &[u8]) -> End {
    match payload.split_first_chunk() {
        None => End::Closed(1005, String::new()),
        Some((code, reason)) => match str::from_utf8(reason) {
            Ok(reason) => End::Closed(u16::from_be_bytes(*code), reason.to_owned()),
            Err(_) => End::Violation(1007),
        },
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], End> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(End::Lost)?;
    *bytes = rest;
    Ok(taken)
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

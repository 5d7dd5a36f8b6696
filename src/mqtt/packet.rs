//! Packets, by `mqtt-proto`: what is found in the bytes that came, and what is sent.

use mqtt_proto::{
    Encodable, Pid, QoS, total_len,
    v5::{
        Connack, Disconnect, ErrorV5, Header, Packet, PacketType, Puback, Publish,
        PublishProperties, Suback,
    },
};
use std::{io, str};
use whit::Message;

/// What the broker allows on this connection.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// So many messages may be unacknowledged.
    pub(super) window: usize,
    pub(super) max_packet_bytes: usize,
}

/// What a broker sends to whom it knows.
#[derive(Debug)]
pub(super) enum Incoming<'a> {
    Connack(Connack),
    Published(Published<'a>),
    Puback(Puback),
    Suback(Suback),
    Pingresp,
    Disconnect(Disconnect),
}

/// A message from the broker.
#[derive(Debug)]
pub(super) struct Published<'a> {
    pub(super) topic: &'a str,
    pub(super) retain: bool,
    /// It is to be acknowledged.
    pub(super) pid: Option<Pid>,
    /// Whether the sender said that it is text, or that it is not.
    is_text: Option<bool>,
    payload: &'a [u8],
}

impl Published<'_> {
    /// Text, unless the sender said that it is not, if it is UTF-8.
    pub(super) fn message(&self) -> Message {
        match str::from_utf8(self.payload) {
            Ok(text) if self.is_text != Some(false) => text.into(),
            _ => self.payload.into(),
        }
    }
}

pub(super) fn malformed(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("it sent what is not MQTT 5: {what}"),
    )
}

/// The first packet in `bytes`, and its length; `None` while it is not complete.
///
/// # Errors
///
/// It is malformed, longer than `max_bytes`, or none that a broker sends.
pub(super) fn first(bytes: &[u8], max_bytes: usize) -> io::Result<Option<(Incoming<'_>, usize)>> {
    let Some((body_start, body_len)) = extent(bytes)? else {
        return Ok(None);
    };
    let remaining = u32::try_from(body_len).map_err(malformed)?;
    let header = Header::new_with(bytes[0], remaining, 0).map_err(malformed)?;
    let end = body_start + body_len;
    if end > max_bytes {
        return Err(malformed(format_args!(
            "a packet of {end} bytes, where {max_bytes} is the most it was told"
        )));
    }
    let Some(body) = bytes.get(body_start..end) else {
        return Ok(None);
    };
    Ok(Some((decode(header, body)?, end)))
}

/// Where the first packet's body begins, and its length.
pub(super) fn extent(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut len = 0;
    for index in 0..4 {
        let Some(byte) = bytes.get(1 + index) else {
            return Ok(None);
        };
        len |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + index, len)));
        }
    }
    Err(malformed("a length of more than 4 bytes"))
}

fn decode(header: Header, body: &[u8]) -> io::Result<Incoming<'_>> {
    let packet = match header.typ {
        PacketType::Publish => return published(header, body).map(Incoming::Published),
        PacketType::Pingresp if body.is_empty() => Ok(Incoming::Pingresp),
        PacketType::Connack => return connack(header, body).map(Incoming::Connack),
        PacketType::Puback => Puback::decode(body, &mut 0, header).map(Incoming::Puback),
        PacketType::Suback => Suback::decode(body, &mut 0, header).map(Incoming::Suback),
        PacketType::Disconnect if body.is_empty() => {
            Ok(Incoming::Disconnect(Disconnect::new_normal()))
        }
        PacketType::Disconnect => {
            Disconnect::decode(body, &mut 0, header).map(Incoming::Disconnect)
        }
        other => return Err(malformed(format_args!("a {other} of {} bytes", body.len()))),
    };
    packet.map_err(malformed)
}

fn connack(header: Header, body: &[u8]) -> io::Result<Connack> {
    Connack::decode(body, &mut 0, header).map_err(|error| match (error, body.len()) {
        // As it has been until MQTT 5, whether it says that it does not know 5 or takes it for what it knows.
        (ErrorV5::InvalidReasonCode(..), _) | (_, 2) => io::Error::new(
            io::ErrorKind::Unsupported,
            "it speaks an older MQTT than 5, which this needs",
        ),
        (error, _) => malformed(error),
    })
}

/// By hand, not by the crate, which refuses a whole packet when what another client published is not as it claims: that would come again
/// with every connection.
fn published(header: Header, body: &[u8]) -> io::Result<Published<'_>> {
    let cut = || malformed("a message that ends before its payload");
    let (len, rest) = body.split_first_chunk().ok_or_else(cut)?;
    let (topic, mut rest) = rest
        .split_at_checked(u16::from_be_bytes(*len).into())
        .ok_or_else(cut)?;
    let topic = str::from_utf8(topic).map_err(malformed)?;
    let pid = match header.qos {
        QoS::Level0 => None,
        QoS::Level1 => {
            let (number, behind) = rest.split_first_chunk().ok_or_else(cut)?;
            rest = behind;
            Some(Pid::try_from(u16::from_be_bytes(*number)).map_err(malformed)?)
        }
        QoS::Level2 => return Err(malformed("a message of QoS 2, which was not asked for")),
    };
    // The properties begin with their length, as a packet's body does behind a byte.
    let before = body.len() - rest.len() - 1;
    let (start, len) = extent(&body[before..])?.ok_or_else(cut)?;
    let properties = &body[before + 1..];
    let payload = properties.get(start - 1 + len..).ok_or_else(cut)?;
    let properties = &properties[..start - 1 + len];
    let is_text = PublishProperties::decode(properties, &mut 0, PacketType::Publish)
        .ok()
        .and_then(|properties| properties.payload_is_utf8);
    Ok(Published {
        topic,
        retain: header.retain,
        pid,
        is_text,
        payload,
    })
}

/// Puts the packet behind what `out` has.
pub(super) fn put(out: &mut Vec<u8>, packet: impl Into<Packet>) -> io::Result<()> {
    let packet = packet.into().encode().map_err(io::Error::other)?;
    out.extend_from_slice(packet.as_ref());
    Ok(())
}

/// Whether the broker takes a packet as long as this one.
pub(super) fn fits(packet: &Publish, limits: &Limits) -> bool {
    total_len(packet.encode_len()).is_ok_and(|len| len <= limits.max_packet_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        first(bytes, 1000).unwrap_err().to_string()
    }

    fn published(bytes: &[u8]) -> Published<'_> {
        match first(bytes, 1000) {
            Ok(Some((Incoming::Published(published), len))) if len == bytes.len() => published,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_packet_is_taken_when_it_is_complete() {
        let bytes = b"\x32\x0b\0\x01a\0\x07\x02\x01\x01hi!\xd0\0";
        for end in 0..13 {
            assert!(matches!(first(&bytes[..end], 1000), Ok(None)), "{end}");
        }
        let (packet, len) = first(bytes, 1000).unwrap().unwrap();
        assert!(matches!(
            packet,
            Incoming::Published(Published { topic: "a", .. })
        ));
        assert_eq!(len, 13);
        assert!(matches!(
            first(&bytes[13..], 1000),
            Ok(Some((Incoming::Pingresp, 2)))
        ));
    }

    #[test]
    fn a_message_has_the_type_that_its_sender_gave_it() {
        for (properties, payload, expected) in [
            (&b"\0"[..], &b"hi"[..], Message::from("hi")),
            (b"\0", b"", Message::from("")),
            (b"\0", b"\xff", Message::from(&b"\xff"[..])),
            (b"\x02\x01\x01", b"hi", Message::from("hi")),
            (b"\x02\x01\0", b"hi", Message::from(&b"hi"[..])),
            // It lies.
            (b"\x02\x01\x01", b"\xff", Message::from(&b"\xff"[..])),
            // A length that is longer than it need be.
            (b"\x82\x80\0\x01\0", b"hi", Message::from(&b"hi"[..])),
            // A property that there is not.
            (b"\x02\x7f\x01", b"hi", Message::from("hi")),
        ] {
            let body = [b"\0\x01a", properties, payload].concat();
            let bytes = [&[0x31, u8::try_from(body.len()).unwrap()], &body[..]].concat();
            let published = published(&bytes);
            assert_eq!(published.message(), expected, "{bytes:?}");
            assert!(published.retain && published.pid.is_none());
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (bytes, expected) in [
            (
                &b"\x30\xff\xff\xff\xff\x01"[..],
                "a length of more than 4 bytes",
            ),
            (b"\x30\xe8\x07", "a packet of 1003 bytes, where 1000"),
            (b"\x00\0", "invalid header"),
            (b"\x36\x05\0\x01a\0\0", "invalid qos"),
            (b"\x34\x06\0\x01a\0\x01\0", "a message of QoS 2"),
            (b"\x32\x06\0\x01a\0\0\0", "packet identifier is 0"),
            (b"\x30\x00", "ends before its payload"),
            (b"\x30\x03\0\x01a", "ends before its payload"),
            (b"\x30\x04\0\x03a\0", "ends before its payload"),
            (b"\x30\x04\0\x01a\x05", "ends before its payload"),
            (b"\x30\x05\0\x01a\xff\xff", "ends before its payload"),
            (b"\x30\x04\0\x01\xff\0", "invalid utf-8"),
            (b"\x40\x01\0", "UnexpectedEof"),
            (b"\x40\x03\0\x01\x01", "invalid reason code"),
            (b"\xd0\x01\0", "a Pingresp of 1 bytes"),
            (b"\xc0\x00", "a Pingreq of 0 bytes"),
            (b"\x90\x00", "UnexpectedEof"),
            // An HTTP server, and a web page.
            (b"HTTP/1.1 400 Bad Request", "invalid header"),
        ] {
            let error = error(bytes);
            assert!(
                error.starts_with("it sent what is not MQTT 5: ") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn an_older_broker_is_recognised() {
        for answer in [b"\x20\x02\0\x01", b"\x20\x02\0\0"] {
            assert_eq!(
                error(answer),
                "it speaks an older MQTT than 5, which this needs"
            );
        }
    }

    #[test]
    fn whatever_comes_does_no_harm() {
        let seeds: [&[u8]; 5] = [
            b"\x32\x0b\0\x01a\0\x07\x02\x01\x01hi!",
            b"\x20\x0b\0\0\x08\x21\0\x0a\x27\0\0\x10\0",
            b"\x90\x06\0\x01\0\x01\x01\x01",
            b"\x40\x04\0\x07\x87\0",
            b"\xe0\x07\x8b\x05\x1f\0\x02ab",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200_000 {
            let mut bytes = random.choice(seeds).unwrap_or_default().to_vec();
            for _ in 0..random.usize(0..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            if let Ok(Some((packet, len))) = first(&bytes, 1000) {
                assert!(len <= bytes.len());
                if let Incoming::Published(published) = packet {
                    assert!(published.message().len() < len);
                }
            }
        }
    }
}

//! What is sent and received; the one file that converts payloads to and from tungstenite's types.

use async_tungstenite::tungstenite;
use bytes::Bytes;
use std::{fmt, ops::Deref, str::Utf8Error};
use tungstenite::Utf8Bytes;

/// A whole message: text or binary, as the peer sent it or is to get it.
///
/// Cloning is cheap: the payload is counted, not copied, so one message can be written to any number
/// of connections.
///
/// # Examples
///
/// ```
/// use whit::Message;
///
/// let text = Message::from("20.5");
/// assert_eq!(text.as_text(), Some("20.5"));
/// assert_eq!(text.as_bytes(), b"20.5");
///
/// let binary = Message::from(vec![1, 2, 3]);
/// assert_eq!(binary.as_text(), None);
/// assert_ne!(Message::from("a"), Message::from(b"a".to_vec()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text (RFC 6455 5.6, opcode 1).
    Text(Text),
    /// Bytes without a meaning to the protocol (RFC 6455 5.6, opcode 2).
    ///
    /// An owner that they have (`Bytes::from_owner`) is dropped in the midst of the server's work: its `Drop` may neither panic nor call anything of
    /// this crate.
    Binary(Bytes),
}

impl Message {
    /// The payload's length in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload has no bytes. An empty message is a message all the same.
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// The payload, of either kind.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The text, or `None` for a binary message.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// The payload, of either kind, without a copy.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Text(text) => text.0.into(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// Takes a message that was read.
    ///
    /// The payload is copied out: tungstenite's shares an allocation that may be far larger, and a few queued bytes
    /// would pin all of it.
    pub(crate) fn from_wire(message: &tungstenite::Message) -> Option<Self> {
        match message {
            tungstenite::Message::Text(text) => Some(Self::from(text.as_str())),
            tungstenite::Message::Binary(bytes) => Some(Self::from(&bytes[..])),
            _ => None,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn into_wire(self) -> tungstenite::Message {
        match self {
            Self::Text(text) => tungstenite::Message::Text(text.0),
            Self::Binary(bytes) => tungstenite::Message::Binary(bytes),
        }
    }
}

/// The payload of a text message: a string that is cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Utf8Bytes);

impl Text {
    /// The text as a slice.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn from_utf8(payload: Bytes) -> Result<Self, Utf8Error> {
        payload.try_into().map(Self)
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Text> for Message {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes.into())
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        Self::Binary(Bytes::copy_from_slice(bytes))
    }
}

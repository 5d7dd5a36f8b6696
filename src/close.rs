//! Why and by whom a connection was closed.

use std::fmt;

/// A close code (RFC 6455 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server is going down, or the page was left.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a message of a kind (text, binary) that is not taken here.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1005: the peer's Close had no code. Never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: the connection ended without a Close. Never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not UTF-8, or a payload that does not fit its message's type.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: a rule of this server's was broken.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message was larger than is taken here.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1011: something went wrong on this side.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1013: the server is overloaded, come back later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// A code that may be sent: 1000 to 1003, 1007 to 1013, or 3000 to 4999, of which 4000 and above
    /// are yours to give a meaning (RFC 6455 7.4.2). `None` for all others.
    ///
    /// ```
    /// use whit::CloseCode;
    ///
    /// assert_eq!(CloseCode::new(1000), Some(CloseCode::NORMAL));
    /// assert_eq!(CloseCode::new(4001).map(u16::from), Some(4001));
    /// assert_eq!(CloseCode::new(1006), None);
    /// ```
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1013 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    pub(crate) fn is_sendable(self) -> bool {
        Self::new(self.0).is_some()
    }

    /// A code as it was received and judged by the protocol's rules.
    #[cfg(feature = "testing")]
    pub(crate) const fn from_wire(code: u16) -> Self {
        Self(code)
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        code.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClosedBy {
    /// This side: the handler, a limit, the end of the server.
    Local,
    /// The other side, with a Close frame or by going away.
    Peer,
}

/// How a connection came to its end: by whom, with which code, and why.
///
/// Of all that could end a connection the first wins, and this does not change afterwards.
/// It is an [`Error`](std::error::Error), so that `?` ends a handler with it, though mostly it is just
/// an answer: a peer that leaves is not a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    by: ClosedBy,
    code: CloseCode,
    reason: Box<str>,
    limit: Option<&'static str>,
}

impl Closed {
    /// A close frame has room for 125 bytes, of which two are the code (RFC 6455 5.5.1).
    const MAX_REASON_BYTES: usize = 123;

    pub(crate) fn new(by: ClosedBy, code: CloseCode, reason: &str) -> Self {
        Self {
            by,
            code,
            reason: beginning(reason, Self::MAX_REASON_BYTES).into(),
            limit: None,
        }
    }

    /// The end of a connection at a limit of [`Config`](crate::Config), which is named.
    pub(crate) fn at_limit(self, field: &'static str) -> Self {
        Self {
            limit: Some(field),
            ..self
        }
    }

    /// The end of a connection that no Close told of.
    pub(crate) fn lost(by: ClosedBy, reason: &str) -> Self {
        Self::new(by, CloseCode::ABNORMAL, reason)
    }

    /// Who closed.
    pub fn by(&self) -> ClosedBy {
        self.by
    }

    /// The code: the one sent or received, or [`NO_STATUS`](CloseCode::NO_STATUS) or
    /// [`ABNORMAL`](CloseCode::ABNORMAL).
    pub fn code(&self) -> CloseCode {
        self.code
    }

    /// The reason, as sent or received, or what happened where no Close was exchanged. Often empty.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The field of [`Config`](crate::Config) whose limit ended the connection, or `None` if it was no limit.
    pub fn limit(&self) -> Option<&'static str> {
        self.limit
    }

    /// Whether a side ended it in words, with a Close, whatever its code. It is not clean when the peer vanished, was
    /// reset, or took nothing any more ([`ABNORMAL`](CloseCode::ABNORMAL)).
    ///
    /// It tells how the end began: a peer that was sent a Close may still fail to answer it.
    pub fn is_clean(&self) -> bool {
        self.code != CloseCode::ABNORMAL
    }
}

/// As much of a text as fits into so many bytes.
pub(crate) fn beginning(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            ClosedBy::Local => "this side",
            ClosedBy::Peer => "the peer",
        };
        write!(f, "closed by {by}, code {}", self.code)?;
        if !self.reason.is_empty() {
            write!(f, ", {:?}", self.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for Closed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let closed = Closed::new(ClosedBy::Local, CloseCode::NORMAL, &"é".repeat(100));
        assert_eq!(closed.reason(), "é".repeat(61));
    }

    #[test]
    fn only_codes_of_the_rfc_may_be_sent() {
        for code in [0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 2999, 5000] {
            assert_eq!(CloseCode::new(code), None, "{code}");
        }
        for code in [1000, 1003, 1007, 1013, 3000, 4999] {
            assert!(CloseCode::new(code).is_some(), "{code}");
        }
    }
}

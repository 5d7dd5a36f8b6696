//! What can fail: for the user of the library an [`Error`], for a client a [`Refusal`].

use std::{fmt, io};

/// A `Result` whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a server could not start.
///
/// Nothing that a client does ends a server, so these come from what makes one ready, and from [`run`](crate::Server::run) and
/// [`serve`](crate::Server::serve) at the start, and never later. Its debug text is its message, so that a `main` that
/// returns it ends with a clear line.
#[non_exhaustive]
pub enum Error {
    /// A field of [`Config`](crate::Config) has a value that breaks its rule.
    Config {
        /// The field's name.
        field: &'static str,
        /// The value it has.
        value: String,
        /// What a value must be like.
        rule: &'static str,
    },
    /// A path given to [`route`](crate::Server::route) or [`page`](crate::Server::page) is not one.
    Route {
        /// The path as it was given.
        path: String,
        /// What a path must be like.
        rule: &'static str,
    },
    /// An address could not be listened on: it is in use, not of this machine, or not permitted.
    Listen {
        /// The address, as far as it was understood.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// There are no means to wait for sockets and timers: the process has too many files open, or nobody waits where
    /// [`serve_lean`](crate::Server::serve_lean) was polled.
    Reactor {
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { field, value, rule } => write!(f, "{field} is {value}: {rule}"),
            Self::Route { path, rule } => write!(f, "path {path:?}: {rule}"),
            Self::Listen { addr, source } => write!(f, "cannot listen on {addr}: {source}"),
            Self::Reactor { source } => write!(f, "cannot wait for sockets: {source}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Reactor { source } => Some(source),
            Self::Config { .. } | Self::Route { .. } => None,
        }
    }
}

/// Why a request did not become a connection, as the client is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400, with what is wrong with the request.
    BadRequest(&'static str),
    /// 403: a web page of another site tried to connect (RFC 6455 4.2.2).
    ForeignOrigin,
    /// 404.
    NotFound,
    /// 405, with the methods that would do.
    MethodNotAllowed(&'static str),
    /// 408: the head did not arrive within `handshake_timeout`.
    Timeout,
    /// 426: a WebSocket address was asked without a WebSocket handshake.
    NotAnUpgrade {
        /// The address as the client knows it, for the hint.
        url: String,
    },
    /// 426: the handshake is of another version than 13 (RFC 6455 4.4).
    WrongVersion,
    /// 429: this address has `max_connections_per_ip` connections already.
    TooManyFromAddress,
    /// 431: the head is longer than `max_head_bytes` or has too many fields.
    HeadTooLarge,
    /// 500: this function of the user's panicked.
    Panicked(&'static str),
    /// 503: the server has `max_connections` connections already.
    Full,
    /// 503: three quarters of `memory_budget_bytes` are in use.
    OutOfMemory,
    /// 503: the server is shutting down.
    ShuttingDown,
}

impl Refusal {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::ForeignOrigin => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed(_) => 405,
            Self::Timeout => 408,
            Self::NotAnUpgrade { .. } | Self::WrongVersion => 426,
            Self::TooManyFromAddress => 429,
            Self::HeadTooLarge => 431,
            Self::Panicked(_) => 500,
            Self::Full | Self::OutOfMemory | Self::ShuttingDown => 503,
        }
    }

    /// The field of [`Config`](crate::Config) whose limit it was.
    pub(crate) fn limit(&self) -> Option<&'static str> {
        match self {
            Self::Timeout => Some("handshake_timeout"),
            Self::TooManyFromAddress => Some("max_connections_per_ip"),
            Self::HeadTooLarge => Some("max_head_bytes"),
            Self::Full => Some("max_connections"),
            Self::OutOfMemory => Some("memory_budget_bytes"),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest(words) => f.write_str(words),
            Self::ForeignOrigin => f.write_str("web pages of this origin may not connect here"),
            Self::NotFound => f.write_str("there is nothing at this path"),
            Self::MethodNotAllowed(allowed) => write!(f, "this path takes {allowed} only"),
            Self::Timeout => f.write_str("the request head did not arrive in time"),
            Self::NotAnUpgrade { url } => write!(
                f,
                "this address is for WebSocket clients: connect to {url} with one, \
                 in a browser for instance with new WebSocket(\"{url}\")"
            ),
            Self::WrongVersion => f.write_str("this server speaks WebSocket version 13 (RFC 6455)"),
            Self::TooManyFromAddress => {
                f.write_str("too many connections from your address: close one and try again")
            }
            Self::HeadTooLarge => f.write_str("the request head is too large"),
            Self::Panicked(what) => write!(f, "the {what} failed"),
            Self::Full => f.write_str("the server is full: try again later"),
            Self::OutOfMemory => f.write_str("the server is short of memory: try again later"),
            Self::ShuttingDown => f.write_str("the server is shutting down: try again later"),
        }
    }
}

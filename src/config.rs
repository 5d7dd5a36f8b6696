//! Every number: its unit, its default, its reason, and what happens at the limit.

use crate::{
    error::{Error, Result},
    proxy::TrustedProxy,
    shown::Time,
};
use std::{fmt, time::Duration};

/// The text of the application heartbeat: see [`Config::heartbeat`](field@Config::heartbeat).
pub const HEARTBEAT: &str = "heartbeat";

/// Which web pages may connect (RFC 6455 10.2).
///
/// A browser tells in the `Origin` header which site a page is of. Clients that are not browsers send no
/// such header and are always let in: they could claim anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origins {
    /// Pages of the host that the request itself is for, whether they came by `http` or by `https`: behind a
    /// proxy the server cannot tell which one it is.
    #[default]
    SameHost,
    /// Pages of that host, and of these origins, each written like `https://example.com` or
    /// `http://192.168.1.5:8080`.
    Also(Vec<String>),
    /// Pages of any site. Any page that a user of your network opens can then connect in that user's name.
    Any,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident($arg:ty): $type:ty = $default:expr,)*) => {
        /// The limits and times of a server.
        ///
        /// Each field has a method of the same name that sets it, to be chained. What was not set has its default.
        /// The values are checked when the server starts: a bad one is an [`Error`] that
        /// names the field, the value and the rule.
        ///
        /// # Examples
        ///
        /// ```
        /// use std::{ops::RangeInclusive, time::Duration};
        /// use whit::{Config, Server};
        ///
        /// let config = Config::new()
        ///     .max_message_bytes(1024)
        ///     .ping_interval(Duration::from_secs(10))
        ///     .pong_timeout(Duration::from_secs(3))
        ///     .heartbeat(None);
        /// let server = Server::new().config(config);
        /// ```
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Config {
            $($(#[$doc])* pub $field: $type,)*
            /// Which web pages may connect; others get 403. Defaults to [`Origins::SameHost`].
            pub origins: Origins,
            /// The subprotocols that this server speaks, the most preferred first (RFC 6455 1.9). The
            /// first of them that a client offers is chosen; where none fits, none is, and the client
            /// is let in all the same: a [guard](crate::Server::guard) can refuse it. Defaults to none.
            pub subprotocols: Vec<String>,
            /// The proxies whose word is taken for who their clients are, in `X-Forwarded-For`: for
            /// [`Request::peer_addr`](crate::Request::peer_addr), the log, and `max_connections_per_ip`. Anyone else may
            /// write there what he likes. Defaults to none.
            pub trusted_proxies: Vec<TrustedProxy>,
        }

        impl Config {
            /// The defaults.
            #[must_use]
            pub const fn new() -> Self {
                Self {
                    $($field: $default,)*
                    origins: Origins::SameHost,
                    subprotocols: Vec::new(),
                    trusted_proxies: Vec::new(),
                }
            }

            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, $field: $arg) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
        }
    };
}

settings! {
    /// The most connections at once, handshakes and page loads included. Further ones get 503 with
    /// `Retry-After`. Defaults to 1,024.
    max_connections(usize): usize = 1024,
    /// The most connections at once from one IPv4 address or one IPv6 /64 network. Further ones get
    /// 429. Behind a proxy all clients have its address, unless it is one of `trusted_proxies`. Defaults to `None`, no limit.
    max_connections_per_ip(impl Into<Option<usize>>): Option<usize> = None,
    /// The most memory in bytes that clients can make the server use: connections, request heads, messages being
    /// received, queued in either direction and being sent, all counted by what is allocated for them. An eighth of it, while
    /// half is not in use, is for buffers of messages of 20 KiB and more that are kept for the next ones for a second or two. New connections
    /// get 503 once three quarters are in use. At seven eighths no more is read from those that hold more than a
    /// 64th of it; at the limit, or when one of these has waited for a second, the connection that holds the most
    /// is shed, with 1013. At least 8 times `max_message_bytes`. Defaults to 32 MiB.
    memory_budget_bytes(usize): usize = 32 * 1024 * 1024,
    /// The longest that a request head may take to arrive; then 408. Defaults to 5 s.
    handshake_timeout(Duration): Duration = Duration::from_secs(5),
    /// The longest request head in bytes; a longer one gets 431, as does one with more than 64 fields. Allocated as it arrives, and kept for
    /// [`Connection::request`](crate::Connection::request). Defaults to 8 KiB.
    max_head_bytes(usize): usize = 8 * 1024,
    /// The longest message taken from a client in bytes; a longer one closes the connection with 1009.
    /// Up to this much, and as much again while fragments are joined, is allocated for a message being
    /// received. Messages sent have no limit. Defaults to 64 KiB.
    max_message_bytes(usize): usize = 64 * 1024,
    /// The most frames that a message may come in; more close the connection with 1008. Empty ones cost a client
    /// nothing. Defaults to 128.
    max_fragments(usize): usize = 128,
    /// The most pings and pongs taken from a client in a second; more close the connection with 1008. Each ping costs
    /// an answer. Defaults to 100.
    max_control_frames_per_second(usize): usize = 100,
    /// How many messages from a client wait for its handler. When they are as many, no more is
    /// read, the kernel's window closes, and the client slows down. Defaults to 16.
    inbound_capacity(usize): usize = 16,
    /// How many messages wait to be sent to a client. When they are as many,
    /// [`write`](crate::Connection::write) waits and [`try_write`](crate::Connection::try_write) gives
    /// the message back. Defaults to 64.
    outbound_capacity(usize): usize = 64,
    /// The longest that a client may take nothing of what is being sent to it; then the connection ends,
    /// unclean. Any progress, down to what its system acknowledges (on Linux), starts the time anew, until the connection is closed: what is left then has this
    /// long in all. Defaults to 10 s.
    write_timeout(Duration): Duration = Duration::from_secs(10),
    /// How often each client is sent a Ping (RFC 6455 5.5.2). `None` sends none: a client that vanished
    /// without a word is then noticed only when something cannot be sent. Defaults to 30 s.
    ping_interval(impl Into<Option<Duration>>): Option<Duration> = Some(Duration::from_secs(30)),
    /// The longest that a client may be silent after a Ping was due; then the connection ends, unclean. Any byte
    /// from it counts as life, and so does what its system acknowledges of what was sent before the Ping (on Linux): a
    /// large message may take long over a thin link. Not longer than `ping_interval`. Defaults to 10 s.
    pong_timeout(Duration): Duration = Duration::from_secs(10),
    /// The longest that a connection is kept on which no message passes in either direction; then it is closed with
    /// 1001, at the latest after half as much again. Pings, pongs and heartbeats are no messages. It gives the place
    /// of those that are forgotten to others. Defaults to 1 h.
    idle_timeout(impl Into<Option<Duration>>): Option<Duration> = Some(Duration::from_secs(60 * 60)),
    /// How often the text message [`HEARTBEAT`] is sent to every client, for pages that
    /// want to see life (a browser does not show its scripts the pings). It does not wait behind queued
    /// messages. Defaults to `None`.
    heartbeat(impl Into<Option<Duration>>): Option<Duration> = None,
    /// The longest that an ended connection may take to part: for the client's Close after ours, its end
    /// of the TCP connection, and the handler's return; then it is dropped. Also the most that the handler
    /// gets to answer what a client sent before its Close. Defaults to 5 s.
    close_timeout(Duration): Duration = Duration::from_secs(5),
    /// The longest that a shutdown waits for connections to part; then they are dropped. Defaults to 10 s.
    drain_timeout(Duration): Duration = Duration::from_secs(10),
}

/// Long enough for anyone, and short enough that no sum of a time and a timeout overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is due more often would keep the thread busy with little else.
pub(crate) const SHORTEST_PERIOD: Duration = Duration::from_millis(10);

impl Config {
    /// Lets web pages of `origin` connect too, beside those of the same host.
    #[must_use]
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        match &mut self.origins {
            Origins::SameHost => self.origins = Origins::Also(vec![origin.into()]),
            Origins::Also(list) => list.push(origin.into()),
            Origins::Any => {}
        }
        self
    }

    /// Lets web pages of any site connect: see [`Origins::Any`].
    #[must_use]
    pub fn allow_any_origin(mut self) -> Self {
        self.origins = Origins::Any;
        self
    }

    /// Sets [`subprotocols`](field@Self::subprotocols).
    #[must_use]
    pub fn subprotocols<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`trusted_proxies`](field@Self::trusted_proxies).
    #[must_use]
    pub fn trusted_proxies(mut self, proxies: impl IntoIterator<Item = TrustedProxy>) -> Self {
        self.trusted_proxies = proxies.into_iter().collect();
        self
    }

    /// Checks all fields, as a server does when it starts.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the first field whose value breaks its rule.
    ///
    /// ```
    /// let error = whit::Config::new().max_message_bytes(0).check().unwrap_err();
    /// assert_eq!(error.to_string(), "max_message_bytes is 0: a message needs room for at least 1 byte, and gets at most 1 GiB");
    /// ```
    pub fn check(&self) -> Result<()> {
        const MIB: usize = 1024 * 1024;
        for (field, value, range, rule) in [
            (
                "max_connections",
                self.max_connections,
                1..=usize::MAX,
                "a server takes at least 1 connection",
            ),
            (
                "max_connections_per_ip",
                self.max_connections_per_ip.unwrap_or(1),
                1..=usize::MAX,
                "an address may have at least 1 connection",
            ),
            (
                "max_head_bytes",
                self.max_head_bytes,
                512..=MIB,
                "a browser's request head needs at least 512 bytes, and none needs more than 1 MiB",
            ),
            (
                "max_message_bytes",
                self.max_message_bytes,
                1..=1024 * MIB,
                "a message needs room for at least 1 byte, and gets at most 1 GiB",
            ),
            (
                "memory_budget_bytes",
                self.memory_budget_bytes,
                self.max_message_bytes.saturating_mul(8).max(MIB)..=usize::MAX,
                "a budget is at least 1 MiB, and at least 8 times max_message_bytes",
            ),
            (
                "max_fragments",
                self.max_fragments,
                1..=usize::MAX,
                "a message has at least 1 frame",
            ),
            (
                "max_control_frames_per_second",
                self.max_control_frames_per_second,
                1..=usize::MAX,
                "a client may at least answer a ping",
            ),
            (
                "inbound_capacity",
                self.inbound_capacity,
                1..=65_536,
                "a queue has room for 1 to 65,536 messages",
            ),
            (
                "outbound_capacity",
                self.outbound_capacity,
                1..=65_536,
                "a queue has room for 1 to 65,536 messages",
            ),
        ] {
            if !range.contains(&value) {
                return Err(bad(field, format_args!("{value}"), rule));
            }
        }

        for (field, value) in [
            ("handshake_timeout", Some(self.handshake_timeout)),
            ("write_timeout", Some(self.write_timeout)),
            ("ping_interval", self.ping_interval),
            ("pong_timeout", Some(self.pong_timeout)),
            ("idle_timeout", self.idle_timeout),
            ("heartbeat", self.heartbeat),
            ("close_timeout", Some(self.close_timeout)),
            ("drain_timeout", Some(self.drain_timeout)),
        ] {
            let Some(value) = value else { continue };
            if value.is_zero() || value > LONGEST {
                return Err(bad(
                    field,
                    format_args!("{}", Time(value)),
                    "a time is longer than zero and at most 365 days",
                ));
            }
        }
        for (field, value) in [
            ("ping_interval", self.ping_interval),
            ("idle_timeout", self.idle_timeout),
            ("heartbeat", self.heartbeat),
        ] {
            if let Some(value) = value.filter(|value| *value < SHORTEST_PERIOD) {
                return Err(bad(
                    field,
                    format_args!("{}", Time(value)),
                    "a period is at least 10 ms",
                ));
            }
        }
        if self
            .ping_interval
            .is_some_and(|interval| self.pong_timeout > interval)
        {
            return Err(bad(
                "pong_timeout",
                format_args!("{}", Time(self.pong_timeout)),
                "it may not be longer than ping_interval, or pings would overtake each other",
            ));
        }

        if let Origins::Also(list) = &self.origins {
            if let Some(origin) = list.iter().find(|origin| !is_origin(origin)) {
                return Err(bad(
                    "origins",
                    format_args!("{origin:?}"),
                    "an origin is a scheme and a host, with a port where it is not the usual one, such as https://example.com:8443",
                ));
            }
        }
        for (i, name) in self.subprotocols.iter().enumerate() {
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                return Err(bad(
                    "subprotocols",
                    format_args!("{name:?}"),
                    "a name is an HTTP token: letters, digits and !#$%&'*+-.^_`|~",
                ));
            }
            if self.subprotocols[..i].contains(name) {
                return Err(bad(
                    "subprotocols",
                    format_args!("{name:?}"),
                    "each name stands once",
                ));
            }
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

fn bad(field: &'static str, value: fmt::Arguments<'_>, rule: &'static str) -> Error {
    Error::Config {
        field,
        value: value.to_string(),
        rule,
    }
}

fn is_origin(origin: &str) -> bool {
    split_scheme(origin).is_some_and(|(scheme, host)| {
        !scheme.is_empty()
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
            && !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte))
    })
}

/// The scheme of a URL, and what comes after the slashes.
pub(crate) fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    Some((scheme, rest.strip_prefix("//")?))
}

/// RFC 9110 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

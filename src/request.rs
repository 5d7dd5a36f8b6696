//! One HTTP/1.1 request head in, under a byte cap (RFC 9112).

use crate::{
    budget::Charge, close::beginning, config::split_scheme, error::Refusal, socket::Socket,
};
use futures_lite::{future, ready};
use httparse::Status;
use std::{fmt, iter, mem::MaybeUninit, net::SocketAddr, ops::Range, task::Poll};

/// More header fields than this get 431. Browsers send about 15.
const MAX_HEADERS: usize = 64;

/// The request that a connection began with, or that a page is asked for.
///
/// It keeps the head as it arrived, up to [`max_head_bytes`](crate::Config::max_head_bytes).
#[derive(Clone, Debug)]
pub struct Request {
    /// Of which it is known that it is well formed. Its fields are looked for when they are asked for: nearly all that are
    /// needed are needed once, and an index of them took more than they did.
    head: Box<str>,
    method: Range<u32>,
    path: Range<u32>,
    target_end: u32,
    /// Where the header fields begin.
    fields: u32,
    http_1_1: bool,
    pub(crate) peer_addr: Option<SocketAddr>,
    pub(crate) subprotocol: Option<Box<str>>,
}

impl Request {
    /// The method, such as `GET`.
    pub fn method(&self) -> &str {
        self.part(&self.method)
    }

    /// The path as it was sent, without the query and with its percent-encoding: `/ws`.
    pub fn path(&self) -> &str {
        self.part(&self.path)
    }

    /// What follows the `?` of the address, as it was sent, or `None` without one.
    pub fn query(&self) -> Option<&str> {
        self.part(&(self.path.end..self.target_end))
            .strip_prefix('?')
    }

    fn part(&self, part: &Range<u32>) -> &str {
        &self.head[part.start as usize..part.end as usize]
    }

    /// The value of the first header field of this name, in any case, or `None`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_values(name).next()
    }

    /// All header fields, name and value, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.head[self.fields as usize..];
        iter::from_fn(move || {
            // An empty line ends them.
            let (name, after) = split_at_byte(rest, b':')?;
            let (value, after) = split_at_byte(after, b'\n')?;
            rest = after;
            Some((name, value.trim_ascii()))
        })
    }

    /// The client's address: the one at the other end of the socket, or, where that is a
    /// [trusted proxy's](field@crate::Config::trusted_proxies), the one that it says its client has, with 0 for the port that it
    /// does not tell. `None` where the socket is not one of the internet.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer_addr
    }

    /// The subprotocol that was agreed on (RFC 6455 1.9), or `None`.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    pub(crate) fn header_values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The members of a list header, which may be spread over several fields (RFC 9110 5.6.1).
    pub(crate) fn header_list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.header_values(name)
            .flat_map(|value| value.split(','))
            .map(|member| member.trim_matches([' ', '\t']))
            .filter(|member| !member.is_empty())
    }

    /// The path as the log shows it: the client has no say in how long a line gets.
    pub(crate) fn shown_path(&self) -> impl fmt::Display {
        beginning(self.path(), 255).escape_debug()
    }

    /// What it keeps allocated, in bytes.
    pub(crate) fn allocated(&self) -> usize {
        self.head.len()
    }

    pub(crate) fn is_http_1_1(&self) -> bool {
        self.http_1_1
    }

    /// Takes the head from the front of `bytes`, with its length; `None` if it is not complete.
    fn parse(
        bytes: &[u8],
        peer_addr: Option<SocketAddr>,
    ) -> Result<Option<(Self, usize)>, Refusal> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut []);
        let len = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(Status::Complete(len)) => len,
            Ok(Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
            Err(error) => return Err(Refusal::BadRequest(what_is_wrong(error))),
        };
        let Ok(head) = std::str::from_utf8(&bytes[..len]) else {
            return Err(Refusal::BadRequest("the request head is not UTF-8"));
        };
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
            return Ok(None);
        };

        let origin_form = match split_scheme(target) {
            _ if target.starts_with('/') => target,
            // A client of a proxy names the whole address (RFC 9112 3.2.2).
            Some(("http" | "https" | "ws" | "wss", rest)) => {
                rest.find(['/', '?', '#']).map_or("", |end| &rest[end..])
            }
            _ => target,
        };
        if !origin_form.starts_with('/') || origin_form.as_bytes().contains(&b'#') {
            return Err(Refusal::BadRequest("the request target is not a path"));
        }
        let path = split_at_byte(origin_form, b'?').map_or(origin_form, |(path, _)| path);
        let hosts = parsed
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("host"));
        if parsed.version == Some(1) && hosts.count() != 1 {
            return Err(Refusal::BadRequest(
                "a request has one Host header (RFC 9112 3.2)",
            ));
        }
        let fields = match parsed.headers {
            [first, ..] => range(head, first.name)?.start,
            [] => range(head, &head[len..])?.start,
        };
        let request = Self {
            method: range(head, method)?,
            path: range(head, path)?,
            target_end: range(head, origin_form)?.end,
            fields,
            http_1_1: parsed.version == Some(1),
            head: head.into(),
            peer_addr,
            subprotocol: None,
        };
        Ok(Some((request, len)))
    }
}

/// What is before the first of these bytes, and what is behind it. A standard search has to look for any character.
fn split_at_byte(text: &str, byte: u8) -> Option<(&str, &str)> {
    debug_assert!(byte.is_ascii());
    let at = text.bytes().position(|other| other == byte)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Where a part of the head is in it.
fn range(head: &str, part: &str) -> Result<Range<u32>, Refusal> {
    let start = part.as_ptr() as usize - head.as_ptr() as usize;
    let place = |at: usize| u32::try_from(at).map_err(|_| Refusal::HeadTooLarge);
    Ok(place(start)?..place(start + part.len())?)
}

fn what_is_wrong(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a header name has a character that it must not have",
        httparse::Error::HeaderValue => "a header value has a character that it must not have",
        httparse::Error::Version => "the version is not HTTP/1.1",
        _ => "this is not an HTTP request",
    }
}

/// A client as the log names it.
pub(crate) struct Peer(pub(crate) Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // As a proxy told it.
            Some(addr) if addr.port() == 0 => addr.ip().fmt(f),
            Some(addr) => addr.fmt(f),
            None => f.write_str("local"),
        }
    }
}

/// Why there is no request.
pub(crate) enum Unread {
    Refused(Refusal),
    /// The client went away before the head was complete.
    Gone,
}

/// Reads a head, and with it what followed in the same reads.
///
/// It is parsed at every read: `max_head_bytes` bounds how often the same bytes can be looked at again.
pub(crate) async fn read(
    socket: &Socket,
    peer_addr: Option<SocketAddr>,
    max_head_bytes: usize,
    charge: &mut Charge,
) -> Result<(Request, Vec<u8>), Unread> {
    /// Nearly every head comes whole, and in one read of so much: then it is nowhere kept but in the request.
    const READ_BYTES: usize = 1024;
    let mut kept = Vec::new();
    future::poll_fn(|cx| {
        loop {
            let mut fresh = [0; READ_BYTES];
            let room = READ_BYTES.min(max_head_bytes - kept.len());
            let fresh = match ready!(socket.poll_read(cx, &mut fresh[..room])) {
                Ok(count @ 1..) => &fresh[..count],
                Ok(0) | Err(_) => return Poll::Ready(Err(Unread::Gone)),
            };
            let mut bytes = fresh;
            if !kept.is_empty() {
                kept.extend(fresh);
                bytes = &kept;
            }
            if let Some((request, len)) =
                Request::parse(bytes, peer_addr).map_err(Unread::Refused)?
            {
                let rest = bytes[len..].to_vec();
                charge.set(request.allocated() + rest.capacity());
                return Poll::Ready(Ok((request, rest)));
            }
            if bytes.len() == max_head_bytes {
                return Poll::Ready(Err(Unread::Refused(Refusal::HeadTooLarge)));
            }
            if kept.is_empty() {
                kept.extend(fresh);
            }
            charge.set(kept.capacity());
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Option<(Request, usize)>, Refusal> {
        Request::parse(head.as_bytes(), None)
    }

    #[test]
    fn parts_of_a_head_are_found() {
        let head = "GET /a/b?x=1&y=%20 HTTP/1.1\r\nHost: pi\r\nConnection: keep-alive, Upgrade\r\nCONNECTION: x\r\n\r\nrest";
        let (request, len) = parse(head).unwrap().unwrap();
        assert_eq!(len, head.len() - "rest".len());
        assert_eq!((request.method(), request.path()), ("GET", "/a/b"));
        assert_eq!(request.query(), Some("x=1&y=%20"));
        assert_eq!(request.header("HOST"), Some("pi"));
        assert_eq!(
            request.header_list("connection").collect::<Vec<_>>(),
            ["keep-alive", "Upgrade", "x"]
        );
    }

    #[test]
    fn fields_are_found_as_they_were_judged() {
        let head = "\r\nGET /?: HTTP/1.1\nHost: \t a:80 \t\r\nEmpty:\r\nX:b: \u{fc}\n\r\n";
        let (request, len) = parse(head).unwrap().unwrap();
        assert_eq!(len, head.len());
        assert_eq!((request.method(), request.query()), ("GET", Some(":")));
        assert_eq!(
            request.headers().collect::<Vec<_>>(),
            [("Host", "a:80"), ("Empty", ""), ("X", "b: \u{fc}")]
        );
    }

    #[test]
    fn an_empty_query_is_one() {
        let query = |target: &str| {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let (request, _) = parse(&head).unwrap().unwrap();
            request.query().map(str::to_owned)
        };
        assert_eq!(query("/"), None);
        assert_eq!(query("/?"), Some(String::new()));
        assert_eq!(query("http://a/b?c?d"), Some("c?d".to_owned()));
    }

    #[test]
    fn a_target_may_name_the_whole_address() {
        let (request, _) = parse("GET http://pi:80/ws?q HTTP/1.1\r\nHost: pi\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!((request.path(), request.query()), ("/ws", Some("q")));
    }

    #[test]
    fn half_a_head_is_waited_for() {
        assert!(parse("GET / HTTP/1.1\r\nHost: pi\r\n").unwrap().is_none());
    }

    #[test]
    fn what_is_not_a_request_is_refused_at_once() {
        for head in [
            "\u{16}\u{3}\u{1}",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nBad Name: b\r\n\r\n",
            "GET ws HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET x?://y/z HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a?b=/c HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a#/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(
                matches!(parse(head), Err(Refusal::BadRequest(_))),
                "{head:?}"
            );
        }
    }

    #[test]
    fn too_many_headers_are_too_large() {
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(MAX_HEADERS)
        );
        assert_eq!(parse(&head).unwrap_err(), Refusal::HeadTooLarge);
    }
}

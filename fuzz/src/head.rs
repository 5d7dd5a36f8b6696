//! A request's head (RFC 9112), and what makes it a handshake (RFC 6455 4.2.1).

use data_encoding::BASE64;
use std::str;

pub struct Head<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub is_http_1_1: bool,
    pub headers: Vec<(&'a str, &'a str)>,
    /// The length in bytes, with the empty line.
    pub len: usize,
}

impl<'a> Head<'a> {
    /// The head in front, if it is whole and as it has to be.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        // 2.2: empty lines in front of it are nothing.
        let mut line = take_line(&mut rest)?;
        while line.is_empty() {
            line = take_line(&mut rest)?;
        }
        // 3: the request line.
        let mut words = line.split(|byte| *byte == b' ');
        let method = token(words.next()?)?;
        let target = text(words.next()?)?;
        let is_http_1_1 = match words.next()? {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return None,
        };
        if words.next().is_some() || target.contains(|c: char| c.is_ascii_control()) {
            return None;
        }
        // 3.2: where it goes. A WebSocket's address can stand there too.
        let address = ["http://", "https://", "ws://", "wss://"]
            .iter()
            .find_map(|scheme| target.strip_prefix(scheme));
        let resource = match address {
            Some(address) => &address[address.find(['/', '?', '#'])?..],
            None => target,
        };
        let (path, query) = match resource.find('?') {
            Some(at) => (&resource[..at], Some(&resource[at + 1..])),
            None => (resource, None),
        };
        if !path.starts_with('/') || resource.contains('#') {
            return None;
        }
        // 5: the fields.
        let mut headers = Vec::new();
        loop {
            let line = take_line(&mut rest)?;
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|byte| *byte == b':')?;
            let value = text(&line[colon + 1..])?.trim_matches([' ', '\t']);
            if value.contains(|c: char| c.is_ascii_control() && c != '\t') {
                return None;
            }
            headers.push((token(&line[..colon])?, value));
        }
        let head = Self {
            method,
            path,
            query,
            is_http_1_1,
            headers,
            len: bytes.len() - rest.len(),
        };
        // 3.2: one Host.
        (!is_http_1_1 || head.values("host").len() == 1).then_some(head)
    }

    pub fn values(&self, name: &str) -> Vec<&'a str> {
        let named = self.headers.iter();
        named
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
            .collect()
    }

    /// The value of a header that stands once.
    pub fn only(&self, name: &str) -> Option<&'a str> {
        match self.values(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// RFC 9110 5.6.1.
    pub fn members(&self, name: &str) -> Vec<&'a str> {
        let values = self.values(name);
        let members = values.iter().flat_map(|value| value.split(','));
        members
            .map(|member| member.trim_matches([' ', '\t']))
            .collect()
    }

    fn names(&self, name: &str, wanted: &str) -> bool {
        let members = self.members(name);
        members
            .iter()
            .any(|member| member.eq_ignore_ascii_case(wanted))
    }

    /// What RFC 6455 4.2.1 demands, but for the Origin. A body, which it does not know, is none.
    pub fn is_handshake(&self) -> bool {
        let key = self.only("sec-websocket-key").unwrap_or_default();
        self.method == "GET"
            && self.is_http_1_1
            && self.names("upgrade", "websocket")
            && self.names("connection", "upgrade")
            && BASE64
                .decode(key.as_bytes())
                // It takes padding within the text, too, as RFC 4648 does not.
                .is_ok_and(|bytes| bytes.len() == 16 && BASE64.encode(&bytes) == key)
            && self.only("sec-websocket-version") == Some("13")
            && self.values("transfer-encoding").is_empty()
            && self.values("content-length").iter().all(|len| *len == "0")
    }

    /// Whether it is of no web page, or of one of the same host, or of `also`.
    pub fn is_of_known_origin(&self, also: Option<&str>) -> bool {
        match self.values("origin")[..] {
            [] => true,
            [origin] => match (origin.split_once("://"), self.only("host")) {
                (Some((scheme, _)), Some(host)) if !scheme.contains(':') => {
                    let same = with_port(origin) == with_port(&format!("{scheme}://{host}"));
                    same || also.is_some_and(|also| with_port(also) == with_port(origin))
                }
                _ => false,
            },
            _ => false,
        }
    }
}

/// An origin in the one way to write it.
fn with_port(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let port = if origin.starts_with("https://") {
        ":443"
    } else {
        ":80"
    };
    if origin.ends_with(port) {
        origin
    } else {
        origin + port
    }
}

/// 2.2: a line feed alone ends a line too.
fn take_line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// RFC 9110 5.6.2.
fn token(bytes: &[u8]) -> Option<&str> {
    let is_token_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let fits = !bytes.is_empty() && bytes.iter().all(is_token_byte);
    text(bytes).filter(|_| fits)
}

fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok()
}

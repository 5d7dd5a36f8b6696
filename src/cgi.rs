//! What a process is told of the request that it is for: the variables of CGI (RFC 3875 4.1), as far as they fit.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};
use whit::Request;

/// Those that are not handed on: secrets (RFC 3875 4.1.18), `Proxy`, which many programs take for their own `HTTP_PROXY`, and
/// those that are of the handshake only.
const WITHHELD: [&str; 11] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "proxy",
    "proxy-authorization",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
];

/// The variables for a request to `route`, which is a path, or the beginning of paths where it ends in `/*`.
pub(crate) fn variables(request: &Request, route: &str) -> Vec<(String, OsString)> {
    let (script, rest) = match route.strip_suffix("/*") {
        Some(script) => request.path().split_at(script.len()),
        None => (request.path(), ""),
    };
    let mut variables = fields(request.headers());
    let mut set = |name: &str, value: OsString| variables.push((name.into(), value));
    set(
        "SERVER_SOFTWARE",
        concat!("whit/", env!("CARGO_PKG_VERSION")).into(),
    );
    // RFC 6455 4.1: a handshake has no lower one, and here no higher one.
    set("SERVER_PROTOCOL", "HTTP/1.1".into());
    set("REQUEST_METHOD", request.method().into());
    set("SCRIPT_NAME", decoded(script));
    set("PATH_INFO", decoded(rest));
    set("QUERY_STRING", request.query().unwrap_or("").into());
    let addr = request.peer_addr();
    // Empty where it is not known, so that none of this process's own environment stands in.
    let host = addr.map(|addr| addr.ip().to_canonical().to_string());
    set("REMOTE_ADDR", host.unwrap_or_default().into());
    let port = addr.map(|addr| addr.port()).filter(|port| *port > 0);
    let port = port.map(|port| port.to_string());
    set("REMOTE_PORT", port.unwrap_or_default().into());
    variables
}

/// `HTTP_` and the name of each header field. A name that has others than letters, digits and hyphens is left out: `X_A` would be
/// taken for `X-A`.
fn fields<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, OsString)> {
    let mut variables: Vec<(String, OsString)> = Vec::new();
    for (field, value) in fields {
        let is_plain = field
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_plain || WITHHELD.iter().any(|held| field.eq_ignore_ascii_case(held)) {
            continue;
        }
        let name = format!("HTTP_{}", field.to_ascii_uppercase().replace('-', "_"));
        match variables.iter_mut().find(|(known, _)| *known == name) {
            // They are one list (RFC 9110 5.3).
            Some((_, values)) => {
                values.push(", ");
                values.push(value);
            }
            None => variables.push((name, value.into())),
        }
    }
    variables
}

/// Without percent-encoding (RFC 3875 4.1.5), but for a zero byte, which no variable can have, and what is not well formed.
fn decoded(path: &str) -> OsString {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%');
        match digits.and_then(hex).filter(|decoded| *decoded != 0) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let value = digit(digits[0])? * 16 + digit(digits[1])?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_as_far_as_they_can_be() {
        for (path, expected) in [
            ("/a%20b", &b"/a b"[..]),
            ("/%e2%82%AC", "/€".as_bytes()),
            ("/%ff", b"/\xff"),
            ("/%00", b"/%00"),
            ("/%2", b"/%2"),
            ("/%", b"/%"),
            ("/%+1", b"/%+1"),
            ("/%%41", b"/%A"),
        ] {
            assert_eq!(decoded(path).into_vec(), expected, "{path}");
        }
    }

    #[test]
    fn secrets_and_odd_names_are_left_out() {
        let request = [
            ("Host", "pi"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("X_Forwarded_For", "192.0.2.2"),
            ("x-forwarded-for", "192.0.2.3"),
            ("Proxy", "http://192.0.2.4/"),
            ("AUTHORIZATION", "Basic eDp5"),
            ("Cookie", "a=b"),
            ("X-A!", "c"),
        ];
        let expected = [
            ("HTTP_HOST".to_owned(), OsString::from("pi")),
            ("HTTP_X_FORWARDED_FOR".into(), "192.0.2.1, 192.0.2.3".into()),
        ];
        assert_eq!(fields(request.into_iter()), expected);
    }
}

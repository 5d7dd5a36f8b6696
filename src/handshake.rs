//! What a request head gets: the upgrade to a WebSocket, a page, or the right refusal (RFC 6455 4.2).

use crate::{
    close::beginning,
    config::{Config, Origins, split_scheme},
    connection::Handler,
    error::Refusal,
    request::Request,
    response::Response,
    route::Routes,
};
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use std::panic::{self, AssertUnwindSafe};

/// What to do with a request.
pub(crate) enum Verdict {
    /// Answer with these bytes and become a connection of this handler's.
    Upgrade {
        handler: Handler,
        answer: String,
    },
    Answer(Response),
    /// The same, for one that the guard turns away.
    Guarded(Response),
}

/// Notes in the request which subprotocol is agreed on.
pub(crate) fn judge(
    request: &mut Request,
    routes: &Routes,
    config: &Config,
) -> Result<Verdict, Refusal> {
    let handler = routes.handlers.find(request.path());
    let page = routes.pages.find(request.path());
    let fields = Fields::of(request);

    match (handler, page) {
        (Some((_, handler)), _) if fields.upgrades => {
            let key = check_upgrade(request, &fields, config)?;
            let accept_key = derive_accept_key(key.as_bytes());
            request.subprotocol = choose_subprotocol(request, config).map(Into::into);
            if let Some(guard) = &routes.guard {
                if let Err(response) = ask("guard", request, || guard(request))? {
                    return Ok(Verdict::Guarded(response));
                }
            }
            let mut answer = String::with_capacity(256);
            answer += "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
            answer += &accept_key;
            answer += "\r\n";
            if let Some(name) = request.subprotocol() {
                answer += "Sec-WebSocket-Protocol: ";
                answer += name;
                answer += "\r\n";
            }
            answer += "\r\n";
            Ok(Verdict::Upgrade {
                handler: handler.clone(),
                answer,
            })
        }
        (Some((fit, _)), page) if page.is_none_or(|(page_fit, _)| page_fit < fit) => {
            Err(match request.method() {
                "GET" => Refusal::NotAnUpgrade {
                    url: websocket_url(request),
                },
                _ => Refusal::MethodNotAllowed("GET"),
            })
        }
        (_, Some((_, page))) => match request.method() {
            "GET" | "HEAD" => ask("page", request, || page(request)).map(Verdict::Answer),
            _ => Err(Refusal::MethodNotAllowed("GET, HEAD")),
        },
        (_, None) => Err(Refusal::NotFound),
    }
}

/// Asks a function of the user's, which may panic.
fn ask<T>(
    what: &'static str,
    request: &Request,
    function: impl FnOnce() -> T,
) -> Result<T, Refusal> {
    panic::catch_unwind(AssertUnwindSafe(function)).map_err(|_| {
        log::error!("the {what} at {} panicked", request.shown_path());
        Refusal::Panicked(what)
    })
}

/// What a request says in those of its fields that a handshake has to do with, found in one look at all of them.
#[derive(Default)]
struct Fields<'a> {
    host: Field<'a>,
    /// `Upgrade` names the WebSocket.
    upgrades: bool,
    /// `Connection` names the upgrade.
    connects: bool,
    version: Field<'a>,
    key: Field<'a>,
    origin: Field<'a>,
    /// Bytes follow that are not a head of their own.
    has_body: bool,
}

/// A field that should be there once.
#[derive(Default)]
struct Field<'a> {
    first: Option<&'a str>,
    repeated: bool,
}

impl<'a> Field<'a> {
    fn add(&mut self, value: &'a str) {
        self.repeated = self.first.is_some();
        self.first.get_or_insert(value);
    }

    fn only(&self) -> Option<&'a str> {
        self.first.filter(|_| !self.repeated)
    }
}

impl<'a> Fields<'a> {
    fn of(request: &'a Request) -> Self {
        let mut fields = Self::default();
        for (name, value) in request.headers() {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("host") {
                fields.host.add(value);
            } else if is("upgrade") {
                fields.upgrades |= has_member(value, "websocket");
            } else if is("connection") {
                fields.connects |= has_member(value, "upgrade");
            } else if is("sec-websocket-version") {
                fields.version.add(value);
            } else if is("sec-websocket-key") {
                fields.key.add(value);
            } else if is("origin") {
                fields.origin.add(value);
            } else if is("transfer-encoding") || is("content-length") && value != "0" {
                fields.has_body = true;
            }
        }
        fields
    }
}

/// Whether a list has this member, in any case (RFC 9110 5.6.1).
fn has_member(list: &str, member: &str) -> bool {
    list.as_bytes()
        .split(|byte| *byte == b',')
        .any(|other| other.trim_ascii().eq_ignore_ascii_case(member.as_bytes()))
}

/// Checks what RFC 6455 4.2.1 demands of a handshake, and who it is from. Gives its key.
fn check_upgrade<'a>(
    request: &Request,
    fields: &Fields<'a>,
    config: &Config,
) -> Result<&'a str, Refusal> {
    if request.method() != "GET" {
        return Err(Refusal::MethodNotAllowed("GET"));
    }
    if !request.is_http_1_1() {
        return Err(Refusal::BadRequest(
            "a WebSocket handshake is HTTP/1.1 (RFC 6455 4.1)",
        ));
    }
    if !fields.connects {
        return Err(Refusal::BadRequest(
            "the Connection header lacks Upgrade: a proxy on the way may have dropped it (RFC 6455 4.2.1)",
        ));
    }
    if fields.version.only() != Some("13") {
        return Err(Refusal::WrongVersion);
    }
    if fields.has_body {
        return Err(Refusal::BadRequest("a WebSocket handshake has no body"));
    }
    if !origin_may_connect(fields, config) {
        return Err(Refusal::ForeignOrigin);
    }
    fields
        .key
        .only()
        .filter(|key| is_key(key))
        .ok_or(Refusal::BadRequest(
            "a WebSocket handshake has one Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455 4.1)",
        ))
}

/// 16 bytes in base64 are 22 characters, of which the last has 4 bits that say nothing, and two signs of padding.
fn is_key(key: &str) -> bool {
    key.strip_suffix("==").is_some_and(|digits| {
        digits.len() == 22
            && digits
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
            && digits.ends_with(['A', 'Q', 'g', 'w'])
    })
}

fn origin_may_connect(fields: &Fields<'_>, config: &Config) -> bool {
    let Some(origin) = fields.origin.first else {
        return true;
    };
    let same_host = || match (fields.host.first, split_scheme(origin)) {
        (Some(host), Some((scheme, origin_host))) => {
            let port = default_port(scheme);
            without_port(host, port).eq_ignore_ascii_case(without_port(origin_host, port))
        }
        _ => false,
    };
    match &config.origins {
        Origins::Any => true,
        _ if fields.origin.repeated => false,
        Origins::SameHost => same_host(),
        Origins::Also(list) => {
            same_host() || list.iter().any(|listed| is_same_origin(listed, origin))
        }
    }
}

fn is_same_origin(one: &str, other: &str) -> bool {
    match (split_scheme(one), split_scheme(other)) {
        (Some((scheme, host)), Some((other_scheme, other_host))) => {
            let port = default_port(scheme);
            scheme.eq_ignore_ascii_case(other_scheme)
                && without_port(host, port).eq_ignore_ascii_case(without_port(other_host, port))
        }
        _ => false,
    }
}

fn default_port(scheme: &str) -> &'static str {
    if scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else {
        ":80"
    }
}

fn without_port<'a>(host: &'a str, port: &str) -> &'a str {
    host.strip_suffix(port).unwrap_or(host)
}

/// The first name of ours that the client offers.
fn choose_subprotocol<'a>(request: &Request, config: &'a Config) -> Option<&'a str> {
    config.subprotocols.iter().map(String::as_str).find(|name| {
        request
            .header_list("sec-websocket-protocol")
            .any(|offered| offered == *name)
    })
}

/// The WebSocket address of what was asked for, as the client knows this server, as far as a hint needs it.
fn websocket_url(request: &Request) -> String {
    let host = request.header("host").unwrap_or("HOST");
    format!(
        "ws://{}{}",
        beginning(host, 255),
        beginning(request.path(), 255),
    )
}

//! Any bytes as a request: what is taken for one, which of them are handshakes, and what is answered.
#![no_main]

use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Status};
use libfuzzer_sys::fuzz_target;
use sha1::{Digest, Sha1};
use whit::{
    Config,
    fuzzing::{self, Answer},
};
use whit_fuzz::{Input, head::Head};

const SUBPROTOCOLS: [&str; 2] = ["v2.chat", "chat"];
const ORIGIN: &str = "https://example.com";
const MAX_HEADERS: usize = 64;

#[derive(Clone, Copy)]
enum Origins {
    SameHost,
    Any,
    Also,
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let origins = input.one_of(&[Origins::SameHost, Origins::Any, Origins::Also]);
    let max_head_bytes = input.one_of(&[8192, 512]);
    let cuts = input.cuts();
    let bytes = input.rest();
    let config = Config::new()
        .max_head_bytes(max_head_bytes)
        .subprotocols(SUBPROTOCOLS);
    let config = match origins {
        Origins::SameHost => config,
        Origins::Any => config.allow_any_origin(),
        Origins::Also => config.allow_origin(ORIGIN),
    };

    let answer = fuzzing::answer(cuts.cut(bytes), &config);
    assert_same(&answer, &fuzzing::answer([bytes], &config));

    let fits = |head: &Head<'_>| head.len <= max_head_bytes && head.headers.len() <= MAX_HEADERS;
    let head = Head::read(bytes).filter(fits);
    match (&head, &answer.request) {
        (None, None) => assert!(!answer.upgraded),
        (Some(head), Some(request)) => {
            assert_eq!(head.method, request.method());
            assert_eq!(head.path, request.path());
            assert_eq!(head.query, request.query());
            assert_eq!(head.headers, request.headers().collect::<Vec<_>>());
            assert!(bytes[head.len..].starts_with(&answer.rest));
            let is_of_known_origin = match origins {
                Origins::Any => true,
                Origins::SameHost => head.is_of_known_origin(None),
                Origins::Also => head.is_of_known_origin(Some(ORIGIN)),
            };
            let upgrades =
                ["/ws", "/both"].contains(&head.path) && head.is_handshake() && is_of_known_origin;
            assert_eq!(answer.upgraded, upgrades);
        }
        (Some(_), None) => panic!("a request is refused"),
        (None, Some(_)) => panic!("what is not a request is taken for one"),
    }
    if let Some(bytes) = &answer.bytes {
        check_answer(bytes, answer.upgraded, head.as_ref());
    }
});

/// However the bytes come, they get the same.
fn assert_same(cut: &Answer, whole: &Answer) {
    assert_eq!(cut.upgraded, whole.upgraded);
    assert_eq!(cut.bytes, whole.bytes);
    match (&cut.request, &whole.request) {
        (None, None) => {}
        (Some(cut), Some(whole)) => {
            assert_eq!(cut.method(), whole.method());
            assert_eq!((cut.path(), cut.query()), (whole.path(), whole.query()));
            assert!(cut.headers().eq(whole.headers()));
        }
        _ => panic!("it depends on the reads whether it is a request"),
    }
}

/// One HTTP answer, in which nothing but the body has words of the client's.
fn check_answer(bytes: &[u8], upgraded: bool, head: Option<&Head<'_>>) {
    let mut headers = [EMPTY_HEADER; 16];
    let mut answer = httparse::Response::new(&mut headers);
    let len = match answer.parse(bytes) {
        Ok(Status::Complete(len)) => len,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    };
    let body = &bytes[len..];
    let header = |name| {
        let mut named = answer.headers.iter().filter(|header| header.name == name);
        let value = named
            .next()
            .map(|header| str::from_utf8(header.value).unwrap());
        assert!(named.next().is_none(), "{name} stands once");
        value
    };
    let names = answer.headers.iter().map(|header| header.name);
    let status = answer.code.unwrap();
    assert_eq!(upgraded, status == 101);
    if let Some(head) = head.filter(|_| upgraded) {
        let key = head.only("sec-websocket-key").unwrap();
        let accept = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
        assert_eq!(
            header("Sec-WebSocket-Accept"),
            Some(&*BASE64.encode(&accept))
        );
        let offered = head.members("sec-websocket-protocol");
        let chosen = SUBPROTOCOLS.into_iter().find(|name| offered.contains(name));
        assert_eq!(header("Sec-WebSocket-Protocol"), chosen);
        assert_eq!(header("Upgrade"), Some("websocket"));
        assert_eq!(header("Connection"), Some("Upgrade"));
        assert_eq!(names.count(), 3 + usize::from(chosen.is_some()));
        assert!(body.is_empty());
        return;
    }

    let more: &[&str] = match status {
        200 | 400 | 403 | 404 | 431 => &[],
        405 => &["Allow"],
        426 => &["Upgrade", "Sec-WebSocket-Version"],
        status => panic!("status {status}"),
    };
    let known = [
        "Content-Type",
        "Connection",
        "Content-Length",
        "X-Content-Type-Options",
    ];
    let known: Vec<_> = [&known, more].concat();
    assert_eq!(names.count(), known.len());
    for name in known {
        assert!(header(name).is_some(), "{name} is missing");
    }
    assert_eq!(header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(header("X-Content-Type-Options"), Some("nosniff"));
    assert!(header("Connection").unwrap().ends_with("close"));
    if head.is_some_and(|head| head.method == "HEAD") {
        assert!(body.is_empty());
    } else {
        assert_eq!(header("Content-Length").unwrap().parse(), Ok(body.len()));
    }
}

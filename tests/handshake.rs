//! Who becomes a connection, with what, and what everyone else is told (RFC 6455 4.2).

mod support;

use async_channel::unbounded;
use std::rc::Rc;
use support::{Raw, echo, handshake, handshake_with};
use whit::{Closed, Config, Connection, Message, Request, Response, Server, testing};

/// The answer to this head, whole if it is a refusal.
async fn answer(server: &testing::TestServer, head: &str) -> String {
    let mut raw = Raw::new(server);
    raw.send(head).await;
    let answer = raw.read_head().await;
    if answer.starts_with("HTTP/1.1 101 ") {
        answer
    } else {
        answer + &raw.read_answer().await
    }
}

async fn status(server: &testing::TestServer, head: &str) -> String {
    answer(server, head).await["HTTP/1.1 ".len()..][..3].to_owned()
}

#[test]
fn a_good_handshake_is_answered_as_the_rfc_says() {
    testing::run(Server::new().route("/ws", echo), |server| async move {
        let answer = answer(&server, &handshake("/ws")).await;
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    });
}

#[test]
fn names_and_tokens_match_in_any_case_and_in_lists() {
    let head = "GET /ws HTTP/1.1\r\nhost:test\r\nUPGRADE: h2c, WebSocket\r\nconnection: keep-alive , UPGRADE\r\n\
                sec-websocket-version:  13 \r\nSEC-WEBSOCKET-KEY: dGhlIHNhbXBsZSBub25jZQ== \r\n\r\n";
    testing::run(Server::new().route("/ws", echo), move |server| async move {
        assert_eq!(status(&server, head).await, "101");
    });
}

#[test]
fn what_is_not_a_good_handshake_is_told_why() {
    let good = handshake("/ws");
    let cases = [
        ("426", good.replace("Upgrade: websocket\r\n", "")),
        ("426", good.replace("Version: 13", "Version: 8")),
        ("426", good.replace("Sec-WebSocket-Version: 13\r\n", "")),
        ("426", handshake_with("/ws", "Sec-WebSocket-Version: 8\r\n")),
        // A wide space is no white space of HTTP's.
        ("426", good.replace(": websocket", ": \u{3000}websocket")),
        ("400", good.replace("Connection: Upgrade\r\n", "")),
        (
            "400",
            good.replace("Connection: Upgrade\r\n", "Connection: close\r\n"),
        ),
        (
            "400",
            good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        ),
        (
            "400",
            good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dG9vIHNob3J0"),
        ),
        (
            "400",
            good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR=="),
        ),
        (
            "400",
            good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub2Q=5Zs="),
        ),
        (
            "400",
            handshake_with("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        ),
        ("400", handshake_with("/ws", "Content-Length: 5\r\n")),
        (
            "400",
            handshake_with("/ws", "Transfer-Encoding: chunked\r\n"),
        ),
        ("400", good.replace("HTTP/1.1", "HTTP/1.0")),
        ("400", good.replace("Host: test\r\n", "")),
        ("400", good.replace("GET", "GET GET")),
        ("404", handshake("/nothing")),
        ("404", handshake("/ws/")),
        ("405", good.replace("GET", "POST")),
    ];
    testing::run(Server::new().route("/ws", echo), |server| async move {
        for (expected, head) in cases {
            let answer = answer(&server, &head).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {expected} ")),
                "{head}\n{answer}"
            );
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            assert!(
                body.starts_with(&format!("{expected} ")) && body.len() > 20,
                "{answer}"
            );
            assert_eq!(
                expected == "426",
                answer.contains("Sec-WebSocket-Version: 13\r\n"),
                "{answer}"
            );
            assert_eq!(
                expected == "405",
                answer.contains("Allow: GET\r\n"),
                "{answer}"
            );
        }
    });
}

#[test]
fn a_plain_get_is_told_what_the_address_is_for() {
    testing::run(Server::new().route("/ws", echo), |server| async move {
        let answer = answer(&server, "GET /ws HTTP/1.1\r\nHost: pi.local:7777\r\n\r\n").await;
        assert!(
            answer.contains("connect to ws://pi.local:7777/ws"),
            "{answer}"
        );
    });
}

#[test]
fn pages_of_other_sites_may_not_connect() {
    let with = |origin: &str| handshake_with("/ws", &format!("Origin: {origin}\r\n"));
    let cases = [
        ("101", handshake("/ws")),
        ("101", with("http://test")),
        ("101", with("https://TEST")),
        ("101", with("http://test:80")),
        ("101", with("https://test:443")),
        ("403", with("http://test:8080")),
        ("403", with("http://evil.example")),
        ("403", with("http://test.evil.example")),
        ("403", with("null")),
        ("403", with("")),
        (
            "403",
            handshake_with(
                "/ws",
                "Origin: http://test\r\nOrigin: http://evil.example\r\n",
            ),
        ),
    ];
    testing::run(Server::new().route("/ws", echo), |server| async move {
        for (expected, head) in cases {
            assert_eq!(status(&server, &head).await, expected, "{head}");
        }
    });
}

#[test]
fn pages_of_listed_sites_may_connect_beside_those_of_the_host() {
    let config = Config::new()
        .allow_origin("https://friend.example")
        .allow_origin("http://other.example:81");
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            for (expected, origin) in [
                ("101", "http://test"),
                ("101", "https://friend.example"),
                ("101", "https://Friend.example:443"),
                ("101", "http://other.example:81"),
                ("403", "http://friend.example"),
                ("403", "http://other.example"),
                ("403", "https://evil.example"),
            ] {
                let head = handshake_with("/ws", &format!("Origin: {origin}\r\n"));
                assert_eq!(status(&server, &head).await, expected, "{origin}");
            }
        },
    );
}

#[test]
fn any_site_may_connect_where_that_is_asked_for() {
    let config = Config::new().allow_any_origin();
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            assert_eq!(
                status(
                    &server,
                    &handshake_with("/ws", "Origin: http://evil.example\r\n")
                )
                .await,
                "101"
            );
        },
    );
}

#[test]
fn the_servers_first_subprotocol_that_is_offered_is_chosen() {
    async fn tell(conn: Connection) -> Result<(), Closed> {
        conn.write(conn.request().subprotocol().unwrap_or("none"))
            .await
    }
    let config = Config::new().subprotocols(["v2", "v1"]);
    testing::run(
        Server::new().config(config).route("/ws", tell),
        |server| async move {
            for (offered, chosen) in [
                (Some("v1, v2"), Some("v2")),
                (Some("v1"), Some("v1")),
                (Some("V2, v3"), None),
                (None, None),
            ] {
                let headers: Vec<_> = offered
                    .map(|offered| ("Sec-WebSocket-Protocol", offered))
                    .into_iter()
                    .collect();
                // The client insists on a choice, which is its own affair: the raw answer tells.
                let more: String = headers
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}\r\n"))
                    .collect();
                let answer = answer(&server, &handshake_with("/ws", &more)).await;
                match chosen {
                    Some(chosen) => {
                        assert!(
                            answer.contains(&format!("Sec-WebSocket-Protocol: {chosen}\r\n")),
                            "{answer}"
                        );
                        let mut client = server.connect_with("/ws", &headers).await.unwrap();
                        assert_eq!(client.subprotocol(), Some(chosen));
                        assert_eq!(client.read().await.unwrap(), Message::from(chosen));
                    }
                    None => assert!(!answer.contains("Sec-WebSocket-Protocol"), "{answer}"),
                }
            }
        },
    );
}

#[test]
fn the_handler_sees_the_request() {
    let (seen, reports) = unbounded();
    let seen = Rc::new(seen);
    let server = Server::new().route("/rooms/*", move |conn: Connection| {
        seen.try_send(conn).unwrap();
        async { Ok::<_, Closed>(()) }
    });
    testing::run(server, |server| async move {
        let _client = server
            .connect_with("/rooms/attic?name=M%C3%BC", &[("X-Colour", "red")])
            .await
            .unwrap();
        let conn = reports.recv().await.unwrap();
        let request = conn.request();
        assert_eq!((request.method(), request.path()), ("GET", "/rooms/attic"));
        assert_eq!(request.query(), Some("name=M%C3%BC"));
        assert_eq!(request.header("x-colour"), Some("red"));
        assert_eq!(request.header("x-taste"), None);
        assert!(
            request
                .headers()
                .any(|(name, value)| (name, value) == ("Host", "test"))
        );
        assert_eq!(request.peer_addr(), None, "in memory");

        let _client = server.connect_tcp("/rooms/").await.unwrap();
        let conn = reports.recv().await.unwrap();
        assert!(conn.request().peer_addr().unwrap().ip().is_loopback());
    });
}

#[test]
fn the_guard_judges_handshakes_that_are_in_order() {
    fn guard(request: &Request) -> Result<(), Response> {
        match request.query() {
            Some("panic") => panic!("as it should"),
            Some("in") => Ok(()),
            _ => Err(Response::new(401, "text/plain", "who?").header("WWW-Authenticate", "Bearer")),
        }
    }

    let server = Server::new().route("/ws", echo).guard(guard);
    let server = server.page("/", |_| Response::text("free for all"));
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let refused = answer(&server, &handshake("/ws")).await;
        assert!(
            refused.starts_with("HTTP/1.1 401 Unauthorized\r\n")
                && refused.contains("\r\nWWW-Authenticate: Bearer\r\n")
                && refused.ends_with("\r\n\r\nwho?"),
            "{refused}"
        );
        assert_eq!(status(&server, &handshake("/ws?panic")).await, "500");
        assert_eq!(status(&server, &handshake("/ws?in")).await, "101");
        let wrong = handshake("/ws").replace("Version: 13", "Version: 8");
        assert_eq!(status(&server, &wrong).await, "426");
        let page = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
        assert_eq!(status(&server, page).await, "200");
        assert_eq!(
            stats.snapshot().refused,
            [(401, 1), (426, 1), (500, 1)].into()
        );
    });
}

#[test]
fn the_guard_sees_the_subprotocol_that_is_chosen() {
    fn guard(request: &Request) -> Result<(), Response> {
        match request.subprotocol() {
            Some("v1") => Ok(()),
            _ => Err(Response::new(400, "text/plain", "it takes v1\n")),
        }
    }

    let config = Config::new().subprotocols(["v2", "v1"]);
    let server = Server::new().config(config).route("/ws", echo).guard(guard);
    testing::run(server, |server| async move {
        for (offered, is_let_in) in [("v3, v1", true), ("v1, v2", false), ("v3", false)] {
            let headers = [("Sec-WebSocket-Protocol", offered)];
            let client = server.connect_with("/ws", &headers).await;
            assert_eq!(client.is_ok(), is_let_in, "{offered}: {client:?}");
        }
        assert_eq!(server.connect("/ws").await.unwrap_err().status, 400);
    });
}

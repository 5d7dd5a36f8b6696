//! Plain HTTP on the same port: pages, and clear answers to everything else.

mod support;

use std::time::Duration;
use support::{Raw, echo, handshake};
use whit::{Config, Response, Server, testing};

async fn ask(server: &testing::TestServer, head: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::new(server);
    raw.send(head).await;
    raw.read_answer().await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

fn server() -> Server {
    Server::new()
        .page("/", |_| Response::html("<p>front"))
        .page("/files/*", |request| {
            Response::text(request.path().to_owned())
        })
        .route("/ws", echo)
}

#[test]
fn a_page_is_answered_whole_and_then_the_stream_ends() {
    testing::run(server(), |server| async move {
        assert_eq!(
            ask(&server, get("/")).await,
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n\
             Content-Length: 8\r\nX-Content-Type-Options: nosniff\r\n\r\n<p>front"
        );
        assert!(ask(&server, get("/?x=1")).await.ends_with("<p>front"));
        assert!(
            ask(&server, get("/files/a/b"))
                .await
                .ends_with("\r\n\r\n/files/a/b")
        );
        assert!(
            ask(&server, "GET / HTTP/1.0\r\n\r\n")
                .await
                .ends_with("<p>front")
        );
    });
}

#[test]
fn head_gets_the_head_alone() {
    testing::run(server(), |server| async move {
        let answer = ask(&server, get("/").replace("GET", "HEAD")).await;
        assert!(
            answer.contains("Content-Length: 8\r\n") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    });
}

#[test]
fn head_gets_no_body_with_a_refusal_either() {
    testing::run(server(), |server| async move {
        for (path, status) in [("/nothing", "404"), ("/ws", "405")] {
            let answer = ask(&server, get(path).replace("GET", "HEAD")).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with("\r\n\r\n"),
                "{answer}"
            );
        }
    });
}

#[test]
fn what_is_not_there_is_404_and_what_cannot_be_done_405() {
    testing::run(server(), |server| async move {
        assert!(
            ask(&server, get("/nothing"))
                .await
                .starts_with("HTTP/1.1 404 Not Found\r\n")
        );
        assert!(
            ask(&server, get("/files"))
                .await
                .starts_with("HTTP/1.1 404 ")
        );
        let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc";
        let answer = ask(&server, post).await;
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("Allow: GET, HEAD\r\n"),
            "{answer}"
        );
    });
}

#[test]
fn what_a_client_says_of_itself_is_not_told_back_at_length() {
    testing::run(server(), |server| async move {
        let long = "x".repeat(7000);
        let head = format!("GET /ws HTTP/1.1\r\nHost: {long}\r\n\r\n");
        let answer = ask(&server, head).await;
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        assert!(answer.len() < 2000, "{}", answer.len());
    });
}

#[test]
fn a_path_can_have_a_page_and_a_route() {
    let server = Server::new()
        .page("/", |_| Response::text("page"))
        .route("/", echo);
    testing::run(server, |server| async move {
        assert!(ask(&server, get("/")).await.ends_with("page"));
        assert!(server.connect("/").await.is_ok());
    });
}

#[test]
fn the_more_specific_of_a_page_and_a_route_answers_a_plain_request() {
    let server = Server::new()
        .page("/*", |_| Response::text("everywhere"))
        .route("/ws", echo)
        .route("/deep/*", echo)
        .page("/deep/page", |_| Response::text("deep"));
    testing::run(server, |server| async move {
        assert!(ask(&server, get("/any")).await.ends_with("everywhere"));
        assert!(ask(&server, get("/ws")).await.starts_with("HTTP/1.1 426 "));
        assert!(ask(&server, get("/deep/page")).await.ends_with("deep"));
        assert!(
            ask(&server, get("/deep/other"))
                .await
                .starts_with("HTTP/1.1 426 ")
        );
    });
}

#[test]
fn a_page_that_panics_is_500_and_harms_nothing_else() {
    let server = server().page("/broken", |_| panic!("it went very wrong"));
    testing::run(server, |server| async move {
        assert!(
            ask(&server, get("/broken"))
                .await
                .starts_with("HTTP/1.1 500 ")
        );
        assert!(ask(&server, get("/")).await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn what_is_not_http_gets_400_at_once() {
    testing::run(server(), |server| async move {
        let hello_of_tls = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        for bytes in [
            &hello_of_tls[..],
            b"SSH-2.0-x\r\n",
            b"GET / HTTP/3.0\r\n\r\n",
            b"\xff\xff",
        ] {
            let answer = ask(&server, bytes).await;
            assert!(
                answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
                "{answer}"
            );
        }
    });
}

#[test]
fn a_head_that_does_not_arrive_in_time_gets_408() {
    let config = Config::new().handshake_timeout(Duration::from_millis(20));
    testing::run(server().config(config), |server| async move {
        for half in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: test\r\n"] {
            let answer = ask(&server, half).await;
            assert!(
                answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
                "{answer}"
            );
        }
    });
}

#[test]
fn a_head_too_large_gets_431() {
    let config = Config::new().max_head_bytes(1000);
    testing::run(server().config(config), |server| async move {
        let head = |bytes| {
            format!(
                "GET / HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n",
                "x".repeat(bytes)
            )
        };
        assert!(ask(&server, head(900)).await.starts_with("HTTP/1.1 200 "));
        assert!(ask(&server, head(1000)).await.starts_with("HTTP/1.1 431 "));
        // Without an end, too.
        assert!(
            ask(&server, "x".repeat(5000))
                .await
                .starts_with("HTTP/1.1 431 ")
        );
        let many = format!(
            "GET / HTTP/1.1\r\nHost: test\r\n{}\r\n",
            "A:b\r\n".repeat(100)
        );
        assert!(ask(&server, many).await.starts_with("HTTP/1.1 431 "));
    });
}

#[test]
fn clients_that_go_away_in_mid_request_harm_no_one() {
    testing::run(server(), |server| async move {
        drop(Raw::new(&server));
        let mut raw = Raw::new(&server);
        raw.send("GET / HTTP/1.1\r\n").await;
        drop(raw);
        let mut raw = Raw::new(&server);
        raw.send(handshake("/ws")).await;
        drop(raw);
        assert!(ask(&server, get("/")).await.starts_with("HTTP/1.1 200 "));
    });
}

//! Every close says who closed and why, and loses nothing that was accepted.

mod support;

use async_channel::{Receiver, Sender, unbounded};
use futures_lite::{AsyncReadExt, StreamExt, future};
use std::{cell::RefCell, rc::Rc, time::Duration};
use support::{
    BINARY, CLOSE, CONTINUATION, PING, PONG, Raw, TEXT, close_payload, echo, fragment, frame,
    frame_with,
};
use whit::{
    CloseCode, Closed, ClosedBy, Config, Connection, Message, Server, TryWriteError, testing,
};

const SHORT: Duration = Duration::from_millis(20);

/// A channel that handlers tell the test things through.
fn report<T>() -> (Rc<Sender<T>>, Receiver<T>) {
    let (sender, receiver) = unbounded();
    (Rc::new(sender), receiver)
}

/// An echo server that reports how each connection was closed.
fn reporting_echo(config: Config) -> (Server, Receiver<Closed>) {
    let (ends, ended) = report();
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let ends = ends.clone();
            async move {
                let Err(closed) = echo(conn).await else {
                    unreachable!("it echoes until it is closed")
                };
                ends.try_send(closed.clone()).unwrap();
                Err::<(), _>(closed)
            }
        });
    (server, ended)
}

#[test]
fn queued_messages_are_sent_before_the_close_and_its_reason() {
    async fn farewell(conn: Connection) -> Result<(), Closed> {
        for text in ["1", "2", "3"] {
            conn.write(text).await?;
        }
        conn.close(CloseCode::new(4001).unwrap(), "good bye");
        Ok(())
    }
    testing::run(Server::new().route("/ws", farewell), |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        for payload in [b"1", b"2", b"3"] {
            assert_eq!(raw.read_frame().await, (TEXT, payload.to_vec()));
        }
        assert_eq!(raw.read_close().await, (4001, "good bye".into()));
        raw.send(frame(CLOSE, close_payload(4001, ""))).await;
        raw.expect_end().await;
    });
}

#[test]
fn the_first_close_counts() {
    let (seen, reports) = report();
    let server = Server::new().route("/ws", move |conn: Connection| {
        let seen = seen.clone();
        async move {
            assert_eq!(conn.close_reason(), None);
            conn.close(CloseCode::GOING_AWAY, "first");
            conn.close(CloseCode::NORMAL, "second");
            seen.try_send((conn.closed().await, conn.close_reason()))
                .unwrap();
            Err::<(), _>("an error after the close")
        }
    });
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        assert_eq!(raw.read_close().await, (1001, "first".into()));
        let (closed, reason) = reports.recv().await.unwrap();
        assert_eq!(
            (closed.by(), closed.code(), closed.reason()),
            (ClosedBy::Local, CloseCode::GOING_AWAY, "first")
        );
        assert!(closed.is_clean());
        assert_eq!(reason, Some(closed));
    });
}

#[test]
fn after_a_close_reads_and_writes_fail_at_once() {
    let (seen, reports) = report();
    let server = Server::new().route("/ws", move |conn: Connection| {
        let seen = seen.clone();
        async move {
            conn.close(CloseCode::NORMAL, "");
            let read = conn.read().await.map(drop);
            let write = conn.write("for nobody").await;
            let try_write = conn.try_write("for nobody");
            let streamed = conn.clone().next().await;
            seen.try_send((read, write, try_write, streamed)).unwrap();
            Ok::<_, Closed>(())
        }
    });
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        let (read, write, try_write, streamed) = reports.recv().await.unwrap();
        let closed = read.unwrap_err();
        assert_eq!(
            (closed.by(), closed.code()),
            (ClosedBy::Local, CloseCode::NORMAL)
        );
        assert_eq!(write, Err(closed));
        assert_eq!(
            try_write,
            Err(TryWriteError::Closed(Message::from("for nobody")))
        );
        assert_eq!(streamed, None);
        assert_eq!(raw.read_close().await, (1000, String::new()));
    });
}

#[test]
fn a_close_wakes_a_waiting_read_and_a_waiting_write() {
    let (seen, reports) = report();
    let config = Config::new().outbound_capacity(1);
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let seen = seen.clone();
            async move {
                let reading = async { conn.read().await.unwrap_err() };
                let writing = async {
                    loop {
                        if let Err(closed) = conn.write(vec![0; 100_000]).await {
                            return closed;
                        }
                    }
                };
                let closing = async {
                    // The others were polled before, and wait.
                    future::yield_now().await;
                    conn.close(CloseCode::NORMAL, "enough");
                };
                let ((read, write), ()) = future::zip(future::zip(reading, writing), closing).await;
                seen.try_send((read, write)).unwrap();
                Ok::<_, Closed>(())
            }
        });
    testing::run(server, |server| async move {
        let _raw = Raw::open_holding(&server, "/ws", 1000).await;
        let (read, write) = reports.recv().await.unwrap();
        assert_eq!(read.reason(), "enough");
        assert_eq!(write, read);
    });
}

#[test]
fn what_came_before_the_peers_close_can_still_be_read() {
    let (seen, reports) = report();
    let server = Server::new().route("/ws", move |conn: Connection| {
        let seen = seen.clone();
        async move {
            conn.closed().await;
            for _ in 0..3 {
                seen.try_send(conn.read().await).unwrap();
            }
            seen.try_send(conn.read().await).unwrap();
            Ok::<_, Closed>(())
        }
    });
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        let all = [
            frame(TEXT, "1"),
            frame(TEXT, "2"),
            frame(TEXT, "3"),
            frame(CLOSE, close_payload(4000, "done")),
        ];
        raw.send(all.concat()).await;
        for text in ["1", "2", "3"] {
            assert_eq!(reports.recv().await.unwrap(), Ok(Message::from(text)));
        }
        let closed = reports.recv().await.unwrap().unwrap_err();
        assert_eq!(
            (closed.by(), closed.code(), closed.reason()),
            (ClosedBy::Peer, CloseCode::new(4000).unwrap(), "done")
        );
        assert_eq!(raw.read_close().await, (4000, String::new()));
        raw.expect_end().await;
    });
}

#[test]
fn what_came_before_the_peers_close_is_still_answered() {
    let (server, ended) = reporting_echo(Config::new());
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(
            [
                frame(TEXT, "1"),
                frame(TEXT, "2"),
                frame(CLOSE, close_payload(1000, "")),
            ]
            .concat(),
        )
        .await;
        assert_eq!(raw.read_frame().await, (TEXT, b"1".to_vec()));
        assert_eq!(raw.read_frame().await, (TEXT, b"2".to_vec()));
        assert_eq!(raw.read_close().await, (1000, String::new()));
        raw.expect_end().await;
        assert_eq!(ended.recv().await.unwrap().by(), ClosedBy::Peer);
    });
}

#[test]
fn a_slow_answer_in_parts_to_what_came_before_the_peers_close_is_sent() {
    async fn answer(conn: Connection) -> Result<(), Closed> {
        loop {
            let message = conn.read().await?;
            conn.write("part one").await?;
            smol::Timer::after(SHORT).await;
            conn.write(message).await?;
        }
    }
    testing::run(Server::new().route("/ws", answer), |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(frame(TEXT, "part two")).await;
        assert_eq!(raw.read_frame().await, (TEXT, b"part one".to_vec()));
        raw.send(frame(CLOSE, close_payload(1000, ""))).await;
        assert_eq!(raw.read_frame().await, (TEXT, b"part two".to_vec()));
        assert_eq!(raw.read_close().await.0, 1000);
        raw.expect_end().await;
    });
}

#[test]
fn a_handler_that_reads_no_more_can_see_the_peers_close_at_once() {
    async fn stream(conn: Connection) -> Result<(), Closed> {
        let hello = conn.read().await?;
        let streaming = async {
            loop {
                conn.write(hello.clone()).await?;
                smol::Timer::after(SHORT).await;
            }
        };
        future::or(streaming, async { Err(conn.closed().await) }).await
    }
    let config = Config::new().close_timeout(Duration::from_secs(3600));
    testing::run(
        Server::new().config(config).route("/ws", stream),
        |server| async move {
            let mut client = server.connect("/ws").await.unwrap();
            client.write("go").await.unwrap();
            client.read().await.unwrap();
            let closed = client.close(CloseCode::NORMAL, "").await.unwrap();
            assert_eq!(closed.code(), CloseCode::NORMAL);
        },
    );
}

#[test]
fn a_handler_that_comes_back_to_nothing_delays_the_answer_up_to_the_close_timeout() {
    async fn hoard(conn: Connection) -> Result<(), Closed> {
        let _hoarded = conn.read().await?;
        future::pending().await
    }
    let config = Config::new().close_timeout(SHORT);
    testing::run(
        Server::new().config(config).route("/ws", hoard),
        |server| async move {
            let mut raw = Raw::open(&server, "/ws").await;
            raw.send([frame(TEXT, "x"), frame(CLOSE, close_payload(1000, ""))].concat())
                .await;
            assert_eq!(raw.read_close().await.0, 1000);
        },
    );
}

#[test]
fn pings_after_our_close_do_not_keep_the_peers_close_from_being_seen() {
    async fn leave(_: Connection) -> Result<(), Closed> {
        Ok(())
    }
    let config = Config::new().close_timeout(Duration::from_secs(3600));
    testing::run(
        Server::new().config(config).route("/ws", leave),
        |server| async move {
            let mut raw = Raw::open(&server, "/ws").await;
            assert_eq!(raw.read_close().await.0, 1000);
            raw.send(
                [
                    frame(PING, "").repeat(100),
                    frame(CLOSE, close_payload(1000, "")),
                ]
                .concat(),
            )
            .await;
            raw.expect_end().await;
        },
    );
}

#[test]
fn a_reason_may_have_any_words() {
    let (server, ended) = reporting_echo(Config::new());
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(frame(CLOSE, close_payload(1002, "Protocol violation")))
            .await;
        assert_eq!(raw.read_close().await.0, 1002);
        let closed = ended.recv().await.unwrap();
        assert_eq!(
            (closed.by(), closed.code()),
            (ClosedBy::Peer, CloseCode::PROTOCOL_ERROR)
        );
        assert_eq!(closed.reason(), "Protocol violation");
    });
}

#[test]
fn the_limit_of_messages_is_none_of_control_frames() {
    let (server, ended) = reporting_echo(Config::new().max_message_bytes(1));
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(frame(PING, "still there?")).await;
        assert_eq!(raw.read_frame().await, (PONG, b"still there?".to_vec()));
        raw.send(frame(CLOSE, close_payload(1000, "good bye")))
            .await;
        assert_eq!(raw.read_close().await.0, 1000);
        assert_eq!(ended.recv().await.unwrap().reason(), "good bye");
    });
}

#[test]
fn a_peer_that_was_closed_cannot_choose_how_long_it_stays() {
    async fn fill(conn: Connection) -> Result<(), Closed> {
        while conn.try_write([0; 1000].as_slice()).is_ok() {}
        conn.close(CloseCode::POLICY_VIOLATION, "");
        Ok(())
    }
    let config = Config::new().write_timeout(5 * SHORT);
    testing::run(
        Server::new().config(config).route("/ws", fill),
        |server| async move {
            let mut raw = Raw::open_holding(&server, "/ws", 100).await;
            let mut received = 0;
            // Some progress all the time, and far from enough.
            loop {
                let mut some = [0; 10];
                match raw.stream.read(&mut some).await.unwrap() {
                    0 => break,
                    count => received += count,
                }
                smol::Timer::after(SHORT / 10).await;
            }
            assert!(received < 64_000, "{received} bytes");
        },
    );
}

#[test]
fn a_close_without_a_code_is_answered_without_one() {
    let (server, ended) = reporting_echo(Config::new());
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(frame(CLOSE, "")).await;
        assert_eq!(raw.read_close().await, (1005, String::new()));
        raw.expect_end().await;
        let closed = ended.recv().await.unwrap();
        assert_eq!(
            (closed.by(), closed.code()),
            (ClosedBy::Peer, CloseCode::NO_STATUS)
        );
        assert!(closed.is_clean());
    });
}

#[test]
fn a_peer_that_vanishes_closed_uncleanly() {
    let (server, ended) = reporting_echo(Config::new());
    testing::run(server, |server| async move {
        drop(Raw::open(&server, "/ws").await);
        let closed = ended.recv().await.unwrap();
        assert_eq!(
            (closed.by(), closed.code()),
            (ClosedBy::Peer, CloseCode::ABNORMAL)
        );
        assert!(!closed.is_clean());

        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(&frame(TEXT, "cut short")[..7]).await;
        drop(raw);
        assert_eq!(ended.recv().await.unwrap().code(), CloseCode::ABNORMAL);
    });
}

#[test]
fn what_a_peer_sends_after_its_close_is_discarded() {
    let (server, ended) = reporting_echo(Config::new());
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(
            [
                frame(CLOSE, close_payload(1000, "")),
                frame(TEXT, "late"),
                frame(PING, "late"),
            ]
            .concat(),
        )
        .await;
        assert_eq!(raw.read_close().await, (1000, String::new()));
        raw.expect_end().await;
        assert_eq!(ended.recv().await.unwrap().code(), CloseCode::NORMAL);
    });
}

#[test]
fn what_a_peer_sends_after_our_close_is_discarded() {
    let (seen, reports) = report();
    let server = Server::new().route("/ws", move |conn: Connection| {
        let seen = seen.clone();
        async move {
            conn.close(CloseCode::NORMAL, "");
            seen.try_send(conn.read().await).unwrap();
            Ok::<_, Closed>(())
        }
    });
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        assert_eq!(raw.read_close().await, (1000, String::new()));
        raw.send(
            [
                frame(TEXT, "crossing"),
                frame(BINARY, [0; 10_000]),
                frame(CLOSE, close_payload(1000, "")),
            ]
            .concat(),
        )
        .await;
        raw.expect_end().await;
        assert!(reports.recv().await.unwrap().is_err());
    });
}

#[test]
fn a_broken_rule_is_told_with_its_code_and_never_by_a_reset() {
    let too_long = |len: u64| [&[0x82, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
    let cases: &[(&str, Vec<u8>, u16)] = &[
        ("unmasked", vec![0x81, 1, b'x'], 1002),
        ("reserved bit", frame_with(0x80 | 0x40 | TEXT, "x"), 1002),
        ("reserved data opcode", frame(3, "x"), 1002),
        ("reserved control opcode", frame(11, "x"), 1002),
        ("fragmented ping", fragment(PING, "x"), 1002),
        ("long ping", frame(PING, [0; 126]), 1002),
        (
            "claimed length of a ping",
            vec![0x89, 0xfe, 0x00, 0x7e, 0, 0, 0, 0],
            1002,
        ),
        (
            "invalid UTF-8 in a frame under way",
            vec![0x81, 0x94, 0, 0, 0, 0, b'a', 0xff],
            1007,
        ),
        (
            "too many fragments",
            [fragment(TEXT, ""), fragment(CONTINUATION, "").repeat(10)].concat(),
            1008,
        ),
        (
            "a length in more bytes than it needs",
            vec![0x81, 0xfe, 0, 3, 0, 0, 0, 0, b'a', b'b', b'c'],
            1002,
        ),
        ("a length below zero", too_long(1 << 63), 1002),
        (
            "a reserved bit of a frame under way",
            vec![0xc1, 0x85, 0, 0, 0, 0],
            1002,
        ),
        (
            "two broken rules, of which the first counts",
            [frame(TEXT, [0xff]), frame(BINARY, [0; 1001])].concat(),
            1007,
        ),
        ("nothing to continue", frame(CONTINUATION, "x"), 1002),
        (
            "a message within a message",
            [fragment(TEXT, "x"), frame(TEXT, "y")].concat(),
            1002,
        ),
        ("close with half a code", frame(CLOSE, [3]), 1002),
        (
            "close with a code that must not be sent",
            frame(CLOSE, close_payload(1005, "")),
            1002,
        ),
        ("text that is not UTF-8", frame(TEXT, [0xff]), 1007),
        (
            "text that ends in mid-character",
            [fragment(TEXT, [0xc3]), frame(CONTINUATION, "")].concat(),
            1007,
        ),
        (
            "a close reason that is not UTF-8",
            frame(CLOSE, [3, 0xe8, 0xff]),
            1007,
        ),
        ("a message too long", frame(BINARY, [0; 1001]), 1009),
        (
            "fragments too long",
            [fragment(BINARY, [0; 600]), fragment(CONTINUATION, [0; 600])].concat(),
            1009,
        ),
        (
            "a claimed length of 2^32 + 10",
            too_long((1 << 32) + 10),
            1009,
        ),
        (
            "a claimed length of 2^63 - 1",
            too_long(u64::MAX >> 1),
            1009,
        ),
    ];
    let (server, ended) = reporting_echo(Config::new().max_message_bytes(1000).max_fragments(10));
    let cases = cases.to_vec();
    testing::run(server, |server| async move {
        for (name, bytes, code) in cases {
            let mut raw = Raw::open(&server, "/ws").await;
            // What came before is answered, what comes after is read away.
            raw.send([frame(TEXT, "before"), bytes].concat()).await;
            assert_eq!(raw.read_frame().await, (TEXT, b"before".to_vec()), "{name}");
            assert_eq!(raw.read_close().await.0, code, "{name}");
            raw.send(frame(TEXT, "after")).await;
            raw.expect_end().await;
            let closed = ended.recv().await.unwrap();
            assert_eq!(
                (closed.by(), u16::from(closed.code())),
                (ClosedBy::Local, code),
                "{name}"
            );
            assert!(!closed.reason().is_empty(), "{name}");
        }
    });
}

#[test]
fn the_end_of_a_handler_closes_as_it_ended() {
    #[derive(Debug)]
    struct Unspeakable;

    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("it cannot be told");
        }
    }

    impl std::error::Error for Unspeakable {}

    async fn ended(conn: Connection) -> Result<(), Box<dyn std::error::Error>> {
        match conn.request().query() {
            Some("ok") => Ok(()),
            Some("error") => Err("it went wrong".into()),
            Some("unspeakable") => Err(Unspeakable.into()),
            _ => panic!("it went very wrong"),
        }
    }
    testing::run(
        Server::new().route("/ws", ended).route("/echo", echo),
        |server| async move {
            let mut other = server.connect("/echo").await.unwrap();
            let ends = [
                ("ok", 1000),
                ("error", 1011),
                ("unspeakable", 1011),
                ("panic", 1011),
            ];
            for (query, code) in ends {
                let mut raw = Raw::open(&server, &format!("/ws?{query}")).await;
                assert_eq!(raw.read_close().await.0, code, "{query}");
                raw.send(frame(CLOSE, close_payload(code, ""))).await;
                raw.expect_end().await;
            }
            other.write("still here").await.unwrap();
            assert_eq!(other.read().await.unwrap(), Message::from("still here"));
        },
    );
}

#[test]
fn dropping_every_handle_closes_normally() {
    async fn drops(conn: Connection) -> Result<(), Closed> {
        drop(conn);
        future::pending().await
    }
    let config = Config::new().close_timeout(SHORT);
    testing::run(
        Server::new().config(config).route("/ws", drops),
        |server| async move {
            let mut raw = Raw::open(&server, "/ws").await;
            assert_eq!(raw.read_close().await, (1000, String::new()));
        },
    );
}

#[test]
fn a_handle_kept_elsewhere_outlives_the_handler_but_not_the_connection() {
    let kept: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let keeper = kept.clone();
    let server = Server::new().route("/ws", move |conn: Connection| {
        keeper.borrow_mut().push(conn);
        async { Ok::<_, Closed>(()) }
    });
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        assert_eq!(client.read().await.unwrap_err().code(), CloseCode::NORMAL);
        let conn = kept.borrow_mut().pop().unwrap();
        assert_eq!(conn.closed().await.code(), CloseCode::NORMAL);
        assert!(conn.read().await.is_err());
        assert!(conn.write("late").await.is_err());
    });
}

#[test]
fn a_handle_kept_elsewhere_does_not_keep_the_socket() {
    let kept: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let keeper = kept.clone();
    let server = Server::new().route("/ws", move |conn: Connection| {
        keeper.borrow_mut().push(conn.clone());
        conn.close(CloseCode::ABNORMAL, "");
        async { Ok::<_, Closed>(()) }
    });
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        assert_eq!(raw.read_close().await.0, 1008);
        raw.expect_end().await;
        assert_eq!(kept.borrow().len(), 1);
    });
}

#[test]
fn a_handler_that_does_not_end_is_dropped_after_the_close_timeout() {
    struct TellsOfItsDrop(Rc<Sender<()>>);
    impl Drop for TellsOfItsDrop {
        fn drop(&mut self) {
            // The test may be over.
            let _ = self.0.try_send(());
        }
    }
    let (drops, dropped) = report();
    let config = Config::new().close_timeout(SHORT).max_connections(1);
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let guard = TellsOfItsDrop(drops.clone());
            async move {
                let _kept = (conn, guard);
                future::pending::<Result<(), Closed>>().await
            }
        });
    testing::run(server, |server| async move {
        drop(Raw::open(&server, "/ws").await);
        dropped.recv().await.unwrap();
        // Its place is free again.
        Raw::open(&server, "/ws").await;
    });
}

#[test]
fn a_handler_may_tidy_up_after_the_peer_is_gone() {
    let (seen, reports) = report();
    let server = Server::new().route("/ws", move |conn: Connection| {
        let seen = seen.clone();
        async move {
            while conn.read().await.is_ok() {}
            smol::Timer::after(SHORT).await;
            seen.try_send("tidied up").unwrap();
            Ok::<_, Closed>(())
        }
    });
    testing::run(server, |server| async move {
        drop(Raw::open(&server, "/ws").await);
        assert_eq!(reports.recv().await.unwrap(), "tidied up");
    });
}

#[test]
fn a_peer_that_does_not_answer_a_close_is_dropped_after_the_close_timeout() {
    async fn leave(_: Connection) -> Result<(), Closed> {
        Ok(())
    }
    let config = Config::new().close_timeout(SHORT);
    testing::run(
        Server::new().config(config).route("/ws", leave),
        |server| async move {
            let mut raw = Raw::open(&server, "/ws").await;
            assert_eq!(raw.read_close().await.0, 1000);
            raw.expect_end().await;
        },
    );
}

#[test]
fn codes_that_must_not_be_on_the_wire_are_not() {
    async fn close_as_asked(conn: Connection) -> Result<(), Closed> {
        let code = match conn.request().query() {
            Some("1005") => CloseCode::NO_STATUS,
            _ => CloseCode::ABNORMAL,
        };
        conn.close(code, "for the log");
        Ok(())
    }
    testing::run(
        Server::new().route("/ws", close_as_asked),
        |server| async move {
            let mut raw = Raw::open(&server, "/ws?1005").await;
            assert_eq!(raw.read_close().await, (1005, String::new()));

            let mut raw = Raw::open(&server, "/ws?1006").await;
            assert_eq!(raw.read_close().await, (1008, "for the log".into()));
            raw.expect_end().await;
        },
    );
}

#[test]
fn what_was_said_last_is_not_in_the_way_of_why_it_ends() {
    async fn leaves(conn: Connection) -> Result<(), Closed> {
        conn.write("bye").await?;
        conn.close(CloseCode::ABNORMAL, "enough");
        Ok(())
    }
    testing::run(Server::new().route("/ws", leaves), |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        assert_eq!(raw.read_frame().await, (TEXT, b"bye".to_vec()));
        assert_eq!(raw.read_close().await, (1008, "enough".into()));
    });
}

#[test]
fn the_stream_ends_while_the_handler_tidies_up() {
    let (release, released) = report::<()>();
    // It is not that it is dropped.
    let config = Config::new().close_timeout(Duration::from_secs(60));
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let released = released.clone();
            async move {
                while conn.read().await.is_ok() {}
                let _ = released.recv().await;
                Ok::<(), Closed>(())
            }
        });
    testing::run(server, |server| async move {
        let mut peer = Raw::open(&server, "/ws").await;
        peer.send(frame(CLOSE, [3, 232])).await;
        peer.read_close().await;
        peer.expect_end().await;
        let _ = release.send(()).await;
    });
}

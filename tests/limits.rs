//! No client holds what others need.

mod support;

use futures_lite::{AsyncWriteExt, future};
use std::{cell::Cell, io::Write, net::TcpStream, rc::Rc, time::Duration};
use support::{
    CLOSE, CONTINUATION, PING, PONG, Raw, TEXT, echo, fragment, frame, handshake, until,
};
use whit::{CloseCode, Closed, Config, Connection, Message, Server, testing};

#[test]
fn a_full_server_says_so_and_has_room_again() {
    let config = Config::new().max_connections(2);
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            let one = server.connect("/ws").await.unwrap();
            let mut other = Raw::open(&server, "/ws").await;

            let mut third = Raw::new(&server);
            third.send(handshake("/ws")).await;
            let answer = third.read_answer().await;
            assert!(
                answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
                "{answer}"
            );
            assert!(answer.contains("Retry-After: 5\r\n"), "{answer}");

            other.send(frame(CLOSE, "")).await;
            other.read_close().await;
            other.expect_end().await;
            drop(other);
            let mut again = loop {
                // The server sees the end of the stream when it has its turn.
                match server.connect("/ws").await {
                    Ok(client) => break client,
                    Err(refused) => assert_eq!(refused.status, 503),
                }
            };
            again.write("room").await.unwrap();
            assert_eq!(again.read().await.unwrap(), Message::from("room"));
            drop(one);
        },
    );
}

#[test]
fn an_address_has_its_share_and_no_more() {
    let config = Config::new().max_connections_per_ip(1);
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            let mut first = server.connect_tcp("/ws").await.unwrap();
            let refused = server.connect_tcp("/ws").await.unwrap_err();
            assert_eq!(refused.status, 429);
            // In memory there is no address to count.
            server.connect("/ws").await.unwrap();

            first.close(CloseCode::NORMAL, "").await.unwrap();
            drop(first);
            while let Err(refused) = server.connect_tcp("/ws").await {
                assert_eq!(refused.status, 429);
            }
        },
    );
}

#[test]
fn a_client_that_dawdles_over_its_handshake_holds_up_no_one() {
    let config = Config::new().handshake_timeout(Duration::from_secs(20));
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            let mut dawdlers = Vec::new();
            for _ in 0..100 {
                let mut raw = Raw::new(&server);
                raw.send("GET /ws HTTP/1.1\r\nHost: t").await;
                dawdlers.push(raw);
            }
            let mut client = server.connect("/ws").await.unwrap();
            client.write("quick").await.unwrap();
            assert_eq!(client.read().await.unwrap(), Message::from("quick"));
        },
    );
}

#[test]
fn a_handshake_sent_byte_by_byte_has_one_deadline_for_all_of_it() {
    let timeout = Duration::from_millis(50);
    let config = Config::new().handshake_timeout(timeout);
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            let mut raw = Raw::new(&server);
            let started = std::time::Instant::now();
            for byte in handshake("/ws").as_bytes() {
                if AsyncWriteExt::write_all(&mut raw.stream, &[*byte])
                    .await
                    .is_err()
                    || started.elapsed() > 2 * timeout
                {
                    break;
                }
                smol::Timer::after(timeout / 20).await;
            }
            assert!(raw.read_answer().await.starts_with("HTTP/1.1 408 "));
        },
    );
}

#[test]
fn a_flood_of_frames_that_make_no_message_holds_up_no_one() {
    let config = Config::new().max_fragments(usize::MAX);
    let server = Server::new().config(config).route("/ws", echo);
    let flooder = testing::run(server, |server| async move {
        let addr = server.addr();
        let (begun, flooding) = async_channel::bounded(1);
        // From a thread of its own and over TCP, so that there are always bytes to read.
        let flooder = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.write_all(handshake("/ws").as_bytes()).unwrap();
            stream.write_all(&fragment(TEXT, "")).unwrap();
            let flood = fragment(CONTINUATION, "").repeat(20_000);
            // Until the server is no more.
            while stream.write_all(&flood).is_ok() {
                let _ = begun.try_send(());
            }
        });
        let mut client = server.connect_tcp("/ws").await.unwrap();
        flooding.recv().await.unwrap();
        for _ in 0..5 {
            client.write("x").await.unwrap();
            client.read().await.unwrap();
        }
        assert!(!flooder.is_finished());
        flooder
    });
    flooder.join().unwrap();
}

#[test]
fn many_connections_live_on_one_thread() {
    testing::run(Server::new().route("/ws", echo), |server| async move {
        let mut clients = Vec::new();
        for _ in 0..1000 {
            clients.push(server.connect("/ws").await.unwrap());
        }
        for (i, client) in clients.iter_mut().enumerate() {
            client.write(i.to_string()).await.unwrap();
        }
        for (i, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.read().await.unwrap(), Message::from(i.to_string()));
        }
    });
}

#[test]
fn too_many_control_frames_in_a_second_are_one_too_many() {
    let config = Config::new().max_control_frames_per_second(5);
    let server = Server::new().config(config).route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        // At once, or the second may be over before the last.
        let few = [frame(PING, "a").repeat(3), frame(PONG, "").repeat(2)].concat();
        raw.send([few, frame(TEXT, "before"), frame(PONG, "")].concat())
            .await;
        for _ in 0..3 {
            assert_eq!(raw.read_frame().await, (PONG, b"a".to_vec()));
        }
        assert_eq!(raw.read_frame().await, (TEXT, b"before".to_vec()));
        let reason = "too many pings and pongs in a second".to_owned();
        assert_eq!(raw.read_close().await, (1008, reason));
        raw.expect_end().await;
        drop(raw);
        until(&stats, |stats| stats.open == 0).await;
        let limits = stats.snapshot().limits;
        assert_eq!(
            limits.into_iter().collect::<Vec<_>>(),
            [("max_control_frames_per_second", 1)]
        );
    });
}

#[test]
fn a_connection_without_messages_is_closed_and_one_with_some_is_not() {
    let period = Duration::from_secs(2);
    let config = Config::new().idle_timeout(period).heartbeat(period / 4);
    let server = Server::new().config(config).route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut busy = server.connect("/ws").await.unwrap();
        let mut idle = server.connect("/ws").await.unwrap();
        let closed = loop {
            busy.write("x").await.unwrap();
            busy.read().await.unwrap();
            // Heartbeats are no messages.
            if let Err(closed) = idle.read().await {
                break closed;
            }
        };
        assert_eq!(closed.code(), CloseCode::GOING_AWAY);
        assert_eq!(closed.reason(), "no message for 2s");
        drop(idle);
        until(&stats, |stats| stats.open == 1).await;
        assert_eq!(stats.snapshot().limits["idle_timeout"], 1);
    });
}

/// Has a message echoed some times. Another connection does less than `most` pieces of its work meanwhile, but some in all.
async fn expect_echoes(
    client: &mut testing::Client,
    times: usize,
    work: &Cell<usize>,
    most: usize,
) {
    for _ in 0..times {
        let before = work.get();
        client.write("now").await.unwrap();
        assert_eq!(client.read().await.unwrap(), Message::from("now"));
        let meanwhile = work.get() - before;
        assert!(meanwhile < most, "{meanwhile} pieces of another's work");
    }
    assert!(work.get() > 0);
}

#[test]
fn a_handler_that_always_has_more_to_do_leaves_the_others_their_turn() {
    let work = Rc::new(Cell::new(0));
    let done = work.clone();
    let server = Server::new()
        .route("/ws", echo)
        .route("/busy", move |conn: Connection| {
            let done = done.clone();
            async move {
                while conn.close_reason().is_none() {
                    done.set(done.get() + 1);
                    future::yield_now().await;
                }
                Ok::<(), Closed>(())
            }
        });
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        let _busy = server.connect("/busy").await.unwrap();
        expect_echoes(&mut client, 100, &work, 500).await;
    });
}

#[test]
fn a_handler_that_always_writes_leaves_the_others_their_turn() {
    let written = Rc::new(Cell::new(0));
    let count = written.clone();
    let server = Server::new()
        .route("/ws", echo)
        .route("/hose", move |conn: Connection| {
            let count = count.clone();
            async move {
                loop {
                    conn.write("more").await?;
                    count.set(count.get() + 1);
                }
                #[expect(unreachable_code, reason = "tells the type of the error")]
                Ok::<(), Closed>(())
            }
        });
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        // It would hold hours of this.
        let mut endless = server.pipe_holding(usize::MAX);
        endless
            .write_all(handshake("/hose").as_bytes())
            .await
            .unwrap();
        expect_echoes(&mut client, 20, &written, 100_000).await;
    });
}

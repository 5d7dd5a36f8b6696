//! Peers that vanished are noticed, those that are only slow are not cut off, and nothing due waits behind data.

mod support;

use async_channel::{Receiver, unbounded};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::{rc::Rc, time::Duration};
use support::{BINARY, CLOSE, PING, PONG, Raw, TEXT, close_payload, echo, frame};
use whit::{CloseCode, Closed, ClosedBy, Config, Connection, HEARTBEAT, Message, Server, testing};

const PERIOD: Duration = Duration::from_millis(100);

fn pinging() -> Config {
    Config::new().ping_interval(PERIOD).pong_timeout(PERIOD)
}

/// A server that waits to be told before it reads, and reports the end.
fn reading_when_told(
    config: Config,
) -> (
    Server,
    async_channel::Sender<()>,
    Receiver<Result<usize, Closed>>,
) {
    let (go, told) = unbounded::<()>();
    let (seen, reports) = unbounded();
    let seen = Rc::new(seen);
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let (told, seen) = (told.clone(), seen.clone());
            async move {
                let waiting = async {
                    told.recv().await.unwrap();
                };
                let closed = async {
                    conn.closed().await;
                };
                future::or(waiting, closed).await;
                loop {
                    let read = conn.read().await.map(|message| message.len());
                    let ended = read.is_err();
                    seen.try_send(read).unwrap();
                    if ended {
                        return Ok::<_, Closed>(());
                    }
                }
            }
        });
    (server, go, reports)
}

#[test]
fn every_client_gets_the_heartbeat_each_period() {
    let config = Config::new().heartbeat(PERIOD);
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            let started = std::time::Instant::now();
            let mut one = server.connect("/ws").await.unwrap();
            let mut other = server.connect("/ws").await.unwrap();
            for _ in 0..3 {
                assert_eq!(one.read().await.unwrap(), Message::from(HEARTBEAT));
                assert_eq!(other.read().await.unwrap(), Message::from(HEARTBEAT));
            }
            assert!(started.elapsed() >= 3 * PERIOD);
        },
    );
}

#[test]
fn the_heartbeat_does_not_stand_behind_queued_messages() {
    const LONG: usize = 100_000;
    async fn fill(conn: Connection) -> Result<(), Closed> {
        if conn.request().query().is_none() {
            while conn.try_write(vec![0; LONG]).is_ok() {}
        }
        conn.closed().await;
        Ok(())
    }
    let config = Config::new().heartbeat(PERIOD).outbound_capacity(4);
    testing::run(
        Server::new().config(config).route("/ws", fill),
        |server| async move {
            let mut jammed = Raw::open_holding(&server, "/ws", 1000).await;
            let mut clock = server.connect("/ws?idle").await.unwrap();
            for _ in 0..5 {
                clock.read().await.unwrap();
            }
            // Five were due meanwhile. The one message that was on its way comes first, then one heartbeat.
            assert_eq!(jammed.read_frame().await, (BINARY, vec![0; LONG]));
            assert_eq!(jammed.read_frame().await, (TEXT, HEARTBEAT.into()));
            assert_eq!(jammed.read_frame().await, (BINARY, vec![0; LONG]));
        },
    );
}

#[test]
fn a_peer_that_is_silent_after_a_ping_is_dropped() {
    let (server, _go, reports) = reading_when_told(pinging());
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        assert_eq!(raw.read_frame().await, (PING, vec![]));
        // Told as far as it may still listen. Where the thread was held up it has another chance first.
        let told = loop {
            match raw.read_frame().await {
                (PING, _) => {}
                frame => break frame,
            }
        };
        assert_eq!(told, (CLOSE, close_payload(1008, "no pong within 100ms")));
        raw.expect_end().await;
        let closed = reports.recv().await.unwrap().unwrap_err();
        assert_eq!(
            (closed.by(), closed.code()),
            (ClosedBy::Local, CloseCode::ABNORMAL)
        );
        assert_eq!(closed.reason(), "no pong within 100ms");
    });
}

#[test]
fn a_peer_that_answers_pings_stays() {
    testing::run(
        Server::new().config(pinging()).route("/ws", echo),
        |server| async move {
            let mut raw = Raw::open(&server, "/ws").await;
            for _ in 0..5 {
                assert_eq!(raw.read_frame().await, (PING, vec![]));
                raw.send(frame(PONG, "")).await;
            }
            raw.send(frame(TEXT, "alive")).await;
            assert_eq!(raw.read_frame().await, (TEXT, b"alive".to_vec()));
        },
    );
}

#[test]
fn any_byte_heard_is_a_sign_of_life() {
    testing::run(
        Server::new().config(pinging()).route("/ws", echo),
        |server| async move {
            let mut raw = Raw::open(&server, "/ws").await;
            let long = frame(TEXT, "a message over a thin link");
            let (head, rest) = long.split_at(5);
            for byte in head {
                assert_eq!(raw.read_frame().await, (PING, vec![]));
                raw.send([*byte]).await;
            }
            raw.send(rest).await;
            loop {
                match raw.read_frame().await {
                    (PING, _) => {}
                    answer => {
                        break assert_eq!(answer, (TEXT, b"a message over a thin link".to_vec()));
                    }
                }
            }
        },
    );
}

#[test]
fn slow_handler_is_not_a_dead_peer() {
    let config = pinging().inbound_capacity(1);
    let (server, go, reports) = reading_when_told(config);
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        // More than the queue holds: the reader waits for the handler, and hears no pong.
        let sent = 10;
        raw.send(frame(TEXT, "x").repeat(sent)).await;
        for _ in 0..5 {
            assert_eq!(raw.read_frame().await, (PING, vec![]));
            raw.send(frame(PONG, "")).await;
        }
        go.try_send(()).unwrap();
        for _ in 0..sent {
            assert_eq!(reports.recv().await.unwrap(), Ok(1));
        }
        drop(raw);
        assert_eq!(
            reports.recv().await.unwrap().unwrap_err().by(),
            ClosedBy::Peer
        );
    });
}

#[test]
fn a_peer_that_is_busy_receiving_is_not_dead() {
    async fn send(conn: Connection) -> Result<(), Closed> {
        conn.write(vec![7; 4000]).await?;
        conn.closed().await;
        Ok(())
    }
    testing::run(
        Server::new()
            .config(pinging())
            .route("/ws", send)
            .route("/clock", echo),
        |server| async move {
            let mut clock = Raw::open(&server, "/clock").await;
            let mut raw = Raw::open_holding(&server, "/ws", 100).await;
            // The message does not fit into the pipe: no ping gets out, and no pong comes in.
            raw.stream.read_exact(&mut [0; 4]).await.unwrap();
            for _ in 0..10 {
                assert_eq!(clock.read_frame().await, (PING, vec![]));
                clock.send(frame(PONG, "")).await;
                let mut part = [0; 400];
                raw.stream.read_exact(&mut part).await.unwrap();
                assert_eq!(part, [7; 400]);
            }
            assert_eq!(raw.read_frame().await, (PING, vec![]));
        },
    );
}

/// A server that sends more than its client takes, or, at another path, echoes; and the reasons of the ends.
fn sending(config: Config) -> (Server, Receiver<String>) {
    let (seen, reasons) = unbounded();
    let server = Server::new()
        .config(config)
        .route("/*", move |conn: Connection| {
            let seen = seen.clone();
            async move {
                if conn.request().path() == "/echo" {
                    let _ = echo(conn.clone()).await;
                } else {
                    conn.write(vec![7; 4000]).await?;
                }
                seen.try_send(conn.closed().await.reason().to_owned())
                    .unwrap();
                Ok::<_, Closed>(())
            }
        });
    (server, reasons)
}

#[test]
fn a_peer_that_stops_receiving_is_dropped() {
    let (server, reasons) = sending(pinging());
    testing::run(server, |server| async move {
        let mut raw = Raw::open_holding(&server, "/ws", 100).await;
        raw.stream.read_exact(&mut [0; 1000]).await.unwrap();
        assert_eq!(reasons.recv().await.unwrap(), "no pong within 100ms");
    });
}

#[test]
fn a_peer_that_stops_receiving_is_dropped_though_nothing_is_read_from_it() {
    let (server, reasons) = sending(pinging().inbound_capacity(1).outbound_capacity(1));
    testing::run(server, |server| async move {
        let mut raw = Raw::open_holding(&server, "/echo", 100).await;
        // Its echoes do not fit into the pipe, so that the handler waits, and the reader for the handler.
        let flood = frame(TEXT, "x").repeat(1000);
        assert!(raw.stream.write_all(&flood).await.is_err());
        assert_eq!(reasons.recv().await.unwrap(), "no pong within 100ms");
    });
}

#[test]
fn nothing_follows_a_close() {
    async fn leave(_: Connection) -> Result<(), Closed> {
        Ok(())
    }
    let config = pinging().heartbeat(PERIOD).close_timeout(5 * PERIOD);
    testing::run(
        Server::new().config(config).route("/ws", leave),
        |server| async move {
            let mut raw = Raw::open(&server, "/ws").await;
            let (opcode, _) = raw.read_frame().await;
            assert_eq!(opcode, CLOSE);
            raw.expect_end().await;
        },
    );
}

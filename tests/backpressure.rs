//! A slow side slows the other down, within bounds, and harms no one else.

mod support;

use async_channel::unbounded;
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::{rc::Rc, time::Duration};
use support::{Raw, TEXT, echo, frame};
use whit::{
    CloseCode, Closed, ClosedBy, Config, Connection, Message, Server, TryWriteError, testing,
};

#[test]
fn a_peer_that_never_reads_ends_after_the_write_timeout() {
    let (ends, ended) = unbounded();
    let ends = Rc::new(ends);
    let config = Config::new().write_timeout(Duration::from_millis(30));
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let ends = ends.clone();
            async move {
                let closed = loop {
                    if let Err(closed) = conn.write(vec![0; 1000]).await {
                        break closed;
                    }
                };
                ends.try_send(closed).unwrap();
                Ok::<_, Closed>(())
            }
        });
    testing::run(server.route("/echo", echo), |server| async move {
        let mut other = server.connect("/echo").await.unwrap();
        let raw = Raw::open_holding(&server, "/ws", 5000).await;
        let closed = ended.recv().await.unwrap();
        assert_eq!(
            (closed.by(), closed.code()),
            (ClosedBy::Local, CloseCode::ABNORMAL)
        );
        assert_eq!(closed.reason(), "the peer took nothing for 30ms");
        drop(raw);
        other.write("unharmed").await.unwrap();
        assert_eq!(other.read().await.unwrap(), Message::from("unharmed"));
    });
}

#[test]
fn a_peer_that_never_reads_an_echo_jams_only_itself() {
    let config = Config::new().write_timeout(Duration::from_secs(20));
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            let mut stuck = Raw::open_holding(&server, "/ws", 1000).await;
            let flooding = async {
                loop {
                    stuck.send(frame(TEXT, [b'x'; 500])).await;
                }
            };
            let others = async {
                let mut other = server.connect("/ws").await.unwrap();
                for i in 0..1000 {
                    other.write(i.to_string()).await.unwrap();
                    assert_eq!(other.read().await.unwrap(), Message::from(i.to_string()));
                }
            };
            future::or(others, flooding).await;
        },
    );
}

#[test]
fn a_slow_peer_that_makes_progress_is_not_cut_off() {
    async fn send(conn: Connection) -> Result<(), Closed> {
        conn.write(vec![7; 100]).await?;
        Err(conn.closed().await)
    }
    let timeout = Duration::from_secs(1);
    let config = Config::new().write_timeout(timeout);
    testing::run(
        Server::new().config(config).route("/ws", send),
        |server| async move {
            let mut raw = Raw::open_holding(&server, "/ws", 10).await;
            let started = std::time::Instant::now();
            // Each read makes room, long before the timeout; all of them together take longer than it.
            let mut received: Vec<u8> = Vec::new();
            let all = [&[0x82, 100][..], &[7; 100]].concat();
            while received.len() < all.len() {
                smol::Timer::after(timeout / 8).await;
                let mut some = [0; 10];
                let count = raw.stream.read(&mut some).await.unwrap();
                assert_ne!(count, 0, "cut off after {} bytes", received.len());
                received.extend(&some[..count]);
            }
            assert!(started.elapsed() > timeout);
            assert_eq!(received, all);
        },
    );
}

#[test]
fn a_full_queue_gives_the_message_back() {
    let (seen, reports) = unbounded();
    let seen = Rc::new(seen);
    let config = Config::new().outbound_capacity(2);
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let seen = seen.clone();
            async move {
                let mut accepted = 0;
                let rejected = loop {
                    match conn.try_write(accepted.to_string()) {
                        Ok(()) => accepted += 1,
                        Err(error) => break error,
                    }
                };
                seen.try_send((accepted, rejected)).unwrap();
                Ok::<_, Closed>(())
            }
        });
    testing::run(server, |server| async move {
        // It takes the handshake's answer and then little, until it is read from.
        let mut raw = Raw::open_holding(&server, "/ws", 200).await;
        let (accepted, rejected) = reports.recv().await.unwrap();
        assert!((2..100).contains(&accepted), "{accepted}");
        let next = Message::from(accepted.to_string());
        assert_eq!(rejected, TryWriteError::Full(next.clone()));
        assert_eq!(rejected.into_message(), next);
        for i in 0..accepted {
            assert_eq!(raw.read_frame().await, (TEXT, i.to_string().into()));
        }
        assert_eq!(raw.read_close().await.0, 1000);
    });
}

#[test]
fn a_slow_handler_slows_the_peer_down_and_loses_nothing() {
    const MESSAGE_BYTES: usize = 1000;
    const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
    let (go, gone) = unbounded::<()>();
    let (seen, reports) = unbounded();
    let seen = Rc::new(seen);
    let config = Config::new().inbound_capacity(4);
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let (gone, seen) = (gone.clone(), seen.clone());
            async move {
                gone.recv().await.unwrap();
                while let Ok(message) = conn.read().await {
                    seen.try_send(message).unwrap();
                }
                Ok::<_, Closed>(())
            }
        });
    testing::run(server, |server| async move {
        let mut raw = Raw::open_holding(&server, "/ws", 2000).await;
        let mut sent = 0;
        let flooding = async {
            loop {
                raw.stream
                    .write_all(&frame(
                        TEXT,
                        vec![LETTERS.as_bytes()[sent % 26]; MESSAGE_BYTES],
                    ))
                    .await
                    .unwrap();
                sent += 1;
            }
        };
        // The server has taken all that it ever will when it had many turns and nothing moved any more.
        let settled = async {
            for _ in 0..1000 {
                future::yield_now().await;
            }
        };
        future::or(flooding, settled).await;
        // 4 in the queue, 1 in the reader's hand, the rest in its buffer and the pipe.
        assert!((5..=14).contains(&sent), "{sent} messages were taken");
        go.try_send(()).unwrap();
        for i in 0..sent {
            let expected = LETTERS[i % 26..=i % 26].repeat(MESSAGE_BYTES);
            assert_eq!(
                reports.recv().await.unwrap().as_text(),
                Some(expected.as_str())
            );
        }
    });
}

#[test]
fn a_flood_of_pings_without_reading_holds_nobody_up() {
    testing::run(Server::new().route("/ws", echo), |server| async move {
        let mut flooder = Raw::open_holding(&server, "/ws", 1000).await;
        let pings = frame(support::PING, [0; 125]).repeat(100);
        let flooding = async {
            loop {
                flooder.send(&pings).await;
            }
        };
        let others = async {
            let mut other = server.connect("/ws").await.unwrap();
            for _ in 0..100 {
                other.write("x").await.unwrap();
                other.read().await.unwrap();
            }
        };
        future::or(others, flooding).await;
    });
}

//! One number bounds what clients can make the server use, and no client makes the others pay.

mod support;

use futures_lite::{AsyncReadExt, future};
use std::{cell::RefCell, pin::pin, rc::Rc, time::Duration};
use support::{
    BINARY, CLOSE, CONTINUATION, Raw, TEXT, close_payload, echo, fragment, frame, handshake, until,
};
use whit::{CloseCode, Closed, ClosedBy, Config, Connection, Message, Server, testing};

const MIB: usize = 1024 * 1024;

fn small() -> Config {
    Config::new()
        .memory_budget_bytes(MIB)
        .write_timeout(Duration::from_secs(20))
}

#[test]
fn everything_is_given_back_when_the_clients_are_gone() {
    let server = Server::new()
        .route("/ws", echo)
        .page("/", |_| whit::Response::text("page"));
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        assert_eq!(stats.snapshot().memory_used_bytes, 0);
        let mut closed = Raw::open(&server, "/ws").await;
        let mut vanished = Raw::open_holding(&server, "/ws", 100).await;
        let mut half = Raw::new(&server);
        half.send("GET / HT").await;
        closed.send(frame(BINARY, vec![1; 50_000])).await;
        closed.read_frame().await;
        vanished.send(fragment(BINARY, vec![1; 50_000])).await;
        assert!(stats.snapshot().memory_used_bytes > 50_000);
        assert_eq!(stats.snapshot().open, 2);

        closed.send(frame(CLOSE, close_payload(1000, ""))).await;
        assert_eq!(closed.read_close().await.0, 1000);
        drop((closed, vanished, half));
        until(&stats, |stats| stats.memory_used_bytes == 0).await;
        let stats = stats.snapshot();
        assert_eq!((stats.open, stats.opened, stats.shed), (0, 2, 0));
        assert_eq!((stats.messages_received, stats.bytes_received), (1, 50_000));
        assert_eq!((stats.messages_sent, stats.bytes_sent), (1, 50_000));
        assert_eq!(stats.closed[&(ClosedBy::Peer, 1000)], 1);
        assert_eq!(stats.closed[&(ClosedBy::Peer, 1006)], 1);
        assert!(stats.memory_peak_bytes > 100_000, "{stats:?}");
    });
}

#[test]
fn the_end_of_a_load_is_told_once() {
    let server = Server::new().route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let load = async |clients: usize| {
            let mut held = Vec::new();
            for _ in 0..clients {
                let mut client = Raw::open(&server, "/ws").await;
                client.send(fragment(BINARY, vec![1; 50_000])).await;
                held.push(client);
            }
            until(&stats, |stats| stats.memory_used_bytes > clients * 50_000).await;
        };
        let soon = || smol::Timer::after(Duration::from_millis(1500));
        let mut relieved = pin!(stats.relieved());

        // Too little.
        load(1).await;
        until(&stats, |stats| stats.memory_used_bytes == 0).await;
        soon().await;
        assert!(future::poll_once(&mut relieved).await.is_none());

        load(10).await;
        assert!(future::poll_once(&mut relieved).await.is_none());
        until(&stats, |stats| stats.memory_used_bytes == 0).await;
        relieved.await;

        let mut again = pin!(stats.relieved());
        assert!(future::poll_once(&mut again).await.is_none());
        soon().await;
        assert!(future::poll_once(&mut again).await.is_none());
    });
}

#[test]
fn a_refusal_is_counted_by_its_status() {
    let server = Server::new().route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        assert_eq!(server.connect("/nothing").await.unwrap_err().status, 404);
        assert_eq!(
            server
                .connect_with("/ws", &[("Origin", "http://evil.example")])
                .await
                .unwrap_err()
                .status,
            403
        );
        let refused = stats.snapshot().refused;
        assert_eq!(
            refused.into_iter().collect::<Vec<_>>(),
            [(403, 1), (404, 1)]
        );
    });
}

#[test]
fn the_last_quarter_is_kept_for_those_who_are_there() {
    let server = Server::new().config(small()).route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut clients = Vec::new();
        let refused = loop {
            match server.connect("/ws").await {
                Ok(client) => clients.push(client),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.status, 503);
        let used = stats.snapshot().memory_used_bytes;
        assert!((MIB / 2..=MIB / 4 * 3).contains(&used), "{used}");
        // Messages have room.
        for client in &mut clients {
            client.write("x".repeat(10_000)).await.unwrap();
            client.read().await.unwrap();
        }
        assert_eq!(stats.snapshot().shed, 0);
        drop(clients);
        until(&stats, |stats| stats.memory_used_bytes == 0).await;
        server.connect("/ws").await.unwrap();
    });
}

#[test]
fn the_one_that_holds_the_most_is_shed_with_1013() {
    let (server, conns) = keeping(small());
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut good = server.connect("/echo").await.unwrap();
        // The pipes take little: what is written to them stays in the queues.
        let mut raws = Vec::new();
        for _ in 0..3 {
            raws.push(Raw::open_holding(&server, "/keep", 100).await);
        }
        let conns = conns.borrow().clone();
        let fill = |conn: &Connection, count| {
            (0..count).for_each(|_| conn.try_write(vec![0; 20_000]).unwrap())
        };
        fill(&conns[0], 10);
        fill(&conns[1], 30);
        assert_eq!(stats.snapshot().shed, 0);
        fill(&conns[2], 12);
        assert_eq!(stats.snapshot().shed, 1);
        let closed = conns[1].closed().await;
        assert_eq!(
            (closed.by(), closed.code()),
            (ClosedBy::Local, CloseCode::TRY_AGAIN_LATER)
        );
        assert_eq!(closed.reason(), "the server is short of memory");
        assert_eq!(
            (conns[0].close_reason(), conns[2].close_reason()),
            (None, None)
        );

        good.write("unharmed").await.unwrap();
        assert_eq!(good.read().await.unwrap(), Message::from("unharmed"));
        for (raw, count) in [(0, 10), (2, 12)] {
            for _ in 0..count {
                assert_eq!(raws[raw].read_frame().await, (BINARY, vec![0; 20_000]));
            }
        }
        assert!(stats.snapshot().memory_peak_bytes < MIB + 100_000);
    });
}

/// Handlers at `/keep` that do nothing until the end, and their connections.
fn keeping(config: Config) -> (Server, Rc<RefCell<Vec<Connection>>>) {
    let conns: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let keeper = conns.clone();
    let server = Server::new().config(config).route("/echo", echo).route(
        "/keep",
        move |conn: Connection| {
            keeper.borrow_mut().push(conn.clone());
            async move { Err::<(), _>(conn.closed().await) }
        },
    );
    (server, conns)
}

#[test]
fn a_few_that_hoard_do_not_lock_the_door() {
    let (server, conns) = keeping(small());
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut hoarders = Vec::new();
        for _ in 0..4 {
            hoarders.push(Raw::open_holding(&server, "/keep", 100).await);
        }
        // More than three quarters, and less than it takes for anyone to wait.
        for conn in &*conns.borrow() {
            (0..10).for_each(|_| conn.try_write(vec![0; 20_000]).unwrap());
        }
        let used = stats.snapshot().memory_used_bytes;
        assert!((MIB / 4 * 3..MIB / 8 * 7).contains(&used), "{used}");
        let refused = server.connect("/echo").await.unwrap_err();
        assert_eq!(refused.status, 503);
        until(&stats, |stats| stats.memory_used_bytes < MIB / 4 * 3).await;
        let mut newcomer = server.connect("/echo").await.unwrap();
        newcomer.write("let in").await.unwrap();
        assert_eq!(newcomer.read().await.unwrap(), Message::from("let in"));
        assert_eq!(stats.snapshot().shed, 1);
    });
}

#[test]
fn many_that_are_refused_hold_up_no_one() {
    // The refused stay as long as they may, which is longer than this test.
    let config = small().close_timeout(Duration::from_secs(60));
    let server = Server::new().config(config).route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut good = server.connect("/ws").await.unwrap();
        let mut many = Vec::new();
        while stats.snapshot().memory_used_bytes < MIB / 3 * 2 {
            let before = stats.snapshot().memory_used_bytes;
            many.push(Raw::new(&server));
            until(&stats, |stats| stats.memory_used_bytes > before).await;
        }
        let head = format!(
            "GET /nothing HTTP/1.1\r\nHost: a\r\nX: {}\r\n",
            "x".repeat(8000)
        );
        for raw in &mut many {
            raw.send(&head).await;
        }
        for raw in &mut many {
            raw.send("\r\n").await;
        }
        for _ in 0..10 {
            good.write("not held up").await.unwrap();
            assert_eq!(good.read().await.unwrap(), Message::from("not held up"));
        }
        let refused = many.len() as u64;
        until(&stats, |stats| {
            stats.refused.values().sum::<u64>() == refused
        })
        .await;
        good.write("nor now").await.unwrap();
        assert_eq!(good.read().await.unwrap(), Message::from("nor now"));
    });
}

#[test]
fn what_is_kept_after_the_end_is_nobodys_to_shed() {
    let (server, conns) = keeping(small());
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut good = server.connect("/echo").await.unwrap();
        let mut ended = Raw::open(&server, "/keep").await;
        for _ in 0..12 {
            ended.send(frame(BINARY, vec![0; 55_000])).await;
        }
        ended.send(frame(CLOSE, close_payload(1000, ""))).await;
        assert_eq!(ended.read_close().await.0, 1000);
        drop(ended);
        until(&stats, |stats| stats.open == 1).await;
        assert!(stats.snapshot().memory_used_bytes > 500_000);

        let _live = Raw::open_holding(&server, "/keep", 100).await;
        let live = conns.borrow()[1].clone();
        while live.try_write(vec![0; 20_000]).is_ok() {}
        let closed = live.closed().await;
        assert_eq!(closed.code(), CloseCode::TRY_AGAIN_LATER);
        assert_eq!(stats.snapshot().shed, 1);
        good.write("unharmed").await.unwrap();
        assert_eq!(good.read().await.unwrap(), Message::from("unharmed"));
        conns.borrow_mut().clear();
        drop(live);
        until(&stats, |stats| stats.memory_used_bytes < 100_000).await;
    });
}

#[test]
fn one_that_is_shed_while_it_listens_is_told_1013() {
    let config = small().max_message_bytes(100_000).inbound_capacity(64);
    let (go, gone) = async_channel::unbounded::<()>();
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let gone = gone.clone();
            async move {
                gone.recv().await.unwrap();
                Err::<(), _>(conn.closed().await)
            }
        });
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        let mut other = Raw::open(&server, "/ws").await;
        // Nobody reads them: the queues fill up, both wait, and after a second the larger goes.
        for _ in 0..7 {
            raw.send(frame(BINARY, vec![0; 90_000])).await;
        }
        future::or(
            async {
                loop {
                    other.send(frame(BINARY, vec![0; 50_000])).await;
                }
            },
            async {
                assert_eq!(
                    raw.read_close().await,
                    (1013, "the server is short of memory".into())
                );
            },
        )
        .await;
        raw.expect_end().await;
        assert_eq!(stats.snapshot().shed, 1);
        go.close();
    });
}

#[test]
fn unfinished_messages_of_many_do_not_lock_out_the_others() {
    let server = Server::new().config(small()).route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut good = server.connect("/ws").await.unwrap();
        let mut hoarders = Vec::new();
        for _ in 0..40 {
            let mut raw = Raw::new(&server);
            raw.send(handshake("/ws")).await;
            raw.send(fragment(BINARY, vec![0; 30_000])).await;
            raw.send(fragment(CONTINUATION, vec![0; 30_000])).await;
            hoarders.push(raw);
        }
        for _ in 0..100 {
            good.write("still served").await.unwrap();
            assert_eq!(good.read().await.unwrap(), Message::from("still served"));
        }
        let used = stats.snapshot();
        assert!(used.memory_peak_bytes < MIB + 200_000, "{used:?}");
        drop(hoarders);
        drop(good);
        until(&stats, |stats| stats.memory_used_bytes == 0).await;
    });
}

#[test]
fn a_queued_message_is_charged_until_it_is_taken() {
    let (go, gone) = async_channel::unbounded::<()>();
    let server = Server::new().route("/ws", move |conn: Connection| {
        let gone = gone.clone();
        async move {
            gone.recv().await.unwrap();
            loop {
                conn.read().await?;
            }
            #[allow(unreachable_code, reason = "it tells the type")]
            Ok::<_, Closed>(())
        }
    });
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        let idle = stats.snapshot().memory_used_bytes;
        raw.send(frame(TEXT, "x".repeat(10_000)).repeat(5)).await;
        until(&stats, |stats| stats.memory_used_bytes >= idle + 50_000).await;
        go.try_send(()).unwrap();
        until(&stats, |stats| stats.memory_used_bytes == idle).await;
    });
}

#[test]
fn a_message_on_its_way_is_charged_in_whole_until_its_end() {
    let server = Server::new().route("/ws", async |conn: Connection| {
        conn.write(vec![7; 60_000]).await?;
        conn.closed().await;
        Ok::<_, Closed>(())
    });
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut raw = Raw::open_holding(&server, "/ws", 1000).await;
        until(&stats, |stats| stats.memory_used_bytes > 60_000).await;
        // All but the last byte is taken.
        let mut most = vec![0; 4 + 60_000 - 1001];
        raw.stream.read_exact(&mut most).await.unwrap();
        let used = stats.snapshot().memory_used_bytes;
        assert!(used > 60_000, "{used}");
        raw.stream.read_exact(&mut [0; 1001]).await.unwrap();
        until(&stats, |stats| stats.memory_used_bytes < 60_000).await;
    });
}

#[test]
fn what_a_refused_frame_claims_is_charged_to_nobody() {
    let server = Server::new().config(small()).route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut other = Raw::open(&server, "/ws").await;
        other.send(fragment(BINARY, vec![1; 1000])).await;
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(fragment(BINARY, "x")).await;
        let mut claim = vec![CONTINUATION, 0xff];
        claim.extend((u64::MAX >> 1).to_be_bytes());
        claim.extend([0; 4]);
        raw.send(claim).await;
        assert_eq!(raw.read_close().await.0, 1009);
        drop(raw);
        until(&stats, |stats| stats.open == 1).await;
        other.send(frame(CONTINUATION, "y")).await;
        assert_eq!(other.read_frame().await.1.len(), 1001);
        let stats = stats.snapshot();
        assert_eq!(stats.shed, 0);
        assert!(stats.memory_peak_bytes < MIB, "{stats:?}");
    });
}

#[test]
fn long_messages_stay_as_they_came_while_buffers_are_used_again() {
    let held = Rc::new(RefCell::new(Vec::new()));
    let keeper = held.clone();
    let config = Config::new().max_message_bytes(200_000);
    let server = Server::new()
        .config(config)
        .route("/ws", move |conn: Connection| {
            let keeper = keeper.clone();
            async move {
                while let Ok(message) = conn.read().await {
                    if message.as_bytes()[0] == b'k' {
                        keeper.borrow_mut().push(message.clone());
                    }
                    conn.write(message).await?;
                }
                Ok::<(), Closed>(())
            }
        });
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut client = Raw::open_holding(&server, "/ws", MIB).await;
        let mut kept = Vec::new();
        for round in 0..20_u8 {
            // One right behind the other, so that none may take what is the next one's.
            let messages: Vec<_> = [100_000, 97_000, 30_000, 10, 99_999, 150_000, 29_000]
                .into_iter()
                .zip(b'a' + round..)
                .map(|(len, byte)| (if len % 2 == 0 { TEXT } else { BINARY }, vec![byte; len]))
                .collect();
            let frames = messages
                .iter()
                .flat_map(|(opcode, payload)| frame(*opcode, payload));
            client.send(frames.collect::<Vec<_>>()).await;
            for message in &messages {
                assert!(client.read_frame().await == *message, "round {round}");
            }
            kept.extend(
                messages
                    .into_iter()
                    .filter(|(_, payload)| payload[0] == b'k'),
            );
        }
        for (message, (_, payload)) in held.borrow().iter().zip(&kept) {
            assert!(message.as_bytes() == payload);
        }
        assert_eq!(held.borrow().len(), kept.len());
        let in_use = stats.snapshot().memory_used_bytes;
        assert!(in_use > 100_000, "{in_use} bytes");
        until(&stats, |stats| stats.memory_used_bytes < 20_000).await;
    });
}

#[test]
fn what_came_along_with_the_handshake_is_charged_to_nobody_once_it_is_read() {
    let server = Server::new().route("/ws", echo);
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut used = Vec::new();
        for len in [1, 700] {
            let mut raw = Raw::new(&server);
            let mut sent = handshake("/ws").into_bytes();
            sent.extend(frame(BINARY, vec![0; len]));
            raw.send(sent).await;
            raw.read_head().await;
            assert_eq!(raw.read_frame().await.1.len(), len);
            used.push(stats.snapshot().memory_used_bytes);
            drop(raw);
            until(&stats, |stats| stats.memory_used_bytes == 0).await;
        }
        assert_eq!(used[0], used[1]);
    });
}

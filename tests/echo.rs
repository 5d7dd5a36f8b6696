//! Every message arrives once, in order, with its type.

mod support;

use futures_lite::{StreamExt, future, io};
use smol::LocalExecutor;
use support::{BINARY, CONTINUATION, PING, PONG, Raw, TEXT, echo, fragment, frame};
use whit::{Closed, Config, Connection, Message, Server, testing};

fn echo_server() -> Server {
    Server::new()
        .config(Config::new().max_message_bytes(1024 * 1024))
        .route("/ws", echo)
}

#[test]
fn messages_of_every_length_form_come_back() {
    testing::run(echo_server(), |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        for len in [
            0,
            1,
            125,
            126,
            127,
            4095,
            4096,
            4097,
            65535,
            65536,
            1024 * 1024,
        ] {
            for message in [
                Message::from("x".repeat(len)),
                Message::from(vec![0xff; len]),
            ] {
                client.write(message.clone()).await.unwrap();
                assert!(client.read().await.unwrap() == message, "{len} bytes");
            }
        }
    });
}

#[test]
fn text_stays_text_and_binary_binary() {
    testing::run(echo_server(), |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send([frame(TEXT, "same"), frame(BINARY, "same")].concat())
            .await;
        assert_eq!(raw.read_frame().await, (TEXT, b"same".to_vec()));
        assert_eq!(raw.read_frame().await, (BINARY, b"same".to_vec()));
    });
}

#[test]
fn each_read_takes_one_message_and_each_write_sends_one() {
    testing::run(echo_server(), |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send([frame(TEXT, "1"), frame(TEXT, "2"), frame(TEXT, "3")].concat())
            .await;
        for payload in [b"1", b"2", b"3"] {
            assert_eq!(raw.read_frame().await, (TEXT, payload.to_vec()));
        }
        raw.send(frame(PING, "")).await;
        assert_eq!(
            raw.read_frame().await,
            (PONG, vec![]),
            "and nothing between"
        );
    });
}

#[test]
fn ten_thousand_messages_pass_small_queues_once_and_in_order() {
    let config = Config::new().inbound_capacity(2).outbound_capacity(1);
    testing::run(
        Server::new().config(config).route("/ws", echo),
        |server| async move {
            const COUNT: u32 = 10_000;
            let raw = Raw::open_holding(&server, "/ws", 1000).await;
            let (from, to) = io::split(raw.stream);
            let (mut from, mut to) = (Raw { stream: from }, Raw { stream: to });
            let sending = async {
                for i in 0..COUNT {
                    to.send(frame(TEXT, i.to_string())).await;
                }
            };
            let receiving = async {
                for i in 0..COUNT {
                    assert_eq!(from.read_frame().await, (TEXT, i.to_string().into_bytes()));
                }
            };
            future::zip(sending, receiving).await;
        },
    );
}

#[test]
fn fragments_are_joined_with_control_frames_between_them() {
    testing::run(echo_server(), |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        raw.send(fragment(TEXT, "one, ")).await;
        raw.send(frame(PING, "in between")).await;
        assert_eq!(raw.read_frame().await, (PONG, b"in between".to_vec()));
        raw.send(fragment(CONTINUATION, "")).await;
        raw.send(fragment(CONTINUATION, "two, ")).await;
        raw.send(frame(PONG, "unasked")).await;
        raw.send(frame(CONTINUATION, "three")).await;
        assert_eq!(raw.read_frame().await, (TEXT, b"one, two, three".to_vec()));
    });
}

#[test]
fn frames_may_arrive_a_byte_at_a_time() {
    testing::run(echo_server(), |server| async move {
        let mut raw = Raw::open_holding(&server, "/ws", 1).await;
        raw.send(frame(TEXT, "slowly")).await;
        assert_eq!(raw.read_frame().await, (TEXT, b"slowly".to_vec()));
    });
}

#[test]
fn frames_may_be_cut_anywhere() {
    testing::run(echo_server(), |server| async move {
        let conversation = [
            fragment(TEXT, "é1"),
            frame(PING, "between"),
            frame(CONTINUATION, "2€"),
            frame(BINARY, [7; 200]),
            frame(TEXT, ""),
            fragment(BINARY, ""),
            frame(CONTINUATION, ""),
        ]
        .concat();
        for cut in 0..=conversation.len() {
            let mut raw = Raw::open(&server, "/ws").await;
            raw.send(&conversation[..cut]).await;
            // So often that the server has taken all that is there.
            for _ in 0..10 {
                future::yield_now().await;
            }
            raw.send(&conversation[cut..]).await;
            let expected = [
                (TEXT, "é12€".into()),
                (BINARY, vec![7; 200]),
                (TEXT, vec![]),
                (BINARY, vec![]),
            ];
            let mut answers = Vec::new();
            while answers.len() < expected.len() {
                match raw.read_frame().await {
                    (PONG, payload) => assert_eq!(payload, b"between"),
                    answer => answers.push(answer),
                }
            }
            assert_eq!(answers, expected, "cut after {cut} bytes");
        }
    });
}

#[test]
fn frames_may_come_along_with_the_handshake() {
    testing::run(echo_server(), |server| async move {
        let mut raw = Raw::new(&server);
        raw.send([support::handshake("/ws").into_bytes(), frame(TEXT, "early")].concat())
            .await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
        assert_eq!(raw.read_frame().await, (TEXT, b"early".to_vec()));
    });
}

#[test]
fn every_ping_gets_its_pong() {
    testing::run(echo_server(), |server| async move {
        let mut raw = Raw::open(&server, "/ws").await;
        let pings: Vec<u8> = (0..100u8).flat_map(|i| frame(PING, [i])).collect();
        raw.send(pings).await;
        for i in 0..100u8 {
            assert_eq!(raw.read_frame().await, (PONG, vec![i]));
        }
    });
}

#[test]
fn a_connection_is_a_stream_of_its_messages() {
    async fn sum(mut conn: Connection) -> Result<(), Closed> {
        let mut sum = 0;
        while let Some(message) = conn.next().await {
            sum += message.len();
            conn.write(sum.to_string()).await?;
        }
        Ok(())
    }
    testing::run(Server::new().route("/sum", sum), |server| async move {
        let mut client = server.connect("/sum").await.unwrap();
        for (text, sum) in [("a", "1"), ("bc", "3"), ("", "3")] {
            client.write(text).await.unwrap();
            assert_eq!(client.read().await.unwrap(), Message::from(sum));
        }
    });
}

#[test]
fn it_works_over_tcp_as_in_memory() {
    testing::run(echo_server(), |server| async move {
        let mut client = server.connect_tcp("/ws").await.unwrap();
        let long = Message::from(vec![7; 1_000_000]);
        client.write(long.clone()).await.unwrap();
        assert!(client.read().await.unwrap() == long);
    });
}

#[test]
fn a_stream_that_was_given_up_is_in_nobodys_way() {
    let server = Server::new().route("/ws", |mut conn: Connection| async move {
        // Kept, as is what it waited for.
        assert!(future::poll_once(conn.next()).await.is_none());
        let others = LocalExecutor::new();
        let reader = conn.clone();
        let read = others.spawn(async move { reader.read().await });
        conn.write(others.run(read).await?).await?;
        Err::<(), _>(conn.closed().await)
    });
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        client.write("for the other").await.unwrap();
        assert_eq!(client.read().await.unwrap(), Message::from("for the other"));
    });
}

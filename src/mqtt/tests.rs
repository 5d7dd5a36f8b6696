//! The bridge, and a broker that does what it is told.

use super::{outbox::Counters, *};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use mqtt_proto::{
    Pid, QosPid,
    v5::{
        Connack, Connect, ConnectReasonCode, Packet, Puback, PubackReasonCode, Publish, Suback,
        Subscribe, SubscribeReasonCode,
    },
};
use smol::net::{TcpListener, TcpStream};

type Received = Rc<RefCell<Vec<(String, Message, bool)>>>;

struct Broker {
    listener: TcpListener,
    connack: Connack,
    outbox: Outbox,
    received: Received,
}

/// Runs a bridge beside what its broker does.
fn run(qos: QoS, script: impl AsyncFnOnce(&mut Broker)) {
    smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("mqtt://me:secret@{}", listener.local_addr().unwrap());
        let (mut bridge, outbox) = Bridge::new(Options {
            broker: super::Broker::parse(&url).unwrap(),
            prefix: "site1/".into(),
            qos,
            max_message_bytes: 64 * 1024,
        });
        bridge.shortest_wait = Duration::from_millis(1);
        let received = Received::default();
        let kept = received.clone();
        let bridge = bridge.run(move |name, message, retained| {
            kept.borrow_mut().push((name.into(), message, retained));
        });
        let mut broker = Broker {
            listener,
            connack: Connack::new(false, ConnectReasonCode::Success),
            outbox,
            received,
        };
        let hung = async {
            Timer::after(Duration::from_secs(30)).await;
            panic!("it hangs");
        };
        future::or(script(&mut broker), future::or(bridge, hung)).await;
    });
}

impl Broker {
    /// The next connection, before the broker says a word.
    async fn accept(&self) -> Client {
        let (stream, _) = self.listener.accept().await.unwrap();
        let bytes = Vec::new();
        Client { stream, bytes }
    }

    /// The next connection, with a subscription.
    async fn connected(&self) -> Client {
        let mut client = self.accept().await;
        client.connect().await;
        client.send(self.connack.clone()).await;
        let subscribe = client.subscribe().await;
        client
            .send(Suback::new(
                subscribe.pid,
                vec![SubscribeReasonCode::GrantedQoS1],
            ))
            .await;
        client
    }

    /// Waits until so many messages came to the bridge.
    async fn until_received(&self, number: usize) {
        while self.received.borrow().len() < number {
            future::yield_now().await;
        }
    }

    async fn until_counted(&self, is_enough: impl Fn(Counters) -> bool) {
        while !is_enough(self.outbox.counters()) {
            future::yield_now().await;
        }
    }
}

struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    /// Its next packet, or `None` if it goes.
    async fn packet(&mut self) -> Option<Packet> {
        loop {
            if let Some((start, len)) = packet::extent(&self.bytes).unwrap() {
                if self.bytes.len() >= start + len {
                    let rest = self.bytes.split_off(start + len);
                    let packet = std::mem::replace(&mut self.bytes, rest);
                    return Packet::decode(&packet).unwrap();
                }
            }
            let mut chunk = [0; 1024];
            let read = self.stream.read(&mut chunk).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.bytes.extend_from_slice(&chunk[..read]);
        }
    }

    async fn connect(&mut self) -> Connect {
        match self.packet().await {
            Some(Packet::Connect(connect)) => connect,
            other => panic!("{other:?}"),
        }
    }

    async fn subscribe(&mut self) -> Subscribe {
        match self.packet().await {
            Some(Packet::Subscribe(subscribe)) => subscribe,
            other => panic!("{other:?}"),
        }
    }

    async fn publish(&mut self) -> Publish {
        match self.packet().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("{other:?}"),
        }
    }

    async fn acknowledge(&mut self, publish: &Publish) {
        self.send(Puback::new_success(publish.qos_pid.pid().unwrap()))
            .await;
    }

    async fn send(&mut self, packet: impl Into<Packet>) {
        let packet = packet.into().encode().unwrap();
        self.send_bytes(packet.as_ref()).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn until_gone(&mut self) {
        while self.packet().await.is_some() {}
    }
}

fn publish(topic: &str, payload: &'static [u8], pid: Option<u16>) -> Publish {
    let pid = pid.map_or(QosPid::Level0, |pid| {
        QosPid::Level1(pid.try_into().unwrap())
    });
    Publish::new(pid, topic.try_into().unwrap(), payload.into())
}

#[test]
fn it_introduces_itself_and_asks_for_what_others_say() {
    run(QoS::Level1, async |broker| {
        let mut client = broker.accept().await;
        let connect = client.connect().await;
        assert_eq!(connect.username.as_deref(), Some("me"));
        assert_eq!(connect.password.as_deref(), Some(&b"secret"[..]));
        assert_eq!((connect.client_id.len(), connect.keep_alive), (20, 60));
        assert!(!connect.clean_start);
        assert_eq!(connect.properties.session_expiry_interval, Some(120));
        assert_eq!(connect.properties.max_packet_size, Some((64 + 8) * 1024));
        assert_eq!(connect.properties.receive_max, Some(64));
        assert_eq!(connect.properties.topic_alias_max, None);
        client.send(broker.connack.clone()).await;
        let subscribe = client.subscribe().await;
        let (filter, options) = &subscribe.topics[0];
        assert_eq!((&**filter, subscribe.topics.len()), ("site1/#", 1));
        assert!(options.no_local && !options.retain_as_published);
        assert_eq!(options.max_qos, QoS::Level1);
    });
}

#[test]
fn what_is_published_goes_out_as_it_is() {
    run(QoS::Level1, async |broker| {
        broker.outbox.publish("early", "1".into(), true);
        // None.
        broker.connack.properties.server_keep_alive = Some(0);
        let mut client = broker.connected().await;
        let early = client.publish().await;
        assert_eq!(
            (&*early.topic_name, &early.payload[..]),
            ("site1/early", &b"1"[..])
        );
        assert!(early.retain && !early.dup);
        assert_eq!(early.properties.payload_is_utf8, Some(true));
        broker.outbox.publish("late", vec![0xff].into(), false);
        let late = client.publish().await;
        assert!(!late.retain);
        assert_eq!(late.properties.payload_is_utf8, Some(false));
        client.acknowledge(&early).await;
        let pid = late.qos_pid.pid().unwrap();
        let unread = PubackReasonCode::NoMatchingSubscribers;
        client.send(Puback::new(pid, unread)).await;
        broker
            .until_counted(|counters| counters.delivered == 2)
            .await;
    });
}

#[test]
fn what_others_publish_comes_in_and_is_acknowledged() {
    run(QoS::Level1, async |broker| {
        let mut client = broker.connected().await;
        for topic in ["site1", "site1/", "site2/a"] {
            client.send(publish(topic, b"not ours", None)).await;
        }
        let mut kept = publish("site1/a", b"20.5", None);
        kept.retain = true;
        client.send(kept).await;
        client.send(publish("site1/b/c", b"\xff", Some(9))).await;
        match client.packet().await {
            Some(Packet::Puback(puback)) => {
                assert_eq!(puback, Puback::new_success(Pid::try_from(9).unwrap()))
            }
            other => panic!("{other:?}"),
        }
        let expected = [
            ("a".into(), Message::from("20.5"), true),
            ("b/c".into(), Message::from(vec![0xff]), false),
        ];
        assert_eq!(*broker.received.borrow(), expected);
    });
}

#[test]
fn a_broker_that_always_has_more_gets_its_acknowledgements() {
    run(QoS::Level1, async |broker| {
        const BURST: u16 = 5000;

        let mut client = broker.connected().await;
        let mut burst = Vec::new();
        for pid in 1..=BURST {
            let packet = publish("site1/a", b"20.5", Some(pid)).into();
            burst.extend_from_slice(Packet::encode(&packet).unwrap().as_ref());
        }
        client.send_bytes(&burst).await;
        for pid in 1..=BURST {
            match client.packet().await {
                Some(Packet::Puback(puback)) => assert_eq!(puback.pid.value(), pid),
                other => panic!("{pid}: {other:?}"),
            }
        }
    });
}

#[test]
fn what_was_not_acknowledged_is_sent_again_marked_and_with_its_number() {
    run(QoS::Level1, async |broker| {
        let mut client = broker.connected().await;
        for text in ["a", "b", "c"] {
            broker.outbox.publish("t", text.into(), false);
        }
        let a = client.publish().await;
        let b = client.publish().await;
        client.publish().await;
        // That of b is lost, and so is the one of c.
        client.acknowledge(&a).await;
        broker
            .until_counted(|counters| counters.delivered == 1)
            .await;
        drop(client);
        broker.outbox.publish("t", "d".into(), false);
        let mut client = broker.connected().await;
        let again = client.publish().await;
        assert!(again.dup);
        assert_eq!((again.qos_pid, &again.payload), (b.qos_pid, &b.payload));
        client.acknowledge(&again).await;
        for (text, dup) in [("c", true), ("d", false)] {
            let next = client.publish().await;
            assert_eq!((&next.payload[..], next.dup), (text.as_bytes(), dup));
            client.acknowledge(&next).await;
        }
        broker
            .until_counted(|counters| counters.delivered == 4)
            .await;
        assert_eq!(broker.outbox.counters().dropped, 0);
    });
}

#[test]
fn no_more_is_on_its_way_than_the_broker_allows() {
    run(QoS::Level1, async |broker| {
        broker.connack.properties.receive_max = Some(2);
        let mut client = broker.connected().await;
        for text in ["a", "b", "c"] {
            broker.outbox.publish("t", text.into(), false);
        }
        let a = client.publish().await;
        client.publish().await;
        // It answers what comes, so it has nothing else to say.
        client.send(publish("site1/x", b"", Some(1))).await;
        assert!(matches!(client.packet().await, Some(Packet::Puback(_))));
        client.acknowledge(&a).await;
        assert_eq!(&client.publish().await.payload[..], b"c");
    });
}

#[test]
fn what_the_broker_cannot_do_is_not_asked_of_it() {
    run(QoS::Level1, async |broker| {
        broker.connack.properties.max_qos = Some(QoS::Level0);
        broker.connack.properties.retain_available = Some(false);
        broker.connack.properties.max_packet_size = Some(40);
        let mut client = broker.connected().await;
        broker.outbox.publish("t", "x".repeat(41).into(), true);
        broker.outbox.publish("t", "x".into(), true);
        let publish = client.publish().await;
        assert_eq!(
            (publish.qos_pid, publish.retain, publish.payload.len()),
            (QosPid::Level0, false, 1)
        );
        broker
            .until_counted(|counters| counters.delivered == 1)
            .await;
        assert_eq!(broker.outbox.counters().dropped, 1);
    });
}

#[test]
fn what_the_broker_refuses_is_counted_and_not_sent_again() {
    run(QoS::Level1, async |broker| {
        let mut client = broker.connected().await;
        broker.outbox.publish("t", "a".into(), false);
        let refused = client.publish().await;
        let pid = refused.qos_pid.pid().unwrap();
        client
            .send(Puback::new(pid, PubackReasonCode::NotAuthorized))
            .await;
        broker.until_counted(|counters| counters.dropped == 1).await;
        drop(client);
        let mut client = broker.connected().await;
        broker.outbox.publish("t", "b".into(), false);
        assert_eq!(&client.publish().await.payload[..], b"b");
    });
}

#[test]
fn a_broker_that_stops_reading_is_heard_all_the_same_and_holds_no_more_than_the_outbox() {
    run(QoS::Level0, async |broker| {
        let mut client = broker.connected().await;
        let payload = "x".repeat(60_000);
        let mut published = 0;
        // More than the sockets of both hold, so that it gets stuck.
        while broker.outbox.counters().dropped < 10 {
            broker.outbox.publish("t", payload.as_str().into(), false);
            published += 1;
            future::yield_now().await;
        }
        for _ in 0..3 {
            client
                .send(publish("site1/a", b"still here", Some(7)))
                .await;
        }
        broker.until_received(3).await;
        // All that was not dropped is there, in its order, once it reads.
        let kept = published - broker.outbox.counters().dropped;
        let mut came = 0;
        while came < kept {
            came += u64::from(matches!(client.packet().await, Some(Packet::Publish(_))));
        }
        broker
            .until_counted(|counters| counters.delivered == kept)
            .await;
        assert_eq!(broker.outbox.counters().dropped + kept, published);
    });
}

#[test]
fn a_broker_that_breaks_the_rules_is_left_and_tried_again() {
    run(QoS::Level1, async |broker| {
        for bytes in [
            &b"\x36\x05\0\x01a\0\0"[..],
            b"\x30\xff\xff\xff\xff\x01",
            // A second CONNACK, and a second SUBACK.
            b"\x20\x03\0\0\0",
            b"\x90\x04\0\x01\0\x01",
        ] {
            let mut client = broker.connected().await;
            client.send_bytes(bytes).await;
            client.until_gone().await;
        }
        // Before the connection is taken, too.
        let mut client = broker.accept().await;
        client.connect().await;
        client.send_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        client.until_gone().await;
        broker.connected().await;
    });
}

#[test]
fn half_a_message_is_none() {
    run(QoS::Level1, async |broker| {
        let mut client = broker.connected().await;
        client.send_bytes(b"\x30\x08\0\x07site").await;
        drop(client);
        let mut client = broker.connected().await;
        // In pieces it is one.
        for byte in b"\x30\x0c\0\x07site1/a\0hi" {
            client.send_bytes(&[*byte]).await;
            future::yield_now().await;
        }
        broker.until_received(1).await;
        assert_eq!(
            *broker.received.borrow(),
            [("a".into(), Message::from("hi"), false)]
        );
    });
}

#[test]
fn a_silent_broker_is_pinged_and_left_when_it_does_not_answer() {
    run(QoS::Level1, async |broker| {
        broker.connack.properties.server_keep_alive = Some(1);
        let began = Instant::now();
        let mut client = broker.connected().await;
        for _ in 0..2 {
            assert_eq!(client.packet().await, Some(Packet::Pingreq));
            client.send(Packet::Pingresp).await;
        }
        assert_eq!(client.packet().await, Some(Packet::Pingreq));
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert_eq!(client.packet().await, None);
        assert!(began.elapsed() < session::PATIENCE);
        broker.connected().await;
    });
}

#[test]
fn a_broker_is_pinged_where_only_one_side_talks() {
    run(QoS::Level0, async |broker| {
        broker.connack.properties.server_keep_alive = Some(1);
        for broker_talks in [true, false] {
            let mut client = broker.connected().await;
            let mut talker = client.stream.clone();
            let talking = async {
                loop {
                    match broker_talks {
                        true => talker.write_all(b"\x30\x04\0\x01a\0").await.unwrap(),
                        false => broker.outbox.publish("a", "".into(), false),
                    }
                    Timer::after(Duration::from_millis(100)).await;
                }
            };
            let pinged = async { while client.packet().await != Some(Packet::Pingreq) {} };
            future::or(pinged, talking).await;
        }
    });
}

#[test]
fn a_broker_that_goes_each_time_is_tried_less_and_less_often() {
    run(QoS::Level1, async |broker| {
        let began = Instant::now();
        for _ in 0..12 {
            broker.accept().await;
        }
        // 1 s on average, and less than this once in a hundred million times. If they did not grow it would be 11 ms at most.
        assert!(began.elapsed() > Duration::from_millis(20));
    });
}

#[test]
fn a_broker_that_does_not_answer_the_subscription_is_left() {
    run(QoS::Level1, async |broker| {
        broker.connack.properties.server_keep_alive = Some(1);
        let mut client = broker.accept().await;
        client.connect().await;
        client.send(broker.connack.clone()).await;
        client.subscribe().await;
        while let Some(packet) = client.packet().await {
            assert_eq!(packet, Packet::Pingreq);
            client.send(Packet::Pingresp).await;
        }
        broker.connected().await;
    });
}

#[test]
fn a_broker_that_refuses_is_tried_again() {
    run(QoS::Level1, async |broker| {
        let mut client = broker.accept().await;
        client.connect().await;
        client
            .send(Connack::new(
                false,
                ConnectReasonCode::BadUserNameOrPassword,
            ))
            .await;
        client.until_gone().await;
        let mut client = broker.accept().await;
        client.connect().await;
        client.send(broker.connack.clone()).await;
        let subscribe = client.subscribe().await;
        client
            .send(Suback::new(
                subscribe.pid,
                vec![SubscribeReasonCode::NotAuthorized],
            ))
            .await;
        client.until_gone().await;
        let mut client = broker.accept().await;
        client.connect().await;
        let mut poor = broker.connack.clone();
        poor.properties.wildcard_subscription_available = Some(false);
        client.send(poor).await;
        assert_eq!(client.packet().await, None);
        broker.connected().await;
    });
}

#[test]
fn what_was_dropped_is_told_once() {
    let (bridge, outbox) = Bridge::new(Options {
        broker: super::Broker::parse("mqtt://b").unwrap(),
        prefix: String::new(),
        qos: QoS::Level1,
        max_message_bytes: 1,
    });
    assert_eq!(bridge.newly_dropped(), "");
    outbox.publish("#", "a".into(), false);
    outbox.publish("#", "b".into(), false);
    assert_eq!(
        bridge.newly_dropped(),
        "; 2 messages for it were dropped meanwhile"
    );
    assert_eq!(bridge.newly_dropped(), "");
    outbox.publish("#", "c".into(), false);
    assert_eq!(
        bridge.newly_dropped(),
        "; one message for it was dropped meanwhile"
    );
}

#[test]
fn waits_grow_to_half_a_minute() {
    for (attempt, most) in [(0, 0.5), (1, 1.0), (5, 16.0), (6, 30.0), (40, 30.0)] {
        let waits = [(); 1000].map(|()| back_off(SHORTEST_WAIT, attempt).as_secs_f64());
        let longest = waits.into_iter().fold(0.0, f64::max);
        let shortest = waits.into_iter().fold(most, f64::min);
        assert!(
            longest <= most && longest > most * 0.9 && shortest < most * 0.1,
            "{attempt}: {shortest} to {longest}"
        );
    }
}

#[test]
fn prefixes_are_levels_and_qualities_are_numbers() {
    for prefix in ["", "/", "site1/", "a b/c/"] {
        assert_eq!(Options::prefix(prefix), Ok(prefix.into()));
    }
    let long = "x".repeat(65_535) + "/";
    for prefix in ["site1", "+/", "#/", "\n/", "$share/a/", &long] {
        assert!(Options::prefix(prefix).is_err(), "{prefix}");
    }
    let levels = ["0", "1"].map(Options::qos);
    assert_eq!(levels, [Ok(QoS::Level0), Ok(QoS::Level1)]);
    assert!(Options::qos("2").is_err() && Options::qos("").is_err());
}

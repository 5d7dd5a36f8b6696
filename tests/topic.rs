//! One to many: what is published goes to all, and what happens to a slow subscriber was chosen, is counted, and harms no one.

mod support;

use futures_lite::{
    AsyncReadExt,
    future::{self, yield_now},
};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc, thread, time::Duration};
use support::{PING, PONG, Raw, TEXT, frame, until};
use whit::{
    CloseCode, Config, Connection, Hub, Message, Policy, PublishError, Server, Subscription, Topic,
    testing::{self, Client, TestServer},
};

/// The pipe of a slow client takes a few messages of this size.
const MESSAGE_BYTES: usize = 100;
const PIPE_BYTES: usize = 350;

fn message(number: usize) -> Message {
    format!("{number:0MESSAGE_BYTES$}").into()
}

fn number((opcode, payload): (u8, Vec<u8>)) -> usize {
    assert_eq!(opcode, TEXT);
    String::from_utf8(payload).unwrap().parse().unwrap()
}

/// All subscriptions that were made, in order.
type Subscriptions = Rc<RefCell<Vec<Subscription>>>;

/// A server at whose `/ws` each client subscribes to the topic `t`, and stays.
fn server(config: Config, policy: Policy) -> (Server, Topic, Subscriptions) {
    let server = Server::new().config(config);
    let topic = server.hub().topic("t");
    let subscriptions = Subscriptions::default();
    let (subscribed, made) = (topic.clone(), subscriptions.clone());
    let server = server.route("/ws", move |conn: Connection| {
        let (topic, subscriptions) = (subscribed.clone(), made.clone());
        async move {
            subscriptions
                .borrow_mut()
                .push(topic.subscribe(&conn, policy));
            loop {
                conn.read().await?;
            }
            #[expect(unreachable_code, reason = "for the type of its error")]
            Ok::<_, whit::Closed>(())
        }
    });
    (server, topic, subscriptions)
}

async fn subscribed(topic: &Topic, count: usize) {
    while topic.subscribers() < count {
        yield_now().await;
    }
}

/// Publishes so many, each when the one before went to all that take it.
async fn publish(topic: &Topic, count: usize) {
    for i in 0..count {
        topic.publish(message(i));
        topic.let_take().await;
    }
}

/// What a client that read nothing gets of so many, and what was missed.
fn get_slowly(policy: Policy, count: usize) -> (Vec<usize>, u64) {
    let (server, topic, subscriptions) = server(Config::new(), policy);
    let got = Rc::new(RefCell::new(Vec::new()));
    let numbers = got.clone();
    let run = move |server: TestServer| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        publish(&topic, count).await;
        let missed = subscriptions.borrow()[0].missed();
        while numbers.borrow().len() as u64 + missed < count as u64 {
            let number = number(slow.read_frame().await);
            numbers.borrow_mut().push(number);
        }
        missed
    };
    let missed = testing::run(server, run);
    (got.take(), missed)
}

#[test]
fn all_subscribers_get_all_messages_in_order() {
    let (server, topic, subscriptions) = server(Config::new(), Policy::DropOldest(1000));
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..5 {
            clients.push(server.connect("/ws").await.unwrap());
        }
        subscribed(&topic, 5).await;
        for i in 0..1000 {
            assert_eq!(topic.publish(message(i)), 5);
        }
        for client in &mut clients {
            for i in 0..1000 {
                assert_eq!(client.read().await.unwrap(), message(i));
            }
        }
        assert!(subscriptions.borrow().iter().all(|one| one.missed() == 0));
        assert_eq!(stats.snapshot().messages_sent, 5000);
        assert_eq!(stats.snapshot().messages_missed, 0);
    });
}

#[test]
fn what_is_published_does_not_overtake_what_waits() {
    /// Not all of them have a turn before more is published.
    const MANY: usize = 200;

    let (server, topic, _subscriptions) = server(Config::new(), Policy::DropOldest(1000));
    testing::run(server, |server| async move {
        let mut clients = Vec::new();
        for _ in 0..MANY {
            clients.push(server.connect("/ws").await.unwrap());
        }
        subscribed(&topic, MANY).await;
        for i in 0..60 {
            topic.publish(message(i));
            if i % 3 == 0 {
                yield_now().await;
            }
        }
        for client in &mut clients {
            for i in 0..60 {
                assert_eq!(client.read().await.unwrap(), message(i));
            }
        }
    });
}

#[test]
fn who_unsubscribes_gets_what_waits_and_no_more() {
    let (server, topic, subscriptions) = server(Config::new(), Policy::DropOldest(10));
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        subscribed(&topic, 1).await;
        topic.publish("one");
        topic.publish("two");
        subscriptions.borrow_mut().clear();
        assert_eq!(topic.publish("three"), 0);
        client.write("is anything left?").await.unwrap();
        assert_eq!(client.read().await.unwrap(), Message::from("one"));
        assert_eq!(client.read().await.unwrap(), Message::from("two"));
        client.close(CloseCode::NORMAL, "").await.unwrap();
    });
}

#[test]
fn drop_oldest_keeps_the_newest() {
    let (got, missed) = get_slowly(Policy::DropOldest(5), 50);
    assert_eq!(got.len() as u64 + missed, 50);
    assert!(missed > 0 && got.is_sorted());
    assert_eq!(got[got.len() - 5..], [45, 46, 47, 48, 49]);
}

#[test]
fn drop_newest_keeps_the_oldest() {
    let (got, missed) = get_slowly(Policy::DropNewest(5), 50);
    assert_eq!(got.len() as u64 + missed, 50);
    assert!(missed > 0);
    assert_eq!(got, (0..got.len()).collect::<Vec<_>>());
}

#[test]
fn latest_keeps_the_newest_only() {
    let (got, missed) = get_slowly(Policy::Latest, 50);
    assert_eq!(got.len() as u64 + missed, 50);
    assert_eq!(*got.last().unwrap(), 49);
    // All others were taken before the pipe was full.
    assert_eq!(got[..got.len() - 1], (0..got.len() - 1).collect::<Vec<_>>());
}

#[test]
fn latest_keeps_the_newest_of_each_key() {
    let (server, topic, subscriptions) = server(Config::new(), Policy::Latest);
    testing::run(server, |server| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        for i in 0..60 {
            topic.publish_keyed(["a", "b", "c"][i % 3], message(i));
            yield_now().await;
        }
        let missed = subscriptions.borrow()[0].missed();
        let mut newest = BTreeMap::new();
        for _ in 0..60 - missed {
            let number = number(slow.read_frame().await);
            newest.insert(number % 3, number);
        }
        assert_eq!(newest, [(0, 57), (1, 58), (2, 59)].into());
    });
}

#[test]
fn one_that_may_miss_nothing_is_closed_and_the_others_go_on() {
    let (server, topic, _subscriptions) = server(Config::new(), Policy::Close(5));
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        let mut fast = server.connect("/ws").await.unwrap();
        subscribed(&topic, 2).await;
        for i in 0..20 {
            topic.publish(message(i));
            assert_eq!(fast.read().await.unwrap(), message(i));
        }
        // The Close takes the place of what waited.
        let mut count = 0;
        let (code, reason) = loop {
            match slow.read_frame().await {
                (support::CLOSE, payload) => {
                    break (
                        u16::from_be_bytes([payload[0], payload[1]]),
                        String::from_utf8(payload[2..].to_vec()).unwrap(),
                    );
                }
                frame => assert_eq!(number(frame), count),
            }
            count += 1;
        };
        assert!((1..6).contains(&count), "{count}");
        assert_eq!(
            (code, &*reason),
            (1013, "too slow for what it subscribed to")
        );
        slow.send(frame(support::CLOSE, support::close_payload(1000, "")))
            .await;
        until(&stats, |stats| stats.open == 1).await;
        // Five that waited, and one more.
        assert_eq!(stats.snapshot().messages_dropped, 6);
    });
}

#[test]
fn a_slow_subscriber_is_told_what_it_missed_where_it_did() {
    let server = Server::new();
    let topic = server.hub().topic("t");
    let subscribed_to = topic.clone();
    let server = staying(server, move |conn| {
        subscribed_to
            .subscribe(conn, Policy::DropOldest(3))
            .tell_missed(|missed| format!("missed {missed}"))
    });
    testing::run(server, |server| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        publish(&topic, 30).await;
        let (mut next, mut told) = (0, 0);
        while next < 30 {
            let (opcode, payload) = slow.read_frame().await;
            let text = String::from_utf8(payload.clone()).unwrap();
            match text.strip_prefix("missed ") {
                Some(missed) => {
                    told += 1;
                    next += missed.parse::<usize>().unwrap();
                }
                None => {
                    assert_eq!(number((opcode, payload)), next);
                    next += 1;
                }
            }
        }
        assert_eq!(told, 1);
    });
}

#[test]
fn a_pong_does_not_wait_behind_a_topic() {
    let (server, topic, _subscriptions) = server(Config::new(), Policy::DropOldest(100));
    testing::run(server, |server| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        publish(&topic, 100).await;
        slow.send(frame(PING, "?")).await;
        let mut before = 0;
        while slow.read_frame().await.0 != PONG {
            before += 1;
        }
        // Those that were in the pipe, or framed already.
        assert!(before < 50, "{before}");
    });
}

#[test]
fn newcomers_are_greeted_with_what_is_kept() {
    let (server, topic, _subscriptions) = server(Config::new(), Policy::DropOldest(10));
    testing::run(server, |server| async move {
        topic.publish("nobody hears it");
        topic.keep(2);
        for text in ["one", "two", "three"] {
            topic.publish(text);
        }
        topic.publish_keyed("a", "a1");
        topic.publish_keyed("a", "a2");
        assert_eq!(topic.retained(), Some(Message::from("a2")));
        let mut client = server.connect("/ws").await.unwrap();
        let mut greeting = Vec::new();
        for _ in 0..3 {
            greeting.push(client.read().await.unwrap());
        }
        assert_eq!(greeting, ["two", "three", "a2"].map(Message::from));

        topic.keep(1);
        let mut client = server.connect("/ws").await.unwrap();
        for text in ["three", "a2"] {
            assert_eq!(client.read().await.unwrap(), Message::from(text));
        }
        topic.forget();
        let mut client = server.connect("/ws").await.unwrap();
        subscribed(&topic, 3).await;
        topic.publish("new");
        assert_eq!(client.read().await.unwrap(), Message::from("new"));
    });
}

#[test]
fn a_topic_that_nobody_uses_is_gone_unless_it_keeps_something() {
    let server = Server::new();
    let hub = server.hub();
    let topic = hub.topic("a");
    assert_eq!((hub.len(), topic.name()), (1, "a"));
    drop(topic);
    assert!(hub.is_empty() && hub.find("a").is_none());

    let topic = hub.topic("a");
    topic.keep(1);
    topic.publish("kept");
    drop(topic);
    let topic = hub.find("a").unwrap();
    assert_eq!(topic.retained(), Some(Message::from("kept")));
    topic.forget();
    drop(topic);
    assert!(hub.is_empty());
}

#[test]
fn a_subscriber_to_many_topics_gets_their_names() {
    let server = Server::new();
    let hub = server.hub();
    let (wide, kept) = (hub.clone(), hub.topic("house/kept"));
    kept.keep(1);
    kept.publish("before");
    let server = server.route("/ws", move |conn: Connection| {
        let hub = wide.clone();
        async move {
            let _subscription = hub.subscribe("house/", &conn, Policy::DropOldest(10));
            Err::<(), _>(conn.closed().await)
        }
    });
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        let greeting = client.read().await.unwrap();
        assert_eq!(greeting, Message::from("house/kept\nbefore"));
        let topic = hub.topic("house/kitchen");
        subscribed(&topic, 1).await;
        assert_eq!(hub.topic("garden").publish("unheard"), 0);
        assert_eq!(topic.publish("20.5"), 1);
        assert_eq!(topic.publish(vec![1, 2]), 1);
        let text = client.read().await.unwrap();
        assert_eq!(text, Message::from("house/kitchen\n20.5"));
        let binary = client.read().await.unwrap();
        assert_eq!(binary, Message::from(b"house/kitchen\n\x01\x02".to_vec()));
    });
}

/// A server at whose `/ws` each client subscribes to all topics.
fn wide_server(config: Config, policy: Policy) -> (Server, Hub, Subscriptions) {
    let server = Server::new().config(config);
    let hub = server.hub();
    let subscriptions = Subscriptions::default();
    let (wide, made) = (hub.clone(), subscriptions.clone());
    let server = server.route("/ws", move |conn: Connection| {
        let (hub, subscriptions) = (wide.clone(), made.clone());
        async move {
            let subscription = hub.subscribe("", &conn, policy);
            subscriptions.borrow_mut().push(subscription);
            Err::<(), _>(conn.closed().await)
        }
    });
    (server, hub, subscriptions)
}

#[test]
fn what_greets_a_subscriber_to_many_topics_has_room_whoever_reads_nothing() {
    const TOPICS: usize = 1000;
    let config = Config::new().memory_budget_bytes(4 * 1024 * 1024);
    // What is kept leaves no room for a second copy of it.
    let (server, hub, subscriptions) = wide_server(config, Policy::Close(256));
    testing::run(server, |server| async move {
        for i in 0..TOPICS {
            let topic = hub.topic(&format!("house/room/{i:03}"));
            topic.keep(1);
            topic.publish(format!("{i:0400}"));
        }
        let mut hoarders = Vec::new();
        for _ in 0..2 {
            hoarders.push(Raw::open_holding(&server, "/ws", PIPE_BYTES).await);
        }
        let mut client = server.connect("/ws").await.unwrap();
        for i in 0..TOPICS {
            let greeting = client.read().await.unwrap();
            let expected = format!("house/room/{i:03}\n{i:0400}");
            assert_eq!(greeting, Message::from(expected));
        }
        let missed: u64 = subscriptions
            .borrow()
            .iter()
            .map(Subscription::missed)
            .sum();
        assert_eq!(missed, 0);
    });
}

#[test]
fn who_reads_many_topics_loses_nothing_to_one_who_hoards() {
    let config = || Config::new().memory_budget_bytes(1024 * 1024);
    let publish = |topic: &Topic, i: usize| topic.publish(format!("{i:02000}"));
    // Whatever fits last: a message, or no message with its name before it.
    for before in 100..115 {
        let policy = Policy::DropOldest(1_000_000);
        let (server, hub, subscriptions) = wide_server(config(), policy);
        let (topic, made) = (hub.topic("t"), subscriptions.clone());
        let server = server.route("/t", move |conn: Connection| {
            let (topic, subscriptions) = (topic.clone(), made.clone());
            async move {
                let subscription = topic.subscribe(&conn, policy);
                subscriptions.borrow_mut().push(subscription);
                Err::<(), _>(conn.closed().await)
            }
        });
        testing::run(server, |server| async move {
            let topic = hub.topic("t");
            let _hoarder = Raw::open_holding(&server, "/t", PIPE_BYTES).await;
            subscribed(&topic, 1).await;
            for i in 0..before {
                publish(&topic, i);
                topic.let_take().await;
            }
            let _other = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
            subscribed(&topic, 2).await;
            let missed = |of: usize| subscriptions.borrow()[of].missed();
            for i in 0.. {
                publish(&topic, i);
                topic.let_take().await;
                assert_eq!(missed(1), 0, "{before} before it came, {i} since");
                if missed(0) > 0 {
                    break;
                }
            }
        });
    }
}

#[test]
fn latest_keeps_the_newest_of_each_of_many_topics() {
    let (server, hub, _subscriptions) = wide_server(Config::new(), Policy::Latest);
    testing::run(server, |server| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        let topics = ["a", "b"].map(|name| hub.topic(name));
        subscribed(&topics[0], 1).await;
        for i in 0..60 {
            topics[i % 2].publish(message(i));
            yield_now().await;
        }
        let mut newest = BTreeMap::<String, usize>::new();
        while newest.values().copied().collect::<Vec<_>>() != [58, 59] {
            let text = String::from_utf8(slow.read_frame().await.1).unwrap();
            let (name, number) = text.split_once('\n').unwrap();
            newest.insert(name.to_owned(), number.parse().unwrap());
        }
    });
}

#[test]
fn other_threads_can_publish() {
    let (server, topic, _subscriptions) = server(Config::new(), Policy::DropOldest(10_000));
    let publisher = topic.publisher();
    let kept = publisher.clone();
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        subscribed(&topic, 1).await;
        let thread = thread::spawn(move || {
            for i in 0..5000 {
                let mut text = message(i);
                while let Err(error) = publisher.publish(text) {
                    let PublishError::Full(full) = error else {
                        panic!("{error}");
                    };
                    text = full;
                    thread::yield_now();
                }
            }
        });
        for i in 0..5000 {
            assert_eq!(client.read().await.unwrap(), message(i));
        }
        thread.join().unwrap();
    });
    let error = kept.publish_keyed("a", "late").unwrap_err();
    assert_eq!(error, PublishError::Ended(Message::from("late")));
}

#[test]
fn slow_subscribers_keep_within_the_budget_and_harm_no_one() {
    const BUDGET: usize = 1024 * 1024;

    let config = Config::new()
        .memory_budget_bytes(BUDGET)
        .write_timeout(Duration::from_secs(60));
    let (server, topic, subscriptions) = server(config, Policy::DropOldest(1_000_000));
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut fast = server.connect("/ws").await.unwrap();
        subscribed(&topic, 1).await;
        let mut slow = Vec::new();
        for _ in 0..10 {
            slow.push(Raw::open_holding(&server, "/ws", PIPE_BYTES).await);
        }
        subscribed(&topic, 11).await;
        topic.keep(5);
        for _ in 0..1000 {
            topic.publish(vec![7; 4000]);
            assert_eq!(fast.read().await.unwrap().len(), 4000);
        }
        let peak = stats.snapshot().memory_peak_bytes;
        assert!(peak <= BUDGET / 2, "{peak}");
        assert_eq!(stats.snapshot().shed, 0);
        let missed: u64 = subscriptions
            .borrow()
            .iter()
            .map(Subscription::missed)
            .sum();
        assert_eq!(stats.snapshot().messages_missed, missed);
        assert!(missed > 9_000, "{missed}");
        assert_eq!(subscriptions.borrow()[0].missed(), 0);
        subscriptions.borrow_mut().clear();
        topic.forget();
        drop((fast, slow));
        until(&stats, |stats| {
            stats.open == 0 && stats.memory_used_bytes == 0
        })
        .await;
    });
}

#[test]
fn what_is_kept_in_place_of_another_takes_no_room_from_the_slow() {
    // A quarter of the budget has no room for two of these.
    const KEPT_BYTES: usize = 160_000;

    let config = Config::new().memory_budget_bytes(1024 * 1024);
    let (server, topic, subscriptions) = server(config, Policy::DropOldest(100));
    let kept = server.hub().topic("kept");
    kept.keep(1);
    testing::run(server, |server| async move {
        kept.publish(vec![1; KEPT_BYTES]);
        let _slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        publish(&topic, 20).await;
        kept.publish(vec![2; KEPT_BYTES]);
        assert_eq!(kept.retained(), Some(vec![2; KEPT_BYTES].into()));
        assert_eq!(subscriptions.borrow()[0].missed(), 0);
    });
}

#[test]
fn what_waits_for_many_is_charged_once() {
    let (server, topic, _subscriptions) = server(Config::new(), Policy::DropOldest(10));
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut slow = Vec::new();
        for _ in 0..20 {
            slow.push(Raw::open_holding(&server, "/ws", PIPE_BYTES).await);
        }
        subscribed(&topic, 20).await;
        topic.publish(vec![0; 5000]);
        topic.publish(vec![0; 5000]);
        until(&stats, |stats| stats.open == 20).await;
        let before = stats.snapshot().memory_used_bytes;
        topic.publish(vec![0; 50_000]);
        let more = stats.snapshot().memory_used_bytes - before;
        assert!((50_000..70_000).contains(&more), "{more}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_late_waits_where_newer_can_take_its_place() {
    use rustix::net::{self, AddressFamily, SocketType, sockopt};
    use std::{io::Write, net::TcpStream};

    let (server, topic, subscriptions) = server(Config::new(), Policy::Latest);
    testing::run(server, |server| async move {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        net::connect(&socket, &server.addr()).unwrap();
        let mut narrow: TcpStream = socket.into();
        narrow
            .write_all(support::handshake("/ws").as_bytes())
            .unwrap();
        subscribed(&topic, 1).await;
        for _ in 0..100 {
            topic.publish(vec![7; 20_000]);
            topic.let_take().await;
        }
        let missed = subscriptions.borrow()[0].missed();
        assert!(missed > 90, "{missed}");
    });
}

#[test]
fn a_server_has_one_hub() {
    let server = Server::new();
    let topic = server.hub().topic("t");
    assert_eq!(server.hub().find("t").unwrap().name(), topic.name());
}

/// A hub can be asked by handlers, and outlive its server.
#[test]
fn a_hub_outlives_its_server() {
    let server = Server::new();
    let hub: Hub = server.hub();
    drop(server);
    let topic = hub.topic("t");
    let publisher = topic.publisher();
    assert_eq!(topic.publish("to nobody"), 0);
    let error = publisher.publish("late").unwrap_err();
    assert_eq!(error, PublishError::Ended(Message::from("late")));
}

/// A server at whose `/ws` each client that comes does what `begin` says, and stays.
fn staying(
    server: Server,
    begin: impl Fn(&Connection) -> Subscription + Clone + 'static,
) -> Server {
    server.route("/ws", move |conn: Connection| {
        let begin = begin.clone();
        async move {
            let _subscription = begin(&conn);
            Err::<(), _>(conn.closed().await)
        }
    })
}

#[test]
fn who_is_told_what_it_missed_may_cause_a_message() {
    let server = Server::new();
    let hub = server.hub();
    let topic = hub.topic("t");
    let subscribed_to = topic.clone();
    let server = staying(server, move |conn| {
        let complaints = hub.topic("complaints");
        let heard = complaints.subscribe(conn, Policy::DropOldest(10));
        subscribed_to
            .subscribe(conn, Policy::DropOldest(3))
            .tell_missed(move |missed| {
                let _heard = &heard;
                complaints.publish("someone is slow");
                format!("missed {missed}")
            })
    });
    testing::run(server, |server| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        publish(&topic, 30).await;
        while !slow.read_frame().await.1.starts_with(b"missed") {}
        for i in 27..30 {
            assert_eq!(number(slow.read_frame().await), i);
        }
        assert_eq!(slow.read_frame().await.1, b"someone is slow");
    });
}

#[test]
fn each_key_is_kept_and_so_many_without_one() {
    let server = Server::new();
    let topic = server.hub().topic("t");
    topic.keep(2);
    for key in ["a", "b", "c"] {
        topic.publish_keyed(key, key);
    }
    for text in ["one", "two", "three"] {
        topic.publish(text);
    }
    let subscribed_to = topic.clone();
    let server = staying(server, move |conn| {
        subscribed_to.subscribe(conn, Policy::DropOldest(10))
    });
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        for text in ["a", "b", "c", "two", "three"] {
            assert_eq!(client.read().await.unwrap(), Message::from(text));
        }
        topic.keep(1);
        let mut client = server.connect("/ws").await.unwrap();
        for text in ["a", "b", "c", "three"] {
            assert_eq!(client.read().await.unwrap(), Message::from(text));
        }
    });
}

#[test]
fn a_greeting_may_be_longer_than_what_may_wait() {
    for policy in [
        Policy::Close(1),
        Policy::DropOldest(1),
        Policy::DropNewest(1),
        Policy::Latest,
    ] {
        let (server, topic, subscriptions) = server(Config::new(), policy);
        topic.keep(300);
        for i in 0..300 {
            topic.publish(message(i));
        }
        testing::run(server, |server| async move {
            let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
            subscribed(&topic, 1).await;
            topic.publish(message(300));
            for i in 0..=300 {
                assert_eq!(number(slow.read_frame().await), i, "{policy:?}");
            }
            assert_eq!(subscriptions.borrow()[0].missed(), 0);
        });
    }
}

#[test]
fn a_greeting_is_not_charged_again() {
    let (server, topic, _subscriptions) = server(Config::new(), Policy::DropOldest(100));
    let stats = server.stats_handle();
    topic.keep(20);
    for _ in 0..20 {
        topic.publish(vec![7; 20_000]);
    }
    testing::run(server, |server| async move {
        let _slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        let before = stats.snapshot().memory_used_bytes;
        let mut more = Vec::new();
        for _ in 0..10 {
            more.push(Raw::open_holding(&server, "/ws", PIPE_BYTES).await);
        }
        subscribed(&topic, 11).await;
        let each = (stats.snapshot().memory_used_bytes - before) / 10;
        // What a connection takes, and the first message.
        assert!(each < 40_000, "{each}");
    });
}

#[test]
fn a_topic_that_keeps_much_harms_no_one() {
    let config = Config::new().memory_budget_bytes(1024 * 1024);
    let (server, topic, subscriptions) = server(config, Policy::DropOldest(100));
    topic.keep(1_000_000);
    testing::run(server, |server| async move {
        let mut fast = server.connect("/ws").await.unwrap();
        subscribed(&topic, 1).await;
        for _ in 0..300 {
            // The second waits for its turn.
            for i in 0..2 {
                topic.publish(vec![i; 4000]);
                assert!(topic.retained() == Some(Message::from(vec![i; 4000])));
            }
            for i in 0..2 {
                assert!(fast.read().await == Ok(Message::from(vec![i; 4000])));
            }
        }
        assert_eq!(subscriptions.borrow()[0].missed(), 0);
    });
}

#[test]
fn who_unsubscribed_or_closes_gives_way_to_others() {
    const BUDGET: usize = 1024 * 1024;

    let config = Config::new().memory_budget_bytes(BUDGET);
    let (server, topic, subscriptions) = server(config, Policy::DropOldest(1000));
    testing::run(server, |server| async move {
        let _hoarder = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        for _ in 0..55 {
            topic.publish(vec![7; 4000]);
        }
        assert_eq!(subscriptions.borrow()[0].missed(), 0);
        subscriptions.borrow_mut().clear();
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        for _ in 0..50 {
            topic.publish(vec![7; 4000]);
        }
        assert_eq!(subscriptions.borrow()[0].missed(), 0);
        for _ in 0..50 {
            assert_eq!(slow.read_frame().await.1.len(), 4000);
        }
    });
}

#[test]
fn what_there_is_never_room_for_costs_no_one_else() {
    const BUDGET: usize = 1024 * 1024;

    let config = Config::new().memory_budget_bytes(BUDGET);
    let (server, topic, subscriptions) = server(config, Policy::DropOldest(1000));
    testing::run(server, |server| async move {
        let _slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        publish(&topic, 20).await;
        topic.publish(vec![7; BUDGET / 4]);
        assert_eq!(subscriptions.borrow()[0].missed(), 1);
    });
}

#[test]
fn who_has_nothing_waiting_is_told_what_it_missed_before_the_next() {
    const BUDGET: usize = 1024 * 1024;

    let config = Config::new().memory_budget_bytes(BUDGET);
    let server = Server::new().config(config);
    let topic = server.hub().topic("t");
    let subscribed_to = topic.clone();
    let server = staying(server, move |conn| {
        subscribed_to
            .subscribe(conn, Policy::DropOldest(1000))
            .tell_missed(|missed| format!("missed {missed}"))
    });
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        topic.publish(vec![7; 1000]);
        topic.publish(vec![7; BUDGET / 4]);
        assert_eq!(stats.snapshot().messages_missed, 1);
        assert_eq!(slow.read_frame().await.1.len(), 1000);
        topic.publish("next");
        assert_eq!(slow.read_frame().await.1, b"missed 1");
        assert_eq!(slow.read_frame().await.1, b"next");
    });
}

#[test]
fn what_is_lost_with_a_connection_was_not_missed() {
    let (server, topic, subscriptions) = server(Config::new(), Policy::DropOldest(1000));
    let stats = server.stats_handle();
    testing::run(server, |server| async move {
        let slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        publish(&topic, 20).await;
        drop(slow);
        until(&stats, |stats| stats.open == 0).await;
        let stats = stats.snapshot();
        assert_eq!(stats.messages_sent + stats.messages_dropped, 20);
        assert_eq!(
            (stats.messages_missed, subscriptions.borrow()[0].missed()),
            (0, 0)
        );
    });
}

#[test]
fn what_one_topic_keeps_leaves_room_for_what_another_has_wait() {
    let config = Config::new().memory_budget_bytes(1024 * 1024);
    let (server, topic, subscriptions) = server(config, Policy::DropOldest(100));
    let full = server.hub().topic("full");
    testing::run(server, |server| async move {
        let mut fast = server.connect("/ws").await.unwrap();
        subscribed(&topic, 1).await;
        full.keep(1_000_000);
        for _ in 0..300 {
            full.publish(vec![7; 4000]);
        }
        // The second waits for its turn.
        topic.publish(vec![1; 4000]);
        topic.publish(vec![2; 4000]);
        assert_eq!(subscriptions.borrow()[0].missed(), 0);
        for byte in 1..3 {
            assert!(fast.read().await == Ok(Message::from(vec![byte; 4000])));
        }
    });
}

/// Whatever becomes of a message, for each who subscribes it is counted once.
#[test]
fn all_messages_are_accounted_for() {
    const POLICIES: [Policy; 4] = [
        Policy::DropOldest(7),
        Policy::DropNewest(3),
        Policy::Latest,
        Policy::DropOldest(100_000),
    ];

    let config = Config::new().memory_budget_bytes(1024 * 1024);
    let server = Server::new().config(config);
    let (hub, stats) = (server.hub(), server.stats_handle());
    let subscriptions = Subscriptions::default();
    let (subscribed_to, made) = (hub.clone(), subscriptions.clone());
    let server = server.route("/ws", move |conn: Connection| {
        let (hub, subscriptions) = (subscribed_to.clone(), made.clone());
        async move {
            let count = subscriptions.borrow().len() / 2;
            let policy = POLICIES[count % POLICIES.len()];
            let one = hub
                .topic(["a", "b"][count / 3 % 2])
                .subscribe(&conn, policy);
            let many = hub.subscribe("", &conn, policy);
            subscriptions.borrow_mut().extend([one, many]);
            Err::<(), _>(conn.closed().await)
        }
    });
    testing::run(server, |server| async move {
        let topics = ["a", "b", "c"].map(|name| hub.topic(name));
        let mut clients = Vec::new();
        for i in 0..24 {
            clients.push(Raw::open_holding(&server, "/ws", PIPE_BYTES).await);
            while subscriptions.borrow().len() < 2 * (i + 1) {
                yield_now().await;
            }
        }
        let mut published = 0;
        let mut bytes = [0; 4096];
        let mut state = 7_u32;
        let mut random = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as usize % below
        };
        for _ in 0..3000 {
            let topic = &topics[random(3)];
            let message = vec![7; 1 << random(13)];
            published += match random(3) {
                0 => topic.publish(message),
                _ => topic.publish_keyed(&random(9).to_string(), message),
            };
            if random(3) == 0 {
                topic.let_take().await;
                // Some read sometimes, and others never.
                let client = &mut clients[random(12)];
                future::poll_once(client.stream.read(&mut bytes)).await;
            }
        }
        let missed: u64 = subscriptions
            .borrow()
            .iter()
            .map(Subscription::missed)
            .sum();
        assert_eq!(stats.snapshot().messages_missed, missed);
        drop(clients);
        until(&stats, |stats| stats.open == 0).await;
        let stats = stats.snapshot();
        let counted = stats.messages_sent + stats.messages_dropped + stats.messages_missed;
        assert_eq!(counted, published as u64);
    });
}

#[test]
fn what_was_kept_before_the_server_began_has_to_fit() {
    let config = Config::new().memory_budget_bytes(1024 * 1024);
    let (server, topic, _subscriptions) = server(config, Policy::DropOldest(10));
    topic.keep(100);
    for number in 0..50 {
        topic.publish(format!("{number:040000}"));
    }
    testing::run(server, |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        for expected in 46..50 {
            let message = client.read().await.unwrap();
            assert_eq!(message, Message::from(format!("{expected:040000}")));
        }
    });
}

#[test]
fn what_tells_of_missed_messages_may_set_another_in_its_place() {
    type Cell = Rc<RefCell<Option<Subscription>>>;

    let server = Server::new();
    let topic = server.hub().topic("t");
    let subscribed_to = topic.clone();
    let server = server.route("/ws", move |conn: Connection| {
        let topic = subscribed_to.clone();
        async move {
            let subscription = Cell::default();
            let within = subscription.clone();
            let subscribed = topic.subscribe(&conn, Policy::DropOldest(3));
            let subscribed = subscribed.tell_missed(move |missed| {
                let told: Option<Subscription> = within.take();
                within.replace(told.map(|told| told.tell_missed(|_| "another")));
                format!("missed {missed}")
            });
            subscription.replace(Some(subscribed));
            let closed = conn.closed().await;
            subscription.take();
            Err::<(), _>(closed)
        }
    });
    testing::run(server, |server| async move {
        let mut slow = Raw::open_holding(&server, "/ws", PIPE_BYTES).await;
        subscribed(&topic, 1).await;
        for said in ["missed ", "another"] {
            publish(&topic, 30).await;
            while !slow.read_frame().await.1.starts_with(said.as_bytes()) {}
            for i in 27..30 {
                assert_eq!(number(slow.read_frame().await), i);
            }
        }
    });
}

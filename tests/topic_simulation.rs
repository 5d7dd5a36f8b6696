//! Whatever is published, whoever subscribes and however slow they are: a deterministic simulation beside a model of what each subscriber
//! is to get, with a seed for each run.
//!
//! A thousand seeds are run; `WHIT_SEEDS=100000 cargo test --release --test topic_simulation` runs more, and `WHIT_SEED=7` that
//! one alone, with all that happened in it.

mod support;

use async_channel::{Receiver, Sender, unbounded};
use futures_lite::{AsyncRead, AsyncWrite};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use support::{
    CLOSE, TEXT, close_payload, frame, handshake,
    seeds::{Chance, play, take_frame},
};
use whit::{
    Closed, Config, Connection, Hub, Policy, Server, StatsHandle, Subscription, Topic,
    testing::{Pipe, Simulation},
};

const SEEDS: u64 = 1000;
/// The first is one of those that begin with it, too.
const TOPICS: [&str; 3] = ["a", "a/b", "c"];

#[test]
fn each_subscriber_gets_what_its_policy_says_and_all_the_rest_is_counted() {
    let totals = play(SEEDS, |seed, told| Run::new(seed, told).play(), Totals::add);
    let Some(totals) = totals else { return };
    println!("{totals:?}");
    // It would prove little if it never came to this.
    let Totals {
        judged,
        whole,
        greeted,
        told,
        too_slow,
        starved,
        shed,
    } = totals;
    let all: u64 = judged.iter().sum();
    assert!(judged.iter().all(|&count| count > 100));
    assert!(whole > 100 && whole < all - 100);
    assert!(greeted > 100 && told > 100 && too_slow > 100);
    assert!(starved > 10 && shed > 0);
}

/// What it came to, over all runs.
#[derive(Debug, Default)]
struct Totals {
    /// Subscriptions whose end was compared with the model, by policy.
    judged: [u64; 4],
    /// Those of them that missed nothing.
    whole: u64,
    greeted: u64,
    told: u64,
    too_slow: u64,
    /// Runs in which topics came to the end of their room.
    starved: u64,
    shed: u64,
}

impl Totals {
    fn add(&mut self, more: Self) {
        for (sum, count) in self.judged.iter_mut().zip(more.judged) {
            *sum += count;
        }
        self.whole += more.whole;
        self.greeted += more.greeted;
        self.told += more.told;
        self.too_slow += more.too_slow;
        self.starved += more.starved;
        self.shed += more.shed;
    }
}

/// A message that was published.
#[derive(Clone, Copy, PartialEq)]
struct Sent {
    number: usize,
    topic: usize,
    key: Option<usize>,
}

/// What a topic is to keep.
#[derive(Default)]
struct ModelKept {
    most: usize,
    messages: Vec<Sent>,
}

impl ModelKept {
    fn push(&mut self, sent: Sent) {
        if self.most > 0 {
            let replaced = |kept: &Sent| sent.key.is_some() && kept.key == sent.key;
            self.messages.retain(|kept| !replaced(kept));
            self.messages.push(sent);
            self.trim();
        }
    }

    fn trim(&mut self) {
        if self.most == 0 {
            self.messages.clear();
        }
        let is_keyless = |kept: &&Sent| kept.key.is_none();
        let keyless = self.messages.iter().filter(is_keyless).count();
        let mut leave = keyless.saturating_sub(self.most);
        self.messages.retain(|kept| {
            let goes = kept.key.is_none() && leave > 0;
            leave -= usize::from(goes);
            !goes
        });
    }
}

/// What one subscription is to get, and whether it is there.
struct Subscriber {
    client: usize,
    /// A topic, or all whose names begin with that.
    name: &'static str,
    is_wide: bool,
    policy: Policy,
    tells: bool,
    subscription: Option<Subscription>,
    /// How many it had missed when it unsubscribed.
    missed: u64,
    greeting: Vec<Sent>,
    published: Vec<Sent>,
}

impl Subscriber {
    fn hears(&self, topic: usize) -> bool {
        let name = TOPICS[topic];
        match self.is_wide {
            true => name.starts_with(self.name),
            false => name == self.name,
        }
    }

    fn missed(&self) -> u64 {
        let subscription = self.subscription.as_ref();
        subscription.map_or(self.missed, Subscription::missed)
    }

    fn leave(&mut self) {
        self.missed = self.missed();
        self.subscription = None;
    }
}

/// What is done on the server's side.
#[derive(Clone, Debug)]
enum Order {
    Publish {
        topic: usize,
        key: Option<usize>,
        len: usize,
    },
    Keep(usize, usize),
    Forget(usize),
    Unsubscribe(usize),
}

/// What handlers and the test share.
struct World {
    hub: Hub,
    topics: Vec<Topic>,
    kept: RefCell<Vec<ModelKept>>,
    count: Cell<usize>,
    subscribers: RefCell<Vec<Subscriber>>,
    orders: Receiver<Order>,
}

impl World {
    async fn handle(self: Rc<Self>, conn: Connection) -> Result<(), Closed> {
        let path = conn.request().path().to_owned();
        if let Some(client) = path.strip_prefix("/client/") {
            let client = client.parse().unwrap();
            self.subscribe(client, &conn);
            let closed = conn.closed().await;
            for subscriber in self.subscribers.borrow_mut().iter_mut() {
                if subscriber.client == client {
                    subscriber.leave();
                }
            }
            return Err(closed);
        }
        while let Ok(order) = self.orders.recv().await {
            self.carry_out(order);
        }
        Ok(())
    }

    fn subscribe(&self, client: usize, conn: &Connection) {
        let kept = self.kept.borrow();
        for subscriber in self.subscribers.borrow_mut().iter_mut() {
            if subscriber.client != client {
                continue;
            }
            let policy = subscriber.policy;
            let subscription = match subscriber.is_wide {
                true => self.hub.subscribe(subscriber.name, conn, policy),
                false => self.hub.topic(subscriber.name).subscribe(conn, policy),
            };
            let kind = if subscriber.is_wide { "wide" } else { "plain" };
            subscriber.subscription = Some(match subscriber.tells {
                true => subscription.tell_missed(move |missed| format!("{kind} missed {missed}")),
                false => subscription,
            });
            let topics = (0..TOPICS.len()).filter(|&topic| subscriber.hears(topic));
            let greeting = topics.flat_map(|topic| kept[topic].messages.clone());
            subscriber.greeting = greeting.collect();
        }
    }

    fn carry_out(&self, order: Order) {
        let mut kept = self.kept.borrow_mut();
        match order {
            Order::Publish { topic, key, len } => {
                let number = self.count.get();
                self.count.set(number + 1);
                let sent = Sent { number, topic, key };
                let mut subscribers = self.subscribers.borrow_mut();
                let mut hearing = 0;
                for subscriber in subscribers.iter_mut() {
                    if subscriber.subscription.is_some() && subscriber.hears(topic) {
                        subscriber.published.push(sent);
                        hearing += 1;
                    }
                }
                kept[topic].push(sent);
                let message = format!("{number}:{}", "x".repeat(len));
                let heard = match key {
                    Some(key) => self.topics[topic].publish_keyed(&key.to_string(), message),
                    None => self.topics[topic].publish(message),
                };
                assert_eq!(heard, hearing, "subscribers of {}", TOPICS[topic]);
            }
            Order::Keep(topic, most) => {
                kept[topic].most = most;
                kept[topic].trim();
                self.topics[topic].keep(most);
            }
            Order::Forget(topic) => {
                kept[topic].messages.clear();
                self.topics[topic].forget();
            }
            Order::Unsubscribe(subscriber) => self.subscribers.borrow_mut()[subscriber].leave(),
        }
    }
}

/// A client that does nothing but read, as fast as it may.
#[derive(Default)]
struct Client {
    pipe: Option<Pipe>,
    to_write: Vec<u8>,
    read: Vec<u8>,
    upgraded: bool,
    stalled: bool,
    /// The numbers of the messages that came, with a topic's name and without.
    got: [Vec<usize>; 2],
    /// How many it was told that it missed.
    told: [u64; 2],
    close: Option<(u16, String)>,
    eof: bool,
}

impl Client {
    /// Writes what it has to say. Tells whether any of it was taken.
    fn write(&mut self) -> bool {
        let Some(pipe) = self.pipe.as_mut().filter(|_| !self.to_write.is_empty()) else {
            return false;
        };
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(pipe).poll_write(&mut cx, &self.to_write) {
            Poll::Ready(Ok(count)) => {
                self.to_write.drain(..count);
                true
            }
            Poll::Ready(Err(_)) => {
                self.to_write.clear();
                true
            }
            Poll::Pending => false,
        }
    }

    /// Reads up to `most` bytes. Tells whether there were any, or the end.
    fn receive(&mut self, most: usize) -> bool {
        let Some(pipe) = self.pipe.as_mut().filter(|_| !self.eof) else {
            return false;
        };
        let mut bytes = vec![0; most];
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(pipe).poll_read(&mut cx, &mut bytes) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => self.eof = true,
            Poll::Ready(Ok(count)) => {
                self.read.extend(&bytes[..count]);
                self.understand();
            }
        }
        true
    }

    fn understand(&mut self) {
        if !self.upgraded {
            let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            if self.read.starts_with(b"HTTP/1.1 503 ") {
                self.eof = true;
                return;
            }
            assert!(self.read.starts_with(b"HTTP/1.1 101 "));
            self.read.drain(..end + 4);
            self.upgraded = true;
        }
        while let Some((opcode, payload)) = take_frame(&mut self.read) {
            assert_eq!(self.close, None, "a frame after the Close");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            match opcode {
                CLOSE => {
                    let (code, reason) = payload.split_first_chunk().unwrap();
                    self.close = Some((u16::from_be_bytes(*code), text(reason)));
                    self.to_write.extend(frame(CLOSE, close_payload(1000, "")));
                }
                TEXT => self.take(&text(&payload)),
                _ => panic!("opcode {opcode}"),
            }
        }
    }

    fn take(&mut self, text: &str) {
        for (at, kind) in ["plain missed ", "wide missed "].iter().enumerate() {
            if let Some(missed) = text.strip_prefix(kind) {
                self.told[at] += missed.parse::<u64>().unwrap();
                return;
            }
        }
        let (at, message) = match text.split_once('\n') {
            Some((topic, message)) => {
                assert!(TOPICS.contains(&topic), "{topic}");
                (1, message)
            }
            None => (0, text),
        };
        let (number, _) = message.split_once(':').unwrap();
        self.got[at].push(number.parse().unwrap());
    }
}

struct Run {
    chance: Chance,
    budget: usize,
    /// There is room for all that may wait and be kept.
    is_ample: bool,
    longest: usize,
    simulation: Simulation,
    stats: StatsHandle,
    world: Rc<World>,
    orders: Sender<Order>,
    conductor: Client,
    clients: Vec<Client>,
    told: bool,
}

impl Run {
    fn new(seed: u64, told: bool) -> Self {
        let mut chance = Chance(seed);
        let is_ample = chance.one_in(2);
        let budget = if is_ample { 32 << 20 } else { 1 << 20 };
        let longest = match is_ample {
            true => chance.pick(&[20, 20, 200, 5000]),
            false => chance.pick(&[5000, 20_000, 100_000]),
        };
        let config = Config::new()
            .memory_budget_bytes(budget)
            .write_timeout(Duration::from_secs(3600))
            .ping_interval(Duration::from_secs(3600));
        let server = Server::new().config(config);
        let hub = server.hub();
        let (orders, carried_out) = unbounded();
        let world = Rc::new(World {
            topics: TOPICS.map(|name| hub.topic(name)).into(),
            hub,
            kept: RefCell::new(TOPICS.map(|_| ModelKept::default()).into()),
            count: Cell::new(0),
            subscribers: RefCell::default(),
            orders: carried_out,
        });
        let within = world.clone();
        let server = server.route("/*", move |conn| within.clone().handle(conn));
        let stats = server.stats_handle();
        let mut run = Self {
            chance,
            budget,
            is_ample,
            longest,
            stats,
            simulation: Simulation::new(server),
            world,
            orders,
            conductor: Client::default(),
            clients: Vec::new(),
            told,
        };
        run.conductor = run.connect("/conductor", 1000);
        run.settle();
        run
    }

    fn connect(&self, path: &str, capacity: usize) -> Client {
        Client {
            pipe: Some(self.simulation.connect(capacity)),
            to_write: handshake(path).into_bytes(),
            ..Client::default()
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.told {
            println!("{}", what());
        }
    }

    fn play(mut self) -> Totals {
        for _ in 0..50 + self.chance.below(250) {
            self.act();
            self.check();
        }
        let totals = self.end();
        self.all_leave();
        totals
    }

    fn act(&mut self) {
        let topic = self.chance.below(TOPICS.len());
        match self.chance.below(32) {
            0..=1 => self.come(),
            2..=14 => {
                let count = self.chance.pick(&[1, 1, 1, 2, 10]);
                for _ in 0..count {
                    let key = self.chance.below(4);
                    let order = Order::Publish {
                        topic: self.chance.below(TOPICS.len()),
                        key: (key > 0).then_some(key),
                        len: self.chance.below(self.longest),
                    };
                    self.order(order);
                }
            }
            15 => {
                let most = self.chance.pick(&[0, 1, 3, 100]);
                self.order(Order::Keep(topic, most));
            }
            16 => self.order(Order::Forget(topic)),
            17..=21 => {
                self.simulation.step();
            }
            22..=24 => self.settle(),
            25..=28 if !self.clients.is_empty() => {
                let most = self.chance.pick(&[1, 30, 1000]);
                let who = self.chance.below(self.clients.len());
                self.clients[who].write();
                self.clients[who].receive(most);
            }
            29..=30 if !self.clients.is_empty() => {
                let who = self.chance.below(self.clients.len());
                let client = &mut self.clients[who];
                client.stalled = !client.stalled;
                let stalled = client.stalled;
                self.tell(|| format!("{who} stalled: {stalled}"));
            }
            31 if !self.clients.is_empty() => self.leave(),
            _ => {}
        }
    }

    fn order(&self, order: Order) {
        self.tell(|| format!("{order:?}"));
        self.orders.try_send(order).unwrap();
    }

    /// A client comes that is to subscribe to a topic, to many, or both.
    fn come(&mut self) {
        let client = self.clients.len();
        if client >= 12 {
            return;
        }
        let capacity = match self.longest {
            ..1000 => self.chance.pick(&[7, 40, 300, 300, 2000, 65_536]),
            _ => self.chance.pick(&[2000, 20_000, 65_536]),
        };
        let mut names = Vec::new();
        if self.chance.one_in(2) {
            names.push((self.chance.pick(&["", "a", "a/", "c"]), true));
        }
        if names.is_empty() || self.chance.one_in(2) {
            names.push((self.chance.pick(&TOPICS), false));
        }
        for (name, is_wide) in names {
            let most = self.chance.pick(&[0, 1, 2, 5, 40, 100_000]);
            let policies = [
                Policy::Close(most),
                Policy::DropOldest(most),
                Policy::DropNewest(most),
                Policy::Latest,
            ];
            let policy = self.chance.pick(&policies);
            let tells = self.chance.one_in(2);
            self.tell(|| format!("{client} comes: {name:?} {is_wide} {policy:?} {tells}"));
            self.world.subscribers.borrow_mut().push(Subscriber {
                client,
                name,
                is_wide,
                policy,
                tells,
                subscription: None,
                missed: 0,
                greeting: Vec::new(),
                published: Vec::new(),
            });
        }
        let client = self.connect(&format!("/client/{client}"), capacity);
        self.clients.push(client);
    }

    /// One unsubscribes, or its connection is lost.
    fn leave(&mut self) {
        let who = self.chance.below(self.clients.len());
        if self.chance.one_in(4) {
            self.tell(|| format!("{who} is lost"));
            self.clients[who].pipe = None;
        } else if self.chance.one_in(4) {
            let count = self.world.subscribers.borrow().len();
            self.order(Order::Unsubscribe(self.chance.clone().below(count)));
        }
    }

    /// Runs everything until nothing moves.
    fn settle(&mut self) {
        let mut rounds = 0;
        loop {
            let mut moved = self.simulation.step();
            for client in self.clients.iter_mut().chain([&mut self.conductor]) {
                moved |= !client.stalled && (client.write() | client.receive(100_000));
            }
            if !moved {
                break;
            }
            rounds += 1;
            assert!(rounds < 100_000, "it never comes to rest");
        }
        self.check();
    }

    /// What has to hold at every moment.
    fn check(&self) {
        let stats = self.stats.snapshot();
        let slack = 128 * 1024;
        assert!(
            stats.memory_used_bytes <= self.budget + slack,
            "{} bytes are charged",
            stats.memory_used_bytes
        );
        if !self.is_ample {
            return;
        }
        for (topic, kept) in self.world.topics.iter().zip(&*self.world.kept.borrow()) {
            let newest = kept.messages.last().map(|sent| format!("{}:", sent.number));
            let retained = topic.retained();
            let retained = retained.as_ref().and_then(|message| message.as_text());
            assert_eq!(newest.is_some(), retained.is_some(), "{topic:?} keeps");
            if let (Some(newest), Some(retained)) = (newest, retained) {
                assert!(retained.starts_with(&newest), "{newest} not {retained:.20}");
            }
        }
    }

    /// All take what is there for them, and what is published after that. Then each has what its policy says.
    fn end(&mut self) -> Totals {
        for client in &mut self.clients {
            client.stalled = false;
        }
        self.settle();
        for topic in 0..TOPICS.len() {
            self.order(Order::Publish {
                topic,
                key: None,
                len: 0,
            });
            self.settle();
        }
        let mut totals = Totals::default();
        for subscriber in self.world.subscribers.borrow().iter() {
            self.judge(subscriber, &mut totals);
        }
        let stats = self.stats.snapshot();
        totals.shed = stats.shed;
        totals
    }

    fn judge(&self, subscriber: &Subscriber, totals: &mut Totals) {
        let client = &self.clients[subscriber.client];
        let at = usize::from(subscriber.is_wide);
        let got = &client.got[at];
        let Subscriber {
            greeting,
            published,
            policy,
            ..
        } = subscriber;
        let expected: Vec<Sent> = greeting.iter().chain(published).copied().collect();
        let name = || format!("{} of {}", subscriber.name, subscriber.client);
        let order = |sent: &Sent| expected.iter().position(|other| other == sent);

        // Each once, and in order: of one key, where others may take its place.
        let mut last = BTreeMap::new();
        let all_in_order = match policy {
            Policy::Latest => got.len(),
            _ => 0,
        };
        for number in got {
            let place = expected.iter().position(|sent| sent.number == *number);
            let place = place.unwrap_or_else(|| panic!("{}: {number} is not its", name()));
            let sent = expected[place];
            let line = match all_in_order {
                0 => (0, None),
                _ => (sent.topic, sent.key),
            };
            let before = last.insert(line, place);
            assert!(before < Some(place), "{}: {number} comes late", name());
        }

        let missed = subscriber.missed();
        if let Some((code, reason)) = &client.close {
            assert_eq!(*code, 1013, "{reason}");
            let is_slow = reason == "too slow for what it subscribed to";
            totals.too_slow += u64::from(is_slow);
            assert!(is_slow || !self.is_ample, "{reason}");
            return;
        }
        if client.pipe.is_none() || client.eof {
            return;
        }
        // What is lost with room cannot be told of one that has unsubscribed.
        let is_there = subscriber.subscription.is_some();
        if !is_there && !self.is_ample {
            return;
        }
        let counted = got.len() as u64 + missed;
        // Where room is short less may have been kept to greet it.
        let greetings = if self.is_ample { greeting.len() } else { 0 };
        let certain = (greetings + published.len()) as u64;
        assert!(
            (certain..=expected.len() as u64).contains(&counted),
            "{}: {counted} of {certain} to {}, {missed} of them missed, {policy:?}",
            name(),
            expected.len()
        );
        let has_all = |some: &[Sent]| {
            for sent in some {
                let has = got.contains(&sent.number);
                assert!(has, "{}: {:?} is not there", name(), order(sent));
            }
        };
        if is_there && subscriber.tells {
            assert_eq!(client.told[at], missed, "{}: it was told", name());
            totals.told += missed;
        }
        let place = match policy {
            Policy::Close(_) => 0,
            Policy::DropOldest(_) => 1,
            Policy::DropNewest(_) => 2,
            Policy::Latest => 3,
        };
        totals.judged[place] += 1;
        totals.whole += u64::from(missed == 0);
        if !self.is_ample {
            totals.starved +=
                u64::from(matches!(policy, Policy::DropOldest(100_000)) && missed > 0);
            return;
        }
        has_all(greeting);
        totals.greeted += greeting.len() as u64;
        match *policy {
            Policy::Close(_) => has_all(published),
            Policy::DropOldest(most) => {
                has_all(&published[published.len().saturating_sub(most.max(1))..]);
            }
            Policy::DropNewest(most) => has_all(&published[..published.len().min(most.max(1))]),
            Policy::Latest => {
                let mut newest = BTreeMap::new();
                for sent in published {
                    newest.insert((sent.topic, sent.key), *sent);
                }
                has_all(&newest.into_values().collect::<Vec<_>>());
            }
        }
    }

    /// Nothing of it stays.
    fn all_leave(mut self) {
        for topic in 0..TOPICS.len() {
            self.order(Order::Keep(topic, 0));
        }
        self.settle();
        self.clients.clear();
        self.orders.close();
        self.settle();
        self.conductor = Client::default();
        self.settle();
        let stats = self.stats.snapshot();
        assert_eq!(stats.open, 0, "a connection outlives its client");
        assert_eq!(stats.memory_used_bytes, 0, "memory is still charged");
        let subscribers = self.world.subscribers.borrow();
        assert!(subscribers.iter().all(|one| one.subscription.is_none()));
        for topic in &self.world.topics {
            assert_eq!(topic.subscribers(), 0);
        }
    }
}

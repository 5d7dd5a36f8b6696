//! One to many: what is published to a topic goes to all that subscribe to it, and a slow one harms nobody.

use crate::{
    budget::Budget,
    connection::Connection,
    feed::{Notice, Policy, Published, Publishing, Subscriber},
    kept::Kept,
    link::{Link, Links},
    message::Message,
    turn::TASKS,
};
use async_channel::{Receiver, Sender, TrySendError, bounded};
use futures_lite::future;
use slab::Slab;
use std::{
    cell::RefCell,
    collections::BinaryHeap,
    error::Error,
    fmt,
    rc::{Rc, Weak},
};

/// The topics of a server, by name: see [`Server::hub`](crate::Server::hub).
///
/// A cheap handle: clones are of the same hub. It is not `Send`; a [`Publisher`] is.
///
/// What topics have, that waits for slow subscribers or is kept, is charged to
/// [`memory_budget_bytes`](field@crate::Config::memory_budget_bytes), once for all who share it, and takes a quarter of it at most: what is
/// kept, three quarters of that. Where there is no room the connections that hold the most lose what waits for them, as if they were slow.
/// What is on its way to a connection, 64 KiB or one longer message, is that connection's own.
///
/// # Examples
///
/// What one client sends goes to all in the same room:
///
/// ```
/// use whit::{Closed, Connection, Hub, Policy, Server};
///
/// async fn chat(conn: Connection, hub: Hub) -> Result<(), Closed> {
///     let room = hub.topic(conn.request().path());
///     let _subscription = room.subscribe(&conn, Policy::DropOldest(100));
///     loop {
///         room.publish(conn.read().await?);
///     }
/// }
///
/// let server = Server::new();
/// let hub = server.hub();
/// let server = server.route("/rooms/*", move |conn| chat(conn, hub.clone()));
/// ```
#[derive(Clone)]
pub struct Hub(Rc<Shared>);

struct Shared {
    budget: Rc<Budget>,
    links: Rc<Links>,
    /// By name, in order. A map is 10 KB of the program.
    topics: RefCell<Vec<Entry>>,
    /// Those who subscribe to more than one, with the beginning of the names.
    wide: RefCell<Slab<(Box<str>, Subscribed)>>,
    /// Topics of publishers, by the number that these have for them.
    published: RefCell<Vec<Topic>>,
    orders: Sender<Order>,
}

struct Entry {
    name: Rc<str>,
    inner: Weak<Inner>,
    /// It keeps messages for those who come.
    kept: Option<Rc<Inner>>,
}

#[derive(Clone)]
struct Subscribed {
    link: Rc<Link>,
    subscriber: Rc<Subscriber>,
}

impl Subscribed {
    fn new(conn: &Connection, policy: Policy, wants_names: bool) -> Self {
        let link = conn.link().clone();
        link.subscribe();
        let subscriber = Subscriber::new(policy, wants_names);
        Self { link, subscriber }
    }
}

/// What a publisher on another thread has published.
struct Order {
    topic: usize,
    key: Option<Box<str>>,
    message: Message,
}

impl Hub {
    /// So many messages of publishers wait for the server's thread.
    const ORDERS: usize = 1024;

    /// A hub, and what publishes for others on the server's thread while it is there.
    pub(crate) fn new(
        budget: Rc<Budget>,
        links: Rc<Links>,
    ) -> (Self, impl Future<Output = ()> + 'static) {
        let (orders, published) = bounded(Self::ORDERS);
        let hub = Self(Rc::new(Shared {
            budget,
            links,
            topics: RefCell::default(),
            wide: RefCell::default(),
            published: RefCell::default(),
            orders,
        }));
        let shared = Rc::downgrade(&hub.0);
        hub.0.budget.on_limit(move || {
            if let Some(shared) = shared.upgrade() {
                shared.fit();
            }
        });
        let pump = hub.clone().pump(published);
        (hub, pump)
    }

    /// The topic of this name. It is made for the first who asks, and is gone when nobody has a handle of it or subscribes to it and
    /// it [keeps](Topic::keep) nothing: a topic that nobody uses costs nothing.
    pub fn topic(&self, name: &str) -> Topic {
        if let Some(topic) = self.find(name) {
            return topic;
        }
        let inner = Rc::new(Inner {
            name: name.into(),
            hub: Rc::downgrade(&self.0),
            budget: self.0.budget.clone(),
            subscribers: RefCell::default(),
            kept: RefCell::default(),
        });
        let entry = Entry {
            name: inner.name.clone(),
            inner: Rc::downgrade(&inner),
            kept: None,
        };
        let mut topics = self.0.topics.borrow_mut();
        let place = place_of(&topics, name).unwrap_or_else(|place| place);
        topics.insert(place, entry);
        Topic(inner)
    }

    /// The topic of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<Topic> {
        let topics = self.0.topics.borrow();
        let place = place_of(&topics, name).ok()?;
        topics[place].inner.upgrade().map(Topic)
    }

    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.0.topics.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Subscribes to all topics whose names begin with `prefix`, also those to come. Each message is the topic's name, a line feed, and
    /// what was published. What such topics keep is sent at once.
    pub fn subscribe(&self, prefix: &str, conn: &Connection, policy: Policy) -> Subscription {
        let subscribed = Subscribed::new(conn, policy, true);
        let (subscriber, link) = (subscribed.subscriber.clone(), &subscribed.link);
        for topic in self.beginning_with(prefix) {
            topic.0.greet(link, &subscriber);
        }
        let key = self.0.wide.borrow_mut().insert((prefix.into(), subscribed));
        Subscription {
            place: Place::Hub(self.clone(), key),
            subscriber,
        }
    }

    fn beginning_with(&self, prefix: &str) -> Vec<Topic> {
        let topics = self.0.topics.borrow();
        let first = place_of(&topics, prefix).unwrap_or_else(|place| place);
        let found = topics[first..].iter();
        found
            .take_while(|entry| entry.name.starts_with(prefix))
            .filter_map(|entry| entry.inner.upgrade().map(Topic))
            .collect()
    }

    /// Publishes what comes from publishers on other threads, for ever.
    async fn pump(self, orders: Receiver<Order>) {
        /// Then the connections have their turn.
        const BATCH: usize = 256;

        loop {
            let mut most = 0;
            for _ in 0..BATCH {
                let Ok(order) = orders.recv().await else {
                    return future::pending().await;
                };
                let topic = self.0.published.borrow().get(order.topic).cloned();
                if let Some(topic) = topic {
                    most = most.max(topic.0.publish(&order.message, order.key.as_deref()));
                }
            }
            give_turns(most).await;
        }
    }
}

/// Where the topic is, or would be.
fn place_of(topics: &[Entry], name: &str) -> Result<usize, usize> {
    topics.binary_search_by(|entry| (*entry.name).cmp(name))
}

impl Shared {
    /// Lets go of what a smaller budget has no room for: the oldest of each topic, in turn, and what waits.
    #[cold]
    fn fit(&self) {
        while !self.budget.has_room_to_keep(0) {
            let topics = self.topics.borrow();
            let keeping: Vec<_> = topics.iter().filter_map(|one| one.kept.clone()).collect();
            drop(topics);
            if keeping.is_empty() {
                break;
            }
            for inner in keeping {
                if !self.budget.has_room_to_keep(0) {
                    inner.kept.borrow_mut().remove(0);
                    inner.stay();
                }
            }
        }
        if !self.budget.has_room_to_share(0) {
            self.make_room(0);
        }
    }

    /// Has those lose what waits for them that have the most, until there is room for so much more, if there ever is.
    #[cold]
    fn make_room(&self, bytes: usize) {
        if !self.budget.can_share(bytes) {
            return;
        }
        // Also those that unsubscribed, or are closing.
        let links = self.links.fed();
        // A sort takes 5 KB more of the program.
        let by_bytes = links.iter().enumerate();
        let mut by_bytes: BinaryHeap<_> = by_bytes
            .map(|(place, link)| (link.fed_bytes(), place))
            .collect();
        while !self.budget.has_room_to_share(bytes) {
            let Some((_, place)) = by_bytes.pop() else {
                break;
            };
            links[place].starve();
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("topics", &self.len())
            .finish_non_exhaustive()
    }
}

/// One to many: what is published goes to all that subscribe, in order.
///
/// A cheap handle: clones are of the same topic. It is not `Send`; a [`Publisher`] is.
///
/// Publishing never waits for a subscriber. One that takes what is there gets it at once, in one system call and without an allocation;
/// what the others have not taken waits as far as their [`Policy`] allows. Pings and pongs never wait behind it, and what a handler writes to
/// its connection itself goes first; a Close comes last, but for that of [`Policy::Close`], which takes the place of what waits.
#[derive(Clone)]
pub struct Topic(Rc<Inner>);

struct Inner {
    name: Rc<str>,
    hub: Weak<Shared>,
    budget: Rc<Budget>,
    subscribers: RefCell<Slab<Subscribed>>,
    kept: RefCell<Kept>,
}

impl Topic {
    /// The name that the hub has it by.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Keeps the newest so many messages for those who subscribe later: 1 for a value that greets each newcomer, more for the last that
    /// happened. None by default. Of messages with a [key](Self::publish_keyed) it keeps one for each key beside them, however many these are.
    /// What greets a newcomer waits beside what its [`Policy`] allows. Where there is no room for more it keeps the newest that there is room
    /// for.
    ///
    /// The hub keeps the topic while it keeps something; [`forget`](Self::forget) ends that.
    pub fn keep(&self, messages: usize) {
        self.0.kept.borrow_mut().set_most(messages);
        self.0.stay();
    }

    /// Lets go of what it keeps. It goes on to keep what comes.
    pub fn forget(&self) {
        self.0.kept.borrow_mut().clear();
        self.0.stay();
    }

    /// The newest message that it keeps.
    pub fn retained(&self) -> Option<Message> {
        let kept = self.0.kept.borrow();
        kept.newest().map(|published| published.message.clone())
    }

    /// Sends `message` to all subscribers. Tells how many there are.
    ///
    /// It never waits. Who publishes much without waiting for anything, as in a loop, lets nobody take what waits: it should
    /// [let the subscribers have their turn](Self::let_take) before so many wait that their policies count.
    pub fn publish(&self, message: impl Into<Message>) -> usize {
        self.0.publish(&message.into(), None)
    }

    /// The same for a message that is the newest of its `key` only, as one of several sensors: see [`Policy::Latest`] and
    /// [`keep`](Self::keep).
    pub fn publish_keyed(&self, key: &str, message: impl Into<Message>) -> usize {
        self.0.publish(&message.into(), Some(key))
    }

    /// Lets each subscriber have a turn to take what waits for it, and all else that is to be done. It does not wait for those that are slow.
    ///
    /// # Cancel safety
    ///
    /// Nothing depends on it.
    pub async fn let_take(&self) {
        give_turns(self.subscribers()).await;
    }

    /// Sends what is published from now on to `conn`, and before that what is [kept](Self::keep), until the subscription is dropped or
    /// the connection is closed.
    pub fn subscribe(&self, conn: &Connection, policy: Policy) -> Subscription {
        let subscribed = Subscribed::new(conn, policy, false);
        let subscriber = subscribed.subscriber.clone();
        self.0.greet(&subscribed.link, &subscriber);
        let key = self.0.subscribers.borrow_mut().insert(subscribed);
        Subscription {
            place: Place::Topic(self.clone(), key),
            subscriber,
        }
    }

    /// How many subscribe, to this topic or to names that it is one of.
    pub fn subscribers(&self) -> usize {
        let wide = self.0.hub.upgrade().map_or(0, |hub| {
            let wide = hub.wide.borrow();
            let is_meant = |(prefix, _): &&(Box<str>, _)| self.0.name.starts_with(&**prefix);
            wide.iter().map(|(_, one)| one).filter(is_meant).count()
        });
        self.0.subscribers.borrow().len() + wide
    }

    /// A handle to publish from other threads, such as one that reads a sensor. The topic stays as long as the hub does.
    pub fn publisher(&self) -> Publisher {
        let Some(hub) = self.0.hub.upgrade() else {
            // Nobody receives.
            let (sender, _) = bounded(1);
            return Publisher { topic: 0, sender };
        };
        let mut published = hub.published.borrow_mut();
        let known = published
            .iter()
            .position(|topic| Rc::ptr_eq(&topic.0, &self.0));
        let topic = known.unwrap_or_else(|| {
            published.push(self.clone());
            published.len() - 1
        });
        Publisher {
            topic,
            sender: hub.orders.clone(),
        }
    }
}

/// Lets so many connections have a turn, wherever this is polled.
async fn give_turns(connections: usize) {
    for _ in 0..=connections / TASKS {
        future::yield_now().await;
    }
}

impl Inner {
    fn publish(&self, message: &Message, key: Option<&str>) -> usize {
        let hub = self.hub.upgrade();
        let bytes = Published::bytes(message, key);
        if let (Some(hub), false) = (&hub, self.budget.has_room_to_share(bytes)) {
            hub.make_room(bytes);
        }
        let mut publishing = Publishing::new(message, key, &self.name, &self.budget);
        if self.kept.borrow_mut().push(&mut publishing) {
            self.stay();
        }
        let subscribers = self.subscribers.borrow();
        for (_, one) in subscribers.iter() {
            one.link.take_published(&mut publishing, &one.subscriber);
        }
        let mut count = subscribers.len();
        if let Some(hub) = &hub {
            for (_, (prefix, one)) in hub.wide.borrow().iter() {
                if self.name.starts_with(&**prefix) {
                    one.link.take_published(&mut publishing, &one.subscriber);
                    count += 1;
                }
            }
        }
        count
    }

    /// Sends what is kept to one that comes.
    fn greet(&self, link: &Link, subscriber: &Rc<Subscriber>) {
        for published in self.kept.borrow().iter() {
            let mut publishing = Publishing::greeting(published);
            link.take_published(&mut publishing, subscriber);
        }
    }

    /// Has the hub keep it for as long as it keeps something.
    fn stay(&self) {
        let Some(hub) = self.hub.upgrade() else {
            return;
        };
        let mut topics = hub.topics.borrow_mut();
        let left = place_of(&topics, &self.name).ok().and_then(|place| {
            let entry = &mut topics[place];
            match self.kept.borrow().is_empty() {
                true => entry.kept.take(),
                false => entry.kept.replace(entry.inner.upgrade()?),
            }
        });
        drop(topics);
        // It may be the last of it, which leaves the hub then.
        drop(left);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            let mut topics = hub.topics.borrow_mut();
            if let Ok(place) = place_of(&topics, &self.name) {
                topics.remove(place);
            }
        }
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.name())
            .field("subscribers", &self.subscribers())
            .finish_non_exhaustive()
    }
}

/// A connection's place among the subscribers of a topic: dropping it unsubscribes. What waits then is still sent.
#[must_use = "dropping it unsubscribes"]
pub struct Subscription {
    place: Place,
    subscriber: Rc<Subscriber>,
}

enum Place {
    Topic(Topic, usize),
    Hub(Hub, usize),
}

impl Subscription {
    /// How many messages it has missed so far, as its [`Policy`] says. What greeted it, and what was published since, less that, was sent,
    /// waits to be sent, or was lost with the connection.
    pub fn missed(&self) -> u64 {
        self.subscriber.missed()
    }

    /// Tells the subscriber how many messages it missed, in a message of its own before the next one that it gets. What `notice` publishes
    /// may be missed, too, and told of with another. A panic of it ends the connection, without a Close.
    pub fn tell_missed<M: Into<Message>>(self, notice: impl Fn(u64) -> M + 'static) -> Self {
        let notice: Notice = Rc::new(move |missed| notice(missed).into());
        self.subscriber.set_notice(notice);
        self
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        match &self.place {
            Place::Topic(topic, key) => {
                let left = topic.0.subscribers.borrow_mut().remove(*key);
                drop(left);
            }
            Place::Hub(hub, key) => {
                let left = hub.0.wide.borrow_mut().remove(*key);
                drop(left);
            }
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.subscriber.fmt(f)
    }
}

/// Publishes to a [`Topic`] from any thread.
///
/// It never waits. 1,024 messages of all publishers together may wait for the server's thread, and are not charged to its budget. It takes up
/// to 256 of them before the subscribers have their turn: one that may have fewer wait misses some of such a burst, however fast it is.
#[derive(Clone)]
pub struct Publisher {
    topic: usize,
    sender: Sender<Order>,
}

/// Why a [`Publisher`] did not take a message, with the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// 1,024 messages wait already for the server's thread.
    Full(Message),
    /// The server has ended.
    Ended(Message),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "too many messages wait for the server's thread",
            Self::Ended(_) => "the server has ended",
        })
    }
}

impl Error for PublishError {}

impl Publisher {
    /// As [`Topic::publish`], but it does not tell how many get it. What is published before the server begins waits for it.
    ///
    /// # Errors
    ///
    /// [`PublishError`] gives the message back.
    pub fn publish(&self, message: impl Into<Message>) -> Result<(), PublishError> {
        self.send(None, message.into())
    }

    /// As [`Topic::publish_keyed`].
    ///
    /// # Errors
    ///
    /// [`PublishError`] gives the message back.
    pub fn publish_keyed(
        &self,
        key: &str,
        message: impl Into<Message>,
    ) -> Result<(), PublishError> {
        self.send(Some(key.into()), message.into())
    }

    fn send(&self, key: Option<Box<str>>, message: Message) -> Result<(), PublishError> {
        let topic = self.topic;
        let order = Order {
            topic,
            key,
            message,
        };
        self.sender.try_send(order).map_err(|error| match error {
            TrySendError::Full(order) => PublishError::Full(order.message),
            TrySendError::Closed(order) => PublishError::Ended(order.message),
        })
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

//! What topics have for one connection that it has not taken yet, and what a slow one misses of it.

use crate::{
    budget::{Budget, Charge},
    message::Message,
    pool,
    wire::Frame,
};
use std::{
    cell::{Cell, RefCell, RefMut},
    collections::VecDeque,
    fmt, mem,
    rc::Rc,
};

/// What becomes of a subscriber that does not take messages as fast as they are published.
///
/// Nobody waits for it, and nobody else is harmed. What it takes at once never waits, and counts nowhere: by TCP that is what its system takes, and
/// on Linux some 64 KiB that this one keeps for it. Numbers are of messages; 0 counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// So many may wait for it; with one more it is closed with [`TRY_AGAIN_LATER`](crate::CloseCode::TRY_AGAIN_LATER), and does not get them.
    Close(usize),
    /// So many may wait for it; with one more it misses the oldest of them.
    DropOldest(usize),
    /// So many may wait for it; it misses any more.
    DropNewest(usize),
    /// It misses all but the newest: of each topic, and of those with the same key, where they are published
    /// [with a key](crate::Topic::publish_keyed).
    Latest,
}

/// A message that was published: all that it waits for share it, and it is charged once.
pub(crate) struct Published {
    pub(crate) message: Message,
    pub(crate) key: Option<Box<str>>,
    topic: Rc<str>,
    budget: Rc<Budget>,
    bytes: usize,
}

impl Published {
    /// None if topics may not have so much more.
    fn new(
        message: Message,
        key: Option<&str>,
        topic: &Rc<str>,
        budget: &Rc<Budget>,
    ) -> Option<Rc<Self>> {
        let bytes = Self::bytes(&message, key);
        budget.has_room_to_share(bytes).then(|| {
            budget.add_shared(bytes);
            Rc::new(Self {
                message,
                key: key.map(Into::into),
                topic: topic.clone(),
                budget: budget.clone(),
                bytes,
            })
        })
    }

    /// It counts as kept, too.
    pub(crate) fn begin_to_keep(&self) {
        self.budget.add_kept(self.bytes);
    }

    pub(crate) fn end_to_keep(&self) {
        self.budget.give_back_kept(self.bytes);
    }

    /// What it takes.
    pub(crate) fn bytes(message: &Message, key: Option<&str>) -> usize {
        pool::allocated(message) + size_of::<Self>() + key.map_or(0, str::len)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.budget.give_back_shared(self.bytes);
    }
}

/// A message on its way to the subscribers of a topic. What is made of it is made once for all, and not before the first needs it.
pub(crate) struct Publishing<'a> {
    message: &'a Message,
    pub(crate) key: Option<&'a str>,
    topic: &'a Rc<str>,
    budget: &'a Rc<Budget>,
    shared: Option<Rc<Published>>,
    frame: Option<Frame>,
    /// With the topic's name, for those who get more than one.
    named_frame: Option<Frame>,
    /// It is for one that comes, beside what may wait for it.
    pub(crate) is_greeting: bool,
}

impl<'a> Publishing<'a> {
    pub(crate) fn new(
        message: &'a Message,
        key: Option<&'a str>,
        topic: &'a Rc<str>,
        budget: &'a Rc<Budget>,
    ) -> Self {
        Self {
            message,
            key,
            topic,
            budget,
            shared: None,
            frame: None,
            named_frame: None,
            is_greeting: false,
        }
    }

    /// What is kept, for one that comes.
    pub(crate) fn greeting(published: &'a Rc<Published>) -> Self {
        let Published {
            message,
            key,
            topic,
            budget,
            ..
        } = &**published;
        Self {
            shared: Some(published.clone()),
            is_greeting: true,
            ..Self::new(message, key.as_deref(), topic, budget)
        }
    }

    /// As `subscriber` gets it.
    pub(crate) fn message(&self, subscriber: &Subscriber) -> Message {
        match subscriber.wants_names {
            true => named(self.topic, self.message),
            false => self.message.clone(),
        }
    }

    /// The same, framed.
    pub(crate) fn frame(&mut self, subscriber: &Subscriber) -> &Frame {
        let (topic, message) = (self.topic, self.message);
        match subscriber.wants_names {
            true => (self.named_frame).get_or_insert_with(|| Frame::new(&named(topic, message))),
            false => self.frame.get_or_insert_with(|| Frame::new(message)),
        }
    }

    /// The same to wait, or to be kept, if topics may have so much. Those who get it with the topic's name share it, too.
    pub(crate) fn share(&mut self) -> Option<Rc<Published>> {
        if self.shared.is_none() {
            self.shared = Published::new(self.message.clone(), self.key, self.topic, self.budget);
        }
        self.shared.clone()
    }

    /// Whether topics may keep it.
    pub(crate) fn has_room_to_keep(&self) -> bool {
        let bytes = Published::bytes(self.message, self.key);
        self.budget.has_room_to_keep(bytes)
    }
}

/// A message behind the name of its topic.
fn named(topic: &str, message: &Message) -> Message {
    let mut bytes = Vec::with_capacity(topic.len() + 1 + message.len());
    bytes.extend_from_slice(topic.as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(message.as_bytes());
    match message {
        // Two texts and what is between them are one.
        Message::Text(_) => Message::from(String::from_utf8_lossy(&bytes).into_owned()),
        Message::Binary(_) => Message::from(bytes),
    }
}

/// Makes what a subscriber is told of how many messages it missed.
pub(crate) type Notice = Rc<dyn Fn(u64) -> Message>;

/// One subscription's side of a feed.
pub(crate) struct Subscriber {
    policy: Policy,
    /// It gets messages of more than one topic.
    wants_names: bool,
    notice: RefCell<Option<Notice>>,
    waiting: Cell<usize>,
    missed: Cell<u64>,
    /// What of that it was not told of yet.
    untold: Cell<u64>,
}

impl Subscriber {
    pub(crate) fn new(policy: Policy, wants_names: bool) -> Rc<Self> {
        Rc::new(Self {
            policy,
            wants_names,
            notice: RefCell::default(),
            waiting: Cell::new(0),
            missed: Cell::new(0),
            untold: Cell::new(0),
        })
    }

    pub(crate) fn set_notice(&self, notice: Notice) {
        self.notice.replace(Some(notice));
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed.get()
    }

    /// Whether it would rather miss something than be closed.
    pub(crate) fn may_miss(&self) -> bool {
        !matches!(self.policy, Policy::Close(_))
    }

    pub(crate) fn miss(&self, count: u64) {
        self.missed.set(self.missed.get() + count);
        self.untold.set(self.untold.get() + count);
    }

    /// Whether it is to be told something before the next message.
    pub(crate) fn is_owed_a_notice(&self) -> bool {
        self.untold.get() > 0 && self.notice.borrow().is_some()
    }

    /// What it is to be told before the next message, if it missed some.
    fn take_notice(&self) -> Option<Message> {
        if self.untold.get() == 0 {
            return None;
        }
        // Not borrowed while it runs: it may set another.
        let notice = self.notice.borrow().clone()?;
        Some(notice(self.untold.take()))
    }

    /// Whether so many wait for it.
    fn is_full(&self, capacity: usize) -> bool {
        self.waiting.get() >= capacity.max(1)
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("policy", &self.policy)
            .field("waiting", &self.waiting)
            .field("missed", &self.missed)
            .finish_non_exhaustive()
    }
}

struct Item {
    published: Rc<Published>,
    subscriber: Rc<Subscriber>,
    is_greeting: bool,
}

// Each connection has its own for each message, and is charged with it: with two words more a few that are slow are shed for want of memory.
const _: () = assert!(size_of::<Item>() <= 3 * size_of::<usize>());

impl Item {
    /// Whether it is one of those that wait for `subscriber` as far as its policy allows.
    fn waits_for(&self, subscriber: &Rc<Subscriber>) -> bool {
        !self.is_greeting && Rc::ptr_eq(&self.subscriber, subscriber)
    }

    /// It waits no more.
    fn leave(&self) {
        if !self.is_greeting {
            let waiting = &self.subscriber.waiting;
            waiting.set(waiting.get() - 1);
        }
    }
}

/// What waits for one connection, of all topics that it subscribes to, in order.
///
/// A trait, so that a server without topics has nothing of it in the program: each connection asks for it.
pub(crate) trait Feed {
    /// Has a message wait, as the subscriber's policy demands.
    fn push(&self, published: Rc<Published>, subscriber: &Rc<Subscriber>) -> Fed;

    /// Has what greets the subscriber wait.
    fn push_greeting(&self, published: Rc<Published>, subscriber: &Rc<Subscriber>);

    /// The next message for the connection.
    fn pop(&self) -> Option<Message>;

    /// Lets go of all that waits, with the connection. Tells how many these were.
    fn clear(&self) -> u64;

    /// The same, which the subscribers miss.
    fn starve(&self) -> u64;

    /// Whether it is of one that is to be closed rather than to miss something.
    fn may_miss_nothing(&self) -> bool;

    /// What its messages take, as if they were not shared.
    fn bytes(&self) -> usize;

    fn len(&self) -> usize;
}

impl fmt::Debug for dyn Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what waits: to show all that it has is 10 KB of a program.
        write!(f, "{} of {} bytes", self.len(), self.bytes())
    }
}

/// See [`Feed`].
pub(crate) struct Items {
    items: RefCell<VecDeque<Item>>,
    /// What their messages take, as if they were not shared.
    bytes: Cell<usize>,
    /// For the places of the items.
    charge: RefCell<Charge>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    Waits,
    /// This one is missed, or it waits in the place of one that is.
    Missed,
    /// The subscriber is to be closed.
    TooSlow,
}

impl Items {
    pub(crate) fn new(charge: Charge) -> Self {
        Self {
            items: RefCell::default(),
            bytes: Cell::new(0),
            charge: RefCell::new(charge),
        }
    }

    fn add(&self, mut items: RefMut<'_, VecDeque<Item>>, item: Item) {
        self.bytes.set(self.bytes.get() + item.published.bytes);
        items.push_back(item);
        let places = items.capacity() * size_of::<Item>();
        drop(items);
        self.charge.borrow_mut().set(places);
    }

    fn take_all(&self) -> VecDeque<Item> {
        let mut items = self.items.borrow_mut();
        let all = mem::take(&mut *items);
        self.settle(items);
        self.bytes.set(0);
        all.iter().for_each(Item::leave);
        all
    }

    /// Keeps no place for more than a few messages, once there are none.
    fn settle(&self, mut items: RefMut<'_, VecDeque<Item>>) {
        const KEPT: usize = 8;

        if items.is_empty() && items.capacity() > KEPT {
            *items = VecDeque::new();
        }
        let places = items.capacity() * size_of::<Item>();
        drop(items);
        self.charge.borrow_mut().set(places);
    }
}

impl Feed for Items {
    fn push(&self, published: Rc<Published>, subscriber: &Rc<Subscriber>) -> Fed {
        let mut items = self.items.borrow_mut();
        let replaced = match subscriber.policy {
            Policy::Close(capacity) if subscriber.is_full(capacity) => return Fed::TooSlow,
            Policy::DropNewest(capacity) if subscriber.is_full(capacity) => {
                subscriber.miss(1);
                return Fed::Missed;
            }
            Policy::DropOldest(capacity) if subscriber.is_full(capacity) => {
                let oldest = items.iter().position(|item| item.waits_for(subscriber));
                oldest.and_then(|oldest| items.remove(oldest))
            }
            Policy::Latest => {
                let same = |item: &&mut Item| {
                    item.waits_for(subscriber)
                        && item.published.topic == published.topic
                        && item.published.key == published.key
                };
                if let Some(item) = items.iter_mut().find(same) {
                    self.bytes
                        .set(self.bytes.get() + published.bytes - item.published.bytes);
                    item.published = published;
                    subscriber.miss(1);
                    return Fed::Missed;
                }
                None
            }
            _ => None,
        };
        let item = Item {
            published,
            subscriber: subscriber.clone(),
            is_greeting: false,
        };
        self.add(items, item);
        subscriber.waiting.set(subscriber.waiting.get() + 1);
        match replaced {
            Some(item) => {
                item.leave();
                self.bytes.set(self.bytes.get() - item.published.bytes);
                subscriber.miss(1);
                Fed::Missed
            }
            None => Fed::Waits,
        }
    }

    fn push_greeting(&self, published: Rc<Published>, subscriber: &Rc<Subscriber>) {
        let item = Item {
            published,
            subscriber: subscriber.clone(),
            is_greeting: true,
        };
        self.add(self.items.borrow_mut(), item);
    }

    fn pop(&self) -> Option<Message> {
        // Not borrowed while the notice is made: that may cause a message.
        let subscriber = self.items.borrow().front()?.subscriber.clone();
        if let Some(notice) = subscriber.take_notice() {
            return Some(notice);
        }
        let mut items = self.items.borrow_mut();
        let item = items.pop_front()?;
        self.settle(items);
        item.leave();
        self.bytes.set(self.bytes.get() - item.published.bytes);
        let Published { message, topic, .. } = &*item.published;
        Some(match item.subscriber.wants_names {
            true => named(topic, message),
            false => message.clone(),
        })
    }

    fn clear(&self) -> u64 {
        self.take_all().len() as u64
    }

    fn starve(&self) -> u64 {
        let all = self.take_all();
        all.iter().for_each(|item| item.subscriber.miss(1));
        all.len() as u64
    }

    fn may_miss_nothing(&self) -> bool {
        let items = self.items.borrow();
        items.iter().any(|item| !item.subscriber.may_miss())
    }

    fn bytes(&self) -> usize {
        self.bytes.get()
    }

    fn len(&self) -> usize {
        self.items.borrow().len()
    }
}

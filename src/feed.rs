//! What topics have for one connection that it has not taken yet, and what a slow one misses of it.

use crate::{
    budget::{Budget, Charge},
    message::Message,
    queue::allocated,
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
    /// So many may wait for it; with one more it is closed with [`TRY_AGAIN_LATER`](crate::CloseCode::TRY_AGAIN_LATER).
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
    budget: Rc<Budget>,
    bytes: usize,
}

impl Published {
    /// None if topics may not have so much more.
    fn new(message: Message, key: Option<&str>, budget: &Rc<Budget>) -> Option<Rc<Self>> {
        let bytes = Self::bytes(&message, key);
        budget.has_room_to_share(bytes).then(|| {
            budget.add_shared(bytes);
            Rc::new(Self {
                message,
                key: key.map(Into::into),
                budget: budget.clone(),
                bytes,
            })
        })
    }

    /// What it takes.
    pub(crate) fn bytes(message: &Message, key: Option<&str>) -> usize {
        allocated(message) + size_of::<Self>() + key.map_or(0, str::len)
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
    key: Option<&'a str>,
    topic: &'a str,
    budget: &'a Rc<Budget>,
    shared: Option<Rc<Published>>,
    /// With the topic's name, for those who get more than one.
    named: Option<Message>,
    named_shared: Option<Rc<Published>>,
}

impl<'a> Publishing<'a> {
    pub(crate) fn new(
        message: &'a Message,
        key: Option<&'a str>,
        topic: &'a str,
        budget: &'a Rc<Budget>,
    ) -> Self {
        Self {
            message,
            key,
            topic,
            budget,
            shared: None,
            named: None,
            named_shared: None,
        }
    }

    /// As `subscriber` gets it.
    pub(crate) fn message(&mut self, subscriber: &Subscriber) -> Message {
        match subscriber.wants_names {
            true => self.named().clone(),
            false => self.message.clone(),
        }
    }

    /// The same to wait, if topics may have so much.
    pub(crate) fn share(&mut self, subscriber: &Subscriber) -> Option<Rc<Published>> {
        if !subscriber.wants_names {
            return self.share_plain();
        }
        if self.named_shared.is_none() {
            let message = self.named().clone();
            // To such a subscriber the newest of one topic is not that of another.
            let key = format!("{}\n{}", self.topic, self.key.unwrap_or_default());
            self.named_shared = Published::new(message, Some(&key), self.budget);
        }
        self.named_shared.clone()
    }

    /// The same without the topic's name.
    pub(crate) fn share_plain(&mut self) -> Option<Rc<Published>> {
        if self.shared.is_none() {
            self.shared = Published::new(self.message.clone(), self.key, self.budget);
        }
        self.shared.clone()
    }

    fn named(&mut self) -> &Message {
        self.named.get_or_insert_with(|| {
            let mut bytes = Vec::with_capacity(self.topic.len() + 1 + self.message.len());
            bytes.extend_from_slice(self.topic.as_bytes());
            bytes.push(b'\n');
            bytes.extend_from_slice(self.message.as_bytes());
            match self.message {
                // Two texts and what is between them are one.
                Message::Text(_) => Message::from(String::from_utf8_lossy(&bytes).into_owned()),
                Message::Binary(_) => Message::from(bytes),
            }
        })
    }
}

/// Makes what a subscriber is told of how many messages it missed.
pub(crate) type Notice = Box<dyn Fn(u64) -> Message>;

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

    /// What it is to be told before the next message, if it missed some.
    fn take_notice(&self) -> Option<Message> {
        if self.untold.get() == 0 {
            return None;
        }
        let notice = self.notice.borrow();
        notice.as_ref().map(|notice| notice(self.untold.take()))
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
}

/// What waits for one connection, of all topics that it subscribes to, in order.
///
/// A trait, so that a server without topics has nothing of it in the program: each connection asks for it.
pub(crate) trait Feed {
    /// Has a message wait, as the subscriber's policy demands.
    fn push(&self, published: Rc<Published>, subscriber: &Rc<Subscriber>) -> Fed;

    /// The next message for the connection.
    fn pop(&self) -> Option<Message>;

    /// Lets go of all that waits. Tells how many these were.
    fn clear(&self) -> u64;

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
        let is_full = |capacity: usize| subscriber.waiting.get() >= capacity.max(1);
        let is_its = |item: &Item| Rc::ptr_eq(&item.subscriber, subscriber);
        let replaced = match subscriber.policy {
            Policy::Close(capacity) if is_full(capacity) => return Fed::TooSlow,
            Policy::DropNewest(capacity) if is_full(capacity) => {
                subscriber.miss(1);
                return Fed::Missed;
            }
            Policy::DropOldest(capacity) if is_full(capacity) => {
                let oldest = items.iter().position(is_its);
                oldest.and_then(|oldest| items.remove(oldest))
            }
            Policy::Latest => {
                let same = |item: &&mut Item| is_its(item) && item.published.key == published.key;
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
        self.bytes.set(self.bytes.get() + published.bytes);
        items.push_back(Item {
            published,
            subscriber: subscriber.clone(),
        });
        let places = items.capacity() * size_of::<Item>();
        drop(items);
        self.charge.borrow_mut().set(places);
        match replaced {
            Some(item) => {
                self.bytes.set(self.bytes.get() - item.published.bytes);
                subscriber.miss(1);
                Fed::Missed
            }
            None => {
                subscriber.waiting.set(subscriber.waiting.get() + 1);
                Fed::Waits
            }
        }
    }

    fn pop(&self) -> Option<Message> {
        let mut items = self.items.borrow_mut();
        if let Some(notice) = items.front()?.subscriber.take_notice() {
            return Some(notice);
        }
        let item = items.pop_front()?;
        self.settle(items);
        item.subscriber
            .waiting
            .set(item.subscriber.waiting.get() - 1);
        self.bytes.set(self.bytes.get() - item.published.bytes);
        Some(item.published.message.clone())
    }

    fn clear(&self) -> u64 {
        let mut items = self.items.borrow_mut();
        let cleared = mem::take(&mut *items);
        self.settle(items);
        self.bytes.set(0);
        for item in &cleared {
            item.subscriber
                .waiting
                .set(item.subscriber.waiting.get() - 1);
            item.subscriber.miss(1);
        }
        cleared.len() as u64
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

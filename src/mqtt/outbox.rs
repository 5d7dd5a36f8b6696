//! What is to be published: a queue, bounded by count and by bytes, that lasts while connections to the broker come and go.

use super::{
    broker::MAX_STRING_BYTES,
    packet::{self, Limits},
};
use bytes::Bytes;
use event_listener::{Event, EventListener};
use mqtt_proto::{
    Pid, QoS, QosPid, TopicName,
    v5::{Publish, PublishProperties},
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};
use whit::Message;

/// So many messages wait for the broker, those included that it has not acknowledged. Then the oldest is dropped.
pub(super) const MAX_MESSAGES: usize = 1024;

/// And so many bytes, by [`Publication::cost`], but for two messages that may be longer: the newest, and the last that was sent.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// So many connections may end with this message as the first that was not acknowledged. A broker that does not like what it
/// gets may say so by closing.
const MAX_ATTEMPTS: u8 = 5;

/// The subscription's number, which no message has: the first.
pub(super) fn subscription_pid() -> Pid {
    Pid::default()
}

/// So much is written at once: enough to be worth a system call.
const BATCH_BYTES: usize = 16 * 1024;

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Messages that the broker acknowledged, or that were sent to it with QoS 0.
    pub(crate) delivered: u64,
    /// Messages that it did not get, or refused: because it was away for too long, or too slow, or because of what they are.
    pub(crate) dropped: u64,
}

/// A handle to publish with. It never waits, and is cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outbox(pub(super) Rc<Queue>);

impl Outbox {
    /// Publishes `message` on the broker's topic of this name. It waits for the broker in a queue of 1,024 messages and 1 MiB;
    /// when that is full the oldest is dropped, and counted. So is a message whose topic's name it would not take.
    ///
    /// With `retain` the broker keeps it for those who subscribe later; an empty one makes it forget the one it has.
    pub(crate) fn publish(&self, name: &str, message: Message, retain: bool) {
        self.0.publish(name, message, retain);
    }

    /// Whether something of this topic waits for the broker, or for it to acknowledge it.
    pub(crate) fn has(&self, name: &str) -> bool {
        let lists = self.0.lists.borrow();
        let mut all = lists.in_flight.iter().chain(&lists.waiting);
        all.any(|publication| self.0.name(&publication.topic) == Some(name))
    }

    /// What happened so far.
    pub(crate) fn counters(&self) -> Counters {
        self.0.counters.get()
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    prefix: String,
    lists: RefCell<Lists>,
    counters: Cell<Counters>,
    /// The writer has to look again.
    changed: Event,
    /// That it is full was said, and is said again only once the broker was there.
    full: Cell<bool>,
    /// The same of a message that is too large.
    too_large: Cell<bool>,
    /// Of QoS 0, on their way into the socket.
    being_written: Cell<u64>,
}

#[derive(Debug, Default)]
struct Lists {
    waiting: VecDeque<Publication>,
    /// Sent, and not acknowledged.
    in_flight: VecDeque<Publication>,
    /// Of both.
    bytes: usize,
    last_pid: Pid,
}

#[derive(Debug)]
struct Publication {
    topic: TopicName,
    payload: Bytes,
    is_text: bool,
    retain: bool,
    /// Its number, once it was sent with QoS 1.
    pid: Option<Pid>,
    attempts: u8,
}

impl Publication {
    fn cost(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.payload.len()
    }

    fn packet(&self, pid: Option<Pid>, limits: &Limits) -> Publish {
        Publish {
            dup: pid.is_some() && self.pid.is_some(),
            retain: self.retain && limits.retain,
            qos_pid: pid.map_or(QosPid::Level0, QosPid::Level1),
            topic_name: self.topic.clone(),
            payload: self.payload.clone(),
            properties: PublishProperties {
                payload_is_utf8: Some(self.is_text),
                ..PublishProperties::default()
            },
        }
    }
}

impl Lists {
    fn remove(&mut self, publication: &Publication) {
        self.bytes -= publication.cost();
    }

    /// Whether one more may be on its way: what is cannot be dropped.
    fn may_send(&self, window: usize) -> bool {
        let bytes: usize = self.in_flight.iter().map(Publication::cost).sum();
        self.in_flight.len() < window && bytes < MAX_BYTES
    }

    fn is_over(&self) -> bool {
        self.waiting.len() + self.in_flight.len() > MAX_MESSAGES || self.bytes > MAX_BYTES
    }

    fn next_pid(&mut self) -> Pid {
        loop {
            self.last_pid += 1;
            let pid = self.last_pid;
            let mut in_flight = self.in_flight.iter();
            if pid != subscription_pid() && !in_flight.any(|other| other.pid == Some(pid)) {
                return pid;
            }
        }
    }
}

impl Queue {
    pub(super) fn new(prefix: String) -> Self {
        Self {
            prefix,
            lists: RefCell::default(),
            counters: Cell::default(),
            changed: Event::new(),
            full: Cell::new(false),
            too_large: Cell::new(false),
            being_written: Cell::new(0),
        }
    }

    /// The name that clients know a broker's topic by, if it is one of those that are shared.
    pub(super) fn name<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic
            .strip_prefix(&self.prefix)
            .filter(|name| !name.is_empty())
    }

    /// The filter of all the topics that are shared.
    pub(super) fn filter(&self) -> String {
        format!("{}#", self.prefix)
    }

    /// The broker's topic, if it would take one of this name: those that begin with $ are its own.
    fn topic(&self, name: &str) -> Option<TopicName> {
        let topic = format!("{}{name}", self.prefix);
        let is_fit = !name.is_empty()
            && topic.len() <= MAX_STRING_BYTES
            && !name.contains(is_unfit)
            && !topic.starts_with('$');
        TopicName::try_from(topic.as_str()).ok().filter(|_| is_fit)
    }

    fn publish(&self, name: &str, message: Message, retain: bool) {
        let Some(topic) = self.topic(name) else {
            return self.drop_some(1);
        };
        let publication = Publication {
            topic,
            is_text: message.as_text().is_some(),
            payload: message.into_bytes(),
            retain,
            pid: None,
            attempts: 0,
        };
        let lists = &mut *self.lists.borrow_mut();
        lists.bytes += publication.cost();
        lists.waiting.push_back(publication);
        while lists.is_over() && lists.waiting.len() > 1 {
            if let Some(oldest) = lists.waiting.pop_front() {
                lists.remove(&oldest);
            }
            self.drop_some(1);
            if !self.full.replace(true) {
                log::warn!("mqtt: too much waits for the broker: the oldest messages are dropped");
            }
        }
        self.changed.notify(1);
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        add(&mut counters);
        self.counters.set(counters);
    }

    fn drop_some(&self, number: u64) {
        self.count(|counters| counters.dropped += number);
    }

    /// Has the writer look again.
    pub(super) fn wake(&self) {
        self.changed.notify(1);
    }

    /// Ends when there may be something to write.
    pub(super) fn changed(&self) -> EventListener {
        self.changed.listen()
    }

    /// The broker is there.
    pub(super) fn connected(&self) {
        self.full.set(false);
        self.too_large.set(false);
    }

    /// Puts what may be sent now behind what `out` has. Before the next call it is [`written`](Self::written), or the connection
    /// [`lost`](Self::lost).
    pub(super) fn take(&self, out: &mut Vec<u8>, limits: &Limits) {
        let lists = &mut *self.lists.borrow_mut();
        let acknowledged = limits.qos != QoS::Level0;
        while out.len() < BATCH_BYTES && (!acknowledged || lists.may_send(limits.window)) {
            let Some(mut publication) = lists.waiting.pop_front() else {
                break;
            };
            let pid = acknowledged.then(|| publication.pid.unwrap_or_else(|| lists.next_pid()));
            let packet = publication.packet(pid, limits);
            if !packet::fits(&packet, limits) || packet::put(out, packet).is_err() {
                lists.remove(&publication);
                self.drop_some(1);
                if !self.too_large.replace(true) {
                    let topic = publication.topic;
                    log::warn!("mqtt: the broker takes no message as large as one on {topic}");
                }
            } else if pid.is_some() {
                publication.pid = pid;
                lists.in_flight.push_back(publication);
            } else {
                lists.remove(&publication);
                self.being_written.set(self.being_written.get() + 1);
            }
        }
    }

    /// What was taken is in the socket.
    pub(super) fn written(&self) {
        let number = self.being_written.take();
        self.count(|counters| counters.delivered += number);
    }

    /// The broker has this one, or refuses it. Tells its topic if it is known.
    pub(super) fn acknowledged(&self, pid: Pid, accepted: bool) -> Option<TopicName> {
        let lists = &mut *self.lists.borrow_mut();
        let mut in_flight = lists.in_flight.iter();
        let index = in_flight.position(|publication| publication.pid == Some(pid))?;
        let publication = lists.in_flight.remove(index)?;
        lists.remove(&publication);
        match accepted {
            true => self.count(|counters| counters.delivered += 1),
            false => self.drop_some(1),
        }
        self.changed.notify(1);
        Some(publication.topic)
    }

    /// There is no connection, and will be none.
    pub(super) fn clear(&self) {
        let Lists {
            waiting, in_flight, ..
        } = self.lists.take();
        let number = waiting.len() + in_flight.len();
        self.drop_some(number as u64 + self.being_written.take());
    }

    /// The connection is lost: what is not acknowledged is sent again first.
    pub(super) fn lost(&self) {
        self.drop_some(self.being_written.take());
        let lists = &mut *self.lists.borrow_mut();
        let Some(first) = lists.in_flight.front_mut() else {
            return;
        };
        first.attempts += 1;
        if first.attempts == MAX_ATTEMPTS {
            if let Some(first) = lists.in_flight.pop_front() {
                lists.remove(&first);
                self.drop_some(1);
                log::warn!("mqtt: a message on {} is given up", first.topic);
            }
        }
        while let Some(last) = lists.in_flight.pop_back() {
            lists.waiting.push_front(last);
        }
    }
}

/// What no name may have: brokers close the connection of whoever sends it (MQTT 5, 1.5.4 and 4.7.3).
pub(super) fn is_unfit(c: char) -> bool {
    let code = u32::from(c);
    let is_noncharacter = code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code);
    matches!(c, '+' | '#') || c.is_control() || is_noncharacter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::packet::{Incoming, first};

    const LIMITS: Limits = Limits {
        qos: QoS::Level1,
        retain: true,
        window: 2,
        max_packet_bytes: 100,
    };

    fn queue(prefix: &str) -> Queue {
        Queue::new(prefix.into())
    }

    /// What is sent next: whether it is sent again, its number and its payload.
    fn sent(queue: &Queue, limits: &Limits) -> Vec<(bool, Option<u16>, String)> {
        let mut out = Vec::new();
        queue.take(&mut out, limits);
        let (mut rest, mut sent) = (&out[..], Vec::new());
        while let Some((Incoming::Published(published), len)) = first(rest, 1 << 20).unwrap() {
            let text = published.message().as_text().unwrap().to_owned();
            let pid = published.pid.map(Pid::value);
            sent.push((rest[0] & 0b1000 != 0, pid, text));
            rest = &rest[len..];
        }
        sent
    }

    fn acknowledge(queue: &Queue, pid: u16) {
        queue.acknowledged(pid.try_into().unwrap(), true).unwrap();
    }

    fn names_that_it_has(queue: &Rc<Queue>, names: &str) -> String {
        let outbox = Outbox(queue.clone());
        let names = names.chars();
        names.filter(|name| outbox.has(&name.to_string())).collect()
    }

    fn delivered_and_dropped(queue: &Queue) -> (u64, u64) {
        let counters = queue.counters.get();
        (counters.delivered, counters.dropped)
    }

    fn is_empty(queue: &Queue) -> bool {
        let lists = queue.lists.borrow();
        lists.waiting.is_empty() && lists.in_flight.is_empty() && lists.bytes == 0
    }

    #[test]
    fn the_oldest_is_dropped_and_counted_when_too_many_wait() {
        let queue = queue("");
        for number in 0..MAX_MESSAGES + 10 {
            queue.publish("a", number.to_string().into(), false);
        }
        assert_eq!(delivered_and_dropped(&queue), (0, 10));
        let first = sent(&queue, &LIMITS);
        assert_eq!(
            first,
            [(false, Some(2), "10".into()), (false, Some(3), "11".into())]
        );
        // What is on its way is not dropped, and counts all the same.
        queue.publish("a", "last".into(), false);
        assert_eq!(delivered_and_dropped(&queue), (0, 11));
        acknowledge(&queue, 3);
        assert_eq!(sent(&queue, &LIMITS), [(false, Some(4), "13".into())]);
    }

    #[test]
    fn the_oldest_is_dropped_when_they_are_too_large_and_the_newest_is_kept() {
        let queue = queue("");
        let payload = "x".repeat(MAX_BYTES / 4);
        for _ in 0..5 {
            queue.publish("a", payload.as_str().into(), false);
        }
        // A fourth does not fit, by what it costs beside its payload.
        assert_eq!(delivered_and_dropped(&queue), (0, 2));
        queue.publish("a", payload.repeat(5).into(), false);
        assert_eq!(delivered_and_dropped(&queue), (0, 5));
        assert_eq!(queue.lists.borrow().waiting.len(), 1);
        queue.publish("a", "small".into(), false);
        assert_eq!(delivered_and_dropped(&queue), (0, 6));
        assert_eq!(sent(&queue, &LIMITS), [(false, Some(2), "small".into())]);
        acknowledge(&queue, 2);
        assert!(is_empty(&queue));
    }

    #[test]
    fn large_messages_that_are_not_acknowledged_are_bounded_too() {
        let queue = queue("");
        let limits = Limits {
            window: 64,
            max_packet_bytes: 2 * MAX_BYTES,
            ..LIMITS
        };
        let payload = "x".repeat(MAX_BYTES / 2);
        let mut sent = 0;
        for _ in 0..10 {
            queue.publish("a", payload.as_str().into(), false);
            let mut out = Vec::new();
            queue.take(&mut out, &limits);
            sent += out.len() / payload.len();
        }
        assert_eq!(sent, 2);
        assert_eq!(queue.lists.borrow().waiting.len(), 1);
        assert_eq!(delivered_and_dropped(&queue), (0, 7));
        acknowledge(&queue, 2);
        let mut out = Vec::new();
        queue.take(&mut out, &limits);
        assert_eq!(out.len() / payload.len(), 1);
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_first() {
        let queue = queue("");
        for text in ["a", "b", "c"] {
            queue.publish("a", text.into(), false);
        }
        let [a, b, c] = [(2, "a"), (3, "b"), (4, "c")];
        let packet = |again, (pid, text): (u16, &str)| (again, Some(pid), text.to_owned());
        assert_eq!(sent(&queue, &LIMITS), [packet(false, a), packet(false, b)]);
        acknowledge(&queue, 2);
        queue.lost();
        assert_eq!(sent(&queue, &LIMITS), [packet(true, b), packet(false, c)]);
        queue.lost();
        assert_eq!(sent(&queue, &LIMITS), [packet(true, b), packet(true, c)]);
        acknowledge(&queue, 4);
        acknowledge(&queue, 3);
        assert_eq!(queue.acknowledged(3.try_into().unwrap(), true), None);
        assert_eq!(delivered_and_dropped(&queue), (3, 0));
        assert!(is_empty(&queue));
    }

    #[test]
    fn what_waits_or_is_on_its_way_is_there() {
        let queue = Rc::new(queue("site1/"));
        for name in ["a", "b", "c"] {
            queue.publish(name, "x".into(), false);
        }
        assert_eq!(sent(&queue, &LIMITS).len(), 2);
        acknowledge(&queue, 2);
        assert_eq!(names_that_it_has(&queue, "abcd"), "bc");
    }

    #[test]
    fn what_ends_every_connection_is_given_up() {
        let queue = queue("");
        queue.publish("a", "bad".into(), false);
        queue.publish("a", "good".into(), false);
        for _ in 0..MAX_ATTEMPTS {
            assert_eq!(sent(&queue, &LIMITS)[0].2, "bad");
            queue.lost();
        }
        assert_eq!(sent(&queue, &LIMITS), [(true, Some(3), "good".into())]);
        assert_eq!(delivered_and_dropped(&queue), (0, 1));
    }

    #[test]
    fn without_acknowledgements_what_is_written_is_delivered() {
        let queue = queue("");
        let limits = Limits {
            qos: QoS::Level0,
            ..LIMITS
        };
        for text in ["a", "b", "c"] {
            queue.publish("a", text.into(), false);
        }
        let all = ["a", "b", "c"].map(|text| (false, None, text.to_owned()));
        assert_eq!(sent(&queue, &limits), all);
        assert_eq!(delivered_and_dropped(&queue), (0, 0));
        queue.written();
        assert_eq!(delivered_and_dropped(&queue), (3, 0));
        queue.publish("a", "d".into(), false);
        assert_eq!(sent(&queue, &limits).len(), 1);
        queue.lost();
        assert_eq!(delivered_and_dropped(&queue), (3, 1));
        assert!(is_empty(&queue));
    }

    #[test]
    fn what_the_broker_does_not_take_is_dropped() {
        let queue = queue("");
        queue.publish("a", "x".repeat(91).into(), false);
        queue.publish("a", "x".repeat(90).into(), false);
        assert_eq!(sent(&queue, &LIMITS).len(), 1);
        assert_eq!(delivered_and_dropped(&queue), (0, 1));
        queue.acknowledged(3.try_into().unwrap(), false).unwrap();
        assert_eq!(delivered_and_dropped(&queue), (0, 2));
        assert!(is_empty(&queue));
    }

    #[test]
    fn numbers_in_use_are_not_given_again() {
        let queue = queue("");
        queue.publish("a", "kept".into(), false);
        sent(&queue, &LIMITS);
        for _ in 0..=u16::MAX {
            queue.publish("a", "b".into(), false);
            let (_, pid, _) = sent(&queue, &LIMITS).remove(0);
            let pid = pid.unwrap();
            assert!(
                pid > 2,
                "1 is the subscription's, 2 that of the first message"
            );
            acknowledge(&queue, pid);
        }
    }

    #[test]
    fn names_that_a_broker_would_not_take_are_refused() {
        let queue = queue("site1/");
        for name in ["a", "a/b", "/", "$a", "\u{fffd}", &"x".repeat(65_529)] {
            assert_eq!(
                queue.topic(name).unwrap().strip_prefix("site1/"),
                Some(name)
            );
        }
        for name in [
            "",
            "a+",
            "#",
            "\0",
            "a\n",
            "\u{7f}",
            "\u{9f}",
            "\u{ffff}",
            "\u{1fffe}",
            "\u{fdd0}",
            &"x".repeat(65_530),
        ] {
            assert!(queue.topic(name).is_none(), "{name:?}");
            queue.publish(name, "x".into(), false);
        }
        assert_eq!(delivered_and_dropped(&queue), (0, 11));
        assert!(Queue::new(String::new()).topic("$SYS/x").is_none());
        for (topic, name) in [
            ("site1/a", Some("a")),
            ("site1/", None),
            ("site1", None),
            ("site2/a", None),
        ] {
            assert_eq!(queue.name(topic), name);
        }
    }
}

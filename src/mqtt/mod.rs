//! Shares topics with an MQTT broker: what is published here is published there, and what others publish there comes here.
//!
//! It speaks MQTT 5, without TLS. Its own messages do not come back (No Local, MQTT 5 3.8.3.1): its clients have them already,
//! whether the broker is there or not.
//!
//! | file | its one job |
//! |---|---|
//! | `broker.rs` | the broker's URL, and the password |
//! | `flags.rs` | the flags of `whit relay` for it |
//! | `outbox.rs` | what is to be published: a bounded queue |
//! | `packet.rs` | packets to bytes, and back |
//! | `session.rs` | one connection to the broker |

mod broker;
mod flags;
mod outbox;
mod packet;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use broker::Broker;
pub(crate) use flags::{Flags, HELP};
pub(crate) use mqtt_proto::QoS;
pub(crate) use outbox::Outbox;

use broker::MAX_STRING_BYTES;
use outbox::Queue;
use smol::Timer;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};
use whit::Message;

/// A lost broker is tried again after a random part of this, then of twice as much, and so on.
const SHORTEST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a packet may have beside the payload: the topic, and properties.
const ROOM_BESIDE_PAYLOAD: usize = 8 * 1024;

/// What is shared with whom.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) broker: Broker,
    /// Stands before each topic's name at the broker; [`Options::prefix`] has its rule.
    pub(crate) prefix: String,
    /// Messages are published with this: `Level0` or `Level1`.
    pub(crate) qos: QoS,
    /// The broker is told to send no packet that is longer by more than 8 KiB. A message that is, there, is not received.
    pub(crate) max_message_bytes: usize,
}

/// The side that talks to the broker.
#[derive(Debug)]
pub(crate) struct Bridge {
    broker: Broker,
    qos: QoS,
    client_id: String,
    max_packet_bytes: usize,
    shortest_wait: Duration,
    outbox: Outbox,
    state: State,
}

/// What was said in the log last.
#[derive(Debug, Default)]
struct State {
    is_connected: Cell<bool>,
    /// Why the broker is away.
    reason: RefCell<String>,
    /// How many messages had been dropped.
    dropped: Cell<u64>,
}

impl Options {
    /// A prefix: empty, or ending with `/`.
    ///
    /// # Errors
    ///
    /// The rule.
    pub(crate) fn prefix(text: &str) -> Result<String, &'static str> {
        if !text.is_empty() && !text.ends_with('/') {
            return Err("a prefix ends with /, such as site1/, or is empty");
        }
        if text.contains(outbox::is_unfit) || text.starts_with('$') {
            return Err(
                "a prefix has no +, no #, no control characters, and no $ at its beginning",
            );
        }
        if text.len() > MAX_STRING_BYTES / 2 {
            return Err("longer than half a topic's name, which has 65535 bytes");
        }
        Ok(text.into())
    }

    /// A quality of service: 0 or 1.
    ///
    /// # Errors
    ///
    /// The rule.
    pub(crate) fn qos(text: &str) -> Result<QoS, &'static str> {
        match text {
            "0" => Ok(QoS::Level0),
            "1" => Ok(QoS::Level1),
            _ => Err("a quality of service is 0, sent once, or 1, sent until the broker has it"),
        }
    }
}

impl Bridge {
    /// A bridge, and the handle to publish with.
    pub(crate) fn new(options: Options) -> (Self, Outbox) {
        let outbox = Outbox(Rc::new(Queue::new(options.prefix)));
        let bridge = Self {
            broker: options.broker,
            qos: options.qos,
            // Each its own: of two clients of one name the broker sends away the first.
            client_id: format!("whit{:016x}", fastrand::u64(..)),
            max_packet_bytes: options
                .max_message_bytes
                .saturating_add(ROOM_BESIDE_PAYLOAD),
            shortest_wait: SHORTEST_WAIT,
            outbox: outbox.clone(),
            state: State::default(),
        };
        (bridge, outbox)
    }

    /// Connects to the broker, again whenever it is lost, and publishes what is in the outbox. What comes goes to `on_message`:
    /// the topic's name without the prefix, the message, and whether it is what the broker retained before it was connected to, which comes
    /// again with every connection. An empty one means that nothing is retained any more. It never ends.
    ///
    /// It waits in smol's reactor, which has a thread of its own, and is silent but for a ping a minute.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the broker notices, and forgets it after 2 minutes. What was not sent, or not acknowledged, stays in the
    /// outbox.
    pub(crate) async fn run(&self, mut on_message: impl FnMut(&str, Message, bool)) {
        let mut attempt = 0;
        loop {
            let began = Instant::now();
            let Err(reason) = session::run(self, &mut on_message).await;
            self.outbox.0.lost();
            self.lost(&reason.to_string());
            if began.elapsed() > LONGEST_WAIT {
                attempt = 0;
            }
            Timer::after(back_off(self.shortest_wait, attempt)).await;
            attempt += 1;
        }
    }

    /// Drops what the broker does not have yet, and tells how many messages these are.
    pub(crate) fn end(&self) {
        self.outbox.0.clear();
        let dropped = self.newly_dropped();
        if !dropped.is_empty() {
            log::warn!("mqtt: {} is left{dropped}", self.broker);
        }
    }

    fn connected(&self) {
        let state = &self.state;
        self.outbox.0.connected();
        state.is_connected.set(true);
        state.reason.take();
        log::info!("mqtt: connected to {}{}", self.broker, self.newly_dropped());
    }

    fn lost(&self, reason: &str) {
        let state = &self.state;
        let is_new = state.reason.replace(reason.into()) != reason;
        if state.is_connected.replace(false) {
            log::warn!(
                "mqtt: {} is lost: {reason}{}",
                self.broker,
                self.newly_dropped()
            );
        } else if is_new {
            log::warn!("mqtt: {} is away: {reason}", self.broker);
        }
    }

    /// How many messages were dropped since this was said last.
    fn newly_dropped(&self) -> String {
        let dropped = self.outbox.counters().dropped;
        match dropped - self.state.dropped.replace(dropped) {
            0 => String::new(),
            1 => "; one message for it was dropped meanwhile".into(),
            number => format!("; {number} messages for it were dropped meanwhile"),
        }
    }
}

/// Somewhere between nothing and the bound, so that many who lost the same broker do not come at once.
fn back_off(shortest: Duration, attempt: u32) -> Duration {
    let factor = 2_u32.checked_pow(attempt);
    let most = factor.and_then(|factor| shortest.checked_mul(factor));
    let most = most.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    most.mul_f64(fastrand::f64())
}

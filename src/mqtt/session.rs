//! One connection to the broker, from its beginning to its end.

use super::{
    Bridge,
    outbox::{Queue, subscription_pid},
    packet::{self, Incoming, Limits, Published},
};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use mqtt_proto::{
    QoS, TopicFilter,
    v5::{
        Connack, Connect, ConnectReasonCode, Packet, Puback, PubackReasonCode, RetainHandling,
        Suback, Subscribe, SubscribeReasonCode, SubscriptionOptions,
    },
};
use smol::{Timer, net::TcpStream};
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use whit::Message;

/// A broker that is silent for so long is pinged, and notices as soon when it hears nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// For the broker to take the connection, and to answer the subscription, or a ping.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// So long the broker keeps what it has for this client when the connection is lost: some tries to connect again.
const SESSION_SECONDS: u32 = 120;

/// So many messages may be on their way without an acknowledgement, each way.
const WINDOW: u16 = 64;

/// The longest packet of MQTT, with its header.
const LONGEST_PACKET: usize = 268_435_455 + 5;

const READ_BYTES: usize = 8 * 1024;

type Outcome = io::Result<Infallible>;

/// Connects, and shares topics until the connection is lost.
pub(super) async fn run(
    bridge: &Bridge,
    on_message: &mut impl FnMut(&str, Message, bool),
) -> Outcome {
    let mut incoming = Vec::new();
    let connected = async {
        let mut stream = connect(bridge).await?;
        let connack = take_connack(&mut stream, &mut incoming, bridge.max_packet_bytes).await?;
        Ok((stream, connack))
    };
    let too_long = async {
        Timer::after(PATIENCE).await;
        Err(timed_out("it did not take the connection"))
    };
    let (stream, connack) = future::or(connected, too_long).await?;
    let session = Session {
        bridge,
        queue: &bridge.outbox.0,
        limits: limits(bridge, &connack)?,
        keep_alive: keep_alive(&connack),
        answers: RefCell::default(),
        heard: Cell::new(Instant::now()),
        said: Cell::new(Instant::now()),
        asked: Cell::new(Some(Instant::now())),
        refused: Cell::new(false),
    };
    session.subscribe()?;
    let writing = session.write(stream.clone());
    let reading = session.read(stream, incoming, on_message);
    future::or(reading, future::or(writing, session.watch())).await
}

fn timed_out(what: &str) -> io::Error {
    let seconds = PATIENCE.as_secs();
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{what} within {seconds} s"),
    )
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")
}

async fn connect(bridge: &Bridge) -> io::Result<TcpStream> {
    let broker = &bridge.broker;
    let mut stream = TcpStream::connect((&*broker.host, broker.port)).await?;
    stream.set_nodelay(true)?;
    let mut connect = Connect::new(bridge.client_id.as_str().into(), seconds(KEEP_ALIVE));
    // What the broker keeps since the last connection is wanted; since the last start there is none under this name.
    connect.clean_start = false;
    connect.username = broker.user.as_deref().map(Into::into);
    connect.password = broker.password.clone();
    connect.properties.session_expiry_interval = Some(SESSION_SECONDS);
    connect.properties.receive_max = Some(WINDOW);
    connect.properties.max_packet_size = u32::try_from(bridge.max_packet_bytes).ok();
    let mut out = Vec::new();
    packet::put(&mut out, connect)?;
    stream.write_all(&out).await?;
    Ok(stream)
}

fn seconds(time: Duration) -> u16 {
    time.as_secs().try_into().unwrap_or(u16::MAX)
}

async fn take_connack(
    stream: &mut TcpStream,
    incoming: &mut Vec<u8>,
    max_bytes: usize,
) -> io::Result<Connack> {
    loop {
        match packet::first(incoming, max_bytes)? {
            Some((Incoming::Connack(connack), len)) => {
                incoming.drain(..len);
                return Ok(connack);
            }
            Some(_) => return Err(packet::malformed("something before it took the connection")),
            None => read_more(stream, incoming).await.map_err(unanswered)?,
        }
    }
}

fn unanswered(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::UnexpectedEof => io::Error::new(
            kind,
            "it closed the connection without an answer, as one may that does not speak MQTT 5",
        ),
        _ => error,
    }
}

async fn read_more(stream: &mut TcpStream, incoming: &mut Vec<u8>) -> io::Result<()> {
    let filled = incoming.len();
    incoming.resize(filled + READ_BYTES, 0);
    let read = stream.read(&mut incoming[filled..]).await?;
    incoming.truncate(filled + read);
    match read {
        0 => Err(ended()),
        _ => Ok(()),
    }
}

fn limits(bridge: &Bridge, connack: &Connack) -> io::Result<Limits> {
    let refused = |kind, why: &str| Err(io::Error::new(kind, why));
    match connack.reason_code {
        ConnectReasonCode::Success => {}
        ConnectReasonCode::UnsupportedProtocolVersion => {
            return refused(
                io::ErrorKind::Unsupported,
                "it does not speak MQTT 5, which this needs",
            );
        }
        code => {
            let why = format!(
                "it refuses the connection: {code:?}{}",
                told(&connack.properties.reason_string)
            );
            return refused(io::ErrorKind::PermissionDenied, &why);
        }
    }
    let properties = &connack.properties;
    if properties.wildcard_subscription_available == Some(false) {
        return refused(
            io::ErrorKind::Unsupported,
            "it has no subscriptions with wildcards, which this needs",
        );
    }
    let retain = properties.retain_available != Some(false);
    if !retain {
        log::warn!("mqtt: {} keeps no retained messages", bridge.broker);
    }
    let most = properties.max_packet_size.map(usize::try_from);
    Ok(Limits {
        qos: bridge.qos.min(properties.max_qos.unwrap_or(QoS::Level1)),
        retain,
        window: properties
            .receive_max
            .unwrap_or(WINDOW)
            .clamp(1, WINDOW)
            .into(),
        max_packet_bytes: most.and_then(Result::ok).unwrap_or(LONGEST_PACKET),
    })
}

fn keep_alive(connack: &Connack) -> Duration {
    let wanted = connack.properties.server_keep_alive;
    let wanted = wanted.filter(|seconds| *seconds > 0);
    wanted.map_or(KEEP_ALIVE, |seconds| {
        Duration::from_secs(seconds.into()).min(KEEP_ALIVE)
    })
}

/// The broker's own words, if it gave any.
fn told(reason: &Option<Arc<str>>) -> String {
    reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default()
}

struct Session<'a> {
    bridge: &'a Bridge,
    queue: &'a Queue,
    limits: Limits,
    keep_alive: Duration,
    /// To be written before any message.
    answers: RefCell<Vec<u8>>,
    heard: Cell<Instant>,
    said: Cell<Instant>,
    /// Since when the subscription, or a ping, is not answered.
    asked: Cell<Option<Instant>>,
    /// That the broker refuses messages was said.
    refused: Cell<bool>,
}

impl Session<'_> {
    fn answer(&self, packet: impl Into<Packet>) -> io::Result<()> {
        packet::put(&mut self.answers.borrow_mut(), packet)?;
        self.queue.wake();
        Ok(())
    }

    fn subscribe(&self) -> io::Result<()> {
        let filter =
            TopicFilter::try_from(self.queue.filter().as_str()).map_err(io::Error::other)?;
        let options = SubscriptionOptions {
            max_qos: QoS::Level1,
            // Its own clients have it already.
            no_local: true,
            // What is marked as retained was there before: a value that comes twice is no repetition.
            retain_as_published: false,
            retain_handling: RetainHandling::SendAtSubscribe,
        };
        self.answer(Subscribe::new(subscription_pid(), vec![(filter, options)]))
    }

    async fn write(&self, mut stream: TcpStream) -> Outcome {
        loop {
            let mut out = self.answers.take();
            self.queue.take(&mut out, &self.limits);
            if out.is_empty() {
                self.queue.changed().await;
                continue;
            }
            self.said.set(Instant::now());
            stream.write_all(&out).await?;
            self.queue.written();
        }
    }

    async fn read(
        &self,
        mut stream: TcpStream,
        mut incoming: Vec<u8>,
        on_message: &mut impl FnMut(&str, Message, bool),
    ) -> Outcome {
        loop {
            let mut taken = 0;
            while let Some((packet, len)) =
                packet::first(&incoming[taken..], self.bridge.max_packet_bytes)?
            {
                self.take(packet, on_message)?;
                taken += len;
            }
            incoming.drain(..taken);
            // What a long packet took is not kept.
            incoming.shrink_to(4 * READ_BYTES);
            // A broker that has always more to say leaves the answers, and the others, their turn.
            future::yield_now().await;
            read_more(&mut stream, &mut incoming).await?;
            self.heard.set(Instant::now());
        }
    }

    fn take(
        &self,
        packet: Incoming<'_>,
        on_message: &mut impl FnMut(&str, Message, bool),
    ) -> io::Result<()> {
        match packet {
            Incoming::Published(published) => self.receive(&published, on_message)?,
            Incoming::Puback(puback) => self.acknowledge(&puback),
            Incoming::Suback(suback) => self.subscribed(&suback)?,
            Incoming::Pingresp => self.asked.set(None),
            Incoming::Disconnect(disconnect) => {
                let code = disconnect.reason_code;
                let told = told(&disconnect.properties.reason_string);
                return Err(io::Error::other(format!(
                    "it ended the connection: {code:?}{told}"
                )));
            }
            Incoming::Connack(_) => return Err(packet::malformed("a second CONNACK")),
        }
        Ok(())
    }

    fn receive(
        &self,
        published: &Published<'_>,
        on_message: &mut impl FnMut(&str, Message, bool),
    ) -> io::Result<()> {
        if let Some(name) = self.queue.name(published.topic) {
            on_message(name, published.message(), published.retain);
        }
        if let Some(pid) = published.pid {
            // A broker that never reads, and sends more than it may. What is read at once is answered at once, however much that is.
            if self.answers.borrow().len() > 2 * READ_BYTES {
                return Err(packet::malformed(
                    "more messages than it may send without an acknowledgement",
                ));
            }
            self.answer(Puback::new_success(pid))?;
        }
        Ok(())
    }

    fn acknowledge(&self, puback: &Puback) {
        let code = puback.reason_code;
        let accepted = matches!(
            code,
            PubackReasonCode::Success | PubackReasonCode::NoMatchingSubscribers
        );
        let Some(topic) = self.queue.acknowledged(puback.pid, accepted) else {
            return;
        };
        if !accepted && !self.refused.replace(true) {
            let told = told(&puback.properties.reason_string);
            log::warn!(
                "mqtt: {} refuses messages, such as one on {topic}: {code:?}{told}",
                self.bridge.broker
            );
        }
    }

    fn subscribed(&self, suback: &Suback) -> io::Result<()> {
        match suback.topics[..] {
            _ if self.bridge.state.is_connected.get() => Err(packet::malformed("a second SUBACK")),
            [SubscribeReasonCode::GrantedQoS0 | SubscribeReasonCode::GrantedQoS1] => {
                self.asked.set(None);
                self.bridge.connected();
                Ok(())
            }
            [code] => {
                let told = told(&suback.properties.reason_string);
                let what = format!(
                    "it refuses the subscription to {}: {code:?}{told}",
                    self.queue.filter()
                );
                Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
            }
            _ => Err(packet::malformed("a SUBACK to something else")),
        }
    }

    /// Pings a broker that is silent, and gives up one that does not answer that, or the subscription.
    async fn watch(&self) -> Outcome {
        let patience = PATIENCE.min(self.keep_alive);
        loop {
            let quiet_since = self.heard.get().min(self.said.get());
            let due = match self.asked.get() {
                Some(asked) => asked + patience,
                None => quiet_since + self.keep_alive,
            };
            let now = Instant::now();
            if now < due {
                Timer::at(due).await;
            } else if self.asked.replace(Some(now)).is_some() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it does not answer",
                ));
            } else {
                self.answer(Packet::Pingreq)?;
            }
        }
    }
}

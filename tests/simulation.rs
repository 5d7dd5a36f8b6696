//! Whatever clients, handlers and time do: a deterministic simulation over the in-memory pipe, with a seed for each run.
//!
//! A few thousand seeds are run; `WHIT_SEEDS=100000 cargo test --release --test simulation` runs more, and `WHIT_SEED=7` that
//! one alone, with all that happened in it.

#![allow(clippy::cast_possible_truncation, reason = "numbers are made to fit")]

mod support;

use futures_lite::{AsyncRead, AsyncWrite, StreamExt, future};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use support::{
    BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, fragment, frame, frame_with,
    handshake,
    seeds::{Chance, play, take_frame},
};
use whit::{
    CloseCode, ClosedBy, Config, Connection, HEARTBEAT, Message, Server, Stats, TryWriteError,
    testing::{Pipe, Simulation},
};

const SEEDS: u64 = 3000;

#[test]
fn nothing_that_clients_handlers_and_time_do_breaks_a_promise() {
    log::set_logger(&Lines).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let totals = play(
        SEEDS,
        |seed, told| Totals(Run::new(seed, told).play()),
        |totals, more| totals.add(&more.0),
    );
    let Some(Totals(totals)) = totals else { return };
    println!("{totals:#?}");
    // It would prove little if it never came to this.
    for what in [
        (ClosedBy::Peer, 1000),
        (ClosedBy::Peer, 1005),
        (ClosedBy::Peer, 1006),
        (ClosedBy::Local, 1000),
        (ClosedBy::Local, 1001),
        (ClosedBy::Local, 1002),
        (ClosedBy::Local, 1006),
        (ClosedBy::Local, 1007),
        (ClosedBy::Local, 1008),
        (ClosedBy::Local, 1009),
        (ClosedBy::Local, 1011),
        (ClosedBy::Local, 1013),
    ] {
        assert!(totals.closed.contains_key(&what), "never {what:?}");
    }
    for limit in [
        "handshake_timeout",
        "write_timeout",
        "pong_timeout",
        "idle_timeout",
        "memory_budget_bytes",
    ] {
        assert!(totals.limits.contains_key(limit), "never {limit}");
    }
}

#[derive(Default)]
struct Totals(Stats);

impl Totals {
    fn add(&mut self, stats: &Stats) {
        self.0.opened += stats.opened;
        self.0.messages_received += stats.messages_received;
        self.0.messages_sent += stats.messages_sent;
        self.0.messages_dropped += stats.messages_dropped;
        self.0.shed += stats.shed;
        for (key, count) in &stats.closed {
            *self.0.closed.entry(*key).or_default() += count;
        }
        for (key, count) in &stats.limits {
            *self.0.limits.entry(key).or_default() += count;
        }
        for (key, count) in &stats.refused {
            *self.0.refused.entry(*key).or_default() += count;
        }
    }
}

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The log, which has one line for each open and one for each close.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
    }

    fn flush(&self) {}
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The message of this number from or to this client: it is all the same wherever it is made.
fn message(client: usize, number: usize, longest: usize) -> Message {
    let mut chance = Chance((client as u64) << 32 | number as u64);
    let len = match longest {
        10_000.. => chance.below(longest),
        _ if chance.one_in(8) => chance.below(longest),
        _ => chance.below(longest.min(40)),
    };
    let text = format!("{client}:{number}:{}", "é".repeat(len / 2));
    if chance.one_in(2) {
        text.into()
    } else {
        text.into_bytes().into()
    }
}

/// What the handlers do.
const HANDLERS: [&str; 14] = [
    "echo", "echo", "stream", "slow", "drowsy", "panics", "fails", "returns", "closes", "drops",
    "leaves", "keeps", "hogs", "pushes",
];

/// What handlers saw, for the run to look at.
#[derive(Default)]
struct Seen {
    running: Cell<usize>,
    kept: RefCell<Vec<Connection>>,
    /// How many messages went to the handler of each client.
    received: RefCell<BTreeMap<usize, usize>>,
    wrong: RefCell<Vec<String>>,
}

struct Running(Rc<Seen>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

async fn handle(seen: Rc<Seen>, conn: Connection, longest: usize) -> Result<(), io::Error> {
    seen.running.set(seen.running.get() + 1);
    let _running = Running(seen.clone());
    let path = conn.request().path().to_owned();
    let mut parts = path.split('/').skip(1);
    let kind = parts.next().unwrap().to_owned();
    let client: usize = parts.next().unwrap().parse().unwrap();
    let mut chance = Chance(client as u64);
    let enough = chance.below(6);

    match kind.as_str() {
        "drops" => {
            drop(conn);
            return std::future::pending().await;
        }
        "hogs" => {
            seen.kept.borrow_mut().push(conn);
            return std::future::pending().await;
        }
        "leaves" => {
            // It waits for a message still when it closes, and returns at once.
            let leaving = async {
                whit::sleep(millis(chance.below(300) as u64)).await;
                conn.close(CloseCode::new(4000).unwrap(), "enough");
            };
            let reading = async { while conn.read().await.is_ok() {} };
            future::or(reading, leaving).await;
            return Ok(());
        }
        "pushes" => {
            let mut number = 0;
            loop {
                let mut pause = number % 5 == 4;
                match conn.try_write(message(client, number, longest)) {
                    Ok(()) => number += 1,
                    Err(TryWriteError::Full(_)) => pause = true,
                    Err(TryWriteError::Closed(_)) => return Ok(()),
                }
                if pause {
                    whit::sleep(millis(50)).await;
                }
                future::yield_now().await;
            }
        }
        _ => {}
    }
    let mut stream = conn.clone();
    let mut number = 0;
    loop {
        match kind.as_str() {
            "slow" => whit::sleep(millis(chance.below(60) as u64)).await,
            "drowsy" if number == 2 => whit::sleep(millis(3000)).await,
            "panics" if number == enough => std::panic::resume_unwind(Box::new("on purpose")),
            "fails" if number == enough => return Err(io::ErrorKind::Other.into()),
            "returns" if number == enough => return Ok(()),
            "keeps" if number == enough => {
                seen.kept.borrow_mut().push(conn);
                return Ok(());
            }
            "closes" if number == enough => {
                conn.close(CloseCode::new(4000).unwrap(), "enough");
                conn.close(CloseCode::NORMAL, "too late");
            }
            _ => {}
        }
        let read = if kind == "stream" {
            stream.next().await
        } else {
            conn.read().await.ok()
        };
        let Some(read) = read else {
            if conn.close_reason().is_none() {
                seen.wrong
                    .borrow_mut()
                    .push(format!("{path}: an end without a reason"));
            }
            if conn.read().await.is_ok() {
                seen.wrong
                    .borrow_mut()
                    .push(format!("{path}: a message after the end"));
            }
            if conn.try_write("late").is_ok() {
                seen.wrong
                    .borrow_mut()
                    .push(format!("{path}: a write after the end"));
            }
            return Ok(());
        };
        if read != message(client, number, longest) {
            let wrong = format!("{path}: message {number} is {read:?}");
            seen.wrong.borrow_mut().push(wrong);
        }
        number += 1;
        seen.received.borrow_mut().insert(client, number);
        let _ = conn.write(read).await;
    }
}

/// What a client's bytes mean once they are all written.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    Nothing,
    Message,
    Close(u16),
    /// A broken rule, and the code that tells so.
    Broken(u16),
}

struct Client {
    id: usize,
    kind: &'static str,
    pipe: Option<Pipe>,
    /// What it is to write, and what each part of it means.
    script: VecDeque<(Vec<u8>, Mark)>,
    /// How much of the first part is written.
    written: usize,
    /// Messages that were written as a whole.
    messages: usize,
    /// The Close or the broken rule that was written, or begun.
    ended: Option<Mark>,
    /// That is written as a whole.
    end_complete: bool,
    lost: bool,
    /// Does nothing now.
    stalled: bool,
    /// Did nothing for a while once.
    dawdled: bool,
    /// Never answers a ping.
    mute: bool,
    /// Since then it does what it is asked only now and then.
    silent_since: Duration,
    longest_silence: Duration,
    read: Vec<u8>,
    upgraded: bool,
    refused: bool,
    answers: usize,
    close: Option<u16>,
    close_came: Duration,
    /// When it last wrote or read anything.
    moved: Duration,
    eof: bool,
    opened: bool,
    closed: Option<(ClosedBy, u16)>,
}

impl Client {
    fn new(id: usize, chance: &mut Chance, pipe: Pipe, run: &Settings) -> Self {
        let kind = if run.longest > 10_000 {
            chance.pick(&["echo", "hogs", "drowsy"])
        } else {
            chance.pick(&HANDLERS)
        };
        let mut client = Self {
            id,
            kind,
            pipe: Some(pipe),
            script: VecDeque::new(),
            written: 0,
            messages: 0,
            ended: None,
            end_complete: false,
            lost: false,
            stalled: false,
            dawdled: false,
            mute: chance.one_in(10),
            silent_since: run.elapsed,
            longest_silence: Duration::ZERO,
            read: Vec::new(),
            upgraded: false,
            refused: false,
            answers: 0,
            close: None,
            close_came: Duration::ZERO,
            moved: run.elapsed,
            eof: false,
            opened: false,
            closed: None,
        };
        let head = handshake(&format!("/{kind}/{id}"));
        if chance.one_in(12) {
            // It never says more.
            let part = chance.below(head.len());
            client.add(&head[..part], Mark::Nothing);
            return client;
        }
        client.add(head, Mark::Nothing);
        client.write_script(chance, run);
        client
    }

    fn add(&mut self, bytes: impl AsRef<[u8]>, mark: Mark) {
        self.script.push_back((bytes.as_ref().to_vec(), mark));
    }

    fn write_script(&mut self, chance: &mut Chance, run: &Settings) {
        for number in 0..chance.below(12) {
            if chance.one_in(4) {
                let opcode = chance.pick(&[PING, PONG]);
                self.add(frame(opcode, [number as u8]), Mark::Nothing);
            }
            self.add_message(chance, number, run);
        }
        match chance.below(4) {
            0 => {}
            1 => self.add(frame(CLOSE, ""), Mark::Close(1005)),
            2 => self.add(frame(CLOSE, close_payload(1000, "bye")), Mark::Close(1000)),
            _ => {
                let (bytes, code) = broken(chance, run);
                self.add(bytes, Mark::Broken(code));
            }
        }
        // Nobody may take this.
        self.add(frame(TEXT, "after the end"), Mark::Nothing);
        if !matches!(
            self.script[self.script.len() - 2].1,
            Mark::Close(_) | Mark::Broken(_)
        ) {
            self.script.pop_back();
        }
    }

    fn add_message(&mut self, chance: &mut Chance, number: usize, run: &Settings) {
        let message = message(self.id, number, run.longest);
        let opcode = if message.as_text().is_some() {
            TEXT
        } else {
            BINARY
        };
        let bytes = message.as_bytes();
        if chance.one_in(2) {
            return self.add(frame(opcode, bytes), Mark::Message);
        }
        let mut at = 0;
        let mut opcode = opcode;
        for _ in 0..chance.below(3) {
            let end = at + chance.below(bytes.len() - at + 1);
            self.add(fragment(opcode, &bytes[at..end]), Mark::Nothing);
            (at, opcode) = (end, CONTINUATION);
            if chance.one_in(4) {
                self.add(frame(PING, "within"), Mark::Nothing);
            }
        }
        self.add(frame(opcode, &bytes[at..]), Mark::Message);
    }

    /// Writes up to `most` bytes. Tells whether any were taken.
    fn write(&mut self, most: usize, now: Duration) -> bool {
        let mut budget = most;
        while budget > 0 && !self.lost {
            let (Some(pipe), Some((bytes, mark))) = (&mut self.pipe, self.script.front()) else {
                break;
            };
            let end = bytes.len().min(self.written + budget);
            let mut cx = Context::from_waker(Waker::noop());
            let count = match Pin::new(pipe).poll_write(&mut cx, &bytes[self.written..end]) {
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(_)) | Poll::Pending => break,
            };
            if matches!(mark, Mark::Close(_) | Mark::Broken(_)) {
                self.ended = Some(mark.clone());
            }
            self.written += count;
            self.moved = now;
            budget -= count;
            if self.written == bytes.len() {
                match mark {
                    Mark::Message => self.messages += 1,
                    Mark::Close(_) | Mark::Broken(_) => self.end_complete = true,
                    Mark::Nothing => {}
                }
                self.written = 0;
                self.script.pop_front();
            }
        }
        budget < most
    }

    /// Reads up to `most` bytes. Tells whether there were any, or the end.
    fn receive(&mut self, most: usize, run: &Settings) -> bool {
        let Some(pipe) = self.pipe.as_mut().filter(|_| !self.eof) else {
            return false;
        };
        let mut bytes = vec![0; most];
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(pipe).poll_read(&mut cx, &mut bytes) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.eof = true,
            Poll::Ready(Ok(count)) => {
                self.moved = run.elapsed;
                self.read.extend(&bytes[..count]);
                self.understand(run);
            }
            Poll::Ready(Err(error)) => panic!("{}: {error}", self.name()),
        }
        true
    }

    fn understand(&mut self, run: &Settings) {
        if !self.upgraded {
            let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
            self.upgraded = true;
            self.refused = !head.starts_with("HTTP/1.1 101 ");
        }
        if self.refused {
            return self.read.clear();
        }
        while let Some((opcode, payload)) = take_frame(&mut self.read) {
            assert_eq!(self.close, None, "{}: a frame after the Close", self.name());
            match opcode {
                CLOSE => {
                    let code = payload
                        .first_chunk()
                        .map_or(1005, |code| u16::from_be_bytes(*code));
                    self.close = Some(code);
                    self.close_came = run.elapsed;
                    if self.ended.is_none() && !self.mute {
                        // Between two frames, or it would be a part of one.
                        let next = usize::from(self.written > 0);
                        self.script.truncate(next);
                        self.add(frame(CLOSE, payload), Mark::Nothing);
                    }
                }
                PING if !self.mute && self.ended.is_none() => {
                    let next = usize::from(self.written > 0).min(self.script.len());
                    self.script
                        .insert(next, (frame(PONG, payload), Mark::Nothing));
                }
                PING | PONG => {}
                TEXT if payload == HEARTBEAT.as_bytes() => {}
                TEXT | BINARY => {
                    let expected = message(self.id, self.answers, run.longest);
                    assert_eq!(
                        (opcode, &payload[..]),
                        (
                            if expected.as_text().is_some() {
                                TEXT
                            } else {
                                BINARY
                            },
                            expected.as_bytes()
                        ),
                        "{}: answer {}",
                        self.name(),
                        self.answers
                    );
                    self.answers += 1;
                }
                _ => panic!("{}: opcode {opcode}", self.name()),
            }
        }
    }

    fn name(&self) -> String {
        format!("/{}/{}", self.kind, self.id)
    }

    fn is_prompt(&self) -> bool {
        !self.stalled && self.pipe.is_some() && !self.lost
    }
}

/// A rule broken in one of many ways, and the code that tells so.
fn broken(chance: &mut Chance, run: &Settings) -> (Vec<u8>, u16) {
    let too_long = run.max_message as u64 + 1 + chance.below(3) as u64;
    let mut claim = vec![0x82, 0xff];
    claim.extend(too_long.max(1 << 16).to_be_bytes());
    claim.extend([0; 4]);
    let fragments = [
        fragment(TEXT, ""),
        fragment(CONTINUATION, "").repeat(run.max_fragments),
    ];
    let ways: [(Vec<u8>, u16); 16] = [
        (vec![0x81, 0x01, b'x'], 1002),
        (frame_with(0xc1, "x"), 1002),
        (frame_with(0x91, "x"), 1002),
        (frame_with(0x83, "x"), 1002),
        (frame_with(0x8b, "x"), 1002),
        (frame_with(0x09, "x"), 1002),
        (frame(PING, [0; 126]), 1002),
        (frame(CONTINUATION, "x"), 1002),
        ([fragment(TEXT, "x"), frame(TEXT, "y")].concat(), 1002),
        (frame(TEXT, [0xff]), 1007),
        (
            [fragment(TEXT, [0xc3]), frame(CONTINUATION, [0x28])].concat(),
            1007,
        ),
        (claim, 1009),
        (fragments.concat(), 1008),
        (frame(CLOSE, [3]), 1002),
        (frame(CLOSE, close_payload(1005, "")), 1002),
        (
            frame(CLOSE, [&close_payload(1000, "")[..], &[0xff]].concat()),
            1007,
        ),
    ];
    let way = chance.below(ways.len());
    ways[way].clone()
}

/// What does not change in a run, but for the time.
struct Settings {
    capacity: usize,
    longest: usize,
    max_message: usize,
    max_fragments: usize,
    elapsed: Duration,
}

struct Run {
    chance: Chance,
    config: Config,
    settings: Settings,
    simulation: Simulation,
    stats: whit::StatsHandle,
    seen: Rc<Seen>,
    clients: Vec<Client>,
    told: bool,
    shutting_down: bool,
    /// When time last moved past something that was due.
    late: Duration,
}

impl Run {
    fn new(seed: u64, told: bool) -> Self {
        LINES.take();
        let mut chance = Chance(seed);
        let is_large = chance.one_in(30);
        let max_message = if is_large { 128 * 1024 } else { 4096 };
        let capacity = if is_large {
            65_536
        } else {
            chance.pick(&[1, 2, 3, 7, 16, 100, 1000, 65_536])
        };
        let longest = match capacity {
            ..10 => 60,
            _ if is_large => max_message - 20,
            _ => 4000,
        };
        let mut config = Config::new()
            .memory_budget_bytes(1024 * 1024)
            .max_message_bytes(max_message)
            .max_fragments(4 + chance.below(4))
            .max_control_frames_per_second(10_000)
            .max_connections(if is_large { 9 } else { 1 + chance.below(8) })
            .inbound_capacity(1 + chance.below(4))
            .outbound_capacity(1 + chance.below(4))
            .handshake_timeout(millis(500))
            .write_timeout(millis(chance.pick(&[100, 1000])))
            .ping_interval(millis(400))
            .pong_timeout(millis(chance.pick(&[100, 200, 400])))
            .close_timeout(millis(chance.pick(&[100, 300])))
            .drain_timeout(millis(600));
        if chance.one_in(3) {
            config = config.heartbeat(millis(30));
        }
        if chance.one_in(6) {
            config = config.idle_timeout(millis(700));
        }
        let settings = Settings {
            capacity,
            longest,
            max_message,
            max_fragments: config.max_fragments,
            elapsed: Duration::ZERO,
        };
        let seen = Rc::new(Seen::default());
        let watching = seen.clone();
        let server = Server::new()
            .config(config.clone())
            .route("/*", move |conn| handle(watching.clone(), conn, longest));
        Self {
            chance,
            config,
            settings,
            stats: server.stats_handle(),
            simulation: Simulation::new(server),
            seen,
            clients: Vec::new(),
            told,
            shutting_down: false,
            late: Duration::ZERO,
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.told {
            println!("{:?} {}", self.settings.elapsed, what());
        }
    }

    fn play(mut self) -> Stats {
        for _ in 0..20 + self.chance.below(100) {
            self.act();
            self.check();
        }
        if self.chance.one_in(8) {
            self.tell(|| "the server is dropped".into());
            self.simulation.drop_server();
            self.shutting_down = true;
            self.check();
        } else {
            self.all_leave();
        }
        self.seen.kept.take();
        self.clients.clear();
        let stats = self.stats.snapshot();
        let closed: u64 = stats.closed.values().sum();
        assert_eq!(
            (stats.open, stats.opened),
            (0, closed),
            "one close for each open"
        );
        assert_eq!(self.seen.running.get(), 0, "handlers that nobody runs");
        assert_eq!(stats.memory_used_bytes, 0, "memory is still charged");
        stats
    }

    fn act(&mut self) {
        let most = match self.chance.below(3) {
            0 => 1,
            1 => 1 + self.chance.below(20),
            _ => 100_000,
        };
        let who = (!self.clients.is_empty()).then(|| self.chance.below(self.clients.len()));
        let now = self.settings.elapsed;
        match (self.chance.below(24), who) {
            (0..=2, _) | (_, None) => {
                let id = self.clients.len();
                if id < 10 {
                    let pipe = self.simulation.connect(self.settings.capacity);
                    let client = Client::new(id, &mut self.chance, pipe, &self.settings);
                    self.tell(|| format!("{} connects: {:?}", client.name(), client.script));
                    self.clients.push(client);
                }
            }
            (3..=7, Some(who)) => {
                self.clients[who].write(most, now);
            }
            (8..=9, Some(who)) => {
                self.clients[who].receive(most, &self.settings);
            }
            (10..=14, _) => {
                self.simulation.step();
            }
            (15..=17, _) => self.settle(),
            (18..=20, _) => {
                self.settle();
                let by = match self.chance.below(8) {
                    0 => Some(millis(self.chance.below(2000) as u64)),
                    1 => Some(millis(self.chance.below(20) as u64)),
                    _ => self.simulation.next_timer(),
                };
                self.advance(by.unwrap_or_default());
            }
            (21, Some(who)) => {
                let client = &mut self.clients[who];
                client.stalled = !client.stalled;
                if client.stalled {
                    client.dawdled = true;
                }
                let (name, stalled) = (client.name(), client.stalled);
                self.tell(|| format!("{name} stalled: {stalled}"));
            }
            (22, Some(who)) => self.lose(who),
            (23, _) if self.chance.one_in(6) => {
                self.tell(|| "shutdown".into());
                self.simulation.shut_down();
                self.shutting_down = true;
            }
            _ => {}
        }
    }

    /// A client goes away without a word, in one of several ways.
    fn lose(&mut self, who: usize) {
        let way = self.chance.below(6);
        let client = &mut self.clients[who];
        let name = client.name();
        match (client.pipe.take(), way) {
            (Some(mut pipe), 0) => {
                // Only its half of the stream ends: it reads on.
                let mut cx = Context::from_waker(Waker::noop());
                assert!(Pin::new(&mut pipe).poll_close(&mut cx).is_ready());
                client.pipe = Some(pipe);
            }
            (Some(pipe), 1) => pipe.reset(),
            (Some(pipe), 2) => drop(pipe),
            (pipe, _) => {
                client.pipe = pipe;
                return;
            }
        }
        client.lost = true;
        self.tell(|| format!("{name} is lost"));
    }

    fn advance(&mut self, by: Duration) {
        self.tell(|| format!("{by:?} pass"));
        let is_late = self.simulation.next_timer().is_some_and(|next| next < by);
        self.simulation.advance(by);
        self.settings.elapsed = self.simulation.elapsed();
        let now = self.settings.elapsed;
        if is_late {
            self.late = now;
        }
        for client in &mut self.clients {
            if client.is_prompt() && !client.mute {
                client.silent_since = now;
            }
            client.longest_silence = client.longest_silence.max(now - client.silent_since);
        }
    }

    /// Runs everything until nothing moves, with time standing still. Then all that can be done must be done.
    fn settle(&mut self) {
        let now = self.settings.elapsed;
        let mut rounds = 0;
        loop {
            let mut moved = self.simulation.step();
            for client in &mut self.clients {
                if client.stalled {
                    continue;
                }
                moved |= client.write(100_000, now);
                moved |= client.receive(100_000, &self.settings);
            }
            if !moved {
                break;
            }
            rounds += 1;
            assert!(rounds < 100_000, "it never comes to rest");
        }
        self.check();
        let config = &self.config;
        for client in &self.clients {
            if !client.opened || client.closed.is_some() || self.simulation.has_ended() {
                continue;
            }
            // Who does not part is dropped, and who is silent is noticed.
            if client.close.is_some() {
                let waited = now - client.close_came.max(self.late);
                assert!(waited <= config.close_timeout, "{} stays", client.name());
            }
            let silent = now - client.moved.max(self.late);
            let noticed = millis(400) + 3 * config.pong_timeout;
            let parted = config.write_timeout + 3 * config.close_timeout;
            assert!(
                !client.stalled || silent <= noticed + parted,
                "{} is silent for {silent:?}",
                client.name()
            );
        }
        for client in self.clients.iter().filter(|client| client.is_prompt()) {
            let quick = matches!(client.kind, "echo" | "stream");
            let sound = !self.shutting_down && self.stats.snapshot().memory_peak_bytes < 700_000;
            if !quick || !sound || !client.opened || client.mute {
                continue;
            }
            if client.closed.is_none() && client.close.is_none() {
                assert_eq!(
                    client.answers,
                    client.messages,
                    "{}: what was sent is answered before time passes",
                    client.name()
                );
                assert!(
                    !client.end_complete,
                    "{}: its {:?} waits for an answer",
                    client.name(),
                    client.ended
                );
            }
        }
    }

    /// What has to hold at every moment.
    fn check(&mut self) {
        for line in LINES.take() {
            self.tell(|| line.clone());
            self.understand(&line);
        }
        if let Some(wrong) = self.seen.wrong.borrow().first() {
            panic!("{wrong}");
        }
        let stats = self.stats.snapshot();
        let closed: u64 = stats.closed.values().sum();
        assert_eq!(stats.open + closed, stats.opened, "opens and closes");
        let slack = 2 * self.settings.max_message + 64 * 1024;
        assert!(
            stats.memory_used_bytes <= self.config.memory_budget_bytes + slack,
            "{} bytes are charged",
            stats.memory_used_bytes
        );
        for client in &self.clients {
            let got = self.seen.received.borrow().get(&client.id).copied();
            assert!(
                got.unwrap_or(0) <= client.messages,
                "{}: more messages than were sent",
                client.name()
            );
            if client.eof && client.closed.is_some_and(|(_, code)| code != 1006) {
                let cut = client.dawdled || client.lost || client.mute;
                assert!(
                    client.read.is_empty() || cut || stats.shed > 0 || self.shutting_down,
                    "{}: ended within a frame",
                    client.name()
                );
            }
            if let (Some(told), Some((by, code))) = (client.close, client.closed) {
                let sheds = stats.shed > 0 && told == 1013;
                let expected = match (by, code) {
                    (ClosedBy::Local, 1006) => 1008,
                    (_, code) => code,
                };
                assert!(
                    told == expected || sheds,
                    "{}: {told} was sent, {by:?} {code} recorded",
                    client.name()
                );
            }
        }
    }

    /// Takes in a line of the log: `#1 local /echo/0 open`, or `#1 local /echo/0 closed by the peer, code 1000, ...`.
    fn understand(&mut self, line: &str) {
        let mut words = line.splitn(4, ' ');
        let (Some(number), Some("local"), Some(path), Some(rest)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        if !number.starts_with('#') {
            return;
        }
        let id: usize = path.rsplit('/').next().unwrap().parse().unwrap();
        let now = self.settings.elapsed;
        let stats = self.stats.snapshot();
        let dropped = self.simulation.has_ended();
        let client = &mut self.clients[id];
        if rest == "open" {
            assert!(!client.opened, "{path} is opened twice");
            client.opened = true;
            return;
        }
        let (by, rest) = match rest.strip_prefix("closed by the peer, code ") {
            Some(rest) => (ClosedBy::Peer, rest),
            None => (
                ClosedBy::Local,
                rest.strip_prefix("closed by this side, code ").expect(line),
            ),
        };
        let code: u16 = rest[..4].parse().unwrap();
        assert!(client.opened, "{path} was never opened");
        assert_eq!(client.closed, None, "{path} is closed twice");
        client.closed = Some((by, code));

        let silence = client.longest_silence.max(now - client.silent_since);
        // The server may be late by that much itself.
        let late = millis(10);
        let patience = self.config.write_timeout.min(self.config.pong_timeout) - late;
        let kind = client.kind;
        let is_true = match (by, code) {
            (ClosedBy::Peer, 1006) => client.lost,
            (ClosedBy::Peer, code) => client.ended == Some(Mark::Close(code)),
            (ClosedBy::Local, 1000) => matches!(kind, "returns" | "keeps" | "drops"),
            (ClosedBy::Local, 1001) => {
                self.shutting_down || rest.contains("no message for") && now >= millis(700)
            }
            (ClosedBy::Local, 1006) if rest.contains("dropped with the server") => dropped,
            (ClosedBy::Local, 1006) => client.mute || client.lost || silence >= patience,
            (ClosedBy::Local, 1011) => matches!(kind, "panics" | "fails"),
            (ClosedBy::Local, 1013) => stats.shed > 0,
            (ClosedBy::Local, 4000) => matches!(kind, "closes" | "leaves"),
            (ClosedBy::Local, code) => client.ended == Some(Mark::Broken(code)),
        };
        assert!(
            is_true,
            "not true: {line}\nended {:?}, silent {silence:?}",
            client.ended
        );
    }

    /// All clients go, or do nothing any more, and with them go, in the time they are given, all that was there for them. Then the server goes.
    fn all_leave(&mut self) {
        let at_once = self.chance.one_in(2);
        let without_a_word = self.chance.one_in(2);
        for client in &mut self.clients {
            if without_a_word {
                client.stalled = true;
                client.dawdled = true;
            } else {
                client.lost = true;
                client.pipe = None;
            }
        }
        if !at_once {
            // The longest that anything may take: a handler that sleeps, a ping, its answer, the end.
            self.pass(millis(3000 + 400 + 400 + 1000 + 2 * 300 + 600));
            let stats = self.stats.snapshot();
            assert_eq!(stats.open, 0, "a connection outlives its client");
            assert_eq!(
                self.seen.running.get(),
                0,
                "a handler outlives its connection"
            );
            self.seen.kept.take();
            // So long buffers are kept for the messages to come.
            self.pass(millis(2000));
            assert_eq!(
                self.stats.snapshot().memory_used_bytes,
                0,
                "memory is charged to nobody"
            );
            let next = self.simulation.next_timer();
            assert!(
                next.is_none_or(|next| next < Duration::from_secs(1)),
                "a timer for nobody, in {next:?}"
            );
        }
        self.simulation.shut_down();
        self.shutting_down = true;
        self.pass(self.config.drain_timeout);
        assert!(self.simulation.has_ended(), "the shutdown takes too long");
    }

    fn pass(&mut self, time: Duration) {
        let end = self.settings.elapsed + time;
        self.settle();
        while let Some(next) = self.simulation.next_timer() {
            if self.settings.elapsed + next > end {
                break;
            }
            self.advance(next);
            self.settle();
        }
        self.advance(end - self.settings.elapsed);
        self.settle();
    }
}

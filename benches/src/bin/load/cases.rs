//! The cases: what each of them sends, waits for and counts.

use crate::{
    Figures, Run,
    client::{self, Client, Messages, Result, STAMP},
    process::Snapshot,
};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    io::Errno,
};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    thread::sleep,
    time::{Duration, Instant},
};
use whit_benches::{HEARTBEAT, frame};

const SCRATCH: usize = 256 * 1024;
/// A server that does not answer for so long does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(case: &str, run: &Run) -> Result<Figures> {
    const KIB: usize = 1024;
    match case {
        "echo-1" => echo(run, frame::BINARY, 100, 128, 1),
        "echo-1-text" => echo(run, frame::TEXT, 100, 128, 1),
        "echo-16" => echo(run, frame::BINARY, 100, 128, 16),
        "echo-16-text" => echo(run, frame::TEXT, 100, 128, 16),
        "echo-16k" => echo(run, frame::BINARY, 50, 16 * KIB, 1),
        "echo-1m" => echo(run, frame::BINARY, 10, KIB * KIB, 1),
        "handshakes" => handshakes(run),
        "fan-out" => fan_out(run),
        "heartbeats" => heartbeats(run),
        "idle" => idle(run),
        "after-1m" => after_large(run),
        "slow-10" => slow(run),
        "silent" => silent(run),
        "turns-1" => turns(run, 1),
        "turns-16" => turns(run, 16),
        "turns-alone" => turns_alone(run),
        "turns-fan" => turns_fan(run),
        _ => Err("there is no such case".into()),
    }
}

/// A payload with room for a stamp at its beginning.
fn payload(first: u8, len: usize) -> Vec<u8> {
    if first == frame::BINARY {
        // A period that is neither the mask's nor a word's.
        return (0..len).map(|i| (i * 7 % 251) as u8).collect();
    }
    let mut text = "0".repeat(STAMP);
    for character in "Wohnzimmer: 20,5 °C, Küche: 22 °C – gut ✓ 🌱; "
        .chars()
        .cycle()
    {
        let room = len - text.len();
        if room == 0 {
            break;
        }
        text.push(if character.len_utf8() <= room {
            character
        } else {
            '.'
        });
    }
    text.into()
}

/// The clients of a case, watched by an epoll.
struct Clients {
    epoll: OwnedFd,
    clients: Vec<Client>,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
    /// How often to look for what has come, in place of being woken for each message: a server pays for waking a client
    /// that is on its own machine. Of `fan-out` the ratios of one server went from 1.6 to 2.5 with that, from 1.5 to 1.8
    /// without.
    look_every: Option<Duration>,
}

impl Clients {
    fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| error.to_string())?,
            clients: Vec::new(),
            events: Vec::with_capacity(1024),
            scratch: vec![0; SCRATCH],
            look_every: None,
        })
    }

    /// Connects `count` clients. All expect stamps of their own, or all the same.
    fn connect(
        run: &Run,
        path: &str,
        count: u32,
        own_stamps: bool,
        expected: Option<&Messages>,
    ) -> Result<Self> {
        let mut clients = Self::new()?;
        for id in 0..count {
            let (socket, first) = client::connect(run.addr, path)?;
            let mut client = Client::new(socket, if own_stamps { id } else { 0 });
            match expected {
                Some(expected) => client.check(expected, &first)?,
                None if first.is_empty() => {}
                None => return Err(client.wrong("bytes that were not asked for")),
            }
            clients.add(client)?;
        }
        Ok(clients)
    }

    fn add(&mut self, client: Client) -> Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(self.clients.len() as u64);
        epoll::add(&self.epoll, &client.socket, data, flags).map_err(|error| error.to_string())?;
        self.clients.push(client);
        Ok(())
    }

    /// Waits for readiness, and calls `ready` with each client.
    fn turn(
        &mut self,
        until: Instant,
        mut ready: impl FnMut(&mut Client, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        match self.look_every {
            None => wait(&self.epoll, &mut self.events, until)?,
            Some(time) => {
                wait(&self.epoll, &mut self.events, Instant::now())?;
                if self.events.is_empty() {
                    sleep(time.min(until.saturating_duration_since(Instant::now())));
                }
            }
        }
        for event in self.events.drain(..) {
            ready(
                &mut self.clients[event.data.u64() as usize],
                &mut self.scratch,
            )?;
        }
        Ok(())
    }

    /// Receives, and sends what is left to be sent, until all clients are as they should be.
    fn until(&mut self, messages: &mut Messages, done: impl Fn(&Client) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut missing = self.clients.iter().filter(|client| !done(client)).count();
        while missing > 0 {
            if Instant::now() >= deadline {
                return Err(self.late(done));
            }
            self.turn(deadline, |client, scratch| {
                let was_missing = !done(client);
                client.send_rest(messages)?;
                client.receive(messages, scratch)?;
                missing -= usize::from(was_missing && done(client));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Each client has a batch echoed, one after the other.
    fn one_after_the_other(&mut self, messages: &mut Messages) -> Result<()> {
        for i in 0..self.clients.len() {
            self.clients[i].send(messages)?;
            self.until_answered(i, messages)?;
        }
        Ok(())
    }

    fn until_answered(&mut self, i: usize, messages: &mut Messages) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.clients[i].is_answered() {
            if Instant::now() >= deadline {
                return Err(self.clients[i].wrong("nothing"));
            }
            self.turn(deadline, |client, scratch| {
                client.send_rest(messages)?;
                client.receive(messages, scratch).map(drop)
            })?;
        }
        Ok(())
    }

    /// Who is not done, and why that is wrong.
    fn late(&self, done: impl Fn(&Client) -> bool) -> String {
        let late = self.clients.iter().find(|client| !done(client));
        late.map(|client| client.wrong("nothing"))
            .unwrap_or_default()
    }
}

fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, until: Instant) -> Result<()> {
    let timeout = until.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(timeout).unwrap_or_default();
    match epoll::wait(epoll, spare_capacity(events), Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// What is measured: the time after a warm-up. Tells when to stop.
struct Window {
    warm: Instant,
    from: Option<(Snapshot, u64)>,
    end: Instant,
}

impl Window {
    fn new(run: &Run) -> Self {
        let warm = run.after(0.25);
        Self {
            warm,
            from: None,
            end: warm,
        }
    }

    /// `count`: of all that was done so far.
    fn goes_on(&mut self, run: &Run, count: u64) -> Result<bool> {
        let now = Instant::now();
        if self.from.is_none() && now >= self.warm {
            self.from = Some((run.snapshot()?, count));
            self.end = run.after(1.0);
        }
        // Not one so far: the machine is busy with other things.
        if now >= self.end && self.from.as_ref().is_some_and(|from| from.1 == count) {
            self.end = run.after(1.0);
        }
        Ok(self.from.is_none() || now < self.end)
    }

    /// The latest moment to look again.
    fn next(&self) -> Instant {
        if self.from.is_none() {
            self.warm
        } else {
            self.end
        }
    }

    fn figures(&self, run: &Run, unit: &str, count: u64) -> Result<Figures> {
        let (from, count_then) = self
            .from
            .as_ref()
            .ok_or("the measured time has not begun")?;
        Figures::window(from, &run.snapshot()?, unit, count - count_then)
    }
}

/// Each client sends `depth` messages at once, and the next ones when all of them came back.
fn echo(run: &Run, first: u8, connections: u32, len: usize, depth: usize) -> Result<Figures> {
    let mut messages = Messages::new(first, &payload(first, len), depth);
    let mut clients = Clients::connect(run, "/ws", connections, true, None)?;
    for client in &mut clients.clients {
        client.send(&mut messages)?;
    }
    let mut count = 0;
    let mut progress = Instant::now();
    let mut window = Window::new(run);
    while window.goes_on(run, count)? {
        let before = count;
        clients.turn(window.next(), |client, scratch| {
            client.send_rest(&mut messages)?;
            count += u64::from(client.receive(&messages, scratch)?);
            if client.is_answered() {
                client.send(&mut messages)?;
            }
            Ok(())
        })?;
        if count > before {
            progress = Instant::now();
        } else if progress.elapsed() > PATIENCE {
            return Err(clients.late(Client::is_answered));
        }
    }
    let figures = window.figures(run, "message", count)?;
    // One that was lost is missed here.
    clients.until(&mut messages, Client::is_answered)?;
    Ok(figures)
}

/// 32 clients at a time connect, shake hands, send a Close, wait for the server's and for the end of the TCP connection, and
/// come again.
fn handshakes(run: &Run) -> Result<Figures> {
    struct Visit {
        socket: TcpStream,
        came: Vec<u8>,
        upgraded: bool,
    }
    let mut clients = Clients::new()?;
    let visit = |epoll: &OwnedFd, slot: u64| -> Result<Visit> {
        let error = |error: io::Error| format!("connecting: {error}");
        let mut socket = TcpStream::connect(run.addr).map_err(error)?;
        socket.set_nonblocking(true).map_err(error)?;
        socket.write_all(&client::request("/ws")).map_err(error)?;
        let data = epoll::EventData::new_u64(slot);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(epoll, &socket, data, flags).map_err(|error| error.to_string())?;
        Ok(Visit {
            socket,
            came: Vec::new(),
            upgraded: false,
        })
    };
    let mut visits = (0..32)
        .map(|slot| visit(&clients.epoll, slot))
        .collect::<Result<Vec<_>>>()?;
    let close = client::close();

    let mut count = 0;
    let mut progress = Instant::now();
    let mut window = Window::new(run);
    while window.goes_on(run, count)? {
        wait(&clients.epoll, &mut clients.events, window.next())?;
        for event in clients.events.drain(..) {
            let slot = event.data.u64();
            let Visit {
                socket,
                came,
                upgraded,
            } = &mut visits[slot as usize];
            // To its very end: the end of the connection may have come with the Close.
            let ended = loop {
                match socket.read(&mut clients.scratch) {
                    Ok(0) => break true,
                    Ok(len) => came.extend(&clients.scratch[..len]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                    Err(error) => return Err(format!("a connection that was closed: {error}")),
                }
            };
            if !*upgraded {
                if let Some(len) = client::response(came)? {
                    came.drain(..len);
                    *upgraded = true;
                    socket
                        .write_all(&close)
                        .map_err(|error| error.to_string())?;
                }
            }
            if ended {
                if !*upgraded || came.first() != Some(&frame::CLOSE) {
                    return Err(format!("a Close was answered with {}", came.escape_ascii()));
                }
                visits[slot as usize] = visit(&clients.epoll, slot)?;
                count += 1;
                progress = Instant::now();
            }
        }
        if progress.elapsed() > PATIENCE {
            return Err(
                "a handshake or a Close was not answered, or the connection not ended".into(),
            );
        }
    }
    window.figures(run, "handshake", count)
}

/// A message to 1,000 subscribers, and the next one when all of them have it.
fn fan_out(run: &Run) -> Result<Figures> {
    const SUBSCRIBERS: u32 = 1000;
    let mut messages = Messages::new(frame::BINARY, &payload(frame::BINARY, 128), 1);
    let mut clients = Clients::connect(run, "/fan", SUBSCRIBERS, false, None)?;
    clients.look_every = Some(Duration::from_micros(200));
    let mut publisher = Client::new(client::connect(run.addr, "/publish")?.0, 0);
    let mut published = 0;
    let mut window = Window::new(run);
    while window.goes_on(run, u64::from(published * SUBSCRIBERS))? {
        publisher.send(&mut messages)?;
        published += 1;
        clients.until(&mut messages, |client| client.received() == published)?;
    }
    window.figures(run, "delivered message", u64::from(published * SUBSCRIBERS))
}

/// 5,000 clients that a server started with `--heartbeat 1s` sends a heartbeat each second. Whole seconds are measured, from a
/// quiet moment to another.
fn heartbeats(run: &Run) -> Result<Figures> {
    let messages = Messages::constant(frame::TEXT, HEARTBEAT);
    let mut clients = Clients::connect(run, "/ws", 5000, false, Some(&messages))?;
    clients.look_every = Some(Duration::from_millis(20));
    let mut count = 0;
    let mut receive_until = |clients: &mut Clients, until: Instant| -> Result<u64> {
        let before = count;
        clients.turn(until, |client, scratch| {
            count += u64::from(client.receive(&messages, scratch)?);
            Ok(())
        })?;
        Ok(count - before)
    };
    // A server with a timer for each connection may never be quiet.
    let limit = Instant::now() + Duration::from_secs(3);
    let mut last = None;
    while Instant::now() < limit
        && last.is_none_or(|last: Instant| last.elapsed() < Duration::from_millis(200))
    {
        if receive_until(&mut clients, Instant::now() + Duration::from_millis(20))? > 0 {
            last = Some(Instant::now());
        }
    }

    let beats = run.seconds.ceil();
    let received_then: Vec<_> = clients.clients.iter().map(Client::received).collect();
    let from = run.snapshot()?;
    let end = from.at + Duration::from_secs_f64(beats);
    let mut beaten = 0;
    while Instant::now() < end {
        beaten += receive_until(&mut clients, end)?;
    }
    let figures = Figures::window(&from, &run.snapshot()?, "heartbeat", beaten)?;
    for (client, then) in clients.clients.iter().zip(received_then) {
        let received = f64::from(client.received() - then);
        if (received - beats).abs() > 1.0 {
            return Err(client.wrong(&format!("{received} heartbeats in {beats} s")));
        }
    }
    Ok(figures)
}

/// 5,000 connections, each of which has echoed a small message and is quiet since.
fn idle(run: &Run) -> Result<Figures> {
    const CONNECTIONS: u32 = 5000;
    let mut messages = Messages::new(frame::BINARY, &payload(frame::BINARY, 128), 1);
    visit(run, &mut messages)?;
    let before = run.memory()?;
    let mut clients = Clients::connect(run, "/ws", CONNECTIONS, true, None)?;
    clients.one_after_the_other(&mut messages)?;
    run.pause(0.5);
    let mut figures = Figures::default();
    figures.memory("", before, run.memory()?, CONNECTIONS);
    Ok(figures)
}

/// 100 connections, each of which echoes a message of 1 MiB, one after the other.
fn after_large(run: &Run) -> Result<Figures> {
    const CONNECTIONS: u32 = 100;
    visit(
        run,
        &mut Messages::new(frame::BINARY, &payload(frame::BINARY, 128), 1),
    )?;
    let mut messages = Messages::new(frame::BINARY, &payload(frame::BINARY, 1024 * 1024), 1);
    let before = run.memory()?;
    let mut clients = Clients::connect(run, "/ws", CONNECTIONS, true, None)?;
    clients.one_after_the_other(&mut messages)?;
    let at_once = run.memory()?;
    run.pause(2.5);
    let mut figures = Figures::default();
    figures
        .memory(" right after", before, at_once, CONNECTIONS)
        .memory(" later", before, run.memory()?, CONNECTIONS);
    Ok(figures)
}

/// One connection with 10 echoes a second.
fn slow(run: &Run) -> Result<Figures> {
    let mut messages = Messages::new(frame::BINARY, &payload(frame::BINARY, 128), 1);
    let mut clients = Clients::connect(run, "/ws", 1, true, None)?;
    let mut tick = |clients: &mut Clients| {
        sleep(Duration::from_millis(100));
        clients.one_after_the_other(&mut messages)
    };
    for _ in 0..3 {
        tick(&mut clients)?;
    }
    let from = run.snapshot()?;
    let end = run.after(5.0);
    while Instant::now() < end {
        tick(&mut clients)?;
    }
    Ok(Figures::rest(&from, &run.snapshot()?))
}

/// 1,000 connections on which nothing happens.
fn silent(run: &Run) -> Result<Figures> {
    let mut messages = Messages::new(frame::BINARY, &payload(frame::BINARY, 128), 1);
    let mut clients = Clients::connect(run, "/ws", 1000, true, None)?;
    clients.one_after_the_other(&mut messages)?;
    run.pause(0.5);
    let from = run.snapshot()?;
    run.pause(5.0);
    let figures = Figures::rest(&from, &run.snapshot()?);
    // They are still there.
    clients.one_after_the_other(&mut messages)?;
    Ok(figures)
}

/// In a turn the server is stopped until each of 100 clients has sent `depth` messages. It finds all of them at once, however
/// fast it is, and what else runs on the machine.
fn turns(run: &Run, depth: usize) -> Result<Figures> {
    let server = run.server();
    take_turns(run, "/ws", depth, |clients, messages| {
        server.stop()?;
        for client in &mut clients.clients {
            client.send(messages)?;
        }
        server.go_on()?;
        clients.until(messages, Client::is_answered)
    })
}

/// In a turn each of 100 clients in turn has a message echoed, and the server rests after each.
fn turns_alone(run: &Run) -> Result<Figures> {
    let server = run.server();
    take_turns(run, "/ws", 1, |clients, messages| {
        for i in 0..clients.clients.len() {
            clients.clients[i].send(messages)?;
            clients.until_answered(i, messages)?;
            server.rests()?;
        }
        Ok(())
    })
}

/// In a turn a message is sent to 100 clients, by one who publishes it.
fn turns_fan(run: &Run) -> Result<Figures> {
    run.server().rests()?;
    let mut publisher = Client::new(client::connect(run.addr, "/publish")?.0, 0);
    let mut published = 0;
    take_turns(run, "/fan", 1, |clients, messages| {
        publisher.send(messages)?;
        published += 1;
        clients.until(messages, |client| client.received() == published)
    })
}

/// A fixed number of turns, for what is counted from the start of a server to its end: each step waits until the server has done all
/// that the one before gave it to do, so that it does the same each time.
fn take_turns(
    run: &Run,
    path: &str,
    depth: usize,
    mut turn: impl FnMut(&mut Clients, &mut Messages) -> Result<()>,
) -> Result<Figures> {
    const CONNECTIONS: u32 = 100;
    let server = run.server();
    let mut messages = Messages::new(frame::BINARY, &payload(frame::BINARY, 128), depth);
    let mut clients = Clients::new()?;
    for id in 0..CONNECTIONS {
        server.rests()?;
        let socket = client::dial(run.addr)?;
        server.rests()?;
        let (socket, first) = client::shake_hands(socket, path)?;
        // Who is sent what others publish gets theirs.
        let client = Client::new(socket, if path == "/ws" { id } else { 0 });
        if !first.is_empty() {
            return Err(client.wrong("bytes that were not asked for"));
        }
        clients.add(client)?;
    }
    for _ in 0..run.turns {
        server.rests()?;
        turn(&mut clients, &mut messages)?;
    }
    server.rests()?;
    server.stop()?;
    drop(clients);
    server.go_on()?;
    server.rests()?;
    let mut figures = Figures::default();
    let count = run.turns * CONNECTIONS * messages.depth();
    figures.add("messages", count.into());
    Ok(figures)
}

/// A client that comes, has a message echoed and goes, so that what a server allocates once is not counted.
fn visit(run: &Run, messages: &mut Messages) -> Result<()> {
    Clients::connect(run, "/ws", 1, true, None)?.one_after_the_other(messages)?;
    sleep(Duration::from_millis(100));
    Ok(())
}

//! The load generator: sends what a case asks for, compares every byte that comes back, and measures the server meanwhile.
//!
//!     load CASE --url ws://127.0.0.1:PORT/ws --pid PID [--seconds 2] [--turns 100]
//!
//! It prints one line of JSON, or fails where the server answers wrongly. `--tag name=value` goes into that line as it is.

mod cases;
mod client;
mod process;

use client::Result;
use process::{Memory, Server, Snapshot};
use std::{
    fmt::Write,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

/// The server that is measured, and for how long: some cases for a time, some for a number of turns.
pub struct Run {
    pub addr: SocketAddr,
    pid: u32,
    pub seconds: f64,
    pub turns: u32,
}

impl Run {
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(self.pid)
    }

    pub fn memory(&self) -> Result<Memory> {
        Memory::of(self.pid)
    }

    pub fn server(&self) -> Server {
        Server::new(self.pid)
    }

    /// When so many times the measured seconds will have passed.
    pub fn after(&self, times: f64) -> Instant {
        Instant::now() + self.span(times)
    }

    pub fn pause(&self, times: f64) {
        sleep(self.span(times));
    }

    fn span(&self, times: f64) -> Duration {
        Duration::from_secs_f64(self.seconds * times)
    }
}

/// What a case found out: names and numbers, the one that servers are compared by first.
#[derive(Default)]
pub struct Figures(Vec<(String, f64)>);

impl Figures {
    pub fn add(&mut self, name: &str, value: f64) -> &mut Self {
        self.0.push((name.into(), value));
        self
    }

    /// What happened from one moment to another, in which `count` of something were done.
    pub fn window(from: &Snapshot, to: &Snapshot, unit: &str, count: u64) -> Result<Self> {
        if count == 0 {
            return Err(format!("not one {unit} in the measured time"));
        }
        let mut figures = Self::default();
        figures.add(
            &format!("ns a {unit}"),
            (to.cpu - from.cpu) as f64 / count as f64,
        );
        figures.add("count", count as f64);
        figures.common(from, to);
        Ok(figures)
    }

    /// What happened from one moment to another, where little does.
    pub fn rest(from: &Snapshot, to: &Snapshot) -> Self {
        let us = (to.cpu - from.cpu) as f64 / 1000.0;
        let mut figures = Self::default();
        figures.add("us a second", us / (to.at - from.at).as_secs_f64());
        figures.common(from, to);
        figures
    }

    /// What is told of every window.
    fn common(&mut self, from: &Snapshot, to: &Snapshot) -> &mut Self {
        let ns = (to.at - from.at).as_nanos() as f64;
        let share = |from: u64, to: u64| (to - from) as f64 / ns;
        let own = share(from.own_cpu, to.own_cpu);
        self.add("seconds", ns / 1e9)
            .add("server share of a core", share(from.cpu, to.cpu))
            .add("of it user", share(from.user, to.user))
            .add("of it system", share(from.system, to.system))
            .add(
                "context switches a second",
                (to.switches - from.switches) as f64 / ns * 1e9,
            )
            .add("threads", to.threads as f64)
            .add("load share of a core", own)
            // The server waited for the load, which had no time left.
            .add(
                "load is the bottleneck",
                f64::from(own > 0.97 && share(from.cpu, to.cpu) < 0.9),
            )
    }

    pub fn memory(&mut self, when: &str, from: Memory, to: Memory, connections: u32) -> &mut Self {
        let growth = |from: u64, to: u64| (to as f64 - from as f64) / f64::from(connections);
        self.add(
            &format!("bytes a connection{when}"),
            growth(from.private, to.private),
        )
        .add(
            &format!("resident bytes a connection{when}"),
            growth(from.rss, to.rss),
        )
    }

    fn json(&self, case: &str) -> String {
        let mut line = format!("{{\"case\":\"{case}\"");
        for tag in std::env::args()
            .skip_while(|arg| arg != "--tag")
            .skip(1)
            .step_by(2)
        {
            if let Some((name, value)) = tag.split_once('=') {
                let _ = write!(line, ",\"{name}\":\"{value}\"");
            }
        }
        for (name, value) in &self.0 {
            let _ = write!(line, ",\"{name}\":{}", (value * 1000.0).round() / 1000.0);
        }
        line + "}"
    }
}

fn main() {
    let case = std::env::args().nth(1).unwrap_or_default();
    let url: String = whit_benches::flag("--url").unwrap_or_default();
    let addr = url
        .strip_prefix("ws://")
        .and_then(|url| url.strip_suffix("/ws")?.parse().ok());
    let (Some(addr), Some(pid)) = (addr, whit_benches::flag("--pid")) else {
        whit_benches::fail(
            "usage: load CASE --url ws://127.0.0.1:PORT/ws --pid PID [--seconds 2] [--turns 100] [--tag name=value]...",
        );
    };
    let run = Run {
        addr,
        pid,
        seconds: whit_benches::flag("--seconds").unwrap_or(2.0),
        turns: whit_benches::flag("--turns").unwrap_or(100),
    };
    match cases::run(&case, &run) {
        Ok(figures) => println!("{}", figures.json(&case)),
        Err(why) => whit_benches::fail(format_args!("{case}: {why}")),
    }
}

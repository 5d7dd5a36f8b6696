//! How the machine is: load, memory, temperature and network, live in any browser. One reader serves all who look, and
//! nothing is read while no one does.
//!
//!     cargo run --example dashboard
//!     cargo run --example dashboard 0.0.0.0:7777     (for the other machines of your network, too)
//!
//! Open <http://127.0.0.1:7777/>: a plot for each value, with a new point each second. What the machine does not have is
//! left out. Ctrl-C ends it.
//!
//! Each message is the name of a value, a space, and a number: `load` (of the last minute), `memory` (in use, MiB),
//! `temperature` (degrees Celsius), `received` and `sent` (bytes a second, all interfaces but the loopback).

use futures_lite::future;
use smol::channel::{self, Receiver, Sender};
use std::{
    env, fs,
    time::{Duration, Instant},
};
use whit::{Closed, Connection, Listener, Policy, Response, Server, Topic, sleep};

const PERIOD: Duration = Duration::from_secs(1);

/// Files of /proc and /sys answer at once; others would be read through `smol::unblock`.
fn numbers(file: &str) -> Option<Vec<f64>> {
    let text = fs::read_to_string(file).ok()?;
    Some(
        text.split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect(),
    )
}

fn load() -> Option<f64> {
    numbers("/proc/loadavg")?.first().copied()
}

fn memory() -> Option<f64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<f64> {
        let mut lines = text.lines();
        let rest = lines.find_map(|line| line.strip_prefix(name))?;
        rest.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some((kib("MemTotal:")? - kib("MemAvailable:")?) / 1024.0)
}

fn temperature() -> Option<f64> {
    let thousandths = numbers("/sys/class/thermal/thermal_zone0/temp")?;
    Some(thousandths.first()? / 1000.0)
}

/// All bytes that were received and sent so far.
fn traffic() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/net/dev").ok()?;
    let (mut received, mut sent) = (0.0, 0.0);
    // Two lines of headings have no colon.
    for (name, counters) in text.lines().filter_map(|line| line.split_once(':')) {
        let counters: Vec<&str> = counters.split_whitespace().collect();
        if name.trim() != "lo" {
            received += counters.first()?.parse::<f64>().ok()?;
            sent += counters.get(8)?.parse::<f64>().ok()?;
        }
    }
    Some((received, sent))
}

/// Reads and publishes once in a period, for as long as anyone looks.
async fn measure(dashboard: Topic, someone_came: Receiver<()>) -> whit::Result<()> {
    let mut before: Option<(Instant, (f64, f64))> = None;
    loop {
        while dashboard.subscribers() == 0 {
            // What is old greets nobody.
            dashboard.forget();
            before = None;
            // Fails only where no one could come any more.
            let _ = someone_came.recv().await;
        }
        let now = traffic().map(|traffic| (Instant::now(), traffic));
        let rates = before.zip(now).map(|((then, old), (now, new))| {
            let seconds = (now - then).as_secs_f64();
            ((new.0 - old.0) / seconds, (new.1 - old.1) / seconds)
        });
        before = now;
        let values = [
            ("load", load()),
            ("memory", memory()),
            ("temperature", temperature()),
            ("received", rates.map(|(received, _)| received)),
            ("sent", rates.map(|(_, sent)| sent)),
        ];
        // Who comes next gets what there is now, and nothing that is gone since.
        dashboard.forget();
        for (name, value) in values {
            if let Some(value) = value {
                dashboard.publish_keyed(name, format!("{name} {value:.2}"));
            }
        }
        sleep(PERIOD).await;
    }
}

async fn look(conn: Connection, dashboard: Topic, came: Sender<()>) -> Result<(), Closed> {
    // Who does not keep up gets the newest of each value.
    let _subscription = dashboard.subscribe(&conn, Policy::Latest);
    // Full: the reader will wake already.
    let _ = came.try_send(());
    // It has nothing to say; this waits for its end.
    loop {
        conn.read().await?;
    }
}

fn main() -> whit::Result<()> {
    let addr = env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7777".into());
    let listener = Listener::bind(addr)?;
    for addr in listener.local_addrs() {
        eprintln!("open http://{addr}/");
    }
    let server = Server::new().shut_down_on_signals();
    let dashboard = server.hub().topic("dashboard");
    // Of each value the newest, because they have keys.
    dashboard.keep(1);
    let (came, someone_came) = channel::bounded(1);
    let shown = dashboard.clone();
    let server = server
        .route("/ws", move |conn| look(conn, shown.clone(), came.clone()))
        .page("/", |_| Response::html(include_str!("dashboard.html")));
    whit::block_on(future::or(
        server.serve(listener),
        measure(dashboard, someone_came),
    ))?
}

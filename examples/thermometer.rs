//! The temperature of the Pi's processor, live in any browser. One reader serves all who watch, and nothing is
//! read while no one does.
//!
//!     cargo run --example thermometer
//!     cargo run --example thermometer 0.0.0.0:7777     (for the other machines of your network, too)
//!     cargo run --example thermometer 127.0.0.1:7777 /sys/class/thermal/thermal_zone1/temp
//!
//! Open <http://127.0.0.1:7777/>: a number and a line, with a new value each second. Where there is no sensor
//! the page tells so, and goes on as soon as there is one. Ctrl-C ends it.
//!
//! The file has thousandths of a degree Celsius, as those of Linux do. Each message is text: a number of
//! degrees, or words that tell why there is none.

use futures_lite::future;
use smol::channel::{self, Receiver, Sender};
use std::{env, fs, time::Duration};
use whit::{Closed, Connection, Listener, Policy, Response, Server, Topic, sleep};

const PERIOD: Duration = Duration::from_secs(1);

/// Reads and publishes once in a period, for as long as anyone watches.
async fn measure(thermometer: Topic, file: String, someone_came: Receiver<()>) -> whit::Result<()> {
    let mut last = Ok(String::new());
    loop {
        while thermometer.subscribers() == 0 {
            // Fails only where no one could come any more.
            let _ = someone_came.recv().await;
        }
        let reading = read(&file);
        let (Ok(words) | Err(words)) = &reading;
        if reading.is_err() && reading != last {
            eprintln!("thermometer: {words}");
        }
        thermometer.publish(words.as_str());
        last = reading;
        sleep(PERIOD).await;
    }
}

/// The degrees as text. A file of /sys answers at once; one that may keep the thread waiting would be read through
/// `smol::unblock`.
fn read(file: &str) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("no sensor: {file}: {error}"))?;
    let thousandths: i32 = text
        .trim()
        .parse()
        .map_err(|_| format!("no sensor: {file}: it has no whole number"))?;
    Ok(format!("{:.1}", f64::from(thousandths) / 1000.0))
}

async fn watch(conn: Connection, thermometer: Topic, came: Sender<()>) -> Result<(), Closed> {
    // Who does not keep up misses some values: the newest is what counts.
    let _subscription = thermometer.subscribe(&conn, Policy::Latest);
    // Full: the reader will wake already.
    let _ = came.try_send(());
    // Watchers have nothing to say; this waits for their end.
    loop {
        conn.read().await?;
    }
}

fn main() -> whit::Result<()> {
    let mut args = env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:7777".into());
    let file = args.next();
    let file = file.unwrap_or_else(|| "/sys/class/thermal/thermal_zone0/temp".into());

    let listener = Listener::bind(addr)?;
    for addr in listener.local_addrs() {
        eprintln!("open http://{addr}/");
    }
    let server = Server::new();
    let thermometer = server.hub().topic("temperature");
    let (came, someone_came) = channel::bounded(1);
    let watched = thermometer.clone();
    let server = server
        .route("/ws", move |conn| {
            watch(conn, watched.clone(), came.clone())
        })
        .page("/", |_| Response::html(include_str!("thermometer.html")));
    whit::block_on(future::or(
        server.serve(listener),
        measure(thermometer, file, someone_came),
    ))?
}

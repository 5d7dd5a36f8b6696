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
use smol::{
    Timer,
    channel::{self, Receiver, Sender},
};
use std::{
    cell::RefCell,
    env, fs,
    rc::{Rc, Weak},
    time::Duration,
};
use whit::{Closed, Config, Connection, Listener, Message, Response, Server};

const PERIOD: Duration = Duration::from_secs(1);

struct Thermometer {
    file: String,
    /// A connection is its handler's: what is left here when that ends is dead and swept out.
    watchers: RefCell<Vec<Weak<Connection>>>,
    /// Wakes the reader.
    came: Sender<()>,
}

impl Thermometer {
    /// Reads and tells once in a period, for as long as anyone watches.
    async fn run(&self, someone_came: Receiver<()>) -> whit::Result<()> {
        let mut last = Ok(String::new());
        loop {
            while !self.is_watched() {
                // Fails only where no one could come any more.
                let _ = someone_came.recv().await;
            }
            let reading = self.read();
            let (Ok(words) | Err(words)) = &reading;
            if reading.is_err() && reading != last {
                eprintln!("thermometer: {words}");
            }
            self.tell(&Message::from(words.as_str()));
            last = reading;
            Timer::after(PERIOD).await;
        }
    }

    fn is_watched(&self) -> bool {
        let mut watchers = self.watchers.borrow_mut();
        watchers.retain(|conn| conn.strong_count() > 0);
        !watchers.is_empty()
    }

    /// The degrees as text. A file of /sys answers at once; one that may keep the thread waiting would be read
    /// through `smol::unblock`.
    fn read(&self) -> Result<String, String> {
        let file = &self.file;
        let text =
            fs::read_to_string(file).map_err(|error| format!("no sensor: {file}: {error}"))?;
        let thousandths: i32 = text
            .trim()
            .parse()
            .map_err(|_| format!("no sensor: {file}: it has no whole number"))?;
        Ok(format!("{:.1}", f64::from(thousandths) / 1000.0))
    }

    fn tell(&self, message: &Message) {
        for conn in self.watchers.borrow().iter().filter_map(Weak::upgrade) {
            // Who does not keep up misses some values: the next one is newer.
            let _ = conn.try_write(message.clone());
        }
    }
}

async fn watch(conn: Connection, thermometer: Rc<Thermometer>) -> Result<(), Closed> {
    let conn = Rc::new(conn);
    let watcher = Rc::downgrade(&conn);
    thermometer.watchers.borrow_mut().push(watcher);
    // Full: the reader will wake already.
    let _ = thermometer.came.try_send(());
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
    let (came, someone_came) = channel::bounded(1);
    let thermometer = Rc::new(Thermometer {
        file,
        watchers: RefCell::default(),
        came,
    });
    let watched = thermometer.clone();
    let server = Server::new()
        // Old values need no room.
        .config(Config::new().outbound_capacity(2))
        .route("/ws", move |conn| watch(conn, watched.clone()))
        .page("/", |_| Response::html(include_str!("thermometer.html")));
    smol::block_on(future::or(
        server.serve(listener),
        thermometer.run(someone_came),
    ))
}

//! A serial port in any browser: the lines that a device sends go to all who are connected, and what they send is
//! written to it.
//!
//!     stty -F /dev/ttyUSB0 115200 raw -echo
//!     cargo run --example serial 127.0.0.1:7777 /dev/ttyUSB0
//!     cargo run --example serial 0.0.0.0:7777 /dev/serial0     (for the other machines of your network, too)
//!
//! Open <http://127.0.0.1:7777/>: it begins with the last hundred lines. Unplug the device and plug it in: it goes on.
//! Ctrl-C ends it.
//!
//! All messages are text. What a client sends is a line for the device. It gets messages whose first line tells what
//! they are: `line` (of the device), `device` (whether it is there) or `missed` (so many messages, because it read too
//! slowly).

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};
use whit::{Closed, Config, Connection, Hub, Listener, Policy, Publisher, Response, Server};

/// How soon a device that is gone is looked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// A longer line is cut into several.
const MAX_LINE_BYTES: u64 = 1024;

struct Device {
    path: String,
    /// To write to, while it is there.
    output: Mutex<Option<File>>,
}

impl Device {
    /// Reads for ever, on a thread of its own: a read of a device waits until it sends something.
    fn run(&self, lines: &Publisher, state: &Publisher) {
        let mut last = String::new();
        let mut tell = |now: String| {
            if now != last {
                eprintln!("serial: {now}");
                // Fails only when the server has ended.
                let _ = state.publish(now.as_str());
                last = now;
            }
        };
        loop {
            let end = self.open().and_then(|file| {
                tell(format!("{} is open", self.path));
                self.read(file, lines)
            });
            self.set_output(None);
            let why = end.map_or_else(|error| error.to_string(), |()| "it has ended".into());
            tell(format!("{}: {why}", self.path));
            thread::sleep(PAUSE);
        }
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        // Or its end would be that of the program, where this leads a session, as a service does.
        #[cfg(target_os = "linux")]
        options.custom_flags(libc::O_NOCTTY);
        let file = options.open(&self.path)?;
        self.set_output(Some(file.try_clone()?));
        Ok(file)
    }

    fn read(&self, file: File, lines: &Publisher) -> io::Result<()> {
        let mut input = BufReader::new(file);
        loop {
            let mut line = Vec::new();
            if (&mut input)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut line)?
                == 0
            {
                return Ok(());
            }
            // At a wrong speed it is not UTF-8. If the server is too busy for it, the line is lost.
            let _ = lines.publish(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
        }
    }

    fn write_line(&self, line: &[u8]) -> io::Result<()> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let file = output.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        file.write_all(&[line, b"\n"].concat())
    }

    fn set_output(&self, file: Option<File>) {
        *self.output.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }
}

async fn serve(conn: Connection, hub: Hub, device: Arc<Device>) -> Result<(), Closed> {
    // All topics, each message with its topic's name before it.
    let _subscription = hub
        .subscribe("", &conn, Policy::DropOldest(1000))
        .tell_missed(|missed| format!("missed\n{missed}"));
    loop {
        let line = conn.read().await?;
        let device = device.clone();
        // A device that is slow to take it has this client wait, and no other.
        let written = smol::unblock(move || device.write_line(line.as_bytes())).await;
        if let Err(error) = written {
            conn.write(format!("device\nthe line was not written: {error}"))
                .await?;
        }
    }
}

fn main() -> whit::Result<()> {
    let mut args = env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:7777".into());
    let path = args.next().unwrap_or_else(|| "/dev/serial0".into());

    let listener = Listener::bind(addr)?;
    for addr in listener.local_addrs() {
        eprintln!("open http://{addr}/");
    }
    let server = Server::new()
        .config(Config::new().max_message_bytes(1024))
        .shut_down_on_signals();
    let hub = server.hub();
    let (line, state) = (hub.topic("line"), hub.topic("device"));
    line.keep(100);
    state.keep(1);
    let device = Arc::new(Device {
        path,
        output: Mutex::default(),
    });
    let (lines, states) = (line.publisher(), state.publisher());
    let reader = device.clone();
    // It ends with the program: nothing else ends its wait for the device.
    thread::spawn(move || reader.run(&lines, &states));
    let server = server
        .route("/ws", move |conn| serve(conn, hub.clone(), device.clone()))
        .page("/", |_| Response::html(include_str!("serial.html")));
    whit::block_on(server.serve(listener))?
}

//! What systemd hands over is listened on, and it is told how the server is: with a real datagram socket in its place.
#![cfg(all(feature = "command", feature = "systemd", target_os = "linux"))]

mod support;

use rustix::time::{ClockId, clock_gettime};
use std::{
    env, fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::{
            self,
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use support::{TEXT, frame, handshake};
use whit::{Closed, Connection, HEARTBEAT, Listener, Server};

const WHIT: &str = env!("CARGO_BIN_EXE_whit");

/// A wait that takes longer has no end.
const HANG_GUARD: Duration = Duration::from_secs(30);

/// A path for a socket, whose file is removed at the end.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("whit-systemd-{}-{count}", std::process::id());
        Self(env::temp_dir().join(name))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What stands in systemd's place.
struct Manager {
    path: SocketPath,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let path = SocketPath::new();
        let socket = UnixDatagram::bind(&path.0).unwrap();
        Self { path, socket }
    }

    /// The next that it is told, unless nothing comes in `limit`.
    fn told_within(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut bytes = [0; 4096];
        loop {
            return match self.socket.recv(&mut bytes) {
                Ok(count) => Some(String::from_utf8(bytes[..count].to_vec()).unwrap()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("{error}"),
            };
        }
    }

    /// The next that it is told.
    fn told(&self) -> String {
        self.told_within(HANG_GUARD).expect("it tells nothing")
    }

    /// The next with this in a line of its own.
    fn told_of(&self, line: &str) -> String {
        loop {
            let told = self.told();
            if told.lines().any(|other| other == line) {
                return told;
            }
        }
    }

    /// Starts `command` as a service.
    fn start(&self, command: &mut Command) -> Service {
        command
            .env("NOTIFY_SOCKET", &self.path.0)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Service { child, log }
    }
}

/// A running service, killed if the test fails.
struct Service {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Service {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).unwrap();
        line
    }

    /// The address that it says it listens on, in the next line.
    fn addr(&mut self) -> SocketAddr {
        let line = self.line();
        addr_in(&line).unwrap_or_else(|| panic!("{line}"))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Ends it. Gives the rest of its log.
    fn stop(mut self) -> String {
        self.signal("TERM");
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        assert!(self.child.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn addr_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("ws://")?;
    rest.split('/').next()?.parse().ok()
}

fn whit() -> Command {
    let mut command = support::command(WHIT);
    command.args(["--listen", "127.0.0.1:0", "--heartbeat", "off"]);
    command
}

/// The command with these sockets handed over, the second one where there is one.
fn activated(first: OwnedFd, second: Option<OwnedFd>) -> Command {
    let mut command = Command::new("sh");
    let count = if second.is_some() { 2 } else { 1 };
    // A shell is the same process before and after: the number that it knows is the right one.
    let script = "LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 4<&1 0</dev/null 1>&2";
    command
        .args(["-c", script])
        .args(support::command_line(WHIT))
        .args(["--heartbeat", "off"])
        .env("LISTEN_FDS", count.to_string())
        .stdin(Stdio::from(first))
        .stdout(second.map_or_else(Stdio::null, Stdio::from));
    command
}

fn shake_hands<S: Read + Write>(mut stream: S) -> S {
    stream.write_all(handshake("/ws").as_bytes()).unwrap();
    finish_handshake(stream)
}

fn finish_handshake<S: Read>(mut stream: S) -> S {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

fn echo(stream: &mut (impl Read + Write)) {
    stream.write_all(&frame(TEXT, "hi")).unwrap();
    assert_eq!(text(stream), "hi");
}

/// The next message, which is short.
fn text(stream: &mut impl Read) -> String {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 0x81);
    let mut payload = vec![0; head[1].into()];
    stream.read_exact(&mut payload).unwrap();
    String::from_utf8(payload).unwrap()
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
    stream
}

#[test]
fn it_says_when_it_is_ready_how_it_is_and_when_it_stops() {
    let manager = Manager::new();
    let mut service = manager.start(&mut whit());
    let addr = service.addr();
    let ready = manager.told();
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    assert!(
        ready.contains("\nSTATUS=0 connections, 0.0 of 32.0 MiB\n"),
        "{ready}"
    );

    let client = shake_hands(connect(addr));
    let told = manager.told();
    assert!(
        told.starts_with("STATUS=1 connections, 0.0 of 32.0 MiB\n"),
        "{told}"
    );
    drop(client);
    let told = manager.told();
    assert!(told.starts_with("STATUS=0 connections, "), "{told}");

    service.stop();
    let told = manager.told();
    assert!(told.starts_with("STOPPING=1\n"), "{told}");
}

#[test]
fn systemd_may_have_a_socket_without_a_file() {
    let name = format!("whit-systemd-{}", std::process::id());
    let address = unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let path = SocketPath(format!("@{name}").into());
    let manager = Manager { path, socket };
    let service = manager.start(&mut whit());
    manager.told_of("READY=1");
    service.stop();
}

#[test]
fn without_systemd_it_tells_no_one() {
    let mut command = whit();
    command
        .env_remove("NOTIFY_SOCKET")
        .env("WATCHDOG_USEC", "1");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut service = Service { child, log };
    echo(&mut shake_hands(connect(service.addr())));
    let log = service.stop();
    assert!(!log.contains("systemd"), "{log}");
}

#[test]
fn a_socket_that_is_handed_over_is_served_and_the_default_is_not_listened_on() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    // It is there before anyone serves.
    let waiting = connect(addr);

    let manager = Manager::new();
    let mut command = activated(socket.into(), None);
    let mut service = manager.start(&mut command);
    assert_eq!(service.addr(), addr);
    echo(&mut shake_hands(waiting));
    let line = service.line();
    assert!(line.ends_with(" open\n"), "{line}");
    service.stop();
}

#[test]
fn several_sockets_are_handed_over_and_more_can_be_asked_for() {
    let path = SocketPath::new();
    let unix = UnixListener::bind(&path.0).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = tcp.local_addr().unwrap();

    let manager = Manager::new();
    let mut command = activated(unix.into(), Some(tcp.into()));
    let mut service = manager.start(command.args(["--listen", "127.0.0.1:0"]));
    assert_eq!(service.addr(), addr);
    let more = service.addr();
    let line = service.line();
    assert!(line.contains(&path.0.display().to_string()), "{line}");
    echo(&mut shake_hands(UnixStream::connect(&path.0).unwrap()));
    echo(&mut shake_hands(connect(addr)));
    echo(&mut shake_hands(connect(more)));
    service.stop();
    // It belongs to systemd.
    assert!(path.0.exists());
}

#[test]
fn a_client_that_connects_while_it_is_started_again_is_served() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let manager = Manager::new();
    let start = || {
        let socket = socket.try_clone().unwrap();
        let mut command = activated(socket.into(), None);
        manager.start(command.args(["--max-connections-per-ip", "off"]))
    };
    let mut service = start();
    service.addr();
    echo(&mut shake_hands(connect(addr)));
    service.stop();
    let mut between: Vec<TcpStream> = (0..100).map(|_| connect(addr)).collect();
    for stream in &mut between {
        stream.write_all(handshake("/ws").as_bytes()).unwrap();
    }
    let service = start();
    for stream in between {
        echo(&mut finish_handshake(stream));
    }
    service.stop();
}

#[test]
fn what_is_no_listening_socket_is_an_error() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let mut command = activated(socket.into(), None);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "whit: cannot listen on descriptor 3 of systemd: it is not a stream socket that is listened on\n"
    );
}

#[test]
fn its_log_has_priorities_for_the_journal() {
    use std::os::unix::fs::MetadataExt;

    let (journal, stderr) = UnixStream::pair().unwrap();
    let stderr = OwnedFd::from(stderr);
    let id = fs::File::from(stderr.try_clone().unwrap())
        .metadata()
        .unwrap();
    let id = format!("{}:{}", id.dev(), id.ino());
    let log = |journal_stream: &str| {
        let status = support::command(WHIT)
            .args(["--listen", "unix:/"])
            .env("JOURNAL_STREAM", journal_stream)
            .stderr(Stdio::from(stderr.try_clone().unwrap()))
            .status();
        assert_eq!(status.unwrap().code(), Some(1));
        let mut line = String::new();
        BufReader::new(&journal).read_line(&mut line).unwrap();
        line
    };
    assert!(log(&id).starts_with("<3>whit: cannot listen on unix:/: "));
    assert!(log("1:1").starts_with("whit: cannot listen on unix:/: "));
}

#[test]
fn a_hangup_has_it_read_its_file_again() {
    let file = SocketPath::new();
    let flags = |text: &str| fs::write(&file.0, text).unwrap();
    let manager = Manager::new();
    let mut command = whit();
    flags("# Nobody may connect twice.\n\n  --max-connections-per-ip 1\n");
    let mut service = manager.start(command.arg("--config").arg(&file.0));
    let addr = service.addr();
    manager.told_of("READY=1");
    let mut first = shake_hands(connect(addr));
    let status = || {
        let mut stream = connect(addr);
        stream.write_all(handshake("/ws").as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        String::from_utf8(status[9..].to_vec()).unwrap()
    };
    assert_eq!(status(), "429");

    flags("--max-connections-per-ip off\n--heartbeat 10ms\n--memory 64MiB");
    let seconds = || u64::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap();
    let before = seconds();
    service.signal("HUP");
    let told = manager.told_of("RELOADING=1");
    let mut lines = told.lines();
    let micros = lines.find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let micros: u64 = micros.unwrap().parse().unwrap();
    assert!(
        (before..=seconds()).contains(&(micros / 1_000_000)),
        "{told}"
    );
    let told = manager.told_of("READY=1");
    assert!(told.contains(" of 64.0 MiB\n"), "{told}");
    // The command line comes after the file: it has no heartbeat.
    echo(&mut first);
    assert_eq!(status(), "101");

    // A mistake changes nothing.
    flags("--max-connections-per-ip 1\n--memory lots\n");
    service.signal("HUP");
    manager.told_of("RELOADING=1");
    let told = manager.told_of("READY=1");
    assert!(told.contains(" of 64.0 MiB\n"), "{told}");
    assert_eq!(status(), "101");
    drop(first);

    let log = service.stop();
    let path = file.0.display();
    let mistake = format!(
        "error: not reloaded, all stays as it was: --config {path}, line 2: --memory lots: not a size"
    );
    assert!(log.contains(&mistake), "{log}");
}

#[test]
fn a_file_that_is_refused_changes_nothing_at_all() {
    let file = SocketPath::new();
    let flags = |text: &str| fs::write(&file.0, text).unwrap();
    let manager = Manager::new();
    flags("");
    let mut service = manager.start(whit().arg("--config").arg(&file.0));
    let addr = service.addr();
    manager.told_of("READY=1");
    flags("--verbose\n--pong-timeout 1h\n");
    service.signal("HUP");
    manager.told_of("READY=1");

    let mut stream = connect(addr);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: pi\r\n\r\n")
        .unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let log = service.stop();
    // It is told of flags, as at the start.
    let mistake = "not reloaded, all stays as it was: --pong-timeout 3600s: ";
    assert!(log.contains(mistake), "{log}");
    assert!(!log.contains(" 200 /"), "{log}");
}

#[test]
fn a_hangup_without_a_file_ends_it() {
    let manager = Manager::new();
    let mut service = manager.start(&mut whit());
    service.addr();
    service.signal("HUP");
    assert_eq!(service.child.wait().unwrap().code(), None);
}

#[test]
fn a_systemd_that_does_not_listen_holds_nobody_up() {
    let manager = Manager::new();
    let mut service = manager.start(whit().args(["--heartbeat", "100ms"]));
    let addr = service.addr();
    manager.told_of("READY=1");
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"", &manager.path.0).is_ok() {}

    let mut client = shake_hands(connect(addr));
    // By its own clock more than a second passes, after which it tells of this client, and on it goes.
    for _ in 0..12 {
        assert_eq!(text(&mut client), HEARTBEAT);
    }
    client.write_all(&frame(TEXT, "hi")).unwrap();
    while text(&mut client) != "hi" {}
    while !manager.told().starts_with("STATUS=1 connections, ") {}
    drop(client);
    service.stop();
}

#[test]
fn a_watchdog_without_patience_is_not_all_that_is_served() {
    let manager = Manager::new();
    let mut service = manager.start(whit().env("WATCHDOG_USEC", "0"));
    echo(&mut shake_hands(connect(service.addr())));
    service.stop();
}

#[test]
fn that_there_is_no_systemd_to_be_told_is_said_once() {
    let nowhere = SocketPath::new();
    let mut command = whit();
    command
        .args(["--heartbeat", "10ms"])
        .env("NOTIFY_SOCKET", &nowhere.0)
        .env("WATCHDOG_USEC", "20000");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut service = Service { child, log };
    // That it cannot be told may be said first.
    let mut log = String::new();
    let addr = loop {
        let line = service.line();
        assert_ne!(line, "", "{log}");
        log += &line;
        if let Some(addr) = addr_in(&line) {
            break addr;
        }
    };
    let mut client = shake_hands(connect(addr));
    // It tries as often, by the same clock.
    for _ in 0..20 {
        assert_eq!(text(&mut client), HEARTBEAT);
    }
    drop(client);
    log += &service.stop();
    assert_eq!(log.matches("systemd cannot be told").count(), 1, "{log}");
}

/// Told of by the test below, in whose process it serves.
async fn block(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.read().await?;
        conn.write("blocked").await?;
        // Until the test says otherwise.
        std::io::stdin().read_exact(&mut [0]).unwrap();
        conn.write("free").await?;
    }
}

#[test]
fn serve_what_blocks() {
    if env::var_os("WHIT_BLOCKS").is_some() {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        eprintln!("ws://{}/ws", listener.local_addrs()[0]);
        let server = Server::new().route("/ws", block).notify_systemd();
        whit::block_on(server.serve(listener)).unwrap().unwrap();
    }
}

#[test]
fn a_handler_that_blocks_the_thread_makes_the_watchdog_bite() {
    const LIMIT: Duration = Duration::from_millis(200);
    let manager = Manager::new();
    let mut command = support::command(env::current_exe().unwrap().to_str().unwrap());
    command
        .args(["--exact", "serve_what_blocks", "--nocapture"])
        .env("WHIT_BLOCKS", "")
        .env("WATCHDOG_USEC", LIMIT.as_micros().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut service = manager.start(&mut command);
    let addr = service.addr();
    for _ in 0..3 {
        manager.told_of("WATCHDOG=1");
    }

    let mut client = shake_hands(connect(addr));
    client.write_all(&frame(TEXT, "")).unwrap();
    // At the latest when its time is over systemd hears nothing, and would bite.
    assert!((0..20).any(|_| manager.told_within(LIMIT).is_none()));

    let mut words = [0; 9];
    service.child.stdin.take().unwrap().write_all(b"x").unwrap();
    client.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"\x81\x07blocked");
    manager.told_of("WATCHDOG=1");
}

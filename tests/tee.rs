//! Standard input goes to every client, and what a slow one misses is counted.
#![cfg(feature = "command")]

mod support;

use rustix::net::{self, AddressFamily, SocketType, sockopt};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};
use support::{CLOSE, PING, PONG, TEXT, frame, handshake};

const WHIT: &str = env!("CARGO_BIN_EXE_whit");

/// A wait that takes longer has no end.
const HANG_GUARD: Duration = Duration::from_secs(60);

/// A running `whit tee`, killed if the test fails.
struct Tee {
    child: Child,
    log: BufReader<ChildStderr>,
    addr: SocketAddr,
}

impl Tee {
    fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, Stdio::piped())
    }

    fn start_with(flags: &[&str], stdout: Stdio) -> Self {
        let mut command: Command = support::command(WHIT);
        command
            .args([
                "tee",
                "--listen",
                "127.0.0.1:0",
                "--max-connections-per-ip",
                "off",
                "--ping-interval",
                "off",
            ])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let addr = line
            .split("ws://")
            .nth(1)
            .unwrap_or_else(|| panic!("{line}"));
        let addr = addr.split('/').next().unwrap().parse().unwrap();
        Self { child, log, addr }
    }

    fn input(&mut self) -> impl Write + use<> {
        self.child.stdin.take().unwrap()
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.addr).unwrap();
        Client::open(stream)
    }

    /// A client that takes little while it does not read.
    fn connect_narrow(&self) -> Client {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        net::connect(&socket, &self.addr).unwrap();
        Client::open(socket.into())
    }

    /// Waits until it ends by itself. Gives its log and whether all was well.
    fn end(mut self) -> (String, bool) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (log, self.child.wait().unwrap().success())
    }

    /// Fails if more than this was ever resident.
    fn assert_peak_below(&self, most_kib: usize) {
        let process = format!("/proc/{}", self.child.id());
        let program = fs::read_link(format!("{process}/exe")).unwrap();
        let program = program.file_name().unwrap().to_string_lossy();
        if program.starts_with("qemu-") {
            // The emulator has far more itself.
            return;
        }
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        let peak: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(peak < most_kib, "{peak}");
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn open(stream: TcpStream) -> Self {
        Self::try_open(stream).unwrap()
    }

    /// `None` where the server has no room for it.
    fn try_open(mut stream: TcpStream) -> Option<Self> {
        stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
        stream.write_all(handshake("/ws").as_bytes()).unwrap();
        let mut client = Self(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(client.0.read_line(&mut head).unwrap() > 0);
        }
        let has_room = head.starts_with("HTTP/1.1 101 ");
        assert!(has_room || head.starts_with("HTTP/1.1 503 "), "{head}");
        has_room.then_some(client)
    }

    fn addr(&self) -> SocketAddr {
        self.0.get_ref().local_addr().unwrap()
    }

    fn send(&mut self, text: &str) {
        self.0.get_ref().write_all(&frame(TEXT, text)).unwrap();
    }

    /// All that was sent before is there when this returns.
    fn ping(&mut self) {
        self.0.get_ref().write_all(&frame(PING, "")).unwrap();
        assert_eq!(self.next().0, PONG);
    }

    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let mut long = [0; 8];
        let length = match head[1] {
            126 => {
                self.0.read_exact(&mut long[6..]).unwrap();
                u64::from_be_bytes(long)
            }
            127 => {
                self.0.read_exact(&mut long).unwrap();
                u64::from_be_bytes(long)
            }
            length => length.into(),
        };
        let mut payload = vec![0; length.try_into().unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        assert_eq!(head[0] & 0x80, 0x80);
        (head[0] & 0x0F, payload)
    }

    fn text(&mut self) -> String {
        let (opcode, payload) = self.next();
        assert_eq!(opcode, TEXT);
        String::from_utf8(payload).unwrap()
    }

    /// All that comes before the Close, and its code.
    fn rest(mut self) -> (Vec<Vec<u8>>, u16) {
        let mut messages = Vec::new();
        loop {
            let (opcode, payload) = self.next();
            if opcode == CLOSE {
                return (messages, u16::from_be_bytes([payload[0], payload[1]]));
            }
            messages.push(payload);
        }
    }
}

#[test]
fn each_line_goes_to_every_client_and_the_end_is_the_end() {
    let mut tee = Tee::start(&[]);
    let mut clients = [tee.connect(), tee.connect()];
    let mut input = tee.input();
    input
        .write_all(b"one\ntwo\r\n\nf\xFFur\nno line feed")
        .unwrap();
    for client in &mut clients {
        for text in ["one", "two", "", "f\u{FFFD}ur"] {
            assert_eq!(client.text(), text);
        }
    }
    drop(input);
    for client in clients {
        assert_eq!(client.rest(), (vec![b"no line feed".to_vec()], 1001));
    }
    assert!(tee.end().1);
}

#[test]
fn a_long_line_is_cut_between_characters() {
    let mut tee = Tee::start(&["--max-message", "10"]);
    let mut client = tee.connect();
    tee.input()
        .write_all("aaaaaaaaaäöü\nb\n".as_bytes())
        .unwrap();
    assert_eq!(
        [client.text(), client.text(), client.text()],
        ["aaaaaaaaa", "äöü", "b"]
    );
}

#[test]
fn a_line_as_long_as_a_message_is_one_whatever_ends_it() {
    let mut tee = Tee::start(&["--max-message", "10"]);
    let mut client = tee.connect();
    let mut input = tee.input();
    // Read by itself, as the second message shows.
    input.write_all(b"first\n0123456789\r").unwrap();
    assert_eq!(client.text(), "first");
    input.write_all(b"\nlast\n0123456789\rx").unwrap();
    assert_eq!([client.text(), client.text()], ["0123456789", "last"]);
    drop(input);
    assert_eq!(client.rest().0, [&b"0123456789"[..], b"\rx"]);
}

#[test]
fn newcomers_are_greeted() {
    let mut tee = Tee::start(&["--replay", "2"]);
    let mut first = tee.connect();
    let mut input = tee.input();
    input.write_all(b"1\n2\n3\n").unwrap();
    assert_eq!([first.text(), first.text(), first.text()], ["1", "2", "3"]);
    let mut second = tee.connect();
    assert_eq!([second.text(), second.text()], ["2", "3"]);
    input.write_all(b"4\n").unwrap();
    assert_eq!(second.text(), "4");
}

#[test]
fn binary_messages_are_cut_as_asked_for() {
    let messages = |flags: &[&str], bytes: &[u8]| {
        let mut tee = Tee::start(flags);
        let client = tee.connect();
        tee.input().write_all(bytes).unwrap();
        let messages = client.rest().0;
        (messages, tee.end())
    };
    let (got, end) = messages(&["--binary"], b"\x00\n\xFF");
    assert_eq!((got.concat(), end.1), (b"\x00\n\xFF".to_vec(), true));
    let (got, _) = messages(&["--chunk", "2"], b"abcde");
    assert_eq!(got, [&b"ab"[..], b"cd", b"e"]);
    let (got, _) = messages(&["--length-prefixed"], b"\0\0\0\x03abc\0\0\0\0\0\0\0\x01d");
    assert_eq!(got, [&b"abc"[..], b"", b"d"]);
    let (got, (log, well)) = messages(&["--length-prefixed"], b"\0\0\0\x01a\0\0\0\x03b");
    assert_eq!((got, well), (vec![b"a".to_vec()], false));
    assert!(
        log.ends_with("whit: standard input: it ends within a message\n"),
        "{log}"
    );
    let (_, (log, well)) = messages(&["--length-prefixed"], b"\xFF\0\0\0");
    assert!(
        !well && log.contains("4278190080 bytes is longer than --max-message"),
        "{log}"
    );
}

#[test]
fn what_clients_send_can_come_back() {
    let mut tee = Tee::start(&["--send-back"]);
    let mut output = BufReader::new(tee.child.stdout.take().unwrap());
    let mut client = tee.connect();
    client.send("hello");
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    drop(tee.input());
    client.rest();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert!(tee.end().1);
}

#[test]
fn slow_clients_miss_what_is_counted_and_the_others_nothing() {
    const LINES: usize = 600;
    /// Fewer than may wait for one: the fast miss nothing, however late they have their turn.
    const BATCH: usize = 100;
    const FAST: usize = 90;
    const SLOW: usize = 10;

    let mut tee = Tee::start(&["--memory", "8MiB", "--capacity", "128"]);
    let (done, batches) = mpsc::channel();
    let fast: Vec<_> = (0..FAST)
        .map(|_| {
            let (mut client, done) = (tee.connect(), done.clone());
            thread::spawn(move || {
                for i in 0..LINES {
                    assert_eq!(client.text().parse(), Ok(i));
                    if (i + 1) % BATCH == 0 {
                        done.send(()).unwrap();
                    }
                }
                client
            })
        })
        .collect();
    let mut slow: Vec<_> = (0..SLOW).map(|_| tee.connect_narrow()).collect();
    let mut input = tee.input();
    for i in 0..LINES {
        writeln!(input, "{i:04000}").unwrap();
        if (i + 1) % BATCH == 0 {
            for _ in 0..FAST {
                batches.recv_timeout(HANG_GUARD).unwrap();
            }
            // Who takes nothing for long is let go.
            for client in &mut slow {
                client.text();
            }
        }
    }
    let fast: Vec<_> = fast
        .into_iter()
        .map(|client| client.join().unwrap())
        .collect();
    tee.assert_peak_below(20 * 1024);
    let slow: Vec<_> = slow
        .into_iter()
        .map(|client| (client.addr(), thread::spawn(move || client.rest())))
        .collect();
    drop(input);
    let got: Vec<_> = slow
        .into_iter()
        .map(|(addr, client)| (addr, client.join().unwrap().0.len()))
        .collect();
    for client in fast {
        assert_eq!(client.rest(), (vec![], 1001));
    }
    let (log, well) = tee.end();
    assert!(well);
    for (addr, got) in got {
        let line = log
            .lines()
            .find(|line| line.starts_with(&format!("{addr} was")));
        let missed = line
            .unwrap_or_else(|| panic!("{addr}: {got}"))
            .split("it missed ")
            .nth(1);
        let missed: usize = missed.unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(LINES / BATCH + got + missed, LINES);
        assert!(missed > 0);
    }
}

#[test]
fn what_is_kept_takes_no_more_than_it_is_charged() {
    let keeping = ["--replay", "1000000", "--memory", "2MiB"];
    let mut tee = Tee::start(&[&keeping[..], &["--binary"]].concat());
    let mut client = tee.connect();
    let mut input = tee.input();
    for byte in (0..=u8::MAX).cycle().take(5000) {
        input.write_all(&[byte]).unwrap();
        assert_eq!(client.next().1, [byte]);
    }
    tee.assert_peak_below(12 * 1024);

    let mut tee = Tee::start(&[&keeping[..], &["--max-message", "16"]].concat());
    let mut client = tee.connect();
    let mut input = tee.input();
    let long = [&[b'x'; 100_000][..], b"\nend\n"].concat();
    input.write_all(&long).unwrap();
    while client.text() != "end" {}
    tee.assert_peak_below(12 * 1024);
}

#[test]
fn a_chunk_is_no_longer_than_a_message() {
    let mut command: Command = support::command(WHIT);
    let output = command
        .args(["tee", "--listen", "127.0.0.1:0", "--chunk", "65KiB"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let rule = "whit: --chunk: 66560 bytes are more than --max-message, 65536 (";
    assert!(log.starts_with(rule), "{log}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn it_ends_though_nobody_reads_what_it_writes() {
    let mut tee = Tee::start(&["--send-back"]);
    let _unread = tee.child.stdout.take();
    let mut client = tee.connect();
    // A pipe takes 64 KiB.
    client.send(&"x".repeat(60_000));
    client.send(&"x".repeat(60_000));
    client.ping();
    drop(tee.input());
    client.rest();
    let (log, well) = tee.end();
    assert!(well && log.contains("nobody reads it"), "{log}");
}

#[test]
fn what_waits_for_standard_output_is_charged() {
    let tee = Tee::start(&["--send-back", "--memory", "1MiB"]);
    let mut clients = Vec::new();
    loop {
        let stream = TcpStream::connect(tee.addr).unwrap();
        let Some(mut client) = Client::try_open(stream) else {
            break;
        };
        client.send(&"x".repeat(60_000));
        clients.push(client);
        assert!(clients.len() < 32);
    }
}

#[test]
fn that_nobody_reads_what_it_writes_is_told_once() {
    // Not a pipe whose other end is closed: what another test starts at this moment has that end, too, until it runs.
    let (nobody, stdout) = UnixStream::pair().unwrap();
    nobody.shutdown(Shutdown::Both).unwrap();
    let mut tee = Tee::start_with(&["--send-back"], OwnedFd::from(stdout).into());
    let mut client = tee.connect();
    let messages = frame(TEXT, "hello").repeat(10);
    client.0.get_ref().write_all(&messages).unwrap();
    client.ping();
    drop(tee.input());
    client.rest();
    let (log, well) = tee.end();
    assert!(well);
    assert_eq!(log.matches("standard output: ").count(), 1, "{log}");
}

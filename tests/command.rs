//! The `whit` command: what it prints, how it ends.
#![cfg(feature = "command")]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStderr, Command, Output, Stdio},
};

fn whit() -> Command {
    let mut command = support::command(env!("CARGO_BIN_EXE_whit"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn output(args: &[&str]) -> Output {
    whit().args(args).output().unwrap()
}

/// A running command, killed if the test fails.
struct Running {
    child: Child,
    log: Option<BufReader<ChildStderr>>,
    addr: SocketAddr,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = whit()
            .args(["--listen", "127.0.0.1:0"])
            .args(args)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let rest = line
            .strip_prefix("listening on ws://")
            .unwrap_or_else(|| panic!("{line}"));
        let addr = rest.split('/').next().unwrap().parse().unwrap();
        Self {
            child,
            log: Some(log),
            addr,
        }
    }

    fn ask(&self, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr);
        self.ask(&head).read_to_string(&mut answer).unwrap();
        answer
    }

    /// A WebSocket whose handshake is done.
    fn connect(&self) -> TcpStream {
        self.connect_to("/ws")
    }

    fn connect_to(&self, path: &str) -> TcpStream {
        let mut stream = self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.addr
        ));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        stream
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// The rest of the log, and the exit status.
    fn end(mut self) -> (String, Option<i32>) {
        let mut log = String::new();
        self.log.take().unwrap().read_to_string(&mut log).unwrap();
        (log, self.child.wait().unwrap().code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until the Close, whose code this gives, and answers it.
fn read_close(stream: &mut TcpStream) -> u16 {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; head[1] as usize];
        stream.read_exact(&mut payload).unwrap();
        if head[0] == 0x88 {
            stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
        assert_eq!((head[0], &payload[..]), (0x81, &b"heartbeat"[..]));
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (flag, expected) in [
        (
            "--version",
            concat!("whit ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
        ("--help", "A WebSocket server for small machines."),
    ] {
        let output = output(&[flag]);
        assert!(output.status.success());
        assert!(output.stderr.is_empty());
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .starts_with(expected)
        );
    }
}

#[test]
fn a_mistake_is_one_line_that_names_it() {
    for (args, expected) in [
        (&["--loud"][..], "whit: invalid option '--loud'"),
        (&["dance"], "whit: unexpected argument \"dance\""),
        (&["serve", "serve"], "whit: unexpected argument \"serve\""),
        (
            &["run"],
            "whit: run: it takes a command, as in whit run -- cat",
        ),
        (
            &["run", "--", "no-such-program"],
            "whit: run no-such-program: there is no such program",
        ),
        (
            &["run", "--", "/dev/null"],
            "whit: run /dev/null: there is no such program",
        ),
        (
            &["run", "--grace", "soon", "--", "cat"],
            "whit: --grace soon: not a time",
        ),
        (
            &["run", "--grace", "2h", "--", "cat"],
            "whit: --grace 2h: a process gets 1 h at most",
        ),
        (
            &["run", "--max-processes", "0", "--", "cat"],
            "whit: --max-processes 0: at least 1",
        ),
        (
            &["run", "--shared", "--max-processes", "2", "--", "cat"],
            "whit: --max-processes: there is one, with --shared",
        ),
        // Each command has its own.
        (
            &["serve", "--grace", "1s"],
            "whit: invalid option '--grace'",
        ),
        (&["--binary"], "whit: invalid option '--binary'"),
        (
            &["--listen"],
            "whit: missing argument for option '--listen'",
        ),
        (
            &["--heartbeat", "banana"],
            "whit: --heartbeat banana: not a time",
        ),
        (&["--heartbeat", "0"], "whit: --heartbeat 0s: "),
        (
            &["--ping-interval", "often"],
            "whit: --ping-interval often: not a time",
        ),
        (
            &["--ping-interval", "1ms"],
            "whit: --ping-interval 1ms: a period is at least 10 ms",
        ),
        (
            &["--pong-timeout", "off"],
            "whit: --pong-timeout off: not a time",
        ),
        (
            &["--pong-timeout", "0"],
            "whit: --pong-timeout 0s: a time is longer than zero",
        ),
        (
            &["--ping-interval", "5s"],
            "whit: --pong-timeout 10s: it may not be longer than --ping-interval",
        ),
        (
            &["--max-message", "1.5MiB"],
            "whit: --max-message 1.5MiB: not a size",
        ),
        (
            &["--max-message", "0"],
            "whit: --max-message 0: a message needs room for at least 1 byte",
        ),
        (
            &["--max-connections", "-1"],
            "whit: --max-connections -1: not a whole number",
        ),
        (
            &["--max-connections-per-ip", "none"],
            "whit: --max-connections-per-ip none: not a whole number",
        ),
        (
            &["--allow-origin", "example.com"],
            "whit: --allow-origin \"example.com\": an origin is ",
        ),
        (
            &["--listen", "banana"],
            "whit: --listen \"banana\": invalid socket address",
        ),
        (&["--listen", "unix:"], "whit: --listen unix:: "),
        (
            &["--socket-mode", "rw"],
            "whit: --socket-mode rw: not a mode: three octal digits such as 660",
        ),
        (
            &["--socket-owner", "no such user"],
            "whit: --socket-owner no such user: there is no such user",
        ),
        (
            &["--trusted-proxy", "10.0.0.0/64"],
            "whit: --trusted-proxy \"10.0.0.0/64\": a proxy is an address",
        ),
        (
            &["--config", "/nowhere/flags"],
            "whit: --config /nowhere/flags: No such file",
        ),
        (
            &["--config", "/dev/zero"],
            "whit: --config /dev/zero: longer than 64 KiB",
        ),
        (&["--path", "ws"], "whit: --path ws: a path begins with /"),
        // What would end the line, or command the terminal, is shown and not done.
        (
            &["--path", "/a\nb"],
            "whit: --path /a\\nb: a path has only ",
        ),
        (&["--lo\rud"], "whit: invalid option '--lo\\rud'"),
        (
            &["--memory", "\x1b[2J"],
            "whit: --memory \\u{1b}[2J: not a size",
        ),
    ] {
        let output = output(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(
            text.starts_with(expected) && text.lines().count() == 1,
            "{args:?}: {text}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[cfg(unix)]
#[test]
fn a_failure_is_one_line_whatever_it_names() {
    let output = output(&["--listen", "unix:/nowhere/a\nb"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("whit: cannot listen on unix:/nowhere/a\\nb: "));
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_file_of_flags() {
    let path = std::env::temp_dir().join(format!("whit-command-{}-pipe", std::process::id()));
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let output = output(&["--config", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(": a pipe cannot be read again"), "{text}");
}

#[test]
fn a_port_in_use_is_one_line_and_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = output(&["--listen", &addr]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.starts_with(&format!("whit: cannot listen on {addr}: ")) && text.lines().count() == 1,
        "{text}"
    );
}

#[test]
fn it_serves_a_page_that_knows_the_path() {
    let running = Running::start(&["serve", "--path", "/a&b"]);
    let page = running.get("/");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("/a&amp;b") && !page.contains("{{"), "{page}");
    assert!(running.get("/a&b").starts_with("HTTP/1.1 426 "));
    assert!(running.get("/ws").starts_with("HTTP/1.1 404 "));
}

#[cfg(unix)]
#[test]
fn it_serves_at_a_unix_socket_as_well() {
    use std::os::unix::{fs::PermissionsExt, net::UnixStream};

    let path = std::env::temp_dir().join(format!("whit-command-{}", std::process::id()));
    let addr = format!("unix:{}", path.display());
    let mut running = Running::start(&["--listen", &addr, "--socket-mode", "600"]);
    let mut line = String::new();
    running.log.as_mut().unwrap().read_line(&mut line).unwrap();
    assert_eq!(line, format!("listening on {addr} (WebSocket at /ws)\n"));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: pi\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    drop(stream);

    running.signal("TERM");
    let (log, code) = running.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!path.exists());
}

#[test]
fn it_pings_as_it_is_told() {
    let args = ["--heartbeat", "off", "--pong-timeout", "100ms"];
    // So long that it is not pinged again where the machine is slow to judge.
    let running = Running::start(&[&args[..], &["--ping-interval", "2s"]].concat());
    let mut silent = running.connect();
    let mut ping = [0; 2];
    silent.read_exact(&mut ping).unwrap();
    assert_eq!(ping, [0x89, 0]);
    assert_eq!(read_close(&mut silent), 1008);
    running.signal("TERM");
    let (log, _) = running.end();
    assert!(log.contains("1006, \"no pong within 100ms\""), "{log}");

    // Without pings none of the two times is of any account.
    let running = Running::start(&[&args[..], &["--ping-interval", "off"]].concat());
    let mut silent = running.connect();
    running.signal("TERM");
    assert_eq!(read_close(&mut silent), 1001);
}

#[cfg(target_os = "linux")]
#[test]
fn it_has_one_thread() {
    let running = Running::start(&["--heartbeat", "10ms"]);
    let mut client = running.connect();
    let mut heartbeats = [0; 22];
    client.read_exact(&mut heartbeats).unwrap();
    assert_eq!(&heartbeats, b"\x81\x09heartbeat\x81\x09heartbeat");
    let threads = std::fs::read_dir(format!("/proc/{}/task", running.child.id())).unwrap();
    assert_eq!(threads.count(), 1);
}

#[test]
fn it_logs_each_connection_and_drains_on_a_signal() {
    for signal in ["TERM", "INT"] {
        // None may come before the echo.
        let running = Running::start(&["--heartbeat", "off"]);
        let mut first = running.connect();
        let mut second = running.connect();
        let addrs = [first.local_addr().unwrap(), second.local_addr().unwrap()];
        first
            .write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'])
            .unwrap();
        let mut echo = [0; 4];
        first.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"\x81\x02hi");

        running.signal(signal);
        assert_eq!(read_close(&mut first), 1001);
        assert_eq!(read_close(&mut second), 1001);
        drop((first, second));
        let (log, code) = running.end();
        assert_eq!(code, Some(0), "{log}");
        for (i, addr) in addrs.iter().enumerate() {
            let who = format!("#{} {addr} /ws ", i + 1);
            assert_eq!(
                log.lines().filter(|line| line.starts_with(&who)).count(),
                2,
                "{log}"
            );
            assert!(log.contains(&format!("{who}open\n")), "{log}");
            assert!(
                log.contains(&format!(
                    "{who}closed by this side, code 1001, \"the server is shutting down\", after "
                )),
                "{log}"
            );
        }
        assert!(
            log.contains("received 1 messages (2 bytes), sent "),
            "{log}"
        );
    }
}

#[test]
fn a_client_has_no_say_in_how_long_a_line_of_the_log_is() {
    let running = Running::start(&["--path", "/r/*", "--heartbeat", "off"]);
    let mut client = running.connect_to(&format!("/r/{}", "\u{80}".repeat(3000)));
    running.get(&format!("/{}", "y".repeat(6000)));
    running.signal("TERM");
    assert_eq!(read_close(&mut client), 1001);
    drop(client);
    let (log, _) = running.end();
    assert!(log.contains(" open\n") && log.contains("404"), "{log}");
    assert!(log.lines().all(|line| line.len() < 2000), "{log}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let running = Running::start(&[]);
    // It does not answer the Close, so that draining takes its time.
    let mut stuck = running.connect();
    running.signal("TERM");
    let mut byte = [0];
    while stuck.read(&mut byte).unwrap() == 1 && byte[0] != 0x88 {}
    running.signal("TERM");
    let (log, code) = running.end();
    assert_eq!(code, Some(128 + 15), "{log}");
}

#[test]
fn quiet_logs_no_connections() {
    let running = Running::start(&["--quiet", "--heartbeat", "off"]);
    let mut client = running.connect();
    running.signal("TERM");
    assert_eq!(read_close(&mut client), 1001);
    drop(client);
    let (log, code) = running.end();
    assert_eq!((log.as_str(), code), ("", Some(0)));
}

#[test]
fn a_closed_standard_error_does_not_stop_it() {
    let mut running = Running::start(&["--verbose"]);
    running.log = None;
    assert!(running.get("/").starts_with("HTTP/1.1 200 "));
    assert!(running.get("/nothing").starts_with("HTTP/1.1 404 "));
}

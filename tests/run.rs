//! `whit run`: a process for each connection, or one for all, that gets what it should and ends when it should.
#![cfg(all(feature = "command", target_os = "linux"))]

mod support;

use futures_lite::{AsyncWriteExt, future};
use rustix::{
    io::Errno,
    process::{
        Pid, Signal, WaitOptions, kill_process, kill_process_group, test_kill_process, waitpid,
    },
};
use smol::{Async, Timer};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    ptr,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use support::{BINARY, CLOSE, Raw, TEXT, close_payload, frame, handshake_with};

/// A wait that takes longer has no end. Some tests start a thousand processes, and an emulator takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

type Client = Raw<Async<TcpStream>>;

/// A running command, killed if the test fails.
struct Running {
    child: Child,
    addr: SocketAddr,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut command = support::command(env!("CARGO_BIN_EXE_whit"));
        command
            .env("OF_TEST", "inherited")
            .env("LISTEN_FDNAMES", "of systemd")
            .env("JOURNAL_STREAM", "of systemd");
        Self::start_with(command, args)
    }

    /// What `perl` runs, after it did something first.
    fn start_after(perl: &str, args: &[&str]) -> Self {
        let mut command = Command::new("perl");
        command.args(["-e", &format!("{perl}; exec @ARGV")]);
        command.args(support::command_line(env!("CARGO_BIN_EXE_whit")));
        Self::start_with(command, args)
    }

    fn start_with(mut command: Command, args: &[&str]) -> Self {
        let mut child = command
            // A slow machine takes longer for a test than a client may leave pings unanswered.
            .args(["--listen", "127.0.0.1:0", "--ping-interval", "off", "run"])
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let rest = line
            .strip_prefix("listening on ws://")
            .unwrap_or_else(|| panic!("{line}"));
        let addr = rest.split('/').next().unwrap().parse().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let reading = {
            let log = log.clone();
            thread::spawn(move || {
                for line in stderr.lines() {
                    *log.lock().unwrap() += &(line.unwrap() + "\n");
                }
            })
        };
        Self {
            child,
            addr,
            log,
            reading: Some(reading),
        }
    }

    /// A process for each connection that is a shell with this script.
    fn script(script: &str) -> Self {
        Self::start(&["--path", "/*", "--", "sh", "-c", script])
    }

    async fn ask(&self, request: &str) -> Client {
        let mut raw = Raw {
            stream: Async::<TcpStream>::connect(self.addr).await.unwrap(),
        };
        raw.send(request).await;
        raw
    }

    async fn open_with(&self, path: &str, more: &str) -> Client {
        let mut raw = self.ask(&handshake_with(path, more)).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    async fn open(&self) -> Client {
        self.open_with("/ws", "").await
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The processes that it started and has not reaped.
    fn children(&self) -> usize {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().count()
    }

    fn count(&self, what: &str) -> usize {
        let entries = fs::read_dir(format!("/proc/{}/{what}", self.child.id()));
        entries.unwrap().count()
    }

    /// The rest of the log, and the exit status.
    async fn end(mut self) -> (String, Option<i32>) {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            Timer::after(Duration::from_millis(1)).await;
        };
        self.reading.take().unwrap().join().unwrap();
        (self.log(), status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In peace, or processes that read nothing would stay.
        let begin = Instant::now();
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
        }
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, after a shell has set some limit.
fn limited(limit: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]);
    command.args(support::command_line(env!("CARGO_BIN_EXE_whit")));
    command
}

fn test(what: impl Future<Output = ()>) {
    smol::block_on(future::or(what, async {
        Timer::after(PATIENCE).await;
        panic!("it takes too long");
    }));
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        Timer::after(Duration::from_millis(1)).await;
    }
}

async fn read_text(client: &mut Client) -> String {
    let (opcode, payload) = client.read_frame().await;
    let text = String::from_utf8(payload).unwrap();
    assert_eq!(opcode, TEXT, "{text}");
    text
}

/// All lines until the Close, and that.
async fn read_all(client: &mut Client) -> (Vec<String>, (u16, String)) {
    let mut lines = Vec::new();
    loop {
        let (opcode, payload) = client.read_frame().await;
        if opcode == CLOSE {
            let (code, reason) = payload.split_first_chunk().unwrap();
            let reason = String::from_utf8(reason.to_vec()).unwrap();
            return (lines, (u16::from_be_bytes(*code), reason));
        }
        lines.push(String::from_utf8(payload).unwrap());
    }
}

/// A debugger of a process, to whom the end of that is told first.
enum Debugger {
    /// This thread.
    Own(Pid),
    /// For an emulator, which has none: it runs where there may be one.
    Perl(Child),
}

impl Debugger {
    fn seize(pid: &str) -> Option<Self> {
        const NOTHING: *mut libc::c_void = ptr::null_mut();
        let id = Pid::from_raw(pid.parse().unwrap()).unwrap();
        #[allow(unsafe_code, reason = "there is no safe way")]
        // SAFETY: it changes nothing in this process.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, id.as_raw_pid(), NOTHING, NOTHING) };
        if seized == 0 {
            return Some(Self::Own(id));
        }
        let error = io::Error::last_os_error();
        let script = format!(
            "require 'syscall.ph'; $| = 1;
             syscall(&SYS_ptrace, {}, $ARGV[0] + 0, 0, 0) == 0 or die \"$!\\n\";
             print 'seized'; close STDOUT; <STDIN>",
            libc::PTRACE_SEIZE
        );
        let mut perl = Command::new("perl")
            .args(["-e", &script, pid])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stdout = perl.stdout.take().unwrap();
        stdout.read_to_string(&mut said).unwrap();
        if said == "seized" {
            return Some(Self::Perl(perl));
        }
        perl.wait().unwrap();
        // Not by a macro, whose words are kept back where the test passes.
        let words = format!("NOT TESTED: no process can be debugged here: {error}\n");
        io::stderr().write_all(words.as_bytes()).unwrap();
        None
    }

    /// Takes the end of the process.
    fn release(self) {
        match self {
            Self::Own(pid) => {
                while let Ok(Some((_, status))) = waitpid(Some(pid), WaitOptions::empty()) {
                    if !status.stopped() {
                        break;
                    }
                }
            }
            Self::Perl(mut perl) => {
                drop(perl.stdin.take());
                perl.wait().unwrap();
            }
        }
    }
}

fn is_there(pid: &str) -> bool {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    // One whose parent is gone may wait to be reaped by the system.
    let is_zombie =
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    test_kill_process(pid) != Err(Errno::SRCH) && !is_zombie
}

#[test]
fn messages_are_lines_in_order_both_ways() {
    test(async {
        let running = Running::start(&["--", "cat"]);
        let mut client = running.open().await;
        let texts: Vec<String> = (0..1000)
            .map(|i| format!("{i} {}", "é".repeat(i)))
            .chain([String::new(), "two\nlines".into()])
            .collect();
        let stream = client.stream.get_ref().try_clone().unwrap();
        let sending = async {
            let mut stream = Async::new(stream).unwrap();
            for text in &texts {
                stream.write_all(&frame(TEXT, text)).await.unwrap();
            }
        };
        let reading = async {
            for line in texts.iter().flat_map(|text| text.split('\n')) {
                assert_eq!(read_text(&mut client).await, line);
            }
        };
        future::zip(sending, reading).await;
    });
}

#[test]
fn the_end_of_a_process_closes_its_connection_and_says_how() {
    test(async {
        for (script, lines, code, reason) in [
            (
                "echo one; printf last",
                &["one", "last"][..],
                1000,
                "exit status 0",
            ),
            ("echo one; exit 3", &["one"], 1011, "exit status 3"),
            ("kill -9 $$", &[], 1011, "signal 9"),
            // It closes its pipes, and goes on.
            (
                "exec <&- >&- 2>&-; sleep 0.1; exit 4",
                &[],
                1011,
                "exit status 4",
            ),
        ] {
            let running = Running::script(script);
            let mut client = running.open().await;
            let (read, close) = read_all(&mut client).await;
            assert_eq!(read, lines);
            assert_eq!(close, (code, reason.to_owned()), "{script}");
        }
    });
}

#[test]
fn all_that_it_wrote_is_delivered_however_slowly_it_is_read() {
    test(async {
        let tail = "x".repeat(200);
        let format = format!("%.0f{tail}");
        let running = Running::start(&["--", "seq", "-f", &format, "100000"]);
        let mut client = running.open().await;
        assert_eq!(read_text(&mut client).await, format!("1{tail}"));
        // It fills what there is of queues, then the pipe, and is held up there.
        let written = || {
            let id = running.child.id();
            let child = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
            let io = fs::read_to_string(format!("/proc/{}/io", child.trim()));
            let io = io.expect("it is still there, with more to write");
            let line = io.lines().find(|line| line.starts_with("wchar")).unwrap();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let mut before = u64::MAX;
        let mut same = 0;
        while same < 20 {
            let now = written();
            same = if now == before { same + 1 } else { 0 };
            before = now;
            Timer::after(Duration::from_millis(5)).await;
        }
        for number in 2..=100_000 {
            let line = read_text(&mut client).await;
            assert_eq!(line.strip_suffix(&tail), Some(&*number.to_string()));
        }
        assert_eq!(client.read_close().await.0, 1000);
    });
}

#[test]
fn a_process_that_does_not_read_holds_up_its_client() {
    test(async {
        let running = Running::start(&["--", "sleep", "1000"]);
        let mut client = running.open().await;
        let message = frame(TEXT, "x".repeat(60_000));
        let mut sent = 0;
        loop {
            let sending = async {
                client.send(&message).await;
                true
            };
            let waiting = async {
                Timer::after(Duration::from_millis(300)).await;
                false
            };
            if !future::or(sending, waiting).await {
                break;
            }
            sent += message.len();
            assert!(sent < 64 << 20);
        }
        // The others are not.
        running.open().await;
        drop(client);
    });
}

#[test]
fn a_process_that_does_not_read_ends_with_its_connection() {
    test(async {
        let running = Running::start(&["--", "sleep", "1000"]);
        let mut client = running.open().await;
        // More than a pipe holds, and less than the queue of the connection.
        for _ in 0..3 {
            client.send(frame(TEXT, "x".repeat(60_000))).await;
        }
        until(|| running.children() == 1).await;
        client.send(frame(CLOSE, close_payload(1000, ""))).await;
        assert_eq!(client.read_close().await.0, 1000);
        until(|| running.children() == 0).await;
        assert!(!running.log().contains("has not returned in time"));
    });
}

#[test]
fn it_is_told_of_the_request_and_of_no_secret() {
    test(async {
        let args = ["--path", "/a%20b/*", "--trusted-proxy", "127.0.0.1"];
        let running = Running::start(&[&args[..], &["--", "env"]].concat());
        let fields = "X-Forwarded-For: 192.0.2.7\r\nX-One: 1\r\nx-one: 2\r\nX_One: 3\r\nCookie: a=b\r\n\
                      Authorization: Basic eDp5\r\nProxy: http://192.0.2.1/\r\n";
        let path = "/a%20b/c%2Fd%0a?e=%20&$(f)";
        let mut client = running.open_with(path, fields).await;
        let (lines, close) = read_all(&mut client).await;
        assert_eq!(close.0, 1000);
        // The line end in the path is one here, too.
        let variables: BTreeMap<&str, &str> = lines
            .iter()
            .filter_map(|line| line.split_once('='))
            .collect();
        for (name, expected) in [
            ("REQUEST_METHOD", Some("GET")),
            ("SCRIPT_NAME", Some("/a b")),
            ("PATH_INFO", Some("/c/d")),
            ("QUERY_STRING", Some("e=%20&$(f)")),
            ("REMOTE_ADDR", Some("192.0.2.7")),
            ("REMOTE_PORT", Some("")),
            ("SERVER_PROTOCOL", Some("HTTP/1.1")),
            (
                "SERVER_SOFTWARE",
                Some(concat!("whit/", env!("CARGO_PKG_VERSION"))),
            ),
            ("HTTP_HOST", Some("test")),
            ("HTTP_X_ONE", Some("1, 2")),
            ("OF_TEST", Some("inherited")),
            ("LISTEN_FDNAMES", None),
            ("JOURNAL_STREAM", None),
            ("HTTP_PROXY", None),
            ("HTTP_COOKIE", None),
            ("HTTP_AUTHORIZATION", None),
            ("HTTP_SEC_WEBSOCKET_KEY", None),
        ] {
            assert_eq!(variables.get(name).copied(), expected, "{name}");
        }
    });
}

#[test]
fn nothing_of_a_request_is_run() {
    test(async {
        let running = Running::script(r#"printf '%s\n' "$#" "$PATH_INFO" "$QUERY_STRING""#);
        let file = std::env::temp_dir().join(format!("whit-run-{}", std::process::id()));
        let words = format!(
            "$(touch${{IFS}}{0})`touch${{IFS}}{0}`;touch${{IFS}}{0}|'\"&",
            file.display()
        );
        let path = format!("/{words}%27%22?{words}");
        let mut client = running.open_with(&path, "").await;
        let (lines, close) = read_all(&mut client).await;
        assert_eq!(close.0, 1000);
        assert_eq!(lines, ["0".into(), format!("/{words}'\""), words]);
        assert!(!file.exists());
    });
}

#[test]
fn it_has_no_descriptors_but_its_own() {
    test(async {
        let listing = ["-c", "ls /proc/self/fd"];
        let inherited = Command::new("sh").args(listing).output();
        let inherited = String::from_utf8(inherited.unwrap().stdout).unwrap();
        let running = Running::script(listing[1]);
        let _page = running.ask("GET /").await;
        let mut client = running.open().await;
        let (lines, _) = read_all(&mut client).await;
        assert_eq!(lines, inherited.lines().collect::<Vec<_>>());
    });
}

#[test]
fn standard_error_goes_to_the_log_in_lines_of_some_length() {
    test(async {
        let running =
            Running::script("echo 'one\ttwo' >&2; head -c 3000 /dev/zero | tr '\\0' x >&2");
        let mut client = running.open().await;
        let addr = client.stream.get_ref().local_addr().unwrap();
        let (lines, _) = read_all(&mut client).await;
        assert_eq!(lines, [""; 0]);
        running.signal(Signal::TERM);
        client.send(frame(CLOSE, close_payload(1000, ""))).await;
        let (log, status) = running.end().await;
        assert_eq!(status, Some(0), "{log}");
        let logged = |words: &str| {
            let line =
                |line: &&str| line.starts_with(&format!("{addr} sh[")) && line.ends_with(words);
            log.lines().filter(line).count()
        };
        assert_eq!(logged("]: one\\ttwo"), 1, "{log}");
        assert_eq!(logged(&format!("]: {}", "x".repeat(1024))), 2, "{log}");
        assert_eq!(logged(&format!("]: {}", "x".repeat(952))), 1, "{log}");
    });
}

#[test]
fn others_have_their_turn_between_the_lines_of_a_log_without_end() {
    test(async {
        let script = "read -r line; [ $line = flood ] && exec yes '' >&2; seq 100 >&2; exec cat";
        let running = Running::script(script);
        let mut flooding = running.open().await;
        flooding.send(frame(TEXT, "flood")).await;
        until(|| running.log().contains("]: \n")).await;
        let mut client = running.open().await;
        client.send(frame(TEXT, "begin")).await;
        client.send(frame(TEXT, "echo")).await;
        assert_eq!(read_text(&mut client).await, "echo");
        until(|| running.log().contains("]: 100\n")).await;
        // These hundred were written at once, and those of the flood are read 8,192 at a time: of each the other's are in between.
        let log = running.log();
        let (_, since) = log.split_once("]: 1\n").unwrap();
        let (meanwhile, _) = since.split_once("]: 100\n").unwrap();
        let flood = meanwhile.matches("]: \n").count();
        assert!((1..4096).contains(&flood), "{flood} lines");
    });
}

#[test]
fn binary_is_as_it_comes() {
    test(async {
        let running = Running::start(&["--binary", "--", "cat"]);
        let mut client = running.open().await;
        let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        for part in bytes.chunks(40_000) {
            client.send(frame(BINARY, part)).await;
        }
        let mut read = Vec::new();
        while read.len() < bytes.len() {
            let (opcode, payload) = client.read_frame().await;
            assert_eq!(opcode, BINARY);
            read.extend(payload);
        }
        assert_eq!(read, bytes);
    });
}

#[test]
fn what_is_no_line_of_text_gets_an_answer() {
    test(async {
        let running = Running::start(&["--", "cat"]);
        let mut client = running.open().await;
        client.send(frame(BINARY, b"a")).await;
        let close = (1003, "binary messages are not taken here".to_owned());
        assert_eq!(client.read_close().await, close);

        let running = Running::script("printf 'a\\377b\\n'");
        let mut client = running.open().await;
        assert_eq!(read_text(&mut client).await, "a\u{fffd}b");

        let args = [
            "--max-message",
            "10",
            "--",
            "echo",
            "0123456789\nx0123456789",
        ];
        let running = Running::start(&args);
        let mut client = running.open().await;
        assert_eq!(read_text(&mut client).await, "0123456789");
        let close = (1011, "the process wrote a line that is too long".to_owned());
        assert_eq!(client.read_close().await, close);
    });
}

#[test]
fn a_thousand_connections_leave_nothing() {
    test(async {
        // Those before may still be on their way out.
        let args = [
            "--max-processes",
            "1000",
            "--max-connections-per-ip",
            "off",
            "--",
            "cat",
        ];
        let running = Running::start(&args);
        // An emulator has one, too.
        let own_threads = running.count("task");
        let mut first = running.open().await;
        first.send(frame(TEXT, "echo")).await;
        read_text(&mut first).await;
        let with_one = running.count("fd");
        for _ in 0..50 {
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(running.open().await);
            }
            for (number, client) in clients.iter_mut().enumerate() {
                match number % 3 {
                    0 => client.send(frame(CLOSE, close_payload(1000, ""))).await,
                    1 => client.send(frame(TEXT, "echo")).await,
                    _ => {}
                }
            }
        }
        until(|| {
            running.children() == 1
                && running.count("fd") == with_one
                && running.count("task") == own_threads
        })
        .await;
    });
}

#[test]
fn a_process_that_heeds_no_sigterm_is_killed_after_its_grace() {
    test(async {
        let script = "trap '' TERM; echo $$; while :; do sleep 0.01; done";
        let running = Running::start(&["--grace", "300ms", "--", "sh", "-c", script]);
        let mut client = running.open().await;
        let pid = read_text(&mut client).await;
        let begin = Instant::now();
        client.send(frame(CLOSE, close_payload(1000, ""))).await;
        // Its client does not wait for it.
        assert_eq!(client.read_close().await.0, 1000);
        until(|| !is_there(&pid)).await;
        assert!(begin.elapsed() >= Duration::from_millis(300));
        drop(client);
        running.signal(Signal::TERM);
        let (log, _) = running.end().await;
        let words = format!("process {pid} did not end on SIGTERM: killed");
        assert!(log.contains(&words), "{log}");
        assert!(!log.contains("has not returned in time"), "{log}");
    });
}

#[test]
fn a_process_that_heeds_sigterm_has_its_time() {
    test(async {
        let script = "trap 'echo bye >&2; exit' TERM; echo; while :; do sleep 0.01; done";
        let running = Running::script(script);
        let mut client = running.open().await;
        read_text(&mut client).await;
        drop(client);
        until(|| running.log().contains("]: bye\n")).await;
    });
}

#[test]
fn a_process_whose_connection_is_shed_is_killed_at_once() {
    test(async {
        let script = "trap '' TERM PIPE; echo $$; x=$(head -c 60000 /dev/zero | tr '\\0' x)
                      while :; do echo $x; done 2>/dev/null";
        let args = [
            "--memory", "1MiB", "--grace", "1h", "--", "sh", "-c", script,
        ];
        let running = Running::start(&args);
        let mut client = running.open().await;
        let pid = read_text(&mut client).await;
        // It reads no more of what there is without end.
        until(|| !is_there(&pid)).await;
        until(|| running.log().contains("code 1013")).await;
        until(|| running.children() == 0).await;
    });
}

#[test]
fn its_children_end_with_it() {
    test(async {
        for (script, ends) in [
            ("sleep 1000 & echo $!; wait", false),
            ("(trap '' TERM; exec sleep 1000) & echo $!; wait", false),
            // They would keep its standard output open.
            ("sleep 1000 & echo $!", true),
        ] {
            let running = Running::script(script);
            let mut client = running.open().await;
            let pid = read_text(&mut client).await;
            if ends {
                let close = (1000, "exit status 0".to_owned());
                assert_eq!(client.read_close().await, close);
            } else {
                assert!(is_there(&pid));
            }
            drop(client);
            until(|| !is_there(&pid)).await;
        }
    });
}

#[test]
fn a_process_that_left_its_group_ends_with_its_connection() {
    test(async {
        let script = "$| = 1; setpgrp 0, getpgrp getppid; print \"$$\\n\"; sleep 1000";
        let running = Running::start(&["--", "perl", "-e", script]);
        let mut client = running.open().await;
        let pid = read_text(&mut client).await;
        drop(client);
        until(|| !is_there(&pid)).await;
        assert!(!running.log().contains("did not end"));
    });
}

#[test]
fn a_process_that_cannot_be_reaped_holds_up_nobody() {
    test(async {
        let running = Running::start(&["--grace", "0", "--", "sh", "-c", "echo $$; exec cat"]);
        let mut client = running.open().await;
        let Some(debugger) = Debugger::seize(&read_text(&mut client).await) else {
            return;
        };
        drop(client);
        until(|| running.log().contains("did not end on SIGTERM")).await;
        until(|| running.log().contains("has not returned in time")).await;
        let mut other = running.open().await;
        read_text(&mut other).await;
        other.send(frame(TEXT, "echo")).await;
        assert_eq!(read_text(&mut other).await, "echo");
        debugger.release();
        until(|| running.children() == 1).await;
    });
}

#[test]
fn a_shared_process_that_cannot_be_reaped_does_not_keep_the_server() {
    test(async {
        // It says its number for as long as nobody has heard it.
        let script = "while :; do echo $$; sleep 0.01; done";
        let running = Running::start(&["--shared", "--grace", "0", "--", "sh", "-c", script]);
        let mut client = running.open().await;
        let Some(debugger) = Debugger::seize(&read_text(&mut client).await) else {
            return;
        };
        drop(client);
        running.signal(Signal::TERM);
        let (log, status) = running.end().await;
        assert!(
            log.contains("sh: it has not ended in time: left alone"),
            "{log}"
        );
        assert_eq!(status, Some(0));
        debugger.release();
    });
}

#[test]
fn how_it_ended_is_known_whatever_the_server_was_started_with() {
    test(async {
        let args = ["--", "sh", "-c", "exit 3"];
        let running = Running::start_after("$SIG{CHLD} = 'IGNORE'", &args);
        let mut client = running.open().await;
        let close = (1011, "exit status 3".to_owned());
        assert_eq!(client.read_close().await, close);

        let mut without_path = support::command(env!("CARGO_BIN_EXE_whit"));
        without_path.env_remove("PATH");
        let running = Running::start_with(without_path, &args);
        let mut client = running.open().await;
        assert_eq!(client.read_close().await, close);
    });
}

#[test]
fn the_log_tells_when_there_are_too_few_files_for_the_pipes() {
    test(async {
        let running = Running::start_with(limited("ulimit -n 400"), &["--", "cat"]);
        let words = "warn: the system lets it open 400 files, too few for 64 connections";
        until(|| running.log().contains(words)).await;
    });
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_has_to_be() {
    test(async {
        for (more, expected) in [(&[][..], "500"), (&["--max-processes", "100"], "600")] {
            let args = [more, &["--", "sh", "-c", "ulimit -n"]].concat();
            let running = Running::start_with(limited("ulimit -Sn 500"), &args);
            let mut client = running.open().await;
            assert_eq!(read_text(&mut client).await, expected);
        }
    });
}

#[test]
fn there_are_no_more_processes_than_allowed() {
    test(async {
        let running = Running::start(&["--max-processes", "1", "--", "cat"]);
        let client = running.open().await;
        let answer = running
            .ask(&handshake_with("/ws", ""))
            .await
            .read_answer()
            .await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nRetry-After: "), "{answer}");
        drop(client);
        until(|| running.children() == 0).await;
        // The place is free as soon as the process is reaped, or very soon.
        loop {
            let mut client = running.ask(&handshake_with("/ws", "")).await;
            if client.read_head().await.starts_with("HTTP/1.1 101 ") {
                return;
            }
        }
    });
}

#[test]
fn the_end_of_the_server_is_that_of_all_processes() {
    test(async {
        for shared in [false, true] {
            let script = "trap '' PIPE; trap 'echo bye >&2; exit' TERM
                while :; do echo $$ 2>/dev/null; sleep 0.01; done";
            let args = ["--", "sh", "-c", script];
            let running = match shared {
                true => Running::start(&[&["--shared"], &args[..]].concat()),
                false => Running::start(&args),
            };
            let mut clients = [running.open().await, running.open().await];
            let mut pids = Vec::new();
            for client in &mut clients {
                pids.push(read_text(client).await);
            }
            assert_eq!(pids[0] == pids[1], shared);
            running.signal(Signal::TERM);
            for client in &mut clients {
                assert_eq!(read_all(client).await.1.0, 1001);
                client.send(frame(CLOSE, close_payload(1001, ""))).await;
            }
            let (log, status) = running.end().await;
            assert_eq!(status, Some(0), "{log}");
            pids.dedup();
            assert_eq!(log.matches("]: bye\n").count(), pids.len(), "{log}");
            assert!(!pids.iter().any(|pid| is_there(pid)));
        }
    });
}

#[test]
fn a_signal_ends_the_grace_of_a_shared_process() {
    test(async {
        let script = "trap 'echo asked >&2' TERM; read -r line; echo; while :; do sleep 0.01; done";
        let args = ["--shared", "--grace", "1h", "--", "sh", "-c", script];
        let running = Running::start(&args);
        let mut client = running.open().await;
        client.send(frame(TEXT, "begin")).await;
        read_text(&mut client).await;
        drop(client);
        running.signal(Signal::TERM);
        until(|| running.log().contains("]: asked\n")).await;
        running.signal(Signal::TERM);
        let (log, status) = running.end().await;
        assert_eq!(status, Some(128 + 15), "{log}");
        // Nobody else ends it now.
        let (_, pid) = log.split_once("sh[").unwrap();
        let (pid, _) = pid.split_once(']').unwrap();
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process_group(pid, Signal::KILL).unwrap();
    });
}

#[test]
fn a_shared_process_talks_to_all() {
    test(async {
        let running = Running::start(&["--shared", "--", "cat"]);
        let mut clients = [running.open().await, running.open().await];
        for (from, words) in [(0, "one"), (1, "two")] {
            // Both are there once they get what the other sends.
            clients[from].send(frame(TEXT, words)).await;
            for client in &mut clients {
                assert_eq!(read_text(client).await, words);
            }
        }
        let [mut left, right] = clients;
        drop(right);
        left.send(frame(TEXT, "three")).await;
        assert_eq!(read_text(&mut left).await, "three");
        assert_eq!(running.children(), 1);
    });
}

#[test]
fn what_waits_for_a_shared_process_is_charged() {
    test(async {
        let args = ["--memory", "1MiB", "--shared", "--", "sleep", "1000"];
        let running = Running::start(&args);
        let mut clients = Vec::new();
        loop {
            let mut client = running.ask(&handshake_with("/ws", "")).await;
            let head = client.read_head().await;
            if head.starts_with("HTTP/1.1 503 ") {
                break;
            }
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            client.send(frame(TEXT, "x".repeat(60_000))).await;
            clients.push(client);
            assert!(clients.len() < 32);
        }
    });
}

#[test]
fn what_many_clients_send_to_a_shared_process_all_comes_there() {
    test(async {
        // It takes nothing until all of it waits.
        let script = "read -r line; while read -r line; do echo \"$line\"; done";
        let running = Running::start(&["--shared", "--", "sh", "-c", script]);
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(running.open().await);
        }
        let long = "x".repeat(20_000);
        for client in &mut clients {
            for _ in 0..5 {
                client.send(frame(TEXT, &long)).await;
            }
        }
        for _ in 1..100 {
            assert_eq!(read_text(&mut clients[0]).await, long);
        }
    });
}

#[test]
fn what_a_client_sent_before_its_close_comes_to_a_shared_process() {
    test(async {
        let running = Running::start(&["--shared", "--", "cat"]);
        let mut other = running.open().await;
        let mut client = running.open().await;
        // More than a pipe and the queues hold.
        let mut frames = frame(TEXT, "x".repeat(20_000)).repeat(60);
        frames.extend(frame(CLOSE, close_payload(1000, "")));
        client.send(frames).await;
        for _ in 0..60 {
            assert_eq!(read_text(&mut other).await.len(), 20_000);
        }
    });
}

#[test]
fn a_slow_client_harms_no_other_one_of_a_shared_process() {
    test(async {
        let script = "read line; seq -f %0100.0f 20000; cat";
        let running = Running::start(&["--shared", "--", "sh", "-c", script]);
        let mut slow = running.open().await;
        let mut quick = running.open().await;
        slow.send(frame(TEXT, "begin")).await;
        let first = format!("{:0100}", 1);
        assert_eq!(read_text(&mut quick).await, first);
        // More than one, as the quick one is not quick enough for all of the numbers.
        let stream = quick.stream.get_ref().try_clone().unwrap();
        let asking = async {
            let mut stream = Async::new(stream).unwrap();
            loop {
                stream.write_all(&frame(TEXT, "end")).await.unwrap();
                Timer::after(Duration::from_millis(10)).await;
            }
        };
        future::or(asking, async {
            while read_text(&mut quick).await != "end" {}
        })
        .await;
        assert_eq!(read_text(&mut slow).await, first);
    });
}

#[test]
fn a_shared_process_is_started_again_later_and_later() {
    test(async {
        let script = "echo $$; read line; echo $line; exit 3";
        let running = Running::start(&["--shared", "--", "sh", "-c", script]);
        let mut client = running.open().await;
        for (number, pause) in [1, 2].into_iter().enumerate() {
            let begin = Instant::now();
            client.send(frame(TEXT, "again")).await;
            while read_text(&mut client).await != "again" {}
            let words = format!("warn: sh: exit status 3: it is started again in {pause} s\n");
            until(|| running.log().contains(&words)).await;
            assert_ne!(read_text(&mut client).await, "again");
            assert!(begin.elapsed() >= Duration::from_secs(pause), "{number}");
        }
        // What is sent meanwhile waits, and the server ends all the same.
        client.send(frame(TEXT, "last")).await;
        while read_text(&mut client).await != "last" {}
        running.signal(Signal::TERM);
        drop(client);
        let (log, status) = running.end().await;
        assert_eq!(status, Some(0), "{log}");
    });
}

#[test]
fn its_help_tells_what_is_special_to_it() {
    let mut output = String::new();
    let mut child = support::command(env!("CARGO_BIN_EXE_whit"))
        .args(["run", "--help"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success());
    for flag in ["--binary", "--shared", "--grace TIME", "--max-processes N"] {
        assert!(output.contains(flag), "{flag}");
    }
}

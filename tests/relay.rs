//! `whit relay`: what a client of a topic sends goes to those who read it, and who may do what is as the tokens say.
#![cfg(feature = "command")]

mod support;

use rustix::net::{self, AddressFamily, SocketType, sockopt};
use smol::{Async, future};
#[cfg(feature = "mqtt")]
use std::os::unix::ffi::OsStrExt;
use std::{
    ffi::OsStr,
    fmt::Debug,
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use support::{BINARY, CLOSE, Raw, TEXT, close_payload, frame, handshake, handshake_with};

/// A wait that takes longer has no end.
const HANG_GUARD: Duration = Duration::from_secs(120);

type Client = Raw<Async<TcpStream>>;

/// A running relay, killed if the test fails.
struct Relay {
    child: Child,
    log: BufReader<ChildStderr>,
    addr: SocketAddr,
}

impl Relay {
    fn start(args: &[&str]) -> Self {
        let mut child = support::command(env!("CARGO_BIN_EXE_whit"))
            .args(["relay", "--listen", "127.0.0.1:0", "--verbose"])
            // A slow machine takes longer for a test than a client may leave pings unanswered.
            .args(["--ping-interval", "off"])
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let addr = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
            if let Some(rest) = line.strip_prefix("listening on ws://") {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
        };
        Self { child, log, addr }
    }

    async fn ask(&self, head: impl AsRef<[u8]>) -> Client {
        let stream = Async::<TcpStream>::connect(self.addr).await.unwrap();
        let mut client = Raw { stream };
        client.send(head).await;
        client
    }

    /// A client of the topic that stands in the address so.
    async fn connect(&self, name: &str) -> Client {
        let (client, head) = self.connect_with(name, "").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{name}: {head}");
        client
    }

    /// The same, of one that takes little while it does not read.
    async fn connect_narrow(&self, name: &str) -> Client {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        net::connect(&socket, &self.addr).unwrap();
        let stream = Async::new(TcpStream::from(socket)).unwrap();
        let mut client = Raw { stream };
        client.send(handshake(&format!("/t/{name}"))).await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{name}: {head}");
        client
    }

    /// One with more header lines, and the answer's head.
    async fn connect_with(&self, name: &str, headers: &str) -> (Client, String) {
        let head = handshake_with(&format!("/t/{name}"), headers);
        let mut client = self.ask(head).await;
        let head = client.read_head().await;
        (client, head)
    }

    /// The whole answer to a client that is not let in.
    async fn refusal(&self, name: &str, headers: &str) -> String {
        let head = handshake_with(&format!("/t/{name}"), headers);
        self.ask(head).await.read_answer().await
    }

    /// Ends it. Gives the rest of its log.
    fn end(mut self) -> String {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(status.unwrap().success());
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        assert!(self.child.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let hanging = async {
        smol::Timer::after(HANG_GUARD).await;
        panic!("it hangs");
    };
    smol::block_on(future::or(test, hanging))
}

async fn say(client: &mut Client, text: &str) {
    client.send(frame(TEXT, text)).await;
}

/// Waits until all that was sent before has come to the server: it answers the Close.
async fn part(mut client: Client) {
    client.send(frame(CLOSE, close_payload(1000, ""))).await;
    while client.read_frame().await.0 != CLOSE {}
}

async fn expect(client: &mut Client, text: &str) {
    let (opcode, payload) = client.read_frame().await;
    assert_eq!(
        (opcode, String::from_utf8_lossy(&payload).as_ref()),
        (TEXT, text)
    );
}

/// A file with a token, removed at the end.
struct TokenFile(PathBuf);

impl TokenFile {
    fn new(text: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("whit-relay-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn all_readers_get_what_all_publishers_send_in_order() {
    let relay = Relay::start(&["--capacity", "1000", "--replay", "0"]);
    run(async {
        let mut readers = Vec::new();
        for _ in 0..3 {
            readers.push(relay.connect("house/kitchen").await);
        }
        let mut other = relay.connect("house").await;
        let mut publishers = [
            relay.connect("house/kitchen?publish").await,
            relay.connect("house%2fkitchen?x=1&publish=").await,
        ];
        // It reads, too, and knows when the others are there.
        say(&mut readers[2], "ready").await;
        for reader in &mut readers {
            expect(reader, "ready").await;
        }
        for i in 0u8..100 {
            for (who, publisher) in (0u8..).zip(&mut publishers) {
                match i % 2 {
                    0 => say(publisher, &format!("{who} {i}")).await,
                    _ => publisher.send(frame(BINARY, [who, 0xff, i])).await,
                }
            }
        }
        for reader in &mut readers {
            let mut next = [0u8; 2];
            while next != [100; 2] {
                let (opcode, payload) = reader.read_frame().await;
                let (who, i) = match opcode {
                    TEXT => {
                        let text = String::from_utf8(payload).unwrap();
                        let (who, i) = text.split_once(' ').unwrap();
                        (who.parse().unwrap(), i.parse().unwrap())
                    }
                    _ => (payload[0], payload[2]),
                };
                assert_eq!(opcode, if i % 2 == 0 { TEXT } else { BINARY });
                assert_eq!(next[usize::from(who)], i);
                next[usize::from(who)] += 1;
            }
        }
        // One that only publishes hears nothing, and nor does another topic.
        for client in publishers.iter_mut().chain([&mut other]) {
            client.send(frame(CLOSE, close_payload(1000, ""))).await;
            assert_eq!(client.read_close().await.0, 1000);
        }
    });
}

#[test]
fn a_newcomer_is_greeted_with_what_is_retained() {
    let relay = Relay::start(&[]);
    run(async {
        let mut publisher = relay.connect("t?publish").await;
        say(&mut publisher, "old").await;
        say(&mut publisher, "new").await;
        part(publisher).await;
        let mut reader = relay.connect("t").await;
        expect(&mut reader, "new").await;
        let mut wide = relay.connect("*").await;
        expect(&mut wide, "t\nnew").await;
        // What clears it is a message as any other.
        say(&mut reader, "").await;
        expect(&mut reader, "").await;
        expect(&mut wide, "t\n").await;
        let mut late = relay.connect("t").await;
        say(&mut late, "first").await;
        expect(&mut late, "first").await;
    });

    let relay = Relay::start(&["--replay", "2"]);
    run(async {
        let mut publisher = relay.connect("t?publish").await;
        for text in ["1", "2", "3"] {
            say(&mut publisher, text).await;
        }
        part(publisher).await;
        let mut reader = relay.connect("t").await;
        expect(&mut reader, "2").await;
        expect(&mut reader, "3").await;
    });
}

#[test]
fn who_reads_many_topics_gets_their_names_and_cannot_publish() {
    let relay = Relay::start(&[]);
    run(async {
        let mut house = relay.connect("house/*").await;
        let mut all = relay.connect("*").await;
        let mut publisher = relay.connect("house/k%C3%BCche%3F?publish").await;
        say(&mut publisher, "20.5").await;
        publisher.send(frame(BINARY, [0xff])).await;
        let mut garden = relay.connect("garden").await;
        for client in [&mut house, &mut all] {
            expect(client, "house/küche?\n20.5").await;
            let (opcode, payload) = client.read_frame().await;
            assert_eq!(opcode, BINARY);
            assert_eq!(
                payload,
                "house/küche?\n".bytes().chain([0xff]).collect::<Vec<_>>()
            );
        }
        say(&mut garden, "rain").await;
        expect(&mut all, "garden\nrain").await;
        say(&mut house, "hello").await;
        let close = (1008, "who reads many topics cannot publish".to_owned());
        assert_eq!(house.read_close().await, close);
    });
}

#[test]
fn an_address_that_names_no_topic_gets_400() {
    let relay = Relay::start(&[]);
    run(async {
        for (name, rule) in [
            ("", "a topic has a name"),
            ("a%0Ab", "a name has no control characters"),
            ("%FF", "a name is UTF-8"),
            ("a+b", "a name has no *, + or #"),
            ("a*", "a name has no *, + or #"),
            (&"x".repeat(256), "a name has 255 bytes at most"),
            ("house/*?publish", "it can only be read"),
        ] {
            let answer = relay.refusal(name, "").await;
            assert!(
                answer.starts_with("HTTP/1.1 400 ") && answer.contains(rule),
                "{name}: {answer}"
            );
        }
        // As every other address of a WebSocket.
        let mut plain = relay.ask("GET /t/a HTTP/1.1\r\nHost: test\r\n\r\n").await;
        assert!(plain.read_answer().await.starts_with("HTTP/1.1 426 "));
        let mut page = relay.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        assert!(page.read_answer().await.contains("/t/demo"));
        let mut elsewhere = relay.ask(handshake("/ws")).await;
        assert!(elsewhere.read_answer().await.starts_with("HTTP/1.1 404 "));
    });
}

#[test]
fn tokens_are_shown_in_three_places_and_never_told() {
    const TOKEN: &str = "secret+/word==";
    const ENCODED: &str = "secret%2B%2Fword%3D%3D";

    let file = TokenFile::new(&format!("{TOKEN}\n"));
    let relay = Relay::start(&[
        "--read-token-file",
        file.path(),
        "--publish-token-file",
        file.path(),
    ]);
    run(async {
        let bearer = |token| format!("Authorization: bearer {token}\r\n");
        let subprotocol = |token| format!("Sec-WebSocket-Protocol: whit, whit.token.{token}\r\n");
        let shown = [
            ("t".to_owned(), bearer(TOKEN)),
            ("t".to_owned(), subprotocol(ENCODED)),
            (format!("t?token={ENCODED}"), String::new()),
            // Those before are wrong, which is as if they were not there.
            (format!("t?token=x&token={TOKEN}"), bearer("x")),
        ];
        for (name, headers) in &shown {
            let (mut client, head) = relay.connect_with(name, headers).await;
            assert!(
                head.starts_with("HTTP/1.1 101 "),
                "{name} {headers}: {head}"
            );
            assert_eq!(
                head.contains("Sec-WebSocket-Protocol: whit\r\n"),
                headers.starts_with("Sec"),
                "{head}"
            );
            assert!(!head.contains("word"), "{head}");
            say(&mut client, "").await;
            expect(&mut client, "").await;
            part(client).await;
        }
        let wrong = [
            ("t".to_owned(), String::new()),
            ("t?publish".to_owned(), String::new()),
            ("t?token".to_owned(), String::new()),
            ("t?token=".to_owned(), String::new()),
            (format!("t?token={TOKEN}x"), String::new()),
            (format!("t?token={}", &TOKEN[1..]), String::new()),
            (format!("t?tokens={TOKEN}"), String::new()),
            (format!("*?token=wrong-{TOKEN}"), String::new()),
            ("t".to_owned(), bearer("wrong-word")),
            ("t".to_owned(), format!("Authorization: Basic {TOKEN}\r\n")),
            ("t".to_owned(), subprotocol("wrong-word")),
        ];
        for (name, headers) in &wrong {
            let answer = relay.refusal(name, headers).await;
            assert!(
                answer.starts_with("HTTP/1.1 401 Unauthorized\r\n")
                    && answer.contains("\r\nWWW-Authenticate: Bearer\r\n"),
                "{name} {headers}: {answer}"
            );
            assert!(!answer.contains("word"), "{answer}");
        }
    });
    let log = relay.end();
    assert!(log.contains(" /t/t open\n") && log.contains("refused with 401"));
    assert!(!log.contains("secret") && !log.contains("word"), "{log}");
}

#[test]
fn each_token_is_for_its_right() {
    let (publish, read) = (TokenFile::new("p"), TokenFile::new("r\r\n"));
    let flags = ["--publish-token-file", publish.path()];
    let both = [&flags[..], &["--read-token-file", read.path()]].concat();
    let relay = Relay::start(&both);
    run(async {
        let mut reader = relay.connect("t?token=r").await;
        let mut wide = relay.connect("*?token=r").await;
        let mut either = relay.connect("t?token=p&token=r").await;
        let mut publisher = relay.connect("t?token=p").await;
        say(&mut publisher, "one").await;
        for client in [&mut reader, &mut either] {
            expect(client, "one").await;
        }
        expect(&mut wide, "t\none").await;
        say(&mut either, "two").await;
        for client in [&mut reader, &mut either] {
            expect(client, "two").await;
        }
        // It may not read.
        part_in_silence(publisher).await;
        say(&mut reader, "three").await;
        let close = (1008, "publishing takes a token".to_owned());
        assert_eq!(reader.read_close().await, close);
        for name in ["t", "t?publish", "t?publish&token=r", "*?token=p"] {
            let answer = relay.refusal(name, "").await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{name}: {answer}");
        }
    });

    // Without a token for it everybody may read.
    let relay = Relay::start(&flags);
    run(async {
        let mut reader = relay.connect("t").await;
        let mut publisher = relay.connect("t?token=p").await;
        say(&mut publisher, "one").await;
        expect(&mut publisher, "one").await;
        expect(&mut reader, "one").await;
        say(&mut reader, "two").await;
        assert_eq!(reader.read_close().await.0, 1008);
    });

    // And the other way round: a box that all can put something in.
    let relay = Relay::start(&both[2..]);
    run(async {
        let mut reader = relay.connect("t?token=r").await;
        let mut publisher = relay.connect("t?publish").await;
        say(&mut publisher, "one").await;
        expect(&mut reader, "one").await;
        let answer = relay.refusal("t", "").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    });
}

/// Nothing comes before the answer to its Close.
async fn part_in_silence(mut client: Client) {
    client.send(frame(CLOSE, close_payload(1000, ""))).await;
    assert_eq!(client.read_close().await.0, 1000);
}

#[test]
fn there_are_no_more_topics_than_allowed() {
    let relay = Relay::start(&["--max-topics", "2"]);
    run(async {
        let mut kept = relay.connect("kept").await;
        say(&mut kept, "one").await;
        expect(&mut kept, "one").await;
        part(kept).await;
        let gone = relay.connect("gone").await;
        let close = (1013, "there are 2 topics, and no more".to_owned());
        assert_eq!(relay.connect("third").await.read_close().await, close);
        assert_eq!(
            relay.connect("third?publish").await.read_close().await,
            close
        );
        // Those that are there are for all.
        expect(&mut relay.connect("kept").await, "one").await;
        expect(&mut relay.connect("*").await, "kept\none").await;
        // One that keeps nothing is gone with its last client.
        part(gone).await;
        let mut third = relay.connect("third").await;
        say(&mut third, "hello").await;
        expect(&mut third, "hello").await;
    });
}

/// Publishes so many messages that some wait for a reader that takes none until the end, while another takes all. Gives what the slow
/// one gets.
async fn overwhelm(relay: &Relay) -> Vec<usize> {
    let mut slow = relay.connect_narrow("t").await;
    let mut fast = relay.connect("t").await;
    let mut publisher = relay.connect("t?publish").await;
    for i in 0..MANY {
        let text = format!("{i:0>20000}");
        say(&mut publisher, &text).await;
        expect(&mut fast, &text).await;
    }
    let mut got = Vec::new();
    while got.last() != Some(&(MANY - 1)) {
        match slow.read_frame().await {
            (CLOSE, _) => break,
            (_, payload) => got.push(String::from_utf8(payload).unwrap().parse().unwrap()),
        }
    }
    got
}

/// What a narrow socket has no room for. All of it has to pass before the server lets a client go that takes nothing.
const MANY: usize = 50;

#[test]
fn a_slow_reader_harms_nobody_and_misses_what_the_policy_says() {
    for (args, waiting) in [(&["--capacity", "5"][..], 5), (&["--policy", "latest"], 1)] {
        let relay = Relay::start(args);
        let got = run(overwhelm(&relay));
        assert!(got.len() < MANY, "{args:?}: {got:?}");
        let (taken, waited) = got.split_at(got.len() - waiting);
        assert_eq!(taken, (0..taken.len()).collect::<Vec<_>>());
        assert_eq!(waited, (MANY - waiting..MANY).collect::<Vec<_>>());
    }
}

#[test]
fn a_slow_reader_that_may_miss_nothing_is_closed() {
    let relay = Relay::start(&["--policy", "close", "--capacity", "5"]);
    let got = run(overwhelm(&relay));
    assert!(!got.is_empty() && got.len() < MANY, "{got:?}");
    assert_eq!(got, (0..got.len()).collect::<Vec<_>>());
    let log = relay.end();
    assert!(log.contains("code 1013, \"too slow for what it subscribed to\""));
}

#[test]
fn a_mistake_in_its_flags_is_one_line() {
    let (empty, spaced) = (TokenFile::new("\n"), TokenFile::new("two words\n"));
    let (empty, spaced) = (empty.path(), spaced.path());
    for (args, expected) in [
        (&["word"][..], "unexpected argument \"word\"".to_owned()),
        (
            &["--replay", "-1"],
            "--replay -1: not a whole number".into(),
        ),
        (
            &["--policy", "wait"],
            "--policy wait: not one of drop-oldest, drop-newest, latest and close".into(),
        ),
        (&["--capacity", "0"], "--capacity 0: at least 1".into()),
        (&["--max-topics", "0"], "--max-topics 0: at least 1".into()),
        (
            &["--path", "/t"],
            "--path /t: the path of topics ends in /*".into(),
        ),
        (
            &["--read-token-file", "/nowhere/token"],
            "--read-token-file /nowhere/token: No such file".into(),
        ),
        (
            &["--publish-token-file", empty],
            format!("--publish-token-file {empty}: there is no token in it"),
        ),
        (
            &["--publish-token-file", spaced],
            format!("--publish-token-file {spaced}: a token is one line of "),
        ),
    ] {
        refuses(args, &expected);
    }
}

/// It ends at once, for this reason, and tells no secret.
fn refuses(args: &[impl AsRef<OsStr> + Debug], expected: &str) {
    let mut command = support::command(env!("CARGO_BIN_EXE_whit"));
    let output = command.arg("relay").args(args).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(
        text.starts_with(&format!("whit: {expected}")) && text.lines().count() == 1,
        "{args:?}: {text}"
    );
    assert!(!text.contains("secret"), "{text}");
}

#[cfg(feature = "mqtt")]
#[test]
fn at_its_end_it_tells_how_many_messages_the_broker_did_not_get() {
    // Nobody takes its connections.
    let broker = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", broker.local_addr().unwrap());
    let relay = Relay::start(&["--mqtt", &url]);
    run(async {
        let mut publisher = relay.connect("t").await;
        for text in ["1", "2"] {
            say(&mut publisher, text).await;
            expect(&mut publisher, text).await;
        }
    });
    let log = relay.end();
    let told = "is left; 2 messages for it were dropped meanwhile\n";
    assert!(log.contains(told), "{log}");
}

#[test]
fn a_token_that_every_user_can_read_is_warned_of() {
    let file = TokenFile::new("word\n");
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = support::command(env!("CARGO_BIN_EXE_whit"));
    let args = ["relay", "--read-token-file", file.path(), "--listen", "x"];
    let output = command.args(args).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let warning = format!("--read-token-file {}: every user", file.path());
    assert!(text.contains(&warning) && !text.contains("word"), "{text}");
}

#[cfg(feature = "mqtt")]
#[test]
fn a_mistake_about_the_broker_does_not_tell_the_password() {
    let empty = TokenFile::new("\n");
    let empty = empty.path();
    let broker = ["--mqtt", "mqtt://me@localhost"];
    for (args, expected) in [
        (
            &["--mqtt", "mqtt://me:secret@localhost:x"][..],
            "--mqtt mqtt://...@localhost:x: a port is".to_owned(),
        ),
        (
            &["--mqtt-prefix", "site"],
            "--mqtt-prefix site: a prefix ends with /".into(),
        ),
        (
            &["--mqtt-qos", "2"],
            "--mqtt-qos 2: a quality of service is 0".into(),
        ),
        (
            &["--mqtt-qos", "1"],
            "--mqtt-qos: there is no broker without --mqtt".into(),
        ),
        (
            &[broker[0], broker[1], "--mqtt-password-file", empty],
            format!("--mqtt-password-file {empty}: a password has 1 to"),
        ),
    ] {
        refuses(args, &expected);
    }
    let url = OsStr::from_bytes(b"mqtt://me:secret\xff@localhost");
    refuses(&["--mqtt".as_ref(), url], "--mqtt: the URL is not UTF-8");
}

#[cfg(not(feature = "mqtt"))]
#[test]
fn a_build_without_mqtt_tells_how_to_get_one_with_it() {
    let args = ["--mqtt", "mqtt://me:secret@localhost"];
    refuses(
        &args,
        "--mqtt: this whit is built without it: cargo install ",
    );
}

#[test]
fn what_is_retained_gives_way_to_a_smaller_budget() {
    let file = std::env::temp_dir().join(format!("whit-relay-memory-{}", std::process::id()));
    fs::write(&file, "--memory 32MiB\n").unwrap();
    let mut relay = Relay::start(&["--config", file.to_str().unwrap()]);
    smol::block_on(async {
        let retained = "r".repeat(50_000);
        for number in 0..100 {
            let mut client = relay.connect(&format!("{number}?publish")).await;
            client.send(frame(TEXT, retained.as_bytes())).await;
            client.send(frame(CLOSE, 1000_u16.to_be_bytes())).await;
            assert_eq!(client.read_frame().await.0, CLOSE);
        }
        let mut stays = relay.connect("live").await;
        fs::write(&file, "--memory 4MiB\n").unwrap();
        let pid = relay.child.id().to_string();
        let status = Command::new("kill").args(["-s", "HUP", &pid]).status();
        assert!(status.unwrap().success());
        let mut line = String::new();
        while line != "reloaded\n" {
            line.clear();
            assert_ne!(relay.log.read_line(&mut line).unwrap(), 0, "it ended");
        }
        // Nobody is sent away for it, and who comes is let in.
        stays.send(frame(TEXT, b"hi")).await;
        assert_eq!(stays.read_frame().await, (TEXT, b"hi".to_vec()));
        relay.connect("new").await;
        // Some of it is there still.
        let mut wide = relay.connect("*").await;
        assert_eq!(wide.read_frame().await.0, TEXT);
    });
    relay.end();
    fs::remove_file(&file).unwrap();
}

//! Unix sockets: a connection over one is as any other, and their files are there when they should be.
#![cfg(unix)]

mod support;

use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use smol::Async;
use std::{
    fs, io,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use support::{BINARY, CLOSE, Raw, TEXT, close_payload, echo, frame, handshake};
use whit::{Connection, Error, Listener, Server};

/// A folder that is removed with all in it. Its path is short: that of a socket has to be.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("whit-unix-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).unwrap().next().is_none()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Serves on `listener` while `test` runs.
fn serve<T>(server: Server, listener: Listener, test: impl Future<Output = T>) -> T {
    let serving = async {
        server.serve(listener).await.unwrap();
        future::pending().await
    };
    whit::block_on(future::or(test, serving)).unwrap()
}

async fn connect(path: &Path) -> Raw<Async<UnixStream>> {
    let stream = Async::<UnixStream>::connect(path).await.unwrap();
    let mut raw = Raw { stream };
    raw.send(handshake("/ws")).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    raw
}

fn kind(result: whit::Result<Listener>) -> io::ErrorKind {
    match result {
        Err(Error::Listen { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connection_over_a_unix_socket_is_as_any_other() {
    let folder = Folder::new();
    let path = folder.socket();
    let listener = Listener::bind_unix(&path, 0o600).unwrap();
    assert_eq!(listener.local_paths(), [&*path]);
    assert!(listener.local_addrs().is_empty());
    let server = Server::new().route("/ws", echo);
    serve(server, listener, async {
        let mut client = connect(&path).await;
        client.send(frame(TEXT, "hi")).await;
        assert_eq!(client.read_frame().await, (TEXT, b"hi".to_vec()));
        client.send(frame(CLOSE, close_payload(1000, "bye"))).await;
        assert_eq!(client.read_close().await.0, 1000);
        client.expect_end().await;
    });
    assert!(folder.is_empty());
}

#[test]
fn more_than_a_unix_socket_holds_passes_in_both_directions() {
    let folder = Folder::new();
    let path = folder.socket();
    let listener = Listener::bind_unix(&path, 0o600).unwrap();
    let server = Server::new().route("/ws", echo);
    let message: Vec<u8> = (0..60_000_u32).map(|i| (i % 251) as u8).collect();
    const COUNT: usize = 100;
    serve(server, listener, async {
        let client = connect(&path).await;
        let (mut reading, mut writing) = smol::io::split(client.stream);
        // Nothing is read until as much is underway as the sockets and the queues hold.
        let (all, message) = (frame(BINARY, &message).repeat(COUNT), &message);
        let sending = async {
            writing.write_all(&all).await.unwrap();
            writing.flush().await.unwrap();
        };
        let receiving = async {
            let mut client = Raw {
                stream: &mut reading,
            };
            for _ in 0..COUNT {
                let (opcode, echoed) = client.read_frame().await;
                assert!(opcode == BINARY && echoed == *message);
            }
        };
        future::zip(sending, receiving).await;
    });
}

#[test]
fn a_client_that_reads_slowly_is_kept() {
    const PATIENCE: Duration = Duration::from_millis(1200);
    const COUNT: usize = 24;
    let folder = Folder::new();
    let path = folder.socket();
    let listener = Listener::bind_unix(&path, 0o600).unwrap();
    let config = whit::Config::new()
        .write_timeout(PATIENCE)
        .ping_interval(PATIENCE)
        .pong_timeout(PATIENCE);
    let server = Server::new().config(config).route("/ws", echo);
    serve(server, listener, async {
        let mut client = connect(&path).await;
        let message = [0; 20_000];
        client.send(frame(BINARY, message).repeat(COUNT)).await;
        // The system tells of room only when three quarters are free, which takes it longer than the patience lasts.
        // It goes at its pace, however late it has its turn.
        let (mut read, mut bytes) = (0, [0; 4096]);
        let begin = Instant::now();
        while read < COUNT * message.len() {
            let count = client.stream.read(&mut bytes).await.unwrap();
            assert_ne!(count, 0, "it was let go after {read} bytes");
            read += count;
            let time = Duration::from_micros(16) * u32::try_from(read).unwrap();
            smol::Timer::at(begin + time).await;
        }
    });
}

#[test]
fn its_clients_have_no_address() {
    async fn tell(conn: Connection) -> Result<(), whit::Closed> {
        let addr = conn.request().peer_addr();
        conn.write(format!("{addr:?}")).await
    }
    let folder = Folder::new();
    let path = folder.socket();
    let listener = Listener::bind_unix(&path, 0o600).unwrap();
    // Nor a limit that is for each address.
    let config = whit::Config::new().max_connections_per_ip(1);
    let server = Server::new().config(config).route("/ws", tell);
    serve(server, listener, async {
        let (mut one, mut other) = (connect(&path).await, connect(&path).await);
        assert_eq!(one.read_frame().await, (TEXT, b"None".to_vec()));
        assert_eq!(other.read_frame().await, (TEXT, b"None".to_vec()));
    });
}

#[test]
fn the_file_has_the_mode_that_was_asked_for() {
    let folder = Folder::new();
    for mode in [0o600, 0o660, 0o666] {
        let _listener = Listener::bind_unix(folder.socket(), mode).unwrap();
        let metadata = fs::metadata(folder.socket()).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode);
    }
}

#[test]
fn a_socket_that_was_left_is_replaced() {
    let folder = Folder::new();
    let path = folder.socket();
    drop(UnixListener::bind(&path).unwrap());
    let listener = Listener::bind_unix(&path, 0o600).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(listener);
    assert!(folder.is_empty());
}

#[test]
fn a_socket_that_is_listened_on_is_left_alone() {
    let folder = Folder::new();
    let path = folder.socket();
    let other = UnixListener::bind(&path).unwrap();
    let result = Listener::bind_unix(&path, 0o600);
    assert_eq!(kind(result), io::ErrorKind::AddrInUse);
    other.set_nonblocking(true).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let folder = Folder::new();
    let path = folder.socket();
    fs::write(&path, "mine").unwrap();
    let result = Listener::bind_unix(&path, 0o600);
    assert_eq!(kind(result), io::ErrorKind::AddrInUse);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn the_file_of_another_is_not_removed() {
    let folder = Folder::new();
    let path = folder.socket();
    let listener = Listener::bind_unix(&path, 0o600).unwrap();
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(!folder.is_empty());

    // Nor that of a socket which somebody else has bound.
    drop(Listener::from(other));
    assert!(!folder.is_empty());
}

#[test]
fn a_path_that_is_too_long_is_an_error() {
    let path = format!("/tmp/{}", "x".repeat(200));
    let error = Listener::bind_unix(&path, 0o600).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on unix:{path}: ")),
        "{error}"
    );
}

#[test]
fn a_listener_of_ones_own_is_served() {
    let folder = Folder::new();
    let path = folder.socket();
    let listener = Listener::from(UnixListener::bind(&path).unwrap());
    let server = Server::new().route("/ws", echo);
    serve(server, listener, async {
        let mut client = connect(&path).await;
        client.send(frame(TEXT, "hi")).await;
        let mut byte = [0];
        client.stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [0x81]);
    });
}

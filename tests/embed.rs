//! Handlers may use smol, other threads and timers, whoever waits for the server: `run`, or an executor of the user's own.

mod support;

use async_channel::bounded;
use futures_lite::{AsyncReadExt, future};
use smol::{Async, LocalExecutor, Timer};
use std::{
    cell::Cell,
    fs::{self, DirEntry, File},
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Wake, Waker},
    thread,
    time::{Duration, Instant},
};
use support::handshake;
use whit::{Connection, Error, Listener, Server, ShutdownHandle, sleep};
#[cfg(unix)]
use {std::os::unix::net::UnixStream, whit::AsyncFd};

/// Says what came from whit's own timer and from a descriptor that it waits for; from a timer and a socket of smol's; and from another thread.
async fn handle(conn: Connection) -> Result<(), Box<dyn std::error::Error>> {
    sleep(Duration::from_millis(1)).await;
    conn.write("sleep").await?;
    #[cfg(unix)]
    conn.write(through_a_descriptor().await?).await?;

    Timer::after(Duration::from_millis(1)).await;
    conn.write("timer").await?;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let greeter = thread::spawn(move || listener.accept().unwrap().0.write_all(b"socket"));
    let mut stream = Async::<TcpStream>::connect(addr).await?;
    let mut words = String::new();
    stream.read_to_string(&mut words).await?;
    greeter.join().unwrap()?;
    conn.write(words).await?;

    let (sender, receiver) = bounded(1);
    thread::spawn(move || sender.send_blocking("thread"));
    conn.write(receiver.recv().await?).await?;
    Ok(())
}

/// More than is taken at once, so that both ends have to wait.
#[cfg(unix)]
async fn through_a_descriptor() -> io::Result<String> {
    const BYTES: usize = 300_000;

    let (output, input) = UnixStream::pair()?;
    let (output, input) = (AsyncFd::new(output)?, AsyncFd::new(input)?);
    let writing = async move {
        let mut left = BYTES;
        while left > 0 {
            let piece = vec![b'x'; left.min(10_000)];
            left -= input.write_with(|mut input| input.write(&piece)).await?;
        }
        io::Result::Ok(())
    };
    let reading = async {
        let (mut count, mut bytes) = (0, [0; 3000]);
        loop {
            match output
                .read_with(|mut output| output.read(&mut bytes))
                .await?
            {
                // Its other end is closed.
                0 => return Ok(count),
                more => count += more,
            }
        }
    };
    let (_, count) = future::try_zip(writing, reading).await?;
    Ok(format!("{count} bytes"))
}

/// A client in a thread of its own, which shuts the server down when it has heard all.
fn client(addr: SocketAddr, shutdown: ShutdownHandle) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        // Where a task of an executor always goes on, the thread that waits for all others may have to wait for a processor each time.
        let limit = Some(Duration::from_secs(120));
        stream.set_read_timeout(limit).unwrap();
        stream.write_all(handshake("/ws").as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let mut heard = vec![0; expected().len()];
        stream.read_exact(&mut heard).unwrap();
        shutdown.shut_down();
        heard
    })
}

fn server() -> (Server, Listener, thread::JoinHandle<Vec<u8>>) {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let server = Server::new().route("/ws", handle);
    let client = client(listener.local_addrs()[0], server.shutdown_handle());
    (server, listener, client)
}

fn expected() -> Vec<u8> {
    let frames: &[&[u8]] = &[
        b"\x81\x05sleep",
        #[cfg(unix)]
        b"\x81\x0c300000 bytes",
        b"\x81\x05timer",
        b"\x81\x06socket",
        b"\x81\x06thread",
        b"\x88\x02\x03\xe8",
    ];
    frames.concat()
}

#[test]
fn a_handler_may_use_smol_where_whit_waits() {
    let (server, listener, client) = server();
    whit::block_on(server.serve(listener)).unwrap().unwrap();
    assert_eq!(client.join().unwrap(), expected());
}

#[test]
fn a_handler_may_use_smol_where_smol_waits() {
    let (server, listener, client) = server();
    smol::block_on(server.serve(listener)).unwrap();
    assert_eq!(client.join().unwrap(), expected());
}

#[test]
fn a_server_runs_beside_other_tasks_of_an_executor() {
    let (server, listener, client) = server();
    let executor = LocalExecutor::new();
    let ticks = Rc::new(Cell::new(0));
    let ticking = ticks.clone();
    executor
        .spawn(async move {
            loop {
                future::yield_now().await;
                ticking.set(ticking.get() + 1);
            }
        })
        .detach();
    future::block_on(executor.run(server.serve(listener))).unwrap();
    assert_eq!(client.join().unwrap(), expected());
    assert!(ticks.get() > 0);
}

#[test]
fn two_servers_share_a_thread() {
    let ((one, listener, client), (other, other_listener, other_client)) = (server(), server());
    let both = future::zip(one.serve(listener), other.serve(other_listener));
    let (one, other) = whit::block_on(both).unwrap();
    one.and(other).unwrap();
    assert_eq!(client.join().unwrap(), expected());
    assert_eq!(other_client.join().unwrap(), expected());
}

#[test]
fn who_sleeps_without_a_server_is_woken_too() {
    let begin = Instant::now();
    future::block_on(sleep(Duration::from_millis(20)));
    assert!(begin.elapsed() >= Duration::from_millis(20));
    // Dropped, its thread ends as well: nothing of it is left by the time that a second one came and went. Its name is that of
    // this one, and those of other tests have theirs.
    let own_name = fs::read("/proc/thread-self/comm").ok();
    let is_own = |task: io::Result<DirEntry>| {
        let name = task.and_then(|task| fs::read(task.path().join("comm")));
        name.ok() == own_name
    };
    let threads = || {
        let tasks = fs::read_dir("/proc/self/task");
        tasks.map_or(0, |tasks| tasks.map(is_own).filter(|own| *own).count())
    };
    let before = threads();
    for _ in 0..50 {
        assert!(future::block_on(future::poll_once(sleep(Duration::from_secs(60)))).is_none());
    }
    while threads() > before {
        thread::yield_now();
    }
    // Longer than any clock goes.
    assert!(future::block_on(future::poll_once(sleep(Duration::MAX))).is_none());
}

#[cfg(unix)]
#[test]
fn what_cannot_be_waited_for_is_refused() {
    let waiting = whit::block_on(async { AsyncFd::new(File::open("Cargo.toml").unwrap()) });
    let error = waiting.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[cfg(unix)]
#[test]
fn a_descriptor_that_stays_open_can_be_waited_for_again() {
    let waiting = async {
        let (stream, mut other) = UnixStream::pair().unwrap();
        for round in 0..3 {
            let lent = AsyncFd::new(&stream).unwrap();
            other.write_all(&[round]).unwrap();
            let mut byte = [0];
            lent.read_with(|&(mut lent)| lent.read(&mut byte))
                .await
                .unwrap();
            assert_eq!(byte, [round]);
        }
    };
    whit::block_on(waiting).unwrap();
}

#[cfg(unix)]
#[test]
fn several_may_wait_for_a_descriptor() {
    const TASKS: u8 = 5;

    let waiting = async {
        let (stream, mut other) = UnixStream::pair().unwrap();
        let fd = Rc::new(AsyncFd::new(stream).unwrap());
        while future::poll_once(fd.write_with(|mut stream| stream.write(&[0; 4096])))
            .await
            .is_some()
        {}
        let executor = LocalExecutor::new();
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let fd = fd.clone();
                executor.spawn(async move {
                    let wrote = fd.write_with(|mut stream| stream.write(b"x")).await;
                    assert_eq!(wrote.unwrap(), 1);
                    let mut byte = [0];
                    let read = fd.read_with(|mut stream| stream.read(&mut byte)).await;
                    assert_eq!(read.unwrap(), 1);
                })
            })
            .collect();
        // One of them goes, and those behind it do not wait for it.
        while executor.try_tick() {}
        let mut tasks = tasks.into_iter();
        drop(tasks.next());
        other.set_nonblocking(true).unwrap();
        while other.read(&mut [0; 4096]).is_ok() {}
        other.write_all(&[0; TASKS as usize]).unwrap();
        executor
            .run(async {
                for task in tasks {
                    task.await;
                }
            })
            .await;
    };
    whit::block_on(waiting).unwrap();
}

#[cfg(unix)]
#[test]
fn what_is_always_ready_lets_others_have_their_turn() {
    let (stream, _other) = UnixStream::pair().unwrap();
    let pause = || sleep(Duration::from_millis(1));
    let waiting = async {
        let fd = AsyncFd::new(stream).unwrap();
        let reading = async { while fd.read_with(|_| Ok(())).await.is_ok() {} };
        future::or(pause(), reading).await;
        let writing = async { while fd.write_with(|_| Ok(())).await.is_ok() {} };
        future::or(pause(), writing).await;
    };
    whit::block_on(waiting).unwrap();
}

#[test]
fn a_lean_server_is_told_where_nobody_waits_for_it() {
    let serving = Server::new().serve_lean(Listener::default());
    let error = smol::block_on(serving).unwrap_err();
    assert!(matches!(&error, Error::Reactor { .. }), "{error}");
    assert!(error.to_string().contains("block_on"), "{error}");
}

#[test]
fn a_sleep_can_be_moved_from_a_task_that_ends_with_it() {
    /// A waker that has a timer of its own, as that of a task that nobody keeps else.
    struct Last {
        #[expect(dead_code, reason = "what it does it does when it is dropped")]
        own: Mutex<SendSleep>,
    }
    struct SendSleep {
        #[expect(dead_code, reason = "as above")]
        sleep: Pin<Box<dyn Future<Output = ()>>>,
    }
    #[allow(
        unsafe_code,
        reason = "a waker has to be Send, which the timers of a thread are not"
    )]
    // SAFETY: it stays on this thread.
    unsafe impl Send for SendSleep {}
    impl Wake for Last {
        fn wake(self: Arc<Self>) {}
    }

    let long = || Box::pin(sleep(Duration::from_secs(60)));
    let moving = async {
        let mut own = long();
        assert!(future::poll_once(&mut own).await.is_none());
        let own = Mutex::new(SendSleep { sleep: own });
        let last = Waker::from(Arc::new(Last { own }));
        let mut moved = long();
        let poll = moved.as_mut().poll(&mut Context::from_waker(&last));
        assert!(poll.is_pending());
        drop(last);
        assert!(future::poll_once(&mut moved).await.is_none());
    };
    whit::block_on(moving).unwrap();
}

//! A shutdown includes the sockets: every client is told, and the server ends.

mod support;

use futures_lite::future;
use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};
use support::{CLOSE, Raw, close_payload, echo, frame};
use whit::{CloseCode, Closed, Config, Connection, Error, Listener, Response, Server, testing};

#[test]
fn every_client_is_told_and_the_server_ends() {
    testing::run(Server::new().route("/ws", echo), |server| async move {
        let mut clients = Vec::new();
        for _ in 0..100 {
            clients.push(server.connect("/ws").await.unwrap());
        }
        server.shut_down();
        server.shut_down();
        for client in &mut clients {
            let closed = client.read().await.unwrap_err();
            assert_eq!(
                (closed.code(), closed.reason()),
                (CloseCode::GOING_AWAY, "the server is shutting down")
            );
        }
        drop(clients);
        server.ended().await;
    });
}

#[test]
fn what_was_queued_is_sent_before_the_server_ends() {
    async fn burst(conn: Connection) -> Result<(), Closed> {
        for i in 0..50 {
            conn.write(i.to_string()).await?;
        }
        Err(conn.closed().await)
    }
    testing::run(Server::new().route("/ws", burst), |server| async move {
        let mut raw = Raw::open_holding(&server, "/ws", 10).await;
        assert_eq!(raw.read_frame().await.1, b"0");
        server.shut_down();
        for i in 1..50 {
            assert_eq!(raw.read_frame().await.1, i.to_string().into_bytes());
        }
        assert_eq!(raw.read_close().await.0, 1001);
        raw.send(frame(CLOSE, close_payload(1001, ""))).await;
        raw.expect_end().await;
        drop(raw);
        server.ended().await;
    });
}

#[test]
fn no_one_is_accepted_any_more() {
    testing::run(Server::new().route("/ws", echo), |server| async move {
        let mut half = Raw::new(&server);
        half.send("GET /ws HTTP/1.1\r\n").await;
        let open = server.connect("/ws").await.unwrap();
        server.shut_down();
        // A handshake under way is told so.
        assert!(half.read_answer().await.starts_with("HTTP/1.1 503 "));
        // One that gets the very port for its own end is connected to itself.
        let is_accepted = TcpStream::connect(server.addr())
            .is_ok_and(|stream| stream.local_addr().unwrap() != server.addr());
        assert!(!is_accepted);
        drop((open, half));
        server.ended().await;
    });
}

#[test]
fn clients_and_handlers_that_do_not_part_are_dropped_after_the_drain_timeout() {
    async fn stays(conn: Connection) -> Result<(), Closed> {
        let _conn = conn;
        future::pending().await
    }
    let config = Config::new().drain_timeout(Duration::from_millis(30));
    testing::run(
        Server::new().config(config).route("/ws", stays),
        |server| async move {
            let mut stuck = Raw::open(&server, "/ws").await;
            server.shut_down();
            server.ended().await;
            assert_eq!(stuck.read_close().await.0, 1001);
            stuck.expect_end().await;
        },
    );
}

#[test]
fn a_server_that_is_shut_down_before_it_starts_ends_at_once() {
    let server = Server::new().route("/ws", echo);
    server.shutdown_handle().shut_down();
    server.run("127.0.0.1:0").unwrap();
}

#[test]
fn another_thread_can_shut_it_down() {
    let server = Server::new().route("/ws", echo);
    let shutdown = server.shutdown_handle();
    let thread = std::thread::spawn(move || shutdown.shut_down());
    server.run("127.0.0.1:0").unwrap();
    thread.join().unwrap();
}

#[test]
fn dropping_the_server_ends_its_connections() {
    let (ends, ended) = async_channel::unbounded();
    let server = Server::new().route("/ws", move |conn: Connection| {
        ends.try_send(conn).unwrap();
        future::pending::<Result<(), Closed>>()
    });
    let (conn, _client) = testing::run(server, |server| async move {
        let client = server.connect("/ws").await.unwrap();
        (ended.recv().await.unwrap(), client)
    });
    let closed = future::block_on(conn.closed());
    assert_eq!(
        (closed.code(), closed.reason()),
        (CloseCode::ABNORMAL, "dropped with the server")
    );
    assert!(future::block_on(conn.read()).is_err());
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let error = Server::new().run(addr).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }));
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on {addr}: ")),
        "{error}"
    );
}

#[test]
fn a_server_listens_on_several_addresses() {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut listener = Listener::bind(&[any, any][..]).unwrap();
    let std_listener = TcpListener::bind(any).unwrap();
    listener.join(Listener::from(std_listener));
    let addrs = listener.local_addrs();
    assert_eq!(addrs.len(), 3);

    let server = Server::new().page("/", |_| Response::text("here"));
    let shutdown = server.shutdown_handle();
    let thread = std::thread::spawn(move || {
        use std::io::{Read, Write};
        for addr in addrs {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with("here"), "{answer}");
        }
        shutdown.shut_down();
    });
    smol::block_on(server.serve(listener)).unwrap();
    thread.join().unwrap();
}

#[test]
fn it_serves_beside_the_users_own_tasks() {
    let executor = smol::LocalExecutor::new();
    let server = Server::new().route("/ws", echo);
    let shutdown = server.shutdown_handle();
    let (ticks, ticked) = async_channel::unbounded();
    future::block_on(executor.run(async {
        let serving = executor.spawn(server.serve(Listener::bind("127.0.0.1:0").unwrap()));
        let own = executor.spawn(async move {
            for i in 0..3 {
                smol::Timer::after(Duration::from_millis(1)).await;
                ticks.try_send(i).unwrap();
            }
        });
        own.await;
        assert_eq!(ticked.len(), 3);
        shutdown.shut_down();
        serving.await.unwrap();
    }));
}

#[test]
fn a_client_is_told_the_same_end_ever_after() {
    testing::run(Server::new().route("/ws", echo), |server| async move {
        let mut client = server.connect("/ws").await.unwrap();
        server.shut_down();
        let closed = client.read().await.unwrap_err();
        assert_eq!(closed.code(), CloseCode::GOING_AWAY);
        assert_eq!(client.read().await, Err(closed));
    });
}

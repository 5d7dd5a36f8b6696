//! A proxy that is trusted is believed who its clients are, and nobody else is.
#![cfg(feature = "testing")]

mod support;

use support::{Raw, TEXT, frame, handshake_with};
use whit::{Closed, Config, Connection, Server, testing, testing::TestServer};

/// Tells each client who it is.
async fn who(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.read().await?;
        let addr = conn.request().peer_addr();
        conn.write(addr.map_or_else(|| "nobody".into(), |addr| addr.to_string()))
            .await?;
    }
}

/// The pipes of tests have no address, as unix sockets have none.
fn server(proxies: &[&str]) -> Server {
    let proxies = proxies.iter().map(|proxy| proxy.parse().unwrap());
    let config = Config::new().trusted_proxies(proxies);
    let config = config.max_connections_per_ip(1);
    Server::new().config(config).route("/ws", who)
}

/// A connection for which this was forwarded, and the beginning of the answer.
async fn connect(server: &TestServer, forwarded_for: &str) -> (Raw, String) {
    let mut raw = Raw::new(server);
    let field = format!("X-Forwarded-For: {forwarded_for}\r\n");
    raw.send(handshake_with("/ws", &field)).await;
    let head = raw.read_head().await;
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (raw, status)
}

async fn name(raw: &mut Raw) -> String {
    raw.send(frame(TEXT, "?")).await;
    String::from_utf8(raw.read_frame().await.1).unwrap()
}

#[test]
fn a_trusted_proxy_names_its_clients() {
    testing::run(server(&["unix", "10.0.0.0/8"]), |server| async move {
        let (mut one, status) = connect(&server, "198.51.100.9, 192.0.2.1, 10.0.0.1").await;
        assert_eq!(status, "101");
        assert_eq!(name(&mut one).await, "192.0.2.1:0");
        // Each of them has its share, wherever it says that it comes from.
        let (_, status) = connect(&server, "192.0.2.7, 192.0.2.1").await;
        assert_eq!(status, "429");
        let (mut other, status) = connect(&server, "192.0.2.2").await;
        assert_eq!(status, "101");
        assert_eq!(name(&mut other).await, "192.0.2.2:0");
    });
}

#[test]
fn the_share_of_a_proxied_client_is_given_back() {
    testing::run(server(&["unix"]), |server| async move {
        let (first, status) = connect(&server, "192.0.2.1").await;
        assert_eq!(status, "101");
        drop(first);
        while connect(&server, "192.0.2.1").await.1 != "101" {}
    });
}

#[test]
fn a_proxy_that_tells_nothing_is_taken_for_the_client() {
    testing::run(server(&["unix"]), |server| async move {
        for forwarded_for in ["unknown", "", "192.0.2.1, _hidden"] {
            let (mut raw, status) = connect(&server, forwarded_for).await;
            assert_eq!(status, "101");
            assert_eq!(name(&mut raw).await, "nobody");
        }
    });
}

#[test]
fn anyone_else_is_not_believed() {
    testing::run(server(&["127.0.0.1"]), |server| async move {
        for _ in 0..2 {
            let (mut raw, status) = connect(&server, "192.0.2.1").await;
            assert_eq!(status, "101");
            assert_eq!(name(&mut raw).await, "nobody");
        }
    });
}

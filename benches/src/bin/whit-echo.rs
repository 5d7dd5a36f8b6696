//! whit as its users have it: the library without the command, with `Server::run`, or with `--serve` within `smol::block_on`.
//!
//! The limits are raised to what the cases need. No client is pinged, because no other server here pings.

use std::{io, net::TcpListener, time::Duration};
use whit::{Closed, Config, Connection, Listener, Policy, Server, Topic};

async fn echo(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.write(conn.read().await?).await?;
    }
}

async fn subscribe(conn: Connection, fan: Topic) -> Result<(), Closed> {
    let _subscription = fan.subscribe(&conn, Policy::Close(64));
    Err(conn.closed().await)
}

async fn publish(conn: Connection, fan: Topic) -> Result<(), Closed> {
    loop {
        fan.publish(conn.read().await?);
    }
}

fn main() -> whit::Result<()> {
    let config = Config::new()
        .max_connections(20_000)
        .max_message_bytes(2 * 1024 * 1024)
        .memory_budget_bytes(1024 * 1024 * 1024)
        .ping_interval(None)
        .heartbeat(whit_benches::heartbeat_seconds().map(Duration::from_secs_f64));
    let server = Server::new().config(config);
    let fan = server.hub().topic("fan");
    let published = fan.clone();
    let server = server
        .route("/ws", echo)
        .route("/fan", move |conn| subscribe(conn, fan.clone()))
        .route("/publish", move |conn| publish(conn, published.clone()));

    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let addr = listener.unwrap_or_else(|error: io::Error| whit_benches::fail(error));
    // `run` does not tell which port it has, so one that was free a moment ago is taken.
    println!("listening on ws://{addr}/ws");
    if whit_benches::switch("--serve") {
        smol::block_on(server.serve(Listener::bind(addr)?))
    } else {
        server.run(addr)
    }
}

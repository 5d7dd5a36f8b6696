//! whit as its users have it: the library without the command, with `Server::run`, or with `--serve` within `smol::block_on`.
//!
//! The limits are raised to what the cases need. No client is pinged, because no other server here pings.

use std::{cell::RefCell, io, net::TcpListener, rc::Rc, time::Duration};
use whit::{Closed, Config, Connection, Listener, Server};

async fn echo(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.write(conn.read().await?).await?;
    }
}

type Fan = Rc<RefCell<Vec<Connection>>>;

async fn subscribe(conn: Connection, fan: Fan) -> Result<(), Closed> {
    fan.borrow_mut().push(conn.clone());
    Err(conn.closed().await)
}

async fn publish(conn: Connection, fan: Fan) -> Result<(), Closed> {
    loop {
        let message = conn.read().await?;
        fan.borrow_mut()
            .retain(|subscriber| subscriber.try_write(message.clone()).is_ok());
    }
}

fn main() -> whit::Result<()> {
    let config = Config::new()
        .max_connections(20_000)
        .max_message_bytes(2 * 1024 * 1024)
        .memory_budget_bytes(1024 * 1024 * 1024)
        .ping_interval(None)
        .heartbeat(whit_benches::heartbeat_seconds().map(Duration::from_secs_f64));
    let fan = Fan::default();
    let fan_of_publishers = fan.clone();
    let server = Server::new()
        .config(config)
        .route("/ws", echo)
        .route("/fan", move |conn| subscribe(conn, fan.clone()))
        .route("/publish", move |conn| {
            publish(conn, fan_of_publishers.clone())
        });

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

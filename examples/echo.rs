//! Sends every message back: the least that a server is, to begin your own with.
//!
//!     cargo run --example echo
//!     cargo run --example echo 0.0.0.0:7777     (for the other machines of your network, too)
//!
//! Open <http://127.0.0.1:7777/> and send something: it comes back. Ctrl-C ends it.

use std::env;
use whit::{Closed, Connection, Listener, Response, Server};

async fn echo(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.write(conn.read().await?).await?;
    }
}

fn main() -> whit::Result<()> {
    let addr = env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7777".into());
    let listener = Listener::bind(addr)?;
    for addr in listener.local_addrs() {
        eprintln!("open http://{addr}/");
    }
    let server = Server::new()
        .route("/ws", echo)
        .page("/", |_| Response::html(include_str!("echo.html")));
    whit::block_on(server.serve(listener))?
}

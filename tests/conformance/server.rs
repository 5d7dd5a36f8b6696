//! The echo server that the conformance suite talks to: the library with limits as wide as its cases, which go up to
//! 16 MiB and to 65,536 fragments of a message.

use whit::{Closed, Config, Connection, Listener, Server};

async fn echo(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.write(conn.read().await?).await?;
    }
}

fn main() -> whit::Result<()> {
    let listener = Listener::bind("127.0.0.1:0")?;
    for addr in listener.local_addrs() {
        eprintln!("listening on {addr}");
    }
    let config = Config::new()
        .max_message_bytes(16 * 1024 * 1024)
        .max_fragments(65_536)
        .memory_budget_bytes(256 * 1024 * 1024);
    smol::block_on(
        Server::new()
            .config(config)
            .route("/", echo)
            .serve(listener),
    )
}

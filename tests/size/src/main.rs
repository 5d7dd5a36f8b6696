//! The least that a server on the library is, with what each feature that is on adds.

use whit::{Closed, Connection, Server};

async fn echo(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.write(conn.read().await?).await?;
    }
}

fn main() -> whit::Result<()> {
    let server = Server::new().route("/ws", echo);
    #[cfg(feature = "signals")]
    let server = server.shut_down_on_signals();
    #[cfg(feature = "systemd")]
    let server = server.notify_systemd();
    server.run(option_env!("MINIMAL_ADDR").unwrap_or("127.0.0.1:7777"))
}

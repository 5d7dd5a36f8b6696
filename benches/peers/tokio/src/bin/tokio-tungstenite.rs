//! tokio-tungstenite on one thread: with its defaults, or with `--tuned` buffers of 4 KiB for each connection.

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{Result, protocol::WebSocketConfig},
};

async fn echo(socket: TcpStream, config: WebSocketConfig) -> Result<()> {
    let mut ws = accept_async_with_config(socket, Some(config)).await?;
    while let Some(message) = ws.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            ws.send(message).await?;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut config = WebSocketConfig::default();
    if std::env::args().any(|arg| arg == "--tuned") {
        config = config.read_buffer_size(4096).write_buffer_size(4096);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on ws://{}/ws", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(echo(socket, config));
    }
}

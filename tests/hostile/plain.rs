//! What compare.sh sets beside whit: an echo server as one writes it on async-tungstenite, with its defaults.

use async_tungstenite::accept_async;
use futures_lite::StreamExt;
use smol::net::{TcpListener, TcpStream};

async fn echo(stream: TcpStream) {
    let Ok(mut socket) = accept_async(stream).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        let is_data = message.is_text() || message.is_binary();
        if is_data && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn main() -> std::io::Result<()> {
    smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        eprintln!("listening on ws://{}/ws", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            smol::spawn(echo(stream)).detach();
        }
    })
}

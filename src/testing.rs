//! Tools to test handlers with: a server in the test's own thread, a client, and a pipe in a socket's place.
//!
//! [`run`] serves for as long as a test lasts. The test connects [`Client`]s, in memory or over TCP on a port
//! that the system chose, so that tests can run side by side. A [`Simulation`] is run step by step on a clock of its own.
//!
//! With the feature `testing`:
//!
//! ```toml
//! [dev-dependencies]
//! whit = { version = "0.1", features = ["testing"] }
//! ```
//!
//! # Examples
//!
//! ```
//! use whit::{Closed, Connection, Message, Server, testing};
//!
//! async fn shout(conn: Connection) -> Result<(), Closed> {
//!     loop {
//!         if let Some(text) = conn.read().await?.as_text() {
//!             conn.write(text.to_uppercase()).await?;
//!         }
//!     }
//! }
//!
//! testing::run(Server::new().route("/shout", shout), |server| async move {
//!     let mut client = server.connect("/shout").await.unwrap();
//!     client.write("hello").await.unwrap();
//!     assert_eq!(client.read().await.unwrap(), Message::from("HELLO"));
//! });
//! ```

use crate::{
    CloseCode, Closed, ClosedBy, Listener, Message, Server, ShutdownHandle, block_on, latch::Latch,
    reactor,
};
use async_channel::{Sender, unbounded};
use async_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self,
        error::{Error, ProtocolError},
        handshake::client::generate_key,
        http,
        protocol::{CloseFrame, WebSocketConfig},
    },
};
use futures_lite::{AsyncRead, AsyncWrite, StreamExt, future};
use smol::Async;
use std::{
    fmt,
    net::{SocketAddr, TcpStream},
    rc::Rc,
    time::Duration,
};

pub use crate::{pipe::Pipe, simulation::Simulation};

/// A test that takes longer has a wait without a wake in it.
const HANG_GUARD: Duration = Duration::from_secs(60);

/// How much each direction of an in-memory connection holds, as a socket's buffer would.
const PIPE_BYTES: usize = 64 * 1024;

/// Serves while `test` runs, in this thread, and gives what it gives.
///
/// # Panics
///
/// If the server cannot start, or the test takes longer than 60 s.
#[allow(clippy::panic, reason = "a test fails by a panic")]
pub fn run<T, F>(server: Server, test: impl FnOnce(TestServer) -> F) -> T
where
    F: Future<Output = T>,
{
    let mut listener = Listener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
    let (pipes, incoming) = unbounded();
    let handle = TestServer {
        addr: listener.local_addrs()[0],
        pipes,
        shutdown: server.shutdown_handle(),
        ended: Rc::default(),
    };
    listener.join_pipes(incoming);

    let ended = handle.ended.clone();
    let serving = async {
        if let Err(error) = server.serve(listener).await {
            panic!("the server did not start: {error}");
        }
        ended.set(());
        future::pending().await
    };
    let guarded = async {
        match reactor::timeout(HANG_GUARD, test(handle)).await {
            Some(result) => result,
            None => panic!("the test took longer than {HANG_GUARD:?}"),
        }
    };
    match block_on(future::or(guarded, serving)) {
        Ok(result) => result,
        Err(error) => panic!("{error}"),
    }
}

/// The server of a [`run`].
#[derive(Clone, Debug)]
pub struct TestServer {
    addr: SocketAddr,
    pipes: Sender<Pipe>,
    shutdown: ShutdownHandle,
    ended: Rc<Latch<()>>,
}

impl TestServer {
    /// The address that it listens on for TCP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A connection in memory, with nothing sent on it yet.
    pub fn pipe(&self) -> Pipe {
        self.pipe_holding(PIPE_BYTES)
    }

    /// A connection in memory that holds up to `capacity` bytes in each direction.
    pub fn pipe_holding(&self, capacity: usize) -> Pipe {
        let (client, server) = Pipe::pair(capacity);
        // After the server's end there is no one to take it: the client finds the pipe broken.
        let _ = self.pipes.try_send(server);
        client
    }

    /// Connects a client in memory.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the handshake is not answered with 101.
    pub async fn connect(&self, path: &str) -> Result<Client, Refused> {
        Client::handshake(self.pipe(), path, &[]).await
    }

    /// Connects a client in memory, with these header fields beside those of every handshake.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the handshake is not answered with 101.
    pub async fn connect_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Client, Refused> {
        Client::handshake(self.pipe(), path, headers).await
    }

    /// Connects a client over TCP.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the handshake is not answered with 101, or there is no TCP connection.
    pub async fn connect_tcp(&self, path: &str) -> Result<Client, Refused> {
        let stream = Async::<TcpStream>::connect(self.addr)
            .await
            .map_err(Refused::without_answer)?;
        Client::handshake(stream, path, &[]).await
    }

    /// Shuts the server down, as [`ShutdownHandle::shut_down`] does.
    pub fn shut_down(&self) {
        self.shutdown.shut_down();
    }

    /// Waits until the server has ended. That takes it up to [`close_timeout`](crate::Config::close_timeout) while a client that it has
    /// answered, or closed, is still held here.
    pub async fn ended(&self) {
        self.ended.wait().await;
    }
}

/// What a client got in place of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status of the answer, or 0 if there was none.
    pub status: u16,
    /// The text of the answer, or what happened instead of one.
    pub body: String,
}

impl Refused {
    fn without_answer(error: impl ToString) -> Self {
        Self {
            status: 0,
            body: error.to_string(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with {}: {}", self.status, self.body)
    }
}

impl std::error::Error for Refused {}

trait ByteStream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream for S {}

/// A WebSocket client. It answers pings while it reads.
pub struct Client {
    frames: WebSocketStream<Box<dyn ByteStream>>,
    subprotocol: Option<String>,
    closed: Option<Closed>,
}

impl Client {
    async fn handshake(
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refused> {
        let mut request = http::Request::get(format!("ws://test{path}"))
            .header("Host", "test")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).map_err(Refused::without_answer)?;
        let config = WebSocketConfig::default().read_buffer_size(4 * 1024);
        let stream: Box<dyn ByteStream> = Box::new(stream);
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((frames, answer)) => {
                let subprotocol = answer
                    .headers()
                    .get("Sec-WebSocket-Protocol")
                    .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                Ok(Self {
                    frames,
                    subprotocol,
                    closed: None,
                })
            }
            Err(Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err(Refused {
                    status: answer.status().as_u16(),
                    body: String::from_utf8_lossy(body).into_owned(),
                })
            }
            Err(error) => Err(Refused::without_answer(error)),
        }
    }

    /// The subprotocol that the server chose, or `None`.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// [`Closed`] once the connection is closed, and ever after: [`by`](Closed::by) is then seen from this client's side.
    pub async fn read(&mut self) -> Result<Message, Closed> {
        if let Some(closed) = &self.closed {
            return Err(closed.clone());
        }
        let closed = loop {
            match self.frames.next().await {
                Some(Ok(tungstenite::Message::Close(frame))) => break closed_by_server(frame),
                Some(Ok(message)) => {
                    if let Some(message) = Message::from_wire(&message) {
                        return Ok(message);
                    }
                }
                Some(Err(error)) => break lost(&error),
                None => break Closed::lost(ClosedBy::Peer, "the connection has ended"),
            }
        };
        self.closed = Some(closed.clone());
        Err(closed)
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// [`Closed`] if it cannot be sent any more.
    pub async fn write(&mut self, message: impl Into<Message>) -> Result<(), Closed> {
        self.send(message.into().into_wire()).await
    }

    /// Sends a Ping.
    ///
    /// # Errors
    ///
    /// [`Closed`] if it cannot be sent any more.
    pub async fn ping(&mut self) -> Result<(), Closed> {
        self.send(tungstenite::Message::Ping(Default::default()))
            .await
    }

    /// Sends a Close and waits for the server's. Messages that come before it are thrown away.
    ///
    /// # Errors
    ///
    /// [`Closed`] with [`ABNORMAL`](CloseCode::ABNORMAL) if the connection ends without one.
    pub async fn close(&mut self, code: CloseCode, reason: &str) -> Result<Closed, Closed> {
        let frame = CloseFrame {
            code: u16::from(code).into(),
            reason: reason.into(),
        };
        self.send(tungstenite::Message::Close(Some(frame))).await?;
        loop {
            match self.read().await {
                Ok(_) => {}
                Err(closed) if closed.is_clean() => return Ok(closed),
                Err(closed) => return Err(closed),
            }
        }
    }

    async fn send(&mut self, message: tungstenite::Message) -> Result<(), Closed> {
        self.frames
            .send(message)
            .await
            .map_err(|error| lost(&error))
    }
}

fn closed_by_server(frame: Option<CloseFrame>) -> Closed {
    let (code, reason) = match &frame {
        Some(frame) => (
            CloseCode::from_wire(frame.code.into()),
            frame.reason.as_str(),
        ),
        None => (CloseCode::NO_STATUS, ""),
    };
    Closed::new(ClosedBy::Peer, code, reason)
}

fn lost(error: &Error) -> Closed {
    let by = match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => {
            ClosedBy::Peer
        }
        _ => ClosedBy::Local,
    };
    Closed::lost(by, &error.to_string())
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("subprotocol", &self.subprotocol)
            .finish_non_exhaustive()
    }
}

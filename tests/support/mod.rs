//! A raw client of hand-made bytes, to send what no library would, and to see every frame that comes.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its part of this"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and codes are made to fit"
)]

pub mod seeds;

use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use std::{process::Command, time::Duration};
use whit::{
    Closed, Connection, Stats, StatsHandle,
    testing::{Pipe, TestServer},
};

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CONTINUATION: u8 = 0;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The handler that most tests talk to.
pub async fn echo(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.write(conn.read().await?).await?;
    }
}

/// Waits until the counters are as they should be.
pub async fn until(stats: &StatsHandle, reached: impl Fn(&Stats) -> bool) {
    while !reached(&stats.snapshot()) {
        smol::Timer::after(Duration::from_millis(1)).await;
    }
}

/// What to call for a program: itself, after what `WHIT_RUNNER` says if it is for another processor than this machine's.
pub fn command_line(program: &str) -> Vec<String> {
    let runner = std::env::var("WHIT_RUNNER").unwrap_or_default();
    let words = runner.split_whitespace().chain([program]);
    words.map(str::to_owned).collect()
}

pub fn command(program: &str) -> Command {
    let words = command_line(program);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// A handshake as a client that is not a browser sends it.
pub fn handshake(path: &str) -> String {
    handshake_with(path, "")
}

/// A handshake with more header lines, each with its line end.
pub fn handshake_with(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// One frame as a client sends it, masked.
pub fn frame(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame_with(0x80 | opcode, payload)
}

/// One frame that more are to follow.
pub fn fragment(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame_with(opcode, payload)
}

/// One masked frame with this first byte.
pub fn frame_with(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let payload = payload.as_ref();
    let mut bytes = vec![first];
    match payload.len() {
        len @ ..=125 => bytes.push(0x80 | len as u8),
        len @ ..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// The payload of a Close.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.as_bytes());
    payload
}

/// A byte stream that frames are written to and read from.
pub struct Raw<S = Pipe> {
    pub stream: S,
}

impl Raw {
    /// A connection in memory on which nothing was sent yet.
    pub fn new(server: &TestServer) -> Self {
        Self {
            stream: server.pipe(),
        }
    }

    /// A connection whose handshake is done.
    pub async fn open(server: &TestServer, path: &str) -> Self {
        Self::open_holding(server, path, 64 * 1024).await
    }

    /// The same, over a pipe that holds no more than `capacity` bytes in each direction.
    pub async fn open_holding(server: &TestServer, path: &str, capacity: usize) -> Self {
        let mut raw = Self {
            stream: server.pipe_holding(capacity),
        };
        raw.send(handshake(path)).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }
}

impl<S: AsyncWrite + Unpin> Raw<S> {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }
}

impl<S: AsyncRead + Unpin> Raw<S> {
    /// Reads up to the empty line that ends an HTTP head.
    pub async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads a whole answer, up to the end of the stream.
    pub async fn read_answer(&mut self) -> String {
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The next frame: its opcode and payload. Servers send whole frames without a mask.
    pub async fn read_frame(&mut self) -> (u8, Vec<u8>) {
        self.next_frame()
            .await
            .expect("a frame, not the end of the stream")
    }

    /// The next frame, or `None` at the end of the stream.
    pub async fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        if self.stream.read(&mut head[..1]).await.unwrap() == 0 {
            return None;
        }
        self.stream.read_exact(&mut head[1..]).await.unwrap();
        assert_eq!(
            head[0] & 0xf0,
            0x80,
            "a server's frames are final and without extension bits"
        );
        let len = match head[1] {
            126 => {
                let mut len = [0; 2];
                self.stream.read_exact(&mut len).await.unwrap();
                u16::from_be_bytes(len) as usize
            }
            127 => {
                let mut len = [0; 8];
                self.stream.read_exact(&mut len).await.unwrap();
                u64::from_be_bytes(len) as usize
            }
            len => {
                assert_eq!(len & 0x80, 0, "a server's frames are not masked");
                len as usize
            }
        };
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).await.unwrap();
        Some((head[0] & 0x0f, payload))
    }

    /// Reads a Close: its code, or 1005 for none, and its reason.
    pub async fn read_close(&mut self) -> (u16, String) {
        let (opcode, payload) = self.read_frame().await;
        assert_eq!(
            opcode, CLOSE,
            "a Close, not opcode {opcode} with {payload:?}"
        );
        match payload.split_first_chunk() {
            Some((code, reason)) => (
                u16::from_be_bytes(*code),
                String::from_utf8(reason.to_vec()).unwrap(),
            ),
            None => (1005, String::new()),
        }
    }

    /// Asserts that the server has nothing more to say and ended the stream.
    pub async fn expect_end(&mut self) {
        let frame = self.next_frame().await;
        assert_eq!(frame, None, "the end of the stream");
    }
}

//! The limit: a bare epoll loop that echoes, with no more system calls and no more work than that takes.
//!
//! One thread, edge-triggered. What is there is read in one call, into one scratch that all connections share (a short read
//! means that there is no more); frames are unmasked and framed anew where they are; all answers go out in one call.
//!
//! An answer is sent when its whole frame is there, as a server with messages has to. A frame of which only a part has come
//! goes on in a buffer of its own, out of a pool: what came of it first is copied there, the rest is read into its place.
//!
//! At `/fan` all is sent that comes from `/publish`; at any other path it is echoed. `--heartbeat 1s` sends the text `heartbeat` to all.
//! What a server needs beside that is not here: no limits, no timeouts, no queues, no checks of what clients send.

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    io::Errno,
    net::{SocketFlags, accept_with, sockopt::set_tcp_nodelay},
};
use sha1::{Digest, Sha1};
use std::{
    io::{self, ErrorKind, IoSliceMut, Read, Write},
    mem,
    net::{TcpListener, TcpStream},
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};
use whit_benches::{
    HEARTBEAT,
    frame::{self, Header},
};

const SCRATCH: usize = 256 * 1024;

#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// Has sent no request yet.
    New,
    Echo,
    Fan,
    Publish,
}

struct Conn {
    socket: TcpStream,
    role: Role,
    /// A frame that has come in part: `filled` bytes of it, of `wanted`, or 0 while its header is not complete.
    rest: Vec<u8>,
    filled: usize,
    wanted: usize,
    /// What the kernel has not taken yet: from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
}

struct Server {
    listener: TcpListener,
    epoll: OwnedFd,
    /// By file descriptor.
    conns: Vec<Option<Conn>>,
    /// Buffers for frames that come in parts.
    pool: Vec<Vec<u8>>,
    scratch: Vec<u8>,
}

/// What is to be done with a connection after its frames.
struct Answers {
    /// Where they are, one after the other.
    bytes: Range<usize>,
    /// How much of the buffer was whole frames.
    taken: usize,
    closing: bool,
}

/// Makes the answers to all whole frames at the beginning of `buf`, where they are: an answer is four bytes shorter than
/// what it answers, so the first stays in its place and the others move up to it.
fn answer(buf: &mut [u8]) -> Answers {
    let mut answers = Answers {
        bytes: 0..0,
        taken: 0,
        closing: false,
    };
    while let Some(header) = Header::parse(&buf[answers.taken..]) {
        let start = answers.taken;
        let end = start + header.total();
        if end > buf.len() {
            break;
        }
        answers.taken = end;
        if header.first == frame::PONG {
            continue;
        }
        if answers.bytes.is_empty() {
            answers.bytes = start + 4..start + 4;
        }
        let to = answers.bytes.end;
        let head = header.head - 4;
        buf.copy_within(start..start + head, to);
        buf[to + 1] &= 0x7f;
        if header.first == frame::PING {
            buf[to] = frame::PONG;
        }
        if to + head != start + header.head {
            buf.copy_within(start + header.head..end, to + head);
        }
        let to_end = to + head + header.len;
        frame::mask(&mut buf[to + head..to_end], header.mask);
        answers.bytes.end = to_end;
        if header.first == frame::CLOSE {
            answers.closing = true;
            break;
        }
    }
    answers
}

impl Conn {
    /// Sends, and keeps what is not taken.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = if self.unsent.is_empty() {
            written(self.socket.write(bytes))?
        } else {
            0
        };
        self.unsent.extend(&bytes[written..]);
        Ok(())
    }

    /// Sends a part of a buffer, and keeps the buffer while not all is taken; gives it back otherwise.
    fn send_own(&mut self, mut buf: Vec<u8>, bytes: Range<usize>) -> io::Result<Option<Vec<u8>>> {
        if !self.unsent.is_empty() {
            self.unsent.extend(&buf[bytes]);
            return Ok(Some(buf));
        }
        let written = written(self.socket.write(&buf[bytes.clone()]))?;
        if written == bytes.len() {
            return Ok(Some(buf));
        }
        buf.truncate(bytes.end);
        self.sent = bytes.start + written;
        self.unsent = buf;
        Ok(None)
    }

    /// Sends what was kept; gives its buffer back when all is taken.
    fn flush(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.sent += written(self.socket.write(&self.unsent[self.sent..]))?;
        if self.sent < self.unsent.len() {
            return Ok(None);
        }
        self.sent = 0;
        Ok(Some(mem::take(&mut self.unsent)))
    }
}

/// How much was written; nothing, where the kernel takes no more now.
fn written(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

fn ended() -> io::Error {
    ErrorKind::UnexpectedEof.into()
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        let socket = match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        {
            Err(Errno::AGAIN | Errno::CONNABORTED) => return Ok(()),
            socket => TcpStream::from(socket?),
        };
        let fd = socket.as_raw_fd() as usize;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(fd as u64),
            flags,
        )?;
        if self.conns.len() <= fd {
            self.conns.resize_with(fd + 1, || None);
        }
        self.conns[fd] = Some(Conn {
            socket,
            role: Role::New,
            rest: Vec::new(),
            filled: 0,
            wanted: 0,
            unsent: Vec::new(),
            sent: 0,
        });
        Ok(())
    }

    /// Reads what is there, and answers it. An error is the connection's end.
    fn read(&mut self, fd: usize) -> io::Result<()> {
        loop {
            let Some(conn) = &mut self.conns[fd] else {
                return Ok(());
            };
            // The rest of a frame goes where its beginning is; what comes after it goes into the scratch.
            let (room, kept) = if conn.wanted > 0 {
                (conn.wanted - conn.filled, 0)
            } else {
                self.scratch[..conn.filled].copy_from_slice(&conn.rest[..conn.filled]);
                (0, mem::take(&mut conn.filled))
            };
            let result = if room > 0 {
                conn.socket.read_vectored(&mut [
                    IoSliceMut::new(&mut conn.rest[conn.filled..conn.wanted]),
                    IoSliceMut::new(&mut self.scratch),
                ])
            } else {
                conn.socket.read(&mut self.scratch[kept..])
            };
            let count = match result {
                Ok(0) => return Err(ended()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    conn.filled += kept;
                    return Ok(());
                }
                result => result?,
            };
            let drained = count < room + SCRATCH - kept;

            if room > 0 {
                conn.filled += count.min(room);
                if conn.filled < conn.wanted {
                    return Ok(());
                }
                let mut buf = mem::take(&mut conn.rest);
                let answers = answer(&mut buf[..conn.wanted]);
                (conn.filled, conn.wanted) = (0, 0);
                let role = conn.role;
                if role == Role::Echo {
                    self.pool.extend(conn.send_own(buf, answers.bytes)?);
                } else {
                    self.pass_on(fd, role, &buf[answers.bytes])?;
                    self.pool.push(buf);
                }
                if answers.closing {
                    return Err(ended());
                }
            }
            self.take(fd, kept + count - count.min(room))?;
            if drained {
                return Ok(());
            }
        }
    }

    /// Takes the first `len` bytes of the scratch.
    fn take(&mut self, fd: usize, len: usize) -> io::Result<()> {
        let mut scratch = mem::take(&mut self.scratch);
        let result = self.take_from(fd, &mut scratch[..len]);
        self.scratch = scratch;
        result
    }

    fn take_from(&mut self, fd: usize, mut bytes: &mut [u8]) -> io::Result<()> {
        let Some(conn) = &mut self.conns[fd] else {
            return Ok(());
        };
        if conn.role == Role::New {
            let Some(end) = find(bytes, b"\r\n\r\n") else {
                return keep(conn, &mut self.pool, bytes);
            };
            let (head, rest) = bytes.split_at_mut(end + 4);
            conn.role = upgrade(conn, head)?;
            bytes = rest;
        }
        let role = conn.role;
        let answers = answer(bytes);
        if !answers.bytes.is_empty() {
            self.pass_on(fd, role, &bytes[answers.bytes])?;
        }
        if answers.closing {
            return Err(ended());
        }
        match &mut self.conns[fd] {
            Some(conn) if answers.taken < bytes.len() => {
                keep(conn, &mut self.pool, &bytes[answers.taken..])
            }
            _ => Ok(()),
        }
    }

    /// Sends framed messages to whom they are for.
    fn pass_on(&mut self, fd: usize, role: Role, bytes: &[u8]) -> io::Result<()> {
        // A Close is answered, whoever sent it.
        if role != Role::Publish || bytes.first() == Some(&frame::CLOSE) {
            return self.conns[fd]
                .as_mut()
                .map_or(Ok(()), |conn| conn.send(bytes));
        }
        self.send_to_all(bytes, |role| role == Role::Fan);
        Ok(())
    }

    fn send_to_all(&mut self, bytes: &[u8], to: impl Fn(Role) -> bool) {
        for slot in &mut self.conns {
            if let Some(conn) = slot.as_mut().filter(|conn| to(conn.role)) {
                if conn.send(bytes).is_err() {
                    *slot = None;
                }
            }
        }
    }

    fn handle(&mut self, event: epoll::Event) {
        let fd = event.data.u64() as usize;
        let flags = event.flags;
        let mut result = Ok(());
        if let Some(conn) = &mut self.conns[fd] {
            if !conn.unsent.is_empty() {
                result = conn
                    .flush()
                    .map(|buf| self.pool.extend(buf.filter(|buf| buf.len() > SCRATCH)));
            }
        }
        if result.is_ok()
            && flags
                .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
        {
            result = self.read(fd);
        }
        if result.is_err() {
            // Closes the socket, which also takes it out of the epoll.
            self.conns[fd] = None;
        }
    }
}

/// Keeps a frame that has come in part.
fn keep(conn: &mut Conn, pool: &mut Vec<Vec<u8>>, bytes: &[u8]) -> io::Result<()> {
    conn.wanted = match Header::parse(bytes) {
        Some(header) if conn.role != Role::New => header.total(),
        _ => 0,
    };
    if conn.rest.is_empty() && conn.wanted > 0 {
        conn.rest = pool.pop().unwrap_or_default();
    }
    if conn.rest.len() < conn.wanted.max(bytes.len()) {
        conn.rest.resize(conn.wanted.max(bytes.len()), 0);
    }
    conn.rest[..bytes.len()].copy_from_slice(bytes);
    conn.filled = bytes.len();
    Ok(())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn upgrade(conn: &mut Conn, head: &[u8]) -> io::Result<Role> {
    const KEY: &[u8] = b"\r\nSec-WebSocket-Key: ";
    let start = find(head, KEY).ok_or_else(ended)? + KEY.len();
    let key = head.get(start..start + 24).ok_or_else(ended)?;
    let digest = Sha1::new_with_prefix(key)
        .chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    let accept = data_encoding::BASE64.encode(&digest);
    conn.send(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .as_bytes(),
    )?;
    Ok(if head.starts_with(b"GET /fan ") {
        Role::Fan
    } else if head.starts_with(b"GET /publish ") {
        Role::Publish
    } else {
        Role::Echo
    })
}

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    // Inherited by all that it accepts.
    set_tcp_nodelay(&listener, true)?;
    println!("listening on ws://{}/ws", listener.local_addr()?);

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let of_listener = listener.as_raw_fd() as u64;
    epoll::add(
        &epoll,
        &listener,
        epoll::EventData::new_u64(of_listener),
        epoll::EventFlags::IN,
    )?;
    let mut server = Server {
        listener,
        epoll,
        conns: Vec::new(),
        pool: Vec::new(),
        scratch: vec![0; SCRATCH],
    };

    let period = whit_benches::heartbeat_seconds().map(Duration::from_secs_f64);
    let beat = frame::frame(frame::TEXT, HEARTBEAT, None);
    let mut due = period.map(|period| Instant::now() + period);
    let mut events = Vec::with_capacity(1024);
    loop {
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap_or_default());
        match epoll::wait(&server.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        for event in events.drain(..) {
            if event.data.u64() == of_listener {
                server.accept()?;
            } else {
                server.handle(event);
            }
        }
        if let (Some(at), Some(period)) = (due, period) {
            if Instant::now() >= at {
                server.send_to_all(&beat, |role| role != Role::New);
                due = Some(at + period);
            }
        }
    }
}

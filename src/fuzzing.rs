//! The insides that the targets in `fuzz/` reach: a request and its answer, and the frames after a handshake. No other build
//! has this.

use crate::{
    Config, Message, Request, Response,
    budget::{Account, Budget, Charge},
    connection::Handler,
    decoder::Incoming,
    framing::FrameLimits,
    handshake::{self, Verdict},
    pipe::Pipe,
    request::{self, Unread},
    route::Routes,
    socket::Socket,
    wire::{Fault, FrameReader, FrameWriter},
};
use bytes::Bytes;
use futures_lite::{
    AsyncWriteExt,
    future::{self, poll_fn},
};
use std::{ops::ControlFlow, pin::pin, rc::Rc};

/// What a request got.
#[derive(Debug)]
pub struct Answer {
    /// The request, if its head was one.
    pub request: Option<Request>,
    /// Whether the connection is a WebSocket now.
    pub upgraded: bool,
    /// All that is sent; `None` if the client went away first.
    pub bytes: Option<Vec<u8>>,
    /// What was read after the head.
    pub rest: Vec<u8>,
}

/// Answers a request that arrives in these reads, before the end of the stream. There are a route at `/ws`, a page at
/// `/page`, and both at `/both`.
pub fn answer<'a>(reads: impl IntoIterator<Item = &'a [u8]>, config: &Config) -> Answer {
    let handler: Handler = Rc::new(|_| Box::pin(future::ready(Ok(()))));
    let page = Rc::new(|request: &Request| Response::text(request.path().to_owned()));
    let mut routes = Routes::default();
    routes.handlers.add("/ws", handler.clone());
    routes.handlers.add("/both", handler);
    routes.pages.add("/page", page.clone());
    routes.pages.add("/both", page);

    let mut charge = Charge::new(account().1);
    let (client, server) = Pipe::pair(usize::MAX);
    let socket = Socket::pipe(server);
    let reading = request::read(&socket, None, config.max_head_bytes, &mut charge);
    let (mut request, rest) = match feed(client, reads, reading) {
        Ok(read) => read,
        Err(unread) => {
            let bytes = match unread {
                Unread::Refused(refusal) => Some(Response::from(&refusal).into_bytes(true)),
                Unread::Gone => None,
            };
            return Answer {
                request: None,
                upgraded: false,
                bytes,
                rest: Vec::new(),
            };
        }
    };
    let with_body = request.method() != "HEAD";
    let (upgraded, bytes) = match handshake::judge(&mut request, &routes, config) {
        Ok(Verdict::Upgrade { answer, .. }) => (true, answer.into_bytes()),
        Ok(Verdict::Answer(response) | Verdict::Guarded(response)) => {
            (false, response.into_bytes(with_body))
        }
        Err(refusal) => (false, Response::from(&refusal).into_bytes(with_body)),
    };
    Answer {
        request: Some(request),
        upgraded,
        bytes: Some(bytes),
        rest,
    }
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message.
    Message(Message),
    /// A ping, with its payload.
    Ping(Bytes),
    /// A pong.
    Pong,
}

/// How the stream of frames ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the client's Close: its code, or 1005 for none, and its reason.
    Closed(u16, String),
    /// The client broke a rule, and is told with this code.
    Violation(u16),
    /// Without a word.
    Lost,
}

/// Reads the frames that arrive in these reads, the first with the handshake, before the end of the stream. With `join_all` those
/// go through tungstenite, too, that do not have to.
///
/// # Panics
///
/// If something is still charged to the connection when its reader is gone.
pub fn read_frames<'a>(
    reads: impl IntoIterator<Item = &'a [u8]>,
    max_message_bytes: usize,
    max_fragments: usize,
    join_all: bool,
) -> (Vec<Event>, End) {
    let limits = FrameLimits {
        max_message_bytes,
        max_fragments,
    };
    let (budget, account) = account();
    let (client, server) = Pipe::pair(usize::MAX);
    let mut reads = reads.into_iter();
    let already_read = reads.next().unwrap_or_default().to_vec();
    let reading = async {
        let writer = FrameWriter::new(Socket::pipe(server), Rc::default(), account.clone());
        let mut frames = FrameReader::new(Rc::new(writer), already_read, limits, account.clone());
        if join_all {
            frames.join_all();
        }
        let mut events = Vec::new();
        let mut closed = None;
        let end = loop {
            let mut take = |incoming| {
                events.push(match incoming {
                    Incoming::Message(message) => Event::Message(message),
                    Incoming::Ping(payload) => Event::Ping(payload),
                    Incoming::Pong => Event::Pong,
                    Incoming::Close { code, reason } => {
                        closed = Some(End::Closed(code.into(), reason));
                        return ControlFlow::Break(());
                    }
                });
                ControlFlow::Continue(())
            };
            let read = poll_fn(|cx| frames.poll_read(cx, &mut take)).await;
            if let Some(end) = closed {
                break end;
            }
            match read {
                Ok(()) => {}
                Err(Fault::Violation(closed)) => break End::Violation(closed.code().into()),
                Err(Fault::Lost(_)) => break End::Lost,
            }
        };
        (events, end)
    };
    let read = feed(client, reads, reading);
    assert_eq!(budget.used(), 0, "what was charged is given back");
    drop(account);
    read
}

/// A budget that is never short, and an account of it.
fn account() -> (Rc<Budget>, Rc<Account>) {
    let budget = Rc::<Budget>::default();
    budget.set_limit(usize::MAX);
    let account = budget.open(0);
    let account = account.unwrap_or_else(|| unreachable!("there is room"));
    (budget, account)
}

/// Runs `reading` to its end. Each read finds what is written once it waits.
fn feed<'a, T>(
    mut client: Pipe,
    reads: impl IntoIterator<Item = &'a [u8]>,
    reading: impl Future<Output = T>,
) -> T {
    let mut reading = pin!(reading);
    future::block_on(async {
        for read in reads {
            if let Some(done) = future::poll_once(&mut reading).await {
                return done;
            }
            // It has room for everything, and the other end stays.
            let _ = client.write_all(read).await;
        }
        drop(client);
        let done = future::poll_once(&mut reading).await;
        done.unwrap_or_else(|| unreachable!("the end of the stream ends it"))
    })
}

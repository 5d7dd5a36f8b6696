//! The way of an accepted socket to its connection, or to the answer that it gets in place of one.

use crate::{
    budget::Charge,
    config::Config,
    connection::{self, Handler},
    error::Refusal,
    framing::FrameLimits,
    handshake::{self, Verdict},
    house::{House, Seat},
    link::Link,
    reactor,
    request::{self, Peer, Request, Unread},
    socket::Socket,
    wire::{FrameReader, FrameWriter},
};
use futures_lite::future;
use std::{pin::pin, rc::Rc};

/// Runs one accepted socket from its request to its end.
pub(crate) fn admit(seat: Seat, socket: Socket) -> impl Future<Output = ()> {
    let scratch = seat.house.scratch.clone();
    let frames_out = Rc::new(FrameWriter::new(socket, scratch, seat.account.clone()));
    // An async function would have room for its arguments twice.
    async move {
        let Some((admitted, _charge)) = shake_hands(&seat, frames_out.socket()).await else {
            return;
        };
        connect(&seat, frames_out, admitted).await;
    }
}

/// Makes a connection of a client that was let in. What it is made of has no room in its future.
fn connect<'a>(
    seat: &'a Seat,
    frames_out: Rc<FrameWriter>,
    admitted: Admitted,
) -> impl Future<Output = ()> + use<'a> {
    let (house, config, account) = (&seat.house, &*seat.config, &seat.account);
    let limits = FrameLimits {
        max_message_bytes: config.max_message_bytes,
        max_fragments: config.max_fragments,
    };
    let (writer, account) = (frames_out.clone(), account.clone());
    let frames_in = FrameReader::new(writer, admitted.already_read, limits, account.clone());
    let link = Link::new(&house.links, &frames_out, account, config);
    let open = house.links.enter(Rc::new(link));
    if house.shutdown.is_set() {
        House::close_going_away(open.link());
    }
    connection::run(
        open,
        admitted.request,
        frames_in,
        frames_out,
        &admitted.handler,
        config,
    )
}

/// A client that is let in.
struct Admitted {
    request: Request,
    /// What came behind the request.
    already_read: Vec<u8>,
    handler: Handler,
}

/// What a request leads to, and the answer to it.
enum Outcome {
    Welcome(Admitted, Charge, String),
    Answer(Vec<u8>, Charge),
    Gone,
}

/// Reads a request and answers it. `None` if that was all. The charge is for the request.
async fn shake_hands(seat: &Seat, socket: &Socket) -> Option<(Admitted, Charge)> {
    let config = &*seat.config;
    // For the head, or the answer to it.
    let mut charge = Charge::new(seat.account.clone());
    let head = read_head(seat, socket, &mut charge).await;
    let (admitted, mut charge, welcome) = match judge(seat, head, charge) {
        Outcome::Welcome(admitted, charge, words) => (admitted, charge, words),
        Outcome::Answer(bytes, _charge) => {
            let answering = future::or(answer(socket, &bytes, config), seat.account.shed());
            // Allocated, or every connection's future would be larger all its life.
            Box::pin(answering).await;
            return None;
        }
        Outcome::Gone => return None,
    };
    let written = write_all(socket, welcome.as_bytes(), config).await;
    // Who reads what came behind the request has that charged.
    charge.set(admitted.request.allocated());
    written.then_some((admitted, charge))
}

type Head = Result<(Request, Vec<u8>), Unread>;

fn judge(seat: &Seat, head: Head, mut charge: Charge) -> Outcome {
    let house = &seat.house;
    let bytes = match head {
        Ok((mut request, already_read)) => {
            let judged = seat
                .identify(&mut request)
                .and_then(|()| handshake::judge(&mut request, &house.routes, &seat.config));
            match judged {
                Ok(Verdict::Upgrade { handler, answer }) => {
                    let admitted = Admitted {
                        request,
                        already_read,
                        handler,
                    };
                    return Outcome::Welcome(admitted, charge, answer);
                }
                Ok(Verdict::Answer(response)) => {
                    log::debug!(
                        "{} {} {}",
                        Peer(seat.peer()),
                        response.status(),
                        request.shown_path()
                    );
                    response.into_bytes(request.method() != "HEAD")
                }
                Ok(Verdict::Guarded(response)) => {
                    house.stats.count_guarded(response.status());
                    let words = response.words().unwrap_or("the guard does not let it in");
                    log::info!(
                        "{} refused with {}: {}",
                        Peer(seat.peer()),
                        response.status(),
                        words.escape_debug()
                    );
                    response.into_bytes(true)
                }
                Err(refusal) => house.refusal(seat.peer(), &refusal, request.method() != "HEAD"),
            }
        }
        Err(Unread::Refused(refusal)) => house.refusal(seat.peer(), &refusal, true),
        Err(Unread::Gone) => {
            log::debug!(
                "{} went away before its request was complete",
                Peer(seat.peer())
            );
            return Outcome::Gone;
        }
    };
    charge.set(bytes.capacity());
    Outcome::Answer(bytes, charge)
}

/// Reads a request, with all that can keep one from it.
async fn read_head(seat: &Seat, socket: &Socket, charge: &mut Charge) -> Head {
    let house = &seat.house;
    let config = &seat.config;
    let reading = request::read(socket, seat.peer(), config.max_head_bytes, charge);
    let mut reading = pin!(reading);
    // Mostly it is there at once.
    if let Some(read) = future::poll_once(reading.as_mut()).await {
        return read;
    }
    let read = reactor::timeout(config.handshake_timeout, reading);
    let refused = async {
        house.shutdown.wait().await;
        Refusal::ShuttingDown
    };
    let refused = future::or(refused, async {
        seat.account.shed().await;
        Refusal::OutOfMemory
    });
    let waiting = future::or(
        async {
            let read = read.await;
            read.unwrap_or(Err(Unread::Refused(Refusal::Timeout)))
        },
        async { Err(Unread::Refused(refused.await)) },
    );
    // Allocated for those who wait only.
    Box::pin(waiting).await
}

pub(crate) async fn answer(socket: &Socket, bytes: &[u8], config: &Config) {
    if write_all(socket, bytes, config).await {
        reactor::timeout(config.close_timeout, socket.end()).await;
    }
}

/// Whether all was written, with `write_timeout` for each step.
async fn write_all(socket: &Socket, mut bytes: &[u8], config: &Config) -> bool {
    while !bytes.is_empty() {
        let written = match future::poll_once(socket.write(bytes)).await {
            Some(written) => Some(written),
            // Allocated for those who wait only.
            None => Box::pin(reactor::timeout(config.write_timeout, socket.write(bytes))).await,
        };
        match written {
            Some(Ok(count)) => bytes = &bytes[count..],
            Some(Err(_)) | None => return false,
        }
    }
    true
}

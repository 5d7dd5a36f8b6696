//! The server: accept, limits, spawn, drain.

use crate::{
    budget::{Account, Budget, Charge},
    close::{CloseCode, Closed, ClosedBy},
    config::Config,
    connection::{self, Connection, Handler},
    error::{Refusal, Result},
    framing::FrameLimits,
    gate::Gate,
    handshake::{self, Verdict},
    heartbeat,
    latch::Latch,
    link::{Link, Links},
    reactor::{self, block_on},
    request::{self, Peer, Request, Unread},
    response::Response,
    route::Routes,
    scratch::Scratch,
    socket::{Incoming, Listener, Socket},
    stats::StatsHandle,
    wire::{FrameReader, FrameWriter},
};
#[cfg(feature = "signals")]
use crate::{error::Error, signals::Signals};
use event_listener::Event;
use futures_lite::future::{self, poll_fn};
use smol::LocalExecutor;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    error, fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

/// A WebSocket server: handlers and pages at their paths, and the limits that all clients share.
///
/// It does nothing until [`run`](Self::run) or [`serve`](Self::serve). All of it happens on the thread that
/// calls them.
///
/// # Examples
///
/// ```no_run
/// use whit::{Closed, Connection, Server};
///
/// async fn echo(conn: Connection) -> Result<(), Closed> {
///     loop {
///         conn.write(conn.read().await?).await?;
///     }
/// }
///
/// fn main() -> whit::Result<()> {
///     Server::new().route("/ws", echo).run("127.0.0.1:7777")
/// }
/// ```
#[derive(Debug, Default)]
pub struct Server {
    config: Config,
    routes: Routes,
    shutdown: ShutdownHandle,
    #[cfg(feature = "signals")]
    heeds_signals: bool,
    stats: StatsHandle,
}

impl Server {
    /// A server with the default [`Config`], and nothing at any path.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the limits and times.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Has `handler` run for each WebSocket connection to `path`.
    ///
    /// A path is matched as it was sent, percent-encoding and all, without its query. It is matched whole, or,
    /// where it ends in `/*`, by its beginning: `/rooms/*` is for `/rooms/kitchen`, and also for `/rooms/`. A
    /// whole path wins over a beginning, and a long beginning over a short one.
    ///
    /// How the handler's end closes the connection is told at [`Connection`]. A handler that has not returned
    /// [`close_timeout`](Config::close_timeout) after its connection's end is dropped.
    #[must_use]
    pub fn route<H, F, E>(mut self, path: &str, handler: H) -> Self
    where
        H: Fn(Connection) -> F + 'static,
        F: Future<Output = std::result::Result<(), E>> + 'static,
        E: Into<Box<dyn error::Error>>,
    {
        let handler = Rc::new(handler);
        let handler: Handler = Rc::new(move |conn| {
            let handler = handler.clone();
            // Called within, or its future would have room for itself twice.
            Box::pin(async move { handler(conn).await.map_err(Into::into) })
        });
        self.routes.handlers.add(path, handler);
        self
    }

    /// Has `page` answer plain GET and HEAD requests for `path`, which is matched as [`route`](Self::route)
    /// tells. A path can have a route and a page: a WebSocket handshake goes to the route.
    #[must_use]
    pub fn page(mut self, path: &str, page: impl Fn(&Request) -> Response + 'static) -> Self {
        self.routes.pages.add(path, Rc::new(page));
        self
    }

    /// Checks the configuration and the paths, as [`run`](Self::run) and [`serve`](Self::serve) do when they
    /// start.
    ///
    /// # Errors
    ///
    /// [`Error::Config`](crate::Error::Config) or [`Error::Route`](crate::Error::Route).
    pub fn check(&self) -> Result<()> {
        self.config.check()?;
        self.routes.check()
    }

    /// A handle that takes snapshots of the server's [`Stats`](crate::Stats).
    ///
    /// # Examples
    ///
    /// ```
    /// use whit::{Response, Server};
    ///
    /// let server = Server::new();
    /// let stats = server.stats_handle();
    /// let server = server.page("/stats", move |_| Response::text(format!("{:#?}\n", stats.snapshot())));
    /// ```
    pub fn stats_handle(&self) -> StatsHandle {
        self.stats.clone()
    }

    /// A handle that shuts the server down, from any thread.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// Has SIGINT and SIGTERM shut the server down while it serves. A second one ends the process at once, with 128 and the
    /// signal's number as its status.
    #[cfg(feature = "signals")]
    #[must_use]
    pub fn shut_down_on_signals(mut self) -> Self {
        self.heeds_signals = true;
        self
    }

    /// Listens on every address that `addrs` resolves to and serves, until shut down.
    ///
    /// # Errors
    ///
    /// At the start only: [`Error::Config`](crate::Error::Config), [`Error::Route`](crate::Error::Route), or
    /// [`Error::Listen`](crate::Error::Listen).
    pub fn run(self, addrs: impl ToSocketAddrs + fmt::Debug) -> Result<()> {
        self.check()?;
        let listener = Listener::bind(addrs)?;
        block_on(self.serve(listener))?
    }

    /// Serves on `listener`, until shut down: a future for those who have an executor of their own. It is not
    /// `Send`, so it goes to [`block_on`](smol::block_on) or a [`LocalExecutor`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops all connections, without a Close. To part in peace, use
    /// [`shutdown_handle`](Self::shutdown_handle).
    ///
    /// # Errors
    ///
    /// At the start only: [`Error::Config`](crate::Error::Config) or [`Error::Route`](crate::Error::Route).
    pub async fn serve(self, listener: Listener) -> Result<()> {
        self.check()?;
        reactor::nested(self.serve_here(listener)).await?
    }

    async fn serve_here(self, listener: Listener) -> Result<()> {
        let incoming = listener.open(self.config.write_timeout)?;
        #[cfg(feature = "signals")]
        let signals = match self.heeds_signals {
            true => Some(Signals::take().map_err(|source| Error::Reactor { source })?),
            false => None,
        };
        let shutdown = self.shutdown.clone();
        let house = Rc::new(House::new(self));
        let executor = LocalExecutor::new();
        let budget = house.budget.clone();
        executor
            .spawn(async move { budget.free_spare_in_time().await })
            .detach();
        let serving = async {
            let told = future::or(
                async {
                    shutdown.0.wait().await;
                },
                async {
                    #[cfg(feature = "signals")]
                    if let Some(signals) = &signals {
                        signals.wait().await;
                        log::info!("shutting down");
                        shutdown.shut_down();
                    }
                    future::pending().await
                },
            );
            future::or(accept(&house, &incoming, &executor), told).await;
            drop(incoming);
            house.drain().await;
        };
        let beating = heartbeat::run(&house.links, &house.config);
        run_all(&executor, future::or(serving, beating), &house.stats).await;
        Ok(())
    }
}

/// Runs the tasks of `executor` until `main` is done, which is polled only when something woke it.
async fn run_all(
    executor: &LocalExecutor<'_>,
    main: impl Future<Output = ()>,
    stats: &StatsHandle,
) {
    /// After so many it is looked whether `main` has something to do.
    const TASKS: usize = 200;

    let gate = Gate::default();
    let mut main = pin!(main);
    let mut next = pin!(executor.tick());
    poll_fn(|cx| {
        stats.count_wakeup();
        gate.poll_turn(cx, |cx| {
            if gate.poll_woken(|cx| main.as_mut().poll(cx)).is_ready() {
                return Poll::Ready(());
            }
            // Without a wait each costs half as much.
            for _ in 0..TASKS {
                if !executor.try_tick() {
                    break;
                }
            }
            if next.as_mut().poll(cx).is_ready() {
                next.set(executor.tick());
                gate.wake();
            }
            Poll::Pending
        })
    })
    .await;
}

/// Shuts a [`Server`] down. Clones shut down the same one.
#[derive(Clone, Debug, Default)]
pub struct ShutdownHandle(Arc<Latch<()>>);

impl ShutdownHandle {
    /// Has the server stop accepting, close all connections with [`GOING_AWAY`](CloseCode::GOING_AWAY), wait
    /// for them up to [`drain_timeout`](Config::drain_timeout), and end. It returns at once; further calls
    /// change nothing.
    pub fn shut_down(&self) {
        self.0.set(());
    }
}

/// What an idle connection has allocated: its futures, its link, its request. Measured.
const CONNECTION_BYTES: usize = 3 * 1024;

/// What all tasks of a running server share.
struct House {
    config: Config,
    routes: Routes,
    shutdown: ShutdownHandle,
    links: Rc<Links>,
    stats: StatsHandle,
    seats: Seats,
    scratch: Rc<Scratch>,
    budget: Rc<Budget>,
}

impl House {
    fn new(server: Server) -> Self {
        let budget = server.stats.budget().clone();
        budget.set_limit(server.config.memory_budget_bytes);
        Self {
            budget,
            config: server.config,
            routes: server.routes,
            shutdown: server.shutdown,
            links: Rc::new(Links::counted_by(server.stats.clone())),
            stats: server.stats,
            seats: Seats::default(),
            scratch: Rc::default(),
        }
    }

    /// Closes all connections and waits until all have parted.
    async fn drain(&self) {
        self.links.for_each(Self::close_going_away);
        if reactor::timeout(self.config.drain_timeout, self.seats.all_left())
            .await
            .is_none()
        {
            log::warn!(
                "{} connections have not parted in time: dropped",
                self.seats.taken.get()
            );
        }
    }

    /// Counts a refusal, and gives its words.
    fn refusal(&self, peer: Option<SocketAddr>, refusal: &Refusal, with_body: bool) -> Vec<u8> {
        self.stats.count_refused(refusal);
        // It may quote what the client said.
        let words = refusal.to_string();
        log::info!(
            "{} refused with {}: {}",
            Peer(peer),
            refusal.status(),
            words.escape_debug()
        );
        Response::from(refusal).into_bytes(with_body)
    }

    fn close_going_away(link: &Link) {
        link.close(Closed::new(
            ClosedBy::Local,
            CloseCode::GOING_AWAY,
            "the server is shutting down",
        ));
    }
}

/// The connections that are there, handshakes and refusals included, counted in all and by address.
#[derive(Default)]
struct Seats {
    taken: Cell<usize>,
    by_network: RefCell<HashMap<IpAddr, usize>>,
    left: Event,
}

/// A connection's place under the limits, given back when it is dropped.
struct Seat {
    house: Rc<House>,
    peer: Option<SocketAddr>,
    account: Rc<Account>,
}

impl Seats {
    async fn all_left(&self) {
        while self.taken.get() > 0 {
            self.left.listen().await;
        }
    }
}

impl Seat {
    fn take(house: &Rc<House>, peer: Option<SocketAddr>) -> std::result::Result<Self, Refusal> {
        let (config, seats) = (&house.config, &house.seats);
        if seats.taken.get() >= config.max_connections {
            return Err(Refusal::Full);
        }
        let network = counted_network(config, peer);
        if let (Some(network), Some(max)) = (network, config.max_connections_per_ip) {
            let by_network = seats.by_network.borrow();
            if by_network.get(&network).is_some_and(|count| *count >= max) {
                return Err(Refusal::TooManyFromAddress);
            }
        }
        let account = house
            .budget
            .open(CONNECTION_BYTES)
            .ok_or(Refusal::OutOfMemory)?;
        if let Some(network) = network {
            *seats.by_network.borrow_mut().entry(network).or_default() += 1;
        }
        seats.taken.set(seats.taken.get() + 1);
        Ok(Self {
            house: house.clone(),
            peer,
            account,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = &self.house.seats;
        if let Some(network) = counted_network(&self.house.config, self.peer) {
            let mut by_network = seats.by_network.borrow_mut();
            if let Some(count) = by_network.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    by_network.remove(&network);
                }
            }
        }
        seats.taken.set(seats.taken.get() - 1);
        seats.left.notify(usize::MAX);
    }
}

/// Only where there is a limit.
fn counted_network(config: &Config, peer: Option<SocketAddr>) -> Option<IpAddr> {
    let counted = config.max_connections_per_ip.and(peer);
    counted.map(|peer| network(peer.ip()))
}

/// An IPv6 customer has a whole /64, so that is what counts as one address.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

/// Accepts for ever, whatever a client or the system does.
async fn accept(house: &Rc<House>, incoming: &Incoming, executor: &LocalExecutor<'static>) {
    /// Out of descriptors or memory: what is there needs time to end.
    const PAUSE: Duration = Duration::from_millis(100);
    /// So many are told that there is no room, and heard out; the rest are told and dropped.
    const MAX_TURNED_AWAY: usize = 64;

    let turned_away = Rc::new(Cell::new(0));
    let mut failing = false;
    loop {
        let accepted = incoming.accept().await;
        if failing && accepted.is_ok() {
            failing = false;
            log::info!("accepting connections again");
        }
        match accepted {
            Ok((socket, peer)) => match Seat::take(house, peer) {
                Ok(seat) => executor.spawn(admit(seat, socket)).detach(),
                Err(refusal) if turned_away.get() < MAX_TURNED_AWAY => {
                    let (house, turned_away) = (house.clone(), turned_away.clone());
                    turned_away.set(turned_away.get() + 1);
                    executor
                        .spawn(async move {
                            let words = house.refusal(peer, &refusal, true);
                            answer(&socket, &words, &house.config).await;
                            turned_away.set(turned_away.get() - 1);
                        })
                        .detach();
                }
                Err(refusal) => {
                    house.stats.count_refused(&refusal);
                    log::debug!("{} turned away: {refusal}", Peer(peer));
                    // It may hear it all the same.
                    let words = Response::from(&refusal).into_bytes(true);
                    future::poll_once(socket.write(&words)).await;
                }
            },
            // The client was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !failing {
                    failing = true;
                    log::warn!("cannot accept connections: {error}");
                }
                reactor::sleep(PAUSE).await;
            }
        }
    }
}

/// Runs one accepted socket from its request to its end.
fn admit(seat: Seat, socket: Socket) -> impl Future<Output = ()> {
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
    let (house, account) = (&seat.house, &seat.account);
    let config = &house.config;
    let limits = FrameLimits {
        max_message_bytes: config.max_message_bytes,
        max_fragments: config.max_fragments,
    };
    let (writer, account) = (frames_out.clone(), account.clone());
    let frames_in = FrameReader::new(writer, admitted.already_read, limits, account.clone());
    let link = Link::new(&house.links, &frames_out, account, config);
    let open = house.links.enter(Rc::new(link));
    if house.shutdown.0.is_set() {
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

/// Reads a request and answers it. `None` if that was all. The charge is for the request and what came behind it.
async fn shake_hands(seat: &Seat, socket: &Socket) -> Option<(Admitted, Charge)> {
    let config = &seat.house.config;
    // For the head, or the answer to it.
    let mut charge = Charge::new(seat.account.clone());
    let head = read_head(seat, socket, &mut charge).await;
    let (admitted, charge, welcome) = match judge(seat, head, charge) {
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
    written.then_some((admitted, charge))
}

type Head = std::result::Result<(Request, Vec<u8>), Unread>;

fn judge(seat: &Seat, head: Head, mut charge: Charge) -> Outcome {
    let (house, peer) = (&seat.house, seat.peer);
    let bytes = match head {
        Ok((mut request, already_read)) => {
            match handshake::judge(&request, &house.routes, &house.config) {
                Ok(Verdict::Upgrade {
                    handler,
                    answer,
                    subprotocol,
                }) => {
                    request.subprotocol = subprotocol;
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
                        Peer(peer),
                        response.status(),
                        request.shown_path()
                    );
                    response.into_bytes(request.method() != "HEAD")
                }
                Err(refusal) => house.refusal(peer, &refusal, request.method() != "HEAD"),
            }
        }
        Err(Unread::Refused(refusal)) => house.refusal(peer, &refusal, true),
        Err(Unread::Gone) => {
            log::debug!("{} went away before its request was complete", Peer(peer));
            return Outcome::Gone;
        }
    };
    charge.set(bytes.capacity());
    Outcome::Answer(bytes, charge)
}

/// Reads a request, with all that can keep one from it.
async fn read_head(seat: &Seat, socket: &Socket, charge: &mut Charge) -> Head {
    let house = &seat.house;
    let config = &house.config;
    let reading = request::read(socket, seat.peer, config.max_head_bytes, charge);
    let mut reading = pin!(reading);
    // Mostly it is there at once.
    if let Some(read) = future::poll_once(reading.as_mut()).await {
        return read;
    }
    let read = reactor::timeout(config.handshake_timeout, reading);
    let refused = async {
        house.shutdown.0.wait().await;
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

async fn answer(socket: &Socket, bytes: &[u8], config: &Config) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let ip = |text: &str| network(text.parse().unwrap());
        assert_eq!(ip("2001:db8:1:2:3:4:5:6"), ip("2001:db8:1:2::1"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
        assert_ne!(ip("192.0.2.1"), ip("192.0.2.2"));
    }
}

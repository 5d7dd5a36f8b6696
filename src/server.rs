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
        let handler: Handler = Rc::new(move |conn| {
            let handling = handler(conn);
            Box::pin(async { handling.await.map_err(Into::into) })
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
const CONNECTION_BYTES: usize = 9 * 1024;

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

    fn count_refusal(&self, peer: Option<SocketAddr>, refusal: &Refusal) {
        self.stats.count_refused(refusal);
        // It may quote what the client said.
        let words = refusal.to_string();
        log::info!(
            "{} refused with {}: {}",
            Peer(peer),
            refusal.status(),
            words.escape_debug()
        );
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
    network: Option<IpAddr>,
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
        // Counted only where there is a limit.
        let network = config
            .max_connections_per_ip
            .and(peer)
            .map(|peer| network(peer.ip()));
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
            network,
            account,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = &self.house.seats;
        if let Some(network) = self.network {
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
                Ok(seat) => executor.spawn(admit(seat, socket, peer)).detach(),
                Err(refusal) if turned_away.get() < MAX_TURNED_AWAY => {
                    let (house, turned_away) = (house.clone(), turned_away.clone());
                    turned_away.set(turned_away.get() + 1);
                    executor
                        .spawn(async move {
                            refuse(&house, &socket, peer, &refusal, true).await;
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
async fn admit(seat: Seat, socket: Socket, peer: Option<SocketAddr>) {
    let house = &seat.house;
    let config = &house.config;
    // For the head, or the answer to it.
    let mut charge = Charge::new(seat.account.clone());
    let head = future::or(
        async {
            let reading = request::read(&socket, peer, config.max_head_bytes, &mut charge);
            match reactor::timeout(config.handshake_timeout, reading).await {
                Some(read) => read,
                None => Err(Unread::Refused(Refusal::Timeout)),
            }
        },
        async {
            house.shutdown.0.wait().await;
            Err(Unread::Refused(Refusal::ShuttingDown))
        },
    );
    let head = future::or(head, async {
        seat.account.shed().await;
        Err(Unread::Refused(Refusal::OutOfMemory))
    });
    let (mut request, already_read) = match head.await {
        Ok(read) => read,
        Err(Unread::Refused(refusal)) => {
            charge.set(Refusal::MAX_ANSWER_BYTES);
            let refusing = refuse(house, &socket, peer, &refusal, true);
            return future::or(refusing, seat.account.shed()).await;
        }
        Err(Unread::Gone) => {
            return log::debug!("{} went away before its request was complete", Peer(peer));
        }
    };

    match handshake::judge(&request, &house.routes, config) {
        Ok(Verdict::Upgrade {
            handler,
            answer,
            subprotocol,
        }) => {
            request.subprotocol = subprotocol;
            if !write_all(&socket, answer.as_bytes(), config).await {
                return;
            }
            let frames_out = Rc::new(FrameWriter::new(
                socket,
                house.scratch.clone(),
                seat.account.clone(),
            ));
            let frames_in = FrameReader::new(
                frames_out.clone(),
                already_read,
                FrameLimits {
                    max_message_bytes: config.max_message_bytes,
                    max_fragments: config.max_fragments,
                },
                seat.account.clone(),
            );
            let account = seat.account.clone();
            let link = Rc::new(Link::new(&house.links, &frames_out, account, config));
            let open = house.links.enter(link.clone());
            if house.shutdown.0.is_set() {
                House::close_going_away(&link);
            }
            connection::run(open, request, frames_in, frames_out, &handler, config).await;
        }
        Ok(Verdict::Answer(response)) => {
            log::debug!(
                "{} {} {}",
                Peer(peer),
                response.status(),
                request.shown_path()
            );
            let bytes = response.into_bytes(request.method() != "HEAD");
            charge.set(bytes.capacity());
            future::or(answer(&socket, &bytes, config), seat.account.shed()).await;
        }
        Err(refusal) => {
            let with_body = request.method() != "HEAD";
            drop(request);
            // No words of ours are longer.
            charge.set(Refusal::MAX_ANSWER_BYTES);
            let refusing = refuse(house, &socket, peer, &refusal, with_body);
            future::or(refusing, seat.account.shed()).await;
        }
    }
}

async fn refuse(
    house: &House,
    socket: &Socket,
    peer: Option<SocketAddr>,
    refusal: &Refusal,
    with_body: bool,
) {
    house.count_refusal(peer, refusal);
    let bytes = Response::from(refusal).into_bytes(with_body);
    answer(socket, &bytes, &house.config).await;
}

async fn answer(socket: &Socket, bytes: &[u8], config: &Config) {
    if write_all(socket, bytes, config).await {
        reactor::timeout(config.close_timeout, socket.end()).await;
    }
}

/// Whether all was written, with `write_timeout` for each step.
async fn write_all(socket: &Socket, mut bytes: &[u8], config: &Config) -> bool {
    while !bytes.is_empty() {
        match reactor::timeout(config.write_timeout, socket.write(bytes)).await {
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

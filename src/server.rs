//! The server: accept, spawn, drain.

#[cfg(all(feature = "systemd", target_os = "linux"))]
use crate::systemd;
use crate::{
    admission,
    config::Config,
    connection::{Connection, Handler},
    error::Result,
    gate::Gate,
    heartbeat,
    house::{House, Seat},
    latch::Latch,
    link::Links,
    listener::{Incoming, Listener},
    reactor::{self, block_on},
    request::{Peer, Request},
    response::Response,
    route::Routes,
    stats::StatsHandle,
    topic::Hub,
    turn::TASKS,
};
#[cfg(feature = "signals")]
use crate::{error::Error, signals::Heeded};
use futures_lite::future::{self, poll_fn};
use smol::LocalExecutor;
use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    error, fmt, io,
    net::ToSocketAddrs,
    pin::{Pin, pin},
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
    signals: Heeded,
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    notifies_systemd: bool,
    links: Rc<Links>,
    topics: Topics,
}

/// The hub, and what it does beside the connections. Not by their types: a server without one has nothing of it in the program.
#[derive(Default)]
struct Topics {
    hub: OnceCell<Box<dyn Any>>,
    pump: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
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

    /// Has `guard` judge each WebSocket handshake that is in order otherwise: a client gets the answer that the guard has for it in
    /// place of the connection. There is one guard for all paths; the last that was set. Scripts of web pages are not shown the answer:
    /// what they are to know is told by a [`close`](Connection::close).
    ///
    /// # Examples
    ///
    /// ```
    /// use whit::{Closed, Connection, Request, Response, Server};
    ///
    /// fn guard(request: &Request) -> Result<(), Response> {
    ///     match request.header("Authorization") {
    ///         Some("Bearer open sesame") => Ok(()),
    ///         _ => Err(Response::new(401, "text/plain", "say it\n").header("WWW-Authenticate", "Bearer")),
    ///     }
    /// }
    ///
    /// # async fn echo(_: Connection) -> Result<(), Closed> { Ok(()) }
    /// let server = Server::new().route("/ws", echo).guard(guard);
    /// ```
    #[must_use]
    pub fn guard(
        mut self,
        guard: impl Fn(&Request) -> std::result::Result<(), Response> + 'static,
    ) -> Self {
        self.routes.guard = Some(Box::new(guard));
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
        self.links.stats().clone()
    }

    /// The server's named topics, to send what one has to many. Only its own connections can subscribe to them.
    pub fn hub(&self) -> Hub {
        let Topics { hub, pump } = &self.topics;
        let hub = hub.get_or_init(|| {
            let budget = self.links.stats().budget().clone();
            let (hub, pumping) = Hub::new(budget, self.links.clone());
            pump.replace(Some(Box::pin(pumping)));
            Box::new(hub)
        });
        match hub.downcast_ref::<Hub>() {
            Some(hub) => hub.clone(),
            None => unreachable!("it is nothing else"),
        }
    }

    /// A handle that shuts the server down, from any thread.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// Has SIGINT and SIGTERM shut the server down while it serves. A second one ends the process at once, with 128 and the
    /// signal's number as its status. Once the server has ended they do nothing: a program that goes on then has to handle them itself.
    ///
    /// With the feature `signals`.
    #[cfg(feature = "signals")]
    #[must_use]
    pub fn shut_down_on_signals(mut self) -> Self {
        self.signals.ends = true;
        self
    }

    /// Has SIGHUP call `reload` on the server's thread while it serves, which goes on with the configuration that it gives. If
    /// that is an error, or not a good one, all stays as it was, and the log says so.
    ///
    /// Connections that are open keep their sizes and their times to write and to close; pings, heartbeats, the idle time and
    /// the memory budget are anew for all. A [`max_connections_per_ip`](Config::max_connections_per_ip) where there was none counts
    /// the connections that come from then on.
    ///
    /// With the feature `signals`.
    ///
    /// # Panics
    ///
    /// One of `reload` ends the server.
    #[cfg(feature = "signals")]
    #[must_use]
    pub fn reload_on_hangup(
        mut self,
        reload: impl Fn() -> std::result::Result<Config, Box<dyn error::Error>> + 'static,
    ) -> Self {
        self.signals.reload = Some(Box::new(reload));
        self
    }

    /// Has the server tell systemd that it is ready, how many connections and how much memory it has (at most once a second, and
    /// only what changed), that it was reloaded, and that it is going down. If the unit has `WatchdogSec=`, it also tells twice in
    /// that time that the thread turns: a handler that blocks it is noticed. It needs `Type=notify` or `Type=notify-reload`, and
    /// does nothing where systemd did not start the process.
    ///
    /// With the feature `systemd`, on Linux.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    #[must_use]
    pub fn notify_systemd(mut self) -> Self {
        self.notifies_systemd = true;
        self
    }

    /// Listens on every address that `addrs` resolves to and serves, until shut down.
    ///
    /// # Errors
    ///
    /// At the start only: [`Error::Config`](crate::Error::Config), [`Error::Route`](crate::Error::Route),
    /// [`Error::Listen`](crate::Error::Listen), or [`Error::Reactor`](crate::Error::Reactor).
    pub fn run(self, addrs: impl ToSocketAddrs + fmt::Debug) -> Result<()> {
        self.check()?;
        let listener = Listener::bind(addrs)?;
        block_on(self.serve_lean(listener))?
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
    /// At the start only: [`Error::Config`](crate::Error::Config), [`Error::Route`](crate::Error::Route), or, where the system
    /// does not let it wait, [`Error::Listen`](crate::Error::Listen) or [`Error::Reactor`](crate::Error::Reactor).
    pub async fn serve(self, listener: Listener) -> Result<()> {
        reactor::nested(self.serve_lean(listener)).await?
    }

    /// The same for a future that whit's [`block_on`](crate::block_on) runs, beside others. It never waits in smol's reactor: a program that has no
    /// other use for that is 40 KB smaller.
    ///
    /// # Cancel safety
    ///
    /// As that of [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Self::serve), and [`Error::Reactor`](crate::Error::Reactor) where another executor polls it.
    pub async fn serve_lean(self, listener: Listener) -> Result<()> {
        self.check()?;
        reactor::check()?;
        let incoming = listener.open(self.config.write_timeout)?;
        #[cfg(feature = "signals")]
        let signals = self
            .signals
            .take()
            .map_err(|source| Error::Reactor { source })?;
        let house = Rc::new(House::new(
            self.config,
            self.routes,
            self.shutdown.0,
            self.links,
        ));
        let executor = LocalExecutor::new();
        let serving = async {
            let told = async {
                house.shutdown.wait().await;
            };
            future::or(accept(&house, &incoming, &executor), told).await;
            drop(incoming);
            house.drain().await;
        };
        let beating = async {
            loop {
                let reloaded = house.reloaded.listen();
                let config = house.config();
                future::or(heartbeat::run(&house.links, &config), reloaded).await;
            }
        };
        let obeying = async {
            #[cfg(feature = "signals")]
            signals.obey(&house).await;
            future::pending().await
        };
        let notifying = async {
            #[cfg(all(feature = "systemd", target_os = "linux"))]
            if self.notifies_systemd {
                systemd::notify(&house).await;
            }
            future::pending().await
        };
        let sparing = house.budget.free_spare_in_time();
        let pumping = async {
            if let Some(pump) = self.topics.pump.into_inner() {
                pump.await;
            }
            future::pending().await
        };
        let all = future::or(
            future::or(serving, beating),
            future::or(future::or(obeying, notifying), future::or(sparing, pumping)),
        );
        run_all(&executor, all, &house.stats).await;
        Ok(())
    }
}

/// Runs the tasks of `executor` until `main` is done, which is polled only when something woke it.
async fn run_all(
    executor: &LocalExecutor<'_>,
    main: impl Future<Output = ()>,
    stats: &StatsHandle,
) {
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
            if (0..TASKS).all(|_| executor.try_tick()) {
                cx.waker().wake_by_ref();
            } else if next.as_mut().poll(cx).is_ready() {
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
    /// Has the server stop accepting, close all connections with [`GOING_AWAY`](crate::CloseCode::GOING_AWAY), wait
    /// for them up to [`drain_timeout`](Config::drain_timeout), and end. It returns at once; further calls
    /// change nothing.
    pub fn shut_down(&self) {
        self.0.set(());
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
                Ok(seat) => executor.spawn(admission::admit(seat, socket)).detach(),
                Err(refusal) if turned_away.get() < MAX_TURNED_AWAY => {
                    let (house, turned_away) = (house.clone(), turned_away.clone());
                    turned_away.set(turned_away.get() + 1);
                    executor
                        .spawn(async move {
                            let words = house.refusal(peer, &refusal, true);
                            admission::answer(&socket, &words, &house.config()).await;
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

//! What all tasks of a running server share, and the limits on how many there are.

use crate::{
    budget::{Account, Budget},
    close::{CloseCode, Closed, ClosedBy},
    config::Config,
    error::Refusal,
    latch::Latch,
    link::{Link, Links},
    proxy, reactor,
    request::{Peer, Request},
    response::Response,
    route::Routes,
    scratch::Scratch,
    stats::StatsHandle,
};
use event_listener::Event;
use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

/// What an idle connection has allocated: its futures, its link, its request: 2.5 KiB as measured, rounded up.
const CONNECTION_BYTES: usize = 3 * 1024;

/// What all tasks of a running server share.
pub(crate) struct House {
    config: RefCell<Rc<Config>>,
    /// The configuration was to be loaded anew, and was if it could be.
    pub(crate) reloaded: Event,
    pub(crate) routes: Routes,
    /// Set when the server is to go down.
    pub(crate) shutdown: Arc<Latch<()>>,
    pub(crate) links: Rc<Links>,
    pub(crate) stats: StatsHandle,
    pub(crate) budget: Rc<Budget>,
    seats: Seats,
    pub(crate) scratch: Rc<Scratch>,
}

impl House {
    pub(crate) fn new(
        config: Config,
        routes: Routes,
        shutdown: Arc<Latch<()>>,
        links: Rc<Links>,
    ) -> Self {
        let stats = links.stats().clone();
        let budget = stats.budget().clone();
        budget.set_limit(config.memory_budget_bytes);
        Self {
            budget,
            config: RefCell::new(Rc::new(config)),
            reloaded: Event::new(),
            routes,
            shutdown,
            links,
            stats,
            seats: Seats::default(),
            scratch: Rc::default(),
        }
    }

    /// As it is now.
    pub(crate) fn config(&self) -> Rc<Config> {
        self.config.borrow().clone()
    }

    /// Goes on with another configuration, which has been checked.
    #[cfg(feature = "signals")]
    pub(crate) fn reconfigure(&self, config: Config) {
        self.budget.set_limit(config.memory_budget_bytes);
        self.config.replace(Rc::new(config));
    }

    /// Closes all connections and waits until all have parted.
    pub(crate) async fn drain(&self) {
        self.links.for_each(Self::close_going_away);
        if reactor::timeout(self.config().drain_timeout, self.seats.all_left())
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
    pub(crate) fn refusal(
        &self,
        peer: Option<SocketAddr>,
        refusal: &Refusal,
        with_body: bool,
    ) -> Vec<u8> {
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

    pub(crate) fn close_going_away(link: &Link) {
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
    /// In order. They are not many, and a map with its hashes is 5 KB of the program.
    by_network: RefCell<Vec<(IpAddr, usize)>>,
    left: Event,
}

/// A connection's place under the limits, given back when it is dropped.
pub(crate) struct Seat {
    pub(crate) house: Rc<House>,
    /// As it was when the connection came.
    pub(crate) config: Rc<Config>,
    peer: Cell<Option<SocketAddr>>,
    /// Its address has one connection more for it.
    counted: Cell<bool>,
    pub(crate) account: Rc<Account>,
}

impl Seats {
    async fn all_left(&self) {
        while self.taken.get() > 0 {
            self.left.listen().await;
        }
    }
}

impl Seat {
    pub(crate) fn take(house: &Rc<House>, peer: Option<SocketAddr>) -> Result<Self, Refusal> {
        let config = house.config();
        if house.seats.taken.get() >= config.max_connections {
            return Err(Refusal::Full);
        }
        let account = house
            .budget
            .open(CONNECTION_BYTES)
            .ok_or(Refusal::OutOfMemory)?;
        house.seats.taken.set(house.seats.taken.get() + 1);
        let seat = Self {
            house: house.clone(),
            config,
            peer: Cell::new(peer),
            counted: Cell::new(false),
            account,
        };
        // Whose connection a proxy's is will be known from its request.
        if !proxy::is_trusted(&seat.config.trusted_proxies, peer) {
            seat.count()?;
        }
        Ok(seat)
    }

    /// The client's address, as far as it is known.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer.get()
    }

    /// Believes of a request whom it is from, if a trusted proxy says it.
    pub(crate) fn identify(&self, request: &mut Request) -> Result<(), Refusal> {
        let proxies = &self.config.trusted_proxies;
        if !proxy::is_trusted(proxies, self.peer()) {
            return Ok(());
        }
        if let Some(client) = proxy::client(proxies, request.header_list("x-forwarded-for")) {
            self.peer.set(Some((client, 0).into()));
            request.peer_addr = self.peer();
        }
        self.count()
    }

    /// Counts it for its address, where there is a limit.
    fn count(&self) -> Result<(), Refusal> {
        if let (Some(peer), Some(max)) = (self.peer(), self.config.max_connections_per_ip) {
            let network = network(peer.ip());
            let mut by_network = self.house.seats.by_network.borrow_mut();
            match by_network.binary_search_by_key(&network, |(network, _)| *network) {
                Ok(place) if by_network[place].1 >= max => return Err(Refusal::TooManyFromAddress),
                Ok(place) => by_network[place].1 += 1,
                Err(place) => by_network.insert(place, (network, 1)),
            }
            self.counted.set(true);
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = &self.house.seats;
        if let (Some(peer), true) = (self.peer(), self.counted.get()) {
            let network = network(peer.ip());
            let mut by_network = seats.by_network.borrow_mut();
            if let Ok(place) = by_network.binary_search_by_key(&network, |(network, _)| *network) {
                by_network[place].1 -= 1;
                if by_network[place].1 == 0 {
                    by_network.remove(place);
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

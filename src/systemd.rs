//! What systemd hands over, and what it is told (sd_listen_fds(3), sd_notify(3)).

use crate::{
    config::SHORTEST_PERIOD,
    error::{Error, Result},
    house::House,
    listener::Listener,
    reactor,
    shown::Tenths,
};
use futures_lite::future;
use rustix::{
    net::{AddressFamily, SocketType, sockopt},
    time::{ClockId, clock_gettime},
};
use sd_notify::NotifyState;
use std::{
    env, io,
    net::TcpListener,
    os::{
        fd::{FromRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

impl Listener {
    /// The sockets that systemd listens on for this process, as a `.socket` unit tells it to: internet ones and unix ones, as
    /// many as there are, or none. They go on to listen while the server is started again. They can be taken once: after that
    /// there are none.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if one of them is not a stream socket that is listened on, such as that of a unit with `Accept=yes`.
    ///
    /// # Examples
    ///
    /// ```
    /// use whit::Listener;
    ///
    /// let mut listener = Listener::from_systemd()?;
    /// if listener.is_empty() {
    ///     listener.join(Listener::bind("127.0.0.1:0")?);
    /// }
    /// # Ok::<(), whit::Error>(())
    /// ```
    pub fn from_systemd() -> Result<Self> {
        let mut listener = Self::default();
        for (number, socket) in handed_over()? {
            let joined = recognise(socket).map_err(|source| Error::Listen {
                addr: format!("descriptor {number} of systemd"),
                source,
            })?;
            listener.join(joined);
        }
        Ok(listener)
    }
}

#[allow(unsafe_code, reason = "there is no safe way to take them")]
fn handed_over() -> Result<Vec<(i32, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let numbers = sd_notify::listen_fds().map_err(|source| Error::Listen {
        addr: "what systemd hands over".into(),
        source,
    })?;
    let take = |number| {
        // SAFETY: it was opened for this process, whose number systemd gave with it, and is taken this once.
        (number, unsafe { OwnedFd::from_raw_fd(number) })
    };
    Ok(numbers.map(take).collect())
}

fn recognise(socket: OwnedFd) -> io::Result<Listener> {
    let is_listening = sockopt::socket_acceptconn(&socket)?
        && sockopt::socket_type(&socket)? == SocketType::STREAM;
    match sockopt::socket_domain(&socket)? {
        AddressFamily::INET | AddressFamily::INET6 if is_listening => {
            Ok(TcpListener::from(socket).into())
        }
        AddressFamily::UNIX if is_listening => Ok(UnixListener::from(socket).into()),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it is not a stream socket that is listened on",
        )),
    }
}

/// Tells systemd that the server is ready, how it is, that it was reloaded, and that it is going down; and, where systemd watches
/// over it, that the thread still turns. Never returns.
pub(crate) async fn notify(house: &House) {
    /// No more than a change is told in this time.
    const PACE: Duration = Duration::from_secs(1);

    if env::var_os("NOTIFY_SOCKET").is_none() {
        return future::pending().await;
    }
    // As good as none, if it asks for more than there is time for.
    let watchdog = sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(SHORTEST_PERIOD));
    let mut news = News::Ready;
    let (mut stopping, mut failing) = (false, false);
    loop {
        // Listened for before it is told: what comes then comes next.
        let reloaded = house.reloaded.listen();
        let (told, told_at) = (house.stats.connections(), reactor::now());
        let result = tell(news, house).await;
        if let (Err(error), false) = (&result, failing) {
            log::warn!("systemd cannot be told: {error}");
        }
        failing = result.is_err();
        let changed = async {
            house.stats.changed_from(told).await;
            reactor::sleep_until(told_at + PACE).await;
            News::State
        };
        let watched = async {
            match watchdog {
                Some(period) => reactor::sleep_until(told_at + period).await,
                None => future::pending().await,
            }
            News::State
        };
        let reloaded = async {
            reloaded.await;
            News::Reloaded
        };
        let stops = async {
            match stopping {
                true => future::pending().await,
                false => *house.shutdown.wait().await,
            }
            News::Stopping
        };
        news = future::or(future::or(stops, reloaded), future::or(watched, changed)).await;
        stopping |= matches!(news, News::Stopping);
    }
}

/// What systemd is told of.
#[derive(Clone, Copy)]
enum News {
    Ready,
    State,
    Reloaded,
    Stopping,
}

async fn tell(news: News, house: &House) -> io::Result<()> {
    // Not of a snapshot, whose maps are 17 KB of the program.
    let (open, _) = house.stats.connections();
    let status = format!(
        "{open} connections, {} of {} MiB",
        Tenths::mebibytes(house.budget.used()),
        Tenths::mebibytes(house.config().memory_budget_bytes),
    );
    let state = NotifyState::Status(&status);
    // Whatever is told shows that the thread turns. It is ignored where nobody watches.
    let turns = NotifyState::Watchdog;
    match news {
        News::Ready => send(&[NotifyState::Ready, state, turns]).await,
        News::State => send(&[state, turns]).await,
        News::Reloaded => {
            send(&[NotifyState::Reloading, now()]).await?;
            send(&[NotifyState::Ready, state, turns]).await
        }
        News::Stopping => send(&[NotifyState::Stopping, state, turns]).await,
    }
}

/// Waits while systemd does not listen, and its socket is full: the thread has others to serve.
async fn send(states: &[NotifyState<'_>]) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);

    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let words: String = states.iter().map(|state| format!("{state}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    loop {
        match socket.send_to_addr(words.as_bytes(), &address) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => reactor::sleep(PAUSE).await,
            result => return result.map(drop),
        }
    }
}

/// The time, by the clock that systemd goes by.
fn now() -> NotifyState<'static> {
    // Not sd-notify's own: on systems of 32 bits that overflows 36 minutes after they started.
    let now = clock_gettime(ClockId::Monotonic);
    NotifyState::MonotonicUsec(i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec / 1000))
}

//! Where connections come from.

use crate::{
    error::{Error, Result},
    reactor::{Io, register},
    socket::{Socket, Stream},
    tcp,
};
use futures_lite::future::poll_fn;
use std::{
    cell::Cell,
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    task::{Context, Poll},
    time::Duration,
};
#[cfg(feature = "testing")]
use {
    crate::pipe::Pipe,
    async_channel::Receiver,
    futures_lite::Stream as _,
    std::{cell::RefCell, pin::Pin},
};
#[cfg(unix)]
use {
    crate::unix::{self, SocketFile},
    std::{
        os::unix::net::UnixListener,
        path::{Path, PathBuf},
    },
};

/// The addresses that a [`Server`](crate::Server) listens on. The default one has none: others can
/// [`join`](Self::join) it.
///
/// A socket that is listened on already, such as one that another process handed over, is taken by [`From`].
///
/// # Examples
///
/// ```
/// let listener = whit::Listener::bind("127.0.0.1:0")?;
/// assert_ne!(listener.local_addrs()[0].port(), 0);
/// # Ok::<(), whit::Error>(())
/// ```
#[derive(Default)]
pub struct Listener {
    tcp: Vec<TcpListener>,
    #[cfg(unix)]
    unix: Vec<(UnixListener, Option<SocketFile>)>,
    #[cfg(feature = "testing")]
    pipes: Vec<Receiver<Pipe>>,
}

impl Listener {
    /// Binds every address that `addrs` resolves to. Port 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if the address cannot be understood or bound: then none is.
    pub fn bind(addrs: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        let unresolved = |source| Error::Listen {
            addr: format!("{addrs:?}"),
            source,
        };
        let mut listener = Self::default();
        for addr in addrs.to_socket_addrs().map_err(unresolved)? {
            let bound = TcpListener::bind(addr).map_err(|source| Error::Listen {
                addr: addr.to_string(),
                source,
            })?;
            listener.tcp.push(bound);
        }
        if listener.tcp.is_empty() {
            let nothing = io::Error::new(io::ErrorKind::InvalidInput, "it names no address");
            return Err(unresolved(nothing));
        }
        Ok(listener)
    }

    /// Binds a unix socket at `path`, whose file has this mode, such as `0o660`: those who may write to it can connect. The
    /// file is removed when the listening ends. A socket that was left there, and on which nobody listens any more, is
    /// replaced.
    ///
    /// A client of it has no address: see [`Request::peer_addr`](crate::Request::peer_addr).
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if it cannot be bound, as where somebody listens there, or where the file is anything but a socket.
    #[cfg(unix)]
    pub fn bind_unix(path: impl AsRef<Path>, mode: u32) -> Result<Self> {
        let path = path.as_ref();
        let bound = unix::bind(path, mode).map_err(|source| Error::Listen {
            addr: format!("unix:{}", path.display()),
            source,
        })?;
        let (listener, file) = bound;
        Ok(Self {
            unix: vec![(listener, Some(file))],
            ..Self::default()
        })
    }

    /// The internet addresses listened on, with the real ports.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.tcp
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// The paths of the unix sockets listened on.
    #[cfg(unix)]
    pub fn local_paths(&self) -> Vec<PathBuf> {
        self.unix
            .iter()
            .filter_map(|(listener, _)| Some(listener.local_addr().ok()?.as_pathname()?.into()))
            .collect()
    }

    /// Whether there is nothing that is listened on.
    pub fn is_empty(&self) -> bool {
        #[cfg(unix)]
        if !self.unix.is_empty() {
            return false;
        }
        #[cfg(feature = "testing")]
        if !self.pipes.is_empty() {
            return false;
        }
        self.tcp.is_empty()
    }

    /// Listens on all that `other` listens on, too.
    pub fn join(&mut self, other: Self) {
        self.tcp.extend(other.tcp);
        #[cfg(unix)]
        self.unix.extend(other.unix);
        #[cfg(feature = "testing")]
        self.pipes.extend(other.pipes);
    }

    /// Takes the connections whose server ends are sent through `pipes`, too.
    #[cfg(feature = "testing")]
    pub(crate) fn join_pipes(&mut self, pipes: Receiver<Pipe>) {
        self.pipes.push(pipes);
    }

    /// Begins to wait for connections. What is still to be sent when one is dropped has `patience`.
    pub(crate) fn open(self, patience: Duration) -> Result<Incoming> {
        let mut sources = Vec::new();
        for listener in self.tcp {
            tcp::tune(&listener);
            let addr = listener.local_addr();
            sources.push(match register(listener) {
                Ok(io) => Source::Tcp(io),
                Err(source) => {
                    return Err(Error::Listen {
                        addr: addr.map_or_else(|error| error.to_string(), |addr| addr.to_string()),
                        source,
                    });
                }
            });
        }
        #[cfg(unix)]
        for (listener, file) in self.unix {
            // It only tunes.
            let _ = unix::tune(&listener);
            sources.push(match register(listener) {
                Ok(io) => Source::Unix(io, file),
                Err(source) => {
                    return Err(Error::Listen {
                        addr: "a unix socket".into(),
                        source,
                    });
                }
            });
        }
        #[cfg(feature = "testing")]
        sources.extend(
            self.pipes
                .into_iter()
                .map(|pipes| Source::Pipes(RefCell::new(Box::pin(pipes)))),
        );
        Ok(Incoming {
            sources,
            next: Cell::new(0),
            patience,
        })
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self {
            tcp: vec![listener],
            ..Self::default()
        }
    }
}

/// Its file is not removed at the end: it belongs to whoever bound it.
#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self {
            unix: vec![(listener, None)],
            ..Self::default()
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut listener = f.debug_struct("Listener");
        listener.field("local_addrs", &self.local_addrs());
        #[cfg(unix)]
        listener.field("local_paths", &self.local_paths());
        listener.finish()
    }
}

/// The connections that come.
pub(crate) struct Incoming {
    sources: Vec<Source>,
    /// The source to ask first, so that a busy one does not keep the others waiting.
    next: Cell<usize>,
    patience: Duration,
}

enum Source {
    Tcp(Io<TcpListener>),
    /// With the file that is to be removed at the end.
    #[cfg(unix)]
    Unix(
        Io<UnixListener>,
        #[expect(dead_code, reason = "what it does it does when it is dropped")] Option<SocketFile>,
    ),
    #[cfg(feature = "testing")]
    Pipes(RefCell<Pin<Box<Receiver<Pipe>>>>),
}

impl Incoming {
    /// Waits for the next connection.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        poll_fn(|cx| {
            let count = self.sources.len();
            for i in 0..count {
                let turn = (self.next.get() + i) % count;
                if let Poll::Ready(result) = self.sources[turn].poll_accept(cx) {
                    self.next.set((turn + 1) % count);
                    return Poll::Ready(
                        result.map(|(stream, peer)| (Socket::new(stream, self.patience), peer)),
                    );
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Source {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Option<SocketAddr>)>> {
        match self {
            Self::Tcp(io) => io
                .poll_accept(cx)
                .map_ok(|(io, peer)| (Stream::Tcp(io), peer)),
            #[cfg(unix)]
            Self::Unix(io, _) => io
                .poll_accept(cx)
                .map_ok(|(io, _)| (Stream::Unix(io), None)),
            #[cfg(feature = "testing")]
            Self::Pipes(pipes) => match pipes.borrow_mut().as_mut().poll_next(cx) {
                Poll::Ready(Some(pipe)) => Poll::Ready(Ok((Stream::Pipe(pipe), None))),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
        }
    }
}

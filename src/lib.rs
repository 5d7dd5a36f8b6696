//! A WebSocket server for small machines.
#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::unwrap_used
    )
)]

mod admission;
#[cfg(unix)]
mod async_fd;
mod budget;
mod close;
mod config;
mod connection;
mod decoder;
#[cfg(all(target_os = "linux", not(whit_portable)))]
mod epoll;
mod error;
mod feed;
mod framing;
#[cfg(all(fuzzing, feature = "testing"))]
pub mod fuzzing;
mod gate;
mod handshake;
mod heartbeat;
mod house;
mod kept;
mod latch;
mod link;
mod listener;
mod message;
#[cfg(feature = "testing")]
mod pipe;
mod pool;
#[cfg(not(all(target_os = "linux", not(whit_portable))))]
mod portable;
mod proxy;
mod queue;
mod reactor;
mod reader;
mod request;
mod response;
mod route;
mod scratch;
mod server;
mod shown;
#[cfg(feature = "signals")]
mod signals;
#[cfg(feature = "testing")]
mod simulation;
mod slot;
mod socket;
#[cfg(target_os = "linux")]
mod sockopt;
mod stats;
#[cfg(all(feature = "systemd", target_os = "linux"))]
mod systemd;
mod tcp;
#[cfg(feature = "testing")]
pub mod testing;
mod topic;
mod turn;
#[cfg(unix)]
mod unix;
mod wire;
mod writer;

#[cfg(unix)]
pub use crate::async_fd::AsyncFd;
pub use crate::{
    close::{CloseCode, Closed, ClosedBy},
    config::{Config, HEARTBEAT, Origins},
    connection::{Connection, TryWriteError},
    error::{Error, Result},
    feed::Policy,
    listener::Listener,
    message::{Message, Text},
    proxy::TrustedProxy,
    reactor::{block_on, sleep_anywhere as sleep},
    request::Request,
    response::Response,
    server::{Server, ShutdownHandle},
    stats::{Stats, StatsHandle},
    topic::{Hub, PublishError, Publisher, Subscription, Topic},
};

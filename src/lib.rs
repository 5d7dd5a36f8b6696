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

mod budget;
#[cfg(feature = "testing")]
mod clock;
mod close;
mod config;
mod connection;
mod error;
mod framing;
#[cfg(all(fuzzing, feature = "testing"))]
pub mod fuzzing;
mod handshake;
mod heartbeat;
mod latch;
mod link;
mod message;
#[cfg(feature = "testing")]
mod pipe;
mod queue;
mod reactor;
mod reader;
mod request;
mod response;
mod route;
mod server;
#[cfg(feature = "testing")]
mod simulation;
mod socket;
mod stats;
mod tcp;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;
mod writer;

pub use crate::{
    close::{CloseCode, Closed, ClosedBy},
    config::{Config, HEARTBEAT, Origins},
    connection::{Connection, TryWriteError},
    error::{Error, Result},
    message::{Message, Text},
    request::Request,
    response::Response,
    server::{Server, ShutdownHandle},
    socket::Listener,
    stats::{Stats, StatsHandle},
};

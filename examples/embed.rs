//! A server as one part of a program: its future runs on the program's own executor, in the one thread where
//! the program's own tasks run, so that both share data without locks.
//!
//!     cargo run --example embed
//!     cargo run --example embed 0.0.0.0:7777     (for the other machines of your network, too)
//!
//! Open <http://127.0.0.1:7777/>: it shows the seconds that the program's own task counts. Press Ctrl-D: the
//! program's standard input ends, the page is told goodbye (1001), and the program ends with status 0.

use smol::{LocalExecutor, Timer, Unblock};
use std::{cell::Cell, env, io, rc::Rc, time::Duration};
use whit::{Closed, Connection, Listener, Response, Server, ShutdownHandle};

/// The program's own work, which knows nothing of the server.
async fn count(seconds: Rc<Cell<u64>>) {
    loop {
        Timer::after(Duration::from_secs(1)).await;
        seconds.set(seconds.get() + 1);
    }
}

/// Answers each message with the present count.
async fn tell(conn: Connection, seconds: Rc<Cell<u64>>) -> Result<(), Closed> {
    loop {
        conn.read().await?;
        conn.write(seconds.get().to_string()).await?;
    }
}

async fn end_with_stdin(shutdown: ShutdownHandle) {
    // Standard input can only be waited for in a thread of its own: `Unblock` has one. An error is an end, too.
    let _ = smol::io::copy(Unblock::new(io::stdin()), smol::io::sink()).await;
    shutdown.shut_down();
}

fn main() -> whit::Result<()> {
    let addr = env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7777".into());
    let listener = Listener::bind(addr)?;
    for addr in listener.local_addrs() {
        eprintln!("open http://{addr}/");
    }
    eprintln!("it ends with its standard input: Ctrl-D");
    let seconds = Rc::new(Cell::new(0));
    let executor = LocalExecutor::new();
    executor.spawn(count(seconds.clone())).detach();

    let server = Server::new()
        .route("/ws", move |conn| tell(conn, seconds.clone()))
        .page("/", |_| Response::html(include_str!("embed.html")));
    executor
        .spawn(end_with_stdin(server.shutdown_handle()))
        .detach();
    // `serve` ends when all clients have parted; the other tasks end with the executor.
    smol::block_on(executor.run(server.serve(listener)))
}

//! `whit run`: a process for each connection, which ends with it, and it with the process.

use crate::{
    cgi, logging,
    process::{Process, Shown},
    run::Flags,
    stdio::{self, Format, Input, LineTooLong, Output, log_errors},
};
use futures_lite::future;
use std::rc::Rc;
use whit::{CloseCode, Closed, Connection};

/// What the processes have in common.
pub(crate) struct PerClient {
    pub(crate) flags: Flags,
    pub(crate) format: Format,
    /// The path of the WebSocket.
    pub(crate) route: String,
}

impl PerClient {
    pub(crate) async fn handle(self: Rc<Self>, conn: Connection) -> Result<(), Closed> {
        let variables = cgi::variables(conn.request(), &self.route);
        let (process, pipes) = match Process::start(&self.flags.command, variables) {
            Ok(started) => started,
            Err(error) => {
                log::error!("cannot run {}: {error}", self.flags.program());
                conn.close(
                    CloseCode::INTERNAL_ERROR,
                    "the process could not be started",
                );
                return Ok(());
            }
        };
        let peer = logging::peer(conn.request());
        let who = format!("{peer} {}[{}]", self.flags.program(), process.id());

        let talking = async {
            let input = Input::new(pipes.input, self.format);
            let mut output = Output::new(pipes.output, self.format);
            let feeding = feed(&conn, &input, self.format);
            let delivering = deliver(&conn, &mut output, &process);
            let talked = future::or(delivering, feeding).await;
            process.end((input, output), self.flags.grace).await;
            talked
        };
        let logging = log_errors(pipes.errors, &process, &who);
        let (talked, ()) = future::zip(talking, logging).await;
        let status = process.into_status().await;
        // Otherwise the connection was closed first.
        if talked.is_ok() {
            match status {
                Ok(status) => conn.close(
                    match status.success() {
                        true => CloseCode::NORMAL,
                        false => CloseCode::INTERNAL_ERROR,
                    },
                    &Shown(status).to_string(),
                ),
                Err(error) => log::error!("{who}: it is not known how it ended: {error}"),
            }
        }
        Ok(())
    }
}

/// Hands on what comes from the client, until the connection is closed.
async fn feed(conn: &Connection, input: &Input, format: Format) -> Result<(), Closed> {
    loop {
        let message = stdio::read(conn, format).await?;
        let writing = async {
            input.write(&message).await;
            Ok(())
        };
        // A process that reads nothing does not see the end either.
        future::or(writing, async { Err(conn.closed().await) }).await?;
    }
}

/// Hands on what comes from the process, until it has ended.
async fn deliver(conn: &Connection, output: &mut Output, process: &Process) -> Result<(), Closed> {
    loop {
        match output.next(process).await {
            Ok(Some(message)) => conn.write(message).await?,
            Ok(None) => return Ok(()),
            Err(LineTooLong) => {
                conn.close(
                    CloseCode::INTERNAL_ERROR,
                    "the process wrote a line that is too long",
                );
                return Err(conn.closed().await);
            }
        }
    }
}

//! Messages to the standard input of a process, messages from its standard output, and lines of its standard error.

use crate::{
    lines::{Line, Lines},
    process::{Inlet, Outlet, Process},
};
use futures_lite::future;
use std::io::IoSlice;
use whit::{CloseCode, Closed, Connection, Message};

/// What messages are to a process.
#[derive(Clone, Copy)]
pub(crate) enum Format {
    /// Each a line of so many bytes at most.
    Text { max_line: usize },
    /// Bytes, as they come.
    Binary,
}

/// The next message for a process from a client, whose connection is closed if it is not of a kind that goes there.
pub(crate) async fn read(conn: &Connection, format: Format) -> Result<Message, Closed> {
    match (format, conn.read().await?) {
        (Format::Text { .. }, Message::Binary(_)) => {
            let reason = "binary messages are not taken here";
            conn.close(CloseCode::UNSUPPORTED_DATA, reason);
            Err(conn.closed().await)
        }
        (_, message) => Ok(message),
    }
}

/// Where messages go to.
pub(crate) struct Input {
    pipe: Inlet,
    format: Format,
}

impl Input {
    pub(crate) fn new(pipe: Inlet, format: Format) -> Self {
        Self { pipe, format }
    }

    /// Gives a message to the process, waiting until it has room for it. One that does not read any more does not miss it.
    pub(crate) async fn write(&self, message: &Message) {
        let end: &[u8] = match self.format {
            Format::Binary => b"",
            Format::Text { .. } => b"\n",
        };
        let mut parts = [message.as_bytes(), end].map(IoSlice::new);
        let _ = self.pipe.write(&mut parts).await;
    }
}

/// Where messages come from.
pub(crate) struct Output {
    outlet: Outlet,
    format: Format,
    lines: Lines,
}

/// A process wrote a line that is longer than may be.
pub(crate) struct LineTooLong;

impl Output {
    pub(crate) fn new(outlet: Outlet, format: Format) -> Self {
        let max = match format {
            Format::Text { max_line } => max_line,
            Format::Binary => usize::MAX,
        };
        Self {
            outlet,
            format,
            lines: Lines::of(max),
        }
    }

    /// The next message, or `None` when the process has ended. Bytes that are not UTF-8 are replaced in a text.
    pub(crate) async fn next(&mut self, process: &Process) -> Result<Option<Message>, LineTooLong> {
        loop {
            if let Format::Text { .. } = self.format {
                match self.lines.next() {
                    Some(Line::Whole(line)) => return Ok(Some(text(line))),
                    Some(Line::Part(_)) => return Err(LineTooLong),
                    None => {}
                }
            }
            // A process that writes without end is not to keep the thread for itself.
            future::yield_now().await;
            let more = self.outlet.read(process, self.lines.tail()).await;
            match self.format {
                Format::Text { .. } if more => {}
                Format::Text { .. } => return Ok(self.lines.last().map(text)),
                Format::Binary => {
                    let bytes = self.lines.last();
                    return Ok(bytes.map(Message::from));
                }
            }
        }
    }
}

fn text(line: &[u8]) -> Message {
    String::from_utf8_lossy(line).into_owned().into()
}

/// Logs each line that a process writes to its standard error, until it has ended.
pub(crate) async fn log_errors(mut errors: Outlet, process: &Process, who: &str) {
    /// A longer one is cut in pieces.
    const LONGEST: usize = 1024;

    let mut lines = Lines::of(LONGEST);
    let log = |line: &[u8]| log::info!("{who}: {}", String::from_utf8_lossy(line));
    while errors.read(process, lines.tail()).await {
        while let Some(Line::Whole(line) | Line::Part(line)) = lines.next() {
            log(line);
            // Each takes a system call, and thousands may have come at once.
            future::yield_now().await;
        }
        future::yield_now().await;
    }
    if let Some(line) = lines.last() {
        log(line);
    }
}

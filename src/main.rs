//! The `whit` command: an echo server with a heartbeat, and a page to try it at.

mod allocator;
mod descriptors;
mod options;
mod owner;

use futures_lite::future;
use options::{Invocation, Mistake, Options};
use owner::Owner;
use std::{
    error::Error,
    fmt::Display,
    io::{self, Write},
    os::unix::fs::chown,
    process::ExitCode,
};
use whit::{Closed, Connection, Listener, Response, Server};

const PAGE: &str = include_str!("page.html");

fn main() -> ExitCode {
    allocator::tune();
    let options = match Options::parse(lexopt::Parser::from_env()) {
        Ok(Invocation::Serve(options)) => options,
        Ok(Invocation::Print(text)) => {
            // Whoever does not read it does not miss it.
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(mistake) => return usage_failure(&mistake),
    };
    log::set_max_level(options.log_level);
    // Fails only where there is a logger already.
    let _ = log::set_logger(&StderrLog);

    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(mistake) = error.downcast_ref().and_then(Mistake::of) {
                return usage_failure(&mistake);
            }
            say(&format_args!("whit: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to standard error. That it may be closed is no reason to stop serving.
fn say(line: &dyn Display) {
    // In one write, so that no other writer's words get into the middle.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn usage_failure(mistake: &Mistake) -> ExitCode {
    say(&format_args!(
        "whit: {mistake} (whit --help tells what there is)"
    ));
    ExitCode::from(2)
}

fn serve(options: &Options) -> Result<(), Box<dyn Error>> {
    let server = server(options);
    server.check()?;
    let max_files = descriptors::raise_limit();
    let listener = listen(options)?;
    let (addrs, paths) = (listener.local_addrs(), listener.local_paths());
    let stats = server.stats_handle();
    // It comes second, so that signals are heeded by the time that it says so.
    let telling_and_trimming = async {
        for addr in addrs {
            say(&format_args!("listening on ws://{addr}{}", options.path));
        }
        for path in paths {
            say(&format_args!(
                "listening on unix:{} (WebSocket at {})",
                path.display(),
                options.path
            ));
        }
        // Beside the connections: those that are turned away, the listeners, and what the reactor needs.
        let needed = options.config.max_connections.saturating_add(100) as u64;
        if let Some(limit) = max_files.filter(|limit| *limit < needed) {
            log::warn!(
                "the system lets it open {limit} files, too few for {} connections: see ulimit -n",
                options.config.max_connections
            );
        }
        loop {
            stats.relieved().await;
            allocator::trim();
        }
    };
    let serving = server.shut_down_on_signals().serve(listener);
    Ok(whit::block_on(future::or(serving, telling_and_trimming))??)
}

fn listen(options: &Options) -> whit::Result<Listener> {
    let mut listener = Listener::default();
    for addr in &options.listen {
        listener.join(match addr.strip_prefix("unix:") {
            Some(path) => listen_at(path, options)?,
            None => Listener::bind(addr.as_str())?,
        });
    }
    Ok(listener)
}

fn listen_at(path: &str, options: &Options) -> whit::Result<Listener> {
    let listener = Listener::bind_unix(path, options.socket_mode)?;
    if let Some(Owner { user, group }) = options.socket_owner {
        chown(path, Some(user), group).map_err(|source| whit::Error::Listen {
            addr: format!("unix:{path}, as its owner cannot be changed"),
            source,
        })?;
    }
    Ok(listener)
}

fn server(options: &Options) -> Server {
    let path = options
        .path
        .replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;");
    let page = bytes::Bytes::from(PAGE.replace("{{path}}", &path));
    let server = Server::new()
        .config(options.config.clone())
        .route(&options.path, echo);
    server.page("/", move |_| {
        Response::html(page.clone()).header(
            "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src ws: wss:",
        )
    })
}

async fn echo(conn: Connection) -> Result<(), Closed> {
    loop {
        conn.write(conn.read().await?).await?;
    }
}

/// Writes the log to standard error, a line each. Whoever starts the command adds the time, as the journal does.
struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("whit")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match record.level() {
            log::Level::Error | log::Level::Warn => {
                say(&format_args!(
                    "{}: {}",
                    record.level().as_str().to_lowercase(),
                    record.args()
                ));
            }
            _ => say(record.args()),
        }
    }

    fn flush(&self) {}
}

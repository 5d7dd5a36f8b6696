//! The `whit` command: an echo server and others, and a page to try them at.

mod allocator;
mod broker;
#[cfg(target_os = "linux")]
mod cgi;
mod descriptors;
mod funnel;
mod input;
#[cfg(target_os = "linux")]
mod lines;
mod logging;
#[cfg(feature = "mqtt")]
mod mqtt;
mod options;
mod owner;
#[cfg(target_os = "linux")]
mod per_client;
#[cfg(target_os = "linux")]
mod process;
mod relay;
mod run;
#[cfg(target_os = "linux")]
mod shared;
#[cfg(target_os = "linux")]
mod stdio;
mod tee;
mod tokens;
mod values;
mod work;

use futures_lite::future;
use log::Level;
use logging::say;
use options::{DEFAULT_LISTEN, Invocation, Job, Options};
use owner::Owner;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use std::{
    env,
    error::Error,
    ffi::OsString,
    io::{self, Write},
    os::unix::fs::lchown,
    process::ExitCode,
    sync::Arc,
};
use values::Mistake;
use whit::{Closed, Config, Connection, Listener, Response, Server};
use work::{Serving, Work};
#[cfg(target_os = "linux")]
use {per_client::PerClient, shared::Shared, std::rc::Rc, stdio::Format};

const PAGE: &str = include_str!("page.html");

fn main() -> ExitCode {
    allocator::tune();
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let options = match Options::parse(&args) {
        Ok(Invocation::Serve(options)) => options,
        Ok(Invocation::Print(text)) => {
            // Whoever does not read it does not miss it.
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(mistake) => return usage_failure(&mistake, &args),
    };
    logging::start(options.log_level);

    match serve(*options, args.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(mistake) = error.downcast_ref::<Mistake>() {
                return usage_failure(mistake, &args);
            }
            if let Some(mistake) = error.downcast_ref().and_then(Mistake::of) {
                return usage_failure(&mistake, &args);
            }
            say(Level::Error, &format_args!("whit: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn usage_failure(mistake: &Mistake, args: &[OsString]) -> ExitCode {
    let help = match Job::named_in(args) {
        Some(job) => format!("whit {job} --help"),
        None => "whit --help".into(),
    };
    say(
        Level::Error,
        &format_args!("whit: {mistake} ({help} tells what there is)"),
    );
    ExitCode::from(2)
}

fn serve(options: Options, args: Vec<OsString>) -> Result<(), Box<dyn Error>> {
    let Work { server, beside } = work(&options)?;
    server.check()?;
    let too_few_files = raise_files(&options);
    let listener = listen(&options)?;
    let (addrs, paths) = (listener.local_addrs(), listener.local_paths());
    let stats = server.stats_handle();
    // It comes second, so that signals are heeded by the time that it says so.
    let telling_and_trimming = async {
        let path = options.path();
        for addr in addrs {
            say(Level::Info, &format_args!("listening on ws://{addr}{path}"));
        }
        for file in paths {
            let file = file.display();
            say(
                Level::Info,
                &format_args!("listening on unix:{file} (WebSocket at {path})"),
            );
        }
        warn_of_few_files(too_few_files);
        loop {
            stats.relieved().await;
            allocator::trim();
        }
    };
    let mut server = server.shut_down_on_signals();
    #[cfg(target_os = "linux")]
    {
        server = server.notify_systemd();
    }
    if options.config_file.is_some() {
        let started_with = options.clone();
        server = server.reload_on_hangup(move || reload(&started_with, &args));
    }
    let serving: Serving = Box::pin(async {
        let served = server.serve_lean(listener).await;
        // It heeds no signals any more, and what the job does after it may take its time.
        end_on_signals()?;
        Ok(served?)
    });
    let serving = match beside {
        Some(beside) => beside(serving),
        None => serving,
    };
    whit::block_on(future::or(serving, telling_and_trimming))?
}

/// Has the system let it open as many files as its connections need. Otherwise tells how many it may, and for how many connections.
fn raise_files(options: &Options) -> Option<(u64, usize)> {
    // Beside the connections: those that are turned away, the listeners, and what the reactor needs.
    const OTHERS: usize = 100;

    let connections = options.config.max_connections;
    let files = connections.saturating_mul(options.job.files_per_connection());
    let limit = descriptors::raise_limit(files.saturating_add(OTHERS) as u64)?;
    Some((limit, connections))
}

fn warn_of_few_files(too_few: Option<(u64, usize)>) {
    if let Some((limit, connections)) = too_few {
        log::warn!(
            "the system lets it open {limit} files, too few for {connections} connections: see ulimit -n"
        );
    }
}

/// Has the next SIGINT or SIGTERM end the process at once.
fn end_on_signals() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // As shells count.
        let status = 128 + signal;
        flag::register_conditional_shutdown(signal, status, Arc::new(true.into()))?;
    }
    Ok(())
}

/// What the command line, and the file that it names, say now.
fn reload(started_with: &Options, args: &[OsString]) -> Result<Config, Box<dyn Error>> {
    let Invocation::Serve(options) = Options::parse(args).map_err(|mistake| mistake.to_string())?
    else {
        return Err("there is nothing to serve".into());
    };
    options
        .config
        .check()
        .map_err(|error| Mistake::from(error).to_string())?;
    if !options.listens_as(started_with) {
        log::warn!("where it listens, and the path, change when it is started again");
    }
    log::set_max_level(options.log_level);
    warn_of_few_files(raise_files(&options));
    Ok(options.config)
}

fn listen(options: &Options) -> whit::Result<Listener> {
    #[cfg(target_os = "linux")]
    let mut listener = Listener::from_systemd()?;
    #[cfg(not(target_os = "linux"))]
    let mut listener = Listener::default();
    let default = (listener.is_empty() && options.listen.is_empty()).then_some(DEFAULT_LISTEN);
    for addr in options.listen.iter().map(String::as_str).chain(default) {
        listener.join(match addr.strip_prefix("unix:") {
            Some(path) => listen_at(path, options)?,
            None => Listener::bind(addr)?,
        });
    }
    Ok(listener)
}

fn listen_at(path: &str, options: &Options) -> whit::Result<Listener> {
    let listener = Listener::bind_unix(path, options.socket_mode)?;
    if let Some(Owner { user, group }) = options.socket_owner {
        lchown(path, Some(user), group).map_err(|error| whit::Error::Listen {
            addr: format!("unix:{path}"),
            source: io::Error::new(
                error.kind(),
                format!("its owner cannot be changed: {error}"),
            ),
        })?;
    }
    Ok(listener)
}

fn work(options: &Options) -> Result<Work, Box<dyn Error>> {
    let server = Server::new().config(options.config.clone());
    let path = options.path();
    // Where it is the beginning of many it is tried at one of them.
    let server = with_page(server, &path.replace('*', "demo"), options.job.title());
    match &options.job {
        Job::Serve => Ok(Work {
            server: server.route(path, echo),
            beside: None,
        }),
        Job::Relay(flags) => Ok(broker::work(server, path, flags, &options.config)?),
        Job::Tee(flags) => Ok(input::work(
            server,
            path,
            flags,
            options.config.max_message_bytes,
        )),
        #[cfg(target_os = "linux")]
        Job::Run(flags) => Ok(run_processes(flags, options, server)?),
        #[cfg(not(target_os = "linux"))]
        Job::Run(_) => Err("run: it is there on Linux only".into()),
    }
}

#[cfg(target_os = "linux")]
fn run_processes(flags: &run::Flags, options: &Options, server: Server) -> io::Result<Work> {
    process::keep_ended()?;
    let (flags, route) = (flags.clone(), options.path().to_owned());
    let format = match flags.binary {
        true => Format::Binary,
        false => Format::Text {
            max_line: options.config.max_message_bytes,
        },
    };
    if flags.shared {
        let shared = Shared::new(flags, format, &server.hub());
        let handled = shared.clone();
        return Ok(Work {
            server: server.route(&route, move |conn| handled.clone().handle(conn)),
            beside: Some(Box::new(|serving| Box::pin(shared.beside(serving)))),
        });
    }
    let each = Rc::new(PerClient {
        flags,
        format,
        route,
    });
    let handled = each.clone();
    Ok(Work {
        server: server.route(&each.route, move |conn| handled.clone().handle(conn)),
        beside: None,
    })
}

/// A page to try the WebSocket at `path`.
fn with_page(server: Server, path: &str, title: &str) -> Server {
    let path = path
        .replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;");
    let page = PAGE.replace("{{path}}", &path).replace("{{title}}", title);
    let page = bytes::Bytes::from(page);
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

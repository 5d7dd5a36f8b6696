//! The command's flags.

use crate::{
    owner::Owner,
    relay, run, tee,
    values::{Mistake, count, mode, or_off, read_file, size, text, time, value},
};
use lexopt::{Parser, prelude::*};
use std::{
    ffi::OsString,
    fmt, io, mem,
    path::{Path, PathBuf},
    time::Duration,
};
use whit::Config;

const HELP: &str = "\
A WebSocket server for small machines.

Usage: whit [COMMAND] [OPTIONS]

Commands:
  serve  Echo every message, with a heartbeat, and a page at / to try it [default]
  run    Run a process for every connection: whit run -- CMD ARGS...
  tee    Send each line of standard input to every client: vmstat 1 | whit tee
  relay  Relay messages between the clients of named topics

'whit COMMAND --help' tells what else a command has.

Options:
      --listen ADDR                Listen on this address, such as 0.0.0.0:7777 or [::1]:0, where port 0 lets
                                   the system choose, or on a unix socket, such as unix:/run/whit/whit.sock.
                                   Repeatable [default: 127.0.0.1:7777]
      --socket-mode MODE           Who may connect to the unix sockets, as for chmod [default: 660]
      --socket-owner USER[:GROUP]  Whose they are, by name or number [default: whoever starts it]
      --path PATH                  The path of the WebSocket [default: /ws, for 'relay' /t/*]
      --heartbeat TIME             Send the text 'heartbeat' to every client this often, or 'off'
                                   [default: 1s for 'serve', otherwise off]
      --ping-interval TIME         Ping every client this often, or 'off' [default: 30s]
      --pong-timeout TIME          End a connection that is silent for so long after a ping; at most the
                                   interval [default: 10s]
      --idle-timeout TIME          Close a connection on which no message passes for so long, or 'off'
                                   [default: 1h]
      --allow-origin ORIGIN        Let web pages of this origin connect too, such as https://example.com, or of
                                   'any'. Pages of this server's own host may always. Repeatable
      --max-connections N          Answer further clients with 503 [default: 1024]
      --max-connections-per-ip N   Answer further clients of one address with 429, or 'off' [default: 64]
      --trusted-proxy ADDR         Believe the X-Forwarded-For of a proxy at this address or network, such as
                                   10.0.0.0/8, or of 'unix', any that comes by a unix socket. Repeatable
      --max-message SIZE           Close a connection that sends a longer message [default: 64KiB]
      --memory SIZE                Bound what all clients together can make it use; at the limit the one that
                                   holds the most is closed with 1013 [default: 32MiB]
      --config FILE                Read flags from this file, too, one in a line as they stand here; lines that
                                   begin with # are comments. The command line comes after it
      --quiet                      Log warnings and errors only
      --verbose                    Log page loads and other details too
      --help                       Print this help
      --version                    Print the version

A TIME is a number of seconds, or has a unit: 500ms, 2s, 1m, 1h. A SIZE is a number of bytes, or has a unit:
64KiB, 1MiB.

Ends on SIGINT or SIGTERM when all clients have parted, or at once on a second one. With --config, SIGHUP has it
read its flags again: all but those that say where it listens, and the path, are heeded at once, --max-message by
those who come then.

Started by systemd it listens on the sockets that it is handed, and says when it is ready, and how it is. Exit status: 0, 2 for a
mistake in the command line, 1 for any other failure.
";

/// What the command is asked for.
pub(crate) enum Invocation {
    Serve(Box<Options>),
    Print(String),
}

pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:7777";

/// What it does with its connections: a subcommand, with the flags of its own.
#[derive(Clone)]
pub(crate) enum Job {
    /// Sends each message back.
    Serve,
    Run(run::Flags),
    Tee(tee::Flags),
    Relay(relay::Flags),
}

impl Job {
    fn named(name: &str) -> Option<Self> {
        match name {
            "serve" => Some(Self::Serve),
            "run" => Some(Self::Run(run::Flags::new())),
            "tee" => Some(Self::Tee(tee::Flags::new())),
            "relay" => Some(Self::Relay(relay::Flags::new())),
            _ => None,
        }
    }

    /// The one that these arguments begin with, also where they cannot be understood.
    pub(crate) fn named_in(args: &[OsString]) -> Option<&str> {
        let first = args.first()?.to_str()?;
        Self::named(first).map(|_| first)
    }

    fn help(&self) -> String {
        match self {
            Self::Serve => HELP.into(),
            Self::Run(_) => run::HELP.into(),
            Self::Tee(_) => tee::HELP.into(),
            Self::Relay(_) => relay::help(),
        }
    }

    /// Sets what depends on the job and was not said.
    fn configure(&self, config: &mut Config) {
        match self {
            Self::Serve => config.heartbeat = Some(Duration::from_secs(1)),
            Self::Run(flags) => flags.configure(config),
            Self::Tee(_) => {}
            // It may stand beside the tokens of clients.
            Self::Relay(_) => config.subprotocols = vec![relay::SUBPROTOCOL.into()],
        }
    }

    /// What its page is headed with.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::Serve => "WebSocket echo",
            Self::Run(_) => "a process",
            Self::Tee(_) => "standard input",
            Self::Relay(_) => "topics",
        }
    }

    fn path(&self) -> &'static str {
        match self {
            Self::Serve | Self::Run(_) | Self::Tee(_) => "/ws",
            Self::Relay(_) => "/t/*",
        }
    }

    /// How many files it has open for each connection.
    pub(crate) fn files_per_connection(&self) -> usize {
        match self {
            Self::Run(flags) => flags.files_per_connection(),
            Self::Serve | Self::Tee(_) | Self::Relay(_) => 1,
        }
    }

    /// Takes a flag that is none of those that all have.
    fn take_flag(&mut self, name: &str, args: &mut Parser) -> Result<(), lexopt::Error> {
        match self {
            Self::Run(flags) => flags.take(name, args),
            Self::Tee(flags) => flags.take(name, args),
            Self::Relay(flags) => flags.take(name, args),
            Self::Serve => Err(Long(name).unexpected()),
        }
    }

    /// Takes an argument that is no flag.
    fn take_word(&mut self, word: OsString, args: &mut Parser) -> Result<(), lexopt::Error> {
        match self {
            Self::Run(flags) => flags.take_command(word, args),
            Self::Serve | Self::Tee(_) | Self::Relay(_) => Err(Value(word).unexpected()),
        }
    }

    /// All was taken.
    fn check(&self, path: &str, config: &Config) -> Result<(), Mistake> {
        match self {
            Self::Run(flags) => flags.check(),
            Self::Relay(flags) => flags.check(path),
            Self::Tee(flags) => flags.check(config.max_message_bytes),
            Self::Serve => Ok(()),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) job: Job,
    /// Somebody named it.
    has_job: bool,
    /// The file that more of them came from.
    pub(crate) config_file: Option<PathBuf>,
    /// Internet addresses, and paths of unix sockets behind `unix:`.
    pub(crate) listen: Vec<String>,
    pub(crate) socket_mode: u32,
    pub(crate) socket_owner: Option<Owner>,
    /// What was said of these two: otherwise they depend on the job.
    path: Option<String>,
    heartbeat: Option<Option<Duration>>,
    pub(crate) config: Config,
    pub(crate) log_level: log::LevelFilter,
}

impl Options {
    /// Parses the arguments behind the command's name, and the file that they name.
    pub(crate) fn parse(args: &[OsString]) -> Result<Invocation, Mistake> {
        let mut options = Self::new();
        if let Some(text) = options.take(Parser::from_args(args))? {
            return Ok(Invocation::Print(text));
        }
        if let Some(file) = options.config_file {
            options = Self::new();
            options.take_file(&file)?;
            options.take(Parser::from_args(args))?;
        }
        options.job.check(options.path(), &options.config)?;
        options.job.configure(&mut options.config);
        if let Some(heartbeat) = options.heartbeat {
            options.config.heartbeat = heartbeat;
        }
        Ok(Invocation::Serve(Box::new(options)))
    }

    fn new() -> Self {
        Self {
            job: Job::Serve,
            has_job: false,
            config_file: None,
            listen: Vec::new(),
            socket_mode: 0o660,
            socket_owner: None,
            path: None,
            heartbeat: None,
            config: Config::new().max_connections_per_ip(64),
            log_level: log::LevelFilter::Info,
        }
    }

    /// The path of the WebSocket.
    pub(crate) fn path(&self) -> &str {
        self.path.as_deref().unwrap_or_else(|| self.job.path())
    }

    /// Whether it is to listen at the same places in the same way.
    pub(crate) fn listens_as(&self, other: &Self) -> bool {
        let places = |options: &Self| (options.listen.clone(), options.path().to_owned());
        places(self) == places(other)
            && self.socket_mode == other.socket_mode
            && self.socket_owner == other.socket_owner
    }

    /// Takes the flags of a file, one in a line.
    fn take_file(&mut self, file: &Path) -> Result<(), Mistake> {
        let wrong = |what: &dyn fmt::Display| Mistake(format!("--config {}{what}", file.display()));
        let text = read_file(file).map_err(|error| wrong(&format_args!(": {error}")))?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let taken = self.take_line(line);
            taken.map_err(|mistake| wrong(&format_args!(", line {number}: {}", mistake.0)))?;
        }
        Ok(())
    }

    fn take_line(&mut self, line: &str) -> Result<(), Mistake> {
        let (flag, value) = match line.split_once(char::is_whitespace) {
            Some((flag, value)) => (flag, Some(value.trim_start())),
            None => (line, None),
        };
        let printed = match flag.starts_with("--") {
            true => self.take(Parser::from_args([flag].into_iter().chain(value)))?,
            false => None,
        };
        if !flag.starts_with("--") || printed.is_some() || self.config_file.is_some() {
            let what = "not one of the flags for a file, such as --listen";
            return Err(Mistake(format!("{flag}: {what}")));
        }
        Ok(())
    }

    /// Takes some arguments. Gives what is to be printed, if that is what they ask for.
    fn take(&mut self, mut args: Parser) -> Result<Option<String>, Mistake> {
        let options = self;
        while let Some(arg) = args.next()? {
            let config = &mut options.config;
            match arg {
                Long("listen") => options.listen.push(text(&mut args)?),
                Long("socket-mode") => {
                    options.socket_mode = value(&mut args, "--socket-mode", mode)?;
                }
                Long("socket-owner") => {
                    options.socket_owner = Some(value(&mut args, "--socket-owner", Owner::of)?);
                }
                Long("path") => options.path = Some(text(&mut args)?),
                Long("heartbeat") => {
                    let heartbeat = value(&mut args, "--heartbeat", |text| or_off(text, time))?;
                    options.heartbeat = Some(heartbeat);
                }
                Long("ping-interval") => {
                    config.ping_interval =
                        value(&mut args, "--ping-interval", |text| or_off(text, time))?;
                }
                Long("pong-timeout") => {
                    config.pong_timeout = value(&mut args, "--pong-timeout", time)?;
                }
                Long("idle-timeout") => {
                    config.idle_timeout =
                        value(&mut args, "--idle-timeout", |text| or_off(text, time))?;
                }
                Long("allow-origin") => {
                    let origin = text(&mut args)?;
                    let taken = mem::take(config);
                    *config = match origin.as_str() {
                        "any" => taken.allow_any_origin(),
                        _ => taken.allow_origin(origin),
                    };
                }
                Long("max-connections") => {
                    config.max_connections = value(&mut args, "--max-connections", count)?;
                }
                Long("max-connections-per-ip") => {
                    config.max_connections_per_ip =
                        value(&mut args, "--max-connections-per-ip", |text| {
                            or_off(text, count)
                        })?;
                }
                Long("trusted-proxy") => {
                    config.trusted_proxies.push(text(&mut args)?.parse()?);
                }
                Long("max-message") => {
                    config.max_message_bytes = value(&mut args, "--max-message", size)?
                }
                Long("memory") => {
                    config.memory_budget_bytes = value(&mut args, "--memory", size)?;
                }
                Long("config") => options.config_file = Some(args.value()?.into()),
                Long("quiet") => options.log_level = log::LevelFilter::Warn,
                Long("verbose") => options.log_level = log::LevelFilter::Debug,
                Long("help") | Short('h') => return Ok(Some(options.job.help())),
                Long("version") | Short('V') => {
                    return Ok(Some(
                        concat!("whit ", env!("CARGO_PKG_VERSION"), "\n").into(),
                    ));
                }
                Long(name) => {
                    let name = name.to_owned();
                    options.job.take_flag(&name, &mut args)?;
                }
                Value(name) if !options.has_job => {
                    options.has_job = true;
                    let job = name.to_str().and_then(Job::named);
                    options.job = job.ok_or_else(|| Value(name).unexpected())?;
                }
                Value(word) => options.job.take_word(word, &mut args)?,
                arg => return Err(arg.unexpected().into()),
            }
        }
        Ok(None)
    }
}

impl Mistake {
    /// The mistake that the library found, if it is one. The library names a field and the value it got: the user knows the
    /// flag.
    pub(crate) fn of(error: &whit::Error) -> Option<Self> {
        match error {
            whit::Error::Config { field, value, rule } => {
                let flag = match *field {
                    "heartbeat" => "--heartbeat",
                    "ping_interval" => "--ping-interval",
                    "pong_timeout" => "--pong-timeout",
                    "idle_timeout" => "--idle-timeout",
                    "origins" => "--allow-origin",
                    "trusted_proxies" => "--trusted-proxy",
                    "max_connections" => "--max-connections",
                    "max_connections_per_ip" => "--max-connections-per-ip",
                    "max_message_bytes" => "--max-message",
                    "memory_budget_bytes" => "--memory",
                    field => field,
                };
                let rule = rule
                    .replace("ping_interval", "--ping-interval")
                    .replace("max_message_bytes", "--max-message");
                Some(Self(format!("{flag} {value}: {rule}")))
            }
            whit::Error::Route { path, rule } => Some(Self(format!("--path {path}: {rule}"))),
            whit::Error::Listen { addr, source }
                if source.kind() == io::ErrorKind::InvalidInput =>
            {
                Some(Self(format!(
                    "--listen {addr}: {source}: an address and a port such as 0.0.0.0:7777, or unix:PATH"
                )))
            }
            _ => None,
        }
    }
}

impl From<whit::Error> for Mistake {
    fn from(error: whit::Error) -> Self {
        Self::of(&error).unwrap_or_else(|| Self(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Options, String> {
        let mut options = Options::new();
        for line in text.lines() {
            options
                .take_line(line)
                .map_err(|mistake| mistake.to_string())?;
        }
        Ok(options)
    }

    #[test]
    fn a_file_has_flags_as_the_command_line_has() {
        let options =
            lines("--listen  0.0.0.0:80\n--listen unix:/run/a b\n--quiet\n--heartbeat\toff")
                .unwrap();
        assert_eq!(options.listen, ["0.0.0.0:80", "unix:/run/a b"]);
        assert_eq!(options.log_level, log::LevelFilter::Warn);
        assert_eq!(options.heartbeat, Some(None));
        for (bad, expected) in [
            ("listen 0.0.0.0:80", "listen: not one of the flags"),
            ("serve", "serve: not one of the flags"),
            ("-h", "-h: not one of the flags"),
            ("--help", "--help: not one of the flags"),
            ("--config x", "--config: not one of the flags"),
            ("--config=x", "--config=x: not one of the flags"),
            ("--quiet please", "unexpected argument \"please\""),
            ("--loud", "invalid option '--loud'"),
            ("--binary", "invalid option '--binary'"),
            ("--listen", "missing argument for option '--listen'"),
        ] {
            let mistake = lines(bad).err().unwrap();
            assert!(mistake.starts_with(expected), "{bad}: {mistake}");
        }
    }
}

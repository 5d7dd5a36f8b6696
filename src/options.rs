//! The command's flags.

use crate::owner::Owner;
use lexopt::{Parser, ValueExt, prelude::*};
use std::{
    fmt::{self, Write},
    io,
    time::Duration,
};
use whit::Config;

const HELP: &str = "\
A WebSocket echo server with a heartbeat, and a page at / to try it.

Usage: whit [serve] [OPTIONS]

Options:
      --listen ADDR                Listen on this address, such as 0.0.0.0:7777 or [::1]:0, where port 0 lets
                                   the system choose, or on a unix socket, such as unix:/run/whit/whit.sock.
                                   Repeatable [default: 127.0.0.1:7777]
      --socket-mode MODE           Who may connect to the unix sockets, as for chmod [default: 660]
      --socket-owner USER[:GROUP]  Whose they are, by name or number [default: whoever starts it]
      --path PATH                  The path of the WebSocket [default: /ws]
      --heartbeat TIME             Send the text 'heartbeat' to every client this often, or 'off' [default: 1s]
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
      --quiet                      Log warnings and errors only
      --verbose                    Log page loads and other details too
      --help                       Print this help
      --version                    Print the version

A TIME is a number of seconds, or has a unit: 500ms, 2s, 1m, 1h. A SIZE is a number of bytes, or has a unit:
64KiB, 1MiB.

Ends on SIGINT or SIGTERM when all clients have parted, or at once on a second one. Exit status: 0, 2 for a
mistake in the command line, 1 for any other failure.
";

/// What the command is asked to do.
pub(crate) enum Invocation {
    Serve(Box<Options>),
    Print(String),
}

pub(crate) struct Options {
    /// Internet addresses, and paths of unix sockets behind `unix:`.
    pub(crate) listen: Vec<String>,
    pub(crate) socket_mode: u32,
    pub(crate) socket_owner: Option<Owner>,
    pub(crate) path: String,
    pub(crate) config: Config,
    pub(crate) log_level: log::LevelFilter,
}

impl Options {
    pub(crate) fn parse(mut args: Parser) -> Result<Invocation, Mistake> {
        let mut options = Self {
            listen: Vec::new(),
            socket_mode: 0o660,
            socket_owner: None,
            path: "/ws".into(),
            config: Config::new()
                .heartbeat(Duration::from_secs(1))
                .max_connections_per_ip(64),
            log_level: log::LevelFilter::Info,
        };
        let mut named_command = false;
        while let Some(arg) = args.next()? {
            let config = &mut options.config;
            match arg {
                Long("listen") => options.listen.push(args.value()?.string()?),
                Long("socket-mode") => {
                    options.socket_mode = value(&mut args, "--socket-mode", mode)?;
                }
                Long("socket-owner") => {
                    options.socket_owner = Some(value(&mut args, "--socket-owner", Owner::of)?);
                }
                Long("path") => options.path = args.value()?.string()?,
                Long("heartbeat") => {
                    config.heartbeat = value(&mut args, "--heartbeat", |text| or_off(text, time))?
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
                    let origin = args.value()?.string()?;
                    options.config = match origin.as_str() {
                        "any" => options.config.allow_any_origin(),
                        _ => options.config.allow_origin(origin),
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
                    let text = args.value()?.string()?;
                    config.trusted_proxies.push(text.parse()?);
                }
                Long("max-message") => {
                    config.max_message_bytes = value(&mut args, "--max-message", size)?
                }
                Long("memory") => {
                    config.memory_budget_bytes = value(&mut args, "--memory", size)?;
                }
                Long("quiet") => options.log_level = log::LevelFilter::Warn,
                Long("verbose") => options.log_level = log::LevelFilter::Debug,
                Long("help") | Short('h') => return Ok(Invocation::Print(HELP.into())),
                Long("version") | Short('V') => {
                    return Ok(Invocation::Print(
                        concat!("whit ", env!("CARGO_PKG_VERSION"), "\n").into(),
                    ));
                }
                Value(command) if command == "serve" && !named_command => named_command = true,
                arg => return Err(arg.unexpected().into()),
            }
        }
        if options.listen.is_empty() {
            options.listen.push("127.0.0.1:7777".into());
        }
        Ok(Invocation::Serve(Box::new(options)))
    }
}

/// A mistake in the command line. It quotes what the user gave, and is one line whatever that was.
pub(crate) struct Mistake(String);

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
                Some(Self(format!("{flag} {value}: {rule}")))
            }
            whit::Error::Route { path, rule } => Some(Self(format!("--path {path}: {rule}"))),
            whit::Error::Listen { addr, source }
                if source.kind() == io::ErrorKind::InvalidInput =>
            {
                Some(Self(format!("--listen {addr}: {source}")))
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

impl From<lexopt::Error> for Mistake {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            if c.is_control() {
                c.escape_default().fmt(f)
            } else {
                f.write_char(c)
            }
        })
    }
}

/// The next argument as the value of `flag`.
fn value<T>(
    args: &mut Parser,
    flag: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<T, lexopt::Error> {
    let text = args.value()?.string()?;
    parse(&text).map_err(|rule| format!("{flag} {text}: {rule}").into())
}

fn or_off<T>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, &'static str> {
    if text == "off" {
        Ok(None)
    } else {
        parse(text).map(Some)
    }
}

fn count(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "not a whole number")
}

fn mode(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ ..=0o777) if text.len() >= 3 => Ok(mode),
        _ => Err("not a mode: three octal digits such as 660"),
    }
}

fn size(text: &str) -> Result<usize, &'static str> {
    const RULE: &str = "not a size: a number of bytes, or one with a unit such as 64KiB or 1MiB";
    let (number, unit) = number_and_unit(text).ok_or(RULE)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(RULE),
    };
    let bytes = number
        .checked_mul(factor)
        .and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or("more than this machine can count")
}

fn time(text: &str) -> Result<Duration, &'static str> {
    const RULE: &str =
        "not a time: a number of seconds, or one with a unit such as 500ms, 2s or 1m";
    let (number, unit) = number_and_unit(text).ok_or(RULE)?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(RULE),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or("longer than anyone can wait")
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("2MiB"), Ok(2 << 20));
        for bad in [
            "",
            "KiB",
            "64kb",
            "-1",
            "1.5MiB",
            "99999999999999999999",
            "64 KiB",
        ] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        assert!(size("99999999999999GiB").is_err());
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(mode("660"), Ok(0o660));
        assert_eq!(mode("0600"), Ok(0o600));
        for bad in ["", "6", "888", "1777", "rw-", "-60", "0o660"] {
            assert!(mode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("1"), Ok(Duration::from_secs(1)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "1.5", "-1s", "1d", "18446744073709551615h"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }
}

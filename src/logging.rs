//! The command's log: lines on standard error, for the journal with their priorities (sd-daemon(3)).

use std::{
    env,
    fmt::{self, Display, Write as _},
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::OnceLock,
};
use whit::Request;

/// Begins to log what is as important as `level`, or more. Whoever starts the command adds the time, as the journal does.
pub(crate) fn start(level: log::LevelFilter) {
    log::set_max_level(level);
    // Fails only where there is a logger already.
    let _ = log::set_logger(&Logger);
}

/// Writes a line, whatever is logged: what would end it, or command the terminal, is shown and not done. That standard error may be closed is no reason to stop serving.
pub(crate) fn say(level: log::Level, line: &dyn Display) {
    let line = OneLine(line);
    let line = match is_journal() {
        true => format!("<{}>{line}\n", priority(level)),
        false => format!("{line}\n"),
    };
    // In one write, so that no other writer's words get into the middle.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// A client as the log names it.
pub(crate) fn peer(request: &Request) -> String {
    match request.peer_addr() {
        // As a proxy told it.
        Some(addr) if addr.port() == 0 => addr.ip().to_string(),
        Some(addr) => addr.to_string(),
        None => "local".into(),
    }
}

/// Shows what it has without control characters.
pub(crate) struct OneLine<'a>(pub(crate) &'a dyn Display);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaped<'a, 'b>(&'a mut fmt::Formatter<'b>);

        impl fmt::Write for Escaped<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c.is_control() {
                    true => write!(self.0, "{}", c.escape_default()),
                    false => self.0.write_char(c),
                })
            }
        }

        write!(Escaped(f), "{}", self.0)
    }
}

/// Whether standard error is the one that systemd connected to the journal (systemd.exec(5)).
fn is_journal() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let stderr = || {
            File::from(io::stderr().as_fd().try_clone_to_owned().ok()?)
                .metadata()
                .ok()
        };
        let id = stderr().map(|file| format!("{}:{}", file.dev(), file.ino()));
        id.is_some() && id == env::var("JOURNAL_STREAM").ok()
    })
}

/// As syslog(3) has it.
fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("whit")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (level, words) = (record.level(), record.args());
        match level {
            log::Level::Error => say(level, &format_args!("error: {words}")),
            log::Level::Warn => say(level, &format_args!("warn: {words}")),
            _ => say(level, words),
        }
    }

    fn flush(&self) {}
}

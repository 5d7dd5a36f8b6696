//! The flags of `whit run`.

use crate::values::{Mistake, at_least_one, count, time, value};
use lexopt::{Parser, prelude::*};
use std::{env, ffi::OsString, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use whit::Config;

pub(crate) const HELP: &str = "\
Runs a process for every WebSocket connection: each message is a line of its standard input, each line of its
standard output is a message, and its standard error goes to the log.

Usage: whit run [OPTIONS] [--] CMD ARGS...

The process is told of the request as in CGI: REQUEST_METHOD, SCRIPT_NAME, PATH_INFO, QUERY_STRING, REMOTE_ADDR,
REMOTE_PORT, SERVER_PROTOCOL, SERVER_SOFTWARE, and HTTP_... for its headers, but for secrets. With --path '/*' it
serves all paths.

When it ends the connection is closed with 1000 if its exit status is 0, otherwise with 1011, and a reason such as
'exit status 3' or 'signal 9'. When the connection ends it gets SIGTERM, with all processes that it started.

Options:
      --binary           Messages are bytes as they come and go, not lines
      --shared           One process for all clients: what it writes goes to all that keep up with it, what any of
                         them sends goes to it. It runs from the start, and is started again when it ends, after
                         1 s, 2 s and so on up to 30 s
      --grace TIME       Send SIGKILL if it is still there so long after SIGTERM [default: 5s]
      --max-processes N  Answer further clients with 503 [default: 64]

'whit --help' tells the options that all commands have.
";

/// For a process to be gone once it was killed.
pub(crate) const MARGIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Flags {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    pub(crate) binary: bool,
    pub(crate) shared: bool,
    pub(crate) grace: Duration,
    max_processes: Option<usize>,
}

impl Flags {
    pub(crate) fn new() -> Self {
        Self {
            command: Vec::new(),
            binary: false,
            shared: false,
            grace: Duration::from_secs(5),
            max_processes: None,
        }
    }

    /// Takes the flag `--name`.
    pub(crate) fn take(&mut self, name: &str, args: &mut Parser) -> Result<(), lexopt::Error> {
        match name {
            "binary" => self.binary = true,
            "shared" => self.shared = true,
            "grace" => self.grace = value(args, "--grace", grace)?,
            "max-processes" => {
                self.max_processes = Some(value(args, "--max-processes", at_least_one(count))?);
            }
            _ => return Err(Long(name).unexpected()),
        }
        Ok(())
    }

    /// Takes the program, and all that is behind it.
    pub(crate) fn take_command(
        &mut self,
        program: OsString,
        args: &mut Parser,
    ) -> Result<(), lexopt::Error> {
        self.command = vec![program];
        self.command.extend(args.raw_args()?);
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<(), Mistake> {
        let Some(program) = self.command.first() else {
            return Err(Mistake(
                "run: it takes a command, as in whit run -- cat".into(),
            ));
        };
        if !is_program(Path::new(program)) {
            let program = Path::new(program).display();
            return Err(Mistake(format!("run {program}: there is no such program")));
        }
        if self.shared && self.max_processes.is_some() {
            return Err(Mistake(
                "--max-processes: there is one, with --shared".into(),
            ));
        }
        Ok(())
    }

    /// Sets what the server has to do with.
    pub(crate) fn configure(&self, config: &mut Config) {
        if self.shared {
            return;
        }
        // A connection counts until its handler has returned, which is when its process is gone.
        config.max_connections = config.max_connections.min(self.max_processes.unwrap_or(64));
        config.close_timeout = config.close_timeout.max(self.grace + MARGIN);
        config.drain_timeout = config.drain_timeout.max(config.close_timeout + MARGIN);
    }

    /// How many files a connection is: its socket, and for its process three pipes and a pidfd.
    pub(crate) fn files_per_connection(&self) -> usize {
        if self.shared { 1 } else { 5 }
    }

    /// The program, as the log names it.
    #[cfg(target_os = "linux")]
    pub(crate) fn program(&self) -> String {
        let program = self.command.first().map(Path::new);
        let name = program.and_then(Path::file_name).unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// Whether the system would find it, and may run it.
fn is_program(program: &Path) -> bool {
    let may_run = |path: &Path| {
        let file = path.metadata();
        file.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 || program.is_absolute() {
        return may_run(program);
    }
    // Where it is not set glibc looks there.
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    env::split_paths(&path).any(|directory| may_run(&directory.join(program)))
}

fn grace(text: &str) -> Result<Duration, &'static str> {
    match time(text)? {
        time if time > Duration::from_secs(3600) => Err("a process gets 1 h at most"),
        time => Ok(time),
    }
}

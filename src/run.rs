//! The flags of `whit run`.

use crate::options::Mistake;
use lexopt::{Parser, prelude::*};
use std::ffi::OsString;

pub(crate) const HELP: &str = "\
Runs a process for every WebSocket connection.

Usage: whit run [OPTIONS] -- CMD ARGS...

'whit --help' tells the options that all commands have.
";

#[derive(Clone)]
pub(crate) struct Flags {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
}

impl Flags {
    pub(crate) fn new() -> Self {
        Self {
            command: Vec::new(),
        }
    }

    /// Takes the flag `--name`.
    pub(crate) fn take(&mut self, name: &str, _args: &mut Parser) -> Result<(), lexopt::Error> {
        Err(Long(name).unexpected())
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
        match self.command.is_empty() {
            true => Err(Mistake(
                "run: it takes a command, as in whit run -- cat".into(),
            )),
            false => Ok(()),
        }
    }
}

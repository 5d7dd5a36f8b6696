//! The flags of `whit tee`.

use crate::values::{Mistake, at_least_one, count, policy, size, value};
use lexopt::{Parser, prelude::*};
use whit::Policy;

pub(crate) const HELP: &str = "\
Sends each line of standard input to every client, as a text message. The page at / shows the lines, and plots them
where they are numbers. When the input ends, what was read is sent, and it ends.

Usage: COMMAND | whit tee [OPTIONS]

Options:
      --binary             Send what is read as it comes, as binary messages
      --chunk SIZE         Binary messages of this size, at most --max-message
      --length-prefixed    Binary messages with their lengths before them: 4 bytes each, the first the highest
      --retain             The newest message greets each newcomer
      --replay N           The newest N do
      --policy POLICY      What becomes of a client that is too slow: drop-oldest, drop-newest, latest (all but the
                           newest message are dropped) or close [default: drop-oldest]
      --capacity N         So many messages may wait for a client [default: 1024]
      --send-back          Write what clients send to standard output, where it is dropped otherwise: texts with a line
                           end behind each, binary messages as they are

'whit --help' tells the options that all commands have. A line that is longer than --max-message comes in several messages; what is not UTF-8
comes as U+FFFD.
";

#[derive(Clone)]
pub(crate) struct Flags {
    pub(crate) cut: Cut,
    /// So many messages greet a newcomer.
    pub(crate) keep: usize,
    policy: fn(usize) -> Policy,
    pub(crate) capacity: usize,
    pub(crate) sends_back: bool,
}

/// Where a message ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Lines,
    Reads,
    Chunks(usize),
    Lengths,
}

impl Flags {
    pub(crate) fn new() -> Self {
        Self {
            cut: Cut::Lines,
            keep: 0,
            policy: Policy::DropOldest,
            capacity: 1024,
            sends_back: false,
        }
    }

    /// Takes the flag `--name`.
    pub(crate) fn take(&mut self, name: &str, args: &mut Parser) -> Result<(), lexopt::Error> {
        match name {
            "binary" if self.cut == Cut::Lines => self.cut = Cut::Reads,
            "binary" => {}
            "chunk" => self.cut_at(Cut::Chunks(value(args, "--chunk", at_least_one(size))?))?,
            "length-prefixed" => self.cut_at(Cut::Lengths)?,
            "retain" => self.keep = self.keep.max(1),
            "replay" => self.keep = self.keep.max(value(args, "--replay", count)?),
            "policy" => self.policy = value(args, "--policy", policy)?,
            "capacity" => self.capacity = value(args, "--capacity", at_least_one(count))?,
            "send-back" => self.sends_back = true,
            _ => return Err(Long(name).unexpected()),
        }
        Ok(())
    }

    fn cut_at(&mut self, cut: Cut) -> Result<(), lexopt::Error> {
        if let (Cut::Chunks(_), Cut::Lengths) | (Cut::Lengths, Cut::Chunks(_)) = (self.cut, cut) {
            return Err("--chunk and --length-prefixed: one of them".into());
        }
        self.cut = cut;
        Ok(())
    }

    /// All was taken.
    pub(crate) fn check(&self, max_message_bytes: usize) -> Result<(), Mistake> {
        match self.cut {
            Cut::Chunks(bytes) if bytes > max_message_bytes => Err(Mistake(format!(
                "--chunk: {bytes} bytes are more than --max-message, {max_message_bytes}"
            ))),
            _ => Ok(()),
        }
    }

    /// What becomes of slow clients.
    pub(crate) fn policy(&self) -> Policy {
        (self.policy)(self.capacity)
    }
}

//! The flags of `whit relay`.

#[cfg(feature = "mqtt")]
use crate::mqtt;
use crate::values::{Mistake, at_least_one, count, policy, value};
use lexopt::Parser;
use std::path::PathBuf;
use whit::Policy;

const HELP: &str = "\
Relays messages between clients, by topics: what a client of /t/NAME sends goes to all clients of /t/NAME.

Usage: whit relay [OPTIONS]

A client of /t/NAME?publish gets nothing. One of /t/house/* gets the messages of all topics whose names begin
with house/, each behind its topic's name and a line feed, and one of /t/* those of all topics; these cannot send.
A newcomer is greeted with the newest message of its topic. An empty message clears that.

Options:
      --replay N                 Greet a newcomer with so many of the newest messages of its topic, or none with 0
                                 [default: 1]
      --policy POLICY            What becomes of a reader that is too slow: it misses the oldest messages that wait
                                 for it (drop-oldest), or those that come (drop-newest), or all but the newest of a
                                 topic (latest), or is closed with 1013 (close) [default: drop-oldest]
      --capacity N               So many messages wait for a reader before that [default: 256]
      --max-topics N             Close clients of further topics with 1013 [default: 1024]
      --publish-token-file FILE  Only clients that show the token in this file may publish
      --read-token-file FILE     Only clients that show the token in this file may read
      --path PATH                Where the topics are; * stands for their names [default: /t/*]

A client shows a token in the header 'Authorization: Bearer TOKEN', in the query '?token=TOKEN', or, beside the
subprotocol 'whit', in the subprotocol 'whit.token.TOKEN'. It may show both tokens.

'whit --help' tells the options that all commands have.
";

#[cfg(feature = "mqtt")]
const MQTT_HELP: &str = mqtt::HELP;
#[cfg(not(feature = "mqtt"))]
const MQTT_HELP: &str = "";

pub(crate) fn help() -> String {
    [HELP, MQTT_HELP].concat()
}

/// The subprotocol that is agreed on with a client that shows a token in another: browsers go away where none is.
pub(crate) const SUBPROTOCOL: &str = "whit";

#[derive(Clone)]
pub(crate) struct Flags {
    pub(crate) replay: usize,
    policy: fn(usize) -> Policy,
    capacity: usize,
    pub(crate) max_topics: usize,
    pub(crate) publish_token_file: Option<PathBuf>,
    pub(crate) read_token_file: Option<PathBuf>,
    #[cfg(feature = "mqtt")]
    pub(crate) mqtt: mqtt::Flags,
}

impl Flags {
    pub(crate) fn new() -> Self {
        Self {
            replay: 1,
            policy: Policy::DropOldest,
            capacity: 256,
            max_topics: 1024,
            publish_token_file: None,
            read_token_file: None,
            #[cfg(feature = "mqtt")]
            mqtt: mqtt::Flags::new(),
        }
    }

    /// Takes the flag `--name`.
    pub(crate) fn take(&mut self, name: &str, args: &mut Parser) -> Result<(), lexopt::Error> {
        match name {
            "replay" => self.replay = value(args, "--replay", count)?,
            "policy" => self.policy = value(args, "--policy", policy)?,
            "capacity" => self.capacity = value(args, "--capacity", at_least_one(count))?,
            "max-topics" => self.max_topics = value(args, "--max-topics", at_least_one(count))?,
            "publish-token-file" => self.publish_token_file = Some(args.value()?.into()),
            "read-token-file" => self.read_token_file = Some(args.value()?.into()),
            #[cfg(feature = "mqtt")]
            name => self.mqtt.take(name, args)?,
            #[cfg(not(feature = "mqtt"))]
            "mqtt" => {
                return Err(
                    "--mqtt: this whit is built without it: cargo install --locked --path . --features mqtt"
                        .into(),
                );
            }
            #[cfg(not(feature = "mqtt"))]
            name => return Err(lexopt::Arg::Long(name).unexpected()),
        }
        Ok(())
    }

    /// All was taken.
    pub(crate) fn check(&self, path: &str) -> Result<(), Mistake> {
        if !path.ends_with("/*") {
            return Err(Mistake(format!(
                "--path {path}: the path of topics ends in /*, as /t/* does"
            )));
        }
        #[cfg(feature = "mqtt")]
        self.mqtt.check()?;
        Ok(())
    }

    /// What becomes of slow readers.
    pub(crate) fn policy(&self) -> Policy {
        (self.policy)(self.capacity)
    }
}

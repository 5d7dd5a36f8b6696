//! The flags of a bridge.

use super::{Bridge, Broker, Options, Outbox, QoS};
use crate::values::{Mistake, value};
use lexopt::{Parser, prelude::*};
use std::path::PathBuf;

pub(crate) const HELP: &str = "
Topics that are shared with an MQTT broker, which speaks MQTT 5:
      --mqtt URL                 At this one: mqtt://[USER[:PASSWORD]@]HOST[:PORT]
      --mqtt-password-file FILE  The password is in this file, and not seen by all on this machine
      --mqtt-prefix PREFIX       What stands before the topics' names there, such as site1/ [default: nothing]
      --mqtt-qos QOS             Send a message once (0), or until the broker has it (1) [default: 1]
";

#[derive(Clone)]
pub(crate) struct Flags {
    broker: Option<Broker>,
    password_file: Option<PathBuf>,
    prefix: Option<String>,
    qos: Option<QoS>,
}

impl Flags {
    pub(crate) fn new() -> Self {
        Self {
            broker: None,
            password_file: None,
            prefix: None,
            qos: None,
        }
    }

    /// Takes the flag `--name`.
    pub(crate) fn take(&mut self, name: &str, args: &mut Parser) -> Result<(), lexopt::Error> {
        match name {
            "mqtt" => self.broker = Some(broker(args)?),
            "mqtt-password-file" => self.password_file = Some(args.value()?.into()),
            "mqtt-prefix" => self.prefix = Some(value(args, "--mqtt-prefix", Options::prefix)?),
            "mqtt-qos" => self.qos = Some(value(args, "--mqtt-qos", Options::qos)?),
            _ => return Err(Long(name).unexpected()),
        }
        Ok(())
    }

    /// All was taken.
    pub(crate) fn check(&self) -> Result<(), Mistake> {
        let vain = [
            (self.password_file.is_some(), "--mqtt-password-file"),
            (self.prefix.is_some(), "--mqtt-prefix"),
            (self.qos.is_some(), "--mqtt-qos"),
        ];
        match vain.into_iter().find(|(is_given, _)| *is_given) {
            Some((_, flag)) if self.broker.is_none() => Err(Mistake(format!(
                "{flag}: there is no broker without --mqtt"
            ))),
            _ => Ok(()),
        }
    }

    /// The bridge that they ask for, if they do.
    pub(crate) fn bridge(
        &self,
        max_message_bytes: usize,
    ) -> Result<Option<(Bridge, Outbox)>, Mistake> {
        let Some(mut broker) = self.broker.clone() else {
            return Ok(None);
        };
        if let Some(file) = &self.password_file {
            let password = broker.read_password(file);
            password.map_err(|wrong| Mistake(format!("--mqtt-password-file {wrong}")))?;
        }
        Ok(Some(Bridge::new(Options {
            broker,
            prefix: self.prefix.clone().unwrap_or_default(),
            qos: self.qos.unwrap_or(QoS::Level1),
            max_message_bytes,
        })))
    }
}

/// No mistake may quote the URL: there may be a password in it.
fn broker(args: &mut Parser) -> Result<Broker, lexopt::Error> {
    let url = args.value()?.into_string();
    let url = url.map_err(|_| "--mqtt: the URL is not UTF-8")?;
    Broker::parse(&url).map_err(|wrong| format!("--mqtt {wrong}").into())
}

//! The clients of named topics: who reads, who publishes, and where all that is published passes.

#[cfg(feature = "mqtt")]
mod shared;

use crate::{
    relay::{Flags, SUBPROTOCOL},
    tokens::{Token, queried},
    values::Mistake,
    work::Work,
};
use percent_encoding::percent_decode_str;
use std::{error::Error, fmt, path::PathBuf, rc::Rc};
use whit::{CloseCode, Config, Connection, Hub, Message, Policy, Request, Response, Server, Topic};

/// As many as the log shows of a path.
const MAX_NAME_BYTES: usize = 255;

/// Has the server relay between the clients at `path`, which ends in `*`: in its place stand the topics' names.
pub(crate) fn work(
    server: Server,
    path: &str,
    flags: &Flags,
    #[cfg_attr(
        not(feature = "mqtt"),
        expect(unused_variables, reason = "it bounds what another broker may send")
    )]
    config: &Config,
) -> Result<Work, Mistake> {
    let token = |flag, file: &Option<PathBuf>| {
        let token = file.as_ref().map(|file| Token::read(flag, file));
        token.transpose()
    };
    #[cfg(feature = "mqtt")]
    let (bridge, outbox) = flags.mqtt.bridge(config.max_message_bytes)?.unzip();
    let broker = Rc::new(Broker {
        hub: server.hub(),
        prefix: path.trim_end_matches('*').into(),
        replay: flags.replay,
        policy: flags.policy(),
        max_topics: flags.max_topics,
        publish_token: token("--publish-token-file", &flags.publish_token_file)?,
        read_token: token("--read-token-file", &flags.read_token_file)?,
        #[cfg(feature = "mqtt")]
        share: outbox.map(shared::Share::new),
    });
    let guard = broker.clone();
    let handled = broker.clone();
    let server = server
        .guard(move |request| match guard.judge(request) {
            Ok(_) => Ok(()),
            Err(denial) => Err(denial.into()),
        })
        .route(path, move |conn| handled.clone().attend(conn));
    #[cfg(feature = "mqtt")]
    let beside = bridge.map(|bridge| shared::beside(broker, bridge));
    #[cfg(not(feature = "mqtt"))]
    let beside = None;
    Ok(Work { server, beside })
}

struct Broker {
    hub: Hub,
    /// What paths have before the names of topics.
    prefix: Box<str>,
    replay: usize,
    policy: Policy,
    max_topics: usize,
    publish_token: Option<Token>,
    read_token: Option<Token>,
    #[cfg(feature = "mqtt")]
    share: Option<shared::Share>,
}

/// What a client is let in for.
struct Visit {
    place: Place,
    reads: bool,
    may_publish: bool,
}

/// What the end of a path names.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Topic(String),
    /// All topics whose names begin so.
    Topics(String),
}

/// Whether a client may do something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    /// As everybody may.
    Common,
    /// It shows the token for it.
    Shown,
    Missing,
}

/// Why a client is not let in.
#[derive(Debug)]
enum Denial {
    BadName(&'static str),
    NoToken(&'static str),
}

impl Broker {
    /// What a client is let in for, if it is.
    fn judge(&self, request: &Request) -> Result<Visit, Denial> {
        let name = request.path().strip_prefix(&*self.prefix);
        let place = Place::named(name.unwrap_or_default()).map_err(Denial::BadName)?;
        let is_one = matches!(place, Place::Topic(_));
        let read = right(self.read_token.as_ref(), request);
        let publish = right(self.publish_token.as_ref(), request);
        let only_publishes = queried(request).any(|(name, _)| name == "publish");
        if only_publishes && !is_one {
            return Err(Denial::BadName("it can only be read, being of many topics"));
        }
        // A client that shows this token and not the other has nothing else in mind.
        let only_publishes =
            only_publishes || is_one && (read, publish) == (Right::Missing, Right::Shown);
        match only_publishes {
            true if publish == Right::Missing => Err(Denial::NoToken("publish")),
            false if read == Right::Missing => Err(Denial::NoToken("read")),
            _ => Ok(Visit {
                place,
                reads: !only_publishes,
                may_publish: publish != Right::Missing,
            }),
        }
    }

    /// Talks to a client.
    async fn attend(self: Rc<Self>, conn: Connection) -> Result<(), Box<dyn Error>> {
        // As the guard did.
        let visit = self.judge(conn.request())?;
        let name = match visit.place {
            Place::Topic(name) => name,
            Place::Topics(prefix) => {
                let _subscription = self.hub.subscribe(&prefix, &conn, self.policy);
                return refuse_messages(&conn, "who reads many topics cannot publish").await;
            }
        };
        let Some(topic) = self.topic(&name) else {
            let reason = format!("there are {} topics, and no more", self.max_topics);
            conn.close(CloseCode::TRY_AGAIN_LATER, &reason);
            return Ok(());
        };
        let _subscription = visit.reads.then(|| topic.subscribe(&conn, self.policy));
        if !visit.may_publish {
            return refuse_messages(&conn, "publishing takes a token").await;
        }
        loop {
            let message = conn.read().await?;
            #[cfg(feature = "mqtt")]
            if let Some(share) = &self.share {
                share.send(&name, message.clone(), self.replay > 0);
            }
            publish(&topic, message);
        }
    }

    /// The topic of this name, or `None` where it would be one too many.
    fn topic(&self, name: &str) -> Option<Topic> {
        self.hub.find(name).or_else(|| {
            (self.hub.len() < self.max_topics).then(|| {
                let topic = self.hub.topic(name);
                topic.keep(self.replay);
                topic
            })
        })
    }
}

/// All that is published passes here, whoever it is from: an empty message clears what newcomers are greeted with.
fn publish(topic: &Topic, message: Message) {
    let clears = message.is_empty();
    topic.publish(message);
    if clears {
        topic.forget();
    }
}

/// Closes if the client sends anything.
async fn refuse_messages(conn: &Connection, reason: &str) -> Result<(), Box<dyn Error>> {
    conn.read().await?;
    conn.close(CloseCode::POLICY_VIOLATION, reason);
    Ok(())
}

fn right(token: Option<&Token>, request: &Request) -> Right {
    match token {
        None => Right::Common,
        Some(token) if token.is_shown_in(request) => Right::Shown,
        Some(_) => Right::Missing,
    }
}

/// Whether topics may have this name, or one that begins so.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("a topic has a name");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("a name has 255 bytes at most");
    }
    // Brokers of MQTT take none with + or # (MQTT 3.1.1, 4.7.1).
    if name.contains(['*', '+', '#']) {
        return Err(
            "a name has no *, + or #, but for /* at the end, which means all that begin so",
        );
    }
    if name.contains(char::is_control) {
        return Err("a name has no control characters");
    }
    Ok(())
}

impl Place {
    /// What stands in an address, percent-encoded.
    fn named(encoded: &str) -> Result<Self, &'static str> {
        let Ok(name) = percent_decode_str(encoded).decode_utf8() else {
            return Err("a name is UTF-8");
        };
        let prefix = name.strip_suffix('*');
        let prefix = prefix.filter(|prefix| prefix.is_empty() || prefix.ends_with('/'));
        match prefix {
            Some("") => Ok(Self::Topics(String::new())),
            Some(prefix) => check_name(prefix).map(|()| Self::Topics(prefix.into())),
            None => check_name(&name).map(|()| Self::Topic(name.into())),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(rule) => write!(f, "this is not a topic's address: {rule}"),
            Self::NoToken(right) => write!(
                f,
                "to {right} here takes a token: in the header Authorization: Bearer TOKEN, in the query ?token=TOKEN, or, beside \
                 the subprotocol {SUBPROTOCOL}, in the subprotocol whit.token.TOKEN"
            ),
        }
    }
}

impl Error for Denial {}

impl From<Denial> for Response {
    fn from(denial: Denial) -> Self {
        let answer = |status, phrase| {
            let text = format!("{status} {phrase}: {denial}\n");
            Self::new(status, "text/plain; charset=utf-8", text)
        };
        match denial {
            Denial::BadName(_) => answer(400, "Bad Request"),
            // RFC 9110 11.6.1 demands the header.
            Denial::NoToken(_) => answer(401, "Unauthorized").header("WWW-Authenticate", "Bearer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_and_judged() {
        let topic = |name: &str| Ok(Place::Topic(name.into()));
        let topics = |prefix: &str| Ok(Place::Topics(prefix.into()));
        assert_eq!(Place::named("house/kitchen"), topic("house/kitchen"));
        assert_eq!(Place::named("k%C3%BCche%20%3F"), topic("küche ?"));
        assert_eq!(Place::named("küche"), topic("küche"));
        assert_eq!(Place::named("a%2Fb//"), topic("a/b//"));
        assert_eq!(Place::named("100%"), topic("100%"));
        assert_eq!(Place::named("*"), topics(""));
        assert_eq!(Place::named("house/*"), topics("house/"));
        assert_eq!(Place::named("house/%2a"), topics("house/"));
        assert_eq!(Place::named(&"x".repeat(255)), topic(&"x".repeat(255)));
        for bad in [
            "",
            "%FF",
            "a%0Ab",
            "a%00",
            "%C2%85",
            "a+",
            "%23",
            "a*",
            "*/a",
            "a/*/*",
            "+/*",
            "a%0A/*",
            &"x".repeat(256),
        ] {
            assert!(Place::named(bad).is_err(), "{bad:?}");
        }
    }
}

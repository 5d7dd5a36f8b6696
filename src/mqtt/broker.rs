//! Where the broker is, and who connects: `mqtt://[USER[:PASSWORD]@]HOST[:PORT]`.

use bytes::Bytes;
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
    str,
};

/// What a user name and a password have at most, and a name of a topic (MQTT 5, 1.5.4).
pub(super) const MAX_STRING_BYTES: usize = 65_535;

/// A broker, and who connects to it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Broker {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: Option<String>,
    pub(super) password: Option<Bytes>,
}

impl Broker {
    /// Parses `mqtt://[USER[:PASSWORD]@]HOST[:PORT]`, where the port is 1883 if none is given, an IPv6 address is in brackets,
    /// and what would end the user or the password is escaped, such as `%40` for `@`.
    ///
    /// # Errors
    ///
    /// The URL, without what may be a password, and the rule.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        parse(url).map_err(|rule| format!("{}: {rule}", without_secrets(url)))
    }

    /// Takes the password from a file, whose last line end is none of it. The command line, where it would be otherwise, is seen by
    /// everybody on the machine.
    ///
    /// # Errors
    ///
    /// The file, and why it cannot be read, or the rule.
    pub(crate) fn read_password(&mut self, file: &Path) -> Result<(), String> {
        let wrong = |what: &dyn fmt::Display| format!("{}: {what}", file.display());
        if self.password.is_some() {
            return Err(wrong(&"the URL has a password already"));
        }
        let mut password = read(file).map_err(|error| wrong(&error))?;
        let end = password.strip_suffix(b"\n").unwrap_or(&password);
        let end = end.strip_suffix(b"\r").unwrap_or(end).len();
        password.truncate(end);
        if password.is_empty() || password.len() > MAX_STRING_BYTES {
            return Err(wrong(&"a password has 1 to 65535 bytes"));
        }
        self.password = Some(password.into());
        Ok(())
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut password = Vec::new();
    // More is too much in any case.
    let most = MAX_STRING_BYTES as u64 + 3;
    File::open(file)?.take(most).read_to_end(&mut password)?;
    Ok(password)
}

/// For the log: never the password.
impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broker({self})")
    }
}

fn parse(url: &str) -> Result<Broker, &'static str> {
    let Some(rest) = url.strip_prefix("mqtt://") else {
        return Err(match url.starts_with("mqtts://") {
            true => "there is no TLS to brokers yet: mqtt:// only",
            false => "not a broker's URL, such as mqtt://192.168.1.2:1883",
        });
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (secrets, place) = match rest.rsplit_once('@') {
        Some((secrets, place)) => (Some(secrets), place),
        None => (None, rest),
    };
    if place.contains(['/', '?', '#']) {
        return Err(
            "nothing comes behind the port: what is before an @ is escaped, such as %2F for /",
        );
    }
    let (host, port) = host_and_port(place)?;
    let (user, password) =
        match secrets.map(|secrets| secrets.split_once(':').unwrap_or((secrets, ""))) {
            Some((user, password)) => (Some(decode(user)?), decode(password)?),
            None => (None, Vec::new()),
        };
    let user = match user.map(String::from_utf8) {
        Some(Ok(user)) if user.is_empty() || user.chars().any(char::is_control) => {
            return Err("a user has a name, without control characters");
        }
        Some(Err(_)) => return Err("the user is not UTF-8"),
        Some(Ok(user)) => Some(user),
        None => None,
    };
    let too_long = |len: usize| len > MAX_STRING_BYTES;
    if too_long(password.len()) || user.as_ref().is_some_and(|user| too_long(user.len())) {
        return Err("a user, and a password, has at most 65535 bytes");
    }
    Ok(Broker {
        host: host.into(),
        port,
        user,
        password: (!password.is_empty()).then(|| password.into()),
    })
}

fn host_and_port(place: &str) -> Result<(&str, u16), &'static str> {
    const DEFAULT_PORT: u16 = 1883;

    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("an IPv6 address ends with ]")?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0),
        None => port.is_empty().then_some(DEFAULT_PORT),
    };
    if host.is_empty() || host.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("there is no host in it, such as mqtt://192.168.1.2:1883");
    }
    let port =
        port.ok_or("a port is a number from 1 to 65535, and an IPv6 address is in brackets")?;
    Ok((host, port))
}

fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut decoded = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next())? << 4 | hex_digit(bytes.next())?,
            _ => byte,
        });
    }
    Ok(decoded)
}

fn hex_digit(byte: Option<u8>) -> Result<u8, &'static str> {
    match byte {
        Some(byte @ b'0'..=b'9') => Ok(byte - b'0'),
        Some(byte @ b'a'..=b'f') => Ok(byte - b'a' + 10),
        Some(byte @ b'A'..=b'F') => Ok(byte - b'A' + 10),
        _ => Err("behind a % there are two hexadecimal digits: % itself is %25"),
    }
}

fn without_secrets(url: &str) -> String {
    let scheme = url.find("://").map_or(0, |end| end + "://".len());
    let (scheme, rest) = url.split_at(scheme);
    match (rest.rsplit_once('@'), rest.split_once(':')) {
        (Some((_, place)), _) => format!("{scheme}...@{place}"),
        // Where the host was forgotten a password stands in the port's place.
        (None, Some((host, _))) => format!("{scheme}{host}:..."),
        (None, None) => url.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_url_tells_where_and_who() {
        let parsed = |url| {
            let broker = Broker::parse(url).unwrap();
            let password = broker.password.as_deref().map(<[u8]>::to_vec);
            (broker.to_string(), broker.user, password)
        };
        let (user, password) = (Some("me@home".into()), Some(b"p:\xffw".to_vec()));
        for (url, expected) in [
            ("mqtt://broker", ("broker:1883".into(), None, None)),
            ("mqtt://broker:1884/", ("broker:1884".into(), None, None)),
            ("mqtt://[::1]", ("[::1]:1883".into(), None, None)),
            (
                "mqtt://u@[fe80::1]:9",
                ("[fe80::1]:9".into(), Some("u".into()), None),
            ),
            (
                "mqtt://me%40home:p:%FFw@10.0.0.1",
                ("10.0.0.1:1883".into(), user, password),
            ),
        ] {
            assert_eq!(parsed(url), expected, "{url}");
        }
    }

    #[test]
    fn a_bad_url_is_told_with_its_rule_and_without_its_password() {
        for (url, expected) in [
            ("mqtts://broker", "mqtts://broker: there is no TLS"),
            ("tcp://broker", "tcp://broker: not a broker's URL"),
            ("broker:1883", "broker:...: not a broker's URL"),
            ("mqtt://", "mqtt://: there is no host"),
            ("mqtt://a b", "mqtt://a b: there is no host"),
            ("mqtt://u:secret@", "mqtt://...@: there is no host"),
            ("mqtts://u:secret@b", "mqtts://...@b: there is no TLS"),
            ("u:secret@b", "...@b: not a broker's URL"),
            ("mqtt://u:secret@b:0", "mqtt://...@b:0: a port is"),
            ("mqtt://b:65536", "mqtt://b:...: a port is"),
            ("mqtt://::1", "mqtt://:...: there is no host"),
            ("mqtt://fe80::1", "mqtt://fe80:...: a port is"),
            ("mqtt://[::1", "mqtt://[:...: an IPv6 address"),
            ("mqtt://[::1]x", "mqtt://[:...: a port is"),
            ("mqtt://b/topic", "mqtt://b/topic: nothing comes behind"),
            ("mqtt://:secret@b", "mqtt://...@b: a user has a name"),
            ("mqtt://u:secret", "mqtt://u:...: a port is"),
            ("mqtt://u:secret/", "mqtt://u:...: a port is"),
            ("mqtt:u:secret", "mqtt:...: not a broker's URL"),
            ("u:secret", "u:...: not a broker's URL"),
            ("mqtt://u%00@b", "mqtt://...@b: a user has a name"),
            ("mqtt://%FF@b", "mqtt://...@b: the user is not UTF-8"),
            ("mqtt://u:%4@b", "mqtt://...@b: behind a %"),
        ] {
            let mistake = Broker::parse(url).unwrap_err();
            assert!(mistake.starts_with(expected), "{url}: {mistake}");
            assert!(!mistake.contains("secret"), "{mistake}");
        }
    }

    #[test]
    fn a_password_can_be_in_a_file() {
        let file = std::env::temp_dir().join(format!("whit-password-{}", std::process::id()));
        let read = |url, content: &[u8]| {
            fs::write(&file, content).unwrap();
            let mut broker = Broker::parse(url).unwrap();
            let result = broker.read_password(&file);
            result.map(|()| broker.password.unwrap().to_vec())
        };
        assert_eq!(read("mqtt://u@b", b"a b\n"), Ok(b"a b".to_vec()));
        assert_eq!(read("mqtt://u@b", b" \n\r\n"), Ok(b" \n".to_vec()));
        assert_eq!(read("mqtt://u@b", &[b'x'; 65_535]).unwrap().len(), 65_535);
        for (url, content) in [
            ("mqtt://u@b", &b"\n"[..]),
            ("mqtt://u@b", &[b'x'; 65_536]),
            ("mqtt://u:p@b", b"a"),
        ] {
            assert!(read(url, content).is_err());
        }
        fs::remove_file(&file).unwrap();
        assert!(
            Broker::parse("mqtt://b")
                .unwrap()
                .read_password(&file)
                .is_err()
        );
    }

    #[test]
    fn the_password_is_not_shown() {
        let broker = Broker::parse("mqtt://u:secret@b").unwrap();
        assert_eq!(format!("{broker} {broker:?}"), "b:1883 Broker(b:1883)");
    }
}

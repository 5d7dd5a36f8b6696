//! Which proxies are believed, and what they say of their clients.

use crate::error::Error;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// Where a proxy is that tells the truth about its clients in `X-Forwarded-For`: see
/// [`Config::trusted_proxies`](field@crate::Config::trusted_proxies).
///
/// It is an address, a network such as `10.0.0.0/8`, or `unix` for whoever connects by a unix socket.
///
/// # Examples
///
/// ```
/// use whit::{Config, TrustedProxy};
///
/// let near = "unix".parse::<TrustedProxy>()?;
/// let config = Config::new().trusted_proxies([near, "10.0.0.0/8".parse()?]);
/// # Ok::<(), whit::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedProxy(Place);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// So many leading bits of the address count.
    Network(IpAddr, u8),
    Unix,
}

impl TrustedProxy {
    fn includes(self, peer: Option<IpAddr>) -> bool {
        match (self.0, peer.map(|ip| ip.to_canonical())) {
            (Place::Unix, None) => true,
            (Place::Network(IpAddr::V4(network), prefix), Some(IpAddr::V4(ip))) => {
                let differing = network.to_bits() ^ ip.to_bits();
                differing.leading_zeros() >= prefix.into()
            }
            (Place::Network(IpAddr::V6(network), prefix), Some(IpAddr::V6(ip))) => {
                let differing = network.to_bits() ^ ip.to_bits();
                differing.leading_zeros() >= prefix.into()
            }
            _ => false,
        }
    }
}

impl From<IpAddr> for TrustedProxy {
    fn from(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self(Place::Network(ip, bits(ip)))
    }
}

impl FromStr for TrustedProxy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None if text == "unix" => return Ok(Self(Place::Unix)),
            None => (text, None),
        };
        let network = || {
            let ip: IpAddr = ip.parse().ok()?;
            let prefix = match prefix {
                Some(prefix) => prefix.parse().ok()?,
                None => bits(ip),
            };
            match ip.to_canonical() {
                // The first 96 bits of such an address say that it is one of IPv4.
                mapped @ IpAddr::V4(_) if ip.is_ipv6() && (96..=128).contains(&prefix) => {
                    Some(Place::Network(mapped, prefix - 96))
                }
                _ => (prefix <= bits(ip)).then_some(Place::Network(ip, prefix)),
            }
        };
        network().map(Self).ok_or_else(|| Error::Config {
            field: "trusted_proxies",
            value: format!("{text:?}"),
            rule: "a proxy is an address such as 192.0.2.1, a network such as 10.0.0.0/8, or unix",
        })
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Network(ip, prefix) if prefix == bits(ip) => ip.fmt(f),
            Place::Network(ip, prefix) => write!(f, "{ip}/{prefix}"),
            Place::Unix => f.write_str("unix"),
        }
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Whether one of these is at the other end of a socket.
pub(crate) fn is_trusted(proxies: &[TrustedProxy], peer: Option<SocketAddr>) -> bool {
    let peer = peer.map(|peer| peer.ip());
    proxies.iter().any(|proxy| proxy.includes(peer))
}

/// The client in the members of an `X-Forwarded-For` that came from one of these. Each proxy adds whom it sees to the end, so
/// that the last address which is not a proxy's is the client's; what is before it anyone may have written. `None` where a
/// proxy did not tell.
pub(crate) fn client<'a>(
    proxies: &[TrustedProxy],
    forwarded_for: impl Iterator<Item = &'a str>,
) -> Option<IpAddr> {
    let addresses = forwarded_for.map(address);
    addresses.fold(None, |client: Option<Option<IpAddr>>, next| {
        match (client, next) {
            (Some(client), Some(ip)) if proxies.iter().any(|proxy| proxy.includes(Some(ip))) => {
                Some(client)
            }
            _ => Some(next),
        }
    })?
}

/// Some proxies add the port.
fn address(member: &str) -> Option<IpAddr> {
    let with_port = || Some(member.parse::<SocketAddr>().ok()?.ip());
    member.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> TrustedProxy {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_a_network_and_unix_are_places() {
        let includes = |text, ip: &str| proxy(text).includes(Some(ip.parse().unwrap()));
        assert!(includes("192.0.2.1", "192.0.2.1"));
        assert!(includes("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!includes("192.0.2.1", "192.0.2.2"));
        assert!(includes("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(includes("::ffff:10.0.0.0/104", "10.255.0.1"));
        assert!(!includes("::ffff:10.0.0.0/104", "11.0.0.1"));
        assert!(includes("10.0.0.0/8", "10.255.0.1"));
        assert!(!includes("10.0.0.0/8", "11.0.0.1"));
        assert!(includes("0.0.0.0/0", "192.0.2.1"));
        assert!(!includes("0.0.0.0/0", "2001:db8::1"));
        assert!(includes("2001:db8::/32", "2001:db8:1::1"));
        assert!(!includes("2001:db8::/32", "2001:db9::1"));
        assert!(!includes("unix", "127.0.0.1"));
        assert!(proxy("unix").includes(None));
        assert!(!proxy("0.0.0.0/0").includes(None));
        assert_eq!(
            TrustedProxy::from(IpAddr::from([10, 0, 0, 1])),
            proxy("10.0.0.1")
        );
    }

    #[test]
    fn what_is_no_place_is_refused_with_the_rule() {
        for bad in [
            "",
            "local",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.1:80",
        ] {
            let error = bad.parse::<TrustedProxy>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("trusted_proxies is {bad:?}: ")),
                "{error}"
            );
        }
        for good in ["unix", "10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1"] {
            assert_eq!(proxy(good).to_string(), good);
        }
    }

    #[test]
    fn the_last_that_is_no_proxy_is_the_client() {
        let proxies = [proxy("10.0.0.0/8"), proxy("unix")];
        let client = |list: &str| {
            let client = client(
                &proxies,
                list.split(',').filter(|member| !member.is_empty()),
            );
            client.map(|ip| ip.to_string())
        };
        for (list, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1,10.0.0.2", Some("192.0.2.1")),
            ("192.0.2.1,10.0.0.2,10.0.0.3", Some("192.0.2.1")),
            // What the client itself claimed.
            ("127.0.0.1,192.0.2.1", Some("192.0.2.1")),
            ("10.9.9.9,192.0.2.1,10.0.0.2", Some("192.0.2.1")),
            // A client beside the proxies.
            ("10.0.0.7", Some("10.0.0.7")),
            ("10.0.0.7,10.0.0.2", Some("10.0.0.7")),
            ("192.0.2.1:4711", Some("192.0.2.1")),
            ("[2001:db8::1]:4711", Some("2001:db8::1")),
            ("192.0.2.1,unknown", None),
            ("192.0.2.1,unknown,10.0.0.2", None),
            ("unknown,192.0.2.1", Some("192.0.2.1")),
            ("", None),
        ] {
            assert_eq!(client(list).as_deref(), expected, "{list}");
        }
    }
}

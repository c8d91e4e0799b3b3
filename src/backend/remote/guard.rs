//! Which addresses may be dialled.
//!
//! URLs in a class come from users of the database: without a guard they could make this sidecar ask anything it can
//! reach. So classes may only name hosts that the operator allows with `--allow-upstream` or has named himself as
//! upstreams. The check is of the very address that is then dialled: names are resolved here, the connection is pinned
//! to the address that was checked, so a name that changes its address between check and use changes nothing.
//!
//! Link-local, metadata, unspecified and multicast addresses are refused to everybody, in all the ways IPv6 has of
//! writing an IPv4 address. Loopback is refused to classes unless allowed as an address or as `localhost`: an allowed
//! *name* does not open it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::Address;
use crate::error::{Error, ErrorKind, Result};

/// What the refusals point to.
pub const FLAG: &str = "--allow-upstream (T2V_ALLOW_UPSTREAM)";

/// Addresses at which clouds tell machines their secrets, beyond the link-local ones.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// One entry of `--allow-upstream`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// This name.
    Name(String),
    /// Every name that ends so, with the dot.
    Suffix(String),
    /// Addresses with these first bits.
    Network(IpAddr, u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    host: Host,
    port: Option<u16>,
    /// Named by the operator as an upstream: loopback is meant if it is what the name says.
    own: bool,
}

/// The hosts that classes may name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed(Vec<Pattern>);

impl Allowed {
    /// Reads a comma-separated list of `host`, `*.suffix`, `address` and `network/bits`, each with an optional `:port`.
    /// IPv6 in brackets if a port follows.
    ///
    /// # Errors
    /// `Config` for an entry that is none of these.
    pub fn parse(list: &str) -> Result<Allowed> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries.map(Pattern::parse).collect::<Result<_>>().map(Allowed)
    }

    /// Allows what the operator has named as an upstream, at its port.
    pub fn allow(&mut self, address: &Address) {
        let host = match address.literal() {
            Some(ip) => Host::Network(embedded(ip), bits(embedded(ip))),
            None => Host::Name(address.host().to_ascii_lowercase()),
        };
        self.0.push(Pattern { host, port: Some(address.port()), own: true });
    }

    /// Whether nothing at all is allowed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a class may name this host at all, as far as the text tells: spares looking up names that are never
    /// dialled.
    pub fn may_resolve(&self, address: &Address) -> Result<()> {
        let networks = || self.0.iter().any(|pattern| matches!(pattern.host, Host::Network(..)));
        if address.literal().is_some() || self.name(address).is_some() || networks() {
            Ok(())
        } else {
            Err(refused(address))
        }
    }

    /// Whether a pattern allows the name itself.
    pub fn knows(&self, address: &Address) -> bool {
        self.name(address).is_some()
    }

    /// Whether a class that names `address` may dial `ip`.
    ///
    /// # Errors
    /// `PermissionDenied`, naming the flag.
    pub fn check(&self, address: &Address, ip: IpAddr) -> Result<()> {
        never(address, ip)?;
        let ip = embedded(ip);
        let by_address = self.0.iter().any(|pattern| pattern.covers(ip, address.port()));
        let by_name = || match self.name(address) {
            Some(pattern) => !ip.is_loopback() || pattern.own || is_localhost(address.host()),
            None => false,
        };
        if by_address || by_name() { Ok(()) } else { Err(refused(address)) }
    }

    fn name(&self, address: &Address) -> Option<&Pattern> {
        if address.literal().is_some() {
            return None;
        }
        let host = address.host().to_ascii_lowercase();
        let fits = |pattern: &&Pattern| pattern.port.is_none_or(|port| port == address.port()) && pattern.names(&host);
        // The operator's own upstream counts more.
        self.0.iter().filter(fits).max_by_key(|pattern| pattern.own)
    }
}

impl Pattern {
    fn parse(entry: &str) -> Result<Pattern> {
        let wrong = || {
            Error::config(format!(
                "'{entry}' is not a host, *.suffix, address or network/bits with an optional :port; see {FLAG}"
            ))
        };
        let (host, port) = match entry.strip_prefix('[') {
            Some(rest) => match rest.split_once(']').ok_or_else(wrong)? {
                (host, "") => (host, None),
                (host, port) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            },
            None => match entry.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                _ => (entry, None),
            },
        };
        let port = port.map(str::parse).transpose().map_err(|_| wrong())?;
        let host = Host::parse(host).ok_or_else(wrong)?;
        Ok(Pattern { host, port, own: false })
    }

    fn names(&self, host: &str) -> bool {
        match &self.host {
            Host::Name(name) => name == host,
            Host::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Host::Network(..) => false,
        }
    }

    fn covers(&self, ip: IpAddr, port: u16) -> bool {
        let Host::Network(network, length) = self.host else { return false };
        self.port.is_none_or(|own| own == port)
            && prefix(network, length) == prefix(ip, length)
            && network.is_ipv4() == ip.is_ipv4()
    }
}

impl Host {
    fn parse(text: &str) -> Option<Host> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Host::Network(embedded(ip), bits(embedded(ip))));
        }
        if let Some((ip, length)) = text.split_once('/') {
            let (ip, length) = (ip.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
            return (length <= bits(ip)).then_some(Host::Network(ip, length));
        }
        let name = text.to_ascii_lowercase();
        let is_name = |name: &str| {
            !name.is_empty()
                && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
                && !name.starts_with('.')
        };
        match name.strip_prefix("*.") {
            Some(suffix) => is_name(suffix).then(|| Host::Suffix(format!(".{suffix}"))),
            None => is_name(&name).then_some(Host::Name(name)),
        }
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Refuses what nobody may dial, the operator included.
pub fn never(address: &Address, ip: IpAddr) -> Result<()> {
    let inner = embedded(ip);
    let reason = if METADATA.contains(&ip) || METADATA.contains(&inner) {
        "an address of a cloud's metadata service"
    } else if inner.is_unspecified() || matches!(inner, IpAddr::V4(v4) if v4.octets()[0] == 0) {
        "an unspecified address"
    } else if inner.is_multicast() || ip.is_multicast() || inner == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "a multicast or broadcast address"
    } else if is_link_local(inner) || is_link_local(ip) {
        "a link-local address"
    } else {
        return Ok(());
    };
    let message = format!("\"{}\" leads to {reason}, which is never dialled, whatever {FLAG} says", address.shown());
    Err(Error::new(ErrorKind::PermissionDenied, message))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        // fe80::/10, and the site-local fec0::/10 that came before fc00::/7.
        IpAddr::V6(v6) => v6.segments()[0] & 0xff80 == 0xfe80,
    }
}

/// The refusal that names the flag.
pub fn refused(address: &Address) -> Error {
    let message =
        format!("\"{}\" is no upstream that a class may name: the operator allows hosts with {FLAG}", address.shown());
    Error::new(ErrorKind::PermissionDenied, message)
}

/// The IPv4 address within an IPv6 one: mapped, compatible, NAT64 (64:ff9b::/96 and 64:ff9b:1::/48), 6to4, Teredo's client.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => ip,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, .., high, low] => v4(!high, !low),
        _ => ip,
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The first bits of an address, the rest zero.
fn prefix(ip: IpAddr, length: u8) -> u128 {
    let (value, width) = match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    match u32::from(width - length.min(width)) {
        128 => 0,
        rest => value >> rest << rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(list: &str, url: &str, ip: &str) -> bool {
        let address = Address::parse(url).expect("a URL");
        Allowed::parse(list).expect("patterns").check(&address, ip.parse().expect("an address")).is_ok()
    }

    #[test]
    fn patterns_allow_what_they_say() {
        for (list, url, ip, expected) in [
            ("models.example", "http://models.example:8080", "10.0.0.1", true),
            ("models.example", "http://MODELS.example.:8080", "10.0.0.1", true),
            ("models.example", "http://x.models.example", "10.0.0.1", false),
            ("models.example:8080", "http://models.example:8080", "10.0.0.1", true),
            ("models.example:8080", "http://models.example", "10.0.0.1", false),
            ("*.example", "http://a.b.example", "1.2.3.4", true),
            ("*.example", "http://example", "1.2.3.4", false),
            ("*.example", "http://evilexample", "1.2.3.4", false),
            ("10.0.0.0/8", "http://any.name", "10.9.8.7", true),
            ("10.0.0.0/8", "http://any.name", "11.9.8.7", false),
            ("10.0.0.0/8:80", "http://any.name:81", "10.9.8.7", false),
            ("10.0.0.0/8", "http://[::ffff:10.1.1.1]", "::ffff:10.1.1.1", true),
            ("[fd00::/8]:80", "http://[fd12::1]", "fd12::1", true),
            ("fd00::/8", "http://[fe12::1]", "fe12::1", false),
            ("::/0", "http://10.0.0.1", "10.0.0.1", false),
            // A name does not open loopback; an address or localhost does.
            ("models.example", "http://models.example", "127.0.0.1", false),
            ("models.example", "http://models.example", "::ffff:127.0.0.1", false),
            ("localhost", "http://localhost", "127.0.0.1", true),
            ("127.0.0.0/8", "http://models.example", "127.0.0.1", true),
            ("::1", "http://[::1]:80", "::1", true),
        ] {
            assert_eq!(allowed(list, url, ip), expected, "{list} {url} {ip}");
        }
    }

    #[test]
    fn some_addresses_are_for_nobody() {
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fec0::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "::ffff:0.0.0.0",
            "::ffff:0:169.254.169.254",
            "2001:0:1::5601:5601",
        ] {
            assert!(!allowed("0.0.0.0/0,::/0,anything.example", "http://anything.example", ip), "{ip}");
        }
    }

    #[test]
    fn entries_that_are_no_pattern_are_refused() {
        for entry in ["http://x", "a b", "10.0.0.0/33", "x:port", "[::1", "*.", "*", "x/8", ".x"] {
            assert!(Allowed::parse(entry).is_err(), "{entry}");
        }
    }
}

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
//!
//! A host is not all that a URL names. At the operator's own upstream, and wherever his credentials go along, a class may
//! name one of the models there (`/models/<name>`) and no other path, unless an entry lists that path; and nowhere a query
//! or a fragment, which would swallow the path that this sidecar puts behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::base_url::Address;
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
    /// Beginning of the paths an entry lists, without a slash at its end; `None`: it says nothing of paths.
    path: Option<String>,
    /// Named by the operator as an upstream: loopback is meant if it is what the name says.
    own: Option<Own>,
}

/// The operator's own upstream, beside its host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Own {
    tls: bool,
    /// Path of its base URL, without a slash at its end.
    base: String,
}

/// The hosts that classes may name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed(Vec<Pattern>);

impl Allowed {
    /// Reads a comma-separated list of `host`, `*.suffix`, `address` and `network/bits`, each with an optional `:port` and
    /// an optional `/path`, with which every path below it is meant. IPv6 in brackets if either follows.
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
        let own = Own { tls: address.is_tls(), base: address.path().trim_end_matches('/').to_owned() };
        self.0.push(Pattern { host, port: Some(address.port()), path: None, own: Some(own) });
    }

    /// Whether nothing at all is allowed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a class may name this at all, as far as the text tells: spares looking up names that are never dialled.
    ///
    /// # Errors
    /// `PermissionDenied`, naming the flag.
    pub fn may_resolve(&self, address: &Address) -> Result<()> {
        let networks = || self.0.iter().any(|pattern| matches!(pattern.host, Host::Network(..)));
        if address.literal().is_none() && !self.knows(address) && !networks() {
            return Err(refused(address));
        }
        let swallows = || {
            let message = format!(
                "\"{}\" has a query or a fragment, which no upstream of a class may have, whatever {FLAG} says",
                address.shown()
            );
            Error::new(ErrorKind::PermissionDenied, message).naming(address.place())
        };
        if address.adds_up() { Ok(()) } else { Err(swallows()) }
    }

    /// Whether a pattern allows the name itself.
    pub fn knows(&self, address: &Address) -> bool {
        self.named(address).next().is_some()
    }

    /// Whether a class that names `address` may dial `ip` and ask there for what it names. `with_credentials`: the
    /// operator's go along.
    ///
    /// # Errors
    /// `PermissionDenied`, naming the flag.
    pub fn check(&self, address: &Address, ip: IpAddr, with_credentials: bool) -> Result<()> {
        never(address, ip)?;
        let ip = embedded(ip);
        let is_own = |pattern: &Pattern| pattern.own.is_some();
        let names_open = !ip.is_loopback() || is_localhost(address.host()) || self.named(address).any(is_own);
        let by_address = self.0.iter().filter(|pattern| pattern.covers(ip, address.port()));
        let by_name = self.named(address).filter(|_| names_open);
        let open: Vec<&Pattern> = by_address.chain(by_name).collect();
        if open.is_empty() {
            return Err(refused(address));
        }
        // Where one of them is the operator's own, another that says nothing of paths opens no more of it.
        let careful = with_credentials || open.iter().any(|pattern| is_own(pattern));
        let permits = |pattern: &&Pattern| match (&pattern.own, &pattern.path) {
            (Some(own), _) => {
                own.tls == address.is_tls() && (own.leads_to(address.path()) || is_model("", address.path()))
            }
            (None, Some(path)) => is_below(path, address.path()),
            (None, None) => !careful || (with_credentials && is_usual(address)),
        };
        if open.iter().any(permits) { Ok(()) } else { Err(path_refused(address)) }
    }

    /// The patterns that allow the name itself.
    fn named(&self, address: &Address) -> impl Iterator<Item = &Pattern> {
        let host = address.literal().is_none().then(|| address.host().to_ascii_lowercase());
        let fits = move |pattern: &&Pattern| {
            pattern.port.is_none_or(|port| port == address.port())
                && host.as_deref().is_some_and(|host| pattern.names(host))
        };
        self.0.iter().filter(fits)
    }
}

impl Own {
    /// The base itself, or a model below it.
    fn leads_to(&self, path: &str) -> bool {
        is_model(&self.base, path)
    }
}

/// Whether a path is `base`, or `/models/<name>` below it, where a name may have an organisation in front.
fn is_model(base: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(base).map(|rest| rest.trim_end_matches('/')) else { return false };
    let is_name = |name: &str| {
        !name.trim_matches('.').is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'))
    };
    match rest.strip_prefix("/models/") {
        Some(name) => name.split('/').count() <= 2 && name.split('/').all(is_name),
        None => rest.is_empty(),
    }
}

/// Where an API begins that a class names by its host: at the root, at a model, or where its kind has it (OpenAI's:
/// `/v1`).
fn is_usual(address: &Address) -> bool {
    address.path().trim_end_matches('/') == address.kind.api_root || is_model("", address.path())
}

/// Whether a path is the listed one or below it. Nothing that a server might take for another slash or dot is.
fn is_below(listed: &str, path: &str) -> bool {
    let rest = path.strip_prefix(listed);
    !path.contains('%') && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Pattern {
    fn parse(entry: &str) -> Result<Pattern> {
        let wrong = || {
            // In front of an @ a password may stand.
            let shown = entry.rsplit_once('@').map_or(entry.to_owned(), |(_, host)| format!("…@{host}"));
            Error::config(format!(
                "'{shown}' is not a host, *.suffix, address or network/bits with an optional :port and /path, and without a scheme"
            ))
            .parameter("--allow-upstream")
        };
        if let Some(pattern) = Pattern::parse_host(entry) {
            return Ok(pattern);
        }
        // The longest beginning that is a host: a network has a slash of its own.
        let mut beginnings = entry.rmatch_indices('/').map(|(at, _)| entry.split_at(at));
        let (pattern, path) =
            beginnings.find_map(|(host, path)| Some((Pattern::parse_host(host)?, path))).ok_or_else(wrong)?;
        let is_path = |path: &str| {
            // A lone number would be the bits of a network.
            path.parse::<u8>().is_err()
                && path.split('/').all(|part| {
                    !part.is_empty()
                        && !matches!(part, "." | "..")
                        && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~:@!$&'()*+;=".contains(c))
                })
        };
        let path = path.trim_end_matches('/');
        if !path.is_empty() && !is_path(&path[1..]) {
            return Err(wrong());
        }
        Ok(Pattern { path: Some(path.to_owned()), ..pattern })
    }

    /// An entry without a path.
    fn parse_host(entry: &str) -> Option<Pattern> {
        let (host, port) = match entry.strip_prefix('[') {
            Some(rest) => match rest.split_once(']')? {
                (host, "") => (host, None),
                (host, port) => (host, Some(port.strip_prefix(':')?)),
            },
            None => match entry.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                _ => (entry, None),
            },
        };
        let port = port.map(str::parse).transpose().ok()?;
        Some(Pattern { host: Host::parse(host)?, port, path: None, own: None })
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
///
/// # Errors
/// `PermissionDenied`, with the reason.
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
    Err(Error::new(ErrorKind::PermissionDenied, message).naming(address.place()))
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
    Error::new(ErrorKind::PermissionDenied, message).naming(address.place())
}

/// The refusal of a path, with the entry that would allow it.
fn path_refused(address: &Address) -> Error {
    let message = format!(
        "\"{}\" names another path of an upstream that is the operator's own or gets his credentials: a class may name \
         /models/<name> there, and what {FLAG} lists with its path, as {}:{}{}",
        address.shown(),
        address.host(),
        address.port(),
        address.path().trim_end_matches('/')
    );
    Error::new(ErrorKind::PermissionDenied, message).naming(address.place())
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
mod tests;

//! What an operator or a class writes as an upstream's address, taken apart.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::contract::endpoint::request_url;
use crate::error::{Error, Result};

/// What speaks at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The reference inference container: `POST /vectors`.
    T2v,
    /// Another sidecar, over gRPC.
    Sidecar,
    /// text-embeddings-inference: `POST /embed`.
    Tei,
    /// Anything with OpenAI's `POST /v1/embeddings`.
    OpenAi,
}

impl Kind {
    /// The name in `/meta`, logs and `--upstream-kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::T2v => "t2v",
            Kind::Sidecar => "sidecar",
            Kind::Tei => "tei",
            Kind::OpenAi => "openai",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The schemes, what they mean, and which scheme goes over the wire.
const SCHEMES: &[(&str, Option<Kind>, &str)] = &[
    ("http", None, "http"),
    ("https", None, "https"),
    ("t2v+http", Some(Kind::T2v), "http"),
    ("t2v+https", Some(Kind::T2v), "https"),
    ("tei+http", Some(Kind::Tei), "http"),
    ("tei+https", Some(Kind::Tei), "https"),
    ("openai+http", Some(Kind::OpenAi), "http"),
    ("openai+https", Some(Kind::OpenAi), "https"),
    ("grpc", Some(Kind::Sidecar), "http"),
    ("grpcs", Some(Kind::Sidecar), "https"),
];

/// What is asked of upstreams, the longest first.
const REQUEST_PATHS: &[&str] = &[
    "/.well-known/ready",
    "/v1/embeddings",
    "/api/embeddings",
    "/api/embed",
    "/embeddings",
    "/vectors",
    "/embed",
    "/meta",
];

/// One upstream server's base URL. Its user-info and query never appear in `Debug` or [`Address::shown`].
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What speaks there, if the scheme says so.
    pub kind: Option<Kind>,
    /// As written, with a scheme of the wire; paths are put behind it as text, as Weaviate does.
    base: String,
    url: Url,
    shown: String,
    /// From the user-info: basic authentication.
    pub authorization: Option<HeaderValue>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.shown).finish()
    }
}

impl Address {
    /// Takes a base URL apart.
    ///
    /// # Errors
    /// `InvalidArgument` for another scheme or no URL at all; the text never repeats user-info.
    pub fn parse(text: &str) -> Result<Address> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| unsupported(text.split(':').next().unwrap_or("")))?;
        let known = SCHEMES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(scheme));
        let &(_, kind, wire) = known.ok_or_else(|| unsupported(scheme))?;
        // Only the web's own schemes are read with its rules for hosts (decimal and octal addresses, backslashes).
        let base = format!("{wire}://{rest}");
        let invalid = |error| Error::invalid(format!("an upstream's URL cannot be read: {error}"));
        let mut url = Url::parse(&base).map_err(invalid)?;
        let authorization = basic(&url)?;
        forget_user(&mut url);
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        let shown = shown.as_str().trim_end_matches('/').to_owned();
        let shown = match kind {
            None => shown,
            Some(_) => format!("{}{}", scheme.to_ascii_lowercase(), &shown[wire.len()..]),
        };
        Ok(Address { kind, base, url, shown, authorization })
    }

    /// Base and path put together as text, as the module does: a trailing slash gives two, a query swallows the path.
    pub fn joined(&self, path: &str) -> Result<Url> {
        let invalid = |error| Error::invalid(format!("an upstream's URL cannot be read: {error}"));
        let mut url = Url::parse(&request_url(&self.base, path)).map_err(invalid)?;
        forget_user(&mut url);
        // The check of the host must hold for what is really asked for.
        if (url.host(), url.port_or_known_default()) != (self.url.host(), self.url.port_or_known_default()) {
            return Err(Error::invalid("an upstream's URL changes its host when a path is put behind it"));
        }
        Ok(url)
    }

    /// Whether what is put behind this base is asked for below its path: no query and no fragment swallows it. Kinds that
    /// are joined by meaning leave both out.
    pub fn adds_up(&self) -> bool {
        let joined = match self.kind {
            None | Some(Kind::T2v) => self.joined("/vectors"),
            Some(_) => Ok(self.below("/vectors")),
        };
        let path = format!("{}/vectors", self.path().trim_end_matches('/'));
        joined.is_ok_and(|url| {
            url.query().is_none() && url.fragment().is_none() && url.path().replace("//vectors", "/vectors") == path
        })
    }

    /// The base of a model there, as a sidecar has it: `/models/<name>` behind this one. `None` for a name that has no place
    /// in a path, and for a base with a query.
    pub fn of_model(&self, name: &str) -> Option<Address> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        let is_name = name.split('/').all(|part| part.chars().all(fits) && !part.trim_matches('.').is_empty());
        if !is_name || !self.adds_up() {
            return None;
        }
        let below = |base: &str| format!("{}/models/{name}", base.trim_end_matches('/'));
        let (base, url, shown) = (below(&self.base), self.below(&format!("/models/{name}")), below(&self.shown));
        Some(Address { kind: self.kind, base, url, shown, authorization: self.authorization.clone() })
    }

    /// Base and path put together by their meaning: query and fragment left out, slashes not doubled.
    pub fn below(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        url
    }

    /// The value of a parameter in the query: `model` for OpenAI-compatible servers.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The URL as people may see it: no user-info, no query.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The host as the URL has it, without a final dot; an address without brackets.
    pub fn host(&self) -> &str {
        let host = self.url.host_str().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.strip_suffix('.').unwrap_or(host)
    }

    /// The host, if it is an address and not a name.
    pub fn literal(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    /// The port, the scheme's own if none is given.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The path of a request that the URL ends with, by mistake: such paths are put behind it.
    pub fn request_path(&self) -> Option<&'static str> {
        let path = self.url.path().trim_end_matches('/');
        REQUEST_PATHS.iter().copied().find(|request| path.ends_with(request))
    }

    /// Path of the base URL, as a URL's reader has it: dots resolved, backslashes turned.
    pub fn path(&self) -> &str {
        self.url.path()
    }
}

/// Every base URL of a comma-separated list.
pub fn parse_list(text: &str) -> Result<Vec<Address>> {
    let addresses: Vec<Address> = match text.contains(',') {
        // A single one is taken as it is: nothing is trimmed.
        false => vec![Address::parse(text)?],
        true => text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(Address::parse)
            .collect::<Result<Vec<Address>>>()?,
    };
    match addresses.first() {
        None => Err(Error::invalid("a list of upstreams without an upstream")),
        Some(first) if addresses.iter().any(|address| address.kind != first.kind) => {
            Err(Error::invalid("replicas of one upstream must be of one kind: give all of them the same scheme"))
        }
        Some(_) => Ok(addresses),
    }
}

fn unsupported(scheme: &str) -> Error {
    let known: Vec<_> = SCHEMES.iter().map(|(name, ..)| *name).collect();
    let scheme: String = scheme.chars().take(20).collect();
    Error::invalid(format!(
        "unsupported protocol scheme \"{scheme}\": an upstream's URL begins with {}",
        known.join("://, ") + "://"
    ))
}

fn forget_user(url: &mut Url) {
    // Both fail only for URLs without a host, which the schemes here do not have.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

fn basic(url: &Url) -> Result<Option<HeaderValue>> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let user = percent_decoded(url.username());
    let password = percent_decoded(url.password().unwrap_or_default());
    let mut pair = user;
    pair.push(b':');
    pair.extend(password);
    let value = format!("Basic {}", base64(&pair));
    secret(&value).map(Some)
}

/// A header value that is never shown.
pub fn secret(text: &str) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| Error::config("a credential has characters no header may have"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_say_what_speaks_there() {
        for (text, kind, shown, tls) in [
            ("http://t2v:8080", None, "http://t2v:8080", false),
            ("HTTPS://t2v/", None, "https://t2v", true),
            ("grpc://a:50051", Some(Kind::Sidecar), "grpc://a:50051", false),
            ("grpcs://a", Some(Kind::Sidecar), "grpcs://a", true),
            ("tei+http://user:pw@h:1/x?key=1#f", Some(Kind::Tei), "tei+http://h:1/x", false),
            ("openai+https://api/v1?model=m", Some(Kind::OpenAi), "openai+https://api/v1", true),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!((address.kind, address.shown(), address.is_tls()), (kind, shown, tls), "{text}");
            assert!(!format!("{address:?}").contains("pw"));
        }
        for text in ["t2v:8080", "file:///etc/passwd", "gopher://x", "unix:///s", "", " http://x", "http://"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn user_info_is_a_header_and_nothing_else() {
        let address = Address::parse("http://user:p%40ss@host:1/base").expect("a URL");
        let header = address.authorization.clone().expect("a header");
        assert!(header.is_sensitive());
        assert_eq!(header.to_str().ok(), Some("Basic dXNlcjpwQHNz"));
        assert_eq!(address.joined("/vectors").expect("a URL").as_str(), "http://host:1/base/vectors");
    }

    #[test]
    fn bases_are_joined_as_text_and_by_meaning() {
        let address = |text| Address::parse(text).expect("a URL");
        let joined = |text| address(text).joined("/vectors").map(|url| url.to_string());
        assert_eq!(joined("http://h/").as_deref(), Ok("http://h//vectors"));
        assert_eq!(joined("http://h?k=v").as_deref(), Ok("http://h/?k=v/vectors"));
        assert_eq!(address("tei+http://h/a/?k=v").below("/embed").as_str(), "http://h/a/embed");
        assert_eq!(address("openai+http://h/v1?model=a%2Fb").parameter("model").as_deref(), Some("a/b"));
    }

    #[test]
    fn paths_of_requests_are_known_at_the_end() {
        let path = |text| Address::parse(text).expect("a URL").request_path();
        assert_eq!(path("http://h/vectors"), Some("/vectors"));
        assert_eq!(path("http://h/models/a/vectors/?k=v"), Some("/vectors"));
        assert_eq!(path("openai+http://h/v1/embeddings"), Some("/v1/embeddings"));
        for base in ["http://h", "http://h/", "openai+http://h/v1", "http://h/models/vectors-a", "http://h/vectors/a"] {
            assert_eq!(path(base), None, "{base}");
        }
    }

    #[test]
    fn a_model_has_a_base_of_its_own() {
        let of = |base: &str, name: &str| {
            let model = Address::parse(base).expect("a URL").of_model(name)?;
            assert_eq!(model.path(), model.joined("").expect("a URL").path());
            Some((model.joined("/vectors").expect("a URL").to_string(), model.shown().to_owned(), model.authorization))
        };
        let (joined, shown, authorization) = of("http://u:p@h:1/base/", "org/bge:v1").expect("a model");
        assert_eq!(
            (&*joined, &*shown),
            ("http://h:1/base/models/org/bge:v1/vectors", "http://h:1/base/models/org/bge:v1")
        );
        assert!(authorization.is_some());
        for name in ["", "a/../b", "a b", "a?b", "a%2fb", "a/", "."] {
            assert!(of("http://h", name).is_none(), "{name}");
        }
        assert!(of("http://h?x=", "a").is_none());
    }

    #[test]
    fn lists_are_of_one_kind() {
        assert_eq!(parse_list("http://a, http://b:1 ,").expect("two").len(), 2);
        assert!(parse_list("http://a,grpc://b").is_err());
        assert!(parse_list(" , ").is_err());
    }
}

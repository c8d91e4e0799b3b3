//! An upstream server's base URL: where it is, what speaks there, and how paths are put behind it.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::kind::{Joining, Kind, Scheme};
use crate::contract::endpoint::request_url;
use crate::error::{Error, Place, Result};

/// One upstream server's base URL. Its user-info and query never appear in `Debug` or [`Address::shown`].
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What speaks there, as far as the scheme tells.
    pub kind: &'static Kind,
    /// Whether the scheme says what speaks there; otherwise `kind` is what it is taken for.
    pub is_named: bool,
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
    /// A base URL whose scheme was found to be one of `kind`'s; `rest` follows the `://`.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no URL, `Config` for user-info that no header can carry; the text never repeats
    /// user-info.
    pub(super) fn of_scheme(kind: &'static Kind, scheme: &Scheme, rest: &str) -> Result<Address> {
        let wire = scheme.wire;
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
        let is_named = scheme.names_kind;
        let shown = if is_named { format!("{}{}", scheme.name, &shown[wire.len()..]) } else { shown };
        Ok(Address { kind, is_named, base, url, shown, authorization })
    }

    /// What speaks there, if the scheme says so.
    pub fn named_kind(&self) -> Option<&'static Kind> {
        self.is_named.then_some(self.kind)
    }

    /// Base and path put together as this kind of upstream has it.
    ///
    /// # Errors
    /// As [`Address::joined`].
    pub fn asked_for(&self, path: &str) -> Result<Url> {
        match self.kind.joining {
            Joining::Text => self.joined(path),
            Joining::Meaning => Ok(self.below(path)),
        }
    }

    /// A path below the root of an API, such as `/v1`, which the base URL may have already.
    pub fn in_api(&self, root: &str, path: &str) -> String {
        if self.path().trim_end_matches('/').ends_with(root) { path.to_owned() } else { format!("{root}{path}") }
    }

    /// Base and path put together as text, as the module does: a trailing slash gives two, a query swallows the path.
    ///
    /// # Errors
    /// `InvalidArgument` if that is no URL or leads to another host.
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
        let joined = self.asked_for("/vectors");
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
        let authorization = self.authorization.clone();
        Some(Address { kind: self.kind, is_named: self.is_named, base, url, shown, authorization })
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

    /// The same as the place of an error.
    pub fn place(&self) -> Place {
        Place::Upstream(self.shown.clone())
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

    /// Path of the base URL, as a URL's reader has it: dots resolved, backslashes turned.
    pub fn path(&self) -> &str {
        self.url.path()
    }
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
///
/// # Errors
/// `Config` for characters that no header may have; the text does not repeat them.
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
    fn the_base_url_may_have_the_api_s_root_already() {
        let path = |url| Address::parse(url).expect("a URL").in_api("/v1", "/embeddings");
        assert_eq!(path("openai+http://h"), "/v1/embeddings");
        assert_eq!(path("openai+http://h/api/v1/"), "/embeddings");
    }
}

//! What an operator or a class writes as an upstream's address, read by the schemes of the wire formats.
//!
//! [`Address`] itself is in [`base_url`](super::base_url): the formats are built on it, and here they are listed.

pub use super::base_url::Address;
use super::formats;
use crate::error::{Error, ErrorKind, Result};

/// Paths that are asked of no upstream here but of others of its kind, beside those of the formats.
const OTHER_REQUEST_PATHS: &[&str] = &["/api/embeddings", "/api/embed"];

impl Address {
    /// Takes a base URL apart.
    ///
    /// # Errors
    /// `InvalidArgument` for another scheme or no URL at all, `Config` for user-info that no header can carry; the text
    /// never repeats user-info.
    pub fn parse(text: &str) -> Result<Address> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| unsupported(text.split(':').next().unwrap_or("")))?;
        let known = formats::schemes().find(|(_, known)| known.name.eq_ignore_ascii_case(scheme));
        let (kind, scheme) = known.ok_or_else(|| unsupported(scheme))?;
        Address::of_scheme(kind, scheme, rest)
    }

    /// The path of a request that the URL ends with, by mistake: such paths are put behind it.
    pub fn request_path(&self) -> Option<&'static str> {
        let path = self.path().trim_end_matches('/');
        let known = formats::request_paths().chain(OTHER_REQUEST_PATHS.iter().copied());
        known.filter(|request| path.ends_with(request)).max_by_key(|request| request.len())
    }
}

/// Every base URL of an upstream that the operator names.
///
/// # Errors
/// `Config` for what [`parse_list`] refuses, for a host that no server can have, and for a URL that ends with the path of a
/// request.
pub fn of_operator(text: &str) -> Result<Vec<Address>> {
    let addresses = parse_list(text).map_err(|error| error.with_kind(ErrorKind::Config))?;
    let is_of_names = |c: char| c.is_alphanumeric() || "-_.~%".contains(c);
    let is_no_host = |address: &&Address| address.literal().is_none() && !address.host().chars().all(is_of_names);
    if let Some(address) = addresses.iter().find(is_no_host) {
        return Err(Error::config(format!(
            "the upstream's URL {} has '{}' for its host, which cannot be a name: give http://host:port",
            address.shown(),
            address.host()
        )));
    }
    let mistaken = addresses.iter().find_map(|address| Some((address.shown(), address.request_path()?)));
    match mistaken {
        None => Ok(addresses),
        Some((shown, path)) => {
            let base = shown.strip_suffix(path).unwrap_or(shown);
            Err(Error::config(format!(
                "the upstream's URL {shown} ends with {path}, which is put behind it: give its base, {base}"
            )))
        }
    }
}

/// Every base URL of a comma-separated list.
///
/// # Errors
/// As [`Address::parse`]; `InvalidArgument` for an empty list and for one of several kinds.
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
        None => {
            Err(Error::invalid("a list of upstreams without an upstream: give a base URL, such as http://host:8080"))
        }
        Some(first) if addresses.iter().any(|address| address.named_kind() != first.named_kind()) => {
            Err(Error::invalid("replicas of one upstream must be of one kind: give all of them the same scheme"))
        }
        Some(_) => Ok(addresses),
    }
}

fn unsupported(scheme: &str) -> Error {
    let known: Vec<_> = formats::schemes().map(|(_, scheme)| scheme.name).collect();
    let scheme: String = scheme.chars().take(20).collect();
    Error::invalid(format!(
        "unsupported protocol scheme \"{scheme}\": an upstream's URL begins with {}",
        known.join("://, ") + "://"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_say_what_speaks_there() {
        for (text, kind, shown, tls) in [
            ("http://t2v:8080", None, "http://t2v:8080", false),
            ("HTTPS://t2v/", None, "https://t2v", true),
            ("grpc://a:50051", Some("sidecar"), "grpc://a:50051", false),
            ("grpcs://a", Some("sidecar"), "grpcs://a", true),
            ("tei+http://user:pw@h:1/x?key=1#f", Some("tei"), "tei+http://h:1/x", false),
            ("openai+https://api/v1?model=m", Some("openai"), "openai+https://api/v1", true),
        ] {
            let address = Address::parse(text).expect(text);
            let named = address.named_kind().map(|kind| kind.name);
            assert_eq!((named, address.shown(), address.is_tls()), (kind, shown, tls), "{text}");
            assert!(!format!("{address:?}").contains("pw"));
        }
        for text in ["t2v:8080", "file:///etc/passwd", "gopher://x", "unix:///s", "", " http://x", "http://"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
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
    fn an_operator_s_mistakes_are_settings_that_cannot_be() {
        for (text, words) in [
            ("http://h=x", "has 'h=x' for its host"),
            ("http://a/vectors", "give its base, http://a"),
            ("t2v:8080", "unsupported protocol scheme"),
        ] {
            let error = of_operator(text).expect_err(text);
            assert!(error.kind() == ErrorKind::Config && error.message().contains(words), "{error}");
        }
        for text in
            ["http://t2v_1.a-b:8080", "http://[::1]:1", "http://127.1", "http://bücher.example", "http://a,http://b"]
        {
            assert!(of_operator(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn lists_are_of_one_kind() {
        assert_eq!(parse_list("http://a, http://b:1 ,").expect("two").len(), 2);
        assert!(parse_list("http://a,grpc://b").is_err());
        assert!(parse_list(" , ").is_err());
    }
}

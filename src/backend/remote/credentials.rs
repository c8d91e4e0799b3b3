//! What upstreams want to see before they answer: tokens and headers by host, from the environment or from files.

use std::path::PathBuf;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName};

use super::base_url::{Address, secret};
use crate::error::{Error, Place, Result};
use crate::small_file;

/// Where a header's value comes from. Never `Debug`: it holds secrets.
#[derive(Clone)]
enum Source {
    Value(String),
    /// A bearer token in a file, read again with the names' addresses: orchestrators replace such files.
    TokenFile(PathBuf),
}

#[derive(Clone)]
struct Entry {
    host: String,
    port: Option<u16>,
    name: HeaderName,
    source: Source,
}

/// Headers by host.
#[derive(Clone, Default)]
pub struct Credentials(Vec<Entry>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| &entry.host)).finish()
    }
}

impl Credentials {
    /// Reads three comma-separated lists: `host[:port]=token`, `host[:port]=path of a file with a token`,
    /// `host[:port]=Header-Name:value`.
    ///
    /// # Errors
    /// `Config` for an entry of another form or a token file that cannot be read; the text names its host, never its
    /// secret.
    pub fn parse(tokens: &str, token_files: &str, headers: &str) -> Result<Credentials> {
        let token = |(place, token): (&str, &str)| {
            let entry = entry(place, AUTHORIZATION, Source::Value(format!("Bearer {token}")))?;
            match token.trim().is_empty() {
                true => Err(Error::config(format!("for {} there is no token behind the =", entry.host))),
                false => Ok(entry),
            }
        };
        let file = |(place, path): (&str, &str)| entry(place, AUTHORIZATION, Source::TokenFile(path.into()));
        let header = |(place, header): (&str, &str)| {
            let shown = without_user(place);
            let wrong =
                || Error::config(format!("for {shown} there is no Header-Name:value: write {shown}=Header-Name:value"));
            let (name, value) = header.split_once(':').ok_or_else(wrong)?;
            let name = name.trim().parse().map_err(|_| wrong())?;
            entry(place, name, Source::Value(value.trim().to_owned()))
        };
        let mut entries = entries(tokens, token).map_err(|error| error.parameter("--upstream-tokens"))?;
        entries.extend(self::entries(token_files, file).map_err(|error| error.parameter("--upstream-token-files"))?);
        entries.extend(self::entries(headers, header).map_err(|error| error.parameter("--upstream-headers"))?);
        Ok(Credentials(entries))
    }

    /// Whether any of them goes to an address, but for its own user-info.
    pub fn go_to(&self, address: &Address) -> bool {
        self.0.iter().any(|entry| entry.is_for(address))
    }

    /// The headers for an address; its own user-info counts more than a token.
    ///
    /// # Errors
    /// `Config` for a token file that cannot be read, and for a secret that no header can carry.
    pub fn headers(&self, address: &Address) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for entry in &self.0 {
            if entry.is_for(address) {
                headers.insert(entry.name.clone(), secret(&entry.source.value()?)?);
            }
        }
        if let Some(authorization) = &address.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(headers)
    }
}

impl Entry {
    fn is_for(&self, address: &Address) -> bool {
        self.host.eq_ignore_ascii_case(address.host()) && self.port.is_none_or(|port| port == address.port())
    }
}

impl Source {
    fn value(&self) -> Result<String> {
        match self {
            Source::Value(value) => Ok(value.clone()),
            Source::TokenFile(path) => {
                let failed = |error| {
                    let message = format!("the token file {} cannot be read: {error}", path.display());
                    Error::config(message).naming(Place::File(path.clone())).caused_by(error)
                };
                match small_file::read_text(path).map_err(failed)?.trim() {
                    "" => {
                        let message = format!("the token file {} is empty: write a token into it", path.display());
                        Err(Error::config(message).naming(Place::File(path.clone())))
                    }
                    token => Ok(format!("Bearer {token}")),
                }
            }
        }
    }
}

/// The entries of a list, each of which a header can carry as it is now.
fn entries(list: &str, read: impl Fn((&str, &str)) -> Result<Entry>) -> Result<Vec<Entry>> {
    let wrong =
        || Error::config("an entry is not of the form host[:port]=value: write such entries, with commas between");
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    let checked = |part: &str| {
        let entry = read(part.split_once('=').ok_or_else(wrong)?)?;
        let unusable = |error: Error| error.context(format_args!("for {}", entry.host));
        secret(&entry.source.value()?).map_err(unusable)?;
        Ok(entry)
    };
    parts.map(checked).collect()
}

/// In front of an @ a password may stand.
fn without_user(place: &str) -> &str {
    place.rsplit_once('@').map_or(place, |(_, host)| host)
}

fn entry(place: &str, name: HeaderName, source: Source) -> Result<Entry> {
    let shown = without_user(place);
    let wrong = || {
        Error::config(format!("'{shown}' is not a host with an optional :port: give it without a scheme and a path"))
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if host.ends_with(']') || !host.contains(':') => {
            (host, Some(port.parse().map_err(|_| wrong())?))
        }
        _ => (place, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() || host.contains(['/', '@']) {
        return Err(wrong());
    }
    Ok(Entry { host, port, name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_to_their_host_only_and_are_secret() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "from-file\n").expect("write");
        let files = format!("b={}", file.path().display());
        let credentials =
            Credentials::parse("a=one, [::1]:8080=six", &files, "a:81=api-key: k=1").expect("credentials");
        let headers = |url: &str| {
            let headers = credentials.headers(&Address::parse(url).expect("a URL")).expect("headers");
            assert!(headers.values().all(|value| value.is_sensitive()));
            let value = |name: &str| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
            (value("authorization"), value("api-key"))
        };
        assert_eq!(headers("http://a"), (Some("Bearer one".into()), None));
        assert_eq!(headers("http://a:81"), (Some("Bearer one".into()), Some("k=1".into())));
        assert_eq!(headers("http://B"), (Some("Bearer from-file".into()), None));
        assert_eq!(headers("http://[::1]:8080"), (Some("Bearer six".into()), None));
        assert_eq!(headers("http://other"), (None, None));
        assert_eq!(headers("http://u:p@a"), (Some("Basic dTpw".into()), None));
        assert!(!format!("{credentials:?}").contains("one"));
    }

    #[test]
    fn mistakes_are_said_without_the_secret() {
        for (tokens, files, headers) in [
            ("verysecret", "", ""),
            ("", "a=/no/such/file", ""),
            ("", "", "a=verysecret"),
            ("a:x=verysecret", "", ""),
            ("https://u:verysecret@a/=verysecret", "", ""),
            ("=verysecret", "", ""),
            ("a=very\nsecret", "", ""),
            ("", "", "a=b c:verysecret"),
            ("", "", "u:verysecret@a=b"),
            ("a= ,b=verysecret", "", ""),
        ] {
            let error = Credentials::parse(tokens, files, headers).expect_err("refused");
            assert!(!error.message().contains("secret"), "{error}");
            assert!(error.parameter_name().is_some_and(|flag| flag.starts_with("--upstream-")), "{error:?}");
        }
    }
}

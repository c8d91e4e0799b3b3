//! One HTTP client per replica, pinned to the replica's address, and one exchange over it.

use std::error::Error as _;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Identity, RequestBuilder};

use super::base_url::Address;
use super::retry::Failure;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::small_file;

/// Bytes of an answer that are read at most.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Idle connections are given up before the container's web server (uvicorn: 5 s) gives them up.
const IDLE: Duration = Duration::from_secs(4);

/// How upstreams are believed, and how this sidecar shows who it is.
#[derive(Clone, Default)]
pub struct Tls {
    extra: Vec<Certificate>,
    identity: Option<Identity>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls {{ extra: {}, identity: {} }}", self.extra.len(), self.identity.is_some())
    }
}

impl Tls {
    /// Certificate authorities beside the system's, and a client certificate with its key; all PEM files.
    ///
    /// # Errors
    /// `Config` for a file that cannot be read or is not PEM.
    pub fn read(ca: Option<&Path>, certificate: Option<&Path>, key: Option<&Path>) -> Result<Tls> {
        let at_fault = |path: &Path, message: String| Error::config(message).naming(Place::File(path.to_owned()));
        let read = |path: &Path| {
            small_file::read(path)
                .map_err(|error| at_fault(path, format!("{} cannot be read: {error}", path.display())).caused_by(error))
        };
        let not_pem = |path: &Path, error: reqwest::Error| {
            let message = format!("{} holds no usable PEM: {}", path.display(), last_cause(&error));
            at_fault(path, message).caused_by(error)
        };
        let extra = match ca {
            None => Vec::new(),
            Some(path) => {
                let found = Certificate::from_pem_bundle(&read(path)?).map_err(|error| not_pem(path, error))?;
                if found.is_empty() {
                    return Err(at_fault(path, format!("{} holds no certificate", path.display())));
                }
                found
            }
        };
        let identity = match (certificate, key) {
            (None, _) => None,
            (Some(certificate), key) => {
                let mut pem = read(certificate)?;
                if let Some(key) = key {
                    let own = read(key)?;
                    if !has(&own, "PRIVATE KEY-----") {
                        return Err(at_fault(key, format!("{} holds no PEM key", key.display())));
                    }
                    pem.push(b'\n');
                    pem.extend(own);
                }
                for (mark, lacking) in [
                    ("-----BEGIN CERTIFICATE-----", "no certificate: a PEM file is wanted"),
                    (
                        "PRIVATE KEY-----",
                        "a certificate without its key: add the key, or name its file by --upstream-key",
                    ),
                ] {
                    if !has(&pem, mark) {
                        return Err(at_fault(certificate, format!("{} holds {lacking}", certificate.display())));
                    }
                }
                Some(Identity::from_pem(&pem).map_err(|error| not_pem(certificate, error))?)
            }
        };
        Ok(Tls { extra, identity })
    }
}

/// Whether a PEM file has a line of this kind.
fn has(pem: &[u8], mark: &str) -> bool {
    pem.windows(mark.len()).any(|part| part == mark.as_bytes())
}

/// Answers every name with the one address that was checked.
struct Pinned(SocketAddr);

impl Resolve for Pinned {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(std::iter::once(self.0));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// A client that dials `to` and nothing else: no proxy, no redirect, no other name.
///
/// # Errors
/// `Config` if TLS cannot be set up, such as for a certificate that does not fit its key.
pub fn client(address: &Address, to: SocketAddr, tls: &Tls, connect_timeout: Duration) -> Result<Client> {
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .dns_resolver(Arc::new(Pinned(to)))
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .user_agent(concat!("text2vec-sidecar/", env!("CARGO_PKG_VERSION")));
    if address.kind.http2 {
        builder = builder
            .http2_prior_knowledge()
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(90));
    }
    if address.is_tls() {
        builder = builder.tls_certs_merge(tls.extra.iter().cloned());
        if let Some(identity) = &tls.identity {
            builder = builder.identity(identity.clone());
        }
    } else {
        // Spares reading the system's certificates, which an image may not even have.
        builder = builder.tls_certs_only([]);
    }
    let failed = |error: reqwest::Error| {
        let message = format!("no client for {}: {}", address.shown(), last_cause(&error));
        Error::config(message).naming(address.place()).caused_by(error.without_url())
    };
    builder.build().map_err(failed)
}

/// What is asked, as the errors' texts begin, and of whom.
#[derive(Debug)]
pub struct Asked {
    words: String,
    /// Whom the words name.
    place: Option<Place>,
}

impl Asked {
    /// Words that name nobody.
    pub fn new(words: impl Into<String>) -> Asked {
        Asked { words: words.into(), place: None }
    }

    /// Words as Weaviate has them: `send POST request: Post "http://…/vectors"`.
    pub fn of(words: &str, address: &Address, path: &str) -> Asked {
        Asked { words: format!("{words} \"{}{path}\"", address.shown()), place: Some(address.place()) }
    }

    fn error(&self, kind: ErrorKind, what: fmt::Arguments<'_>) -> Error {
        let error = Error::new(kind, format!("{}: {what}", self.words));
        self.place.clone().into_iter().fold(error, Error::naming)
    }
}

/// What an upstream answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, if it is a number of seconds.
    pub retry_after: Option<Duration>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Sends a request and reads the whole answer, within `limit`.
///
/// # Errors
/// `Late` if the answer is not there in time, `Unsent` and `Broken` as [`transport`] tells them, `Fault` for an answer
/// that breaks off or is too large. Any status is an answer.
pub async fn exchange(request: RequestBuilder, asked: &Asked, limit: Duration) -> Result<Answer, Failure> {
    let late = || Failure::Late(asked.error(ErrorKind::DeadlineExceeded, format_args!("no answer within {limit:.1?}")));
    tokio::time::timeout(limit, answer(request, asked)).await.unwrap_or_else(|_| Err(late()))
}

async fn answer(request: RequestBuilder, asked: &Asked) -> Result<Answer, Failure> {
    let mut response = request.send().await.map_err(|error| transport(error, asked))?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut body = Vec::with_capacity(response.content_length().unwrap_or(0).min(1 << 20) as usize);
    loop {
        match response.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER => {
                let what = format_args!("the answer is larger than {MAX_ANSWER} bytes");
                return Err(Failure::Fault(asked.error(ErrorKind::Upstream, what)));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => {
                let broken = Error::new(ErrorKind::Upstream, format!("read response body: {}", last_cause(&error)));
                return Err(Failure::Fault(broken.caused_by(error.without_url())));
            }
        }
    }
    Ok(Answer { status, retry_after: retry_after.map(Duration::from_secs), body })
}

/// What it means that there is no answer.
pub fn transport(error: reqwest::Error, asked: &Asked) -> Failure {
    let unsent = error.is_connect() || error.is_builder();
    let failed = asked.error(ErrorKind::Upstream, format_args!("{}", last_cause(&error)));
    // Its URL has what nobody is shown.
    let failed = failed.caused_by(error.without_url());
    if unsent { Failure::Unsent(failed) } else { Failure::Broken(failed) }
}

/// The innermost cause: the outer ones repeat the URL or say little. Never holds the URL.
pub fn last_cause(error: &reqwest::Error) -> String {
    let Some(mut cause) = error.source() else {
        return error.to_string().split(" for url").next().unwrap_or("").to_owned();
    };
    let mut names = vec![cause.to_string()];
    while let Some(inner) = cause.source() {
        names.push(inner.to_string());
        cause = inner;
    }
    names.pop().unwrap_or_default()
}

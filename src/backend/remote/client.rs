//! One HTTP client per replica, pinned to the replica's address, and one exchange over it.

use std::error::Error as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Identity, RequestBuilder};

use super::base_url::Address;
use super::retry::Failure;
use crate::error::{Error, ErrorKind, Result};

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

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls {{ extra: {}, identity: {} }}", self.extra.len(), self.identity.is_some())
    }
}

impl Tls {
    /// Certificate authorities beside the system's, and a client certificate with its key; all PEM files.
    ///
    /// # Errors
    /// `Config` for a file that cannot be read or is not PEM.
    pub fn read(ca: Option<&Path>, certificate: Option<&Path>, key: Option<&Path>) -> Result<Tls> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| Error::config(format!("{} cannot be read: {error}", path.display())))
        };
        let not_pem = |path: &Path, error: reqwest::Error| {
            Error::config(format!("{} holds no usable PEM: {}", path.display(), last_cause(&error)))
        };
        let extra = match ca {
            None => Vec::new(),
            Some(path) => {
                let found = Certificate::from_pem_bundle(&read(path)?).map_err(|error| not_pem(path, error))?;
                if found.is_empty() {
                    return Err(Error::config(format!("{} holds no certificate", path.display())));
                }
                found
            }
        };
        let identity = match (certificate, key) {
            (None, _) => None,
            (Some(certificate), key) => {
                let mut pem = read(certificate)?;
                if let Some(key) = key {
                    pem.push(b'\n');
                    pem.extend(read(key)?);
                }
                Some(Identity::from_pem(&pem).map_err(|error| not_pem(certificate, error))?)
            }
        };
        Ok(Tls { extra, identity })
    }
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
    let failed =
        |error: reqwest::Error| Error::config(format!("no client for {}: {}", address.shown(), last_cause(&error)));
    builder.build().map_err(failed)
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

/// Sends a request and reads the whole answer, within `limit`. `what` begins the errors' texts, as Weaviate has them:
/// `send POST request: Post "http://…"`.
///
/// # Errors
/// `Late` if the answer is not there in time, `Unsent` and `Broken` as [`transport`] tells them, `Fault` for an answer
/// that breaks off or is too large. Any status is an answer.
pub async fn exchange(request: RequestBuilder, what: &str, limit: Duration) -> Result<Answer, Failure> {
    let late =
        || Failure::Late(Error::new(ErrorKind::DeadlineExceeded, format!("{what}: no answer within {limit:.1?}")));
    tokio::time::timeout(limit, answer(request, what)).await.unwrap_or_else(|_| Err(late()))
}

async fn answer(request: RequestBuilder, what: &str) -> Result<Answer, Failure> {
    let mut response = request.send().await.map_err(|error| transport(&error, what))?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut body = Vec::with_capacity(response.content_length().unwrap_or(0).min(1 << 20) as usize);
    loop {
        let upstream = |text: String| Failure::Fault(Error::new(ErrorKind::Upstream, text));
        match response.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER => {
                return Err(upstream(format!("{what}: the answer is larger than {MAX_ANSWER} bytes")));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return Err(upstream(format!("read response body: {}", last_cause(&error)))),
        }
    }
    Ok(Answer { status, retry_after: retry_after.map(Duration::from_secs), body })
}

/// What it means that there is no answer.
pub fn transport(error: &reqwest::Error, what: &str) -> Failure {
    let text = format!("{what}: {}", last_cause(error));
    if error.is_connect() || error.is_builder() {
        Failure::Unsent(Error::new(ErrorKind::Upstream, text))
    } else {
        Failure::Broken(Error::new(ErrorKind::Upstream, text))
    }
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

//! Addresses, connections and credentials of the two servers.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::Url;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::error::{Error, Result};

/// How long a server may take to be reached.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);

/// The largest answer that is taken. The sidecar's come vector by vector, Weaviate's hold nothing but errors.
pub(crate) const MAX_ANSWER: usize = 64 << 20;

/// A client certificate authority in PEM.
pub(crate) fn read_ca(path: Option<&Path>) -> Result<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    let pem =
        std::fs::read(path).map_err(|error| Error::new(format!("--ca {} cannot be read: {error}", path.display())))?;
    match pem.windows(11).any(|bytes| bytes == b"-----BEGIN ") {
        true => Ok(Some(pem)),
        false => Err(Error::new(format!("--ca {} is no PEM file of certificates", path.display()))),
    }
}

/// A connection that is made when it is needed, and again when it breaks. `flag` is named in errors.
pub(crate) fn channel(url: &str, ca: Option<&[u8]>, flag: &str) -> Result<Channel> {
    let unusable = |problem: String| Error::new(format!("{flag} is '{url}': {problem}"));
    let endpoint =
        Endpoint::from_shared(url.to_owned()).map_err(|_| unusable("use a URL with host and port".into()))?;
    let mut endpoint = endpoint.connect_timeout(CONNECT).tcp_keepalive(Some(Duration::from_secs(60)));
    if url.starts_with("https://") {
        let tls = |with_system: bool| {
            let tls = if with_system { ClientTlsConfig::new().with_native_roots() } else { ClientTlsConfig::new() };
            ca.map_or(tls.clone(), |pem| tls.ca_certificate(Certificate::from_pem(pem)))
        };
        // A small image may have no authorities of its own.
        let configured = match endpoint.clone().tls_config(tls(true)) {
            Err(_) if ca.is_some() => endpoint.tls_config(tls(false)),
            other => other,
        };
        endpoint = configured.map_err(|error| unusable(causes(&error)))?;
    }
    Ok(endpoint.connect_lazy())
}

/// The URL of a gRPC port: `host:port`, `grpc://…` and `grpcs://…` are understood as well.
pub(crate) fn grpc_url(given: &str) -> String {
    match given.split_once("://") {
        Some(("grpc", rest)) => format!("http://{rest}"),
        Some(("grpcs", rest)) => format!("https://{rest}"),
        Some(_) => given.to_owned(),
        None => format!("http://{given}"),
    }
}

/// Shows a key or token with each request.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    pub(crate) fn new(secret: Option<&str>, flag: &str) -> Result<Bearer> {
        let Some(secret) = secret else { return Ok(Bearer(None)) };
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", secret.trim())
            .parse()
            .map_err(|_| Error::new(format!("{flag} has characters that no header can carry")))?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// What is wrong with a server's URL: a password in it would stand in errors and logs, and a secret must not go over a network
/// that others read.
pub(crate) fn check_url(url: &str, secret: Option<&str>, flag: &str, secret_flag: &str) -> Result<()> {
    let unusable = |problem: &str| Err(Error::new(format!("{flag} is no URL of a server: {problem}")));
    let Ok(parsed) = Url::parse(url) else { return unusable("use one such as http://localhost:8080") };
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return unusable(&format!("leave user and password out, and give what opens the server by {secret_flag}"));
    }
    let (Some(host), true) = (parsed.host_str(), ["http", "https"].contains(&parsed.scheme())) else {
        return unusable("use one such as http://localhost:8080");
    };
    match parsed.scheme() == "https" || secret.is_none() || is_near(host) {
        true => Ok(()),
        false => Err(Error::new(format!("{secret_flag} would go to {host} readable by anybody: use https://"))),
    }
}

/// Whether a host is this machine, or of a network that is not everybody's: names without a dot are of a pod's neighbours and of
/// networks of containers.
fn is_near(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
        Err(_) => !host.contains('.') || [".svc", ".local", ".internal"].iter().any(|end| host.ends_with(end)),
    }
}

/// What an error says, and what it says is behind it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// What to do about an error of a connection that no other attempt mends: the server answers, and not in TLS.
pub(crate) fn mistake(said: &str) -> Option<&'static str> {
    said.contains("InvalidContentType").then_some("it speaks no TLS there: use http://, or the port that does")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The address of a server that answers in HTTP whatever comes.
    pub(crate) async fn plain_server() -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut first = [0; 1024];
                let _ = connection.read(&mut first).await;
                let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        address
    }

    #[test]
    fn addresses_are_understood() {
        for (given, url) in [
            ("localhost:8081", "http://localhost:8081"),
            ("grpc://a:1", "http://a:1"),
            ("grpcs://a:1", "https://a:1"),
            ("https://a:1", "https://a:1"),
        ] {
            assert_eq!(grpc_url(given), url);
        }
    }

    #[test]
    fn secrets_stay_near_unless_encrypted_and_out_of_urls() {
        let check = |url: &str, secret| check_url(url, secret, "--weaviate", "--weaviate-api-key");
        for url in [
            "http://localhost:1",
            "http://[::1]:1",
            "http://[fd00::1]:1",
            "http://weaviate",
            "http://10.1.2.3:1/x",
            "http://weaviate.default.svc:80",
            "https://a.example.com",
        ] {
            assert_eq!(check(url, Some("s3cret")), Ok(()), "{url}");
        }
        for url in
            ["http://a.example.com:1/x", "HTTP://a.example.com", "http://127.example.com", "http://[2001:db8::1]"]
        {
            let error = check(url, Some("s3cret")).expect_err("refused");
            assert!(error.message().contains("readable by anybody") && !error.message().contains("s3cret"), "{error}");
            assert_eq!(check(url, None), Ok(()), "there is nothing to read");
        }
        for url in ["http://user:hunter2@a:1", "http://10.0.0.1:x@evil.example.com", "localhost:8080", "ftp://a", ""] {
            let error = check(url, None).expect_err("refused");
            assert!(!error.message().contains("hunter2"), "{error}");
        }
    }
}

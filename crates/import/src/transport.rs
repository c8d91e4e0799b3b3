//! Addresses, connections and credentials of the two servers.

use std::path::Path;
use std::time::Duration;

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
        let mut tls = ClientTlsConfig::new().with_native_roots();
        if let Some(pem) = ca {
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        endpoint = endpoint.tls_config(tls).map_err(|error| unusable(causes(&error)))?;
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

/// A secret must not go over a network that others read.
pub(crate) fn refuse_open_secret(url: &str, secret: Option<&str>, flag: &str) -> Result<()> {
    let Some(host) = url.strip_prefix("http://").filter(|_| secret.is_some()) else { return Ok(()) };
    let host = host.split(['/', '?']).next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    // Names without a dot are of this machine, this pod's neighbours or this network of containers.
    let is_near = !host.contains('.') || host.starts_with("127.") || host.ends_with(".svc") || host.ends_with(".local");
    match is_near || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_private()) {
        true => Ok(()),
        false => Err(Error::new(format!("{flag} would go to {host} readable by anybody: use https://"))),
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn secrets_stay_near_unless_encrypted() {
        for url in
            ["http://localhost:1", "http://[::1]:1", "http://weaviate", "http://10.1.2.3:1/x", "https://a.example.com"]
        {
            assert_eq!(refuse_open_secret(url, Some("key"), "--weaviate-api-key"), Ok(()), "{url}");
        }
        let error =
            refuse_open_secret("http://a.example.com:1/x", Some("s3cret"), "--weaviate-api-key").expect_err("refused");
        assert!(error.message().contains("a.example.com") && !error.message().contains("s3cret"), "{error}");
        assert_eq!(refuse_open_secret("http://a.example.com", None, "x"), Ok(()));
    }
}

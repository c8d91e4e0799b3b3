//! `healthcheck`: for images.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::HealthcheckArgs;
use crate::error::{Error, Result};

/// Asks `/.well-known/ready`, as an image's HEALTHCHECK does. Over TLS the server's certificate is not checked: it is asked
/// at an address of its own machine, where its name does not hold, and is told nothing.
pub(super) async fn healthcheck(args: HealthcheckArgs) -> Result<()> {
    let mut address = args.listen;
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}/.well-known/ready");
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .tls_danger_accept_invalid_certs(true)
        .timeout(Duration::from_secs(2))
        .build();
    let client = client.map_err(|error| Error::internal(format!("no HTTP client: {error}")))?;
    let answer = client.get(&url).send().await;
    let answer = answer.map_err(|_| Error::config(format!("{url} does not answer: is the server running there?")))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
    Err(Error::config(format!("{url} answered {status}: {body}")))
}

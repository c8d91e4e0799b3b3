//! `healthcheck`: for images.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::HealthcheckArgs;
use crate::error::{Error, Result};

/// So many characters are shown of an answer that is not well.
const SHOWN: usize = 500;

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
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(2))
        .build();
    let client = client.map_err(|error| Error::internal(format!("no HTTP client: {error}")))?;
    let answer = client.get(&url).send().await;
    let silent = |error: reqwest::Error| {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let cause = causes.last().map(ToString::to_string).unwrap_or_default();
        let remedy = match args.tls_cert {
            Some(_) => "and with --tls-cert, as here?",
            None => "and without --tls-cert, as here?",
        };
        let cause = cause.escape_debug();
        Error::config(format!("{url} does not answer: is the server running there, {remedy} ({cause})"))
    };
    let mut answer = answer.map_err(silent)?;
    if answer.status().is_success() {
        return Ok(());
    }
    let begin = answer.chunk().await.ok().flatten().unwrap_or_default();
    let body: String = String::from_utf8_lossy(&begin).chars().take(SHOWN).collect();
    Err(Error::config(format!("{url} answered {}: {}", answer.status(), body.escape_debug())))
}

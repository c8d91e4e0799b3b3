//! How upstreams are asked: one set of options for all of them.

use std::sync::Arc;
use std::time::Duration;

use super::client::Tls;
use super::credentials::Credentials;
use super::itself::Itself;
use super::resolve::{Resolve, System};

/// How upstreams are asked. The same for all of them.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Names to addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Certificates.
    pub tls: Tls,
    /// Tokens and headers by host.
    pub credentials: Credentials,
    /// For one attempt, its answer read.
    pub attempt_timeout: Duration,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// For everything, where a request has no deadline of its own.
    pub total_timeout: Duration,
    /// Requests under way to one upstream.
    pub concurrency: usize,
    /// Names are looked up again after so long.
    pub refresh: Duration,
    /// How long an upstream may take to become ready at start; Weaviate's limit.
    pub startup_limit: Duration,
    /// How to know that an upstream is this sidecar; `None`: there is no server here.
    pub itself: Option<Itself>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        RemoteOptions {
            resolver: Arc::new(System),
            tls: Tls::default(),
            credentials: Credentials::default(),
            attempt_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            total_timeout: Duration::from_secs(45),
            concurrency: 64,
            refresh: Duration::from_secs(10),
            startup_limit: Duration::from_secs(120),
            itself: None,
        }
    }
}

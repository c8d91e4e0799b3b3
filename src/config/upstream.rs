//! Other servers that embed, as the flags name them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::numbers::{A_YEAR, between};
use crate::backend::remote::RemoteOptions;
use crate::backend::remote::client::Tls;
use crate::backend::remote::credentials::Credentials;
use crate::contract::endpoint::InferenceUrls;
use crate::error::Result;

/// Other servers that embed: which, how they are asked, and which ones classes may name.
#[derive(Debug, Clone, Args)]
pub struct UpstreamArgs {
    /// Base URL of a server that embeds instead of a model here; replicas separated by commas [default:
    /// TRANSFORMERS_INFERENCE_API]
    #[arg(long, env = "T2V_UPSTREAM", hide_env_values = true, conflicts_with_all = ["passage_upstream", "query_upstream"])]
    pub upstream: Option<String>,
    /// The same for passages only [default: TRANSFORMERS_PASSAGE_INFERENCE_API]
    #[arg(long, env = "T2V_PASSAGE_UPSTREAM", hide_env_values = true)]
    pub passage_upstream: Option<String>,
    /// The same for queries only [default: TRANSFORMERS_QUERY_INFERENCE_API]
    #[arg(long, env = "T2V_QUERY_UPSTREAM", hide_env_values = true)]
    pub query_upstream: Option<String>,
    /// Hosts that classes may name as upstreams, separated by commas: host, *.suffix, address, network/bits, each with an
    /// optional :port
    #[arg(long, env = "T2V_ALLOW_UPSTREAM", default_value = "")]
    pub allow_upstream: String,
    /// Whether to wait at start, up to 120 seconds, until the upstreams are ready [default: true, or what
    /// TRANSFORMERS_WAIT_FOR_STARTUP says]
    #[arg(long, env = "T2V_UPSTREAM_WAIT", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub upstream_wait: Option<bool>,
    /// Seconds an upstream may take for one attempt
    #[arg(long, env = "T2V_UPSTREAM_TIMEOUT", value_name = "SECONDS",
          default_value_t = RemoteOptions::default().attempt_timeout.as_secs(), value_parser = between(1, A_YEAR))]
    pub upstream_timeout: u64,
    /// Requests under way to one upstream at the same time
    #[arg(long, env = "T2V_UPSTREAM_CONCURRENCY", default_value_t = RemoteOptions::default().concurrency,
          value_parser = between(1, 1_000_000_usize))]
    pub upstream_concurrency: usize,
    /// Trust and credentials.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Whom to believe among other servers, and what to show them.
#[derive(Debug, Clone, Args)]
pub struct AccessArgs {
    /// PEM file of certificate authorities to believe beside the system's
    #[arg(long, env = "T2V_UPSTREAM_CA", value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,
    /// PEM file with the certificate to show to upstreams, and its key if --upstream-key does not name it
    #[arg(long, env = "T2V_UPSTREAM_CERT", value_name = "FILE")]
    pub upstream_cert: Option<PathBuf>,
    /// PEM file with the key of --upstream-cert
    #[arg(long, env = "T2V_UPSTREAM_KEY", value_name = "FILE", requires = "upstream_cert")]
    pub upstream_key: Option<PathBuf>,
    /// Bearer tokens, as host[:port]=token separated by commas; better in the variable than on the command line
    #[arg(long, env = "T2V_UPSTREAM_TOKENS", hide_env_values = true, default_value = "")]
    pub upstream_tokens: String,
    /// Files with bearer tokens, as host[:port]=path separated by commas; read again as they change
    #[arg(long, env = "T2V_UPSTREAM_TOKEN_FILES", default_value = "")]
    pub upstream_token_files: String,
    /// Other headers, as host[:port]=Name:value separated by commas
    #[arg(long, env = "T2V_UPSTREAM_HEADERS", hide_env_values = true, default_value = "")]
    pub upstream_headers: String,
}

impl AccessArgs {
    /// The usual ways to ask, with this trust and these credentials.
    pub fn options(&self) -> Result<RemoteOptions> {
        Ok(RemoteOptions {
            tls: Tls::read(self.upstream_ca.as_deref(), self.upstream_cert.as_deref(), self.upstream_key.as_deref())?,
            credentials: Credentials::parse(&self.upstream_tokens, &self.upstream_token_files, &self.upstream_headers)?,
            ..RemoteOptions::default()
        })
    }
}

impl UpstreamArgs {
    /// How upstreams are asked.
    pub fn options(&self, max_wait: u64) -> Result<RemoteOptions> {
        Ok(RemoteOptions {
            attempt_timeout: Duration::from_secs(self.upstream_timeout),
            total_timeout: Duration::from_secs(max_wait),
            concurrency: self.upstream_concurrency,
            ..self.access.options()?
        })
    }

    /// What the flags name; a side that is not named is embedded here.
    pub(super) fn urls(&self) -> Option<InferenceUrls> {
        let side = |own: &Option<String>| own.as_ref().or(self.upstream.as_ref()).cloned().unwrap_or_default();
        let urls = InferenceUrls { passage: side(&self.passage_upstream), query: side(&self.query_upstream) };
        (!urls.passage.is_empty() || !urls.query.is_empty()).then_some(urls)
    }
}

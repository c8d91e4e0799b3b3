//! Other servers that embed, as the flags name them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::model_choice::no_name;
use super::numbers::{A_YEAR, between};
use super::security::flag_of_file;
use crate::backend::remote::RemoteOptions;
use crate::backend::remote::client::Tls;
use crate::backend::remote::credentials::Credentials;
use crate::contract::endpoint::InferenceUrls;
use crate::error::{Error, Result};

/// An upstream that is a model beside others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamChoice {
    /// As the operator named it; `None`: as its own server calls it.
    pub name: Option<String>,
    /// Its base URL, or those of its replicas, separated by commas.
    pub urls: String,
}

/// Reads `<name>=<URL>`. A URL's query may have a `=` too.
fn named(part: &str) -> Option<(&str, &str)> {
    let (name, url) = part.split_once('=')?;
    (!name.is_empty() && !name.contains("://") && url.contains("://")).then_some((name, url))
}

/// Other servers that embed: which, how they are asked, and which ones classes may name.
#[derive(Debug, Clone, Args)]
pub struct UpstreamArgs {
    /// Base URL of a server that embeds instead of a model here, replicas separated by commas; or <name>=<URL>, several times
    /// or with commas between, for a model of that name beside others [default: TRANSFORMERS_INFERENCE_API]
    #[arg(long, env = "T2V_UPSTREAM", hide_env_values = true, conflicts_with_all = ["passage_upstream", "query_upstream"])]
    pub upstream: Vec<String>,
    /// The same for passages only [default: TRANSFORMERS_PASSAGE_INFERENCE_API]
    #[arg(long, env = "T2V_PASSAGE_UPSTREAM", hide_env_values = true)]
    pub passage_upstream: Option<String>,
    /// The same for queries only [default: TRANSFORMERS_QUERY_INFERENCE_API]
    #[arg(long, env = "T2V_QUERY_UPSTREAM", hide_env_values = true)]
    pub query_upstream: Option<String>,
    /// Hosts that classes may name as upstreams, separated by commas: host, *.suffix, address, network/bits, each with an
    /// optional :port and an optional /path, which is needed for other paths than /models/<name> where credentials go along
    #[arg(long, env = "T2V_ALLOW_UPSTREAM", default_value = "", hide_default_value = true)]
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
    #[arg(long, env = "T2V_UPSTREAM_TOKENS", hide_env_values = true, default_value = "", hide_default_value = true)]
    pub upstream_tokens: String,
    /// Files with bearer tokens, as host[:port]=path separated by commas; read again as they change
    #[arg(long, env = "T2V_UPSTREAM_TOKEN_FILES", default_value = "", hide_default_value = true)]
    pub upstream_token_files: String,
    /// Other headers, as host[:port]=Name:value separated by commas
    #[arg(long, env = "T2V_UPSTREAM_HEADERS", hide_env_values = true, default_value = "", hide_default_value = true)]
    pub upstream_headers: String,
}

impl AccessArgs {
    /// The usual ways to ask, with this trust and these credentials.
    ///
    /// # Errors
    /// `Config` for files, tokens and headers that cannot be used.
    pub(super) fn options(&self) -> Result<RemoteOptions> {
        let files = [
            ("--upstream-ca", self.upstream_ca.as_deref()),
            ("--upstream-cert", self.upstream_cert.as_deref()),
            ("--upstream-key", self.upstream_key.as_deref()),
        ];
        let [ca, certificate, key] = files.map(|(_, path)| path);
        Ok(RemoteOptions {
            tls: Tls::read(ca, certificate, key).map_err(|error| flag_of_file(error, &files))?,
            credentials: Credentials::parse(&self.upstream_tokens, &self.upstream_token_files, &self.upstream_headers)?,
            ..RemoteOptions::default()
        })
    }
}

impl UpstreamArgs {
    /// How upstreams are asked.
    ///
    /// # Errors
    /// `Config` for files, tokens and headers that cannot be used.
    pub(super) fn options(&self, total_timeout: Duration) -> Result<RemoteOptions> {
        Ok(RemoteOptions {
            attempt_timeout: Duration::from_secs(self.upstream_timeout),
            total_timeout,
            concurrency: self.upstream_concurrency,
            ..self.access.options()?
        })
    }

    /// The upstreams that are models beside others, in order. Empty where `--upstream` names one that takes every text.
    ///
    /// # Errors
    /// `Config` if more than one has no name, and for a name that no caller could use.
    pub(super) fn models(&self) -> Result<Vec<UpstreamChoice>> {
        let choices = self.choices();
        if let Some(why) = choices.iter().filter_map(|choice| choice.name.as_deref()).find_map(no_name) {
            return Err(Error::config(why).parameter("--upstream"));
        }
        match choices.iter().filter(|choice| choice.name.is_none()).count() {
            _ if self.whole().is_some() => Ok(Vec::new()),
            0 | 1 => Ok(choices),
            _ => Err(Error::config(
                "several upstreams need names: --upstream <name>=<URL> for each but one; replicas of one stand in one \
                 --upstream, separated by commas",
            )
            .parameter("--upstream")),
        }
    }

    /// Whether any flag names an upstream.
    pub(super) fn any(&self) -> bool {
        self.urls().is_some() || !self.choices().is_empty()
    }

    /// The one upstream of all texts.
    fn whole(&self) -> Option<String> {
        match &self.choices()[..] {
            [UpstreamChoice { name: None, urls }] => Some(urls.clone()),
            _ => None,
        }
    }

    /// A part with a name begins an upstream; the parts behind it are its replicas.
    fn choices(&self) -> Vec<UpstreamChoice> {
        let mut choices: Vec<UpstreamChoice> = Vec::new();
        for given in self.upstream.iter().filter(|given| !given.is_empty()) {
            let unnamed = |urls: &str| UpstreamChoice { name: None, urls: urls.to_owned() };
            if !given.split(',').any(|part| named(part.trim()).is_some()) {
                choices.push(unnamed(given));
                continue;
            }
            let first = choices.len();
            for part in given.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                match named(part) {
                    Some((name, url)) => choices.push(UpstreamChoice { name: Some(name.into()), urls: url.into() }),
                    None if choices.len() == first => choices.push(unnamed(part)),
                    None => choices.iter_mut().last().into_iter().for_each(|last| last.urls += &format!(",{part}")),
                }
            }
        }
        choices
    }

    /// What the flags name; a side that is not named is embedded here.
    pub(super) fn urls(&self) -> Option<InferenceUrls> {
        let whole = self.whole();
        let side = |own: &Option<String>| own.as_ref().or(whole.as_ref()).cloned().unwrap_or_default();
        let urls = InferenceUrls { passage: side(&self.passage_upstream), query: side(&self.query_upstream) };
        (!urls.passage.is_empty() || !urls.query.is_empty()).then_some(urls)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Cli;

    fn read(arguments: &[&str]) -> UpstreamArgs {
        let given = arguments.iter().flat_map(|&argument| ["--upstream", argument]);
        Cli::parse_from(["text2vec-sidecar"].into_iter().chain(given)).serve.upstream
    }

    #[test]
    fn upstreams_have_names_and_replicas() {
        let models = |arguments: &[&str]| {
            let models = read(arguments).models()?.into_iter();
            Ok::<_, Error>(models.map(|choice| (choice.name.unwrap_or_default(), choice.urls)).collect::<Vec<_>>())
        };
        let expected = |pairs: &[(&str, &str)]| -> Result<Vec<(String, String)>> {
            Ok(pairs.iter().map(|(name, urls)| ((*name).to_owned(), (*urls).to_owned())).collect())
        };
        let two = expected(&[("a", "http://1"), ("b", "grpc://2:1,grpc://3")]);
        assert_eq!(models(&["a=http://1", "b=grpc://2:1,grpc://3"]), two);
        assert_eq!(models(&["a=http://1, b=grpc://2:1, grpc://3"]), two);
        let with_key = expected(&[("", "openai+http://1/v1?model=x"), ("a", "http://u:p=q@2/?k=v")]);
        assert_eq!(models(&["openai+http://1/v1?model=x,a=http://u:p=q@2/?k=v"]), with_key);
        assert_eq!(models(&["openai+http://1/v1?model=x", "a=http://u:p=q@2/?k=v"]), with_key);
        assert!(models(&["a b=http://1"]).is_err_and(|error| error.message().contains("'a b' cannot be a name")));
        assert!(models(&["http://1", "http://2"]).is_err_and(|error| error.message().contains("need names")));
        for whole in ["http://1", "http://1,http://2", " http://1", "openai+http://1/v1?model=x"] {
            assert_eq!(models(&[whole]), Ok(Vec::new()), "{whole}");
            assert_eq!(read(&[whole]).urls().map(|urls| urls.query).as_deref(), Some(whole), "taken as it is");
        }
        assert!(read(&["a=http://1"]).any() && read(&["a=http://1"]).urls().is_none());
        assert!(!read(&[]).any() && !read(&[""]).any());
    }
}

//! Configuration: each flag is also a `T2V_*` variable. The variables of the reference container are read here and only
//! here, as it reads them, and count where neither flag nor `T2V_*` variable is given.

mod device;
mod mistakes;
mod numbers;
mod security;
mod shown;
mod upstream;

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};

use crate::backend::Directory;
use crate::backend::local::{DEFAULT_WAITING_TOKENS, Device, Engine, Precision};
use crate::backend::remote::address;
use crate::backend::remote::guard::Allowed;
use crate::cache::CacheOptions;
use crate::contract::class::Settings;
use crate::contract::endpoint::{self, Endpoint, Endpoints, InferenceUrls};
use crate::contract::request::{Profile, Task};
use crate::error::{Error, Result};
use crate::model::locate::IMAGE_MODEL_DIR;
use crate::model::modules::ProfileHints;
use crate::server::{Lifetimes, Limits, ModuleOptions, Origins, ServerOptions, SurfaceOptions};
use crate::telemetry::LogFormat;
use text2vec_engine::device::GPU_SUPPORT;

pub use self::mistakes::command_line;
use self::numbers::{A_YEAR, BYTES, MANY, THREADS, between};
pub use self::security::{Secret, SecurityArgs};
pub use self::shown::shown;
pub use self::upstream::{AccessArgs, UpstreamArgs, UpstreamChoice};

/// The model served when nothing else is said.
pub const DEFAULT_MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// The share of the cache for upstreams that classes name, if they may: one in so many bytes.
const CLASS_SHARE: u64 = 4;

/// How long vectors of upstreams are remembered, as the reference container does with its own.
const UPSTREAM_TTL: Duration = Duration::from_secs(600);

/// Weaviate's text2vec-transformers contract as one binary: text in, vectors out, over HTTP and gRPC on one port.
#[derive(Debug, Parser)]
#[command(name = "text2vec-sidecar", version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `serve` when left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `serve`.
    #[command(flatten)]
    pub serve: Box<ServeArgs>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve HTTP/1.1, h2c and gRPC on one port (the default)
    Serve(Box<ServeArgs>),
    /// Get a model from the Hub, into its cache or a directory
    Download(DownloadArgs),
    /// Embed texts given as arguments, or line by line on standard input, as JSON lines
    Embed(EmbedArgs),
    /// Two servers, or a server and a model here, on the same texts: exit code 0 if a collection can be shared
    Compare(CompareArgs),
    /// Ask a running server whether it is ready: exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address and port for HTTP and gRPC together
    #[arg(long, env = "T2V_LISTEN", default_value = "0.0.0.0:8080", value_parser = parse_listen)]
    pub listen: SocketAddr,
    /// Tokens and certificates.
    #[command(flatten)]
    pub security: SecurityArgs,
    /// The model and its treatment.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Directory or Hub id of the encoder for passages, where queries have another; needs --query-model
    #[arg(long, env = "T2V_PASSAGE_MODEL", requires = "query_model", conflicts_with = "model")]
    pub passage_model: Option<String>,
    /// Directory or Hub id of the encoder for queries; needs --passage-model
    #[arg(long, env = "T2V_QUERY_MODEL", requires = "passage_model")]
    pub query_model: Option<String>,
    /// Other servers that embed.
    #[command(flatten)]
    pub upstream: UpstreamArgs,
    /// Base URLs, separated by commas, that mean this sidecar itself when a class or TRANSFORMERS_INFERENCE_API names them
    #[arg(long, env = "T2V_SELF_URLS", default_value = "")]
    pub self_urls: String,
    /// Module service: lower-case the texts of objects, as a Weaviate with LOWERCASE_VECTORIZATION_INPUT does
    #[arg(long, env = "T2V_LOWERCASE_INPUT", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub lowercase_input: Option<bool>,
    /// Scale the vectors of OpenAI's and Ollama's paths to length 1, as their own servers do; false: as the profile makes them.
    /// A request to TEI's /embed says `normalize` itself
    #[arg(long, env = "T2V_SURFACE_NORMALIZE", default_value_t = SurfaceOptions::default().normalize, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub surface_normalize: bool,
    /// Largest HTTP body and gRPC message accepted, in bytes
    #[arg(long, env = "T2V_MAX_BODY_BYTES", default_value_t = Limits::default().max_body_bytes,
          value_parser = between(1, BYTES))]
    pub max_body_bytes: usize,
    /// Most texts, or objects, accepted in one request
    #[arg(long, env = "T2V_MAX_TEXTS", default_value_t = Limits::default().max_texts, value_parser = between(1, MANY))]
    pub max_texts: usize,
    /// Largest text accepted, in bytes
    #[arg(long, env = "T2V_MAX_TEXT_BYTES", default_value_t = Limits::default().max_text_bytes,
          value_parser = between(1, BYTES))]
    pub max_text_bytes: usize,
    /// Largest class of the module service accepted, in bytes: its JSON, and what is kept of it in memory
    #[arg(long, env = "T2V_MAX_CLASS_BYTES", default_value_t = Limits::default().max_class_bytes,
          value_parser = between(1, BYTES))]
    pub max_class_bytes: usize,
    /// Seconds a request may wait for its turn before it is refused; Weaviate itself gives up after 50
    #[arg(long, env = "T2V_MAX_WAIT", value_name = "SECONDS", default_value_t = Limits::default().max_wait.as_secs(),
          value_parser = between(0, A_YEAR))]
    pub max_wait: u64,
    /// Seconds a body, or a gRPC message, may take to arrive: it holds room in memory meanwhile
    #[arg(long, env = "T2V_MAX_BODY_WAIT", value_name = "SECONDS",
          default_value_t = Limits::default().max_body_wait.as_secs(), value_parser = between(1, A_YEAR))]
    pub max_body_wait: u64,
    /// Seconds a connection may take for its TLS handshake, for its first byte, and for a request's head once it begins
    #[arg(long, env = "T2V_MAX_HEAD_WAIT", value_name = "SECONDS",
          default_value_t = Limits::default().max_head_wait.as_secs(), value_parser = between(1, A_YEAR))]
    pub max_head_wait: u64,
    /// Largest head of a request accepted, in bytes: its path and its headers, with 32 more for each header
    #[arg(long, env = "T2V_MAX_HEAD_BYTES", default_value_t = Limits::default().max_head_bytes,
          value_parser = between(1024, 1_usize << 30))]
    pub max_head_bytes: usize,
    /// Connections served at once; one more is told to come back later, except for health checks
    #[arg(long, env = "T2V_MAX_CONNECTIONS", default_value_t = Limits::default().max_connections,
          value_parser = between(1, MANY))]
    pub max_connections: usize,
    /// Bytes of request bodies in memory at once, as far as they have come; what is beyond waits to be read, and small
    /// bodies have room of their own
    #[arg(long, env = "T2V_MAX_INFLIGHT_BYTES", default_value_t = Limits::default().max_inflight_bytes,
          value_parser = between(1, BYTES))]
    pub max_inflight_bytes: usize,
    /// Bytes of text that one request may ask the tokens of (/tokenize); token ids that a request holds count as four each
    #[arg(long, env = "T2V_MAX_TOKENIZE_BYTES", default_value_t = Limits::default().max_tokenize_bytes,
          value_parser = between(1, BYTES))]
    pub max_tokenize_bytes: usize,
    /// Bytes of vectors in memory at once, of all answers that are being made or sent; requests for more than ten texts or
    /// so wait for room
    #[arg(long, env = "T2V_MAX_ANSWER_BYTES", default_value_t = Limits::default().max_answer_bytes,
          value_parser = between(1, BYTES))]
    pub max_answer_bytes: usize,
    /// Seconds that whoever is to read an answer may keep us waiting before it is given up
    #[arg(long, env = "T2V_MAX_WRITE_WAIT", value_name = "SECONDS",
          default_value_t = Limits::default().max_write_wait.as_secs(), value_parser = between(1, A_YEAR))]
    pub max_write_wait: u64,
    /// Bytes for vectors made before, least recently used ones forgotten first; 0 is no cache [default: 64 MiB, or 0 if
    /// ENABLE_CACHE says no]
    #[arg(long, env = "T2V_CACHE_BYTES", value_parser = between(0, BYTES as u64))]
    pub cache_bytes: Option<u64>,
    /// Seconds after which a vector is forgotten [default: never; 600 where texts are forwarded]
    #[arg(long, env = "T2V_CACHE_TTL", value_name = "SECONDS", value_parser = between(0, A_YEAR))]
    pub cache_ttl: Option<u64>,
    /// Seconds after which a connection is asked to close, so that replicas behind one address share the traffic
    #[arg(long, env = "T2V_MAX_CONNECTION_AGE", value_name = "SECONDS",
          default_value_t = Lifetimes::default().max_connection_age.as_secs(), value_parser = between(1, A_YEAR))]
    pub max_connection_age: u64,
    /// Seconds after which a connection is closed over which nothing is asked; more than its clients keep one (Go: 90)
    #[arg(long, env = "T2V_MAX_CONNECTION_IDLE", value_name = "SECONDS",
          default_value_t = Lifetimes::default().max_connection_idle.as_secs(), value_parser = between(1, A_YEAR))]
    pub max_connection_idle: u64,
    /// Seconds from SIGTERM, when the server turns unready, until it refuses new connections
    #[arg(long, env = "T2V_DRAIN_DELAY", value_name = "SECONDS",
          default_value_t = Lifetimes::default().drain_delay.as_secs(), value_parser = between(0, A_YEAR))]
    pub drain_delay: u64,
    /// Seconds from SIGTERM until the server ends, with everything in flight finished or not
    #[arg(long, env = "T2V_SHUTDOWN_GRACE", value_name = "SECONDS",
          default_value_t = Lifetimes::default().shutdown_grace.as_secs(), value_parser = between(0, A_YEAR))]
    pub shutdown_grace: u64,
    /// Print every setting, its value and where it comes from, and end; secrets are left out
    #[arg(long, env = "T2V_PRINT_CONFIG", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          value_name = "BOOL", action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub print_config: bool,
    /// Read all settings and files, load the model or ask the upstream, make a vector, and end: exit code 0 if all is well
    #[arg(long, env = "T2V_CHECK", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          value_name = "BOOL", action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub check: bool,
}

/// Which model, and how it treats texts.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Directory or Hub id of the model, or <name>=<directory or Hub id> (a directory with = in its path begins with / or ./);
    /// serve takes it several times, or several with commas between, the first being the default one [default: /app/models/model if it exists, else MODEL_NAME, else
    /// sentence-transformers/all-MiniLM-L6-v2]
    #[arg(long, env = "T2V_MODEL", value_delimiter = ',')]
    pub model: Vec<String>,
    /// Branch, tag or commit of a Hub model [default: main]
    #[arg(long, env = "T2V_REVISION")]
    pub revision: Option<String>,
    /// By which of the reference container's rules vectors are made: auto, transformers, sentence-transformers, onnx
    #[arg(long, env = "T2V_PROFILE", default_value = "auto", value_parser = parse_profile)]
    pub profile: ProfileChoice,
    /// transformers profile: embed the whole text as one sequence instead of sentence by sentence
    #[arg(long, env = "T2V_DIRECT_TOKENIZE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub direct_tokenize: Option<bool>,
    /// Put `<task>: ` in front of every text whose caller names a task
    #[arg(long, env = "T2V_TASK_PREFIXES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub task_prefixes: Option<bool>,
    /// Honour `dimensions` also under the profiles where the reference container ignores it
    #[arg(long, env = "T2V_APPLY_DIMENSIONS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub apply_dimensions: Option<bool>,
    /// What runs the encoder: auto (the CPU's widest kernels; on a CPU with AMX f32 too, in parts, where a
    /// measurement at start finds that faster), amx, avx512, avx2, portable, or, slow and for comparison, candle and
    /// candle-packed (what runs on GPUs)
    #[arg(long, env = "T2V_ENGINE", default_value = "auto")]
    pub engine: Engine,
    /// Where the encoder runs: cpu; with a build for GPUs also cuda, cuda:1, or cuda:0,1 for several cards [default: cpu;
    /// with a build for GPUs the card of CUDA_CORE, if ENABLE_CUDA says so]
    #[arg(long, env = "T2V_DEVICE", value_parser = parse_device)]
    pub device: Option<Device>,
    /// Numbers of the weights: f32 (exact), bf16x3 (faster on a CPU with AMX, 4e-6 off), f16 (half the memory; fastest on a
    /// GPU), bf16, or int8 (fastest on the CPU; vectors differ a little)
    #[arg(long, env = "T2V_PRECISION", default_value = "f32")]
    pub precision: Precision,
    /// Threads of a forward pass [default: what the CPU set and the cgroup's quota allow]
    #[arg(long, env = "T2V_THREADS", value_parser = between(1, THREADS))]
    pub threads: Option<usize>,
    /// Tokens that may wait to be computed; requests beyond wait for room
    #[arg(long, env = "T2V_MAX_WAITING_TOKENS", default_value_t = DEFAULT_WAITING_TOKENS,
          value_parser = between(1, MANY))]
    pub max_waiting_tokens: usize,
    /// Serve queries before passages that came earlier
    #[arg(long, env = "T2V_QUERIES_FIRST", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          value_name = "BOOL", action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub queries_first: bool,
    /// How log lines look: text or json
    #[arg(long, env = "T2V_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// Flags of `download`.
#[derive(Debug, Clone, Args)]
pub struct DownloadArgs {
    /// Hub id, for example sentence-transformers/all-MiniLM-L6-v2
    pub model: String,
    /// Branch, tag or commit of a Hub model [default: main]
    #[arg(long, env = "T2V_REVISION")]
    pub revision: Option<String>,
    /// Put the files into this directory instead of the Hub cache
    #[arg(long, env = "T2V_DIR")]
    pub dir: Option<PathBuf>,
}

/// Flags of `embed`.
#[derive(Debug, Clone, Args)]
pub struct EmbedArgs {
    /// Texts; without any, one text per line of standard input
    pub texts: Vec<String>,
    /// passage or query
    #[arg(long, env = "T2V_TASK", default_value = "passage", value_parser = ["passage", "query"])]
    pub task: String,
    /// masked_mean or cls
    #[arg(long, env = "T2V_POOLING", default_value = "masked_mean")]
    pub pooling: String,
    /// Number of dimensions wanted
    #[arg(long, env = "T2V_DIMENSIONS", allow_negative_numbers = true)]
    pub dimensions: Option<i64>,
    /// The model and its treatment.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Flags of `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// The first side: URL of a server (http://host:8080, grpc://host:8080), else directory or Hub id of a model
    pub first: String,
    /// The second side
    pub second: String,
    /// File with a text per line [default: 16 texts of many kinds]
    #[arg(long, env = "T2V_TEXTS", value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// passage or query
    #[arg(long, env = "T2V_TASK", default_value = "passage", value_parser = ["passage", "query"])]
    pub task: String,
    /// masked_mean or cls
    #[arg(long, env = "T2V_POOLING", default_value = "masked_mean")]
    pub pooling: String,
    /// Number of dimensions wanted
    #[arg(long, env = "T2V_DIMENSIONS", allow_negative_numbers = true)]
    pub dimensions: Option<i64>,
    /// Trust and credentials for the servers.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Treatment of texts by a model here; --model itself is not used.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Flags of `healthcheck`.
#[derive(Debug, Clone, Args)]
pub struct HealthcheckArgs {
    /// Address and port for HTTP and gRPC together
    #[arg(long, env = "T2V_LISTEN", default_value = "0.0.0.0:8080", value_parser = parse_listen)]
    pub listen: SocketAddr,
    /// PEM file with the server's certificate and its chain: the port speaks TLS only; read again as it changes
    #[arg(long, env = "T2V_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
}

/// A model to serve, and the name it is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelChoice {
    /// As the operator named it; `None`: as it calls itself.
    pub name: Option<String>,
    /// Directory or Hub id.
    pub source: String,
}

impl ModelChoice {
    /// A model under its own name.
    pub fn unnamed(source: impl Into<String>) -> ModelChoice {
        ModelChoice { name: None, source: source.into() }
    }

    /// Reads `<name>=<source>` or `<source>`. What begins as a path does (`/`, `.`, `~`) is a source, whatever it holds: so a
    /// directory with a `=` in its path is given from `/` or `./` on.
    ///
    /// # Errors
    /// `Config` for a name that callers could not use, and for what may be meant either way.
    fn read(text: &str) -> Result<ModelChoice> {
        let (name, source) = match text.split_once('=') {
            Some(parts) if !text.starts_with(['/', '.', '~']) => parts,
            _ => return Ok(ModelChoice::unnamed(text)),
        };
        let refused = |why: &str| Err(Error::config(format!("--model (T2V_MODEL) '{text}': {why}")));
        if Path::new(text).exists() {
            return refused(&format!(
                "there is such a directory, yet this is the name '{name}' for '{source}': for the \
                                     directory write ./{text}"
            ));
        }
        if source.is_empty() {
            return refused("nothing is behind '=': give a directory or a Hub id, as <name>=<directory or Hub id>");
        }
        if !is_name(name) {
            return refused(&format!(
                "'{name}' cannot be a name: names have letters, digits, '.', '_' and '-', in parts with '/' between them, each \
                 beginning with a letter or digit, perhaps a tag behind ':' (BAAI/bge-small-en-v1.5, nomic-embed-text:v1.5), \
                 {MAX_NAME} bytes at most; a directory with '=' in its path begins with / or ./"
            ));
        }
        Ok(ModelChoice { name: Some(name.into()), source: source.into() })
    }
}

/// The longest name of a model, in bytes.
const MAX_NAME: usize = 200;

/// Whether a model may be named so: what Hub ids and Ollama's names are made of, and paths of URLs hold as it is.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let (parts, tag) = match name.rsplit_once(':') {
        Some((parts, tag)) => (parts, Some(tag)),
        None => (name, None),
    };
    name.len() <= MAX_NAME && parts.split('/').all(is_part) && tag.is_none_or(is_part)
}

/// A profile, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileChoice(
    /// `None` is `auto`.
    pub Option<Profile>,
);

/// An address and a port; a name, which is looked up (its IPv4 address first); or `:port`, all IPv4 interfaces, as the
/// default has it.
fn parse_listen(text: &str) -> std::result::Result<SocketAddr, String> {
    let hint = "use an address and a port, such as 0.0.0.0:8080, 127.0.0.1:8081, localhost:8081, :8080 or [::]:8080";
    let port = |port: &str| port.parse::<u16>().ok();
    match (text.parse(), text.rsplit_once(':').map(|(host, end)| (host, port(end)))) {
        (Ok(address), _) => Ok(address),
        (_, Some(("", Some(port)))) => Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        (_, Some((host, Some(port)))) if !host.contains([':', '/', '[', ']']) => {
            let found =
                (host, port).to_socket_addrs().map_err(|_| format!("no address is known for '{host}': {hint}"))?;
            let found: Vec<SocketAddr> = found.collect();
            found.iter().find(|address| address.is_ipv4()).or(found.first()).copied().ok_or_else(|| hint.to_owned())
        }
        _ => Err(hint.to_owned()),
    }
}

fn parse_device(text: &str) -> std::result::Result<Device, String> {
    device::parse(text, GPU_SUPPORT)
}

fn parse_profile(text: &str) -> std::result::Result<ProfileChoice, String> {
    match text {
        "auto" => Ok(ProfileChoice(None)),
        other => other.parse().map(|profile| ProfileChoice(Some(profile))),
    }
}

impl ServeArgs {
    /// The limits of one request.
    pub fn limits(&self) -> Limits {
        Limits {
            max_body_bytes: self.max_body_bytes,
            max_texts: self.max_texts,
            max_text_bytes: self.max_text_bytes,
            max_class_bytes: self.max_class_bytes,
            max_wait: Duration::from_secs(self.max_wait),
            max_body_wait: Duration::from_secs(self.max_body_wait),
            max_head_wait: Duration::from_secs(self.max_head_wait),
            max_head_bytes: self.max_head_bytes,
            max_connections: self.max_connections,
            max_inflight_bytes: self.max_inflight_bytes,
            max_tokenize_bytes: self.max_tokenize_bytes,
            max_answer_bytes: self.max_answer_bytes,
            max_write_wait: Duration::from_secs(self.max_write_wait),
        }
    }
}

/// The variables of the reference container and of Weaviate's module, as far as they are understood, with their own ideas
/// of what is true.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReferenceEnv {
    /// `MODEL_NAME`.
    pub model_name: Option<String>,
    /// `ONNX_RUNTIME`, `USE_SENTENCE_TRANSFORMERS_VECTORIZER`.
    pub hints: ProfileHints,
    /// `T2V_TRANSFORMERS_DIRECT_TOKENIZE`: `true` or `1`.
    pub direct_tokenize: bool,
    /// `USE_QUERY_PASSAGE_PREFIXES`: any text at all, `false` included.
    pub task_prefixes: bool,
    /// `LOG_FORMAT`.
    pub log_format: Option<LogFormat>,
    /// `ENABLE_CUDA`, which this build cannot fulfil.
    pub cuda_wanted: bool,
    /// `ENABLE_CUDA` with `CUDA_CORE`, where this build can.
    pub device: Option<Device>,
    /// `TRANSFORMERS_INFERENCE_API`, or its passage and query pair.
    pub inference_urls: Option<InferenceUrls>,
    /// `TRANSFORMERS_WAIT_FOR_STARTUP` is set, and to something else than on, enabled, 1 or true.
    pub wait_off: bool,
    /// `LOWERCASE_VECTORIZATION_INPUT`: on, enabled, 1 or true.
    pub lowercase_input: bool,
    /// `ENABLE_CACHE` is `0` or `false`. The reference has a cache only when asked; here it is the other way round.
    pub cache_off: bool,
    /// `AUTHENTICATION_ALLOWED_TOKENS`.
    pub allowed_tokens: Option<Secret>,
    /// Settings that cannot be honoured; each is said once at start.
    pub warnings: Vec<String>,
}

/// The names of the reference container's and the module's variables that mean something here.
pub const REFERENCE_VARIABLES: &[&str] = &[
    "MODEL_NAME",
    "ONNX_RUNTIME",
    "USE_SENTENCE_TRANSFORMERS_VECTORIZER",
    "T2V_TRANSFORMERS_DIRECT_TOKENIZE",
    "USE_QUERY_PASSAGE_PREFIXES",
    "LOG_FORMAT",
    "ENABLE_CUDA",
    "CUDA_CORE",
    "TRUST_REMOTE_CODE",
    "AUTHENTICATION_ALLOWED_TOKENS",
    "TRANSFORMERS_INFERENCE_API",
    "TRANSFORMERS_PASSAGE_INFERENCE_API",
    "TRANSFORMERS_QUERY_INFERENCE_API",
    "TRANSFORMERS_WAIT_FOR_STARTUP",
    "LOWERCASE_VECTORIZATION_INPUT",
    "ENABLE_CACHE",
];

impl ReferenceEnv {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// `Config` for a value that is not UTF-8, which would else count as unset: a list of tokens must not.
    pub fn from_process() -> Result<ReferenceEnv> {
        let unreadable = |name: &&&str| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
        if let Some(name) = REFERENCE_VARIABLES.iter().find(unreadable) {
            return Err(Error::config(format!("{name} is not UTF-8 text: set it again or unset it")));
        }
        let mut reference = ReferenceEnv::read(|name| std::env::var(name).ok())?;
        for name in mistakes::unknown(std::env::vars_os().map(|(name, _)| name)) {
            reference
                .warnings
                .push(format!("{name} is set, which is no variable of this program: see --help for those there are"));
        }
        Ok(reference)
    }

    /// Reads variables through `get`. Empty means unset.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<ReferenceEnv> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let is = |name: &str, words: &[&str]| get(name).is_some_and(|value| words.contains(&value.as_str()));
        let mut warnings = Vec::new();
        let text = |name: &str| get(name).unwrap_or_default();
        let cuda = device::wanted(is("ENABLE_CUDA", &["1", "true"]), &text("CUDA_CORE"), GPU_SUPPORT)?;
        if cuda.in_vain {
            warnings.push("ENABLE_CUDA is set, but this build has no GPU support: serving on the CPU".to_owned());
        }
        if is("TRUST_REMOTE_CODE", &["1", "true", "True"]) {
            warnings.push("TRUST_REMOTE_CODE is set, but code from a model is never executed".to_owned());
        }
        let log_format = match get("LOG_FORMAT").as_deref() {
            Some("json") => Some(LogFormat::Json),
            Some("text") => Some(LogFormat::Text),
            _ => None,
        };
        let inference_urls = InferenceUrls::from_environment(
            &text("TRANSFORMERS_INFERENCE_API"),
            &text("TRANSFORMERS_PASSAGE_INFERENCE_API"),
            &text("TRANSFORMERS_QUERY_INFERENCE_API"),
        )?;
        Ok(ReferenceEnv {
            inference_urls,
            wait_off: get("TRANSFORMERS_WAIT_FOR_STARTUP").is_some_and(|value| !endpoint::enabled(&value)),
            cache_off: is("ENABLE_CACHE", &["0", "false", "False"]),
            lowercase_input: endpoint::enabled(&text("LOWERCASE_VECTORIZATION_INPUT")),
            model_name: get("MODEL_NAME"),
            hints: ProfileHints {
                onnx_runtime: is("ONNX_RUNTIME", &["true"]),
                sentence_transformers: is("USE_SENTENCE_TRANSFORMERS_VECTORIZER", &["true"]),
                in_image: false,
            },
            direct_tokenize: is("T2V_TRANSFORMERS_DIRECT_TOKENIZE", &["true", "1"]),
            task_prefixes: get("USE_QUERY_PASSAGE_PREFIXES").is_some(),
            log_format,
            cuda_wanted: cuda.in_vain,
            device: cuda.device,
            allowed_tokens: get("AUTHENTICATION_ALLOWED_TOKENS").map(Secret),
            warnings,
        })
    }

    /// These variables as far as they count beside the flags: a model that a flag (or its `T2V_*` variable) names is not
    /// put aside for `TRANSFORMERS_INFERENCE_API`, which a deployment may share among its containers.
    ///
    /// # Errors
    /// `Config` if flags name both a model here and an upstream for every text.
    pub fn beside(mut self, args: &ServeArgs) -> Result<ReferenceEnv> {
        if args.upstream.any() {
            self.inference_urls = None;
        }
        let model = match &args.passage_model {
            Some(_) => "--passage-model and --query-model (T2V_PASSAGE_MODEL, T2V_QUERY_MODEL)",
            None if !args.model.model.is_empty() => "--model (T2V_MODEL)",
            None => return Ok(self),
        };
        let (endpoints, defaults) = (self.endpoints(args), Settings::default());
        let forwards = |task| matches!(endpoints.resolve(&defaults, task), Endpoint::Remote(_));
        // One task's model beside the other's upstream is a pair.
        if !(forwards(Task::Passage) && forwards(Task::Query)) {
            return Ok(self);
        }
        if let Some(urls) = args.upstream.urls() {
            let addresses = address::parse_list(&urls.passage).unwrap_or_default();
            let shown = addresses.first().map_or("a server", |address| address.shown());
            return Err(Error::config(format!(
                "{model} and --upstream (T2V_UPSTREAM) are both given, a model to serve here and {shown} to forward every text \
                 to: leave one of them out, or name the server (--upstream <name>=URL) to serve both"
            )));
        }
        self.inference_urls = None;
        self.warnings.push(format!(
            "TRANSFORMERS_INFERENCE_API (or its passage and query pair) is set beside {model}: that model is served here, and \
             nothing is forwarded; unset one of them, or say --upstream if texts should be forwarded"
        ));
        Ok(self)
    }

    /// What the server is to be told; `upstreams` are those that classes may name.
    ///
    /// # Errors
    /// `Config` for files of tokens or certificates that cannot be used.
    pub fn server(&self, args: &ServeArgs, upstreams: Arc<dyn Directory>) -> Result<ServerOptions> {
        Ok(ServerOptions {
            limits: args.limits(),
            surfaces: SurfaceOptions { normalize: args.surface_normalize },
            module: ModuleOptions {
                endpoints: self.endpoints(args),
                lowercase_input: args.lowercase_input.unwrap_or(self.lowercase_input),
                upstreams: Some(upstreams),
            },
            lifetimes: Lifetimes {
                max_connection_age: Duration::from_secs(args.max_connection_age),
                max_connection_idle: Duration::from_secs(args.max_connection_idle),
                drain_delay: Duration::from_secs(args.drain_delay),
                shutdown_grace: Duration::from_secs(args.shutdown_grace),
            },
            access: args.security.access(self)?,
            tls: args.security.tls()?,
            open_files: None,
            cors: Origins::parse(&args.security.cors_origins)?,
            cuda_wanted: self.cuda_wanted,
            itself: None,
        })
    }

    /// Where the encoder runs: by the flag, else by the variables, else on the CPU.
    pub fn device(&self, args: &ModelArgs) -> Device {
        args.device.clone().or_else(|| self.device.clone()).unwrap_or_default()
    }

    /// Where texts are embedded: by the flags, else by the variables.
    pub fn endpoints(&self, args: &ServeArgs) -> Endpoints {
        Endpoints::new(args.upstream.urls().or_else(|| self.inference_urls.clone()), &args.self_urls)
    }

    /// Whether to wait until upstreams are ready.
    pub fn waits(&self, args: &ServeArgs) -> bool {
        args.upstream.upstream_wait.unwrap_or(!self.wait_off)
    }

    /// The hosts that classes may name: those allowed, and those the operator uses himself.
    pub fn allowed(&self, args: &ServeArgs) -> Result<Allowed> {
        let mut allowed = Allowed::parse(&args.upstream.allow_upstream)?;
        let endpoints = self.endpoints(args);
        let mut named: Vec<String> = args.upstream.models()?.into_iter().map(|choice| choice.urls).collect();
        for urls in endpoints.environment().into_iter().flat_map(|urls| [&urls.passage, &urls.query]) {
            if !urls.is_empty() {
                named.push(urls.clone());
            }
        }
        let unusable = |error: Error| Error::config(error.message());
        for urls in named {
            address::parse_list(&urls).map_err(unusable)?.iter().for_each(|address| allowed.allow(address));
        }
        Ok(allowed)
    }

    /// Size and memory of the caches: for what the server embeds by default, and for what classes name. An upstream's
    /// model may change behind its URL, so its vectors are forgotten after a while.
    pub fn caches(&self, args: &ServeArgs, forwards: bool) -> (CacheOptions, CacheOptions) {
        let default = if self.cache_off { 0 } else { CacheOptions::default().max_bytes };
        let all = args.cache_bytes.unwrap_or(default);
        let for_classes = if args.upstream.allow_upstream.is_empty() { 0 } else { all / CLASS_SHARE };
        let ttl = args.cache_ttl.map(Duration::from_secs);
        let ttl_of_upstreams = ttl.or(Some(UPSTREAM_TTL));
        (
            CacheOptions { max_bytes: all - for_classes, ttl: if forwards { ttl_of_upstreams } else { ttl } },
            CacheOptions { max_bytes: for_classes, ttl: ttl_of_upstreams },
        )
    }

    /// The models to serve, the default one first: flag, else the image's model directory, else `MODEL_NAME`, else the
    /// default. An error if two have one name.
    pub fn models(&self, args: &ModelArgs) -> Result<Vec<ModelChoice>> {
        let models = self.models_with(args, Path::new(IMAGE_MODEL_DIR).is_dir())?;
        for (place, model) in models.iter().enumerate() {
            if model.name.is_some() && models[..place].iter().any(|other| other.name == model.name) {
                let name = model.name.as_deref().unwrap_or_default();
                return Err(Error::config(format!("two models are named '{name}': give each --model its own name")));
            }
        }
        Ok(models)
    }

    fn models_with(&self, args: &ModelArgs, image_dir_exists: bool) -> Result<Vec<ModelChoice>> {
        Ok(match (&args.model[..], image_dir_exists, &self.model_name) {
            ([], true, _) => vec![ModelChoice::unnamed(IMAGE_MODEL_DIR)],
            ([], false, Some(name)) => vec![ModelChoice::unnamed(name)],
            ([], false, None) => vec![ModelChoice::unnamed(DEFAULT_MODEL)],
            (models, _, _) => models.iter().map(|model| ModelChoice::read(model)).collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Result<ReferenceEnv> {
        ReferenceEnv::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn reference_variables_have_the_references_idea_of_truth() {
        let direct = |value| env(&[("T2V_TRANSFORMERS_DIRECT_TOKENIZE", value)]).expect("env").direct_tokenize;
        assert_eq!(["true", "1", "True", "yes", ""].map(direct), [true, true, false, false, false]);
        let prefixes = |value| env(&[("USE_QUERY_PASSAGE_PREFIXES", value)]).expect("env").task_prefixes;
        assert_eq!(["true", "false", "0", ""].map(prefixes), [true, true, true, false]);
        let cuda = env(&[("ENABLE_CUDA", "1")]).expect("env");
        assert_eq!((cuda.warnings.len(), cuda.device.is_some()), if GPU_SUPPORT { (0, true) } else { (1, false) });
        let tokens = env(&[("AUTHENTICATION_ALLOWED_TOKENS", "verysecret")]).expect("env");
        assert!(tokens.allowed_tokens.is_some() && !format!("{tokens:?}").contains("verysecret"));
    }

    #[test]
    fn serve_is_the_default_and_the_model_has_an_order() {
        let cli = Cli::parse_from(["text2vec-sidecar", "--model", "x", "--direct-tokenize"]);
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.model.direct_tokenize, Some(true));
        let named = env(&[("MODEL_NAME", "org/name")]).expect("env");
        let model = |env: &ReferenceEnv, args: &ModelArgs, image| {
            env.models_with(args, image).expect("models")[0].source.clone()
        };
        assert_eq!(model(&named, &cli.serve.model, true), "x");
        let bare = Cli::parse_from(["text2vec-sidecar"]).serve.model;
        assert_eq!(model(&named, &bare, true), IMAGE_MODEL_DIR);
        assert_eq!(model(&named, &bare, false), "org/name");
        assert_eq!(model(&env(&[]).expect("env"), &bare, false), DEFAULT_MODEL);
    }

    #[test]
    fn addresses_to_listen_on_may_be_names_and_ports() {
        let listen = |text: &str| parse_listen(text).map(|address| address.to_string());
        for (text, address) in [
            ("127.0.0.1:8081", "127.0.0.1:8081"),
            ("[::1]:8081", "[::1]:8081"),
            (":8081", "0.0.0.0:8081"),
            ("localhost:8081", "127.0.0.1:8081"),
        ] {
            assert_eq!(listen(text).as_deref(), Ok(address), "{text}");
        }
        for text in
            ["", ":", "8080", "localhost", "localhost:", "localhost:99999", "http://localhost:80", "::1:80x", "a:b:80"]
        {
            assert!(parse_listen(text).is_err_and(|error| error.contains(":8080")), "{text}");
        }
        assert!(parse_listen("no.such.host.invalid:80").is_err_and(|error| error.contains("'no.such.host.invalid'")));
    }

    #[test]
    fn a_model_that_a_flag_names_is_not_put_aside_for_a_shared_variable() {
        let common = &[("TRANSFORMERS_INFERENCE_API", "http://other:8080")][..];
        let pair = &[
            ("TRANSFORMERS_PASSAGE_INFERENCE_API", "http://me:1"),
            ("TRANSFORMERS_QUERY_INFERENCE_API", "http://other:1"),
        ][..];
        let forwards = |variables: &[(&str, &str)], arguments: &[&str]| {
            let args = Cli::parse_from(["text2vec-sidecar"].iter().chain(arguments)).serve;
            let env = env(variables).expect("env").beside(&args)?;
            Ok::<_, Error>((env.endpoints(&args).environment().is_some(), env.warnings.len()))
        };
        assert_eq!(forwards(common, &[]), Ok((true, 0)));
        assert_eq!(forwards(common, &["--model", "x"]), Ok((false, 1)));
        assert_eq!(forwards(common, &["--passage-model", "x", "--query-model", "y"]), Ok((false, 1)));
        assert_eq!(
            forwards(common, &["--model", "x", "--self-urls", "http://other:8080"]),
            Ok((true, 0)),
            "it is local"
        );
        assert_eq!(
            forwards(pair, &["--model", "x", "--self-urls", "http://me:1"]),
            Ok((true, 0)),
            "a model for passages"
        );
        assert_eq!(forwards(pair, &["--model", "x"]), Ok((false, 1)));
        assert_eq!(
            forwards(common, &["--query-upstream", "http://a", "--model", "x"]),
            Ok((true, 0)),
            "the flags' pair"
        );
        for arguments in [
            &["--model", "x", "--upstream", "http://a"][..],
            &["--model", "x", "--passage-upstream", "http://a", "--query-upstream", "http://b"],
            &["--passage-model", "x", "--query-model", "y", "--upstream", "http://a"],
        ] {
            let error = forwards(common, arguments).expect_err("both");
            assert!(error.message().contains("--upstream (T2V_UPSTREAM)"), "{error}");
            assert!(error.message().contains("are both given"), "{error}");
        }
    }

    #[test]
    fn several_models_are_named_in_order() {
        let read = |arguments: &[&str]| {
            let arguments = ["text2vec-sidecar"].iter().chain(arguments);
            let models = ReferenceEnv::default().models(&Cli::parse_from(arguments).serve.model);
            models.map(|models| models.into_iter().map(|model| (model.name, model.source)).collect::<Vec<_>>())
        };
        let named = |name: &str, source: &str| (Some(name.to_owned()), source.to_owned());
        let models = read(&["--model", "a=/m/a", "--model", "org/b,c.1=./d=e", "--model", "./f=g"]);
        let unnamed = |source: &str| (None, source.to_owned());
        assert_eq!(models, Ok(vec![named("a", "/m/a"), unnamed("org/b"), named("c.1", "./d=e"), unnamed("./f=g")]));
        assert!(read(&["--model", "a=x,a=y"]).is_err());
        for name in ["BAAI/bge-small-en-v1.5", "nomic-embed-text:v1.5", "a/b/c:latest", "text-embedding-3-small", "1"] {
            assert_eq!(read(&["--model", &format!("{name}=DIR")]), Ok(vec![named(name, "DIR")]));
        }
        for path in ["./a=b/dir", "/a=b", "../a=b", "~/a=b", ".=b"] {
            assert_eq!(read(&["--model", path]), Ok(vec![unnamed(path)]));
        }
    }

    #[test]
    fn a_name_that_no_caller_could_use_is_refused_with_what_it_may_hold() {
        let message = |model: &str| {
            let arguments = Cli::parse_from(["text2vec-sidecar".to_owned(), format!("--model={model}")]);
            ReferenceEnv::default().models(&arguments.serve.model).expect_err(model).message().to_owned()
        };
        let long = format!("{}=DIR", "a".repeat(MAX_NAME + 1));
        for model in [
            "my model=DIR",
            "=DIR",
            "a//b=DIR",
            "a/=DIR",
            "a/../b=DIR",
            "a:=DIR",
            ":a=DIR",
            "a:b:c=DIR",
            "a:b/c=DIR",
            "ä=DIR",
            "C:\\a=b",
            "C:/a=b",
            "a?b=DIR",
            "-a=DIR",
            &long,
        ] {
            let message = message(model);
            assert!(
                message.contains("cannot be a name") && message.contains("begins with / or ./"),
                "{model}: {message}"
            );
        }
        assert!(message("a=").contains("nothing is behind '='"));
    }

    #[test]
    fn a_directory_is_not_taken_for_a_name() {
        let dir = tempfile::Builder::new().prefix("lr=0.1").tempdir_in("target").expect("a directory");
        let name = format!("target/{}", dir.path().file_name().expect("a name").to_string_lossy());
        let error = ModelChoice::read(&name).expect_err("either may be meant");
        assert!(error.message().contains(&format!("write ./{name}")), "{error}");
        assert_eq!(ModelChoice::read(&format!("./{name}")), Ok(ModelChoice::unnamed(format!("./{name}"))));
    }
}

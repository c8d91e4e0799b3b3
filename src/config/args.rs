//! The flags, each with its variable.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use text2vec_engine::device::GPU_SUPPORT;

use super::device;
use super::import::ImportArgs;
use super::numbers::{A_YEAR, BYTES, MANY, THREADS, between};
use super::security::SecurityArgs;
use super::upstream::{AccessArgs, UpstreamArgs};
use crate::backend::local::{DEFAULT_WAITING_TOKENS, Device, Engine, Precision};
use crate::contract::request::Profile;
use crate::server::{Lifetimes, Limits, SurfaceOptions};
use crate::telemetry::LogFormat;

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
    /// Put objects of a file into Weaviate, with vectors that a running sidecar makes in bulk
    Import(Box<ImportArgs>),
    /// Two servers, or a server and a model here, on the same texts: exit code 0 if a collection can be shared
    Compare(CompareArgs),
    /// Ask a running server whether it is ready: exit code 0 or 1
    Healthcheck(HealthcheckArgs),
    /// Print what makes a shell complete the commands and flags of this program
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all subcommands into a directory
    Man(ManArgs),
}

/// A file that settings are read from.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// File of settings in TOML, each by the name of its flag, as --print-config writes it; flags and T2V_* variables go before
    /// it, and it before the variables of other programs
    #[arg(long, env = "T2V_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where settings are read from; the command line has them already.
    #[command(flatten)]
    pub config: ConfigArgs,
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
    #[arg(long, env = "T2V_SELF_URLS", hide_env_values = true, default_value = "", hide_default_value = true)]
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
    /// Give a browser a page at / that shows what is served and how it does; false: the text that all others get
    #[arg(long, env = "T2V_PAGE", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          value_name = "BOOL", action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub page: bool,
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
    /// Print every setting, its value and where it comes from, as a file for --config, and end; secrets are left out
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
    /// By which container's rules vectors are made: auto, transformers, sentence-transformers, onnx, model2vec, cross-encoder
    /// (for reranking); of one model beside others, <its name, or what --model has for it>=<profile>, several with commas between
    #[arg(long, env = "T2V_PROFILE", default_value = "auto", value_delimiter = ',', value_parser = parse_profile)]
    pub profile: Vec<ProfileChoice>,
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
    /// measurement at start finds that faster), amx, avx512, avx2, neon, portable, or, slow and for comparison, candle and
    /// candle-packed (on GPUs too)
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
    #[arg(long, env = "T2V_POOLING", default_value = "masked_mean", value_parser = ["masked_mean", "cls"])]
    pub pooling: String,
    /// Number of dimensions wanted
    #[arg(long, env = "T2V_DIMENSIONS", allow_negative_numbers = true, value_parser = between(1, MANY as i64))]
    pub dimensions: Option<i64>,
    /// Where settings are read from.
    #[command(flatten)]
    pub config: ConfigArgs,
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
    #[arg(long, env = "T2V_POOLING", default_value = "masked_mean", value_parser = ["masked_mean", "cls"])]
    pub pooling: String,
    /// Number of dimensions wanted
    #[arg(long, env = "T2V_DIMENSIONS", allow_negative_numbers = true, value_parser = between(1, MANY as i64))]
    pub dimensions: Option<i64>,
    /// Where settings are read from.
    #[command(flatten)]
    pub config: ConfigArgs,
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
    /// Where settings are read from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Address and port for HTTP and gRPC together
    #[arg(long, env = "T2V_LISTEN", default_value = "0.0.0.0:8080", value_parser = parse_listen)]
    pub listen: SocketAddr,
    /// PEM file with the server's certificate and its chain: the port speaks TLS only; read again as it changes
    #[arg(long, env = "T2V_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
}

/// Flags of `man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Write a page for this program and one for each subcommand into this directory
    #[arg(long, env = "T2V_MAN_DIR")]
    pub dir: Option<PathBuf>,
}

/// A profile, or `auto`, of one model or of all that have none of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileChoice {
    /// The model's name, or its directory or Hub id; `None`: all others.
    pub model: Option<String>,
    /// `None` is `auto`.
    pub profile: Option<Profile>,
}

/// An address and a port; a name, which is looked up (its IPv4 address first); or `:port`, all IPv4 interfaces, as the
/// default has it.
pub(super) fn parse_listen(text: &str) -> std::result::Result<SocketAddr, String> {
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
    let (model, profile) = match text.rsplit_once('=') {
        Some(("", _)) => return Err("nothing is before '=': give <name>=<profile>, or the profile alone".to_owned()),
        Some((model, profile)) => (Some(model.to_owned()), profile),
        None => (None, text),
    };
    let profile = if profile == "auto" { None } else { Some(profile.parse()?) };
    Ok(ProfileChoice { model, profile })
}

impl ModelArgs {
    /// Without names that are empty, as variables of a template are that nobody filled in: they mean nothing.
    pub(super) fn without_empty(mut self) -> ModelArgs {
        self.model.retain(|model| !model.is_empty());
        self
    }
}

impl ServeArgs {
    /// As [`ModelArgs::without_empty`], of upstreams too.
    pub(super) fn without_empty(mut self) -> ServeArgs {
        self.model = self.model.without_empty();
        let upstream = &mut self.upstream;
        for name in [
            &mut self.passage_model,
            &mut self.query_model,
            &mut upstream.passage_upstream,
            &mut upstream.query_upstream,
        ] {
            name.take_if(|name| name.is_empty());
        }
        self
    }
}

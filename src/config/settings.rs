//! The settings: flags, `T2V_*` variables, a file and the other programs' variables, resolved once. Whoever serves, checks,
//! embeds or compares reads these, and `--print-config` prints them. The Hub's variables (`HF_*`) are read in `model::hub`,
//! OpenTelemetry's (`OTEL_*`) and `RUST_LOG` in `telemetry`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::args::{CompareArgs, EmbedArgs, ModelArgs, ProfileChoice, ServeArgs};
use super::command_line::CommandLine;
use super::model_choice::ModelChoice;
use super::reference::ReferenceEnv;
use super::security::{Secret, SecurityArgs};
use super::serves::{self, Serves};
use super::table::{Given, Source, Table};
use super::upstream::UpstreamArgs;
use crate::backend::Directory;
use crate::backend::local::{Device, Engine, Precision};
use crate::backend::remote::RemoteOptions;
use crate::backend::remote::address;
use crate::backend::remote::guard::Allowed;
use crate::cache::CacheOptions;
use crate::contract::endpoint::Endpoints;
use crate::contract::request::Profile;
use crate::error::{Error, Result};
use crate::model::modules::ProfileHints;
use crate::server::{Lifetimes, Limits, ModuleOptions, Origins, ServerOptions, SurfaceOptions};
use crate::telemetry::LogFormat;
use text2vec_kernel::Kernels;

/// The share of the cache for upstreams that classes name, if they may: one in so many bytes.
const CLASS_SHARE: u64 = 4;

/// How long vectors of upstreams are remembered, as the reference container does with its own.
const UPSTREAM_TTL: Duration = Duration::from_secs(600);

/// How log lines look, and what is said first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// The format of a line.
    pub format: LogFormat,
    /// Settings that cannot be honoured; each is said once at start.
    pub warnings: Vec<String>,
}

/// What `--profile` says of each model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profiles(Vec<ProfileChoice>);

impl Profiles {
    /// The profile of a model under its name, if it has one, and of its directory or Hub id; `None`: its own.
    pub fn of(&self, name: Option<&str>, source: &str) -> Option<Profile> {
        let called = |choice: &&ProfileChoice| match &choice.model {
            Some(model) => Some(&**model) == name || model == source,
            None => false,
        };
        let own = self.0.iter().rfind(called);
        own.or_else(|| self.0.iter().rfind(|choice| choice.model.is_none())).and_then(|choice| choice.profile)
    }

    /// Whether each model's own profile is taken throughout.
    pub fn are_auto(&self) -> bool {
        self.0.iter().all(|choice| choice.profile.is_none())
    }

    /// What a file says is `serve`'s: of another command's models, those of them that it has.
    fn of_file(&mut self, source: &Source, models: &[ModelChoice]) {
        if matches!(source, Source::File(_)) {
            self.0.retain(|choice| choice.model.as_ref().is_none_or(|model| is_among(model, models)));
        }
    }

    /// Refuses a profile for a model that is not among these.
    ///
    /// # Errors
    /// `Config`, with what to do.
    fn check(&self, models: &[ModelChoice]) -> Result<()> {
        match self.0.iter().filter_map(|choice| choice.model.as_ref()).find(|model| !is_among(model, models)) {
            None => Ok(()),
            Some(model) => Err(Error::config(format!(
                "it names the model '{model}', which is not served here: name it as --model does, \
                 --model {model}=<directory or Hub id>"
            ))
            .parameter("--profile")),
        }
    }
}

/// Whether one of these models is called so.
fn is_among(wanted: &String, models: &[ModelChoice]) -> bool {
    models.iter().any(|model| model.name.as_ref() == Some(wanted) || &model.source == wanted)
}

/// How models here treat texts, and what computes them.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSettings {
    /// Branch, tag or commit of a Hub model; `None`: main.
    pub revision: Option<String>,
    /// By which rules vectors are made.
    pub profiles: Profiles,
    /// What the reference container's variables say about the profile.
    pub hints: ProfileHints,
    /// transformers profile: the whole text is one sequence.
    pub direct_tokenize: bool,
    /// The task is put in front of texts; `None`: a model's marker file says, else `reference_prefixes`.
    pub task_prefixes: Option<bool>,
    /// `USE_QUERY_PASSAGE_PREFIXES`, as the reference reads it.
    pub reference_prefixes: bool,
    /// `dimensions` are honoured under every profile.
    pub apply_dimensions: bool,
    /// What runs the encoder.
    pub engine: Engine,
    /// Where it runs.
    pub device: Device,
    /// A GPU is asked for (`ENABLE_CUDA`), which this build cannot use.
    pub cuda_wanted: bool,
    /// Numbers of the weights.
    pub precision: Precision,
    /// Threads of a forward pass; `None`: what the process may use.
    pub threads: Option<usize>,
    /// Tokens that may wait to be computed.
    pub max_waiting_tokens: usize,
    /// Queries are served before passages that came earlier.
    pub queries_first: bool,
    /// The log.
    pub log: LogSettings,
}

/// Other servers that embed.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// Whether to wait at start until they are ready.
    pub wait: bool,
    /// Hosts that classes may name.
    pub allowed: Allowed,
    args: UpstreamArgs,
    total_timeout: Duration,
}

/// Who may ask, and how connections are encrypted: files are read when the server starts.
#[derive(Debug, Clone)]
pub struct SecuritySettings {
    allowed_tokens: Option<Secret>,
    cors: Option<Origins>,
    args: SecurityArgs,
}

/// The rooms for vectors made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSettings {
    /// Of what is served.
    pub served: CacheOptions,
    /// Of upstreams that classes name.
    pub of_classes: CacheOptions,
}

/// All settings of `serve`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address and port for HTTP and gRPC together.
    pub listen: SocketAddr,
    /// What is served, and under which names.
    pub serves: Serves,
    /// How models here treat texts.
    pub model: ModelSettings,
    /// Where texts are embedded when a class does not say, and which URLs mean this sidecar.
    pub endpoints: Endpoints,
    /// How other servers are asked.
    pub upstreams: UpstreamSettings,
    /// Who may ask.
    pub security: SecuritySettings,
    /// Vectors made before.
    pub cache: CacheSettings,
    /// Objects' texts are lower-cased.
    pub lowercase_input: bool,
    /// How the surfaces that come from elsewhere answer.
    pub surfaces: SurfaceOptions,
    /// A browser is given a page at `/`.
    pub page: bool,
    /// Limits on requests and connections.
    pub limits: Limits,
    /// Ends of connections and of the server.
    pub lifetimes: Lifetimes,
    /// Each setting with its value and its source.
    pub table: Table,
}

/// Settings of `embed`.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedCommand {
    /// The model, one alone.
    pub choice: ModelChoice,
    /// How it treats texts.
    pub model: ModelSettings,
}

impl EmbedCommand {
    /// Of the command line, and of this process's variables.
    ///
    /// # Errors
    /// `Config` for settings that cannot be used, and for more than one model.
    pub fn resolve(line: &CommandLine, args: &EmbedArgs) -> Result<EmbedCommand> {
        let reference = ReferenceEnv::from_process()?;
        let mut given = Given::new(line, "embed");
        let mut model = ModelSettings::resolve(&mut given, &args.model, &reference);
        match &serves::models(&args.model.clone().without_empty(), &reference)?[..] {
            [choice] => {
                model.profiles.of_file(&given.source("profile"), std::slice::from_ref(choice));
                model.profiles.check(std::slice::from_ref(choice))?;
                model.check_engine()?;
                Ok(EmbedCommand { choice: choice.clone(), model })
            }
            _ => Err(Error::config("embed works with one model: give --model once").parameter("--model")),
        }
    }
}

/// Settings of `compare`.
#[derive(Debug, Clone)]
pub struct CompareCommand {
    /// How a model here treats texts.
    pub model: ModelSettings,
    /// How a server is asked.
    pub remote: RemoteOptions,
}

impl CompareCommand {
    /// Of the command line, and of this process's variables.
    ///
    /// # Errors
    /// `Config` for settings that cannot be used, and for files that cannot be read.
    pub fn resolve(line: &CommandLine, args: &CompareArgs) -> Result<CompareCommand> {
        let reference = ReferenceEnv::from_process()?;
        let mut given = Given::new(line, "compare");
        let mut model = ModelSettings::resolve(&mut given, &args.model, &reference);
        let models = [&args.first, &args.second].map(ModelChoice::unnamed);
        model.profiles.of_file(&given.source("profile"), &models);
        model.profiles.check(&models)?;
        if models.iter().any(|model| !model.source.contains("://")) {
            model.check_engine()?;
        }
        Ok(CompareCommand { model, remote: args.access.options()? })
    }
}

impl ModelSettings {
    fn resolve(given: &mut Given<'_>, args: &ModelArgs, reference: &ReferenceEnv) -> ModelSettings {
        for id in ["revision", "profile", "engine"] {
            given.text(id);
        }
        let switch = |on: bool, variable: &str| (on, Source::variable_if(on, variable));
        let prefixes = switch(reference.task_prefixes, "USE_QUERY_PASSAGE_PREFIXES");
        let direct = switch(reference.direct_tokenize, "T2V_TRANSFORMERS_DIRECT_TOKENIZE");
        let format = reference.log_format;
        let device = reference.device.clone();
        let device_source = Source::variable_if(device.is_some(), "ENABLE_CUDA");
        match (args.task_prefixes, prefixes) {
            // The model's own files may still say something else.
            (None, (false, source)) => given.note_found("task_prefixes", "false", source),
            (flag, prefixes) => drop(given.or("task_prefixes", flag, prefixes)),
        }
        match args.threads {
            Some(threads) => drop(given.value("threads", threads)),
            None => given.note_found("threads", &text2vec_kernel::cores().to_string(), Source::Default),
        }
        ModelSettings {
            // A variable that nobody filled in.
            revision: args.revision.clone().filter(|revision| !revision.is_empty()),
            profiles: Profiles(args.profile.clone()),
            hints: reference.hints,
            direct_tokenize: given.or("direct_tokenize", args.direct_tokenize, direct),
            task_prefixes: args.task_prefixes,
            reference_prefixes: reference.task_prefixes,
            apply_dimensions: given.or("apply_dimensions", args.apply_dimensions, (false, Source::Default)),
            engine: args.engine,
            device: given.or("device", args.device.clone(), (device.unwrap_or_default(), device_source)),
            cuda_wanted: reference.cuda_wanted,
            precision: given.value("precision", args.precision),
            threads: args.threads,
            max_waiting_tokens: given.value("max_waiting_tokens", args.max_waiting_tokens),
            queries_first: given.value("queries_first", args.queries_first),
            log: LogSettings {
                format: given.or(
                    "log_format",
                    args.log_format,
                    (format.unwrap_or_default(), Source::variable_if(format.is_some(), "LOG_FORMAT")),
                ),
                warnings: reference.warnings.clone(),
            },
        }
    }
}

impl ModelSettings {
    /// Refuses instructions that this CPU does not have, and a precision that the engine does not.
    fn check_engine(&self) -> Result<()> {
        match self.engine {
            Engine::Candle if self.precision != Precision::F32 => Err(Error::config(format!(
                "the engine candle computes in f32 only: leave out --engine candle, or --precision {}",
                self.precision
            ))
            .parameter("--engine")),
            Engine::Kernels(set) => match Kernels::with(set) {
                Ok(_) => Ok(()),
                Err(error) => Err(Error::from(error).parameter("--engine")),
            },
            _ => Ok(()),
        }
    }
}

impl Settings {
    /// Of the command line, and of this process's variables.
    ///
    /// # Errors
    /// `Config` for settings that cannot be used together, or by themselves. Files are not read yet.
    pub fn resolve(line: &CommandLine, args: &ServeArgs) -> Result<Settings> {
        Settings::beside(line, args, &ReferenceEnv::from_process()?)
    }

    /// Of the command line, beside these variables of other programs.
    pub(super) fn beside(line: &CommandLine, args: &ServeArgs, reference: &ReferenceEnv) -> Result<Settings> {
        let args = &args.clone().without_empty();
        let mut given = Given::new(line, "serve");
        let mut model = ModelSettings::resolve(&mut given, &args.model, reference);
        given.text("self_urls");
        let endpoints = serves::endpoints(&mut given, args, reference, &mut model.log.warnings)?;
        let serves = Serves::resolve(&mut given, args, reference, &endpoints)?;
        model.profiles.check(&serves.models())?;
        if !serves.models().is_empty() {
            model.check_engine()?;
        }
        let lowercased = reference.lowercase_input;
        let settings = Settings {
            listen: given.value("listen", args.listen),
            upstreams: upstreams(&mut given, args, reference, &endpoints)?,
            security: security(&mut given, args, reference)?,
            cache: cache(&mut given, args, reference, serves.forwards()),
            lowercase_input: given.or(
                "lowercase_input",
                args.lowercase_input,
                (lowercased, Source::variable_if(lowercased, "LOWERCASE_VECTORIZATION_INPUT")),
            ),
            surfaces: SurfaceOptions { normalize: given.value("surface_normalize", args.surface_normalize) },
            page: given.value("page", args.page),
            limits: limits(&mut given, args),
            lifetimes: lifetimes(&mut given, args),
            serves,
            model,
            endpoints,
            table: Table::default(),
        };
        if reference.allowed_tokens.is_some() {
            given.note_secret("auth-tokens", "AUTHENTICATION_ALLOWED_TOKENS");
        }
        settings.model.log.warnings.iter().for_each(|warning| given.note_warning(warning));
        Ok(Settings { table: given.table(), ..settings })
    }

    /// What the server is to be told; `upstreams` are those that classes may name.
    ///
    /// # Errors
    /// `Config` for files of tokens or certificates that cannot be used.
    pub fn server(&self, upstreams: Arc<dyn Directory>) -> Result<ServerOptions> {
        let SecuritySettings { allowed_tokens, cors, args } = &self.security;
        Ok(ServerOptions {
            limits: self.limits,
            surfaces: self.surfaces,
            module: ModuleOptions {
                endpoints: self.endpoints.clone(),
                lowercase_input: self.lowercase_input,
                upstreams: Some(upstreams),
            },
            lifetimes: self.lifetimes,
            page: self.page,
            access: args.access(allowed_tokens.as_ref())?,
            tls: args.tls()?,
            open_files: None,
            cors: cors.clone(),
            cuda_wanted: self.model.cuda_wanted,
            itself: None,
        })
    }
}

impl UpstreamSettings {
    /// How upstreams are asked; reads the files of trust and credentials.
    ///
    /// # Errors
    /// `Config` for files, tokens and headers that cannot be used.
    pub fn options(&self) -> Result<RemoteOptions> {
        self.args.options(self.total_timeout)
    }
}

/// How other servers are asked, and which ones classes may name: those allowed, and those the operator uses himself.
fn upstreams(
    given: &mut Given<'_>,
    args: &ServeArgs,
    reference: &ReferenceEnv,
    endpoints: &Endpoints,
) -> Result<UpstreamSettings> {
    for id in ["allow_upstream", "upstream_ca", "upstream_cert", "upstream_key"] {
        given.text(id);
    }
    for id in ["upstream_tokens", "upstream_token_files", "upstream_headers"] {
        given.text(id);
    }
    given.value("upstream_timeout", args.upstream.upstream_timeout);
    given.value("upstream_concurrency", args.upstream.upstream_concurrency);
    let mut allowed = Allowed::parse(&args.upstream.allow_upstream)?;
    let models = args.upstream.models()?;
    let mut named: Vec<_> = models.into_iter().map(|choice| ("--upstream", choice.urls)).collect();
    if let Some(urls) = endpoints.environment() {
        for (id, variable, urls) in [
            ("passage_upstream", "TRANSFORMERS_PASSAGE_INFERENCE_API", &urls.passage),
            ("query_upstream", "TRANSFORMERS_QUERY_INFERENCE_API", &urls.query),
        ] {
            let by = match (args.upstream.any(), given.source(id)) {
                (false, _) => reference.inference_url_variable.unwrap_or(variable),
                (true, Source::Default) => "--upstream",
                (true, _) if id == "query_upstream" => "--query-upstream",
                (true, _) => "--passage-upstream",
            };
            named.push((by, urls.clone()));
        }
    }
    for (by, urls) in named.into_iter().filter(|(_, urls)| !urls.is_empty()) {
        let addresses = address::of_operator(&urls).map_err(|error| error.parameter(by))?;
        addresses.iter().for_each(|address| allowed.allow(address));
    }
    let waits = (
        reference.wait_off.is_none(),
        Source::variable_if(reference.wait_off.is_some(), reference.wait_off.unwrap_or_default()),
    );
    Ok(UpstreamSettings {
        wait: given.or("upstream_wait", args.upstream.upstream_wait, waits),
        allowed,
        args: args.upstream.clone(),
        total_timeout: Duration::from_secs(args.max_wait),
    })
}

fn security(given: &mut Given<'_>, args: &ServeArgs, reference: &ReferenceEnv) -> Result<SecuritySettings> {
    for id in ["auth_tokens_file", "tls_cert", "tls_key", "tls_client_ca", "cors_origins"] {
        given.text(id);
    }
    given.value("auth_metrics", args.security.auth_metrics);
    let cors = Origins::parse(&args.security.cors_origins)?;
    Ok(SecuritySettings { allowed_tokens: reference.allowed_tokens.clone(), cors, args: args.security.clone() })
}

/// Size and memory of the caches: for what is served, and for what classes name. An upstream's model may change behind its
/// URL, so its vectors are forgotten after a while.
fn cache(given: &mut Given<'_>, args: &ServeArgs, reference: &ReferenceEnv, forwards: bool) -> CacheSettings {
    let default = if reference.cache_off { 0 } else { CacheOptions::default().max_bytes };
    let default = (default, Source::variable_if(reference.cache_off, "ENABLE_CACHE"));
    let all = given.or("cache_bytes", args.cache_bytes, default);
    let of_classes = if args.upstream.allow_upstream.is_empty() { 0 } else { all / CLASS_SHARE };
    let ttl = args.cache_ttl.map(Duration::from_secs);
    let ttl_of_upstreams = ttl.or(Some(UPSTREAM_TTL));
    let served = CacheOptions { max_bytes: all - of_classes, ttl: if forwards { ttl_of_upstreams } else { ttl } };
    let source = given.source("cache_ttl");
    match served.ttl {
        Some(ttl) => given.note("cache_ttl", &ttl.as_secs().to_string(), source),
        None => given.note_found("cache_ttl", "never", source),
    }
    CacheSettings { served, of_classes: CacheOptions { max_bytes: of_classes, ttl: ttl_of_upstreams } }
}

fn limits(given: &mut Given<'_>, args: &ServeArgs) -> Limits {
    Limits {
        max_body_bytes: given.value("max_body_bytes", args.max_body_bytes),
        max_texts: given.value("max_texts", args.max_texts),
        max_text_bytes: given.value("max_text_bytes", args.max_text_bytes),
        max_class_bytes: given.value("max_class_bytes", args.max_class_bytes),
        max_wait: Duration::from_secs(given.value("max_wait", args.max_wait)),
        max_body_wait: Duration::from_secs(given.value("max_body_wait", args.max_body_wait)),
        max_head_wait: Duration::from_secs(given.value("max_head_wait", args.max_head_wait)),
        max_head_bytes: given.value("max_head_bytes", args.max_head_bytes),
        max_connections: given.value("max_connections", args.max_connections),
        max_inflight_bytes: given.value("max_inflight_bytes", args.max_inflight_bytes),
        max_tokenize_bytes: given.value("max_tokenize_bytes", args.max_tokenize_bytes),
        max_answer_bytes: given.value("max_answer_bytes", args.max_answer_bytes),
        max_write_wait: Duration::from_secs(given.value("max_write_wait", args.max_write_wait)),
    }
}

fn lifetimes(given: &mut Given<'_>, args: &ServeArgs) -> Lifetimes {
    Lifetimes {
        max_connection_age: Duration::from_secs(given.value("max_connection_age", args.max_connection_age)),
        max_connection_idle: Duration::from_secs(given.value("max_connection_idle", args.max_connection_idle)),
        drain_delay: Duration::from_secs(given.value("drain_delay", args.drain_delay)),
        shutdown_grace: Duration::from_secs(given.value("shutdown_grace", args.shutdown_grace)),
    }
}

//! The variables of the reference container and of Weaviate's module: read here and only here, as those programs read them.
//! They count where neither flag nor `T2V_*` variable is given.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use text2vec_engine::device::GPU_SUPPORT;

use super::args::{ModelArgs, ServeArgs};
use super::mistakes::REFERENCE_VARIABLES;
use super::model_choice::{DEFAULT_MODEL, ModelChoice};
use super::security::Secret;
use super::{device, mistakes};
use crate::backend::Directory;
use crate::backend::local::Device;
use crate::backend::remote::address;
use crate::backend::remote::guard::Allowed;
use crate::cache::CacheOptions;
use crate::contract::class::Settings;
use crate::contract::endpoint::{self, Endpoint, Endpoints, InferenceUrls};
use crate::contract::request::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::model::locate::IMAGE_MODEL_DIR;
use crate::model::modules::ProfileHints;
use crate::server::{Lifetimes, ModuleOptions, Origins, ServerOptions, SurfaceOptions};
use crate::telemetry::LogFormat;

/// The share of the cache for upstreams that classes name, if they may: one in so many bytes.
const CLASS_SHARE: u64 = 4;

/// How long vectors of upstreams are remembered, as the reference container does with its own.
const UPSTREAM_TTL: Duration = Duration::from_secs(600);

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
    ///
    /// # Errors
    /// `Config` for a variable whose value cannot be meant.
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
            access: args.security.access(self.allowed_tokens.as_ref())?,
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
    ///
    /// # Errors
    /// `Config` for a pattern or an upstream that cannot be read.
    pub fn allowed(&self, args: &ServeArgs) -> Result<Allowed> {
        let mut allowed = Allowed::parse(&args.upstream.allow_upstream)?;
        let endpoints = self.endpoints(args);
        let mut named: Vec<String> = args.upstream.models()?.into_iter().map(|choice| choice.urls).collect();
        for urls in endpoints.environment().into_iter().flat_map(|urls| [&urls.passage, &urls.query]) {
            if !urls.is_empty() {
                named.push(urls.clone());
            }
        }
        let unusable = |error: Error| error.with_kind(ErrorKind::Config);
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
    ///
    /// # Errors
    /// `Config` for a name that cannot be one, and for one that two models have.
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

    pub(super) fn models_with(&self, args: &ModelArgs, image_dir_exists: bool) -> Result<Vec<ModelChoice>> {
        Ok(match (&args.model[..], image_dir_exists, &self.model_name) {
            ([], true, _) => vec![ModelChoice::unnamed(IMAGE_MODEL_DIR)],
            ([], false, Some(name)) => vec![ModelChoice::unnamed(name)],
            ([], false, None) => vec![ModelChoice::unnamed(DEFAULT_MODEL)],
            (models, _, _) => models.iter().map(|model| ModelChoice::read(model)).collect::<Result<_>>()?,
        })
    }
}

//! The variables of the reference container and of Weaviate's module: read here and only here, as those programs read them.
//! They count where neither flag nor `T2V_*` variable is given.

use text2vec_engine::device::GPU_SUPPORT;

use super::mistakes::REFERENCE_VARIABLES;
use super::security::Secret;
use super::{device, mistakes};
use crate::backend::local::Device;
use crate::contract::endpoint::{self, InferenceUrls};
use crate::error::{Error, Result};
use crate::model::modules::ProfileHints;
use crate::telemetry::LogFormat;

/// The variables of the reference container and of Weaviate's modules, as far as they are understood, with their own ideas
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
    /// The variable that they come from, unless that is the pair: `TRANSFORMERS_INFERENCE_API`, or else `MODEL2VEC_INFERENCE_API`.
    pub inference_url_variable: Option<&'static str>,
    /// The variable by which waiting for them is off, `TRANSFORMERS_WAIT_FOR_STARTUP` or `MODEL2VEC_WAIT_FOR_STARTUP`: set, and
    /// to something else than on, enabled, 1 or true.
    pub wait_off: Option<&'static str>,
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
        let transformers = InferenceUrls::from_environment(
            &text("TRANSFORMERS_INFERENCE_API"),
            &text("TRANSFORMERS_PASSAGE_INFERENCE_API"),
            &text("TRANSFORMERS_QUERY_INFERENCE_API"),
        )?;
        let model2vec = InferenceUrls::from_environment(&text("MODEL2VEC_INFERENCE_API"), "", "")?;
        if transformers.is_some() && model2vec.is_some() && transformers != model2vec {
            warnings.push(
                "MODEL2VEC_INFERENCE_API is set beside TRANSFORMERS_INFERENCE_API (or its passage and query pair), which alone \
                 says where texts are forwarded: name the other server, --upstream model2vec=<its URL>, to serve both"
                    .to_owned(),
            );
        }
        let (of_model2vec, names) = match (&transformers, get("TRANSFORMERS_INFERENCE_API")) {
            (None, _) => (true, model2vec.as_ref().map(|_| "MODEL2VEC_INFERENCE_API")),
            (Some(_), Some(_)) => (false, Some("TRANSFORMERS_INFERENCE_API")),
            (Some(_), None) => (false, None),
        };
        let wait = if of_model2vec { "MODEL2VEC_WAIT_FOR_STARTUP" } else { "TRANSFORMERS_WAIT_FOR_STARTUP" };
        Ok(ReferenceEnv {
            inference_urls: transformers.or(model2vec),
            inference_url_variable: names,
            wait_off: get(wait).is_some_and(|value| !endpoint::enabled(&value)).then_some(wait),
            cache_off: is("ENABLE_CACHE", &["0", "false", "False"]),
            lowercase_input: endpoint::enabled(&text("LOWERCASE_VECTORIZATION_INPUT")),
            model_name: get("MODEL_NAME"),
            hints: ProfileHints {
                onnx_runtime: is("ONNX_RUNTIME", &["true"]),
                sentence_transformers: is("USE_SENTENCE_TRANSFORMERS_VECTORIZER", &["true"]),
                image: None,
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
}

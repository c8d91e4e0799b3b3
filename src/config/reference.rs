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
    /// They come from `TRANSFORMERS_INFERENCE_API`, not from the pair.
    pub inference_url_is_common: bool,
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
            inference_url_is_common: get("TRANSFORMERS_INFERENCE_API").is_some(),
            wait_off: get("TRANSFORMERS_WAIT_FOR_STARTUP").is_some_and(|value| !endpoint::enabled(&value)),
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

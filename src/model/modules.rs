//! What a model directory says about the model: architecture, limits, pooling, prompts, and the reference image's
//! marker files. Reads JSON, knows no tensors.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use text2vec_engine::candle::library;
use text2vec_engine::classification::is_classifier;
use text2vec_engine::family::Masks;
use text2vec_engine::files::{read_json, read_text};
use text2vec_engine::open::Description;
use text2vec_engine::pooling::PoolingMode;
use text2vec_engine::static_embedding::Library;

use crate::contract::request::Profile;
use crate::error::{Error, Result};
use crate::model::locate::Image;

/// Everything a model directory says besides its weights and vocabulary.
#[derive(Debug, Clone)]
pub struct ModelDescription {
    /// The directory of the transformer: the model's own, or the one in it that `modules.json` names.
    pub dir: PathBuf,
    /// `config.json` as it is.
    pub config: Map<String, Value>,
    /// `model_max_length` of `tokenizer_config.json`, when it is a real limit.
    pub tokenizer_limit: Option<usize>,
    /// The sentence-transformers pipeline, if `modules.json` is there.
    pub pipeline: Option<Pipeline>,
    /// Prompts by name, from `config_sentence_transformers.json`.
    pub prompts: BTreeMap<String, String>,
    /// Which of the prompts is used when none matches the task.
    pub default_prompt_name: Option<String>,
    /// `max_seq_length` of `sentence_bert_config.json`.
    pub max_seq_length: Option<usize>,
    /// `do_lower_case` of `sentence_bert_config.json`: the text is lower-cased before the tokenizer sees it.
    pub do_lower_case: bool,
    /// The reference image's marker files.
    pub markers: Markers,
}

/// Most tokens of a sequence of a model without a table of positions, whatever its files say: attention takes time with the
/// square of it, and a pass memory with it.
const MOST_TOKENS: usize = 32_768;

/// The modules of a sentence-transformers model, as far as they shape a vector after the transformer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pipeline {
    /// Pooling modes of `1_Pooling`; their outputs are concatenated. Empty means mean pooling.
    pub pooling: Vec<PoolingMode>,
    /// Directories of the dense layers, in order.
    pub dense: Vec<PathBuf>,
    /// Whether the model normalises by itself.
    pub normalize: bool,
}

/// Files by which the reference container's build script records its settings in the model directory. `None`: no file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Markers {
    /// `model_name`: its presence chooses the sentence-transformers mode.
    pub model_name: Option<String>,
    /// `onnx_runtime` holds exactly `true`.
    pub onnx_runtime: bool,
    /// `use_query_passage_prefixes`: on only if it holds exactly `true`.
    pub use_query_passage_prefixes: Option<bool>,
    /// `trust_remote_code`: on only if it holds exactly `true`.
    pub trust_remote_code: Option<bool>,
}

impl Markers {
    /// Reads the marker files of a directory. `root` is where the image keeps them, which for a Hub cache is above the
    /// snapshot.
    pub fn read(root: &Path) -> Markers {
        let text = |name: &str| std::fs::read_to_string(root.join(name)).ok();
        Markers {
            model_name: text("model_name").map(|name| name.trim().to_owned()),
            onnx_runtime: text("onnx_runtime").as_deref() == Some("true"),
            use_query_passage_prefixes: text("use_query_passage_prefixes").map(|value| value == "true"),
            trust_remote_code: text("trust_remote_code").map(|value| value == "true"),
        }
    }
}

impl ModelDescription {
    /// Reads a model directory. `marker_root` is where the reference image's marker files are (usually the directory
    /// itself).
    ///
    /// # Errors
    /// `Config` for a directory without `config.json`, for JSON that is damaged, and for a pipeline that is not
    /// supported.
    pub fn read(root: &Path, marker_root: &Path) -> Result<ModelDescription> {
        let (pipeline, dir) = read_pipeline(root)?;
        let config = read_json(&dir.join("config.json"))?.ok_or_else(|| {
            Error::config(format!(
                "{} has no config.json: --model must name a directory with config.json, a tokenizer and weights, or a \
                 Hub id",
                dir.display()
            ))
        })?;
        let tokenizer_config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let sentence = read_sentence_config(&dir)?;
        let prompts_config = read_json(&root.join("config_sentence_transformers.json"))?.unwrap_or_default();
        let prompts = prompts_config
            .get("prompts")
            .and_then(Value::as_object)
            .map(|prompts| {
                prompts.iter().filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
            })
            .unwrap_or_default();
        Ok(ModelDescription {
            dir,
            config,
            // Tokenizers without a limit carry the absurd number 1e30 instead.
            tokenizer_limit: tokenizer_config
                .get("model_max_length")
                .and_then(Value::as_f64)
                .filter(|&limit| (1.0..1e9).contains(&limit))
                .map(|limit| limit as usize),
            pipeline,
            prompts,
            default_prompt_name: string(&prompts_config, "default_prompt_name"),
            max_seq_length: number(&sentence, "max_seq_length"),
            do_lower_case: sentence.get("do_lower_case").and_then(Value::as_bool).unwrap_or(false),
            markers: Markers::read(marker_root),
        })
    }

    /// `model_type` of `config.json`, or what its first architecture implies; `""` when neither is there.
    pub fn model_type(&self) -> &str {
        if let Some(model_type) = self.config.get("model_type").and_then(Value::as_str) {
            return model_type;
        }
        let architectures = self.config.get("architectures").and_then(Value::as_array);
        let first = architectures.and_then(|names| names.first()).and_then(Value::as_str).unwrap_or_default();
        let families = [
            ("DistilBert", "distilbert"),
            ("XLMRoberta", "xlm-roberta"),
            ("ModernBert", "modernbert"),
            ("NomicBert", "nomic_bert"),
            ("EuroBert", "eurobert"),
            ("Albert", "albert"),
            ("Electra", "electra"),
            ("NewModel", "new"),
            ("Gte", "gte"),
            ("JinaBert", "bert"),
            ("Llama", "llama"),
            ("Mistral", "mistral"),
            ("Qwen2", "qwen2"),
            ("Qwen3", "qwen3"),
            ("Gemma3Text", "gemma3_text"),
            ("Roberta", "roberta"),
            ("MPNet", "mpnet"),
            ("DebertaV2", "deberta-v2"),
            ("DPR", "dpr"),
            ("T5", "t5"),
            ("Bert", "bert"),
            ("StaticModel", "model2vec"),
        ];
        families.into_iter().find(|(start, _)| first.starts_with(start)).map_or("", |(_, family)| family)
    }

    /// What its encoder depends on.
    pub fn encoder(&self, profile: Profile, masks: Masks) -> Description<'_> {
        let library = match profile {
            Profile::Model2vec => Library::Model2vec,
            _ => Library::SentenceTransformers,
        };
        let table = self.is_static().then_some(library);
        Description { config: &self.config, model_type: self.model_type(), table, masks }
    }

    /// Whether its repository has a class of its own for it, which is never run.
    fn has_code(&self) -> bool {
        self.config.get("auto_map").is_some_and(|map| map.get("AutoModel").is_some())
    }

    /// Whether it has a language model's body, of which its repository's code may have made something else, and no key of
    /// `config.json` says so.
    pub fn may_be_bidirectional(&self) -> bool {
        self.is_language_model() && self.has_code() && !self.config.contains_key("is_causal")
    }

    /// Whether it is of a family in which `is_causal` decides.
    fn is_language_model(&self) -> bool {
        matches!(self.model_type(), "llama" | "mistral" | "qwen2" | "qwen3")
    }

    /// The masks of its encoder. A model that asks for bidirectional attention has causal ones where a container of the
    /// reference is replaced: its transformers does not know that key, and an index has been filled with those vectors.
    /// Unless the container was told to run the model's own code, which does what the model asks for.
    pub fn masks(&self, hints: ProfileHints) -> Masks {
        let says = |key: &str, value: bool| self.config.get(key) == Some(&Value::Bool(value));
        let asks = match self.model_type() {
            "gemma3_text" => says("use_bidirectional_attention", true),
            _ => self.is_language_model() && says("is_causal", false),
        };
        let replaces_container = self.markers != Markers::default() || hints.image == Some(Image::Transformers);
        let ran_code = self.markers.trust_remote_code == Some(true) && self.has_code();
        match asks && replaces_container && !ran_code {
            true => Masks::AsTransformers4,
            false => Masks::AsConfigured,
        }
    }

    /// Whether it is a table of token vectors (model2vec), no transformer.
    pub fn is_static(&self) -> bool {
        self.model_type() == "model2vec"
    }

    /// Whether model2vec scales its vectors to length 1: `normalize` of `config.json`, off unless it is there.
    pub fn normalizes(&self) -> bool {
        self.config.get("normalize").and_then(Value::as_bool).unwrap_or(false)
    }

    /// `max_position_embeddings` of `config.json`, if it is there.
    pub fn configured_positions(&self) -> Option<usize> {
        number(&self.config, "max_position_embeddings")
    }

    /// Size of the position table as far as texts may use it: tables that start behind the padding index (RoBERTa and
    /// kin) have that many rows less. `None` for relative positions.
    pub fn usable_positions(&self) -> Option<usize> {
        let key = if self.model_type() == "nomic_bert" { "n_positions" } else { "max_position_embeddings" };
        let positions = match (number(&self.config, key), self.model_type()) {
            (Some(positions), _) => positions,
            // Relative positions only, or none.
            (None, "t5" | "model2vec" | "") => return None,
            // The defaults of families without a table of positions, of the published models.
            (None, "modernbert" | "nomic_bert" | "new" | "gte" | "eurobert") => 8192,
            (None, "qwen2" | "qwen3" | "mistral" | "gemma3_text") => 32768,
            (None, "llama") => 2048,
            // What a sparse file leaves out has this default in every other family.
            (None, _) => 512,
        };
        match self.model_type() {
            // Beyond that frequencies would depend on a text's length.
            "nomic_bert"
                if self.config.get("rotary_scaling_factor").and_then(Value::as_f64).is_some_and(|it| it != 0.0) =>
            {
                Some(positions.min(number(&self.config, "max_trained_positions").unwrap_or(2048)))
            }
            // No table is as long as it says.
            "modernbert" | "nomic_bert" | "new" | "gte" | "eurobert" | "llama" | "mistral" | "qwen2" | "qwen3"
            | "gemma3_text" => Some(positions.min(MOST_TOKENS)),
            "bert" if self.config.get("position_embedding_type").and_then(Value::as_str) == Some("alibi") => {
                Some(positions.min(MOST_TOKENS))
            }
            "deberta-v2" => Some(positions.min(library::LONGEST)),
            // MPNet's padding id is fixed.
            "mpnet" => Some(positions.saturating_sub(2)),
            "roberta" | "xlm-roberta" | "camembert" => {
                Some(positions.saturating_sub(1 + number(&self.config, "pad_token_id").unwrap_or(1)))
            }
            _ => Some(positions),
        }
    }

    /// The prompt sentence-transformers puts in front of a query: the one named `query`, else the default one.
    pub fn query_prompt(&self) -> Option<&str> {
        self.named_prompt(&["query"])
    }

    /// The prompt sentence-transformers puts in front of a document: the first of `document`, `passage`, `corpus`, else
    /// the default one.
    pub fn document_prompt(&self) -> Option<&str> {
        self.named_prompt(&["document", "passage", "corpus"])
    }

    fn named_prompt(&self, names: &[&str]) -> Option<&str> {
        let name = names.iter().find(|name| self.prompts.contains_key(**name)).copied();
        self.prompts.get(name.or(self.default_prompt_name.as_deref())?).map(String::as_str)
    }

    /// The profile `auto` stands for: marker files first, then `hints` (the reference container's variables), then what
    /// the reference's published image of this Hub id does, then what its images do with a directory that was put into
    /// them, then the model's own pipeline.
    pub fn auto_profile(&self, hints: ProfileHints, id: Option<&str>) -> (Profile, &'static str) {
        if self.markers.onnx_runtime {
            (Profile::Onnx, "the marker file onnx_runtime")
        } else if self.markers.model_name.is_some() {
            (Profile::SentenceTransformers, "the marker file model_name")
        } else if self.model_type() == "t5" {
            (Profile::SentenceTransformers, "T5 models are served so by the reference container")
        } else if self.is_static() && hints.image == Some(Image::Model2vec) {
            (Profile::Model2vec, "the model2vec container has its model in this directory")
        } else if self.is_static() {
            (Profile::SentenceTransformers, "static embeddings are served so by the reference container")
        } else if hints.onnx_runtime {
            (Profile::Onnx, "ONNX_RUNTIME")
        } else if hints.sentence_transformers {
            (Profile::SentenceTransformers, "USE_SENTENCE_TRANSFORMERS_VECTORIZER")
        } else if self.pipeline.is_none() && is_classifier(&self.config) {
            (Profile::CrossEncoder, "its architecture has ForSequenceClassification")
        } else if let Some(profile) = id.and_then(published_profile) {
            (profile, "the reference container's published image of this model")
        } else if self.pipeline.is_some() && hints.image == Some(Image::Transformers) {
            (
                Profile::Transformers,
                "no marker file: the reference container serves /app/models/model so, with a modules.json too",
            )
        } else if self.pipeline.is_some() {
            (Profile::SentenceTransformers, MODULES_JSON)
        } else {
            (Profile::Transformers, "there is no modules.json")
        }
    }
}

/// Why a profile was chosen that nothing but the model's own pipeline asks for: the reference container, given such a
/// directory, would serve it under [`Profile::Transformers`].
pub const MODULES_JSON: &str = "modules.json";

/// What chooses a mode of the reference container where no marker file does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProfileHints {
    /// `ONNX_RUNTIME`.
    pub onnx_runtime: bool,
    /// `USE_SENTENCE_TRANSFORMERS_VECTORIZER`.
    pub sentence_transformers: bool,
    /// Somebody put the directory where these images have their model, as the reference's recipe for custom images says.
    pub image: Option<Image>,
}

/// How the reference container's published image serves a model of its README (CI matrix of t2v-transformers-models).
fn published_profile(id: &str) -> Option<Profile> {
    const SENTENCE_TRANSFORMERS: &[&str] = &[
        "sentence-transformers/all-mpnet-base-v2",
        "sentence-transformers/gtr-t5-base",
        "sentence-transformers/gtr-t5-large",
        "google/flan-t5-base",
        "google/flan-t5-large",
        "sentence-transformers/sentence-t5-base",
        "mixedbread-ai/mxbai-embed-large-v1",
        "intfloat/multilingual-e5-large",
        "Qwen/Qwen3-Embedding-0.6B",
        "Qwen/Qwen3-Embedding-4B",
        "google/embeddinggemma-300m",
        "minishlab/potion-base-4M",
        "minishlab/potion-base-8M",
        "minishlab/potion-base-32M",
    ];
    const TRANSFORMERS: &[&str] = &[
        "distilbert-base-uncased",
        "distilbert/distilbert-base-uncased",
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        "sentence-transformers/multi-qa-MiniLM-L6-cos-v1",
        "sentence-transformers/multi-qa-mpnet-base-cos-v1",
        "sentence-transformers/all-MiniLM-L12-v2",
        "sentence-transformers/paraphrase-multilingual-mpnet-base-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers/multi-qa-distilbert-cos-v1",
        "BAAI/bge-small-en-v1.5",
        "BAAI/bge-base-en-v1.5",
        "Snowflake/snowflake-arctic-embed-xs",
        "Snowflake/snowflake-arctic-embed-s",
        "Snowflake/snowflake-arctic-embed-m",
        "Snowflake/snowflake-arctic-embed-m-v1.5",
        "EuroBERT/EuroBERT-210m",
        "EuroBERT/EuroBERT-610m",
        "EuroBERT/EuroBERT-2.1B",
        "Snowflake/snowflake-arctic-embed-l",
        "facebook/dpr-ctx_encoder-single-nq-base",
        "facebook/dpr-question_encoder-single-nq-base",
        "vblagoje/dpr-ctx_encoder-single-lfqa-wiki",
        "vblagoje/dpr-question_encoder-single-lfqa-wiki",
        "biu-nlp/abstract-sim-sentence",
        "biu-nlp/abstract-sim-query",
    ];
    let among = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(id));
    if among(SENTENCE_TRANSFORMERS) {
        Some(Profile::SentenceTransformers)
    } else if among(TRANSFORMERS) {
        Some(Profile::Transformers)
    } else if id.eq_ignore_ascii_case("BAAI/bge-m3") {
        Some(Profile::Onnx)
    } else {
        None
    }
}

/// Whether the reference container's published image of this Hub id puts the task in front of texts.
pub fn published_prefixes(id: &str) -> bool {
    id.eq_ignore_ascii_case("intfloat/multilingual-e5-large")
}

/// The pipeline, if there is one, and the directory of its transformer.
fn read_pipeline(dir: &Path) -> Result<(Option<Pipeline>, PathBuf)> {
    let path = dir.join("modules.json");
    let mut body = dir.to_owned();
    let Some(text) = read_text(&path)? else { return Ok((None, body)) };
    let modules: Vec<Map<String, Value>> = serde_json::from_str(&text)
        .map_err(|error| Error::config(format!("{} is not a list of modules: {error}", path.display())))?;
    let refuse = |why: String| {
        Error::config(format!(
            "{} {why}, which is not supported: use a model made of Transformer, Pooling, Dense and Normalize, or serve \
             this one with --profile transformers",
            path.display()
        ))
    };
    let mut pipeline = Pipeline::default();
    for module in &modules {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
        let name = module.get("path").and_then(Value::as_str).unwrap_or_default();
        // A module is a folder in the model: nothing outside is read.
        if Path::new(name).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(refuse(format!("names the folder '{name}' outside the model")));
        }
        let folder = if name.is_empty() { dir.to_owned() } else { dir.join(name) };
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "StaticEmbedding" => body = folder,
            "Pooling" => pipeline.pooling = read_pooling(&folder.join("config.json"))?,
            "Dense" if pipeline.normalize => return Err(refuse("has a Dense layer behind Normalize".into())),
            "Dense" => pipeline.dense.push(folder),
            "Normalize" => pipeline.normalize = true,
            // It does something in training only.
            "Dropout" => {}
            other => return Err(refuse(format!("names the module '{other}'"))),
        }
    }
    Ok((Some(pipeline), body))
}

/// `sentence_bert_config.json`, or the first there is of the names it had by architecture.
fn read_sentence_config(dir: &Path) -> Result<Map<String, Value>> {
    for name in ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"] {
        if let Some(config) = read_json(&dir.join(format!("sentence_{name}_config.json")))? {
            return Ok(config);
        }
    }
    Ok(Map::new())
}

/// The modes of `1_Pooling`. Keys that are left out have the defaults of sentence-transformers' `Pooling`, whose mean is
/// on; a file that is missing altogether means just that.
fn read_pooling(path: &Path) -> Result<Vec<PoolingMode>> {
    let config = read_json(path)?.unwrap_or_default();
    let unusable = |why: &str| Error::config(format!("{}: {why}", path.display()));
    if config.get("include_prompt") == Some(&Value::Bool(false)) {
        return Err(unusable("include_prompt is false, which is not supported: set it to true, or use another model"));
    }
    // In the order in which sentence-transformers concatenates them.
    let modes = [
        ("cls", "pooling_mode_cls_token", PoolingMode::Cls),
        ("max", "pooling_mode_max_tokens", PoolingMode::Max),
        ("mean", "pooling_mode_mean_tokens", PoolingMode::Mean),
        ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
        ("weightedmean", "pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
        ("lasttoken", "pooling_mode_lasttoken", PoolingMode::LastToken),
    ];
    if let Some(named) = config.get("pooling_mode").and_then(Value::as_str) {
        let mode = modes.iter().find(|(name, _, _)| name.eq_ignore_ascii_case(named)).map(|&(_, _, mode)| vec![mode]);
        return mode.ok_or_else(|| unusable(&format!("the pooling mode '{named}' is not known")));
    }
    let mut chosen = Vec::new();
    for (_, key, mode) in modes {
        let on = match config.get(key) {
            None => mode == PoolingMode::Mean,
            Some(Value::Bool(on)) => *on,
            Some(other) => return Err(unusable(&format!("{key} must be true or false, got {other}"))),
        };
        chosen.extend(on.then_some(mode));
    }
    if chosen.is_empty() {
        return Err(unusable("every pooling mode is off: switch one on"));
    }
    Ok(chosen)
}

/// A whole number of a JSON object, if it is one.
pub(crate) fn number(object: &Map<String, Value>, key: &str) -> Option<usize> {
    object.get(key).and_then(Value::as_u64).map(|value| value as usize)
}

fn string(object: &Map<String, Value>, key: &str) -> Option<String> {
    object.get(key).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests;

//! What a model is loaded with.

use std::path::PathBuf;

use crate::contract::request::Profile;
use crate::model::modules::ProfileHints;
use text2vec_engine::open::Engine;
use text2vec_kernel::Precision;

/// Default of `--max-waiting-tokens`: about 1,000 passages of 64 tokens.
pub const DEFAULT_WAITING_TOKENS: usize = 65_536;

/// Which model is loaded, and how it is to treat texts.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Directory with `config.json`, `tokenizer.json` and weights.
    pub dir: PathBuf,
    /// Where the reference image's marker files are, if not in `dir`.
    pub marker_root: Option<PathBuf>,
    /// The Hub id the model came from, when known.
    pub id: Option<String>,
    /// The profile; `None` is `auto`.
    pub profile: Option<Profile>,
    /// What the reference container's variables say about the profile.
    pub hints: ProfileHints,
    /// Whole texts are tokenized, not sentences, under the transformers profile.
    pub direct_tokenize: bool,
    /// `--task-prefixes`; `None` asks the marker file, then `reference_prefixes`.
    pub task_prefixes: Option<bool>,
    /// `USE_QUERY_PASSAGE_PREFIXES`, as the reference reads it.
    pub reference_prefixes: bool,
    /// Honour `dimensions` under every profile.
    pub apply_dimensions: bool,
    /// What runs the encoder.
    pub engine: Engine,
    /// Numbers of the weights; other ones than f32 need our kernels.
    pub precision: Precision,
    /// Queries are served before passages that came earlier.
    pub queries_first: bool,
}

impl LocalOptions {
    /// A plain directory, everything else at its default.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        LocalOptions {
            dir: dir.into(),
            marker_root: None,
            id: None,
            profile: None,
            hints: ProfileHints::default(),
            direct_tokenize: false,
            task_prefixes: None,
            reference_prefixes: false,
            apply_dimensions: false,
            engine: Engine::Auto,
            precision: Precision::F32,
            queries_first: true,
        }
    }
}

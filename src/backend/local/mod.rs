//! The local backend: plan → tokenize → encode → pool, in this process.

pub mod batcher;
mod call;
mod feed;
mod inference;
mod model;
pub mod plan;
mod report;
pub mod sentences;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::batcher::{Class, Submission, Wanted};
use self::call::Call;
use self::feed::{Answer, Feed, Portion, Preparation};
pub use self::inference::Inference;
use self::inference::Sequence;
use self::model::Model;
use self::plan::{Switches, Treatment};
use self::report::ReportedModel;
use crate::backend::{Backend, Embedding, ModelInfo, Tell};
use crate::contract::request::{EmbedRequest, Profile, Task};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::card;
use crate::model::modules::{MODULES_JSON, ModelDescription, ProfileHints, number};
use crate::model::tokenizer::{TextTokenizer, tokenizer_files};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;
use text2vec_engine::dense::DenseHead;
pub use text2vec_engine::device::Device;
use text2vec_engine::encoder::Encoder;
use text2vec_engine::onnx;
pub use text2vec_engine::open::Engine;
use text2vec_engine::open::{self, Source};
use text2vec_engine::weights::weight_files;
pub use text2vec_kernel::Precision;

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
    /// The operator's switches; `None` leaves a switch to the marker files and reference variables.
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
    /// Threads of a forward pass; `None` takes what the process may use (CPU set and cgroup quota).
    pub threads: Option<usize>,
    /// Tokens that may wait to be computed before callers wait for room.
    pub waiting_tokens: usize,
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
            threads: None,
            waiting_tokens: DEFAULT_WAITING_TOKENS,
            queries_first: true,
        }
    }
}

/// Embeds in this process: a tokenizer, an encoder on an inference thread, and the rules between them.
pub struct LocalBackend {
    preparation: Arc<Preparation>,
    inference: Arc<Inference>,
    model: Arc<Model>,
    info: ModelInfo,
    description: ModelDescription,
    license: Option<String>,
    profile_reason: &'static str,
    engine: &'static str,
    precision: &'static str,
    device: String,
    queries_first: bool,
    /// Kept for as long as this model is to be in the metrics.
    _reported: Arc<ReportedModel>,
}

impl std::fmt::Debug for LocalBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBackend").field("info", &self.info).field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl LocalBackend {
    /// Loads a model, with an inference thread of its own. Blocking: reads and hashes the weights.
    ///
    /// # Errors
    /// As [`LocalBackend::load_beside`] and [`Inference::start`].
    pub fn load(options: &LocalOptions) -> Result<LocalBackend> {
        LocalBackend::load_beside(options, Arc::new(Inference::start(options.threads, options.waiting_tokens)?))
    }

    /// Loads a model to be computed by this inference thread, whose sizes count instead of those in `options`. Blocking,
    /// as [`LocalBackend::load`].
    ///
    /// # Errors
    /// `Config` for a directory that cannot be served as it is asked for, with its name and what to do.
    pub fn load_beside(options: &LocalOptions, inference: Arc<Inference>) -> Result<LocalBackend> {
        if !options.dir.is_dir() {
            return Err(Error::config(format!(
                "the model directory {} does not exist: --model takes a directory or a Hub id",
                options.dir.display()
            ))
            .naming(Place::File(options.dir.clone())));
        }
        let marker_root = options.marker_root.as_deref().unwrap_or(&options.dir);
        let description = ModelDescription::read(&options.dir, marker_root)?;
        let (profile, profile_reason) = match options.profile {
            Some(profile) => (profile, "--profile"),
            None if !description.markers.onnx_runtime && onnx::is_only_weights(&options.dir) => {
                (Profile::Onnx, "there are no weights but model_quantized.onnx")
            }
            None => description.auto_profile(options.hints, options.id.as_deref()),
        };
        if profile_reason == MODULES_JSON {
            tracing::warn!(
                "{}: its modules.json alone chose the profile {profile}; the reference container, without marker files, \
                 serves such a directory under {}, and those are other vectors: --profile says which is meant",
                options.dir.display(),
                Profile::Transformers
            );
        }
        if description.is_static() && profile != Profile::SentenceTransformers {
            return Err(Error::config(format!(
                "a model2vec model cannot be served under the profile {profile}: use sentence-transformers, as the \
                 reference does"
            )));
        }
        let marked = description.markers.onnx_runtime && profile == Profile::Onnx;
        let source = Source::choose(&description.dir, marked)?;
        let switches = Switches {
            direct_tokenize: options.direct_tokenize,
            task_prefixes: options
                .task_prefixes
                .or(description.markers.use_query_passage_prefixes)
                .unwrap_or(options.reference_prefixes),
            apply_dimensions: options.apply_dimensions,
        };
        let treatment = Treatment::new(profile, switches, &description);
        let in_directory = |error| Error::from(error).at(Place::File(options.dir.clone()));
        let on = (inference.threads(), inference.cards());
        let (mut encoders, engine) =
            open::encoders(description.encoder(), &source, options.engine, options.precision, on)
                .map_err(in_directory)?;
        let mut tokenizer = TextTokenizer::load(&description.dir, treatment.max_tokens())?;
        if description.is_static() {
            tokenizer = tokenizer.without_special_tokens();
        }
        check_vocabulary(&tokenizer, &description)?;
        for encoder in &mut encoders {
            if let Some(tokens) = encoder.warm_up(treatment.max_tokens())? {
                tracing::info!(tokens, "batches of this size are fastest");
                inference.widen(tokens);
            }
        }
        let width = encoders.first().map_or(0, |encoder| encoder.hidden_size());
        let (pooled, dense) = match (&description.pipeline, profile) {
            (Some(pipeline), Profile::SentenceTransformers) => {
                (width * pipeline.pooling.len().max(1), pipeline.dense.clone())
            }
            _ => (width, Vec::new()),
        };
        let head = DenseHead::load(&dense, pooled)?;
        let dimensions = head.outputs().unwrap_or(pooled);
        let license = card::license(&options.dir, options.id.as_deref());
        if let Some(license) = license.as_deref().filter(|license| card::is_non_commercial(license)) {
            tracing::warn!("this model's licence, {license}, forbids commercial use");
        }
        let name = options.id.clone().unwrap_or_else(|| directory_name(&options.dir));
        let precision = source.precision(options.precision, engine);
        let fingerprint = fingerprint(&options.dir, &description, &source, &treatment, precision)?;
        let info = ModelInfo { name, fingerprint, dimensions: Some(dimensions) };
        let model = Arc::new(Model::new(encoders, head));
        let device = inference.device();
        let reported = ReportedModel::new(&info, profile, (&device, precision), model.clone());
        let preparation = Arc::new(Preparation::new(tokenizer, treatment, text2vec_kernel::cores()));
        let queries_first = options.queries_first;
        Ok(LocalBackend {
            preparation,
            inference,
            model,
            info,
            description,
            license,
            profile_reason,
            engine,
            precision,
            device,
            queries_first,
            _reported: reported,
        })
    }

    /// The profile texts are treated by, and what chose it.
    pub fn profile(&self) -> (Profile, &'static str) {
        (self.preparation.treatment.profile, self.profile_reason)
    }

    /// What runs the encoder (an instruction set of our kernels, or candle), and on how many threads.
    pub fn engine(&self) -> (&'static str, usize) {
        (self.engine, self.inference.threads())
    }

    /// Where it runs: `cpu`, or the GPUs' numbers.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Tokens per sequence, special ones included.
    pub fn max_tokens(&self) -> usize {
        self.preparation.treatment.max_tokens()
    }
}

/// The encoder of a model alone, without tokenizer or queue, for passes of `threads` threads, and the name of what runs it.
///
/// # Errors
/// An architecture or weights that cannot be used.
pub fn open_encoder(
    description: &ModelDescription,
    engine: Engine,
    precision: Precision,
    threads: usize,
) -> Result<(Box<dyn Encoder>, &'static str)> {
    let source = Source::choose(&description.dir, description.markers.onnx_runtime)?;
    Ok(open::on_cpu(description.encoder(), &source, engine, precision, threads)?)
}

impl LocalBackend {
    async fn embed_all(&self, requests: Vec<EmbedRequest>, tell: impl FnMut(usize, Result<Embedding>)) -> Result<()> {
        let deadline = requests.iter().filter_map(|request| request.deadline).min();
        let queries = self.queries_first && requests.iter().all(|request| request.task() == Task::Query);
        let class = if queries { Class::Query } else { Class::Passage };
        let call = Arc::new(Call::new(requests.len(), class));
        let (mut feed, answers) = Feed::new(&self.preparation, &self.model, &call, requests);
        let wanted = self.inference.batcher().wanted(class);
        let first = feed.portion(wanted.tokens);
        let mut portion = match deadline {
            None => first.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), first).await.unwrap_or_else(|_| Err(too_late())),
        }?;
        if portion.sequences.is_empty() {
            self.pass_on(answers, tell).await;
            return Ok(());
        }
        call.ask();
        // Held until every text is answered: who leaves earlier takes what is still waiting along.
        let submission = self.admit(class, &mut portion, wanted, deadline).await?;
        let feeding = self.feed(&mut feed, portion, &submission);
        let work = async { try_join(feeding, self.pass_on(answers, tell).map(Ok)).await };
        let mut work = std::pin::pin!(work);
        let done = match deadline {
            None => work.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), &mut work).await {
                Ok(done) => done,
                Err(_) if submission.withdraw_untouched() => Err(too_late()),
                // Begun: it would be a waste to give it up now.
                Err(_) => work.await,
            },
        };
        done?;
        call.finish(self.info.dimensions);
        Ok(())
    }

    /// Tells each text's answer as it comes.
    async fn pass_on(&self, answers: Vec<Answer>, mut tell: impl FnMut(usize, Result<Embedding>)) {
        for (index, answer) in answers.into_iter().enumerate() {
            tell(index, answer.await.unwrap_or_else(|_| Err(self.inference.batcher().refusal())));
        }
    }

    /// Waits for room in the queue, and begins a call with as much of its first portion as there is room for.
    async fn admit(
        &self,
        class: Class,
        portion: &mut Portion,
        wanted: Wanted,
        deadline: Option<Instant>,
    ) -> Result<Submission<Sequence>> {
        let room = self.inference.batcher().admit(class, portion.ask(wanted.turn), deadline).await;
        let room = room.inspect_err(|error| {
            if error.kind() == ErrorKind::Overloaded {
                metrics().refused(Refusal::MaxWaitingTokens);
            }
        })?;
        let sequences = portion.split_off(room.tokens());
        room.submit(sequences, portion.more || !portion.sequences.is_empty())
    }

    /// Brings the rest of a call into the queue, as its beginning leaves it.
    async fn feed(&self, feed: &mut Feed, mut portion: Portion, submission: &Submission<Sequence>) -> Result<()> {
        while portion.more || !portion.sequences.is_empty() {
            let wanted = submission.wants_more().await?;
            if portion.sequences.is_empty() {
                portion = feed.portion(wanted.tokens).await?;
            }
            if portion.sequences.is_empty() {
                submission.complete();
                break;
            }
            let room = submission.admit(portion.ask(wanted.turn)).await?;
            let sequences = portion.split_off(room.tokens());
            submission.add(room, sequences, portion.more || !portion.sequences.is_empty())?;
        }
        Ok(())
    }
}

impl Backend for LocalBackend {
    fn embed(&self, requests: Vec<EmbedRequest>) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        Box::pin(async move {
            let mut results = Vec::with_capacity(requests.len());
            self.embed_all(requests, |_, result| results.push(result)).await?;
            Ok(results)
        })
    }

    fn embed_each<'a>(&'a self, requests: Vec<EmbedRequest>, tell: Tell<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.embed_all(requests, tell))
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn trouble(&self) -> Option<&'static str> {
        self.inference.batcher().has_failed().then_some(batcher::FAILED)
    }

    fn tokenizer(&self) -> Option<&TextTokenizer> {
        Some(&self.preparation.tokenizer)
    }

    fn meta(&self) -> Map<String, Value> {
        let treatment = &self.preparation.treatment;
        let (counters, batcher) = (&self.model.counters, self.inference.batcher());
        let waiting = |class| batcher.depth(class).tokens;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let pooling: Vec<_> = treatment.pooling().iter().map(|mode| mode.as_str()).collect();
        let mut meta = Map::new();
        meta.insert("model".into(), Value::Object(self.description.config.clone()));
        meta.insert("model_path".into(), json!(self.description.dir.display().to_string()));
        meta.insert(
            "sidecar".into(),
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "model": self.info.name,
                "fingerprint": self.info.fingerprint,
                "license": self.license,
                "profile": treatment.profile.as_str(),
                "profile_chosen_by": self.profile_reason,
                "dimensions": self.info.dimensions,
                "max_tokens": treatment.max_tokens(),
                "pooling": pooling.join("+"),
                "direct_tokenize": treatment.direct_tokenize,
                "task_prefixes": treatment.task_prefixes,
                "reference_quirks": treatment.quirks(),
                "apply_dimensions": treatment.apply_dimensions,
                "precision": self.precision,
                "device": self.device,
                "engine": self.engine,
                "threads": self.inference.threads(),
                "truncated_texts": count(&counters.truncated_texts),
                "ignored_dimensions": count(&counters.ignored_dimensions),
                "ignored_pooling": count(&counters.ignored_pooling),
                "failed_texts": count(&counters.failed_texts),
                "queries_first": self.queries_first,
                "batch_tokens": batcher.options().batch_tokens,
                "max_waiting_tokens": batcher.options().waiting_tokens,
                "waiting_tokens": {"query": waiting(Class::Query), "passage": waiting(Class::Passage)},
            }),
        );
        meta
    }
}

/// Nothing of a call was begun by its deadline.
fn too_late() -> Error {
    metrics().refused(Refusal::MaxWait);
    let message = "too much work is waiting: the turn of this request did not come in time; try again later, or raise \
                   --max-wait if the caller waits longer";
    Error::new(ErrorKind::Overloaded, message)
}

/// A vocabulary of more entries than the model has embeddings belongs to another model.
fn check_vocabulary(tokenizer: &TextTokenizer, description: &ModelDescription) -> Result<()> {
    match number(&description.config, "vocab_size") {
        Some(size) if size < tokenizer.vocabulary() => Err(Error::config(format!(
            "the tokenizer in {} makes ids up to {}, but config.json's vocab_size is {size}: they belong to different \
             models",
            description.dir.display(),
            tokenizer.vocabulary() - 1
        ))
        .naming(Place::File(description.dir.clone()))),
        _ => Ok(()),
    }
}

/// 128 bits, as hex, over everything that can change a vector. `root` is the model's directory, in which the
/// transformer's own may be another.
fn fingerprint(
    root: &Path,
    description: &ModelDescription,
    source: &Source,
    treatment: &Treatment,
    precision: &str,
) -> Result<String> {
    let mut hash = Sha256::new();
    let switches = (treatment.direct_tokenize, treatment.task_prefixes, treatment.apply_dimensions);
    hash.update(format!("{} {} {switches:?} {precision}\n", treatment.profile, treatment.max_tokens()));
    let dir = &description.dir;
    let mut files = vec![dir.join("config.json")];
    files.extend(tokenizer_files(dir)?);
    files.extend(["modules.json", "1_Pooling/config.json"].map(|name| root.join(name)));
    files.push(dir.join("sentence_bert_config.json"));
    files.push(root.join("config_sentence_transformers.json"));
    files.extend_from_slice(source.files());
    for dense in description.pipeline.iter().flat_map(|pipeline| &pipeline.dense) {
        files.push(dense.join("config.json"));
        files.extend(weight_files(dense)?);
    }
    let mut buffer = vec![0u8; 1 << 20];
    for path in files.into_iter().filter(|path| path.is_file()) {
        let unreadable = |error| {
            let message = format!("{} cannot be read: {error}", path.display());
            Error::config(message).naming(Place::File(path.clone())).caused_by(error)
        };
        let mut file = std::fs::File::open(&path).map_err(unreadable)?;
        hash.update(format!("{}\n", file.metadata().map_err(unreadable)?.len()));
        loop {
            match file.read(&mut buffer).map_err(unreadable)? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
    }
    Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

fn directory_name(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    dir.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

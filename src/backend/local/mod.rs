//! The local backend: plan → tokenize → encode → pool, in this process.

pub mod encoder;
pub mod kernel;
pub mod plan;
pub mod pooling;
pub mod sentences;
pub mod weights;

use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Device;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use self::encoder::bert::{self, CandleBert};
use self::encoder::packed_bert::{BertConfig, PackedBert};
use self::encoder::{Encoder, TokenBatch};
use self::kernel::{InstructionSet, Kernels};
use self::plan::{Plan, Switches, Treatment};
use self::weights::Weights;
use crate::backend::{Backend, Embedding, ModelInfo};
use crate::contract::request::{EmbedRequest, Profile};
use crate::error::{Error, ErrorKind, Result};
use crate::model::modules::{ModelDescription, ProfileHints};
use crate::model::tokenizer::TextTokenizer;

/// Texts that may wait between the tokenizer and the inference thread.
const WAITING_TEXTS: usize = 256;

/// Up to this many bytes a call's texts are tokenized where the call runs (about 0.3 ms); more goes to a thread for
/// blocking work, so that other connections are served meanwhile.
const INLINE_BYTES: usize = 8 * 1024;

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
    /// Threads of a forward pass; `None` takes what the process may use (CPU set and cgroup quota).
    pub threads: Option<usize>,
}

/// What runs an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// Our kernels, with the widest instruction set the CPU has.
    #[default]
    Auto,
    /// Our kernels with this instruction set.
    Kernels(InstructionSet),
    /// Candle's own operations: the oracle in tests.
    Candle,
}

impl FromStr for Engine {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Engine::Auto),
            "candle" => Ok(Engine::Candle),
            set => set.parse().map(Engine::Kernels).map_err(|_| {
                Error::config(format!("unknown engine '{text}': use auto, avx512, avx2, portable or candle"))
            }),
        }
    }
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
            threads: None,
        }
    }
}

/// Embeds in this process: a tokenizer, an encoder on its own thread, and the rules between them.
pub struct LocalBackend {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    info: ModelInfo,
    description: ModelDescription,
    profile_reason: &'static str,
    engine: &'static str,
    threads: usize,
}

struct Shared {
    tokenizer: TextTokenizer,
    treatment: Treatment,
    counters: Counters,
}

/// What happened to texts since the start; shown in `/meta`.
#[derive(Default)]
struct Counters {
    truncated_texts: AtomicU64,
    ignored_dimensions: AtomicU64,
    ignored_pooling: AtomicU64,
    panics: AtomicU64,
}

/// One text on its way to the inference thread.
struct Job {
    batch: TokenBatch,
    plan: Plan,
    truncated: bool,
    reply: oneshot::Sender<Result<Embedding>>,
}

impl LocalBackend {
    /// Loads a model. Blocking: reads and hashes the weights.
    pub fn load(options: &LocalOptions) -> Result<LocalBackend> {
        if !options.dir.is_dir() {
            return Err(Error::config(format!(
                "the model directory {} does not exist: --model takes a directory or a Hub id",
                options.dir.display()
            )));
        }
        let marker_root = options.marker_root.as_deref().unwrap_or(&options.dir);
        let description = ModelDescription::read(&options.dir, marker_root)?;
        let (profile, profile_reason) = match options.profile {
            Some(profile) => (profile, "--profile"),
            None => description.auto_profile(options.hints, options.id.as_deref()),
        };
        let switches = Switches {
            direct_tokenize: options.direct_tokenize,
            task_prefixes: options
                .task_prefixes
                .or(description.markers.use_query_passage_prefixes)
                .unwrap_or(options.reference_prefixes),
            apply_dimensions: options.apply_dimensions,
        };
        let treatment = Treatment::new(profile, switches, &description);
        if description.pipeline.as_ref().is_some_and(|pipeline| !pipeline.dense.is_empty())
            && profile == Profile::SentenceTransformers
        {
            return Err(Error::config(
                "this model has a Dense layer (2_Dense), which is not supported yet: use --profile transformers or onnx",
            ));
        }
        let threads = match options.threads {
            Some(0) => return Err(Error::config("0 threads cannot embed anything: --threads takes 1 or more")),
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let (encoder, engine) = load_encoder(&description, options.engine, threads)?;
        let tokenizer = TextTokenizer::load(&options.dir, treatment.max_tokens())?;
        let width = encoder.hidden_size();
        let dimensions = match profile {
            Profile::SentenceTransformers => {
                width * description.pipeline.as_ref().map_or(1, |pipeline| pipeline.pooling.len().max(1))
            }
            Profile::Transformers | Profile::Onnx => width,
        };
        let name = options.id.clone().unwrap_or_else(|| directory_name(&options.dir));
        let info = ModelInfo { name, fingerprint: fingerprint(&description.dir, &treatment)?, dimensions };
        let shared = Arc::new(Shared { tokenizer, treatment, counters: Counters::default() });
        let jobs = start_inference(encoder, shared.clone())?;
        Ok(LocalBackend { shared, jobs, info, description, profile_reason, engine, threads })
    }

    /// The profile texts are treated by, and what chose it.
    pub fn profile(&self) -> (Profile, &'static str) {
        (self.shared.treatment.profile, self.profile_reason)
    }

    /// What runs the encoder (an instruction set of our kernels, or candle), and on how many threads.
    pub fn engine(&self) -> (&'static str, usize) {
        (self.engine, self.threads)
    }

    /// Tokens per sequence, special ones included.
    pub fn max_tokens(&self) -> usize {
        self.shared.treatment.max_tokens()
    }
}

impl Backend for LocalBackend {
    fn embed(&self, requests: Vec<EmbedRequest>) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        Box::pin(async move {
            let (replies, answers): (Vec<_>, Vec<_>) = requests.iter().map(|_| oneshot::channel()).unzip();
            let work: Vec<_> = requests.into_iter().zip(replies).collect();
            if work.iter().map(|(request, _)| request.text.len()).sum::<usize>() <= INLINE_BYTES {
                for (request, reply) in work {
                    if let Some(job) = self.shared.prepare(&request, reply) {
                        self.jobs.send(job).await.map_err(|_| stopped())?;
                    }
                }
            } else {
                let (shared, jobs) = (self.shared.clone(), self.jobs.clone());
                tokio::task::spawn_blocking(move || {
                    for (request, reply) in work {
                        // A caller who left costs no tokenizing either.
                        if reply.is_closed() {
                            continue;
                        }
                        if let Some(job) = shared.prepare(&request, reply)
                            && jobs.blocking_send(job).is_err()
                        {
                            return;
                        }
                    }
                });
            }
            let mut results = Vec::with_capacity(answers.len());
            for answer in answers {
                results.push(answer.await.unwrap_or_else(|_| Err(stopped())));
            }
            Ok(results)
        })
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn meta(&self) -> Map<String, Value> {
        let Shared { treatment, counters, .. } = &*self.shared;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut meta = Map::new();
        meta.insert("model".into(), Value::Object(self.description.config.clone()));
        meta.insert("model_path".into(), json!(self.description.dir.display().to_string()));
        meta.insert(
            "sidecar".into(),
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "model": self.info.name,
                "fingerprint": self.info.fingerprint,
                "profile": treatment.profile.as_str(),
                "profile_chosen_by": self.profile_reason,
                "dimensions": self.info.dimensions,
                "max_tokens": treatment.max_tokens(),
                "direct_tokenize": treatment.direct_tokenize,
                "task_prefixes": treatment.task_prefixes,
                "apply_dimensions": treatment.apply_dimensions,
                "precision": "f32",
                "device": "cpu",
                "engine": self.engine,
                "threads": self.threads,
                "truncated_texts": count(&counters.truncated_texts),
                "ignored_dimensions": count(&counters.ignored_dimensions),
                "ignored_pooling": count(&counters.ignored_pooling),
                "inference_panics": count(&counters.panics),
            }),
        );
        meta
    }
}

impl Shared {
    /// Plans and tokenizes one text. A text that cannot be embedded is answered at once.
    fn prepare(&self, request: &EmbedRequest, reply: oneshot::Sender<Result<Embedding>>) -> Option<Job> {
        let prepared = self.treatment.plan(request).and_then(|plan| {
            let mut batch = TokenBatch::new();
            let mut truncated = false;
            for piece in &plan.pieces {
                let tokens = self.tokenizer.encode(piece)?;
                truncated |= tokens.truncated;
                batch.push(&tokens.ids, &tokens.type_ids);
            }
            Ok((plan, batch, truncated))
        });
        match prepared {
            Ok((plan, batch, truncated)) => Some(Job { batch, plan, truncated, reply }),
            Err(error) => {
                // The caller may have left meanwhile.
                let _ = reply.send(Err(error));
                None
            }
        }
    }

    fn embed(&self, encoder: &mut dyn Encoder, job: &Job) -> Result<Embedding> {
        let hidden = encoder.forward(&job.batch)?;
        let pooled = job
            .batch
            .ranges()
            .map(|range| {
                let rows = hidden.rows(range);
                job.plan.pooling.iter().flat_map(|&mode| pooling::pool(rows, hidden.width, mode)).collect()
            })
            .collect();
        let mut vector: Vec<f32> = pooling::mean_of(pooled);
        let dimensions_ignored = job.plan.finish.apply(&mut vector);
        if vector.iter().any(|value| !value.is_finite()) {
            return Err(Error::internal("the model made a value that is not a finite number for this text"));
        }
        let mut ignored = Vec::new();
        for (name, is_ignored, counter) in [
            ("dimensions", dimensions_ignored, &self.counters.ignored_dimensions),
            ("poolingStrategy", job.plan.pooling_ignored, &self.counters.ignored_pooling),
        ] {
            if is_ignored {
                ignored.push(name);
                if counter.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        "a request's {name} had no effect under the {} profile (said once; counted in /meta)",
                        self.treatment.profile
                    );
                }
            }
        }
        if job.truncated && self.counters.truncated_texts.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                "a text was longer than {} tokens and was cut (said once; counted in /meta)",
                self.treatment.max_tokens()
            );
        }
        let tokens = job.batch.tokens() as u32;
        Ok(Embedding { vector: vector.into(), tokens, truncated: job.truncated, ignored })
    }
}

/// Starts the inference thread. It ends when the backend is dropped.
fn start_inference(mut encoder: Box<dyn Encoder>, shared: Arc<Shared>) -> Result<mpsc::Sender<Job>> {
    let (sender, mut receiver) = mpsc::channel::<Job>(WAITING_TEXTS);
    let work = move || {
        while let Some(job) = receiver.blocking_recv() {
            if job.reply.is_closed() {
                continue;
            }
            // A text that trips over a bug must not take the service with it.
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| shared.embed(encoder.as_mut(), &job)));
            let result = outcome.unwrap_or_else(|_| {
                shared.counters.panics.fetch_add(1, Ordering::Relaxed);
                Err(Error::internal(
                    "embedding this text failed on a bug in the sidecar: see its log, and please report it",
                ))
            });
            // The caller may have left meanwhile.
            let _ = job.reply.send(result);
        }
    };
    std::thread::Builder::new()
        .name("inference".into())
        .spawn(work)
        .map_err(|error| Error::internal(format!("no thread for inference: {error}")))?;
    Ok(sender)
}

/// The encoder, and the name of what runs it.
fn load_encoder(
    description: &ModelDescription,
    engine: Engine,
    threads: usize,
) -> Result<(Box<dyn Encoder>, &'static str)> {
    let files = weights::weight_files(&description.dir)?;
    if description.model_type() != "bert" {
        return Err(Error::config(format!(
            "the architecture '{}' of {} is not supported: supported are bert",
            description.model_type(),
            description.dir.display()
        )));
    }
    let weights = Weights::open(&files, bert::ANCHOR)?;
    let kernels = match engine {
        Engine::Candle => {
            let encoder = CandleBert::new(&description.config, &weights, &Device::Cpu)?;
            return Ok((Box::new(encoder), "candle"));
        }
        Engine::Auto => Kernels::detect(),
        Engine::Kernels(set) => Kernels::with(set)?,
    };
    let config = BertConfig::from_json(&description.config)?;
    let encoder = PackedBert::new(&config, kernels, threads, |name| weights.tensor(name))?;
    Ok((Box::new(encoder), kernels.instruction_set().name()))
}

/// 128 bits, as hex, over everything that can change a vector.
fn fingerprint(dir: &Path, treatment: &Treatment) -> Result<String> {
    let mut hash = Sha256::new();
    let switches = (treatment.direct_tokenize, treatment.task_prefixes, treatment.apply_dimensions);
    hash.update(format!("{} {} {switches:?} f32\n", treatment.profile, treatment.max_tokens()));
    let described = [
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    ];
    let files = described.iter().map(|name| dir.join(name)).filter(|path| path.is_file());
    let mut buffer = vec![0u8; 1 << 20];
    for path in files.chain(weights::weight_files(dir)?) {
        let unreadable = |error| Error::config(format!("{} cannot be read: {error}", path.display()));
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

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is shutting down")
}

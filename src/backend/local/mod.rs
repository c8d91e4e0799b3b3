//! The local backend: plan → tokenize → encode → pool, in this process.

pub mod batcher;
mod choice;
mod feed;
mod fingerprint;
mod inference;
mod load;
mod meta;
mod model;
mod options;
pub mod plan;
mod report;
pub mod sentences;
mod text;
mod timeline;
mod turns;

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join};
use serde_json::{Map, Value};

use self::batcher::{Class, Submission, Wanted};
pub use self::choice::{Chosen, chosen};
use self::feed::{Answer, Feed, Portion, Preparation};
pub use self::inference::Inference;
use self::model::Model;
pub use self::options::{DEFAULT_WAITING_TOKENS, LocalOptions};
use self::report::ReportedModel;
use self::text::Sequence;
use self::timeline::Timeline;
use crate::backend::meta::{Meta, ModelReport};
use crate::backend::{Backend, Embedding, ModelInfo, Tell};
use crate::contract::call::{Call, Purpose};
use crate::contract::request::{Profile, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::model::modules::ModelDescription;
use crate::model::tokenizer::TextTokenizer;
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;
pub use text2vec_engine::device::Device;
use text2vec_engine::encoder::Encoder;
use text2vec_engine::family::Masks;
pub use text2vec_engine::open::Engine;
use text2vec_engine::open::{self, Source};
pub use text2vec_kernel::Precision;

/// Embeds in this process: a tokenizer, an encoder on an inference thread, and the rules between them.
pub struct LocalBackend {
    preparation: Arc<Preparation>,
    inference: Arc<Inference>,
    model: Arc<Model>,
    info: ModelInfo,
    /// Its `config.json`.
    config: Map<String, Value>,
    /// Where that is.
    path: String,
    /// For `/meta`: what was so when it was loaded.
    loaded: ModelReport,
    queries_first: bool,
    /// Kept for as long as this model is to be in the metrics.
    _reported: Arc<ReportedModel>,
}

impl std::fmt::Debug for LocalBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBackend")
            .field("info", &self.info)
            .field("engine", &self.loaded.engine)
            .finish_non_exhaustive()
    }
}

impl LocalBackend {
    /// The profile texts are treated by, and what chose it.
    pub fn profile(&self) -> (Profile, &'static str) {
        (self.preparation.treatment.profile, self.loaded.profile_chosen_by)
    }

    /// What runs the encoder (an instruction set of our kernels, or candle), and on how many threads.
    pub fn engine(&self) -> (&'static str, usize) {
        (self.loaded.engine, self.inference.threads())
    }

    /// Where it runs: `cpu`, or the GPUs' numbers.
    pub fn device(&self) -> &str {
        &self.loaded.device
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
    Ok(open::on_cpu(
        description.encoder(Profile::SentenceTransformers, Masks::AsConfigured),
        &source,
        engine,
        precision,
        threads,
    )?)
}

impl LocalBackend {
    async fn embed_all(&self, call: Call, tell: impl FnMut(usize, Result<Embedding>)) -> Result<()> {
        match &call.purpose {
            Purpose::Embed(_) => self.info.makes_vectors()?,
            Purpose::Score { .. } => self.info.reranks().map(|_| ())?,
        }
        let queries = self.queries_first && call.task() == Task::Query;
        let class = if queries { Class::Query } else { Class::Passage };
        let timeline = Arc::new(Timeline::new(call.texts.len(), class));
        let Call { texts, purpose, deadline, trace: _ } = call;
        let (mut feed, answers) = Feed::new(&self.preparation, &self.model, &timeline, texts, &purpose);
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
        timeline.ask();
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
        timeline.finish(self.info.dimensions);
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
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        Box::pin(async move {
            let mut results = Vec::with_capacity(call.texts.len());
            self.embed_all(call, |_, result| results.push(result)).await?;
            Ok(results)
        })
    }

    fn embed_each<'a>(&'a self, call: Call, tell: Tell<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.embed_all(call, tell))
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

    fn meta(&self) -> Meta {
        self.report()
    }
}

/// Nothing of a call was begun by its deadline.
fn too_late() -> Error {
    metrics().refused(Refusal::MaxWait);
    let message = "too much work is waiting: the turn of this request did not come in time; try again later, or raise \
                   --max-wait if the caller waits longer";
    Error::new(ErrorKind::Overloaded, message)
}

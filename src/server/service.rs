//! What the surfaces share: the models, the limits, and what each of them asks for.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::answers::{AnswerRoom, keep};
use super::classes::Classes;
use super::inflight::BodyRoom;
use super::limits::Limits;
use super::models::{Need, Readiness};
use super::observe;
use super::options::{ModuleOptions, SurfaceOptions};
use crate::backend::meta::{Meta, ServerReport};
use crate::backend::scoring::Scoring;
use crate::backend::{Backend, Directory, Embedding, TextTokenizer};
use crate::contract::call::{Call, EmbedSettings, Purpose, Text};
use crate::contract::endpoint::Endpoints;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// What the surfaces share.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) readiness: Readiness,
    pub(super) limits: Limits,
    pub(super) surfaces: SurfaceOptions,
    pub(super) module: Arc<Module>,
    /// The model that is meant; `None` is the default one.
    pub(super) model: Option<Arc<str>>,
    /// Which one that is.
    pub(super) default: Need,
    /// Who embeds instead of a model of this server.
    pub(super) upstream: Option<Arc<dyn Backend>>,
    /// Turns of those who ask for tokens, not for vectors.
    pub(super) tokenizing: Arc<Semaphore>,
    /// Room for answers, and for texts that come in streams.
    pub(super) answers: AnswerRoom,
    pub(super) bodies: BodyRoom,
}

/// So many ask the tokenizer at once for what it makes of a text: each keeps a thread busy.
const TOKENIZING: usize = 2;

/// What the module service needs beside the backend.
pub(super) struct Module {
    pub(super) endpoints: Endpoints,
    pub(super) lowercase_input: bool,
    pub(super) upstreams: Option<Arc<dyn Directory>>,
    pub(super) classes: Classes,
    pub(super) cuda_wanted: bool,
}

impl Service {
    pub(super) fn new(
        readiness: Readiness,
        limits: Limits,
        surfaces: SurfaceOptions,
        options: ModuleOptions,
        (answers, bodies): (AnswerRoom, BodyRoom),
        cuda_wanted: bool,
    ) -> Service {
        let ModuleOptions { endpoints, lowercase_input, upstreams } = options;
        let classes = Classes::new(limits.max_class_bytes);
        let module = Module { endpoints, lowercase_input, upstreams, classes, cuda_wanted };
        let tokenizing = Arc::new(Semaphore::new(TOKENIZING));
        Service {
            readiness,
            limits,
            surfaces,
            module: Arc::new(module),
            model: None,
            default: Need::Vectors,
            upstream: None,
            tokenizing,
            answers,
            bodies,
        }
    }

    /// The same service, by the model of this name; an empty one is the model meant so far.
    pub(super) fn of_model(&self, name: &str) -> Result<Service> {
        if name.is_empty() {
            return Ok(self.clone());
        }
        self.readiness.backend(Some(name), self.default)?;
        Ok(Service { model: Some(name.into()), ..self.clone() })
    }

    pub(super) fn backend(&self) -> Result<Arc<dyn Backend>> {
        let own = self.readiness.backend(self.model.as_deref(), self.default)?;
        Ok(self.upstream.clone().unwrap_or(own))
    }

    /// Embeds the texts of one request; a text over its limit is refused alone.
    pub(super) async fn embed(&self, texts: Vec<Text>, settings: EmbedSettings) -> Result<Vec<Result<Embedding>>> {
        self.compute(texts, Purpose::Embed(settings)).await
    }

    /// Scores documents against a query; one over its limit is refused alone. Without a model's name the first reranker is
    /// asked. `one_label`: a model that gives a pair several numbers is refused.
    pub(super) async fn score(&self, query: Text, documents: Vec<Text>, one_label: bool) -> Result<Scores> {
        let service = Service { default: Need::Scores, ..self.clone() };
        let info = service.ready_backend()?.info().clone();
        let scoring = info.reranks()?.clone();
        if one_label && scoring.labels.len() != 1 {
            let message = format!(
                "{} gives a pair {} numbers ({}) and so no order of documents: ask for them over gRPC, \
                 text2vec.v1.Reranker/Rerank",
                info.name,
                scoring.labels.len(),
                scoring.labels.join(", ")
            );
            return Err(Error::invalid(message).parameter("model"));
        }
        if query.len() > self.limits.max_text_bytes {
            return Err(over_its_limit(query.len(), self.limits.max_text_bytes)
                .context("the query")
                .parameter("query"));
        }
        let pairs = service.compute(documents, Purpose::Score { query }).await?;
        Ok(Scores { model: info.name, fingerprint: info.fingerprint, scoring, pairs })
    }

    /// The backend for a request with texts, which is counted if it comes too early.
    fn ready_backend(&self) -> Result<Arc<dyn Backend>> {
        self.backend().inspect_err(|error| {
            if error.kind() == ErrorKind::Unavailable {
                metrics().refused(Refusal::NotReady);
            }
        })
    }

    async fn compute(&self, mut texts: Vec<Text>, purpose: Purpose) -> Result<Vec<Result<Embedding>>> {
        let backend = self.ready_backend()?;
        self.check_texts(texts.len())?;
        metrics().texts.add(texts.len() as u64);
        let deadline = Instant::now().checked_add(self.limits.max_wait);
        let held = self.answers.admit(texts.len(), backend.info().numbers()).await?;
        let max = self.limits.max_text_bytes;
        let lengths = texts.iter().map(|text| text.len()).enumerate();
        let too_long: Vec<(usize, usize)> = lengths.filter(|&(_, length)| length > max).collect();
        texts.retain(|text| text.len() <= max);
        let mut results = Vec::new();
        if !texts.is_empty() {
            results = backend.embed(Call { texts, purpose, deadline, trace: observe::current() }).await?;
        }
        if let Some(held) = held {
            keep(held);
        }
        for (index, length) in too_long {
            results.insert(index.min(results.len()), Err(over_its_limit(length, max)));
        }
        Ok(results)
    }

    /// Refuses a number of dimensions that no vector of the model can have: there is neither such a vector nor a setting to
    /// ignore.
    pub(super) fn check_dimensions(&self, wanted: i64) -> Result<()> {
        let model = self.backend()?.info().clone();
        match (usize::try_from(wanted).unwrap_or(0), model.dimensions) {
            (0, _) => {
                let message = format!("'dimensions' is {wanted}: use 1 or more, or leave it out");
                Err(Error::invalid(message).parameter("dimensions"))
            }
            // Of an upstream that did not answer at start the length is not known before there is a vector.
            (wanted, Some(there_are)) if wanted > there_are => Err(beyond(wanted, there_are, &model.name)),
            _ => Ok(()),
        }
    }

    /// Refuses a request with too many texts or objects.
    pub(super) fn check_texts(&self, texts: usize) -> Result<()> {
        let max = self.limits.max_texts;
        if texts > max {
            metrics().refused(Refusal::MaxTexts);
            let message =
                format!("{texts} texts in one request, {max} are allowed: send less at once or raise --max-texts");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        Ok(())
    }

    pub(super) async fn embed_one(&self, text: Text, settings: EmbedSettings) -> Result<Embedding> {
        let mut results = self.embed(vec![text], settings).await?;
        results.pop().unwrap_or_else(|| Err(Error::internal("the backend gave no answer for the text")))
    }

    /// Asks the model's tokenizer something, on a thread for blocking work, when it is this call's turn.
    ///
    /// # Errors
    /// `InvalidArgument` where the model is not here, `Overloaded` where its turn does not come in time.
    pub(super) async fn with_tokenizer<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&TextTokenizer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let backend = self.backend()?;
        if backend.tokenizer().is_none() {
            return Err(Error::invalid(format!(
                "the tokens of {} are not known here, as its texts are embedded elsewhere or by two models: send texts",
                backend.info().name
            )));
        }
        let turn = tokio::time::timeout(self.limits.max_wait, self.tokenizing.clone().acquire_owned());
        let Ok(Ok(turn)) = turn.await else {
            metrics().refused(Refusal::MaxWait);
            return Err(Error::new(ErrorKind::Overloaded, "too many ask for tokens: try again later"));
        };
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            backend.tokenizer().map(ask)
        });
        let gone = || Error::internal("the tokenizer did not answer");
        asked.await.ok().flatten().ok_or_else(gone)?
    }

    /// What is served, by whom, and within which limits.
    pub(super) async fn meta(&self) -> Result<Meta> {
        let mut meta = self.backend()?.live_meta().await?.unwrap_or_default();
        let report = ServerReport {
            surface_normalize: self.surfaces.normalize,
            models: self.readiness.listed().into_iter().map(|(name, _)| name).collect(),
            cuda_ignored: self.module.cuda_wanted,
            ..ServerReport::from(&self.limits)
        };
        for sidecar in meta.sidecar_blocks() {
            sidecar.server = Some(report.clone());
        }
        Ok(meta)
    }
}

/// Pairs of a query and documents, as a reranker sees them.
pub(super) struct Scores {
    /// The reranker's name.
    pub(super) model: String,
    pub(super) fingerprint: String,
    /// What its numbers mean.
    pub(super) scoring: Arc<Scoring>,
    /// Of each document: its logits.
    pub(super) pairs: Vec<Result<Embedding>>,
}

/// The refusal of a text that is too long.
fn over_its_limit(length: usize, max: usize) -> Error {
    metrics().refused(Refusal::MaxTextBytes);
    let message = format!("a text of {length} bytes, {max} are allowed: split it or raise --max-text-bytes");
    Error::new(ErrorKind::TooLarge, message)
}

/// The refusal of more dimensions than a model's vectors have.
pub(super) fn beyond(wanted: usize, there_are: usize, model: &str) -> Error {
    Error::invalid(format!(
        "'dimensions' is {wanted}, but the vectors of {model} have {there_are}: ask for as many or fewer"
    ))
    .parameter("dimensions")
}

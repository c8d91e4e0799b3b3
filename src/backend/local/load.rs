//! From a model's directory to a backend, step by step.

use std::path::Path;
use std::sync::Arc;

use super::LocalBackend;
use super::choice::{choose_profile, describe, switches};
use super::feed::Preparation;
use super::fingerprint::fingerprint;
use super::inference::Inference;
use super::meta::unused;
use super::model::Model;
use super::options::{DEFAULT_WAITING_TOKENS, LocalOptions};
use super::plan::Treatment;
use super::report::ReportedModel;
use crate::backend::ModelInfo;
use crate::backend::meta::ModelReport;
use crate::backend::scoring::Scoring;
use crate::contract::request::Profile;
use crate::error::{Error, Place, Result};
use crate::model::card;
use crate::model::modules::{MODULES_JSON, ModelDescription, number};
use crate::model::tokenizer::{PairRules, TextTokenizer};
use text2vec_engine::classification::Classifier;
use text2vec_engine::dense::Head;
use text2vec_engine::encoder::Encoder;
use text2vec_engine::family::Masks;
use text2vec_engine::open::{self, Source};
use text2vec_engine::pooling::PoolingMode;

impl LocalBackend {
    /// Loads a model, with an inference thread of its own: passes have as many threads as the process may use, and
    /// [`DEFAULT_WAITING_TOKENS`] may wait. Blocking: reads and hashes the weights.
    ///
    /// # Errors
    /// As [`LocalBackend::load_beside`] and [`Inference::start`].
    pub fn load(options: &LocalOptions) -> Result<LocalBackend> {
        LocalBackend::load_beside(options, Arc::new(Inference::start(None, DEFAULT_WAITING_TOKENS)?))
    }

    /// Loads a model to be computed by this inference thread. Blocking, as [`LocalBackend::load`].
    ///
    /// # Errors
    /// `Config` for a directory that cannot be served as it is asked for, with its name and what to do.
    pub fn load_beside(options: &LocalOptions, inference: Arc<Inference>) -> Result<LocalBackend> {
        LocalBackend::assemble(options, inference, None)
    }

    /// The same, but that these encoders compute, one for each inference thread, or for each card of these.
    ///
    /// # Errors
    /// As [`LocalBackend::load_beside`].
    pub fn load_around(
        options: &LocalOptions,
        inference: Arc<Inference>,
        encoders: Vec<Box<dyn Encoder>>,
    ) -> Result<LocalBackend> {
        LocalBackend::assemble(options, inference, Some(encoders))
    }

    fn assemble(
        options: &LocalOptions,
        inference: Arc<Inference>,
        given: Option<Vec<Box<dyn Encoder>>>,
    ) -> Result<LocalBackend> {
        let description = describe(options)?;
        let (profile, profile_chosen_by) = choose_profile(options, &description)?;
        warn_of_guess(options, profile, profile_chosen_by);
        let source = choose_source(&description, profile)?;
        let treatment = Treatment::new(profile, switches(options, &description), &description);
        let (mut encoders, engine) = match given {
            Some(encoders) => (encoders, "given"),
            None => encoders(options, (&description, profile), &source, &inference)?,
        };
        let treatment = treatment.with_half_vectors(encoders.iter().any(|encoder| encoder.is_half()));
        let classifier = classifier(&description, profile, &source, &encoders)?;
        let scoring =
            classifier.as_ref().map(|it| Scoring::of(&description.config, it.labels()).map(Arc::new)).transpose()?;
        let treatment = match &classifier {
            Some(classifier) => treatment.for_pairs(classifier.pooling),
            None => treatment,
        };
        let tokenizer = tokenizer(&description, &treatment, encoders.first().and_then(|encoder| encoder.vocabulary()))?;
        warm_up(&mut encoders, &treatment, &inference)?;
        let (head, dimensions) = head(&description, profile, &encoders, classifier.as_ref())?;
        let license = license(options);
        let precision = source.precision(options.precision, engine);
        let masks = description.masks(options.hints);
        let fingerprint = fingerprint(&options.dir, &description, &source, &treatment, (precision, masks))?;
        let info = ModelInfo {
            name: name(options),
            fingerprint,
            dimensions: scoring.is_none().then_some(dimensions),
            profile: Some(profile),
            scoring,
        };
        let model = Arc::new(Model::new(encoders, head));
        let attention = attention((&description, profile), &source, masks)?;
        let report = ModelReport { attention, ..unused(&info, &treatment, &inference) };
        let reported = ReportedModel::new(&info, profile, (&report.device, precision), model.clone());
        Ok(LocalBackend {
            preparation: Arc::new(Preparation::new(tokenizer, treatment, text2vec_kernel::cores())),
            inference,
            model,
            info,
            path: description.dir.display().to_string(),
            config: description.config,
            loaded: ModelReport { license, profile_chosen_by, precision, engine, ..report },
            queries_first: options.queries_first,
            _reported: reported,
        })
    }
}

/// Says that the reference container might have chosen another profile.
fn warn_of_guess(options: &LocalOptions, profile: Profile, reason: &str) {
    if reason == MODULES_JSON {
        tracing::warn!(
            "{}: its modules.json alone chose the profile {profile}; the reference container, without marker files, \
             serves such a directory under {}, and those are other vectors: --profile says which is meant",
            options.dir.display(),
            Profile::Transformers
        );
    }
}

/// Which tokens attend to which, in words. Causal where the model asks for something else is told to the operator.
fn attention(
    (description, profile): (&ModelDescription, Profile),
    source: &Source,
    masks: Masks,
) -> Result<Option<&'static str>> {
    match source {
        // Of BERT and its like.
        Source::Graph(..) if !description.is_static() => return Ok(Some("bidirectional")),
        _ => {}
    }
    let attention = description.encoder(profile, masks).attention()?;
    if description.may_be_bidirectional() {
        tracing::warn!(
            "{}: the model comes with code of its own (auto_map), which is never run: attention is causal, as {} has it. If that \
             code lets all tokens see each other, say so in config.json with \"is_causal\": false",
            description.dir.display(),
            description.model_type()
        );
    }
    if masks == Masks::AsTransformers4 {
        tracing::warn!(
            "{}: attention is causal, as in the reference container that this replaces, although the model asks for \
             bidirectional attention and is better with it: to change that, serve a directory without the container's \
             marker files, and import again",
            description.dir.display()
        );
        return Ok(Some("causal, as in the reference container"));
    }
    Ok(attention)
}

/// Which weights are taken where there are several.
fn choose_source(description: &ModelDescription, profile: Profile) -> Result<Source> {
    let marked = description.markers.onnx_runtime && profile == Profile::Onnx;
    Ok(Source::choose(&description.dir, marked)?)
}

/// An encoder for each inference thread, and the name of what runs them.
fn encoders(
    options: &LocalOptions,
    (description, profile): (&ModelDescription, Profile),
    source: &Source,
    inference: &Inference,
) -> Result<(Vec<Box<dyn Encoder>>, &'static str)> {
    let in_directory = |error| Error::from(error).at(Place::File(options.dir.clone()));
    let on = (inference.threads(), inference.cards());
    let masks = description.masks(options.hints);
    open::encoders(description.encoder(profile, masks), source, options.engine, options.precision, on)
        .map_err(in_directory)
}

/// The tokenizer, if it is this model's.
fn tokenizer(description: &ModelDescription, treatment: &Treatment, rows: Option<usize>) -> Result<TextTokenizer> {
    let mut tokenizer = TextTokenizer::load(&description.dir, treatment.max_tokens())?;
    if treatment.profile == Profile::Model2vec {
        tokenizer = tokenizer.as_model2vec()?;
    } else if treatment.profile == Profile::CrossEncoder {
        let is_decoder = treatment.pooling() == [PoolingMode::LastToken];
        tokenizer = tokenizer.for_pairs(PairRules::read(&description.dir, &description.config, is_decoder)?)?;
    } else if description.is_static() {
        tokenizer = tokenizer.without_special_tokens();
    }
    check_vocabulary(&tokenizer, description, rows)?;
    Ok(tokenizer)
}

/// A vocabulary of more entries than the model has embeddings belongs to another model.
fn check_vocabulary(tokenizer: &TextTokenizer, description: &ModelDescription, rows: Option<usize>) -> Result<()> {
    let (size, of) = match rows {
        Some(rows) => (Some(rows), "the model has rows for"),
        None => (number(&description.config, "vocab_size"), "config.json's vocab_size is"),
    };
    match size {
        Some(size) if size < tokenizer.vocabulary() => Err(Error::config(format!(
            "the tokenizer in {} makes ids up to {}, but {of} {size}: they belong to different models",
            description.dir.display(),
            tokenizer.vocabulary() - 1
        ))
        .naming(Place::File(description.dir.clone()))),
        _ => Ok(()),
    }
}

/// First passes, which find out how large batches should be.
fn warm_up(encoders: &mut [Box<dyn Encoder>], treatment: &Treatment, inference: &Inference) -> Result<()> {
    for encoder in encoders {
        if let Some(tokens) = encoder.warm_up(treatment.max_tokens())? {
            tracing::info!(tokens, "batches of this size are fastest");
            inference.widen(tokens);
        }
    }
    Ok(())
}

/// What a reranker has behind its encoder.
fn classifier(
    description: &ModelDescription,
    profile: Profile,
    source: &Source,
    encoders: &[Box<dyn Encoder>],
) -> Result<Option<Classifier>> {
    if profile != Profile::CrossEncoder {
        return Ok(None);
    }
    let Source::Weights(files) = source else {
        return Err(Error::config(format!(
            "{}: of ONNX files only those of embedding models are read: to rerank, use a directory with model.safetensors",
            description.dir.display()
        ))
        .naming(Place::File(description.dir.clone())));
    };
    let width = encoders.first().map_or(0, |encoder| encoder.hidden_size());
    let opened = Classifier::open((description.model_type(), &description.config), files, width);
    Ok(Some(opened.map_err(|error| Error::from(error).at(Place::File(description.dir.clone())))?))
}

/// The layers behind the pooling, and the length of what comes out at the end.
fn head(
    description: &ModelDescription,
    profile: Profile,
    encoders: &[Box<dyn Encoder>],
    classifier: Option<&Classifier>,
) -> Result<(Head, usize)> {
    if let Some(classifier) = classifier {
        return Ok((classifier.head.clone(), classifier.labels()));
    }
    let width = encoders.first().map_or(0, |encoder| encoder.hidden_size());
    let (pooled, dense) = match (&description.pipeline, profile) {
        (Some(pipeline), Profile::SentenceTransformers) => {
            (width * pipeline.pooling.len().max(1), pipeline.dense.clone())
        }
        _ => (width, Vec::new()),
    };
    let head = Head::load(&dense, pooled)?;
    let dimensions = head.outputs().unwrap_or(pooled);
    Ok((head, dimensions))
}

/// The model's licence, if it is known. One that forbids commercial use is told to the operator.
fn license(options: &LocalOptions) -> Option<String> {
    let license = card::license(&options.dir, options.id.as_deref());
    if let Some(license) = license.as_deref().filter(|license| card::is_non_commercial(license)) {
        tracing::warn!("this model's licence, {license}, forbids commercial use");
    }
    license
}

/// The model's Hub id, if it is known, else its directory's name.
fn name(options: &LocalOptions) -> String {
    options.id.clone().unwrap_or_else(|| directory_name(&options.dir))
}

fn directory_name(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    dir.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

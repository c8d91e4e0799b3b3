//! What a profile does with a text: which pieces are tokenized, how they are pooled, how the result is finished.
//!
//! The behaviour of the profiles is that of the reference container (t2v-transformers-models `vectorizer.py`,
//! sentence-transformers 5.1.0) and of the model2vec container (t2v-model2vec-models, model2vec 0.8.1), odd corners included: a
//! replaced container must not move anyone's vectors.

use std::ops::Range;

use super::sentences::{Sentences, collapse_joined};
use crate::contract::call::{EmbedSettings, Purpose, Text};
use crate::contract::request::{PoolingStrategy, Profile, Task};
use crate::error::{Error, Result};
use crate::model::modules::ModelDescription;
use crate::model::tokenizer::MODEL2VEC_MAX_TOKENS;
use text2vec_engine::pooling;
use text2vec_engine::pooling::PoolingMode;

/// Sentences of a batch in the reference's `transformers` mode.
const SENTENCE_BATCH: usize = 25;

/// Tokens of a static embedding's text: its cost is one row each. This is what potion models say themselves.
const STATIC_MAX_TOKENS: usize = 1_000_000;

/// The limit the reference's `transformers` mode puts on each sentence, special tokens included.
const TRANSFORMERS_MAX_TOKENS: usize = 500;

/// How this server treats texts: the profile with its switches, and what the model says about itself.
#[derive(Debug, Clone)]
pub struct Treatment {
    /// The profile.
    pub profile: Profile,
    /// `transformers` only: the whole text is one sequence, no sentences.
    pub direct_tokenize: bool,
    /// `<task>: ` goes in front of every text whose caller named a task.
    pub task_prefixes: bool,
    /// Honour `dimensions` also where the reference ignores it.
    pub apply_dimensions: bool,
    /// The model's own prompt for queries.
    query_prompt: Option<String>,
    /// The model's own prompt for documents.
    document_prompt: Option<String>,
    /// The model's own pooling.
    model_pooling: Vec<PoolingMode>,
    /// A DPR encoder: `transformers` knows one pooling for it, and mistakes a batch's first sentence for the batch.
    dpr: bool,
    /// The model wants lower-cased text.
    do_lower_case: bool,
    /// What model2vec does in the end.
    model2vec: Model2vecFinish,
    /// Tokens per piece, special ones included.
    max_tokens: usize,
}

/// Of a model2vec model's vectors.
#[derive(Debug, Clone, Copy, Default)]
struct Model2vecFinish {
    /// They are scaled to length 1.
    normalize: bool,
    /// They are of f16.
    half: bool,
}

/// Switches an operator may set beside the profile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    /// See [`Treatment::direct_tokenize`].
    pub direct_tokenize: bool,
    /// See [`Treatment::task_prefixes`].
    pub task_prefixes: bool,
    /// See [`Treatment::apply_dimensions`].
    pub apply_dimensions: bool,
}

/// What is to be done for the texts of one call.
#[derive(Debug)]
pub struct Plan {
    /// Goes in front of each text.
    prefix: String,
    /// What is tokenized of it then.
    cut: Cut,
    /// How a piece's token states become one vector; several modes are concatenated.
    pub pooling: Vec<PoolingMode>,
    /// What happens to the mean of the pieces' vectors.
    pub finish: Finish,
    /// `poolingStrategy` of the request had no effect.
    pub pooling_ignored: bool,
    /// What each text is paired with.
    pub query: Option<Text>,
}

/// Which pieces of a text become sequences.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// All of it is one.
    Whole,
    /// The same, without whitespace at its ends, and lower-cased if so told.
    Stripped { lower_case: bool },
    /// The first of every `step` sentences.
    Sentences { step: usize },
}

impl Plan {
    /// The pieces of one text, which is copied only where it is changed.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that has no piece.
    pub fn pieces(&self, text: Text) -> Result<Pieces> {
        let prefixed =
            |text: Text| if self.prefix.is_empty() { text } else { format!("{}{}", self.prefix, &*text).into() };
        match self.cut {
            Cut::Whole => Ok(Pieces::whole(prefixed(text))),
            Cut::Stripped { lower_case } => {
                let text = prefixed(text);
                let part = stripped(&text);
                Ok(if lower_case { Pieces::whole(text[part].to_lowercase().into()) } else { Pieces::part(text, part) })
            }
            Cut::Sentences { step } => Pieces::sentences(collapse_joined(&[&self.prefix, &text]).into(), step),
        }
    }
}

/// What Python's `strip()` leaves of a text.
fn stripped(text: &str) -> Range<usize> {
    let is_whitespace = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    let end = text.trim_end_matches(is_whitespace).len();
    let start = end - text[..end].trim_start_matches(is_whitespace).len();
    start..end
}

/// The texts to tokenize, each a sequence of its own, one after the other. There is at least one.
#[derive(Debug)]
pub struct Pieces {
    text: Text,
    /// `None`: there is one piece.
    sentences: Option<Sentences>,
    /// The first of every so many sentences counts.
    step: usize,
    /// Pieces that came so far, those that do not count included.
    seen: usize,
    /// The first piece.
    first: Option<Range<usize>>,
}

impl Pieces {
    fn whole(text: Text) -> Pieces {
        let all = 0..text.len();
        Pieces::part(text, all)
    }

    fn part(text: Text, part: Range<usize>) -> Pieces {
        Pieces { text, sentences: None, step: 1, seen: 0, first: Some(part) }
    }

    /// The first of every `step` sentences of a text whose whitespace is collapsed.
    fn sentences(text: Text, step: usize) -> Result<Pieces> {
        let mut sentences = Sentences::default();
        let first = sentences.next(&text).ok_or_else(|| {
            Error::invalid("the text is empty: without a sentence there is no vector under the transformers profile")
        })?;
        Ok(Pieces { text, sentences: Some(sentences), step, seen: 0, first: Some(first) })
    }

    /// The next piece.
    pub fn advance(&mut self) -> Option<&str> {
        loop {
            let range = self.first.take().or_else(|| self.sentences.as_mut()?.next(&self.text))?;
            self.seen += 1;
            if (self.seen - 1).is_multiple_of(self.step) {
                return Some(&self.text[range]);
            }
        }
    }

    /// When there is no piece left: by what the sum of the pieces' vectors is divided. Their number, but for DPR.
    pub fn divisor(&self) -> usize {
        if self.sentences.is_some() { self.seen } else { 1 }
    }
}

/// The last steps of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Finish {
    /// `dimensions` as requested.
    pub dimensions: Option<i64>,
    /// Whether the profile cuts to `dimensions`.
    pub cut: bool,
    /// Whether the vector is scaled to length 1.
    pub normalize: bool,
    /// Whether that is done in f16.
    pub half: bool,
}

impl Finish {
    /// Cuts and normalises. Answers whether `dimensions` was asked for and had no effect.
    ///
    /// # Errors
    /// `InvalidArgument` if nothing would be left of the vector.
    pub fn apply(self, vector: &mut Vec<f32>) -> Result<bool> {
        let full = vector.len();
        // Zero means unset to the reference; asking for the full length changes nothing and needs no warning.
        let wanted = self.dimensions.filter(|&wanted| wanted != 0 && wanted != full as i64);
        if let (true, Some(wanted)) = (self.cut, wanted) {
            pooling::cut(vector, wanted);
            if vector.is_empty() {
                return Err(Error::invalid(format!(
                    "dimensions is {wanted}, which leaves nothing of a vector of {full}: use 1 to {full}"
                ))
                .parameter("dimensions"));
            }
        }
        match (self.normalize, self.half) {
            (false, _) => {}
            (true, false) => pooling::normalize(vector),
            (true, true) => pooling::normalize_half(vector),
        }
        Ok(wanted.is_some() && vector.len() == full)
    }
}

impl Treatment {
    /// Combines profile, switches and the model's description.
    pub fn new(profile: Profile, switches: Switches, model: &ModelDescription) -> Treatment {
        let positions = model.usable_positions().unwrap_or(usize::MAX);
        let tokenizer_limit = model.tokenizer_limit.unwrap_or(usize::MAX);
        let limit = match profile {
            Profile::Transformers => TRANSFORMERS_MAX_TOKENS,
            Profile::SentenceTransformers => model.max_seq_length.unwrap_or(tokenizer_limit),
            Profile::Onnx => tokenizer_limit,
            Profile::Model2vec => MODEL2VEC_MAX_TOKENS,
            Profile::CrossEncoder => tokenizer_limit.min(model.configured_positions().unwrap_or(usize::MAX)),
        };
        let max_tokens = match limit.min(positions) {
            _ if model.is_static() && profile != Profile::Model2vec => STATIC_MAX_TOKENS,
            // A model without any limit still gets one: T5 was trained on 512 tokens.
            usize::MAX => 512,
            limit => limit,
        };
        let dpr = model.model_type() == "dpr";
        Treatment {
            profile,
            direct_tokenize: switches.direct_tokenize,
            task_prefixes: switches.task_prefixes,
            apply_dimensions: switches.apply_dimensions,
            query_prompt: model.query_prompt().map(str::to_owned),
            document_prompt: model.document_prompt().map(str::to_owned),
            model_pooling: model
                .pipeline
                .as_ref()
                .map(|pipeline| pipeline.pooling.clone())
                .filter(|modes| !modes.is_empty())
                .unwrap_or_else(|| vec![if dpr { PoolingMode::Cls } else { PoolingMode::Mean }]),
            dpr,
            do_lower_case: model.do_lower_case,
            model2vec: Model2vecFinish { normalize: model.normalizes(), half: false },
            max_tokens,
        }
    }

    /// The same for pairs, of whose states this one is taken.
    pub fn for_pairs(mut self, pooling: PoolingMode) -> Treatment {
        self.model_pooling = vec![pooling];
        self
    }

    /// The same for vectors of f16, where the profile keeps them so.
    pub fn with_half_vectors(mut self, half: bool) -> Treatment {
        self.model2vec.half = half;
        self
    }

    /// Tokens per piece, special ones included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// How token states are pooled unless a request chooses; several modes are concatenated.
    pub fn pooling(&self) -> &[PoolingMode] {
        match self.profile {
            Profile::SentenceTransformers | Profile::CrossEncoder => &self.model_pooling,
            Profile::Transformers if self.dpr => &[PoolingMode::Cls],
            Profile::Transformers | Profile::Onnx | Profile::Model2vec => &[PoolingMode::Mean],
        }
    }

    /// What the profile puts before a text of that task, if anything.
    pub fn prompt(&self, task: Task) -> Option<&str> {
        let prompt = match (self.profile, task) {
            (Profile::SentenceTransformers, Task::Query) => self.query_prompt.as_deref(),
            (Profile::SentenceTransformers, Task::Passage) => self.document_prompt.as_deref(),
            _ => None,
        };
        prompt.filter(|prompt| !prompt.is_empty())
    }

    /// Odd habits of the reference container that are kept so that nobody's vectors move; shown in `/meta`.
    pub fn quirks(&self) -> Vec<&'static str> {
        match (self.profile, self.dpr, self.direct_tokenize) {
            (Profile::Transformers, true, false) => {
                vec!["DPR: only the first of every 25 sentences counts, divided by the number of all sentences"]
            }
            _ => Vec::new(),
        }
    }

    /// Plans the texts of a call.
    ///
    /// # Errors
    /// `InvalidArgument` for settings that this profile refuses.
    pub fn plan_for(&self, purpose: &Purpose) -> Result<Plan> {
        match purpose {
            Purpose::Embed(settings) => self.plan(settings),
            Purpose::Score { query } => Ok(Plan {
                prefix: String::new(),
                cut: Cut::Whole,
                pooling: self.model_pooling.clone(),
                finish: Finish::default(),
                pooling_ignored: false,
                query: Some(query.clone()),
            }),
        }
    }

    /// Plans texts that become vectors.
    ///
    /// # Errors
    /// `InvalidArgument` for settings that this profile refuses.
    pub fn plan(&self, settings: &EmbedSettings) -> Result<Plan> {
        let requested = settings.pooling.as_deref().unwrap_or_default();
        let finish = self.finish(settings);
        let prefix = self.prefix(settings);
        match self.profile {
            Profile::Transformers => {
                let pooling = match PoolingStrategy::from_wire(requested) {
                    _ if self.dpr => PoolingMode::Cls,
                    Some(PoolingStrategy::MaskedMean) => PoolingMode::Mean,
                    Some(PoolingStrategy::Cls) => PoolingMode::Cls,
                    None => {
                        return Err(Error::invalid(format!(
                            "invalid pooling method '{requested}': use masked_mean or cls"
                        ))
                        .parameter("pooling_strategy"));
                    }
                };
                let step = if self.dpr { SENTENCE_BATCH } else { 1 };
                let cut = if self.direct_tokenize { Cut::Whole } else { Cut::Sentences { step } };
                let pooling = vec![pooling];
                let pooling_ignored = self.dpr && ignores(requested, &pooling);
                Ok(Plan { prefix, cut, pooling, finish, pooling_ignored, query: None })
            }
            // What sentence-transformers does to a text: Python's strip(), then lower() if the model says so.
            Profile::SentenceTransformers => Ok(Plan {
                prefix,
                cut: Cut::Stripped { lower_case: self.do_lower_case },
                pooling: self.model_pooling.clone(),
                finish,
                pooling_ignored: ignores(requested, &self.model_pooling),
                query: None,
            }),
            Profile::Onnx | Profile::Model2vec | Profile::CrossEncoder => {
                let pooling = vec![PoolingMode::Mean];
                let pooling_ignored = ignores(requested, &pooling);
                Ok(Plan { prefix, cut: Cut::Whole, pooling, finish, pooling_ignored, query: None })
            }
        }
    }

    /// The last steps of a vector under this profile.
    fn finish(&self, settings: &EmbedSettings) -> Finish {
        let finish =
            Finish { dimensions: settings.dimensions, cut: self.apply_dimensions, normalize: true, half: false };
        match self.profile {
            Profile::Transformers => Finish { normalize: false, ..finish },
            Profile::SentenceTransformers => Finish { cut: true, ..finish },
            Profile::Model2vec => {
                let Model2vecFinish { normalize, half } = self.model2vec;
                Finish { normalize, half, ..finish }
            }
            Profile::Onnx | Profile::CrossEncoder => finish,
        }
    }

    /// What goes in front of texts with these settings: the prompt, then the task's name.
    fn prefix(&self, settings: &EmbedSettings) -> String {
        let prompt = settings.prompt.as_deref().or_else(|| self.prompt(settings.task())).unwrap_or_default();
        match (self.task_prefixes, &settings.task_name) {
            (true, Some(task)) => format!("{prompt}{task}: "),
            _ => prompt.to_owned(),
        }
    }
}

/// Whether a caller who wrote `requested` gets something else. Callers who say nothing, or the module's default (which
/// Weaviate always sends), did not ask for anything.
fn ignores(requested: &str, used: &[PoolingMode]) -> bool {
    match PoolingStrategy::from_wire(requested) {
        Some(PoolingStrategy::MaskedMean) => false,
        Some(PoolingStrategy::Cls) => used != [PoolingMode::Cls],
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::backend::{Backend, Embedding, ModelInfo};
    use crate::cache::{CacheOptions, Cached};
    use crate::contract::call::Call;
    use crate::model::modules::{Markers, Pipeline};

    fn model() -> ModelDescription {
        let config = serde_json::json!({"model_type": "bert", "max_position_embeddings": 512});
        ModelDescription {
            dir: PathBuf::new(),
            config: config.as_object().cloned().unwrap_or_default(),
            tokenizer_limit: Some(384),
            pipeline: Some(Pipeline { pooling: vec![PoolingMode::Cls], dense: Vec::new(), normalize: true }),
            prompts: BTreeMap::from([("query".to_owned(), "Q: ".to_owned())]),
            default_prompt_name: None,
            max_seq_length: Some(256),
            do_lower_case: false,
            markers: Markers::default(),
        }
    }

    /// All pieces, and the divisor.
    fn all(mut pieces: Pieces) -> (Vec<String>, usize) {
        let texts = std::iter::from_fn(|| pieces.advance().map(str::to_owned)).collect();
        (texts, pieces.divisor())
    }

    fn treatment(profile: Profile) -> Treatment {
        Treatment::new(profile, Switches::default(), &model())
    }

    #[test]
    fn each_profile_has_its_own_token_limit() {
        assert_eq!(treatment(Profile::Transformers).max_tokens(), 500);
        assert_eq!(treatment(Profile::SentenceTransformers).max_tokens(), 256);
        assert_eq!(treatment(Profile::Onnx).max_tokens(), 384);
        let mut small = model();
        small.config.insert("max_position_embeddings".into(), 128.into());
        assert_eq!(Treatment::new(Profile::Transformers, Switches::default(), &small).max_tokens(), 128);
    }

    #[test]
    fn prompts_and_prefixes_come_in_the_reference_order() {
        let switches = Switches { task_prefixes: true, ..Switches::default() };
        let treatment = Treatment::new(Profile::SentenceTransformers, switches, &model());
        let pieces = |settings: EmbedSettings, text: &str| {
            treatment.plan(&settings).and_then(|plan| plan.pieces(text.into())).map(|pieces| all(pieces).0)
        };
        assert_eq!(pieces(EmbedSettings::query(), " x "), Ok(vec!["Q: query:  x".to_owned()]));
        assert_eq!(pieces(EmbedSettings::default(), " x "), Ok(vec!["x".to_owned()]));
        let odd = EmbedSettings { task_name: Some("foo".into()), ..EmbedSettings::default() };
        assert_eq!(pieces(odd, "x"), Ok(vec!["foo: x".to_owned()]));
        let own = EmbedSettings { prompt: Some("mine ".into()), ..EmbedSettings::query() };
        assert_eq!(pieces(own, "x"), Ok(vec!["mine query: x".to_owned()]));
    }

    #[test]
    fn only_the_transformers_profile_minds_the_pooling_strategy() {
        let pooled = |pooling: &str| EmbedSettings { pooling: Some(pooling.into()), ..EmbedSettings::default() };
        let transformers = treatment(Profile::Transformers);
        assert_eq!(transformers.plan(&pooled("")).expect("default").pooling, [PoolingMode::Mean]);
        assert_eq!(transformers.plan(&pooled("cls")).expect("cls").pooling, [PoolingMode::Cls]);
        let error = transformers.plan(&pooled("CLS")).expect_err("letter case counts");
        assert!(error.message().starts_with("invalid pooling method 'CLS'"), "{error}");
        for (profile, pooling, ignored) in [
            (Profile::SentenceTransformers, "masked_mean", false),
            (Profile::SentenceTransformers, "cls", false),
            (Profile::SentenceTransformers, "max", true),
            (Profile::Onnx, "cls", true),
            (Profile::Onnx, "", false),
        ] {
            let plan = treatment(profile).plan(&pooled(pooling)).expect("accepted");
            assert_eq!(plan.pooling_ignored, ignored, "{profile} {pooling}");
        }
    }

    #[test]
    fn dpr_takes_the_first_of_every_25_sentences_and_divides_by_all() {
        let mut dpr = model();
        dpr.config.insert("model_type".into(), "dpr".into());
        let text: String = (0..60).map(|number| format!("This is sentence {number}. ")).collect();
        let (text, settings) =
            (Text::from(text), EmbedSettings { pooling: Some("nonsense".into()), ..EmbedSettings::default() });
        let treatment = Treatment::new(Profile::Transformers, Switches::default(), &dpr);
        let plan = treatment.plan(&settings).expect("a plan");
        assert_eq!((&plan.pooling[..], plan.pooling_ignored), (&[PoolingMode::Cls][..], true));
        let (pieces, divisor) = all(plan.pieces(text.clone()).expect("sentences"));
        assert_eq!(pieces, ["This is sentence 0.", "This is sentence 25.", "This is sentence 50."]);
        assert_eq!(divisor, 60);
        assert_eq!(treatment.quirks().len(), 1);
        let direct = Switches { direct_tokenize: true, ..Switches::default() };
        let direct = Treatment::new(Profile::Transformers, direct, &dpr);
        let plan = direct.plan(&settings).expect("a plan");
        let (pieces, divisor) = all(plan.pieces(text).expect("a piece"));
        assert_eq!((pieces.len(), divisor), (1, 1));
        assert!(direct.quirks().is_empty());
    }

    #[test]
    fn dimensions_without_effect_are_reported() {
        let finish = |dimensions, cut| Finish { dimensions, cut, normalize: false, half: false };
        let apply = |finish: Finish| {
            let mut vector = vec![3.0, 4.0, 0.0];
            finish.apply(&mut vector).map(|ignored| (ignored, vector.len()))
        };
        assert_eq!(apply(finish(None, true)), Ok((false, 3)));
        assert_eq!(apply(finish(Some(0), true)), Ok((false, 3)));
        assert_eq!(apply(finish(Some(3), false)), Ok((false, 3)));
        assert_eq!(apply(finish(Some(2), true)), Ok((false, 2)));
        assert_eq!(apply(finish(Some(-1), true)), Ok((false, 2)));
        assert_eq!(apply(finish(Some(9), true)), Ok((true, 3)));
        assert_eq!(apply(finish(Some(2), false)), Ok((true, 3)));
        // The reference cuts as Python slices do, and so answers with a vector without a number.
        for nothing in [-3, -4, i64::MIN] {
            let error = apply(finish(Some(nothing), true)).expect_err("nothing is left");
            assert!(error.message().contains("use 1 to 3"), "{error}");
            assert_eq!(apply(finish(Some(nothing), false)), Ok((true, 3)));
        }
    }

    #[test]
    fn a_text_without_a_sentence_is_refused_only_where_sentences_are_made() {
        for text in ["", " \n\u{1f}\u{2003}"] {
            let pieces =
                |profile| treatment(profile).plan(&EmbedSettings::default()).expect("a plan").pieces(text.into());
            assert!(pieces(Profile::Transformers).is_err());
            assert!(pieces(Profile::Onnx).is_ok());
            assert!(pieces(Profile::SentenceTransformers).is_ok());
        }
    }

    #[test]
    fn only_whitespace_at_the_ends_is_stripped() {
        for (text, left) in [("", ""), (" \u{1f}\u{2003}", ""), ("a", "a"), ("\n a b\u{1c}", "a b"), ("\u{a0}é ", "é")]
        {
            assert_eq!(&text[stripped(text)], left, "{text:?}");
        }
    }

    /// Notes at which address the first piece of each text is.
    struct Planning {
        treatment: Treatment,
        info: ModelInfo,
        addresses: Mutex<Vec<usize>>,
    }

    impl Backend for Planning {
        fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
            let plan = self.treatment.plan(call.to_embed().expect("texts to embed")).expect("a plan");
            let answer = |text| {
                let mut pieces = plan.pieces(text)?;
                let piece = pieces.advance().expect("a piece");
                self.addresses.lock().expect("lock").push(piece.as_ptr().addr());
                Ok(Embedding { vector: [1.0].into(), tokens: 1, truncated: false, ignored: Vec::new() })
            };
            let answers = call.texts.into_iter().map(answer).collect();
            Box::pin(async move { Ok(answers) })
        }

        fn info(&self) -> &ModelInfo {
            &self.info
        }
    }

    /// From the call through the cache to what the tokenizer is given.
    #[tokio::test]
    async fn a_text_that_is_not_changed_is_not_copied() {
        let direct = Switches { direct_tokenize: true, ..Switches::default() };
        for (profile, switches, prompt, shared) in [
            (Profile::Onnx, Switches::default(), None, true),
            (Profile::Transformers, direct, None, true),
            (Profile::SentenceTransformers, Switches::default(), None, true),
            (Profile::SentenceTransformers, Switches::default(), Some("Q: "), false),
            (Profile::Transformers, Switches::default(), None, false),
        ] {
            let planning = Arc::new(Planning {
                treatment: Treatment::new(profile, switches, &model()),
                info: ModelInfo {
                    name: "planning".into(),
                    fingerprint: "0".into(),
                    dimensions: Some(1),
                    ..ModelInfo::default()
                },
                addresses: Mutex::default(),
            });
            let cache = Cached::around(planning.clone(), CacheOptions::default()).expect("room");
            let came = " A text. \n".to_owned();
            let memory = came.as_ptr().addr()..came.as_ptr().addr() + came.len();
            let settings = EmbedSettings { prompt: prompt.map(str::to_owned), ..EmbedSettings::default() };
            cache.embed(Call::new(vec![came.into()], settings)).await.expect("the call").remove(0).expect("the text");
            let given = planning.addresses.lock().expect("lock").clone();
            assert_eq!(given.len(), 1);
            assert_eq!(memory.contains(&given[0]), shared, "{profile} {prompt:?}");
        }
    }
}

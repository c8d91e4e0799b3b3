//! What the surfaces for callers without tasks share (OpenAI, Ollama, TEI): a JSON object with texts in it, and texts
//! embedded as they are.
//!
//! These callers use one call for objects and for queries (Weaviate's `text2vec-openai` and `text2vec-ollama` too), so
//! both must get the same vector: no task, hence no prompt and no prefix. The vector is the one of the server's profile, of
//! length 1 as the servers these APIs come from make them (their clients compare by dot product and Euclidean distance):
//! unless the operator, or TEI's `normalize`, says otherwise.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::asked::{read_body, within_deadline};
use super::json::{self, Object};
use crate::backend::Embedding;
use crate::contract::call::{EmbedSettings, Text};
use crate::error::{Error, Result};
use crate::server::service::{Service, beyond};

/// A request's JSON object, whose fields are taken out one by one. `null` is the same as nothing; unknown fields are
/// ignored, as these APIs do. A field is read when it is taken, as what it must be: nothing is made of what is not asked for.
pub(super) struct Fields<'a> {
    fields: Object,
    service: &'a Service,
}

/// What a caller wants a vector of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// A text.
    Text(String),
    /// The ids of its tokens.
    Ids(Vec<u32>),
}

impl<'a> Fields<'a> {
    /// Reads the body, whatever its Content-Type.
    pub(super) fn read(service: &'a Service, body: Result<Bytes, BytesRejection>) -> Result<Fields<'a>> {
        let body = read_body(service, body)?;
        let not_json = |error: &dyn fmt::Display| Error::invalid(format!("the body is not valid JSON: {error}"));
        let text = std::str::from_utf8(&body).map_err(|error| not_json(&error))?;
        match Object::read(text) {
            Ok(fields) => Ok(Fields { fields, service }),
            Err(error) if error.is_data() && !text.trim_start().starts_with('{') => {
                Err(Error::invalid("the body is not a JSON object"))
            }
            Err(error) => Err(not_json(&error)),
        }
    }

    fn take<T: DeserializeOwned>(&mut self, key: &'static str, wanted: &str) -> Result<Option<T>> {
        let Some(raw) = self.fields.take(key) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|_| refused(key, format_args!("'{key}' must be {wanted}")))
    }

    /// Lets a field be given by another name.
    pub(super) fn rename(&mut self, other: &str, key: &str) {
        self.fields.rename(other, key);
    }

    /// A text.
    pub(super) fn string(&mut self, key: &'static str) -> Result<Option<String>> {
        self.take(key, "a text")
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Result<Option<bool>> {
        self.take(key, "true or false")
    }

    /// `dimensions`: a positive number.
    pub(super) fn dimensions(&mut self) -> Result<Option<usize>> {
        let wanted: Option<NonZeroU64> = self.take("dimensions", "a whole number above 0")?;
        Ok(wanted.map(|number| usize::try_from(number.get()).unwrap_or(usize::MAX)))
    }

    /// Whether a field is there, and not null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.has(key)
    }

    /// Whether a field is there, and neither null nor an empty text.
    pub(super) fn says(&self, key: &str) -> bool {
        self.fields.says(key)
    }

    /// A whole number above 0.
    pub(super) fn count(&mut self, key: &'static str) -> Result<Option<NonZeroUsize>> {
        self.take(key, "a whole number above 0")
    }

    /// `truncation_direction`: texts lose their end.
    pub(super) fn only_from_the_right(&mut self) -> Result<()> {
        match self.string("truncation_direction")? {
            Some(direction) if !direction.eq_ignore_ascii_case("right") => {
                let message = "'truncation_direction' can only be right: a long text loses its end";
                Err(refused("truncation_direction", message))
            }
            _ => Ok(()),
        }
    }

    /// A list of texts, each as it is or as `{"text": …}`; `None`: there is no such field.
    pub(super) fn documents(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Document {
            Text(String),
            Object { text: String },
        }
        let Some(raw) = self.fields.take(key).filter(|raw| raw.get() != "null") else { return Ok(None) };
        if !raw.get().starts_with('[') {
            return Err(refused(key, format_args!("'{key}' must be a list of texts")));
        }
        let most = self.service.limits.max_texts;
        let (mut documents, mut count, mut odd) = (Vec::new(), 0, None);
        let read = json::each(raw.get(), |place, raw| {
            count += 1;
            match serde_json::from_str(raw) {
                Ok(Document::Text(text) | Document::Object { text }) if count <= most => documents.push(text),
                Ok(_) => {}
                Err(_) => odd = odd.or(Some(place)),
            }
            Ok(())
        });
        read.map_err(|error| refused(key, format_args!("'{key}' cannot be read: {error}")))?;
        self.service.check_texts(count)?;
        match odd {
            None => Ok(Some(documents)),
            Some(index) => {
                let place = format!("{key}[{index}]");
                let message = format!("'{place}' must be a text, or an object with its 'text'");
                Err(Error::invalid(message).parameter(place))
            }
        }
    }

    /// One text, or a list of texts. Token ids, which some clients send instead, are refused: nothing says whose they are.
    pub(super) fn texts(&mut self, key: &'static str) -> Result<Vec<String>> {
        let text = |input| match input {
            Input::Text(text) => Ok(text),
            Input::Ids(_) => Err(refused(
                key,
                format_args!(
                    "'{key}' has token ids, and those of another tokenizer, as OpenAI's, would give a wrong vector: send the \
                     text (langchain-openai: OpenAIEmbeddings(check_embedding_ctx_length=False)); POST /embed takes the ids \
                     that POST /tokenize gives"
                ),
            )),
        };
        self.inputs(key)?.into_iter().map(text).collect()
    }

    /// One text or the token ids of one, or a list of either.
    pub(super) fn inputs(&mut self, key: &'static str) -> Result<Vec<Input>> {
        let raw = self.fields.take(key).filter(|raw| raw.get() != "null");
        let raw = raw.ok_or_else(|| refused(key, format_args!("'{key}' is missing: a text or a list of texts")))?;
        let limits = &self.service.limits;
        let mut list = List { most: limits.max_texts, most_ids: limits.most_token_ids(), ..List::default() };
        let unreadable = |error| refused(key, format_args!("'{key}' cannot be read: {error}"));
        match raw.get().as_bytes().first() {
            Some(b'"') => list.take(0, raw.get()).map_err(unreadable)?,
            Some(b'[') => json::each(raw.get(), |place, raw| list.take(place, raw)).map_err(unreadable)?,
            _ => return Err(refused(key, format_args!("'{key}' must be a text or a list of texts"))),
        }
        self.service.check_texts(list.texts)?;
        limits.check_token_ids(list.ids)?;
        let Some(index) = list.odd else { return Ok(list.inputs) };
        let wanted = if list.is_ids { "a token id, as before it" } else { "a text" };
        let place = format!("{key}[{index}]");
        Err(Error::invalid(format!("'{place}' must be {wanted}")).parameter(place))
    }
}

/// The refusal of a field.
pub(super) fn refused(field: &'static str, message: impl fmt::Display) -> Error {
    Error::invalid(message.to_string()).parameter(field)
}

/// Reads a list of texts, of token ids, or of lists of those. Keeps no more than may be asked for, and counts all.
#[derive(Default)]
struct List {
    most: usize,
    most_ids: usize,
    inputs: Vec<Input>,
    texts: usize,
    ids: usize,
    /// The list itself is the ids of one text.
    is_ids: bool,
    /// The place of something that does not fit.
    odd: Option<usize>,
}

impl List {
    /// Takes the next element, which has this place.
    fn take(&mut self, place: usize, raw: &str) -> serde_json::Result<()> {
        let input = match raw.as_bytes().first() {
            Some(b'"') => Some(Input::Text(serde_json::from_str(raw)?)),
            Some(b'[') => serde_json::from_str(raw).ok().map(Input::Ids),
            _ => match serde_json::from_str(raw) {
                Ok(id) if self.is_ids || place == 0 => {
                    self.take_id(id);
                    return Ok(());
                }
                _ => None,
            },
        };
        match input {
            Some(input) if !self.is_ids => {
                self.texts += 1;
                if let Input::Ids(ids) = &input {
                    self.ids += ids.len();
                }
                if self.texts <= self.most && self.ids <= self.most_ids {
                    self.inputs.push(input);
                }
            }
            _ => self.odd = self.odd.or(Some(place)),
        }
        Ok(())
    }

    /// Takes an id of the one text that the list itself is.
    fn take_id(&mut self, id: u32) {
        (self.is_ids, self.texts) = (true, 1);
        self.ids += 1;
        if self.ids <= self.most_ids {
            match self.inputs.first_mut() {
                Some(Input::Ids(ids)) => ids.push(id),
                _ => self.inputs.push(Input::Ids(vec![id])),
            }
        }
    }
}

/// Without task, prompt and prefix.
pub(super) fn without_task() -> EmbedSettings {
    EmbedSettings { prompt: Some(String::new()), ..EmbedSettings::default() }
}

/// Embeds all texts or none: an error says which text it is about. `dimensions` cuts the vectors and scales them to
/// length 1, and without it `normalize` says whether they are scaled.
pub(super) async fn embed(
    service: &Service,
    headers: &HeaderMap,
    texts: Vec<String>,
    settings: EmbedSettings,
    dimensions: Option<usize>,
    normalize: bool,
) -> Result<Vec<Embedding>> {
    if let Some(wanted) = dimensions {
        service.check_dimensions(i64::try_from(wanted).unwrap_or(i64::MAX))?;
    }
    let model = service.backend()?.info().name.clone();
    let only_one = texts.len() == 1;
    let texts = texts.into_iter().map(Text::from).collect();
    let results = within_deadline(headers, service.embed(texts, settings)).await?;
    let whole = |(index, result): (usize, Result<Embedding>)| match (result, dimensions) {
        (Ok(embedding), Some(wanted)) if wanted > embedding.vector.len() => {
            Err(beyond(wanted, embedding.vector.len(), &model))
        }
        (Ok(embedding), Some(wanted)) => Ok(embedding.shortened(wanted)),
        (Ok(embedding), None) => Ok(if normalize { embedding.normalized() } else { embedding }),
        (Err(error), _) if only_one => Err(error),
        (Err(error), _) => Err(error.context(format_args!("text {index}"))),
    };
    results.into_iter().enumerate().map(whole).collect()
}

/// Tokens of all texts.
pub(super) fn tokens(embeddings: &[Embedding]) -> u64 {
    embeddings.iter().map(|embedding| u64::from(embedding.tokens)).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::error::ErrorKind;
    use crate::server::answers::AnswerRoom;
    use crate::server::inflight::BodyRoom;
    use crate::server::{Limits, Readiness};

    fn fields<'a>(service: &'a Service, field: &str, value: &Value) -> Fields<'a> {
        let body = json!({field: value}).to_string();
        Fields::read(service, Ok(Bytes::from(body))).expect("an object")
    }

    fn limited(max_texts: usize, max_tokenize_bytes: usize) -> Service {
        let limits = Limits { max_texts, max_tokenize_bytes, ..Limits::default() };
        let rooms = (AnswerRoom::new(limits), BodyRoom::new(limits));
        Service::new(Readiness::default(), limits, Default::default(), Default::default(), rooms, false)
    }

    fn texts(value: &Value) -> std::result::Result<Vec<String>, String> {
        let service = limited(4, 32);
        fields(&service, "input", value).texts("input").map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_text_and_lists_of_texts_are_read_and_tokens_are_refused() {
        assert_eq!(texts(&json!("a\n\u{e9}")), Ok(vec!["a\n\u{e9}".to_owned()]));
        assert_eq!(texts(&json!(["a", ""])), Ok(vec!["a".to_owned(), String::new()]));
        assert_eq!(texts(&json!([])), Ok(Vec::new()));
        for tokens in [json!([1, 2]), json!([[1, 2], [3]]), json!(["a", [7]])] {
            let message = texts(&tokens).expect_err("token ids");
            assert!(message.contains("check_embedding_ctx_length=False"), "{tokens}: {message}");
        }
        for (odd, words) in [
            (Value::Null, "missing"),
            (json!({}), "must be"),
            (json!(7), "must be"),
            (json!(["a", true]), "'input[1]'"),
            (json!(["a", 7]), "'input[1]'"),
            (json!([7, "a", 7]), "'input[1]' must be a token id"),
            (json!([[1], 1]), "'input[1]'"),
            (json!([[1, -1]]), "'input[0]'"),
            (json!([1.5]), "'input[0]'"),
            (json!([4_294_967_296_u64]), "'input[0]'"),
        ] {
            let message = texts(&odd).expect_err("no texts");
            assert!(message.contains(words), "{odd}: {message}");
        }
    }

    #[test]
    fn token_ids_are_read_and_counted() {
        let service = limited(4, 32);
        let inputs = |value: Value| fields(&service, "inputs", &value).inputs("inputs").map_err(|error| error.kind());
        assert_eq!(inputs(json!([1, 2])), Ok(vec![Input::Ids(vec![1, 2])]));
        let mixed = vec![Input::Ids(vec![1, 2]), Input::Text("a".into()), Input::Ids(vec![])];
        assert_eq!(inputs(json!([[1, 2], "a", []])), Ok(mixed));
        for too_many in
            [json!(vec![0; 9]), json!([[0, 0, 0, 0, 0], [0, 0, 0, 0]]), json!(vec!["a"; 5]), json!(vec![vec![0; 5]; 5])]
        {
            assert_eq!(inputs(too_many), Err(ErrorKind::TooLarge));
        }
    }

    #[test]
    fn dimensions_are_whole_and_above_zero() {
        let service = limited(4, 32);
        let dimensions = |value: Value| fields(&service, "dimensions", &value).dimensions().ok();
        assert_eq!(dimensions(json!(7)), Some(Some(7)));
        assert_eq!(dimensions(Value::Null), Some(None));
        for odd in [json!(0), json!(-1), json!(1.5), json!("7")] {
            assert_eq!(dimensions(odd.clone()), None, "{odd}");
        }
    }

    #[test]
    fn a_body_is_an_object_of_json() {
        let service = limited(4, 32);
        for (body, words) in
            [("[]", "not a JSON object"), ("7", "not a JSON object"), ("{", "not valid JSON"), ("", "not valid")]
        {
            let message = Fields::read(&service, Ok(Bytes::from(body))).err().expect("refused").message().to_owned();
            assert!(message.contains(words), "{body}: {message}");
        }
    }
}

//! What the surfaces for callers without tasks share (OpenAI, Ollama, TEI): a JSON object with texts in it, and texts
//! embedded as they are.
//!
//! These callers use one call for objects and for queries (Weaviate's `text2vec-openai` and `text2vec-ollama` too), so
//! both must get the same vector: no task, hence no prompt and no prefix. The vector is the one of the server's profile, of
//! length 1 as the servers these APIs come from make them (their clients compare by dot product and Euclidean distance):
//! unless the operator, or TEI's `normalize`, says otherwise.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use serde_json::{Map, Value};

use super::{read_body, within_deadline};
use crate::backend::Embedding;
use crate::contract::request::EmbedRequest;
use crate::error::{Error, Result};
use crate::server::{Service, beyond};

/// A request's JSON object, whose fields are taken out one by one. `null` is the same as nothing; unknown fields are
/// ignored, as these APIs do.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads the body, whatever its Content-Type.
    pub fn read(service: &Service, body: Result<Bytes, BytesRejection>) -> Result<Fields> {
        let body = read_body(service, body)?;
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(Error::invalid("the body is not a JSON object")),
            Err(error) => Err(Error::invalid(format!("the body is not valid JSON: {error}"))),
        }
    }

    fn take<T>(&mut self, key: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(&value) {
                Some(value) => Ok(Some(value)),
                None => Err(Error::invalid(format!("'{key}' must be {wanted}"))),
            },
        }
    }

    /// A text.
    pub fn string(&mut self, key: &str) -> Result<Option<String>> {
        self.take(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key, "true or false", Value::as_bool)
    }

    /// `dimensions`: a positive number.
    pub fn dimensions(&mut self) -> Result<Option<usize>> {
        let positive = |value: &Value| value.as_u64().filter(|&number| number > 0);
        let wanted = self.take("dimensions", "a whole number above 0", positive)?;
        Ok(wanted.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    /// One text, or a list of texts. Token ids, which some clients send instead, are refused: they are another model's.
    pub fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let tokens = || {
            Error::invalid(format!(
                "'{key}' has token ids, which mean nothing to this model's tokenizer: send the text"
            ))
        };
        let values = match self.0.remove(key) {
            Some(Value::String(text)) => return Ok(vec![text]),
            Some(Value::Array(values)) => values,
            None | Some(Value::Null) => {
                return Err(Error::invalid(format!("'{key}' is missing: a text or a list of texts")));
            }
            Some(_) => return Err(Error::invalid(format!("'{key}' must be a text or a list of texts"))),
        };
        let is_token =
            |value: &Value| value.is_number() || value.as_array().is_some_and(|ids| ids.iter().all(Value::is_number));
        let text = |(index, value)| match value {
            Value::String(text) => Ok(text),
            value if is_token(&value) => Err(tokens()),
            _ => Err(Error::invalid(format!("'{key}[{index}]' must be a text"))),
        };
        values.into_iter().enumerate().map(text).collect()
    }
}

/// A request without task, prompt and prefix.
pub fn without_task(text: String) -> EmbedRequest {
    EmbedRequest { text, prompt: Some(String::new()), ..EmbedRequest::default() }
}

/// Embeds all texts or none: an error says which text it is about. `dimensions` cuts the vectors and scales them to
/// length 1, and without it `normalize` says whether they are scaled.
pub async fn embed(
    service: &Service,
    headers: &HeaderMap,
    requests: Vec<EmbedRequest>,
    dimensions: Option<usize>,
    normalize: bool,
) -> Result<Vec<Embedding>> {
    if let Some(wanted) = dimensions {
        service.check_dimensions(i64::try_from(wanted).unwrap_or(i64::MAX))?;
    }
    let model = service.backend()?.info().name.clone();
    let only_one = requests.len() == 1;
    let results = within_deadline(headers, service.embed(requests)).await?;
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
pub fn tokens(embeddings: &[Embedding]) -> u64 {
    embeddings.iter().map(|embedding| u64::from(embedding.tokens)).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(value: Value) -> std::result::Result<Vec<String>, String> {
        let mut fields = Fields(Map::from_iter([("input".to_owned(), value)]));
        fields.texts("input").map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_text_and_lists_of_texts_are_read_and_tokens_are_refused() {
        assert_eq!(texts(json!("a")), Ok(vec!["a".to_owned()]));
        assert_eq!(texts(json!(["a", ""])), Ok(vec!["a".to_owned(), String::new()]));
        assert_eq!(texts(json!([])), Ok(Vec::new()));
        for tokens in [json!([1, 2]), json!([[1, 2], [3]]), json!(["a", [7]])] {
            let message = texts(tokens.clone()).expect_err("token ids");
            assert!(message.contains("token ids"), "{tokens}: {message}");
        }
        for (odd, words) in [(Value::Null, "missing"), (json!({}), "must be"), (json!(["a", true]), "'input[1]'")] {
            let message = texts(odd.clone()).expect_err("no texts");
            assert!(message.contains(words), "{odd}: {message}");
        }
    }

    #[test]
    fn dimensions_are_whole_and_above_zero() {
        let dimensions = |value: Value| Fields(Map::from_iter([("dimensions".to_owned(), value)])).dimensions().ok();
        assert_eq!(dimensions(json!(7)), Some(Some(7)));
        assert_eq!(dimensions(Value::Null), Some(None));
        for odd in [json!(0), json!(-1), json!(1.5), json!("7")] {
            assert_eq!(dimensions(odd.clone()), None, "{odd}");
        }
    }
}

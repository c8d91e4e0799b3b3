//! What another server answers to `GET /meta`, or where it says the like: nothing in it is ours, and any of it may be missing
//! or something else.

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What another server says of itself: as it came, and what is understood of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Theirs {
    /// As it came.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
    /// What is understood of it.
    #[serde(skip)]
    pub said: Box<Said>,
}

impl From<Map<String, Value>> for Theirs {
    fn from(fields: Map<String, Value>) -> Self {
        // It cannot fail: what is of a wrong type is as good as missing.
        let said = Said::deserialize(&fields).unwrap_or_default();
        Theirs { fields, said: Box::new(said) }
    }
}

/// What is understood of what another server says. What is of a wrong type is as good as missing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Said {
    /// What a sidecar says of itself.
    #[serde(deserialize_with = "object")]
    pub sidecar: Option<TheirBlock>,
    /// A side of a pair, of a sidecar or of two containers as Weaviate's module merges them.
    #[serde(deserialize_with = "object")]
    pub passage: Option<TheirSide>,
    /// The other side.
    #[serde(deserialize_with = "object")]
    pub query: Option<TheirSide>,
    /// What text-embeddings-inference calls its model.
    #[serde(deserialize_with = "text")]
    pub model_id: Option<String>,
    /// What others call theirs; the reference container has the model's `config.json` there.
    #[serde(deserialize_with = "model")]
    pub model: Option<TheirModel>,
}

/// What stands under `model`.
#[derive(Debug, Clone, PartialEq)]
pub enum TheirModel {
    /// The model's name.
    Name(String),
    /// Its `config.json`.
    Config(TheirConfig),
}

/// What is understood of a model's `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TheirConfig {
    /// Its family.
    #[serde(deserialize_with = "text")]
    pub model_type: Option<String>,
}

/// One of two.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TheirSide {
    /// What a sidecar says of itself there.
    #[serde(deserialize_with = "object")]
    pub sidecar: Option<TheirBlock>,
}

/// What another sidecar says of itself, of any version.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TheirBlock {
    /// The name of its model.
    #[serde(deserialize_with = "text")]
    pub model: Option<String>,
    /// The names of all its models, the default one first.
    #[serde(deserialize_with = "texts")]
    pub models: Vec<String>,
    /// Of the model's vectors.
    #[serde(deserialize_with = "text")]
    pub fingerprint: Option<String>,
    /// By which rules it makes vectors.
    #[serde(deserialize_with = "text")]
    pub profile: Option<String>,
    /// What chose the profile.
    #[serde(deserialize_with = "text")]
    pub profile_chosen_by: Option<String>,
    /// Numbers of the weights.
    #[serde(deserialize_with = "text")]
    pub precision: Option<String>,
    /// To whom it forwards.
    #[serde(deserialize_with = "object")]
    upstream: Option<Box<TheirUpstream>>,
}

/// To whom another sidecar forwards.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct TheirUpstream {
    #[serde(deserialize_with = "object")]
    sidecar: Option<TheirBlock>,
}

impl Said {
    /// `model_type` of the model's `config.json`.
    pub fn model_type(&self) -> Option<&str> {
        match self.model.as_ref()? {
            TheirModel::Config(config) => config.model_type.as_deref(),
            TheirModel::Name(_) => None,
        }
    }

    /// The model's name where only that stands under `model`.
    pub fn model_name(&self) -> Option<&str> {
        match self.model.as_ref()? {
            TheirModel::Name(name) => Some(name),
            TheirModel::Config(_) => None,
        }
    }
}

impl TheirBlock {
    /// What it calls its model, or the first of those that it serves.
    pub fn name(&self) -> Option<&str> {
        self.model.as_deref().or_else(|| self.models.first().map(String::as_str))
    }

    /// The block of the sidecar that computes: this one, or the last that texts are forwarded to.
    pub fn innermost(&self) -> &TheirBlock {
        let mut block = self;
        while let Some(theirs) = block.upstream.as_ref().and_then(|upstream| upstream.sidecar.as_ref()) {
            block = theirs;
        }
        block
    }
}

/// An object; anything else is none.
fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(value: D) -> Result<Option<T>, D::Error> {
    Ok(match Value::deserialize(value)? {
        // Of a list serde would make an object, field by field.
        value @ Value::Object(_) => T::deserialize(value).ok(),
        _ => None,
    })
}

/// A text; anything else is none.
fn text<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(value)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

/// A list's texts.
fn texts<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    let text = |value| match value {
        Value::String(text) => Some(text),
        _ => None,
    };
    Ok(match Value::deserialize(value)? {
        Value::Array(values) => values.into_iter().filter_map(text).collect(),
        _ => Vec::new(),
    })
}

/// A name or an object; anything else is none.
fn model<'de, D: Deserializer<'de>>(value: D) -> Result<Option<TheirModel>, D::Error> {
    Ok(match Value::deserialize(value)? {
        Value::String(name) => Some(TheirModel::Name(name)),
        value @ Value::Object(_) => TheirConfig::deserialize(value).ok().map(TheirModel::Config),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        let fields: Map<String, Value> = serde_json::from_str(text).expect("an object");
        let theirs = Theirs::from(fields.clone());
        assert_eq!(theirs.fields, fields);
        *theirs.said
    }

    #[test]
    fn what_is_of_a_wrong_type_is_as_good_as_missing_and_spoils_nothing_else() {
        for odd in [r#"{"sidecar":[1],"passage":"a","model_id":3,"model":[{}]}"#, r#"{"sidecar":null}"#, "{}"] {
            assert_eq!(said(odd), Said::default(), "{odd}");
        }
        let block = said(
            r#"{"sidecar":{"model":7,"models":["a",1,"b"],"profile":{},"precision":"f16","fingerprint":null,
                "upstream":{"sidecar":"x"},"later":[]},"model_id":"id"}"#,
        );
        assert_eq!(block.model_id.as_deref(), Some("id"));
        let block = block.sidecar.expect("a block");
        assert_eq!((block.models.len(), block.name()), (2, Some("a")));
        assert_eq!((&block.profile, &block.fingerprint, block.precision.as_deref()), (&None, &None, Some("f16")));
        assert_eq!(block.innermost(), &block);
    }

    #[test]
    fn a_model_is_a_name_or_a_config() {
        assert_eq!(said(r#"{"model":"name"}"#).model_name(), Some("name"));
        let config = said(r#"{"model":{"model_type":"bert","vocab_size":3}}"#);
        assert_eq!((config.model_type(), config.model_name()), (Some("bert"), None));
        assert_eq!(said(r#"{"model":{"model_type":3}}"#).model_type(), None);
    }
}

//! What a reranker makes of a query and a document: a logit for each of its labels, and what callers see of them.

use serde_json::{Map, Value};
pub use text2vec_engine::dense::Activation;

use crate::error::{Error, Result};

/// What the numbers of a reranker mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scoring {
    /// The labels, one for each logit.
    pub labels: Vec<String>,
    /// What the model itself does to its logits.
    pub activation: Activation,
}

impl Scoring {
    /// Reads a model's `config.json` as sentence-transformers' `CrossEncoder` does (5.x, and names from before 4.0): of one
    /// label the sigmoid unless it says otherwise, of several the logits.
    ///
    /// # Errors
    /// `Config` for an activation that is not known here.
    pub fn of(config: &Map<String, Value>, labels: usize) -> Result<Scoring> {
        let said = config.get("sentence_transformers").and_then(|said| said.get("activation_fn"));
        let named = said.or_else(|| config.get("sbert_ce_default_activation_function")).and_then(Value::as_str);
        // Others are classes of the model's own, which are never run, there neither.
        if let Some(name) = named.filter(|name| !name.starts_with("torch.")) {
            tracing::warn!("config.json: the activation function '{name}' is the model's own code, which is never run");
        }
        let activation = match named.filter(|name| name.starts_with("torch.")) {
            Some(name) => Activation::find(name).ok_or_else(|| {
                Error::config(format!(
                    "config.json: the activation function '{name}' is not supported: use torch.nn.Sigmoid, Identity, Tanh, \
                     ReLU or SiLU"
                ))
            })?,
            None if labels == 1 => Activation::Sigmoid,
            None => Activation::Identity,
        };
        let names = config.get("id2label").and_then(Value::as_object);
        if let Some(named) = names.filter(|names| names.len() != labels) {
            return Err(Error::config(format!(
                "config.json names {} labels (id2label), but the weights are of {labels}: they belong to different models",
                named.len()
            )));
        }
        let name = |label: usize| {
            let name = names.and_then(|names| names.get(&label.to_string())).and_then(Value::as_str);
            name.map_or_else(|| format!("LABEL_{label}"), str::to_owned)
        };
        Ok(Scoring { labels: (0..labels).map(name).collect(), activation })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scoring(config: &Value, labels: usize) -> Result<Scoring> {
        Scoring::of(config.as_object().expect("an object"), labels)
    }

    #[test]
    fn the_activation_is_that_of_sentence_transformers() {
        for (config, labels, activation) in [
            (json!({}), 1, Activation::Sigmoid),
            (json!({}), 3, Activation::Identity),
            (
                json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
                1,
                Activation::Identity,
            ),
            (
                json!({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}),
                1,
                Activation::Identity,
            ),
            (
                json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
                       "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}),
                3,
                Activation::Sigmoid,
            ),
            (json!({"sentence_transformers": {"version": "5.1.2"}}), 1, Activation::Sigmoid),
            (json!({"sbert_ce_default_activation_function": "mine.Cubed"}), 1, Activation::Sigmoid),
        ] {
            assert_eq!(scoring(&config, labels).expect("a scoring").activation, activation, "{config}");
        }
        let error = scoring(&json!({"sentence_transformers": {"activation_fn": "torch.nn.Softplus"}}), 1);
        assert!(error.expect_err("not known").message().contains("'torch.nn.Softplus'"));
    }

    #[test]
    fn labels_have_the_names_that_the_model_gives_them() {
        let config = json!({"id2label": {"0": "contradiction", "7": "entailment", "2": "neutral"}});
        assert_eq!(scoring(&config, 3).expect("a scoring").labels, ["contradiction", "LABEL_1", "neutral"]);
        let error = scoring(&config, 1).expect_err("three names of one label");
        assert!(error.message().contains("names 3 labels"), "{error}");
    }
}

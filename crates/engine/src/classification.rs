//! What stands behind the encoder of a `*ForSequenceClassification` model: how a sequence's states become one, and the layers
//! from there to a logit for each label. As transformers' classes of these names have it, dropout aside.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::dense::{Activation, Head, Layer, Step};
use crate::error::{Error, Result};
use crate::pooling::PoolingMode;
use crate::weights::Weights;

/// The classifier of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    /// Which state stands for a sequence.
    pub pooling: PoolingMode,
    /// From that state to the logits.
    pub head: Head,
}

/// A step of a family's head, by its tensors.
enum Part {
    /// A linear layer with a bias, and what is done to its outputs. `None`: no bias.
    Dense { name: &'static str, biased: bool, activation: Activation },
    /// A LayerNorm with this epsilon.
    Norm { name: &'static str, biased: bool, epsilon: f32 },
}

/// Whether a model says that it is of such a class.
pub fn is_classifier(config: &Map<String, Value>) -> bool {
    let architectures = config.get("architectures").and_then(Value::as_array);
    let names = architectures.into_iter().flatten().filter_map(Value::as_str);
    names.into_iter().any(|name| name.ends_with("ForSequenceClassification"))
}

impl Classifier {
    /// Reads a model's classifier out of its weight files. Its encoder has states of `width` values.
    ///
    /// # Errors
    /// `Unusable` for a family without such a class here, and for tensors that are missing or do not fit.
    pub fn open(
        (model_type, config): (&str, &Map<String, Value>),
        files: &[PathBuf],
        width: usize,
    ) -> Result<Classifier> {
        let (pooling, parts) = parts(model_type, config)?;
        let mut steps = Vec::with_capacity(parts.len());
        let mut inputs = width;
        for part in parts {
            let step = step(part, files, inputs)?;
            inputs = step.outputs().unwrap_or(inputs);
            steps.push(step);
        }
        Ok(Classifier { pooling, head: Head::of(steps) })
    }

    /// Logits of a text.
    pub fn labels(&self) -> usize {
        self.head.outputs().unwrap_or(0)
    }
}

/// The head of a family: the state that it takes, and its steps.
fn parts(model_type: &str, config: &Map<String, Value>) -> Result<(PoolingMode, Vec<Part>)> {
    let dense = |name, activation| Part::Dense { name, biased: true, activation };
    let logits = |name| dense(name, Activation::Identity);
    let tanh = Activation::Tanh;
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let flag = |key: &str, default: bool| config.get(key).and_then(Value::as_bool).unwrap_or(default);
    let activation = |key: &str| {
        let name = text(key).unwrap_or("gelu");
        Activation::of_transformers(name).ok_or_else(|| {
            Error::unusable(format!("config.json: {key} '{name}' is not supported: gelu, relu, tanh and silu are"))
        })
    };
    let of_state = match model_type {
        "bert" | "new" | "gte" => vec![dense("pooler.dense", tanh), logits("classifier")],
        "albert" => vec![dense("pooler", tanh), logits("classifier")],
        "roberta" | "xlm-roberta" | "camembert" | "mpnet" => {
            vec![dense("classifier.dense", tanh), logits("classifier.out_proj")]
        }
        "electra" => vec![dense("classifier.dense", Activation::Gelu), logits("classifier.out_proj")],
        "distilbert" => vec![dense("pre_classifier", Activation::Relu), logits("classifier")],
        "deberta-v2" => vec![dense("pooler.dense", activation("pooler_hidden_act")?), logits("classifier")],
        "modernbert" => {
            let epsilon = config.get("norm_eps").and_then(Value::as_f64).unwrap_or(1e-5) as f32;
            let pooling = match text("classifier_pooling").unwrap_or("cls") {
                "cls" => PoolingMode::Cls,
                "mean" => PoolingMode::Mean,
                other => {
                    let message = format!("config.json: classifier_pooling '{other}' is not known: use cls or mean");
                    return Err(Error::unusable(message));
                }
            };
            let hidden = Part::Dense {
                name: "head.dense",
                biased: flag("classifier_bias", false),
                activation: activation("classifier_activation")?,
            };
            let norm = Part::Norm { name: "head.norm", biased: flag("norm_bias", false), epsilon };
            return Ok((pooling, vec![hidden, norm, logits("classifier")]));
        }
        "qwen2" | "qwen3" | "llama" | "mistral" => {
            let score = Part::Dense { name: "score", biased: false, activation: Activation::Identity };
            return Ok((PoolingMode::LastToken, vec![score]));
        }
        other => {
            return Err(Error::unusable(format!(
                "a {other} model cannot rerank here: use one of bert, roberta, xlm-roberta, camembert, mpnet, distilbert, \
                 albert, electra, deberta-v2, modernbert, gte, qwen2, qwen3, llama or mistral"
            )));
        }
    };
    Ok((PoolingMode::Cls, of_state))
}

/// Reads a step that takes vectors of `inputs` values.
fn step(part: Part, files: &[PathBuf], inputs: usize) -> Result<Step> {
    let (name, biased) = match part {
        Part::Dense { name, biased, .. } | Part::Norm { name, biased, .. } => (name, biased),
    };
    let anchor = format!("{name}.weight");
    let weights = Weights::open(files, &anchor).map_err(|error| match error.message().contains("has no tensor") {
        true => Error::unusable(format!(
            "{}, which a reranker of this family has: serve its reranker, or this model with --profile transformers for its \
             vectors",
            error.message()
        )),
        false => error,
    })?;
    let (shape, weight) = weights.tensor(&anchor)?;
    let bias = if biased { weights.tensor(&format!("{name}.bias"))? } else { (Vec::new(), Vec::new()) };
    let unfit = |what: &str, shape: &[usize], belongs: String| {
        Error::unusable(format!(
            "the weights do not fit config.json: the tensor '{name}.{what}' has the shape {shape:?} where {belongs}"
        ))
    };
    let outputs = match (&part, &shape[..]) {
        (Part::Dense { .. }, &[outputs, columns]) if columns == inputs && outputs > 0 => outputs,
        (Part::Norm { .. }, &[size]) if size == inputs => size,
        _ => return Err(unfit("weight", &shape, format!("vectors of {inputs} values come in"))),
    };
    if biased && bias.0 != [outputs] {
        return Err(unfit("bias", &bias.0, format!("{outputs} values belong")));
    }
    Ok(match part {
        Part::Dense { activation, .. } => Step::Dense(Layer { weight, inputs, bias: bias.1, activation }),
        Part::Norm { epsilon, .. } => Step::Norm { gamma: weight, beta: bias.1, epsilon },
    })
}

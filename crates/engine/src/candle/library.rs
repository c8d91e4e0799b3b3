//! Families without a description of ours, as candle-transformers has them. They are computed in f32, one text after the
//! other, by operations that keep whole tables of scores: several times slower than what the kernels run.
//!
//! A family is here if its vectors are the reference's, as the goldens of its tiny model show, and if it gives the states of all
//! tokens. Of candle-transformers 0.11, `mistral`, `gemma`, `gemma2` and `llama` give only what is likely to come next, and
//! DeBERTa's convolution is not written.

use std::fmt;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use candle_transformers::models::debertav2;
use serde_json::{Map, Value};

use super::failure::{is_lost, unusable};
use crate::encoder::{Encoder, HiddenStates, TokenBatch};
use crate::error::{Error, Result};
use crate::family::config::Config;
use crate::weights::{Weights, first_line};

/// The most tokens of a text.
pub const LONGEST: usize = 2048;
/// The most scores of a layer: of several tables of so many numbers each, and of indices, the heaviest is 1 GiB.
const MOST_SCORES: usize = 1 << 27;
/// The most rows of DeBERTa's table of distances, each way.
const MOST_DISTANCES: usize = 1 << 15;

/// Whether a family, by its `model_type`, is computed here.
pub fn has(model_type: &str) -> bool {
    model_type == "deberta-v2"
}

/// An encoder of candle-transformers.
pub struct LibraryEncoder {
    model: debertav2::DebertaV2Model,
    device: Device,
    hidden: usize,
    vocabulary: usize,
    types: usize,
    longest: usize,
    /// Whatever is asked of the device fails.
    is_lost: bool,
}

impl LibraryEncoder {
    /// Builds the model that `config.json` describes, of a family that [`has`] names, from weight files.
    ///
    /// # Errors
    /// `Unusable` for a configuration or weights that cannot be used.
    pub fn open(config: &Map<String, Value>, files: &[PathBuf], device: &Device) -> Result<LibraryEncoder> {
        let config = deberta(&Config(config))?;
        let weights = Weights::open(files, "embeddings.word_embeddings.weight")?;
        LibraryEncoder::new(&config, weights, device)
    }

    fn new(config: &debertav2::Config, weights: Weights, device: &Device) -> Result<LibraryEncoder> {
        let tensors = VarBuilder::from_backend(Box::new(Tensors(weights)), DType::F32, device.clone());
        Ok(LibraryEncoder {
            model: debertav2::DebertaV2Model::load(tensors, config).map_err(unusable)?,
            device: device.clone(),
            hidden: config.hidden_size,
            vocabulary: config.vocab_size,
            types: config.type_vocab_size,
            longest: longest(config),
            is_lost: false,
        })
    }

    fn states(&self, ids: &[u32], type_ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        let row = |values: &[u32]| Tensor::new(values, &self.device)?.unsqueeze(0);
        self.model.forward(&row(ids)?, Some(row(type_ids)?), None)?.flatten_all()?.to_vec1()
    }
}

impl Encoder for LibraryEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        batch.check(self.longest, self.vocabulary)?;
        // A row that is not there would end all work on a GPU.
        if let Some(kind) = batch.type_ids().iter().find(|&&kind| self.types > 0 && kind as usize >= self.types) {
            let message = format!("tokenizer.json makes the token type {kind}, but the model knows {}", self.types);
            return Err(Error::unusable(message));
        }
        let mut values = Vec::with_capacity(batch.tokens() * self.hidden);
        for range in batch.ranges().filter(|range| !range.is_empty()) {
            let computed = self.states(&batch.ids()[range.clone()], &batch.type_ids()[range]);
            let states = computed.map_err(|error| {
                self.is_lost |= is_lost(&error);
                Error::internal(format!("the forward pass failed: {}", first_line(&error.to_string())))
            })?;
            values.extend_from_slice(&states);
        }
        Ok(HiddenStates { values, width: self.hidden })
    }

    fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn hidden_size(&self) -> usize {
        self.hidden
    }
}

impl fmt::Debug for LibraryEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LibraryEncoder").field("hidden", &self.hidden).finish_non_exhaustive()
    }
}

/// The most tokens of a text: fewer where a table of scores, of as many columns as there are tokens or distances, would be huge.
fn longest(config: &debertav2::Config) -> usize {
    let distances = match config.position_buckets {
        Some(buckets) => buckets,
        None if config.max_relative_positions < 1 => config.max_position_embeddings as isize,
        None => config.max_relative_positions,
    };
    let columns = if config.relative_attention { 2 * distances.unsigned_abs() } else { 1 };
    let rows = MOST_SCORES / config.num_attention_heads;
    config.max_position_embeddings.min(LONGEST).min(rows.isqrt()).min(rows / columns)
}

/// DeBERTa v2 and v3: positions are distances, of which content and positions see each other. Defaults are those of
/// transformers' configuration class.
fn deberta(config: &Config<'_>) -> Result<debertav2::Config> {
    let refused = |message: String| Err(Error::unusable(format!("config.json: {message}")));
    let hidden_size = config.count("hidden_size", 1536)?;
    let num_attention_heads = config.heads("num_attention_heads", 24)?;
    if !hidden_size.is_multiple_of(num_attention_heads) {
        return refused(format!("num_attention_heads is {num_attention_heads}, which does not divide {hidden_size}"));
    }
    let head = hidden_size / num_attention_heads;
    if config.count("attention_head_size", head)? != head {
        return refused(format!("attention_head_size is not {head}, which is not supported"));
    }
    if config.count_or_none("conv_kernel_size")?.is_some() {
        return refused("conv_kernel_size: a convolution, as in deberta-v2-xlarge, is not supported".to_owned());
    }
    let max_position_embeddings = match config.count("max_position_embeddings", 512)? {
        positions if positions <= MOST_DISTANCES => positions,
        positions => {
            return refused(format!("max_position_embeddings is {positions}, but {MOST_DISTANCES} is the most"));
        }
    };
    // None, where a number is not positive.
    let distances = |key: &str, least: i64| match config.0.get(key).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(number) if number < 1 => Ok(None),
            Some(number) if (least..=MOST_DISTANCES as i64).contains(&number) => Ok(Some(number as isize)),
            _ => Err(Error::unusable(format!("config.json: {key} must be a number from {least} to {MOST_DISTANCES}"))),
        },
    };
    let hidden_act = match config.word("hidden_act", "gelu") {
        "gelu" => debertav2::HiddenAct::Gelu,
        "relu" => debertav2::HiddenAct::Relu,
        other => return refused(format!("the activation '{other}' is not supported for deberta-v2")),
    };
    let pos_att_type = match config.0.get("pos_att_type") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(kinds)) => kinds.split('|').map(|kind| kind.trim().to_lowercase()).collect(),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).map(str::to_lowercase).collect(),
        Some(other) => return refused(format!("pos_att_type must be a list of words, got {other}")),
    };
    if let Some(kind) = pos_att_type.iter().find(|kind| !["c2p", "p2c"].contains(&kind.as_str())) {
        return refused(format!("pos_att_type names '{kind}', which is not supported: c2p and p2c are"));
    }
    let norms_distances =
        config.word("norm_rel_ebd", "none").to_lowercase().split('|').any(|norm| norm.trim() == "layer_norm");
    let (embedding_size, types) =
        (config.count("embedding_size", hidden_size)?, config.count_or_none("type_vocab_size")?.unwrap_or(0));
    if embedding_size != hidden_size && types > 0 {
        return refused("type_vocab_size beside an embedding_size that is not hidden_size is not supported".to_owned());
    }
    let max_relative_positions = distances("max_relative_positions", 2)?.unwrap_or(-1);
    // Halves of it are divided by, and their logarithms.
    let position_buckets = distances("position_buckets", 4)?;
    let furthest = if max_relative_positions < 1 { max_position_embeddings as isize } else { max_relative_positions };
    if let Some(buckets) = position_buckets.filter(|buckets| furthest - 1 <= buckets / 2) {
        return refused(format!("position_buckets is {buckets}, which is too many for distances up to {furthest}"));
    }
    Ok(debertav2::Config {
        vocab_size: config.count("vocab_size", 128_100)?,
        hidden_size,
        num_hidden_layers: config.layers("num_hidden_layers", 24)?,
        num_attention_heads,
        intermediate_size: config.count("intermediate_size", 6144)?,
        hidden_act,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        max_position_embeddings,
        type_vocab_size: types,
        initializer_range: 0.0,
        layer_norm_eps: f64::from(config.epsilon("layer_norm_eps", 1e-7)?),
        relative_attention: config.flag("relative_attention", false)?,
        max_relative_positions,
        pad_token_id: None,
        position_biased_input: config.flag("position_biased_input", true)?,
        pos_att_type,
        position_buckets,
        share_att_key: Some(config.flag("share_att_key", false)?),
        attention_head_size: None,
        embedding_size: Some(embedding_size),
        norm_rel_ebd: Some(if norms_distances { "layer_norm" } else { "none" }.to_owned()),
        conv_kernel_size: None,
        conv_groups: None,
        conv_act: None,
        id2label: None,
        label2id: None,
        pooler_dropout: None,
        pooler_hidden_act: None,
        pooler_hidden_size: None,
        cls_dropout: None,
    })
}

/// Weight files as candle-transformers asks for them.
struct Tensors(Weights);

impl SimpleBackend for Tensors {
    fn get(
        &self,
        expected: candle_core::Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &expected {
            candle_core::bail!(
                "the tensor '{name}' is {:?}, but config.json says {:?}",
                tensor.dims(),
                expected.dims()
            );
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let (shape, values) = self.0.tensor(name).map_err(|error| candle_core::Error::Msg(error.to_string()))?;
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.has(name)
    }
}

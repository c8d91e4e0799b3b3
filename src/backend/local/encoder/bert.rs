//! BERT on Candle: any Candle device. The reference path for other executors.

use candle_core::{Device, Tensor};
use candle_transformers::models::bert::{BertModel, Config};
use serde_json::{Map, Value};

use super::{Encoder, HiddenStates, TokenBatch};
use crate::backend::local::weights::{Weights, first_line};
use crate::error::{Error, Result};

/// A tensor every BERT checkpoint has.
pub const ANCHOR: &str = "embeddings.word_embeddings.weight";

/// BERT's encoder on a Candle device.
pub struct CandleBert {
    model: BertModel,
    device: Device,
    width: usize,
    vocabulary: u32,
}

impl CandleBert {
    /// Builds the encoder from `config.json` and weights without prefix.
    pub fn new(config: &Map<String, Value>, weights: &Weights, device: &Device) -> Result<CandleBert> {
        let config: Config = serde_json::from_value(Value::Object(config.clone()))
            .map_err(|error| Error::config(format!("config.json does not describe a BERT model: {error}")))?;
        let model = BertModel::load(weights.candle(device)?, &config).map_err(|error| {
            Error::config(format!("the weights do not fit config.json: {}", first_line(&error.to_string())))
        })?;
        let (width, vocabulary) = (config.hidden_size, config.vocab_size as u32);
        Ok(CandleBert { model, device: device.clone(), width, vocabulary })
    }

    /// Sequences of one length as one dense tensor: no padding, no mask.
    fn forward_equal(&self, ids: Vec<u32>, type_ids: Vec<u32>, shape: (usize, usize)) -> candle_core::Result<Vec<f32>> {
        let ids = Tensor::from_vec(ids, shape, &self.device)?;
        let type_ids = Tensor::from_vec(type_ids, shape, &self.device)?;
        self.model.forward(&ids, &type_ids, None)?.flatten_all()?.to_vec1()
    }
}

impl Encoder for CandleBert {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        if let Some(id) = batch.ids().iter().find(|&&id| id >= self.vocabulary) {
            return Err(Error::config(format!(
                "tokenizer.json makes the id {id}, but the model knows {}",
                self.vocabulary
            )));
        }
        let ranges: Vec<_> = batch.ranges().collect();
        let mut order: Vec<usize> = (0..ranges.len()).collect();
        order.sort_by_key(|&index| ranges[index].len());
        let mut values = vec![0f32; batch.tokens() * self.width];
        // Padding costs more than it saves on a CPU, and a mask costs exactness: only equal lengths share a tensor.
        for group in order.chunk_by(|&a, &b| ranges[a].len() == ranges[b].len()) {
            let length = ranges[group[0]].len();
            let gather = |source: &[u32]| group.iter().flat_map(|&i| source[ranges[i].clone()].to_vec()).collect();
            let states =
                self.forward_equal(gather(batch.ids()), gather(batch.type_ids()), (group.len(), length)).map_err(
                    |error| Error::internal(format!("the forward pass failed: {}", first_line(&error.to_string()))),
                )?;
            for (rows, &index) in states.chunks_exact(length * self.width).zip(group) {
                values[ranges[index].start * self.width..ranges[index].end * self.width].copy_from_slice(rows);
            }
        }
        Ok(HiddenStates { values, width: self.width })
    }

    fn hidden_size(&self) -> usize {
        self.width
    }
}

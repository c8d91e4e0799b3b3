//! Static embeddings (model2vec's potion models): a table of vectors, one row per token. Pooling makes their mean.
//!
//! As sentence-transformers' `StaticEmbedding` has it, which is what the reference container runs: unknown tokens count
//! (model2vec itself drops them), and a tensor `weights` beside the table is not used.

use std::fmt;
use std::path::PathBuf;

use candle_core::{Device, Tensor};

use crate::candle::failure::unusable;
use crate::encoder::{Encoder, HiddenStates, TokenBatch};
use crate::error::{Error, Result};
use crate::weights::{Weights, first_line};

/// What model2vec and sentence-transformers call the table.
const NAMES: [&str; 2] = ["embeddings", "embedding.weight"];

/// A table of token vectors.
pub struct StaticEncoder {
    table: Table,
    rows: usize,
    width: usize,
}

enum Table {
    Values(Vec<f32>),
    Candle(Tensor),
}

impl StaticEncoder {
    /// Reads the table out of weight files, to keep it as it is or as a Candle tensor.
    ///
    /// # Errors
    /// `Unusable` for files that cannot be read or hold no such table, and for a device that does not take it.
    pub fn open(files: &[PathBuf], device: Option<&Device>) -> Result<StaticEncoder> {
        let (weights, name) = match Weights::open(files, NAMES[0]) {
            Ok(weights) => (weights, NAMES[0]),
            Err(error) => (Weights::open(files, NAMES[1]).map_err(|_| error)?, NAMES[1]),
        };
        if weights.has("mapping") {
            return Err(Error::unusable(
                "this model2vec model has a quantised vocabulary (a tensor 'mapping'), which is not supported: use the \
                 model without vocabulary quantisation",
            ));
        }
        if weights.has("weights") {
            tracing::warn!("the model's token weights are not used, as in sentence-transformers and the reference");
        }
        let (shape, values) = weights.tensor(name)?;
        let &[rows, width] = &shape[..] else {
            return Err(Error::unusable(format!("the tensor '{name}' has the shape {shape:?} where a table belongs")));
        };
        if rows * width == 0 {
            return Err(Error::unusable(format!("the tensor '{name}' is empty")));
        }
        let table = match device {
            None => Table::Values(values),
            Some(device) => Table::Candle(Tensor::from_vec(values, (rows, width), device).map_err(unusable)?),
        };
        Ok(StaticEncoder { table, rows, width })
    }
}

impl Encoder for StaticEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let (rows, width) = (self.rows, self.width);
        if let Some(id) = batch.ids().iter().find(|&&id| id as usize >= rows) {
            return Err(Error::unusable(format!("tokenizer.json makes the id {id}, but the model knows {rows}")));
        }
        let values = match &self.table {
            Table::Values(table) => {
                batch.ids().iter().flat_map(|&id| &table[id as usize * width..][..width]).copied().collect()
            }
            Table::Candle(_) if batch.ids().is_empty() => Vec::new(),
            Table::Candle(table) => {
                let look_up = || {
                    let ids = Tensor::new(batch.ids(), table.device())?;
                    table.index_select(&ids, 0)?.flatten_all()?.to_vec1()
                };
                look_up().map_err(failed)?
            }
        };
        Ok(HiddenStates { values, width })
    }

    fn hidden_size(&self) -> usize {
        self.width
    }
}

fn failed(error: candle_core::Error) -> Error {
    Error::internal(format!("the table of token vectors cannot be used: {}", first_line(&error.to_string())))
}

impl fmt::Debug for StaticEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("StaticEncoder");
        shown.field("rows", &self.rows).field("width", &self.width).finish_non_exhaustive()
    }
}

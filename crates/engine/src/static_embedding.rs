//! Static embeddings (model2vec's potion models): a table of vectors, one row per token. Pooling makes their mean.
//!
//! Two libraries serve such models, and differ ([`Library`]): sentence-transformers' `StaticEmbedding`, which is what the
//! reference container runs, and model2vec itself, which the model2vec container runs.

use std::fmt;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use half::f16;

use crate::candle::failure::unusable;
use crate::encoder::{Encoder, HiddenStates, TokenBatch, pool_states};
use crate::error::{Error, Result};
use crate::pooling::PoolingMode;
use crate::weights::stored::NumberType;
use crate::weights::{Weights, first_line};

/// What model2vec and sentence-transformers call the table.
const NAMES: [&str; 2] = ["embeddings", "embedding.weight"];

/// Whose vectors a table is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// sentence-transformers: a tensor `weights` beside the table is not used, and one `mapping` not known.
    SentenceTransformers,
    /// model2vec: tokens may share rows (`mapping`) and have weights (`weights`); a table of f16 gives vectors of f16, and one
    /// of whole numbers is taken as it is.
    Model2vec,
}

/// A table of token vectors.
pub struct StaticEncoder {
    table: Table,
    rows: usize,
    width: usize,
    /// The row of each token; empty: its own.
    mapping: Vec<u32>,
    /// By what each token's row is multiplied; empty: by nothing.
    weights: Vec<f32>,
    library: Library,
    /// Means are rounded to f16, as numpy does with those of f16.
    half: bool,
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
    pub fn open(files: &[PathBuf], library: Library, device: Option<&Device>) -> Result<StaticEncoder> {
        let (weights, name) = match Weights::open(files, NAMES[0]) {
            Ok(weights) => (weights, NAMES[0]),
            Err(error) => (Weights::open(files, NAMES[1]).map_err(|_| error)?, NAMES[1]),
        };
        let of_model2vec = library == Library::Model2vec;
        if weights.has("mapping") && !of_model2vec {
            return Err(Error::unusable(
                "this model2vec model has a quantised vocabulary (a tensor 'mapping'), which sentence-transformers does not \
                 know: use the profile model2vec",
            ));
        }
        if weights.has("weights") && !of_model2vec {
            tracing::warn!("the model's token weights are not used, as in sentence-transformers and the reference");
        }
        let numbers = weights.number_type(name).cloned();
        let is_whole = numbers.as_ref().is_some_and(NumberType::is_whole);
        if is_whole && !of_model2vec {
            return Err(Error::unusable(format!(
                "the tensor '{name}' is of whole numbers, which sentence-transformers does not know: use the profile model2vec"
            )));
        }
        let (shape, values) = match is_whole {
            true => {
                let (shape, values) = weights.whole_numbers(name)?;
                (shape, values.into_iter().map(|value| value as f32).collect())
            }
            false => weights.tensor(name)?,
        };
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
        let is_half = |name| weights.number_type(name) == Some(&NumberType::F16);
        let half = of_model2vec && is_half(name) && (is_half("weights") || !weights.has("weights"));
        let (mapping, weights) = match of_model2vec {
            true => (mapping(&weights, rows)?, token_weights(&weights)?),
            false => (Vec::new(), Vec::new()),
        };
        if !mapping.is_empty() && !weights.is_empty() && mapping.len() != weights.len() {
            return Err(Error::unusable(format!(
                "the tensors 'mapping' and 'weights' are of {} and {} tokens: the model is damaged, download it again",
                mapping.len(),
                weights.len()
            )));
        }
        Ok(StaticEncoder { table, rows, width, mapping, weights, library, half })
    }

    /// Tokens there are.
    fn tokens(&self) -> usize {
        match (self.mapping.len(), self.weights.len()) {
            (0, 0) => self.rows,
            (0, weights) => weights.min(self.rows),
            (mapped, _) => mapped,
        }
    }

    /// The rows of token ids that there are, one after the other, as the table has them.
    fn look_up(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let rows: Vec<u32> = match self.mapping.is_empty() {
            true => ids.to_vec(),
            false => ids.iter().map(|&id| self.mapping[id as usize]).collect(),
        };
        match &self.table {
            Table::Values(table) => {
                Ok(rows.iter().flat_map(|&row| &table[row as usize * self.width..][..self.width]).copied().collect())
            }
            Table::Candle(_) if rows.is_empty() => Ok(Vec::new()),
            Table::Candle(table) => {
                let look_up =
                    || table.index_select(&Tensor::new(&rows[..], table.device())?, 0)?.flatten_all()?.to_vec1();
                look_up().map_err(failed)
            }
        }
    }
}

/// The row of each token, of a table of so many.
fn mapping(weights: &Weights, rows: usize) -> Result<Vec<u32>> {
    if !weights.has("mapping") {
        return Ok(Vec::new());
    }
    let (shape, mapping) = weights.whole_numbers("mapping")?;
    of_tokens("mapping", &shape)?;
    let row = |row: i64| u32::try_from(row).ok().filter(|&row| (row as usize) < rows);
    let there = mapping.into_iter().map(|value| row(value).ok_or(value)).collect::<std::result::Result<Vec<_>, _>>();
    there.map_err(|row| {
        Error::unusable(format!(
            "the tensor 'mapping' names the row {row} of a table of {rows}: download the model again"
        ))
    })
}

/// By what each token's row is multiplied.
fn token_weights(weights: &Weights) -> Result<Vec<f32>> {
    match weights.has("weights") {
        true => {
            let (shape, values) = weights.tensor("weights")?;
            of_tokens("weights", &shape)?;
            Ok(values)
        }
        false => Ok(Vec::new()),
    }
}

/// Refuses a tensor that has not one number for each token.
fn of_tokens(name: &str, shape: &[usize]) -> Result<()> {
    match shape {
        [_] => Ok(()),
        _ => Err(Error::unusable(format!(
            "the tensor '{name}' has the shape {shape:?} where a number for each token belongs: download the model again"
        ))),
    }
}

impl Encoder for StaticEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let tokens = self.tokens();
        if let Some(id) = batch.ids().iter().find(|&&id| id as usize >= tokens) {
            return Err(Error::unusable(format!("tokenizer.json makes the id {id}, but the model knows {tokens}")));
        }
        let mut values = self.look_up(batch.ids())?;
        if !self.weights.is_empty() {
            for (row, &id) in values.chunks_exact_mut(self.width).zip(batch.ids()) {
                let weighted = |value: f32| value * self.weights[id as usize];
                let rounded = |value: f32| f16::from_f32(weighted(value)).to_f32();
                match self.half {
                    false => row.iter_mut().for_each(|value| *value = weighted(*value)),
                    true => row.iter_mut().for_each(|value| *value = rounded(*value)),
                }
            }
        }
        Ok(HiddenStates { values, width: self.width })
    }

    fn pooled(&mut self, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> Result<Vec<Vec<f32>>> {
        let states = self.forward(batch)?;
        if self.library == Library::SentenceTransformers {
            return Ok(pool_states(&states, batch, modes));
        }
        let mut vectors: Vec<_> = batch.ranges().map(|range| mean_in_f32(states.rows(range), self.width)).collect();
        if self.half {
            vectors.iter_mut().flatten().for_each(|value| *value = f16::from_f32(*value).to_f32());
        }
        Ok(vectors)
    }

    fn hidden_size(&self) -> usize {
        self.width
    }

    fn vocabulary(&self) -> Option<usize> {
        Some(self.tokens())
    }

    fn is_half(&self) -> bool {
        self.half
    }
}

/// The mean of rows as numpy has it: they are added one by one in f32. Without a row it is a vector of zeros.
fn mean_in_f32(rows: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0f32; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let count = (rows.len() / width).max(1) as f32;
    mean.iter_mut().for_each(|sum| *sum /= count);
    mean
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

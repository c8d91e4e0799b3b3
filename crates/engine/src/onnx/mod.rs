//! The reference container's `-onnx` images: a directory with `model_quantized.onnx` instead of f32 weights.
//!
//! The graph is not interpreted: it is recognised as a BERT-like encoder ([`recognise`]), its weights are read
//! ([`reader`]), and the kernels of [`quantized`](text2vec_kernel::quantized) run it. A sequence is always computed alone,
//! as the reference does: its ranges, and so its codes, are its own.

pub mod reader;
pub mod recognise;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::recognise::{Recognised, Rows};
use crate::encoder::{Encoder, HiddenStates, TokenBatch};
use crate::error::{Error, ErrorKind, Result};
use crate::files::unreadable;
use crate::weights::WEIGHT_FILES;
use text2vec_kernel::Kernels;
use text2vec_kernel::quantized::{Arithmetic, QuantizedExecutor, QuantizedShape, QuantizedTransformer};

/// Where a directory keeps a quantised graph, which takes the place of weights.
const PLACES: [&str; 2] = ["model_quantized.onnx", "onnx/model_quantized.onnx"];

/// The quantised graph of a model directory, if it has one.
pub fn graph_file(dir: &Path) -> Option<PathBuf> {
    PLACES.iter().map(|place| dir.join(place)).find(|path| path.is_file())
}

/// Where the reference's image says for which CPUs its graph is.
const MADE_FOR: &str = "onnx_quantization_info";

/// On which architecture the vectors of a directory were computed, as far as it says: the reference's script writes `ARM64` where
/// it is told to quantise for arm64, or told nothing.
///
/// # Errors
/// `Unusable` if the file is there and cannot be read.
pub fn arithmetic(dir: &Path) -> Result<Arithmetic> {
    let path = dir.join(MADE_FOR);
    match std::fs::read(&path) {
        Ok(made_for) if made_for.trim_ascii().eq_ignore_ascii_case(b"arm64") => Ok(Arithmetic::Arm64),
        Ok(_) => Ok(Arithmetic::X86_64),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Arithmetic::X86_64),
        Err(error) => Err(unreadable(&path, error)),
    }
}

/// Whether a quantised graph is all that a directory has of weights.
pub fn is_only_weights(dir: &Path) -> bool {
    let mut others = WEIGHT_FILES.into_iter().flat_map(|(single, index)| [single, index]);
    graph_file(dir).is_some() && !others.any(|name| dir.join(name).exists())
}

/// A quantised encoder, run as ONNX Runtime 1.22 would on one architecture or the other.
#[derive(Debug)]
pub struct OnnxEncoder {
    /// What chooses the rows of each table.
    rows: Vec<Rows>,
    longest: usize,
    executor: QuantizedExecutor,
}

impl OnnxEncoder {
    /// Loads a graph.
    ///
    /// # Errors
    /// `Unusable` for a file that cannot be read or run; it says where the graph differs and what to do instead. `Internal`
    /// if a thread cannot be started.
    pub fn load(path: &Path, kernels: (Kernels, Arithmetic), threads: usize) -> Result<OnnxEncoder> {
        let bytes = std::fs::read(path).map_err(|error| unreadable(path, error))?;
        OnnxEncoder::from_bytes(&bytes, kernels, threads).map_err(|error| refused(path, error))
    }

    /// An encoder from a file's bytes.
    ///
    /// # Errors
    /// `Unusable` for a graph that cannot be run, `Internal` if a thread cannot be started. Neither names the file.
    pub fn from_bytes(bytes: &[u8], kernels: (Kernels, Arithmetic), threads: usize) -> Result<OnnxEncoder> {
        let graph = reader::read(bytes).map_err(Error::unusable)?;
        let found = recognise::recognise(&graph).map_err(Error::unusable)?;
        let Recognised { heads, hidden, intermediate, epsilon, tables, embedding_norm, layers } = &found;
        let shape = QuantizedShape { hidden: *hidden, heads: *heads, intermediate: *intermediate, epsilon: *epsilon };
        let rows: Vec<Rows> = tables.iter().map(|table| table.rows).collect();
        let tables = tables.iter().map(|table| table.read(&graph, *hidden)).collect::<Result<_, _>>();
        let tables = tables.map_err(Error::unusable)?;
        let embedding_norm = embedding_norm.read(&graph).map_err(Error::unusable)?;
        let model = QuantizedTransformer::new(kernels, shape, tables, embedding_norm, layers.len(), |layer| {
            layers[layer].read(&graph, *hidden, *intermediate).map_err(Error::unusable)
        })?;
        let positions = |(table, rows): (usize, &Rows)| match *rows {
            Rows::Positions => Some(model.table_rows(table)),
            Rows::PositionsBehind(padding) => Some(model.table_rows(table).saturating_sub(padding as usize + 1)),
            _ => None,
        };
        let longest = rows.iter().enumerate().find_map(positions).unwrap_or_default();
        Ok(OnnxEncoder { rows, longest, executor: QuantizedExecutor::new(Arc::new(model), threads)? })
    }

    /// The packed weights.
    pub fn model(&self) -> &QuantizedTransformer {
        self.executor.model()
    }

    /// Most tokens of a sequence.
    pub fn longest(&self) -> usize {
        self.longest
    }
}

/// What is said of a file whose graph cannot be run. An error that is not the graph's stays as it is.
fn refused(path: &Path, error: Error) -> Error {
    if error.kind() != ErrorKind::Unusable {
        return error;
    }
    let message = format!(
        "{} cannot be run: {error}. Run are BERT-like encoders exported by optimum with dynamic 8-bit quantisation, one scale \
         per weight, as in the reference container's -onnx images. Otherwise use the model's safetensors with --profile onnx: \
         pooling and limits are the same, but the vectors are the f32 model's, so a collection must be made anew",
        path.display()
    );
    Error::unusable(message).naming(path).caused_by(error)
}

/// Each token's row of a table.
fn table_rows(rows: Rows, ids: &[u32], types: &[u32]) -> Vec<u32> {
    match rows {
        Rows::Tokens => ids.to_vec(),
        Rows::Types => types.to_vec(),
        Rows::First => vec![0; ids.len()],
        Rows::Positions => (0..ids.len() as u32).collect(),
        Rows::PositionsBehind(padding) => {
            let mut last = padding;
            let position = |&id: &u32| {
                if id == padding {
                    return padding;
                }
                last += 1;
                last
            };
            ids.iter().map(position).collect()
        }
    }
}

impl Encoder for OnnxEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let words = self.rows.iter().position(|&rows| rows == Rows::Tokens).unwrap_or_default();
        batch.check(self.longest, self.executor.model().table_rows(words))?;
        let width = self.hidden_size();
        let mut values = Vec::with_capacity(batch.tokens() * width);
        for range in batch.ranges() {
            let (ids, types) = (&batch.ids()[range.clone()], &batch.type_ids()[range]);
            let rows: Vec<Vec<u32>> = self.rows.iter().map(|&rows| table_rows(rows, ids, types)).collect();
            let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            self.executor.forward(&rows, &mut values)?;
        }
        Ok(HiddenStates { values, width })
    }

    fn hidden_size(&self) -> usize {
        self.executor.model().shape().hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_graph_is_the_file_s() {
        let path = Path::new("/models/bge/model_quantized.onnx");
        let error = refused(path, Error::unusable("it has no layers"));
        assert_eq!((error.kind(), error.path()), (ErrorKind::Unusable, Some(path)));
        assert!(
            error.message().starts_with("/models/bge/model_quantized.onnx cannot be run: it has no layers. Run are")
        );
        let internal = Error::internal("cannot start a thread: none left");
        assert_eq!(refused(path, internal.clone()), internal);
        let missing = OnnxEncoder::load(path, (Kernels::detect(), Arithmetic::default()), 1).expect_err("no file");
        assert_eq!((missing.kind(), missing.path()), (ErrorKind::Unusable, Some(path)));
        assert!(std::error::Error::source(&missing).is_some_and(|source| source.is::<std::io::Error>()));
    }
}

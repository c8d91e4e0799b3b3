//! Candle on packed rows: any architecture on a GPU, where it pays to compute many texts at once, or for comparison on the CPU.
//!
//! Linear layers, norms and activations work on `[tokens, hidden]` without padding. Attention works by [`buckets`] of like
//! length. Pooling runs on the device where it can, so that vectors come back and not the states of every token.

use std::time::Instant;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::buckets::{Bucket, buckets};
use crate::device::budget;
use crate::encoder::{Encoder, HiddenStates, TokenBatch, pool_states};
use crate::error::{Error, Result};
use crate::family::architecture::{Architecture, NamedTensor, Parameters};
use crate::pooling::PoolingMode;
use crate::weights::first_line;
use text2vec_kernel::{Activation, Block, Dense, Norm, PositionBias, Precision, Shape};

/// Sequences to try budgets with are no longer than this, even where a model takes any length.
const LONGEST_TRIED: usize = 512;

/// Scores of a bucket. More of them would fill a device, and gain nothing.
const MOST_SCORES: usize = 1 << 28;

/// Elements of a tensor. Candle's kernels count some in 32 bits, and would go astray without a word.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// An encoder on a Candle device.
pub struct CandlePackedEncoder {
    architecture: Architecture,
    device: Device,
    dtype: DType,
    tables: Vec<Tensor>,
    embedding_norm: Option<DeviceNorm>,
    position_bias: Option<PositionBias>,
    blocks: Vec<DeviceBlock>,
    final_norm: Option<DeviceNorm>,
    /// Tokens of a pass, see [`CandlePackedEncoder::set_budget`].
    budget: usize,
}

/// `[inputs, outputs]` and `[outputs]`.
struct DeviceLinear {
    weight: Tensor,
    bias: Option<Tensor>,
}

enum DeviceNorm {
    Layer { gamma: Tensor, beta: Tensor, epsilon: f32 },
    RootMeanSquare { gamma: Tensor, epsilon: f32 },
}

struct DeviceBlock {
    /// Queries (with the scores' factor in them), keys and values of all heads, side by side.
    attention_input: DeviceLinear,
    attention_output: DeviceLinear,
    attention_norm: DeviceNorm,
    up: DeviceLinear,
    gate: Option<DeviceLinear>,
    down: DeviceLinear,
    output_norm: DeviceNorm,
}

/// What attention needs to know of a bucket, on the device.
struct DeviceBucket {
    shape: Bucket,
    /// For each row of `[query, key and value, sequences, heads, longest]` the row of what
    /// [`DeviceBlock::attention_input`] makes, taken as `[tokens, query, key and value, heads]`: rows of a head's size.
    by_head: Tensor,
    /// The way back: for each row of `[tokens, heads]` the row of `[sequences, heads, longest]`.
    by_token: Tensor,
    /// Added to the scores of keys where sequences differ in length: 0, or -∞ for padding. `[sequences, 1, 1, longest]`
    mask: Option<Tensor>,
    /// Added to scores by relative position: `[1, heads, longest, longest]`.
    bias: Option<Tensor>,
}

/// A part of a batch: the packed rows of some sequences, shortest first.
struct Pass {
    /// Row numbers for each table.
    rows: Vec<Tensor>,
    lengths: Vec<usize>,
    buckets: Vec<DeviceBucket>,
}

impl CandlePackedEncoder {
    /// Builds the encoder from named tensors, as [`PackedEncoder::new`](super::packed::PackedEncoder::new) does, with weights
    /// and everything computed in `precision`.
    ///
    /// # Errors
    /// `Config` for weights that do not fit, and for int8, which is for the CPU's kernels.
    pub fn new(
        architecture: &Architecture,
        device: &Device,
        precision: Precision,
        tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
    ) -> Result<CandlePackedEncoder> {
        let dtype = dtype(precision)?;
        let mut parameters = Parameters::new(architecture, tensors);
        let shape = architecture.shape;
        let outer = parameters.outer()?;
        if let Some(bias) = &outer.position_bias {
            bias.check(shape.heads)?;
        }
        let on = Placement { device, dtype };
        let table = |values: Vec<f32>| on.tensor(values, ((), shape.hidden));
        let optional_norm = |norm: Option<Norm>| norm.map(|parameters| on.norm(parameters, shape)).transpose();
        let tables = outer.tables.into_iter().map(table).collect::<CandleResult<_>>().map_err(unusable)?;
        let embedding_norm = optional_norm(outer.embedding_norm).map_err(unusable)?;
        let final_norm = optional_norm(outer.final_norm).map_err(unusable)?;
        let mut blocks = Vec::new();
        for layer in 0..shape.layers {
            blocks.push(on.block(parameters.block(layer)?, shape).map_err(unusable)?);
        }
        Ok(CandlePackedEncoder {
            architecture: architecture.clone(),
            device: device.clone(),
            dtype,
            tables,
            embedding_norm,
            position_bias: outer.position_bias,
            blocks,
            final_norm,
            budget: usize::MAX,
        })
    }

    /// A batch of more tokens is computed in several passes, each of sequences of like length. A longer sequence has a pass
    /// of its own.
    pub fn set_budget(&mut self, tokens: usize) {
        self.budget = tokens.max(1);
    }

    /// Where the encoder is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Sequences with tokens, shortest first, in passes of at most the budget's tokens.
    fn passes(&self, batch: &TokenBatch) -> Vec<Vec<usize>> {
        let lengths = batch.lengths();
        let mut order: Vec<usize> = (0..lengths.len()).filter(|&sequence| lengths[sequence] > 0).collect();
        order.sort_by_key(|&sequence| lengths[sequence]);
        let shape = self.architecture.shape;
        let widest = (3 * shape.attention_width()).max(shape.intermediate).max(shape.hidden);
        let budget = self.budget.min(MOST_ELEMENTS / widest);
        let mut passes: Vec<Vec<usize>> = Vec::new();
        let mut tokens = 0usize;
        for sequence in order {
            tokens = tokens.saturating_add(lengths[sequence]);
            match passes.last_mut() {
                Some(pass) if tokens <= budget => pass.push(sequence),
                _ => {
                    tokens = lengths[sequence];
                    passes.push(vec![sequence]);
                }
            }
        }
        passes
    }

    /// Computes each pass by `run`, which is given its sequences and their packed states. Where the device has no memory for
    /// a pass, it is halved, and so are those to come.
    fn run_passes(
        &mut self,
        batch: &TokenBatch,
        mut run: impl FnMut(&Self, &[usize], &Pass, Tensor) -> CandleResult<()>,
    ) -> Result<()> {
        let rows = self.architecture.rows(batch)?;
        // A row that is not there would not fail on a GPU but end all work on it.
        for (table, rows) in self.architecture.tables.iter().zip(&rows) {
            if let Some(row) = rows.iter().find(|&&row| row as usize >= table.rows) {
                return Err(Error::unusable(format!(
                    "a token's type or position is {row}, but the model's table for it has {} rows: tokenizer.json and \
                     config.json belong to different models",
                    table.rows
                )));
            }
        }
        let shape = self.architecture.shape;
        if let Some(length) = batch.lengths().iter().find(|&length| shape.heads * length * length > MOST_ELEMENTS) {
            return Err(Error::invalid(format!(
                "a sequence of {length} tokens is too long for a GPU: cut texts with --max-tokens, or serve this model with \
                 --device cpu"
            )));
        }
        let ranges: Vec<_> = batch.ranges().collect();
        let mut waiting = self.passes(batch);
        waiting.reverse();
        while let Some(sequences) = waiting.pop() {
            let gather = |source: &[u32]| -> Vec<u32> {
                sequences.iter().flat_map(|&sequence| &source[ranges[sequence].clone()]).copied().collect()
            };
            let lengths: Vec<usize> = sequences.iter().map(|&sequence| ranges[sequence].len()).collect();
            let rows = rows.iter().map(|rows| gather(rows)).collect();
            let computed = self.pass(rows, lengths).and_then(|pass| {
                let states = self.forward_rows(&pass)?;
                run(self, &sequences, &pass, states)
            });
            match computed {
                Ok(()) => {}
                Err(error) if is_out_of_memory(&error) && sequences.len() > 1 => {
                    let tokens: usize = sequences.iter().map(|&sequence| ranges[sequence].len()).sum();
                    self.budget = self.budget.min(tokens.div_ceil(2));
                    tracing::warn!(tokens, "the device has no memory for so many tokens: going on with half as many");
                    let (short, long) = sequences.split_at(sequences.len() / 2);
                    waiting.extend([long.to_vec(), short.to_vec()]);
                }
                Err(error) if is_out_of_memory(&error) => {
                    return Err(Error::internal(format!(
                        "the device has no memory for a sequence of {} tokens",
                        ranges[sequences[0]].len()
                    )));
                }
                Err(error) => {
                    return Err(Error::internal(format!(
                        "the forward pass failed: {}",
                        first_line(&error.to_string())
                    )));
                }
            }
        }
        Ok(())
    }

    /// Sets the budget to what turns out best, in sequences of up to `longest` tokens, and answers with it.
    fn find_budget(&mut self, longest: usize) -> Result<usize> {
        let longest = longest.min(self.architecture.longest()).clamp(1, LONGEST_TRIED);
        let budget = budget::search(|tokens| self.rate(tokens, longest))?;
        self.set_budget(budget);
        Ok(budget)
    }

    /// Returns what batches took that were tried and are larger than any to come.
    fn give_back_memory(&self) {
        #[cfg(feature = "cuda")]
        if let Ok(device) = self.device.as_cuda_device()
            && let Err(error) = crate::device::driver::give_back_memory(device)
        {
            tracing::warn!("the GPU keeps memory that is not needed: {error}");
        }
    }

    /// Tokens a second in a batch of about so many, of short and long sequences; `None` where the device has no memory for it,
    /// or none for as many tokens in the longest sequences only.
    fn rate(&mut self, tokens: usize, longest: usize) -> Result<Option<f64>> {
        let all_long = self.trial(&[longest], tokens)?;
        let mixed = self.trial(&[16, 32, 64, 128, 256, 512].map(|length| longest.min(length)), tokens)?;
        Ok(all_long.and(mixed))
    }

    /// Tokens a second in a batch of about so many, in sequences of these lengths by turns.
    fn trial(&mut self, lengths: &[usize], tokens: usize) -> Result<Option<f64>> {
        let mut batch = TokenBatch::new();
        let vocabulary = self.architecture.tables.first().map_or(1, |table| table.rows.max(1));
        for &length in lengths.iter().cycle() {
            let ids: Vec<u32> = (0..length).map(|at| ((batch.tokens() + at) * 7 % vocabulary) as u32).collect();
            batch.push(&ids, &vec![0; length]);
            if batch.tokens() >= tokens {
                break;
            }
        }
        let modes = vec![&[PoolingMode::Mean][..]; batch.lengths().len()];
        self.budget = usize::MAX;
        // The first time kernels are loaded and memory is taken.
        let mut seconds = 0.0;
        for _ in 0..2 {
            let begun = Instant::now();
            self.pooled(&batch, &modes)?;
            seconds = begun.elapsed().as_secs_f64();
        }
        // Halved: the device had no memory for all of it.
        let fits = self.budget == usize::MAX;
        Ok(fits.then(|| batch.tokens() as f64 / seconds.max(1e-9)))
    }

    /// What a pass needs on the device before it begins.
    fn pass(&self, rows: Vec<Vec<u32>>, lengths: Vec<usize>) -> CandleResult<Pass> {
        let heads = self.architecture.shape.heads;
        let rows = rows.into_iter().map(|rows| Tensor::new(rows, &self.device)).collect::<CandleResult<_>>()?;
        // Those of shorter sequences are a part of it.
        let longest = lengths.last().copied().unwrap_or_default();
        let bias = self.position_bias.as_ref().map(|bias| self.pairs(bias, longest)).transpose()?;
        let parts = Tensor::from_vec((0..3 * heads as u32).collect(), (3, 1, heads, 1), &self.device)?;
        let bucket = |shape: Bucket| -> CandleResult<DeviceBucket> {
            let (sequences, longest) = (shape.sequences.len(), shape.longest);
            let first = shape.padded(&lengths).into_iter().map(|row| row * 3 * heads as u32).collect();
            let first = Tensor::from_vec(first, (1, sequences, 1, longest), &self.device)?;
            let real = Tensor::from_vec(shape.real(&lengths, heads), (shape.rows.len(), 1), &self.device)?;
            let heads = (0..heads).map(|head| (head * longest) as u32).collect();
            let heads = Tensor::from_vec(heads, (1, ()), &self.device)?;
            let mask = || {
                let marks = shape.marks(&lengths, |_| 0.0, f32::NEG_INFINITY);
                Tensor::from_vec(marks, (sequences, 1, 1, longest), &self.device)?.to_dtype(self.dtype)
            };
            Ok(DeviceBucket {
                by_head: first.broadcast_add(&parts)?.flatten_all()?,
                by_token: real.broadcast_add(&heads)?.flatten_all()?,
                mask: (!shape.is_even(&lengths)).then(mask).transpose()?,
                bias: bias.as_ref().map(|bias| bias.narrow(2, 0, longest)?.narrow(3, 0, longest)).transpose()?,
                shape,
            })
        };
        let buckets = buckets(&lengths, MOST_SCORES / heads).into_iter().map(bucket).collect::<CandleResult<_>>()?;
        Ok(Pass { rows, lengths, buckets })
    }

    /// The bias of each pair of tokens, `[1, heads, length, length]`.
    fn pairs(&self, bias: &PositionBias, length: usize) -> CandleResult<Tensor> {
        let heads = self.architecture.shape.heads;
        let distances = Tensor::from_vec(bias.by_distance(heads, length), (heads, ()), &self.device)?;
        let pairs = (0..length).flat_map(|query| (0..length).map(move |key| (length - 1 + key - query) as u32));
        let pairs = Tensor::new(pairs.collect::<Vec<_>>(), &self.device)?;
        distances.to_dtype(self.dtype)?.index_select(&pairs, 1)?.reshape((1, heads, length, length))
    }

    /// The last hidden states of a pass, `[tokens, hidden]`.
    fn forward_rows(&self, pass: &Pass) -> CandleResult<Tensor> {
        let style = self.architecture.shape.style;
        let mut states: Option<Tensor> = None;
        for (table, rows) in self.tables.iter().zip(&pass.rows) {
            let found = table.index_select(rows, 0)?;
            states = Some(match states {
                Some(sum) => (sum + found)?,
                None => found,
            });
        }
        let Some(mut states) = states else { candle_core::bail!("no embedding table") };
        if let Some(norm) = &self.embedding_norm {
            states = norm.forward(&states)?;
        }
        for block in &self.blocks {
            if style.pre_norm {
                let normed = block.attention_norm.forward(&states)?;
                states = (states + self.attend(block, &normed, pass)?)?;
                let normed = block.output_norm.forward(&states)?;
                states = (states + self.feed_forward(block, &normed)?)?;
            } else {
                let sum = (&states + self.attend(block, &states, pass)?)?;
                states = block.attention_norm.forward(&sum)?;
                let sum = (&states + self.feed_forward(block, &states)?)?;
                states = block.output_norm.forward(&sum)?;
            }
        }
        match &self.final_norm {
            Some(norm) => norm.forward(&states),
            None => Ok(states),
        }
    }

    fn attend(&self, block: &DeviceBlock, states: &Tensor, pass: &Pass) -> CandleResult<Tensor> {
        let shape = self.architecture.shape;
        let (heads, size, width) = (shape.heads, shape.head_size(), shape.attention_width());
        let projected = block.attention_input.forward(states)?.reshape(((), size))?;
        let mut contexts = Vec::with_capacity(pass.buckets.len());
        for bucket in &pass.buckets {
            let (sequences, length) = (bucket.shape.sequences.len(), bucket.shape.longest);
            let rows = projected.index_select(&bucket.by_head, 0)?.reshape((3, sequences * heads, length, size))?;
            let (query, key, value) = (rows.get(0)?, rows.get(1)?, rows.get(2)?);
            let mut scores = product(&query, &key.transpose(1, 2)?)?;
            if bucket.bias.is_some() || bucket.mask.is_some() {
                let mut by_head = scores.reshape((sequences, heads, length, length))?;
                for added in [&bucket.bias, &bucket.mask].into_iter().flatten() {
                    by_head = by_head.broadcast_add(added)?;
                }
                scores = by_head.reshape((sequences * heads, length, length))?;
            }
            let context = product(&summing(&scores, candle_nn::ops::softmax_last_dim)?, &value)?;
            let context = context.reshape(((), size))?.index_select(&bucket.by_token, 0)?;
            contexts.push(context.reshape((bucket.shape.rows.len(), width))?);
        }
        let context = match &contexts[..] {
            [context] => context.clone(),
            contexts => Tensor::cat(contexts, 0)?,
        };
        block.attention_output.forward(&context)
    }

    fn feed_forward(&self, block: &DeviceBlock, states: &Tensor) -> CandleResult<Tensor> {
        let up = block.up.forward(states)?;
        let mut between = match self.architecture.shape.activation {
            Activation::Gelu => up.gelu_erf()?,
            Activation::GeluTanh => up.gelu()?,
            Activation::Relu => up.relu()?,
        };
        if let Some(gate) = &block.gate {
            between = (between * gate.forward(states)?)?;
        }
        block.down.forward(&between)
    }

    /// The mean of each sequence's states, in f32, one row per sequence.
    fn means(&self, pass: &Pass, states: &Tensor) -> CandleResult<Tensor> {
        let states = states.to_dtype(DType::F32)?;
        let mean = |bucket: &DeviceBucket| -> CandleResult<Tensor> {
            let shape = &bucket.shape;
            let rows = Tensor::new(shape.padded(&pass.lengths), &self.device)?;
            let rows = states.index_select(&rows, 0)?.reshape((shape.sequences.len(), shape.longest, ()))?;
            let parts = shape.marks(&pass.lengths, |length| 1.0 / length as f32, 0.0);
            let parts = Tensor::from_vec(parts, (shape.sequences.len(), 1, shape.longest), &self.device)?;
            parts.matmul(&rows)?.squeeze(1)
        };
        Tensor::cat(&pass.buckets.iter().map(mean).collect::<CandleResult<Vec<_>>>()?, 0)
    }

    /// The first token's states of each sequence, in f32, one row per sequence.
    fn firsts(&self, pass: &Pass, states: &Tensor) -> CandleResult<Tensor> {
        let firsts = pass.lengths.iter().scan(0u32, |next, &length| {
            let first = *next;
            *next += length as u32;
            Some(first)
        });
        let firsts = Tensor::new(firsts.collect::<Vec<_>>(), &self.device)?;
        states.index_select(&firsts, 0)?.to_dtype(DType::F32)
    }
}

/// Whether it failed for want of memory. Candle has no kind of error for this; the driver's and cuBLAS's names are in its text.
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string();
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|name| text.contains(name))
}

fn dtype(precision: Precision) -> Result<DType> {
    match precision {
        Precision::F32 => Ok(DType::F32),
        Precision::F16 => Ok(DType::F16),
        Precision::Bf16 => Ok(DType::BF16),
        Precision::Bf16x3 | Precision::Int8 => Err(Error::unusable(format!(
            "--precision {precision} is for the CPU's own kernels: on a GPU (and with --engine candle-packed) take f16, bf16 or f32"
        ))),
    }
}

/// A product of matrices, or of as many pairs of them.
fn product(a: &Tensor, b: &Tensor) -> CandleResult<Tensor> {
    match (a.device(), a.dtype()) {
        // Candle multiplies no bf16 on the CPU: in f32, rounded.
        (Device::Cpu, DType::BF16) => a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16),
        _ => a.matmul(b),
    }
}

/// Something that adds up many numbers. Candle does so in f32 on a GPU, whatever the numbers are, but not on the CPU: there in
/// f32 altogether, rounded at the end.
fn summing(rows: &Tensor, compute: impl Fn(&Tensor) -> CandleResult<Tensor>) -> CandleResult<Tensor> {
    match (rows.device(), rows.dtype()) {
        (Device::Cpu, dtype @ (DType::F16 | DType::BF16)) => compute(&rows.to_dtype(DType::F32)?)?.to_dtype(dtype),
        _ => compute(rows),
    }
}

impl DeviceLinear {
    fn forward(&self, rows: &Tensor) -> CandleResult<Tensor> {
        let out = product(rows, &self.weight)?;
        match &self.bias {
            Some(bias) => out.broadcast_add(bias),
            None => Ok(out),
        }
    }
}

impl DeviceNorm {
    fn forward(&self, rows: &Tensor) -> CandleResult<Tensor> {
        summing(rows, |rows| {
            let like = |parameters: &Tensor| parameters.to_dtype(rows.dtype());
            match self {
                DeviceNorm::Layer { gamma, beta, epsilon } => {
                    candle_nn::ops::layer_norm(rows, &like(gamma)?, &like(beta)?, *epsilon)
                }
                DeviceNorm::RootMeanSquare { gamma, epsilon } => {
                    candle_nn::ops::rms_norm(rows, &like(gamma)?, *epsilon)
                }
            }
        })
    }
}

/// Where parameters go, and as which numbers.
struct Placement<'a> {
    device: &'a Device,
    dtype: DType,
}

impl Placement<'_> {
    fn tensor(&self, values: Vec<f32>, shape: impl candle_core::shape::ShapeWithOneHole) -> CandleResult<Tensor> {
        // Rounded here, so that the device never holds them twice.
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(self.device)
    }

    fn linear(&self, dense: Dense, inputs: usize) -> CandleResult<DeviceLinear> {
        let weight = self.tensor(dense.weight, ((), inputs))?.t()?;
        let bias = Some(dense.bias).filter(|bias| !bias.is_empty());
        Ok(DeviceLinear { weight, bias: bias.map(|bias| self.tensor(bias, ((),))).transpose()? })
    }

    fn norm(&self, norm: Norm, shape: Shape) -> CandleResult<DeviceNorm> {
        let (gamma, epsilon) = (self.tensor(norm.gamma, ((),))?, shape.epsilon);
        Ok(match shape.style.rms_norm {
            true => DeviceNorm::RootMeanSquare { gamma, epsilon },
            false => DeviceNorm::Layer { gamma, beta: self.tensor(norm.beta, ((),))?, epsilon },
        })
    }

    fn block(&self, block: Block, shape: Shape) -> CandleResult<DeviceBlock> {
        let Shape { hidden, intermediate, .. } = shape;
        let mut input = block.query;
        if !shape.style.unscaled {
            let factor = 1.0 / (shape.head_size() as f32).sqrt();
            input.weight.iter_mut().chain(&mut input.bias).for_each(|value| *value *= factor);
        }
        for part in [block.key, block.value] {
            input.weight.extend(part.weight);
            input.bias.extend(part.bias);
        }
        Ok(DeviceBlock {
            attention_input: self.linear(input, hidden)?,
            attention_output: self.linear(block.attention_output, shape.attention_width())?,
            attention_norm: self.norm(block.attention_norm, shape)?,
            up: self.linear(block.up, hidden)?,
            gate: block.gate.map(|gate| self.linear(gate, hidden)).transpose()?,
            down: self.linear(block.down, intermediate)?,
            output_norm: self.norm(block.output_norm, shape)?,
        })
    }
}

fn unusable(error: candle_core::Error) -> Error {
    match is_out_of_memory(&error) {
        true => Error::unusable(
            "the GPU has no memory left for this model: stop what else uses it, choose another card with --device cuda:N, \
             or take --precision f16",
        ),
        false => Error::unusable(format!("the weights cannot be used: {}", first_line(&error.to_string()))),
    }
}

impl Encoder for CandlePackedEncoder {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let width = self.hidden_size();
        let ranges: Vec<_> = batch.ranges().collect();
        let mut values = vec![0f32; batch.tokens() * width];
        self.run_passes(batch, |_, sequences, _, states| {
            let states: Vec<f32> = states.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            let mut states = &states[..];
            for &sequence in sequences {
                let (rows, rest) = states.split_at(ranges[sequence].len() * width);
                values[ranges[sequence].start * width..ranges[sequence].end * width].copy_from_slice(rows);
                states = rest;
            }
            Ok(())
        })?;
        Ok(HiddenStates { values, width })
    }

    fn pooled(&mut self, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> Result<Vec<Vec<f32>>> {
        let on_device = |mode: &PoolingMode| matches!(mode, PoolingMode::Mean | PoolingMode::Cls);
        if !modes.iter().copied().flatten().all(on_device) {
            return Ok(pool_states(&self.forward(batch)?, batch, modes));
        }
        let width = self.hidden_size();
        // Of a sequence without tokens, all that is known.
        let mut vectors: Vec<Vec<f32>> = modes.iter().map(|modes| vec![0.0; modes.len() * width]).collect();
        self.run_passes(batch, |encoder, sequences, pass, states| {
            let wanted = |mode| sequences.iter().any(|&sequence| modes[sequence].contains(&mode));
            for mode in [PoolingMode::Mean, PoolingMode::Cls].into_iter().filter(|&mode| wanted(mode)) {
                let pooled = match mode {
                    PoolingMode::Mean => encoder.means(pass, &states)?,
                    _ => encoder.firsts(pass, &states)?,
                };
                for (row, &sequence) in pooled.to_vec2::<f32>()?.iter().zip(sequences) {
                    let places = vectors[sequence].chunks_exact_mut(width).zip(modes[sequence]);
                    places.filter(|&(_, &asked)| asked == mode).for_each(|(place, _)| place.copy_from_slice(row));
                }
            }
            Ok(())
        })?;
        Ok(vectors)
    }

    fn warm_up(&mut self, longest: usize) -> Result<Option<usize>> {
        match self.device {
            Device::Cpu => Ok(None),
            _ => {
                let budget = self.find_budget(longest)?;
                self.give_back_memory();
                Ok(Some(budget))
            }
        }
    }

    fn hidden_size(&self) -> usize {
        self.architecture.shape.hidden
    }
}

#[cfg(test)]
mod tests;

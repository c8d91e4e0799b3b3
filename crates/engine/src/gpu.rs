//! The executor on GPUs: any architecture on our kernels (`crates/gpu`), sequences packed without padding.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use text2vec_gpu::card::{Card, CardError, Number};
use text2vec_gpu::{Pending, Pooled, Pooling, RECORDED_ROWS, Transformer, rounded_rows};
use text2vec_kernel::Precision;

use crate::encoder::{Begun, Encoder, HiddenStates, TokenBatch, pool_states};
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::{NamedTensor, Parameters};
use crate::passes::{Failure, InPasses, LONGEST_TRIED, Part, Passes, failed, find_budget, is_out_of_memory};
use crate::pooling::PoolingMode;

mod memory;

/// Tokens of a pass at most: what a kernel counts of them fits into 32 bits.
const MOST_TOKENS: usize = 1 << 20;

/// Tokens of a single text up to which passes are recorded before the first one comes.
const RECORDED_AT_START: usize = 256;

/// What there may be no memory for once the weights are there.
const BATCH: &str = "even the smallest batch beside this model";

/// What a start may take for the planning of products.
const PLANNING: Duration = Duration::from_secs(3);

/// An encoder on a card.
pub struct GpuEncoder<C: Card> {
    architecture: Architecture,
    transformer: Transformer<C>,
    passes: Passes,
    precision: Precision,
    /// Whatever is asked of the card fails.
    is_lost: Arc<AtomicBool>,
}

impl<C: Card> GpuEncoder<C> {
    /// Builds the encoder from named tensors, as [`PackedEncoder::new`](crate::cpu::PackedEncoder::new) does, with weights and
    /// what is computed in `precision`.
    ///
    /// # Errors
    /// `Unusable` for weights that do not fit, for a card without memory for them, and for int8 and bf16x3, which are for the
    /// CPU's kernels; and what `tensors` says.
    pub fn new(
        architecture: &Architecture,
        card: C,
        precision: Precision,
        tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
    ) -> Result<GpuEncoder<C>> {
        let number = number(precision)?;
        let mut parameters = Parameters::new(architecture, tensors);
        let outer = parameters.outer()?;
        let block = |layer| parameters.block(layer);
        let free = memory::free(&card);
        let refused = |error| unusable(error, "this model", free, precision);
        let transformer = Transformer::new(card, number, architecture.shape, outer, block).map_err(refused)?;
        Ok(GpuEncoder {
            architecture: architecture.clone(),
            transformer,
            passes: Passes::new(MOST_TOKENS),
            precision,
            is_lost: Arc::default(),
        })
    }

    /// A batch of more tokens is computed in several passes, each of sequences of like length. A longer sequence has a pass of
    /// its own.
    pub fn set_budget(&mut self, tokens: usize) {
        self.passes.budget = tokens.max(1);
    }

    /// What it computes on.
    pub fn card(&self) -> &C {
        self.transformer.card()
    }

    fn run(
        &mut self,
        batch: &TokenBatch,
        mut run: impl FnMut(&mut Transformer<C>, &Part<'_>) -> text2vec_gpu::Result<()>,
    ) -> Result<()> {
        let (transformer, is_lost) = (&mut self.transformer, &self.is_lost);
        self.passes
            .run(&self.architecture, batch, |part| run(transformer, part).map_err(|error| failure(error, is_lost)))
    }

    /// Sets the budget to what turns out best, in sequences of up to `longest` tokens, and answers with it.
    fn find_budget(&mut self, longest: usize) -> Result<usize> {
        let budget = find_budget(self, longest)?;
        // What larger batches took that were tried.
        self.transformer.give_back();
        if let Err(error) = self.transformer.reserve(budget) {
            return Err(unusable(error, BATCH, memory::free(self.card()), self.precision));
        }
        if let Err(error) = self.card().give_back_unused() {
            tracing::warn!("the GPU keeps memory that is not needed: {error}");
        }
        Ok(budget)
    }

    /// So that the first text finds them recorded: one comes by itself, of any length, and a length is recorded the second time.
    fn record_single_texts(&mut self, longest: usize) -> Result<()> {
        let longest = longest.min(self.architecture.longest());
        for length in (16..=RECORDED_AT_START).step_by(16).filter(|&length| length <= longest) {
            let mut batch = TokenBatch::new();
            batch.push(&vec![0; length], &vec![0; length]);
            for mode in [PoolingMode::Mean, PoolingMode::Cls, PoolingMode::LastToken] {
                self.pooled(&batch, &[&[mode]])?;
                self.pooled(&batch, &[&[mode]])?;
            }
        }
        Ok(())
    }

    /// So that no caller waits while the fastest algorithm is found for a product of as many rows as its pass has: a pass of
    /// each size that products are planned for, from the smallest up, for as long as a start may take for it.
    fn plan_products(&mut self, longest: usize, budget: usize) -> Result<()> {
        let begun = Instant::now();
        let longest = longest.min(self.architecture.longest()).clamp(1, LONGEST_TRIED);
        let mut tokens = rounded_rows(RECORDED_ROWS + 1);
        while tokens <= budget && begun.elapsed() < PLANNING {
            let lengths = (0..tokens).step_by(longest).map(|at| longest.min(tokens - at));
            let mut batch = TokenBatch::new();
            lengths.for_each(|length| batch.push(&vec![0; length], &vec![0; length]));
            self.pooled(&batch, &vec![&[PoolingMode::Mean][..]; batch.lengths().len()])?;
            tokens = rounded_rows(tokens + 1);
        }
        if tokens <= budget {
            tracing::debug!(tokens, "larger passes are planned when they come");
        }
        Ok(())
    }

    /// What a start computes.
    fn try_out(&mut self, longest: usize) -> Result<usize> {
        let budget = self.find_budget(longest);
        let tried = budget.and_then(|budget| {
            self.plan_products(longest, budget)?;
            self.record_single_texts(longest)?;
            Ok(budget)
        });
        tried.map_err(|error| {
            if !is_out_of_memory(&error) {
                return error;
            }
            self.transformer.give_back();
            memory::refused(BATCH, memory::free(self.card()), self.precision)
        })
    }
}

impl<C: Card> Encoder for GpuEncoder<C> {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        let width = self.hidden_size();
        let mut values = vec![0f32; batch.tokens() * width];
        self.run(batch, |transformer, part| {
            part.scatter(&transformer.states(&part.rows, &part.lengths)?, width, &mut values);
            Ok(())
        })?;
        Ok(HiddenStates { values, width })
    }

    fn pooled(&mut self, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> Result<Vec<Vec<f32>>> {
        if modes.iter().copied().flatten().any(|&mode| on_card(mode).is_none()) {
            return Ok(pool_states(&self.forward(batch)?, batch, modes));
        }
        let width = self.hidden_size();
        let mut vectors = nothing(modes, width);
        self.run(batch, |transformer, part| {
            let wanted = wanted(part.sequences, modes);
            let pooled = transformer.pooled(&part.rows, &part.lengths, wanted)?;
            place(&pooled, part.sequences, modes, width, &mut vectors);
            Ok(())
        })?;
        Ok(vectors)
    }

    fn begin(&mut self, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> Result<Option<Box<dyn Begun>>> {
        // Before anything is computed for it: most batches of a few texts are not begun.
        let may_begin = self.transformer.may_begin(batch.tokens());
        if !may_begin || modes.iter().copied().flatten().any(|&mode| on_card(mode).is_none()) {
            return Ok(None);
        }
        let mut passes = self.passes.cut(batch);
        let (Some(sequences), true) = (passes.pop(), passes.is_empty()) else { return Ok(None) };
        let rows = Passes::rows(&self.architecture, batch)?;
        let ranges: Vec<_> = batch.ranges().collect();
        let part = Part::of(&sequences, &rows, &ranges);
        match self.transformer.begin(&part.rows, &part.lengths, wanted(&sequences, modes)) {
            Ok(pending) => Ok(pending.map(|pending| {
                let (width, is_lost) = (self.hidden_size(), self.is_lost.clone());
                Box::new(Pass { pending, sequences, width, is_lost }) as Box<dyn Begun>
            })),
            Err(error) => match failure(error, &self.is_lost) {
                // In smaller passes it may have it.
                Failure::OutOfMemory => Ok(None),
                Failure::Other(reason) => Err(failed(&reason)),
            },
        }
    }

    fn warm_up(&mut self, longest: usize) -> Result<Option<usize>> {
        if self.card().is_parallel() { self.try_out(longest).map(Some) } else { Ok(None) }
    }

    fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    fn hidden_size(&self) -> usize {
        self.architecture.shape.hidden
    }
}

/// A batch that is one pass.
struct Pass<C: Card> {
    pending: Pending<C>,
    /// Which of the batch it has.
    sequences: Vec<usize>,
    width: usize,
    is_lost: Arc<AtomicBool>,
}

impl<C: Card> Begun for Pass<C> {
    fn finish(self: Box<Self>, modes: &[&[PoolingMode]]) -> Result<Vec<Vec<f32>>> {
        let Pass { pending, sequences, width, is_lost } = *self;
        let pooled = pending.finish().map_err(|error| match failure(error, &is_lost) {
            Failure::OutOfMemory => failed("no memory was left for it"),
            Failure::Other(reason) => failed(&reason),
        })?;
        let mut vectors = nothing(modes, width);
        place(&pooled, &sequences, modes, width, &mut vectors);
        Ok(vectors)
    }
}

/// Vectors of sequences of which nothing is known, as of those without tokens.
fn nothing(modes: &[&[PoolingMode]], width: usize) -> Vec<Vec<f32>> {
    modes.iter().map(|modes| vec![0.0; modes.len() * width]).collect()
}

/// The poolings that some of these sequences are asked for.
fn wanted(sequences: &[usize], modes: &[&[PoolingMode]]) -> [bool; 3] {
    Pooling::ALL.map(|pooling| {
        sequences.iter().any(|&sequence| modes[sequence].iter().any(|&mode| on_card(mode) == Some(pooling)))
    })
}

/// Puts the vectors of a pass, whose sequences these are, to those of its batch.
fn place(pooled: &Pooled, sequences: &[usize], modes: &[&[PoolingMode]], width: usize, vectors: &mut [Vec<f32>]) {
    for (place, &sequence) in sequences.iter().enumerate() {
        for (to, &mode) in vectors[sequence].chunks_exact_mut(width).zip(modes[sequence]) {
            if let Some(vector) = on_card(mode).and_then(|pooling| pooled.vector(pooling, place)) {
                to.copy_from_slice(vector);
            }
        }
    }
}

impl<C: Card> InPasses for GpuEncoder<C> {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn passes(&mut self) -> &mut Passes {
        &mut self.passes
    }
}

/// What the card does itself of this pooling.
fn on_card(mode: PoolingMode) -> Option<Pooling> {
    match mode {
        PoolingMode::Mean => Some(Pooling::Mean),
        PoolingMode::Cls => Some(Pooling::First),
        PoolingMode::LastToken => Some(Pooling::Last),
        _ => None,
    }
}

fn number(precision: Precision) -> Result<Number> {
    match precision {
        Precision::F32 => Ok(Number::F32),
        Precision::F16 => Ok(Number::F16),
        Precision::Bf16 => Ok(Number::Bf16),
        Precision::Bf16x3 | Precision::Int8 => Err(Error::unusable(format!(
            "--precision {precision} is for the CPU's own kernels: on a GPU take f16, bf16 or f32"
        ))),
    }
}

fn failure(error: text2vec_gpu::Error, is_lost: &AtomicBool) -> Failure {
    if matches!(error, text2vec_gpu::Error::Card(CardError::Lost(_))) {
        is_lost.store(true, Ordering::Release);
    }
    match error {
        text2vec_gpu::Error::Card(CardError::OutOfMemory) => Failure::OutOfMemory,
        text2vec_gpu::Error::Card(CardError::Lost(reason) | CardError::Failed(reason)) => Failure::Other(reason),
        text2vec_gpu::Error::Model(error) => Failure::Other(error.to_string()),
    }
}

/// What there is no memory for, and what to do; or what cannot be loaded.
fn unusable(error: text2vec_gpu::Error, what: &str, free: memory::Free, precision: Precision) -> Error {
    match error {
        text2vec_gpu::Error::Card(CardError::OutOfMemory) => memory::refused(what, free, precision),
        text2vec_gpu::Error::Card(CardError::Lost(reason) | CardError::Failed(reason)) => {
            Error::unusable(format!("the GPU cannot be used for {what}: {reason}"))
        }
        text2vec_gpu::Error::Model(error) => error,
    }
}

impl<C: Card> fmt::Debug for GpuEncoder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("GpuEncoder");
        shown.field("transformer", &self.transformer).field("passes", &self.passes).finish_non_exhaustive()
    }
}

#[cfg(all(test, any(feature = "emulated", feature = "cuda")))]
mod checks;
#[cfg(all(test, feature = "cuda"))]
mod on_a_card;
#[cfg(all(test, feature = "emulated"))]
mod tests;

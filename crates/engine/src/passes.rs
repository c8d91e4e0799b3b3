//! A batch in passes, for devices that compute many tokens at once: how many, and what is done where they are too many.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::device::budget;
use crate::encoder::{Encoder, TokenBatch};
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::pooling::PoolingMode;

/// Sequences to try budgets with are no longer than this, even where a model takes any length.
pub(crate) const LONGEST_TRIED: usize = 512;

/// How often a budget is measured at most, and how long it takes to be measured well.
const MEASURED: usize = 3;
const ENOUGH: Duration = Duration::from_millis(20);

/// Why a pass was not computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The device has no memory for so many tokens.
    OutOfMemory,
    /// Anything else, in a line.
    Other(String),
}

/// Underneath an error that says that the device has no memory for a sequence, or for the smallest batch.
#[derive(Debug)]
struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl std::error::Error for OutOfMemory {}

/// Whether it is such an error.
pub(crate) fn is_out_of_memory(error: &Error) -> bool {
    error.cause().is_some_and(|cause| cause.is::<OutOfMemory>())
}

/// Some sequences of a batch.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    /// Which of the batch they are, shortest first.
    pub(crate) sequences: &'a [usize],
    /// For each embedding table the row of each of their tokens.
    pub(crate) rows: Vec<Vec<u32>>,
    /// Their lengths, none of which is 0.
    pub(crate) lengths: Vec<usize>,
    /// Where each sequence of the batch has its rows.
    ranges: &'a [Range<usize>],
}

impl<'a> Part<'a> {
    /// These of a batch that has these rows and ranges.
    pub(crate) fn of(sequences: &'a [usize], rows: &[Cow<'_, [u32]>], ranges: &'a [Range<usize>]) -> Part<'a> {
        let gather = |source: &Cow<'_, [u32]>| -> Vec<u32> {
            sequences.iter().flat_map(|&sequence| &source[ranges[sequence].clone()]).copied().collect()
        };
        let lengths = sequences.iter().map(|&sequence| ranges[sequence].len()).collect();
        Part { sequences, rows: rows.iter().map(gather).collect(), lengths, ranges }
    }

    /// Copies their states, which are packed in their order, to where the batch has them.
    pub(crate) fn scatter(&self, states: &[f32], width: usize, all: &mut [f32]) {
        let mut states = states;
        for range in self.sequences.iter().map(|&sequence| &self.ranges[sequence]) {
            let (rows, rest) = states.split_at(range.len() * width);
            all[range.start * width..range.end * width].copy_from_slice(rows);
            states = rest;
        }
    }
}

/// How a batch is computed in passes.
#[derive(Debug)]
pub(crate) struct Passes {
    /// Tokens of a pass: of sequences of like length; a longer one has a pass of its own.
    pub(crate) budget: usize,
    /// Tokens that the device can count in a pass.
    pub(crate) most: usize,
}

impl Passes {
    /// Of any number of tokens, up to the most that the device can count.
    pub(crate) fn new(most: usize) -> Passes {
        Passes { budget: usize::MAX, most }
    }

    /// Sequences with tokens, shortest first, in passes of at most the budget's tokens.
    pub(crate) fn cut(&self, batch: &TokenBatch) -> Vec<Vec<usize>> {
        let lengths = batch.lengths();
        let mut order: Vec<usize> = (0..lengths.len()).filter(|&sequence| lengths[sequence] > 0).collect();
        order.sort_by_key(|&sequence| lengths[sequence]);
        let budget = self.budget.min(self.most);
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

    /// For each embedding table the row of each token.
    ///
    /// # Errors
    /// `Invalid` and `Unusable` for sequences that the model cannot take.
    pub(crate) fn rows<'b>(architecture: &Architecture, batch: &'b TokenBatch) -> Result<Vec<Cow<'b, [u32]>>> {
        let rows = architecture.rows(batch)?;
        // A row that is not there would not fail on a GPU but end all work on it.
        for (table, rows) in architecture.tables.iter().zip(&rows) {
            if let Some(row) = rows.iter().find(|&&row| row as usize >= table.rows) {
                return Err(Error::unusable(format!(
                    "a token's type or position is {row}, but the model's table for it has {} rows: tokenizer.json and \
                     config.json belong to different models",
                    table.rows
                )));
            }
        }
        Ok(rows)
    }

    /// Computes each pass by `run`. Where the device has no memory for a pass, it is halved, and so are those to come.
    ///
    /// # Errors
    /// `Invalid` and `Unusable` for sequences that the model cannot take, `Internal` for what fails.
    pub(crate) fn run(
        &mut self,
        architecture: &Architecture,
        batch: &TokenBatch,
        mut run: impl FnMut(&Part<'_>) -> std::result::Result<(), Failure>,
    ) -> Result<()> {
        let rows = Passes::rows(architecture, batch)?;
        let ranges: Vec<_> = batch.ranges().collect();
        let mut waiting = self.cut(batch);
        waiting.reverse();
        while let Some(sequences) = waiting.pop() {
            let part = Part::of(&sequences, &rows, &ranges);
            let tokens: usize = part.lengths.iter().sum();
            match run(&part) {
                Ok(()) => {}
                Err(Failure::OutOfMemory) if sequences.len() > 1 => {
                    self.budget = self.budget.min(tokens.div_ceil(2));
                    tracing::warn!(tokens, "the device has no memory for so many tokens: going on with half as many");
                    let (short, long) = sequences.split_at(sequences.len() / 2);
                    waiting.extend([long.to_vec(), short.to_vec()]);
                }
                Err(Failure::OutOfMemory) => {
                    return Err(Error::internal(format!(
                        "the device has no memory for a sequence of {tokens} tokens: stop what else uses it, or send \
                         shorter texts"
                    ))
                    .caused_by(OutOfMemory));
                }
                Err(Failure::Other(reason)) => return Err(failed(&reason)),
            }
        }
        Ok(())
    }
}

/// A pass failed.
pub(crate) fn failed(reason: &str) -> Error {
    Error::internal(format!("the forward pass failed: {reason}"))
}

/// An encoder that computes in passes.
pub(crate) trait InPasses: Encoder {
    fn architecture(&self) -> &Architecture;
    fn passes(&mut self) -> &mut Passes;
}

/// Sets the budget to what turns out best for an encoder, in sequences of up to `longest` tokens, and answers with it.
///
/// # Errors
/// As [`budget::search`]; [`is_out_of_memory`] knows where not even the smallest batch fits.
pub(crate) fn find_budget(encoder: &mut impl InPasses, longest: usize) -> Result<usize> {
    let architecture = encoder.architecture();
    let longest = longest.min(architecture.longest()).clamp(1, LONGEST_TRIED);
    let vocabulary = architecture.tables.first().map_or(1, |table| table.rows.max(1));
    // Tokens a second in a batch of about so many, in sequences of these lengths by turns.
    let mut trial = |lengths: &[usize], tokens: usize| -> Result<Option<f64>> {
        let mut batch = TokenBatch::new();
        for &length in lengths.iter().cycle() {
            let ids: Vec<u32> = (0..length).map(|at| ((batch.tokens() + at) * 7 % vocabulary) as u32).collect();
            batch.push(&ids, &vec![0; length]);
            if batch.tokens() >= tokens {
                break;
            }
        }
        // The first time kernels are loaded and memory is taken; of the others the shortest counts, as nothing else went on then.
        let (mut shortest, mut left, mut measured) = (Duration::MAX, usize::MAX, Duration::ZERO);
        for time in 0..=MEASURED {
            let begun = Instant::now();
            encoder.passes().budget = usize::MAX;
            match encoder.pooled(&batch, &vec![&[PoolingMode::Mean][..]; batch.lengths().len()]) {
                Ok(_) => {}
                Err(error) if is_out_of_memory(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
            // Smaller, where the device had no memory for all of it.
            left = left.min(encoder.passes().budget);
            if time > 0 {
                shortest = shortest.min(begun.elapsed());
                measured += begun.elapsed();
            }
            if measured >= ENOUGH {
                break;
            }
        }
        let seconds = shortest.as_secs_f64();
        Ok((left == usize::MAX).then(|| batch.tokens() as f64 / seconds.max(1e-9)))
    };
    // Of short and long sequences; there must be memory for as many tokens in the longest only.
    let mut fits = true;
    let found = budget::search(|tokens| {
        let all_long = trial(&[longest], tokens)?;
        let mixed = trial(&[16, 32, 64, 128, 256, 512].map(|length| longest.min(length)), tokens)?;
        fits = all_long.is_some() && mixed.is_some();
        Ok(all_long.and(mixed))
    });
    let budget = found.map_err(|error| if fits { error } else { error.caused_by(OutOfMemory) })?;
    encoder.passes().budget = budget;
    Ok(budget)
}

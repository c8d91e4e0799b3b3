//! Passes of one encoder, with threads and memory of their own.

use std::fmt;
use std::sync::Arc;

use super::memory::{Scratch, row_stride};
use super::model::Transformer;
use super::pass::Pass;
use super::way::{Schedule, Way};
use crate::error::{Error, Result};
use crate::memory::AlignedBuffer;
use crate::team::{Member, Team};
use crate::unit::Unit;

/// Which of a sequence's tokens is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The first.
    First,
    /// The last.
    Last,
}

/// Runs a [`Transformer`] with threads and scratch memory of its own.
pub struct Executor {
    model: Arc<Transformer>,
    team: Team,
    scratch: Scratch,
    /// The model's position bias for sequences of up to that many tokens.
    distances: (Arc<Vec<f32>>, usize),
    /// The cosines and sines of the model's rotaries for sequences of up to that many tokens.
    rotations: (Vec<Arc<Vec<f32>>>, usize),
}

impl Executor {
    /// An executor with `threads` threads, the caller's included.
    ///
    /// # Errors
    /// `Internal` if a thread cannot be started.
    pub fn new(model: Arc<Transformer>, threads: usize) -> Result<Executor> {
        let team = Team::new(threads)?;
        let members = (0..team.size()).map(|_| AlignedBuffer::default()).collect();
        let scratch = Scratch { members, ..Scratch::default() };
        Ok(Executor { model, team, scratch, distances: (Arc::default(), 0), rotations: (Vec::new(), 0) })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Transformer> {
        &self.model
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.team.size()
    }

    /// The states `[sequences, hidden]` of one token of each sequence: what [`Executor::forward`] has for it, in less time, as
    /// the others are not computed behind the last attention, nor, in f32 without a rotary or a norm of heads, keys and values
    /// for that one. There the sums have another order; otherwise the bits are the same. No sequence is empty.
    ///
    /// # Errors
    /// As [`Executor::forward`], and `Internal` for an empty sequence.
    pub fn forward_picked(&mut self, rows: &[&[u32]], lengths: &[usize], pick: Pick) -> Result<Vec<f32>> {
        if lengths.contains(&0) {
            return Err(Error::internal("a sequence without tokens has none to pick"));
        }
        self.of_both_kinds(rows, lengths, Some(pick))
    }

    /// Hidden states `[tokens, hidden]` of packed sequences with the given lengths. `rows` has, for each embedding
    /// table, the row of each token.
    ///
    /// # Errors
    /// `Invalid` for an index beyond its table. `Internal` if there is not one row of every table per token, and if a
    /// thread panics.
    pub fn forward(&mut self, rows: &[&[u32]], lengths: &[usize]) -> Result<Vec<f32>> {
        self.of_both_kinds(rows, lengths, None)
    }

    /// The states of sequences that may have to be computed in two ways: of all tokens, or of one of each.
    fn of_both_kinds(&mut self, rows: &[&[u32]], lengths: &[usize], pick: Option<Pick>) -> Result<Vec<f32>> {
        let model = Arc::clone(&self.model);
        let hidden = model.shape.hidden;
        let tokens = lengths.iter().sum::<usize>();
        if rows.len() != model.tables.len() || rows.iter().any(|rows| rows.len() != tokens) {
            return Err(Error::internal("one row of every embedding table per token is needed"));
        }
        for (index, rows) in rows.iter().enumerate() {
            let count = model.table_rows(index);
            if let Some(row) = rows.iter().find(|&&row| row as usize >= count) {
                return Err(Error::invalid(format!("row {row} of an embedding table with {count} rows")));
            }
        }
        let is_short = |&length: &usize| model.is_short(length);
        if !lengths.iter().any(is_short) || lengths.iter().all(is_short) {
            let unit = model.unit().filter(|_| !lengths.iter().any(is_short));
            return self.pass(rows.iter().map(|rows| rows.to_vec()).collect(), lengths, (unit, pick));
        }
        // Those of each kind together, and back to their places.
        let rows_of = |length: usize| if pick.is_some() { 1 } else { length };
        let mut states = vec![0f32; lengths.iter().map(|&length| rows_of(length)).sum::<usize>() * hidden];
        for (unit, short) in [(None, true), (model.unit(), false)] {
            let starts = lengths.iter().scan((0, 0), |(end, state), &length| {
                *end += length;
                *state += rows_of(length);
                Some((*end - length..*end, *state - rows_of(length)))
            });
            let ranges: Vec<_> = starts.filter(|(range, _)| model.is_short(range.len()) == short).collect();
            let of_kind = |rows: &&[u32]| ranges.iter().flat_map(|(range, _)| &rows[range.clone()]).copied().collect();
            let lengths: Vec<_> = ranges.iter().map(|(range, _)| range.len()).collect();
            let part = self.pass(rows.iter().map(of_kind).collect(), &lengths, (unit, pick))?;
            let mut part = &part[..];
            for (range, state) in ranges {
                let (first, rest) = part.split_at(rows_of(range.len()) * hidden);
                states[state * hidden..][..first.len()].copy_from_slice(first);
                part = rest;
            }
        }
        Ok(states)
    }

    /// Hidden states of sequences that are computed in the same way: on a unit or by vectors.
    fn pass(
        &mut self,
        rows: Vec<Vec<u32>>,
        lengths: &[usize],
        (unit, pick): (Option<Unit>, Option<Pick>),
    ) -> Result<Vec<f32>> {
        let model = Arc::clone(&self.model);
        let hidden = model.shape.hidden;
        let tokens = lengths.iter().sum::<usize>();
        if tokens == 0 {
            return Ok(Vec::new());
        }
        let way = Way::new(&model, unit);
        let schedule = match model.has_experts() {
            // Which rows an expert has is known to the member that has the rows.
            true => Schedule::Rows,
            false => Schedule::for_rows(tokens, self.team.size(), way.few_rows),
        };
        let sequences: Vec<_> = lengths
            .iter()
            .scan(0, |start, &length| {
                *start += length;
                Some(*start - length..*start)
            })
            .collect();
        let picked: Vec<usize> = match pick {
            None => Vec::new(),
            Some(Pick::First) => sequences.iter().map(|sequence| sequence.start).collect(),
            Some(Pick::Last) => sequences.iter().map(|sequence| sequence.end - 1).collect(),
        };
        let wanted = if pick.is_some() { picked.len() } else { tokens };
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if let Some(bias) = &model.position_bias
            && longest > self.distances.1
        {
            // Room to grow, so that slowly growing lengths do not rebuild it each time.
            let longest = longest.next_power_of_two();
            self.distances = (Arc::new(bias.by_distance(model.shape.heads, longest)), longest);
        }
        let distances = self.distances.clone();
        let mut positions = Vec::new();
        if !model.rotaries.is_empty() {
            if longest > self.rotations.1 {
                let longest = longest.next_power_of_two();
                let tables = model.rotaries.iter().map(|rotary| Arc::new(rotary.table(longest))).collect();
                self.rotations = (tables, longest);
            }
            positions = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        }
        let rotations = self.rotations.0.clone();
        let memory = self.scratch.prepare(&model, way, schedule, tokens, longest);
        let pass = Pass {
            model,
            way,
            schedule,
            rows,
            sequences,
            positions,
            rotations,
            tokens,
            threads: self.team.size(),
            picked,
            distances,
            memory,
        };
        self.team.run(Arc::new(move |member: &Member<'_>| pass.take_part(member)))?;
        let mut states = Vec::with_capacity(wanted * hidden);
        for row in self.scratch.states.chunks_exact(row_stride(hidden)).take(wanted) {
            states.extend_from_slice(&row[..hidden]);
        }
        Ok(states)
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("model", &self.model).field("team", &self.team).finish_non_exhaustive()
    }
}

//! Passes of one encoder, with threads and memory of their own.

use std::fmt;
use std::sync::Arc;

use super::model::QuantizedTransformer;
use super::pass;
use super::product::MOST_INPUTS;
use super::state::Scratch;
use crate::error::{Error, Result};
use crate::team::Team;

/// Runs a [`QuantizedTransformer`] with threads and scratch memory of its own.
pub struct QuantizedExecutor {
    model: Arc<QuantizedTransformer>,
    team: Team,
    scratch: Scratch,
}

impl QuantizedExecutor {
    /// An executor with `threads` threads, the caller's included.
    ///
    /// # Errors
    /// `Internal` if a thread cannot be started.
    pub fn new(model: Arc<QuantizedTransformer>, threads: usize) -> Result<QuantizedExecutor> {
        let team = Team::new(threads)?;
        let scratch = Scratch::new(team.size());
        Ok(QuantizedExecutor { model, team, scratch })
    }

    /// The model.
    pub fn model(&self) -> &QuantizedTransformer {
        &self.model
    }

    /// Hidden states `[tokens, hidden]` of one sequence, appended to `states`. `rows` has, for each embedding table, the
    /// row of each token. Where a range leaves f32, the states are NaN.
    ///
    /// # Errors
    /// `Invalid` for an index beyond its table and for more than [`MOST_INPUTS`] tokens. `Internal` if `rows` are not as
    /// many as the tables and all of one length, and if a thread panics.
    pub fn forward(&mut self, rows: &[&[u32]], states: &mut Vec<f32>) -> Result<()> {
        let tokens = rows.first().map_or(0, |rows| rows.len());
        if rows.len() != self.model.tables.len() || rows.iter().any(|rows| rows.len() != tokens) {
            return Err(Error::internal("one row of every embedding table per token is needed"));
        }
        for (table, rows) in rows.iter().enumerate() {
            let count = self.model.table_rows(table);
            if let Some(row) = rows.iter().find(|&&row| row as usize >= count) {
                return Err(Error::invalid(format!("row {row} of an embedding table with {count} rows")));
            }
        }
        if tokens > MOST_INPUTS {
            return Err(Error::invalid(format!("a sequence of {tokens} tokens: {MOST_INPUTS} are the limit")));
        }
        if tokens == 0 {
            return Ok(());
        }
        pass::run(&self.model, &mut self.team, &mut self.scratch, rows, tokens, states)
    }
}

impl fmt::Debug for QuantizedExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("QuantizedExecutor");
        shown.field("model", &self.model).field("team", &self.team).finish_non_exhaustive()
    }
}

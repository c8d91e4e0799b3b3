//! A model on a card, and passes over texts.

use std::collections::HashMap;
use std::fmt;

use text2vec_kernel::{Block, Outer, Shape};

use crate::arguments::{MOST_TABLES, PoolingArguments};
use crate::card::{Address, Card, CardError, CardResult, Number, values_of};
use crate::error::{Error, Result};
use crate::exchange::{Exchange, Free, Pending};
use crate::layout::{Layout, RECORDED_ROWS, Size};
use crate::pass::{Input, Pass};
use crate::places::{Arena, Place};
use crate::pooled::{Pooled, Pooling, Vectors};
use crate::queue::Queue;
use crate::weights::{Model, bring};

/// Recordings that are kept, and sizes that are remembered.
const MOST_RECORDINGS: usize = 256;
/// Positions that tables are made for at least.
const FEWEST_POSITIONS: usize = 512;
/// Bytes of states that come back at once.
const STATES_BYTES: usize = 4 << 20;

/// A model on a card.
pub struct Transformer<C: Card> {
    // In this order they are dropped: recordings use all the others' memory, and all of it is the card's.
    recordings: HashMap<Kind, Met<C>>,
    /// Passes that were asked for.
    passes: u64,
    tables: Tables<C>,
    /// For passes that may be recorded, whatever they consist of: it stays where it is.
    small: Exchange<C>,
    /// For all others: it grows. A pass that was begun takes it along.
    large: Exchange<C>,
    free: Free<C>,
    arena: Option<Arena<C>>,
    /// A pass' input before it is copied to where the card reads it.
    words: Vec<u32>,
    model: Model<C>,
    number: Number,
    card: C,
}

/// What two passes have in common that are the same work with other texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    size: Size,
    wanted: [bool; 3],
}

/// A kind of pass that was met.
struct Met<C: Card> {
    /// From the second time on, unless it cannot be recorded.
    recording: Option<C::Recording>,
    cannot_be_recorded: bool,
    /// When it was met last, in passes.
    last: u64,
}

/// Tables that grow with the longest sequence met.
struct Tables<C: Card> {
    positions: usize,
    turns: Vec<C::Memory>,
    bias: Option<C::Memory>,
}

impl<C: Card> Transformer<C> {
    /// Brings a model to a card, block by block, in numbers of this kind.
    ///
    /// # Errors
    /// `OutOfMemory` where the card has too little, `Model` for sizes that the kernels do not know; and what `block` says.
    pub fn new(
        card: C,
        number: Number,
        shape: Shape,
        outer: Outer,
        block: impl FnMut(usize) -> text2vec_kernel::Result<Block>,
    ) -> Result<Transformer<C>> {
        let model = Model::new(&card, number, shape, outer, block)?;
        let most = Size { rows: RECORDED_ROWS, tiles: RECORDED_ROWS, sequences: RECORDED_ROWS };
        let vectors = Pooling::ALL.len() * most.sequences * model.shape.hidden;
        let small = Exchange::new(&card, (4 * Layout::new(most, model.tables.len()).words(), 4 * vectors))?;
        let large = Exchange::new(&card, (0, 0))?;
        let tables = Tables { positions: 0, turns: Vec::new(), bias: None };
        Ok(Transformer {
            recordings: HashMap::new(),
            passes: 0,
            tables,
            small,
            large,
            free: Free::default(),
            arena: None,
            words: Vec::new(),
            model,
            number,
            card,
        })
    }

    /// What it computes on.
    pub fn card(&self) -> &C {
        &self.card
    }

    /// Width of the states.
    pub fn hidden(&self) -> usize {
        self.model.shape.hidden
    }

    fn exchange(&self, size: Size) -> &Exchange<C> {
        if size.is_recorded() { &self.small } else { &self.large }
    }

    /// Takes what passes of so many tokens need. Recordings hold until memory must be taken anew.
    ///
    /// # Errors
    /// As [`Transformer::pooled`].
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let rows = Size::of(&[tokens]).rows;
        if self.arena.as_ref().is_none_or(|arena| arena.rows < rows) {
            self.give_back();
            self.arena = Some(Arena::new(&self.card, &self.model, self.number, rows)?);
        }
        Ok(())
    }

    /// Gives back what a larger pass took than there will be. The next pass takes what it needs.
    pub fn give_back(&mut self) {
        self.recordings.clear();
        self.arena = None;
    }

    /// The vectors of sequences, of which none is empty, by the kinds of [`Pooling::ALL`] that are wanted. `rows` has each token's
    /// row of each embedding table.
    ///
    /// # Errors
    /// `OutOfMemory`, after which fewer tokens may be tried; what the driver says.
    pub fn pooled(&mut self, rows: &[Vec<u32>], lengths: &[usize], wanted: [bool; 3]) -> Result<Pooled> {
        let size = Size::of(lengths);
        let vectors = Vectors { wanted, sequences: lengths.len(), room: size.sequences, width: self.hidden() };
        self.prepare(rows, lengths, size, vectors.values())?;
        // SAFETY: everything that the work uses is this model's and lives until the work is done: `wait` is asked for below, also
        // where something fails, before anything else is done with it.
        let asked = unsafe { self.ask(Kind { size, wanted }) };
        both(asked, self.card.wait())?;
        let exchange = if size.is_recorded() { &mut self.small } else { &mut self.large };
        Ok(vectors.read(exchange.values.as_mut()))
    }

    /// Whether a pass of so many tokens may be begun: neither one of few, which is replayed, nor one that the host waits in.
    pub fn may_begin(&self, tokens: usize) -> bool {
        tokens > RECORDED_ROWS && !self.model.has_experts()
    }

    /// Asks for the same, and returns before it is done: the next pass may be begun meanwhile. `None` for what
    /// [`Transformer::may_begin`] refuses: that is [`Transformer::pooled`].
    ///
    /// # Errors
    /// As [`Transformer::pooled`].
    pub fn begin(&mut self, rows: &[Vec<u32>], lengths: &[usize], wanted: [bool; 3]) -> Result<Option<Pending<C>>> {
        let size = Size::of(lengths);
        if !self.may_begin(lengths.iter().sum()) {
            return Ok(None);
        }
        let vectors = Vectors { wanted, sequences: lengths.len(), room: size.sequences, width: self.hidden() };
        let next = self.free.take(&self.card)?;
        self.prepare(rows, lengths, size, vectors.values())?;
        // SAFETY: the exchange goes along with what is pending, which waits before it is used again. All other memory is this
        // model's, and of later work alone: the card does one thing after the other.
        let asked = unsafe { self.ask(Kind { size, wanted }) };
        match asked.and_then(|()| self.card.mark()) {
            Ok(mark) => {
                let exchange = std::mem::replace(&mut self.large, next);
                Ok(Some(self.free.pending(exchange, mark, vectors)))
            }
            Err(error) => Ok(both(Err(error), self.card.wait())?),
        }
    }

    /// The states of every token, `[tokens, hidden]`.
    ///
    /// # Errors
    /// As [`Transformer::pooled`].
    pub fn states(&mut self, rows: &[Vec<u32>], lengths: &[usize]) -> Result<Vec<f32>> {
        let size = Size::of(lengths);
        self.prepare(rows, lengths, size, 0)?;
        let states = |transformer: &mut Self| -> CardResult<Vec<f32>> {
            // SAFETY: as in `pooled`; the staging memory is read and dropped after the waiting only.
            let (place, stride) = unsafe { transformer.forward(size)? };
            let number = transformer.number;
            let (card, width) = (&transformer.card, transformer.model.shape.hidden);
            let row_bytes = stride * number.bytes();
            let at_once = (STATES_BYTES / row_bytes).max(1);
            let mut staging = card.staging(at_once * row_bytes)?;
            let tokens: usize = lengths.iter().sum();
            let mut values = Vec::with_capacity(tokens * width);
            for first in (0..tokens).step_by(at_once) {
                let bytes = at_once.min(tokens - first) * row_bytes;
                // SAFETY: rows of the states; the bytes are read after the waiting.
                unsafe { card.copy_out(place.skip(first * row_bytes), bytes, &staging)? };
                card.wait()?;
                let rows = values_of(number, &staging.as_mut()[..bytes]);
                rows.chunks_exact(stride).for_each(|row| values.extend_from_slice(&row[..width]));
            }
            Ok(values)
        };
        let states = states(self);
        Ok(both(states, self.card.wait())?)
    }

    /// Memory for a pass of this size, and its words where the card will copy them from. Without memory for it, that of earlier
    /// passes is given back: a smaller pass takes less.
    fn prepare(&mut self, rows: &[Vec<u32>], lengths: &[usize], size: Size, values: usize) -> Result<()> {
        let prepared = self.take_and_write(rows, lengths, size, values);
        if matches!(prepared, Err(Error::Card(CardError::OutOfMemory))) {
            self.give_back();
        }
        prepared
    }

    fn take_and_write(&mut self, rows: &[Vec<u32>], lengths: &[usize], size: Size, values: usize) -> Result<()> {
        let tokens: usize = lengths.iter().sum();
        if rows.len() != self.model.tables.len() || rows.iter().any(|rows| rows.len() != tokens) {
            return Err(Error::Model(text2vec_kernel::Error::internal("rows that are not those of the tokens")));
        }
        let longest = lengths.iter().copied().max().unwrap_or_default();
        if longest > self.tables.positions {
            self.recordings.clear();
            self.tables = Tables::new(&self.card, &self.model, longest.next_power_of_two().max(FEWEST_POSITIONS))?;
        }
        self.reserve(size.rows)?;
        let layout = Layout::new(size, rows.len());
        let needed = (4 * layout.words(), 4 * values);
        let exchange = if size.is_recorded() { &mut self.small } else { &mut self.large };
        let capacity = exchange.capacity;
        if needed.0 > capacity.0 || needed.1 > capacity.1 {
            let larger = (needed.0.max(capacity.0).next_power_of_two(), needed.1.max(capacity.1).next_power_of_two());
            *exchange = Exchange::new(&self.card, larger)?;
        }
        self.words.resize(layout.words(), 0);
        layout.write(rows, lengths, &mut self.words);
        for (bytes, word) in exchange.words.as_mut().chunks_exact_mut(4).zip(&self.words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// Asks for a pass and its vectors: as it was recorded, or anew, the second time to be recorded.
    ///
    /// # Safety
    /// All memory is left alone until the card has done it.
    unsafe fn ask(&mut self, kind: Kind) -> CardResult<()> {
        if !kind.size.is_recorded() {
            // SAFETY: the caller's promise, here and below.
            return unsafe { self.pass(kind) };
        }
        self.passes += 1;
        let last = self.passes;
        if let Some(Met { recording: Some(recording), last: met, .. }) = self.recordings.get_mut(&kind) {
            *met = last;
            // SAFETY: the caller's promise.
            return unsafe { self.card.replay(recording) };
        }
        let met = self.recordings.get(&kind).map(|met| met.cannot_be_recorded);
        let mut next = Met { recording: None, cannot_be_recorded: met == Some(true), last };
        if met == Some(false) {
            // SAFETY: recordings are dropped before the memory that they use; and the caller's promise.
            match unsafe { self.card.record(&mut || self.pass(kind)) } {
                Ok(recording) => {
                    // SAFETY: the caller's promise.
                    unsafe { self.card.replay(&recording)? };
                    next.recording = Some(recording);
                }
                Err(error) => {
                    tracing::warn!(rows = kind.size.rows, "a pass is not recorded, and slower: {error}");
                    next.cannot_be_recorded = true;
                }
            }
        }
        if next.recording.is_none() {
            // SAFETY: the caller's promise.
            unsafe { self.pass(kind)? };
        }
        if met.is_none() {
            self.forget_one();
        }
        self.recordings.insert(kind, next);
        Ok(())
    }

    /// Makes room for another kind of pass: the one that was not met for the longest time is forgotten.
    fn forget_one(&mut self) {
        if self.recordings.len() < MOST_RECORDINGS {
            return;
        }
        if let Some(&oldest) = self.recordings.iter().min_by_key(|(_, met)| met.last).map(|(kind, _)| kind) {
            self.recordings.remove(&oldest);
        }
    }

    /// A pass from its input to its vectors.
    unsafe fn pass(&self, kind: Kind) -> CardResult<()> {
        let Kind { size, wanted } = kind;
        let (hidden, exchange) = (self.hidden(), self.exchange(size));
        let layout = Layout::new(size, self.model.tables.len());
        let (input, vectors) = (self.card.address(&exchange.input), self.card.address(&exchange.vectors));
        // SAFETY: the caller's promise; sizes are those that were prepared for.
        unsafe {
            let (states, stride) = self.forward(size)?;
            let queue = Queue { card: &self.card, number: self.number };
            let mut to = vectors;
            for mode in Pooling::ALL.into_iter().filter(|&mode| wanted[mode as usize]) {
                let arguments = PoolingArguments {
                    states,
                    sequences: input.skip(4 * layout.sequences()),
                    to,
                    width: hidden as u32,
                    stride: stride as u32,
                    mode: mode as u32,
                };
                queue.pool(size.sequences, &arguments)?;
                to = to.skip(4 * size.sequences * hidden);
            }
            let bytes = (to.0 - vectors.0) as usize;
            self.card.copy_out(vectors, bytes, &exchange.values)
        }
    }

    /// A pass from its input to its states.
    unsafe fn forward(&self, size: Size) -> CardResult<Place> {
        let Some(arena) = &self.arena else { return Ok((Address::NOWHERE, 0)) };
        let layout = Layout::new(size, self.model.tables.len());
        let exchange = self.exchange(size);
        let input = self.card.address(&exchange.input);
        let mut rows_of = [Address::NOWHERE; MOST_TABLES];
        for (table, place) in rows_of.iter_mut().take(self.model.tables.len()).enumerate() {
            *place = input.skip(4 * layout.rows_of(table));
        }
        let pass = Pass {
            queue: Queue { card: &self.card, number: self.number },
            model: &self.model,
            places: arena.places,
            totals: arena.totals.as_ref().filter(|_| !size.is_recorded()),
            input: Input {
                rows_of,
                positions: input.skip(4 * layout.positions()),
                tiles: input.skip(4 * layout.tiles()),
            },
            size,
            turns: self.tables.turns.iter().map(|table| self.card.address(table)).collect(),
            bias: match &self.tables.bias {
                Some(bias) => (self.card.address(bias), self.tables.positions),
                None => (Address::NOWHERE, 1),
            },
        };
        // SAFETY: the caller's promise; the words were prepared, and all matrices have the rows.
        unsafe {
            self.card.copy_in(&exchange.words, 4 * layout.words(), input)?;
            pass.forward()
        }
    }
}

/// What was asked for, once it was waited for: where the card is lost that counts, as cuBLASLt says less.
fn both<T>(asked: CardResult<T>, waited: CardResult<()>) -> CardResult<T> {
    match (asked, waited) {
        (_, Err(CardError::Lost(reason))) => Err(CardError::Lost(reason)),
        (asked, waited) => asked.and_then(|made| waited.map(|()| made)),
    }
}

impl<C: Card> Tables<C> {
    fn new(card: &C, model: &Model<C>, positions: usize) -> CardResult<Tables<C>> {
        let bring = |values: Vec<f32>| bring(card, &values, Number::F32);
        let bias = model.position_bias.as_ref().map(|bias| bias.by_distance(model.shape.heads, positions));
        Ok(Tables {
            positions,
            turns: model.rotaries.iter().map(|rotary| bring(rotary.table(positions))).collect::<CardResult<_>>()?,
            bias: bias.map(bring).transpose()?,
        })
    }
}

impl<C: Card> fmt::Debug for Transformer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Transformer");
        shown.field("card", &self.card).field("number", &self.number).field("shape", &self.model.shape);
        shown.field("recordings", &self.recordings.len()).finish_non_exhaustive()
    }
}

//! Memory of a pass: kept from one to the next, shared by the members meanwhile.

use super::model::Transformer;
use super::shape::Shape;
use super::way::{Attention, Schedule, Way};
use crate::linear::{Epilogue, UNIT_SCRATCH};
use crate::matrix_unit::TILE_ROWS;
use crate::memory::AlignedBuffer;
use crate::{attention, attention_bf16, attention_on_unit, single_query};

/// Memory of a forward pass, kept for the next one. Rows are [`row_stride`] apart.
#[derive(Default)]
pub(super) struct Scratch {
    /// The residual stream, `hidden` wide, and at the end the result.
    pub(super) states: AlignedBuffer,
    /// Queries, keys and values side by side, and a panel beyond.
    pub(super) projected: AlignedBuffer,
    /// What attention gives, as wide as all heads.
    pub(super) context: AlignedBuffer,
    /// Columns schedule: sums before a norm, or with pre-norm what a norm gives, `hidden` wide (or as wide as the tables).
    pub(super) sums: AlignedBuffer,
    /// Columns schedule: between the feed-forward matrices, `intermediate` wide.
    pub(super) between: AlignedBuffer,
    /// Columns schedule: the factors of a gated feed-forward, `intermediate` wide.
    pub(super) gates: AlignedBuffer,
    /// Columns schedule: the rows of a product as its precision reads them.
    pub(super) operand: AlignedBuffer,
    /// One per member: attention's scratch, or a block's sums, intermediate values and operand.
    pub(super) members: Vec<AlignedBuffer>,
}

impl Scratch {
    /// Makes room for a pass.
    pub(super) fn prepare(
        &mut self,
        model: &Transformer,
        way: Way,
        schedule: Schedule,
        tokens: usize,
        longest: usize,
    ) -> Memory {
        let Shape { hidden, intermediate, style, .. } = model.shape;
        let (width, head) = (model.shape.attention_width(), model.shape.head_size());
        let projected = model.shape.projected_width();
        let mut member = match way.attention {
            Attention::Plain => attention::scratch_len(model.kernels, longest, head),
            Attention::Rounded => attention_bf16::scratch_len(model.kernels, longest, head),
            Attention::OnUnit(_, parts) => attention_on_unit::scratch_len(parts, longest, head),
        };
        member = member.max(single_query::scratch_len(model.kernels, longest, hidden, head));
        let operand = way.operand_words;
        let (column_tokens, block_rows) = match schedule {
            // Operands in whole tiles of rows.
            Schedule::Columns => (tokens.next_multiple_of(TILE_ROWS), 0),
            Schedule::Rows => (0, way.block_rows),
        };
        let gates = if style.gated { row_stride(intermediate) } else { 0 };
        let sums = hidden.max(model.table_width);
        let experts = style.experts.map_or(0, |experts| row_stride(experts.count) + 2 * row_stride(hidden));
        let row = row_stride(sums) + row_stride(way.between_words) + gates + experts + row_stride(operand);
        let unit = if way.unit.is_some() { UNIT_SCRATCH } else { 0 };
        member = member.max(block_rows * row + unit);
        Memory {
            states: Matrix::with_room(&mut self.states, tokens, hidden, 0),
            projected: Matrix::with_room(&mut self.projected, tokens, projected, model.kernels.panel_width()),
            context: Matrix::with_room(&mut self.context, tokens, width, 0),
            sums: Matrix::with_room(&mut self.sums, column_tokens, sums, 0),
            between: Matrix::with_room(&mut self.between, column_tokens, way.between_words, 0),
            gates: Matrix::with_room(&mut self.gates, if style.gated { column_tokens } else { 0 }, intermediate, 0),
            operand: Matrix::with_room(&mut self.operand, column_tokens, operand, 0),
            members: self.members.iter_mut().map(|memory| MemberMemory::with_room(memory, member)).collect(),
        }
    }
}

/// Distance of a matrix' rows: an odd number of cache lines, so that the same columns of neighbouring rows do not compete
/// for the same few lines of the cache.
pub(super) fn row_stride(columns: usize) -> usize {
    (columns.div_ceil(16) | 1) * 16
}

/// A matrix that the members of a team share. They keep to rows or columns that the schedule gives to one of them per
/// phase, or only read.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) start: *mut f32,
    pub(super) stride: usize,
}

// SAFETY: only a pointer; every access is in an `unsafe` block that says why it is alone.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// A matrix in a buffer that is made large enough for it and some values beyond.
    pub(super) fn with_room(buffer: &mut AlignedBuffer, rows: usize, columns: usize, beyond: usize) -> Matrix {
        let stride = row_stride(columns);
        buffer.reserve(rows * stride + beyond);
        Matrix { start: buffer.as_mut_ptr(), stride }
    }

    /// The matrix without its first rows.
    ///
    /// # Safety
    /// It must have these rows.
    pub(super) unsafe fn skip_rows(self, row: usize) -> Matrix {
        // SAFETY: handed on.
        Matrix { start: unsafe { self.start.add(row * self.stride) }, ..self }
    }

    /// A row.
    ///
    /// # Safety
    /// It must have it.
    pub(super) unsafe fn row(self, row: usize) -> *mut f32 {
        // SAFETY: handed on.
        unsafe { self.start.add(row * self.stride) }
    }

    /// It as the left factor of a product.
    pub(super) fn input(self) -> (*const f32, usize) {
        (self.start, self.stride)
    }

    /// It as a result.
    pub(super) fn out(self) -> (*mut f32, usize) {
        (self.start, self.stride)
    }

    /// It as what is added to a product.
    pub(super) fn residual(self) -> Epilogue {
        Epilogue::Residual(self.start, self.stride)
    }
}

/// A member's memory that is not given away yet.
pub(super) struct Room {
    pub(super) at: *mut f32,
    pub(super) left: usize,
}

impl Room {
    /// A matrix from its front.
    pub(super) fn matrix(&mut self, rows: usize, columns: usize) -> Matrix {
        let matrix = Matrix { start: self.at, stride: row_stride(columns) };
        let taken = rows * matrix.stride;
        assert!(taken <= self.left, "a member's memory is too small");
        (self.at, self.left) = (self.at.wrapping_add(taken), self.left - taken);
        matrix
    }
}

/// Memory of one member.
pub(super) struct MemberMemory {
    pub(super) start: *mut f32,
    pub(super) len: usize,
}

// SAFETY: as for `Matrix`; a member accesses only its own.
unsafe impl Send for MemberMemory {}
// SAFETY: as above.
unsafe impl Sync for MemberMemory {}

impl MemberMemory {
    pub(super) fn with_room(buffer: &mut AlignedBuffer, len: usize) -> MemberMemory {
        buffer.reserve(len);
        MemberMemory { start: buffer.as_mut_ptr(), len: buffer.len() }
    }
}

/// The buffers of [`Scratch`] while the members share them.
pub(super) struct Memory {
    pub(super) states: Matrix,
    pub(super) projected: Matrix,
    pub(super) context: Matrix,
    pub(super) sums: Matrix,
    pub(super) between: Matrix,
    pub(super) gates: Matrix,
    pub(super) operand: Matrix,
    pub(super) members: Vec<MemberMemory>,
}

//! A product with what follows it, as a task.

use std::ops::Range;

use super::packing::{Arena, Linear};
use crate::math::Activation;
use crate::operand::Form;
use crate::precision::Precision;
use crate::unit::Unit;

/// What a product adds to `x Wᵀ`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Epilogue {
    /// The bias.
    Bias,
    /// The bias, then an activation.
    Activation(Activation),
    /// The bias, an activation, then a factor each: a matrix of the output's shape and the given row distance.
    Gated(Activation, *const f32, usize),
    /// The bias and a matrix of the output's shape and the given row distance.
    Residual(*const f32, usize),
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Out {
    /// f32.
    Values,
    /// What the next product reads; only from a unit, for one.
    Operand { parts: usize },
}

/// `out = epilogue(input · Wᵀ)` for some rows and some panels of columns.
pub(crate) struct LinearTask<'a> {
    pub(super) linear: &'a Linear,
    pub(super) arena: &'a Arena,
    pub(super) unit: Option<Unit>,
    pub(super) input: *const f32,
    pub(super) input_stride: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) form: Out,
    pub(super) epilogue: Epilogue,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    /// Memory of the product's own, and its length.
    pub(super) scratch: (*mut f32, usize),
    /// Where in the arena the weights are that come after these.
    pub(super) then: Option<usize>,
}

impl<'a> LinearTask<'a> {
    /// A product of `rows` of `input` with all columns. `input`, `out` and a residual point to row 0. Layers of another form
    /// than [`Form::Plain`] take rows that an [`OperandTask`](crate::operand::OperandTask) made; on a unit they must be
    /// readable up to whole tiles of rows, and the task needs scratch memory.
    ///
    /// # Safety
    /// Where two rows of an operand lie together ([`Form::Bf16InPairs`]), `rows` must begin at an even one and an odd last one have
    /// room for another behind it. When it runs, for every row of `rows`: `input` must be readable for the layer's inputs (as an operand, for the
    /// words of one), a residual or gate for its outputs, and `out` writable for the columns of the task's panels, with
    /// nobody else accessing those meanwhile.
    pub(crate) unsafe fn new(
        (linear, arena): (&'a Linear, &'a Arena),
        (input, input_stride): (*const f32, usize),
        (out, out_stride): (*mut f32, usize),
        epilogue: Epilogue,
        rows: Range<usize>,
    ) -> Self {
        LinearTask {
            linear,
            arena,
            unit: linear.unit,
            input,
            input_stride,
            out,
            out_stride,
            form: Out::Values,
            epilogue,
            rows,
            columns: 0..linear.panels.count,
            scratch: (std::ptr::null_mut(), 0),
            then: linear.next.map(|next| next.at(0)),
        }
    }

    /// What a product on a unit needs: as much memory as [`SCRATCH`](super::on_unit::SCRATCH) says, on a cache line.
    ///
    /// # Safety
    /// When the task runs, nobody else may access it.
    pub(crate) unsafe fn with_scratch(self, scratch: (*mut f32, usize)) -> Self {
        LinearTask { scratch, ..self }
    }

    /// By vectors, also where there is a unit: of f32 and bytes, whose panels serve both. The input is as vectors read it.
    pub(crate) fn by_vectors(self) -> Self {
        assert!(self.linear.unit.is_none() || matches!(self.linear.precision, Precision::F32 | Precision::Int8));
        LinearTask { unit: None, ..self }
    }

    /// The output is what the next product reads, as an [`OperandTask`](crate::operand::OperandTask) would write it: rows of
    /// words.
    pub(crate) fn writing_operand(self) -> Self {
        let Form::Parts(parts) = self.linear.form else { panic!("only a unit writes operands") };
        LinearTask { form: Out::Operand { parts }, ..self }
    }

    /// Only these panels; after them come the weights at that place of the arena.
    pub(crate) fn panels(self, panels: Range<usize>, then: Option<usize>) -> Self {
        assert!(panels.end <= self.linear.panels.count);
        LinearTask { columns: panels, then, ..self }
    }
}

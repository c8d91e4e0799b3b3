//! A matrix that the members of a team share out.

use std::ops::Range;

use super::super::memory::AlignedBuffer;

/// A matrix that the members share. They keep to rows or columns that a phase gives to one of them, or only read.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    start: *mut f32,
    stride: usize,
    rows: usize,
}

// SAFETY: only a pointer; every access is in an `unsafe` block that says why it is alone.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// A matrix in a buffer, which grows if it is too small and must outlive the matrix. Its values are anything.
    pub(super) fn with_room(buffer: &mut AlignedBuffer, rows: usize, columns: usize) -> Matrix {
        // An odd number of cache lines: the same columns of neighbouring rows do not compete for the same lines.
        let stride = (columns.div_ceil(16) | 1) * 16;
        buffer.reserve(rows * stride);
        Matrix { start: buffer.as_mut_ptr(), stride, rows }
    }

    /// Values from one row to the next.
    pub(super) fn stride(self) -> usize {
        self.stride
    }

    /// Some columns of a row, to read.
    ///
    /// # Safety
    /// Nobody writes them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn row<'a>(self, row: usize, columns: Range<usize>) -> &'a [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.stride);
        // SAFETY: within the matrix, as just checked.
        unsafe { std::slice::from_raw_parts(self.start.add(row * self.stride + columns.start), columns.len()) }
    }

    /// Some columns of a row, to write.
    ///
    /// # Safety
    /// Nobody else reads or writes them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn row_mut<'a>(self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.stride);
        // SAFETY: within the matrix, as just checked.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride + columns.start), columns.len()) }
    }

    /// Some rows of some columns, to be reached by pointer.
    #[inline(always)]
    pub(super) fn block(self, rows: &Range<usize>, columns: &Range<usize>) -> Block {
        assert!(rows.end <= self.rows && columns.start <= columns.end && columns.end <= self.stride);
        // SAFETY: within the matrix, as just checked.
        Block { start: unsafe { self.start.add(rows.start * self.stride + columns.start) }, stride: self.stride }
    }
}

/// A part of a matrix, by pointer: nothing is checked where each value is touched.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) start: *mut f32,
    /// From one row to the next.
    pub(super) stride: usize,
}

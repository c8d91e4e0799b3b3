//! Matrix units: what some CPUs have beside vectors. A unit multiplies whole tiles, sixteen rows by sixteen columns.
//!
//! What is built on it (packing, splitting, tails, order) is written once, against [`MatrixUnit`], and tested on every
//! machine with a unit that is emulated.

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// Words of 32 bits in a row of a tile: a sum each, or of a factor two bf16 or four bytes.
pub(super) const TILE_WORDS: usize = 16;

/// The tiles of a unit in use by this thread, numbered 0 to 7. A factor's words are along the depth in the left one; in
/// the right one a row has a word of each column.
///
/// A tile's rows do not depend on each other, and a product adds up the depth in an order that depends on nothing. So what
/// comes out for a row depends on the row alone.
pub(super) trait MatrixUnit {
    /// No sums.
    fn zero<const TILE: usize>(&mut self);
    /// Adds to sums the products of bf16. Of each row and column, the first of every pair are summed up along the depth,
    /// and the second; then both are added to each other, and to the sum. What is too small for a normal f32 counts as 0.
    fn add_bf16_products<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self);
    /// Adds to sums the products of unsigned bytes on the left with signed ones on the right, as integers.
    fn add_byte_products<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self);

    /// Sixteen rows, so many words apart.
    ///
    /// # Safety
    /// `from` must be readable for sixteen words in each of the rows.
    unsafe fn load<const TILE: usize>(&mut self, from: *const f32, stride: usize);
    /// The same, of what need not stay in the first-level cache.
    ///
    /// # Safety
    /// As for [`MatrixUnit::load`].
    #[inline(always)]
    unsafe fn load_once<const TILE: usize>(&mut self, from: *const f32, stride: usize) {
        // SAFETY: handed on.
        unsafe { self.load::<TILE>(from, stride) }
    }
    /// Sixteen rows, so many words apart.
    ///
    /// # Safety
    /// `to` must be writable for sixteen words in each of the rows.
    unsafe fn store<const TILE: usize>(&mut self, to: *mut f32, stride: usize);
}

/// Work written once for every unit; what it does with tiles must be `#[inline(always)]`.
pub(super) trait UnitTask {
    /// Does the work.
    fn run<U: MatrixUnit>(self, unit: &mut U);
}

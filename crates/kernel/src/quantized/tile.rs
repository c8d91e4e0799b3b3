//! The results of some rows times a panel, and how large they are.

use crate::matrix_unit::TILE_ROWS;

/// Columns of a panel.
pub(super) const PANEL: usize = 32;
/// Codes of one column that lie side by side.
pub(super) const GROUP: usize = 4;
/// Most rows of a tile: two of a unit's.
pub(super) const MAX_TILE_ROWS: usize = 2 * TILE_ROWS;

/// Rows of codes times a panel, for what is written once for all instruction sets.
#[cfg(target_arch = "aarch64")]
pub(super) struct TileProduct<'a> {
    pub(super) codes: &'a [u8],
    /// From one row of codes to the next.
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) panel: &'a [i8],
    /// What is fetched meanwhile.
    pub(super) next: *const i8,
    pub(super) out: &'a mut Tile,
}

#[cfg(target_arch = "aarch64")]
impl TileProduct<'_> {
    /// Sees to it that there are so many codes.
    ///
    /// # Panics
    /// If there are no rows or more than `most`, fewer codes than rows of whole groups take, or none that lie on whole words.
    pub(super) fn check(&self, most: usize) {
        let TileProduct { codes, stride, rows, panel, .. } = *self;
        let row = panel.len() / PANEL;
        assert!(rows > 0 && rows <= most && panel.len() == row / GROUP * GROUP * PANEL);
        assert!(stride >= row && codes.len() >= (rows - 1) * stride + row);
        assert!(codes.as_ptr().cast::<f32>().is_aligned() && stride.is_multiple_of(GROUP), "whole words");
    }
}

/// Results of a tile, row by row. On cache lines: a vector across two of them would be read late.
#[repr(align(64))]
pub(super) struct Tile(pub(super) [[i32; PANEL]; MAX_TILE_ROWS]);

impl Tile {
    /// Room for results.
    pub(super) fn new() -> Tile {
        Tile([[0; PANEL]; MAX_TILE_ROWS])
    }
}

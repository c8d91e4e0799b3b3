//! The results of some rows times a panel, and how large they are.

use crate::matrix_unit::TILE_ROWS;

/// Columns of a panel.
pub(super) const PANEL: usize = 32;
/// Codes of one column that lie side by side.
pub(super) const GROUP: usize = 4;
/// Most rows of a tile: two of a unit's.
pub(super) const MAX_TILE_ROWS: usize = 2 * TILE_ROWS;

/// Results of a tile, row by row. On cache lines: a vector across two of them would be read late.
#[repr(align(64))]
pub(super) struct Tile(pub(super) [[i32; PANEL]; MAX_TILE_ROWS]);

impl Tile {
    /// Room for results.
    pub(super) fn new() -> Tile {
        Tile([[0; PANEL]; MAX_TILE_ROWS])
    }
}

//! The same products on a matrix unit: whole tiles of sixteen rows, sixty-four codes and sixteen columns.
//!
//! A unit reads weights as vectors do, filled up with zeros to whole steps. So a pass may go from one to the other.

use std::ops::Range;

use super::panels::UNIT_GROUPS;
use super::product::Multiply;
use super::tile::{GROUP, MAX_TILE_ROWS, PANEL, Tile};
use crate::isa::Simd;
use crate::matrix_unit::{MatrixUnit, TILE_ROWS, TILE_WORDS};

/// Rows of codes that are read where there are so many: a unit reads whole tiles.
pub(super) fn rows_read(rows: usize) -> usize {
    rows.next_multiple_of(TILE_ROWS)
}

/// Products on a unit, and the vectors that fetch meanwhile.
pub(super) struct OnUnit<'a, U, S>(pub(super) &'a mut U, pub(super) S);

impl<'a, U: MatrixUnit, S: Simd> Multiply for OnUnit<'a, U, S> {
    #[inline(always)]
    fn tiles(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<'a, U, S> {
        let end = rows.end;
        rows.step_by(MAX_TILE_ROWS).map(move |start| start..end.min(start + MAX_TILE_ROWS))
    }

    #[inline(always)]
    fn multiply(
        &mut self,
        codes: &[u8],
        stride: usize,
        rows: usize,
        panel: &[i8],
        next: Option<&[i8]>,
        out: &mut Tile,
    ) {
        const STEP: usize = UNIT_GROUPS * GROUP;
        let OnUnit(unit, s) = self;
        let steps = panel.len() / (PANEL * STEP);
        assert!(rows > 0 && rows <= MAX_TILE_ROWS && stride >= steps * STEP && stride.is_multiple_of(GROUP));
        assert!(codes.len() >= (rows_read(rows) - 1) * stride + steps * STEP && panel.len() == steps * PANEL * STEP);
        let (left, right) = (codes.as_ptr().cast::<f32>(), panel.as_ptr().cast::<f32>());
        let (to, row_words) = (out.0.as_mut_ptr().cast::<f32>(), stride / GROUP);
        unit.zero::<0>();
        unit.zero::<1>();
        unit.zero::<2>();
        unit.zero::<3>();
        for step in 0..steps {
            // SAFETY: both have so many steps, the left one in whole tiles of rows, and an address to fetch may be any.
            unsafe {
                let right = right.add(step * UNIT_GROUPS * PANEL);
                unit.load::<6>(right, PANEL);
                unit.load::<7>(right.add(TILE_WORDS), PANEL);
                let left = left.add(step * UNIT_GROUPS);
                unit.load::<4>(left, row_words);
                unit.add_byte_products::<0, 4, 6>();
                unit.add_byte_products::<1, 4, 7>();
                if rows > TILE_ROWS {
                    unit.load::<5>(left.add(TILE_ROWS * row_words), row_words);
                    unit.add_byte_products::<2, 5, 6>();
                    unit.add_byte_products::<3, 5, 7>();
                }
            }
            if let Some(next) = next {
                let next = next.as_ptr().cast::<f32>().wrapping_add(step * UNIT_GROUPS * PANEL);
                for line in (0..UNIT_GROUPS * PANEL).step_by(16) {
                    s.prefetch_next(next.wrapping_add(line));
                }
            }
        }
        // SAFETY: a tile has room for two of a unit's, side by side and one below the other.
        unsafe {
            unit.store::<0>(to, PANEL);
            unit.store::<1>(to.add(TILE_WORDS), PANEL);
            if rows > TILE_ROWS {
                unit.store::<2>(to.add(TILE_ROWS * PANEL), PANEL);
                unit.store::<3>(to.add(TILE_ROWS * PANEL + TILE_WORDS), PANEL);
            }
        }
    }
}

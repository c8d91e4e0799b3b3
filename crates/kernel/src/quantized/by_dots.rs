//! The same products written once, by the multiply-adds of bytes that an instruction set has: where there is no form of its
//! own for a set.

use super::tile::{GROUP, PANEL, TileProduct};
use crate::isa::{Dot, DotTask, PANEL_VECTORS, Simd, Task};

/// Most rows of a tile.
pub(super) const TILE_ROWS: usize = 8;

/// A tile by them.
pub(super) struct ByDots<'a>(TileProduct<'a>);

impl<'a> ByDots<'a> {
    /// Up to [`TILE_ROWS`] rows.
    ///
    /// # Panics
    /// As [`TileProduct::check`].
    pub(super) fn new(product: TileProduct<'a>) -> Self {
        product.check(TILE_ROWS);
        ByDots(product)
    }
}

impl Task for ByDots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        s.call_bytes(self);
    }
}

impl DotTask for ByDots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        match self.0.rows {
            1 => self.rows::<D, 1>(dot),
            2 => self.rows::<D, 2>(dot),
            3 => self.rows::<D, 3>(dot),
            4 => self.rows::<D, 4>(dot),
            5 => self.rows::<D, 5>(dot),
            6 => self.rows::<D, 6>(dot),
            7 => self.rows::<D, 7>(dot),
            _ => self.rows::<D, TILE_ROWS>(dot),
        }
    }
}

impl ByDots<'_> {
    #[inline(always)]
    fn rows<D: Dot, const ROWS: usize>(self, dot: D) {
        let TileProduct { codes, stride, panel, next, out, .. } = self.0;
        let s = dot.simd();
        let groups = panel.len() / (PANEL * GROUP);
        let (codes, right) = (codes.as_ptr(), panel.as_ptr().cast::<f32>());
        for first in (0..PANEL).step_by(PANEL_VECTORS * D::Simd::LANES) {
            let mut sums = [[dot.zero(); PANEL_VECTORS]; ROWS];
            // What sums of lowered bytes lack: 64 times each weight, twice.
            let mut lacking = [dot.zero(); PANEL_VECTORS];
            // SAFETY: a word of the array.
            let lower = unsafe { dot.left([if D::LOWERED { f32::from_bits(0xC0C0_C0C0) } else { 0.0 }].as_ptr()) };
            let mut group = 0;
            macro_rules! step {
                ($read:ident, $($lane:literal)*) => {{
                    let at = codes.wrapping_add(group * GROUP);
                    // SAFETY: within the row's groups.
                    let mut lefts = [unsafe { dot.$read(at.cast()) }; ROWS];
                    for (row, lefts) in lefts.iter_mut().enumerate().skip(1) {
                        // SAFETY: as above.
                        *lefts = unsafe { dot.$read(at.wrapping_add(row * stride).cast()) };
                    }
                    $(
                        let at = (group + $lane) * PANEL + first;
                        s.prefetch_next(next.wrapping_add(GROUP * at).cast());
                        for v in 0..PANEL_VECTORS {
                            // SAFETY: within the panel's groups.
                            let weights = unsafe { dot.right(right.add(at + v * D::Simd::LANES)) };
                            for (sums, &left) in sums.iter_mut().zip(&lefts) {
                                sums[v] = dot.multiply_add_lane::<$lane>(left, weights, sums[v]);
                            }
                            if D::LOWERED {
                                lacking[v] = dot.multiply_add(lower, weights, lacking[v]);
                            }
                        }
                    )*
                }};
            }
            if const { D::LEFT_AT_ONCE == 4 } {
                while group + 4 <= groups {
                    step!(lefts, 0 1 2 3);
                    group += 4;
                }
            }
            while group < groups {
                step!(left, 0);
                group += 1;
            }
            for (v, lacking) in lacking.into_iter().enumerate() {
                let columns = first + v * D::Simd::LANES..first + (v + 1) * D::Simd::LANES;
                let mut lacked = [0i32; PANEL];
                // SAFETY: a panel has room for a vector.
                unsafe { s.store(lacked.as_mut_ptr().cast(), dot.bits(lacking)) };
                for (sums, out) in sums.iter().zip(&mut out.0) {
                    let out = &mut out[columns.clone()];
                    // SAFETY: just sliced to a vector.
                    unsafe { s.store(out.as_mut_ptr().cast(), dot.bits(sums[v])) };
                    if D::LOWERED {
                        for (out, lacked) in out.iter_mut().zip(lacked) {
                            *out = out.wrapping_add(lacked.wrapping_mul(2));
                        }
                    }
                }
            }
        }
    }
}

//! Exact integer products: unsigned activation codes times signed weight codes, summed in i32.
//!
//! Integer sums have no order, so every instruction set gives the same bits. The AVX2 form widens to 16 bits first: the
//! shorter `vpmaddubsw` saturates.

use std::ops::Range;

use super::super::dispatch::Kernels;
use super::super::dot::ByteProducts;
use super::super::isa::even_runs_of;
use super::super::unit::Unit;
#[cfg(target_arch = "aarch64")]
use super::by_dots::{self, ByDots};
#[cfg(target_arch = "aarch64")]
use super::by_squares::{self, BySquares};
use super::panels::Layout;
#[cfg(target_arch = "aarch64")]
use super::tile::TileProduct;
use super::tile::{GROUP, PANEL, Tile};

/// Most inputs of a product: beyond it, sums of products of codes would leave i32.
pub const MOST_INPUTS: usize = 16_384;

/// Most rows of a tile by vectors, of any instruction set.
#[cfg(target_arch = "x86_64")]
const MAX_VECTOR_ROWS: usize = 12;
/// What multiplies a tile: vectors, or a unit that is in use by this thread. Sums are exact, so all give the same.
pub(super) trait Multiply {
    /// Splits rows into those of tiles.
    fn tiles(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<Self>;

    /// `rows` rows of codes times one panel. `codes` begins at the tile's first row, rows are `stride` codes apart, and
    /// `panel` has `PANEL * GROUP` codes per group. `next` is the panel to be fetched meanwhile, or none.
    ///
    /// # Panics
    /// If `codes` has fewer rows, a unit's in whole tiles, or `panel` no whole groups, for a unit steps, for squares pairs of
    /// groups.
    fn multiply(&mut self, codes: &[u8], stride: usize, rows: usize, panel: &[i8], next: Option<&[i8]>, out: &mut Tile);
}

/// Which integer instructions are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Products {
    by: ByteProducts,
    #[cfg(target_arch = "aarch64")]
    kernels: Kernels,
}

impl Products {
    /// Those of an instruction set that this CPU has.
    pub(super) fn of(kernels: Kernels) -> Products {
        Products {
            by: kernels.byte_products(),
            #[cfg(target_arch = "aarch64")]
            kernels,
        }
    }

    /// Rows of its largest tile.
    pub(super) fn tile_rows(self) -> usize {
        match self.by {
            #[cfg(target_arch = "x86_64")]
            ByteProducts::Avx512Vnni => MAX_VECTOR_ROWS,
            #[cfg(target_arch = "x86_64")]
            ByteProducts::AvxVnni => 6,
            #[cfg(all(test, target_arch = "x86_64"))]
            ByteProducts::Avx512VnniOfEight => 6,
            #[cfg(target_arch = "x86_64")]
            ByteProducts::Avx2 => 4,
            #[cfg(target_arch = "aarch64")]
            ByteProducts::Usmmla => by_squares::TILE_ROWS,
            #[cfg(target_arch = "aarch64")]
            ByteProducts::Sdot | ByteProducts::Neon => by_dots::TILE_ROWS,
            ByteProducts::Portable => 4,
        }
    }

    /// How panels lie that these products read, and a unit if there is one.
    pub(super) fn layout(self, unit: Option<Unit>) -> Layout {
        match self.by {
            _ if unit.is_some() => Layout::Steps,
            #[cfg(target_arch = "aarch64")]
            ByteProducts::Usmmla => Layout::Squares,
            _ => Layout::Groups,
        }
    }
}

impl Multiply for Products {
    #[inline(always)]
    fn tiles(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        even_runs_of(rows, self.tile_rows(), self.layout(None).together())
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
        let groups = panel.len() / (PANEL * GROUP);
        assert!(rows > 0 && rows <= self.tile_rows() && stride >= groups * GROUP);
        assert!(codes.len() >= (rows - 1) * stride + groups * GROUP && panel.len() == groups * PANEL * GROUP);
        // Any address can be asked for: with nothing to fetch it is the panel at hand.
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        let next = next.unwrap_or(panel).as_ptr();
        #[cfg(target_arch = "x86_64")]
        macro_rules! by_rows {
            ($function:ident $($count:literal)*) => {
                match rows {
                    // SAFETY: the CPU has the instructions, see `Products::of`; sizes were just checked.
                    $($count => unsafe {
                        x86::$function::<$count>(codes.as_ptr(), stride, groups, panel.as_ptr(), next, out)
                    },)*
                    _ => unreachable!("at most `tile_rows`"),
                }
            };
        }
        match self.by {
            #[cfg(target_arch = "x86_64")]
            ByteProducts::Avx512Vnni => by_rows!(avx512_vnni 1 2 3 4 5 6 7 8 9 10 11 12),
            #[cfg(target_arch = "x86_64")]
            ByteProducts::AvxVnni => by_rows!(avx_vnni 1 2 3 4 5 6),
            #[cfg(all(test, target_arch = "x86_64"))]
            ByteProducts::Avx512VnniOfEight => by_rows!(avx512_vnni_of_eight 1 2 3 4 5 6),
            #[cfg(target_arch = "x86_64")]
            ByteProducts::Avx2 => by_rows!(avx2 1 2 3 4),
            #[cfg(target_arch = "aarch64")]
            ByteProducts::Usmmla => {
                self.kernels.run(BySquares::new(TileProduct { codes, stride, rows, panel, next, out }));
            }
            #[cfg(target_arch = "aarch64")]
            ByteProducts::Sdot | ByteProducts::Neon => {
                self.kernels.run(ByDots::new(TileProduct { codes, stride, rows, panel, next, out }));
            }
            ByteProducts::Portable => portable(codes, stride, rows, panel, out),
        }
    }
}

fn portable(codes: &[u8], stride: usize, rows: usize, panel: &[i8], out: &mut Tile) {
    for (row, sums) in out.0[..rows].iter_mut().enumerate() {
        *sums = [0; PANEL];
        for (group, weights) in panel.chunks_exact(PANEL * GROUP).enumerate() {
            let at = row * stride + group * GROUP;
            let codes: [i32; GROUP] = std::array::from_fn(|i| i32::from(codes[at + i]));
            for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(GROUP)) {
                for (code, &weight) in codes.iter().zip(weights) {
                    *sum = sum.wrapping_add(code * i32::from(weight));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use crate::quantized::tile::{GROUP, PANEL, Tile};

    /// # Safety
    /// The CPU has AVX-512 F, BW, VL and VNNI; `codes` is readable for `groups` groups of codes in each of `ROWS` rows,
    /// and `panel` for `groups` groups of its columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn avx512_vnni<const ROWS: usize>(
        codes: *const u8,
        stride: usize,
        groups: usize,
        panel: *const i8,
        next: *const i8,
        out: &mut Tile,
    ) {
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        for group in 0..groups {
            let at = next.wrapping_add(group * PANEL * GROUP);
            _mm_prefetch::<_MM_HINT_T1>(at);
            _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(64));
            // SAFETY: within the panel's groups.
            let weights = unsafe {
                let at = panel.add(group * PANEL * GROUP);
                [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(64).cast())]
            };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: within the row's groups.
                let four = unsafe { codes.add(row * stride + group * GROUP).cast::<i32>().read_unaligned() };
                let four = _mm512_set1_epi32(four);
                sums[0] = _mm512_dpbusd_epi32(sums[0], four, weights[0]);
                sums[1] = _mm512_dpbusd_epi32(sums[1], four, weights[1]);
            }
        }
        for (sums, out) in sums.iter().zip(out.0.iter_mut()) {
            // SAFETY: a row of the tile has room for two vectors.
            unsafe {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), sums[0]);
                _mm512_storeu_si512(out.as_mut_ptr().add(16).cast(), sums[1]);
            }
        }
    }

    /// Products of eight lanes by one instruction.
    macro_rules! vnni_of_eight {
        ($function:ident, $features:literal, $instruction:ident) => {
            /// # Safety
            /// The CPU has these features; the rest as for `avx512_vnni`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $function<const ROWS: usize>(
                codes: *const u8,
                stride: usize,
                groups: usize,
                panel: *const i8,
                next: *const i8,
                out: &mut Tile,
            ) {
                // Half a panel at a time: two vectors of eight columns, and the half's share of the next panel.
                for half in 0..2 {
                    let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
                    for group in 0..groups {
                        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add((half * groups + group) * 64));
                        // SAFETY: within the panel's groups.
                        let weights = unsafe {
                            let at = panel.add(group * PANEL * GROUP + half * 64);
                            [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())]
                        };
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let code = codes.wrapping_add(row * stride + group * GROUP).cast::<i32>();
                            // SAFETY: within the row's groups.
                            let four = unsafe { code.read_unaligned() };
                            let four = _mm256_set1_epi32(four);
                            sums[0] = $instruction(sums[0], four, weights[0]);
                            sums[1] = $instruction(sums[1], four, weights[1]);
                        }
                    }
                    for (sums, out) in sums.iter().zip(out.0.iter_mut()) {
                        // SAFETY: a row of the tile has room for four vectors.
                        unsafe {
                            let at = out.as_mut_ptr().add(half * 16);
                            _mm256_storeu_si256(at.cast(), sums[0]);
                            _mm256_storeu_si256(at.add(8).cast(), sums[1]);
                        }
                    }
                }
            }
        };
    }

    vnni_of_eight!(avx_vnni, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
    #[cfg(test)]
    vnni_of_eight!(avx512_vnni_of_eight, "avx2,avx512f,avx512vl,avx512vnni", _mm256_dpbusd_epi32);

    /// # Safety
    /// The CPU has AVX2; the rest as for `avx512_vnni`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn avx2<const ROWS: usize>(
        codes: *const u8,
        stride: usize,
        groups: usize,
        panel: *const i8,
        _: *const i8,
        out: &mut Tile,
    ) {
        // Eight columns at a time: two vectors of four columns, two partial sums each.
        for eighth in 0..PANEL / 8 {
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for group in 0..groups {
                // SAFETY: within the panel's groups.
                let weights = unsafe {
                    let at = panel.add(group * PANEL * GROUP + eighth * 8 * GROUP);
                    [
                        _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast())),
                        _mm256_cvtepi8_epi16(_mm_loadu_si128(at.add(16).cast())),
                    ]
                };
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: within the row's groups.
                    let four = unsafe { codes.add(row * stride + group * GROUP).cast::<i32>().read_unaligned() };
                    let four = _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
                    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(four, weights[0]));
                    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(four, weights[1]));
                }
            }
            for (sums, out) in sums.iter().zip(out.0.iter_mut()) {
                let columns = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(sums[0], sums[1]));
                // SAFETY: eight columns of a row of the tile.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(eighth * 8).cast(), columns) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantized::panels::Panels;
    use crate::quantized::quantization::CODES;
    use crate::quantized::tile::MAX_TILE_ROWS;

    #[test]
    fn every_instruction_set_multiplies_exactly_whatever_the_size() {
        let sizes = [(1, 1), (4, 32), (7, 33), (96, 40), (130, 64)];
        for ((inputs, columns), layout) in sizes.into_iter().flat_map(|size| Layout::ALL.map(|layout| (size, layout))) {
            // The extremes are among them: 255 × -128.
            let weight = |i: usize, j: usize| ((i * 37 + j * 101) % 256) as u8 as i8;
            let code = |row: usize, i: usize| 255 - ((row * 53 + i * 37) % 256) as u8;
            let zeroed = || Panels::zeroed(inputs, columns, layout);
            let (mut by_row, mut by_column) = (zeroed(), zeroed());
            let rows: Vec<Vec<i8>> = (0..inputs).map(|i| (0..columns).map(|j| weight(i, j)).collect()).collect();
            for (group, rows) in rows.chunks(GROUP).enumerate() {
                by_row.set_rows(group, std::array::from_fn(|i| rows.get(i).map(Vec::as_slice)));
            }
            for j in 0..columns {
                by_column.set_column(j, &(0..inputs).map(|i| weight(i, j)).collect::<Vec<_>>());
            }
            assert_eq!(by_row.codes()[..by_row.bytes()], by_column.codes()[..by_row.bytes()]);
            assert_eq!(by_row.column_sums, by_column.column_sums);
            let stride = inputs.next_multiple_of(CODES);
            let mut codes = vec![0u8; MAX_TILE_ROWS * stride];
            for row in 0..MAX_TILE_ROWS {
                (0..inputs).for_each(|i| codes[row * stride + i] = code(row, i));
            }
            for mut products in Kernels::every().into_iter().map(Products::of) {
                // What vectors read otherwise is read by a unit only.
                if products.layout(None).together() != layout.together() {
                    continue;
                }
                for rows in 1..=products.tile_rows() {
                    for panel in 0..by_row.panel_count() {
                        let mut out = Tile([[7; PANEL]; MAX_TILE_ROWS]);
                        products.multiply(&codes, stride, rows, by_row.panel(panel), None, &mut out);
                        for (row, sums) in out.0[..rows].iter().enumerate() {
                            for (lane, &sum) in sums.iter().enumerate() {
                                let j = panel * PANEL + lane;
                                let term = |i| i32::from(code(row, i)) * i32::from(weight(i, j));
                                let want = if j < columns { (0..inputs).map(term).sum() } else { 0 };
                                assert_eq!(sum, want, "{products:?} {inputs} × {columns}, row {row}, column {j}");
                            }
                        }
                    }
                }
            }
        }
    }
}

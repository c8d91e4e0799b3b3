//! A matrix unit in plain Rust, that computes what AMX computes, to the bit: with it, all that is built on units is tested
//! on machines without one.

use super::matrix_unit::{MatrixUnit, TILE_ROWS, TILE_WORDS};

type Tile = [[u32; TILE_WORDS]; TILE_ROWS];

/// Eight tiles.
pub(super) struct EmulatedTiles([Tile; 8]);

impl Default for EmulatedTiles {
    /// Filled with what shows when it is read.
    fn default() -> Self {
        EmulatedTiles([[[f32::NAN.to_bits(); TILE_WORDS]; TILE_ROWS]; 8])
    }
}

/// Zero in place of a number too small to be normal.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The bf16 in the low and in the high half of a word.
fn pair(word: u32) -> [f32; 2] {
    [flushed(f32::from_bits(word << 16)), flushed(f32::from_bits(word & 0xFFFF_0000))]
}

/// `a × b + c`, rounded once: the product of two bf16 is exact in f64, and of a sum whose smaller part is beyond what f64
/// holds the larger part is the nearest f32.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    flushed((f64::from(a) * f64::from(b) + f64::from(c)) as f32)
}

impl EmulatedTiles {
    fn factors(&self, sums: usize, left: usize, right: usize) -> (Tile, Tile) {
        assert!(sums != left && sums != right && left != right, "as the hardware has it");
        (self.0[left], self.0[right])
    }
}

// Columns are gone through innermost, where the compiler takes many at once: tests spend most of their time here.
impl MatrixUnit for EmulatedTiles {
    fn zero<const TILE: usize>(&mut self) {
        self.0[TILE] = [[0; TILE_WORDS]; TILE_ROWS];
    }
    fn add_bf16_products<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        let (left, right) = self.factors(SUMS, LEFT, RIGHT);
        for (sums, left) in self.0[SUMS].iter_mut().zip(&left) {
            let (mut first, mut second) = ([0f32; TILE_WORDS], [0f32; TILE_WORDS]);
            for (&word, right) in left.iter().zip(&right) {
                let [a, b] = pair(word);
                for (column, &word) in right.iter().enumerate() {
                    let [c, d] = pair(word);
                    first[column] = fused(a, c, first[column]);
                    second[column] = fused(b, d, second[column]);
                }
            }
            for (column, sum) in sums.iter_mut().enumerate() {
                let both = flushed(first[column] + second[column]);
                *sum = flushed(flushed(f32::from_bits(*sum)) + both).to_bits();
            }
        }
    }
    fn add_byte_products<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        let (left, right) = self.factors(SUMS, LEFT, RIGHT);
        for (sums, left) in self.0[SUMS].iter_mut().zip(&left) {
            for (word, right) in left.iter().zip(&right) {
                let unsigned = word.to_le_bytes();
                for (sum, word) in sums.iter_mut().zip(right) {
                    for (a, b) in unsigned.into_iter().zip(word.to_le_bytes()) {
                        *sum = sum.wrapping_add((i32::from(a) * i32::from(b as i8)) as u32);
                    }
                }
            }
        }
    }
    unsafe fn load<const TILE: usize>(&mut self, from: *const f32, stride: usize) {
        for (row, words) in self.0[TILE].iter_mut().enumerate() {
            // SAFETY: readable by contract.
            *words = unsafe { from.add(row * stride).cast::<[u32; TILE_WORDS]>().read_unaligned() };
        }
    }
    unsafe fn store<const TILE: usize>(&mut self, to: *mut f32, stride: usize) {
        for (row, words) in self.0[TILE].iter().enumerate() {
            // SAFETY: writable by contract.
            unsafe { to.add(row * stride).cast::<[u32; TILE_WORDS]>().write_unaligned(*words) };
        }
    }
}

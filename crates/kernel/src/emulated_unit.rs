//! A matrix unit in plain Rust, that computes what AMX computes, to the bit: with it, all that is built on units is tested
//! on machines without one.

use super::matrix_unit::{MatrixUnit, TILE_ROWS, TILE_WORDS};

/// Eight tiles.
pub(super) struct EmulatedTiles([[[u32; TILE_WORDS]; TILE_ROWS]; 8]);

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
    [word << 16, word & 0xFFFF_0000].map(|bits| flushed(f32::from_bits(bits)))
}

/// `a × b + c`, rounded once: the product of two bf16 is exact in f64, and of a sum whose smaller part is beyond what f64
/// holds the larger part is the nearest f32.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    flushed((f64::from(a) * f64::from(b) + f64::from(c)) as f32)
}

impl EmulatedTiles {
    fn add(&mut self, [sums, left, right]: [usize; 3], product: impl Fn(u32, &[u32], &[u32]) -> u32) {
        assert!(sums != left && sums != right && left != right, "as the hardware has it");
        for row in 0..TILE_ROWS {
            for column in 0..TILE_WORDS {
                let right: [u32; TILE_ROWS] = std::array::from_fn(|k| self.0[right][k][column]);
                self.0[sums][row][column] = product(self.0[sums][row][column], &self.0[left][row], &right);
            }
        }
    }
}

impl MatrixUnit for EmulatedTiles {
    fn zero<const TILE: usize>(&mut self) {
        self.0[TILE] = [[0; TILE_WORDS]; TILE_ROWS];
    }
    fn add_bf16_products<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        self.add([SUMS, LEFT, RIGHT], |sum, left, right| {
            let [mut first, mut second] = [0f32; 2];
            for (&left, &right) in left.iter().zip(right) {
                let ([a, b], [c, d]) = (pair(left), pair(right));
                first = fused(a, c, first);
                second = fused(b, d, second);
            }
            let both = flushed(first + second);
            flushed(flushed(f32::from_bits(sum)) + both).to_bits()
        });
    }
    fn add_byte_products<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        self.add([SUMS, LEFT, RIGHT], |sum, left, right| {
            let products = left.iter().zip(right).map(|(left, right)| {
                let signed = right.to_le_bytes().map(|byte| i32::from(byte as i8));
                left.to_le_bytes().into_iter().zip(signed).map(|(a, b)| i32::from(a) * b).sum::<i32>()
            });
            products.fold(sum as i32, i32::wrapping_add) as u32
        });
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

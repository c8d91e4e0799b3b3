//! [`Product`], by its definition.

use half::{bf16, f16};

use super::failed;
use crate::card::{Address, CardResult, Epilogue, Number, Product};

/// Columns that are summed at once.
const TILE: usize = 16;
/// Products that are worth a second thread.
const WORTH_A_THREAD: usize = 1 << 20;

/// A matrix: what it is called, its first row, its stride, rows and columns in numbers.
struct Matrix {
    name: &'static str,
    first: Address,
    stride: usize,
    rows: usize,
    columns: usize,
    number: Number,
}

impl Matrix {
    /// From its first number to its last.
    fn bytes(&self) -> usize {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        ((self.rows - 1) * self.stride + self.columns) * self.number.bytes()
    }

    /// Whether a number of one lies on a number of the other. Matrices may be columns of the same rows.
    fn overlaps(&self, other: &Matrix) -> bool {
        let (from, to) = (self.first.0, other.first.0);
        if self.bytes() == 0
            || other.bytes() == 0
            || from >= to + other.bytes() as u64
            || to >= from + self.bytes() as u64
        {
            return false;
        }
        let stride = self.stride * self.number.bytes();
        if stride != other.stride * other.number.bytes() {
            return true;
        }
        let place = (to as usize).wrapping_sub(from as usize);
        // Of `other`, within rows of `self`.
        let place = (place as isize).rem_euclid(stride as isize) as usize;
        place < self.columns * self.number.bytes() || place + other.columns * other.number.bytes() > stride
    }
}

/// Whether a card would take it. `check_range` tells whether so many bytes are there.
pub(super) fn check(
    product: &Product,
    check_range: impl Fn(&'static str, Address, usize) -> CardResult<()>,
) -> CardResult<()> {
    let Product { rows, depth, columns, number, to_number, .. } = *product;
    if to_number != number && to_number != Number::F32 {
        return failed(format!("multiply: {number:?} to {to_number:?}"));
    }
    if product.added != Address::NOWHERE && product.epilogue != Epilogue::None {
        return failed(format!("multiply: {:?} before something is added", product.epilogue));
    }
    let matrix = |name, (first, stride), rows, columns, number| Matrix { name, first, stride, rows, columns, number };
    let from = matrix("multiply, from", product.from, rows, depth, number);
    let weight = matrix("multiply, weight", product.weight, columns, depth, number);
    let to = matrix("multiply, to", product.to, rows, columns, to_number);
    let added = matrix("multiply, added", (product.added, product.to.1), rows, columns, to_number);
    let bias = matrix("multiply, bias", (product.bias, columns), 1, columns, to_number);
    let present = [&added, &bias].into_iter().filter(|matrix| matrix.first != Address::NOWHERE);
    for matrix in [&from, &weight, &to].into_iter().chain(present) {
        let Matrix { name, first, stride, .. } = *matrix;
        if stride < matrix.columns {
            return failed(format!("{name}: {} columns in a stride of {stride}", matrix.columns));
        }
        let rows_are_aligned = matrix.rows < 2 || (stride * matrix.number.bytes()).is_multiple_of(16);
        if !first.0.is_multiple_of(16) || !rows_are_aligned {
            return failed(format!("{name}: not every row lies on 16 bytes: {first:?}, a stride of {stride}"));
        }
        check_range(name, first, matrix.bytes())?;
        // Where something is added is where the sums may go.
        if name != to.name && (name != added.name || first != to.first) && to.overlaps(matrix) {
            return failed(format!("{name}: the result lies on it"));
        }
    }
    Ok(())
}

/// # Safety
/// `check` found nothing, and the matrices are the caller's.
pub(super) unsafe fn perform(product: &Product) {
    let Product { rows, depth, columns, number, to_number, .. } = *product;
    // SAFETY: within what was checked.
    let read = |number, (first, stride): (Address, usize), row, columns, to: &mut [f32]| unsafe {
        read_row(number, first.skip(row * stride * Number::bytes(number)), columns, to);
    };
    let mut from = vec![0.0; rows * depth];
    for (row, to) in from.chunks_exact_mut(depth.max(1)).enumerate() {
        read(number, product.from, row, depth, to);
    }
    // Tiles of columns, in each of them all of its weights for the first number of `from`, and so on.
    let mut weight = vec![0.0; columns.next_multiple_of(TILE) * depth];
    let mut line = vec![0.0; depth];
    for column in 0..columns {
        read(number, product.weight, column, depth, &mut line);
        let tile = &mut weight[column / TILE * TILE * depth..];
        for (index, value) in line.iter().enumerate() {
            tile[index * TILE + column % TILE] = *value;
        }
    }
    let mut sums = vec![0.0; rows * columns];
    if rows * columns * depth > WORTH_A_THREAD {
        let half = rows / 2;
        let (first, second) = sums.split_at_mut(half * columns);
        let weight = &weight;
        std::thread::scope(|scope| {
            scope.spawn(|| sum(&from[..half * depth], weight, depth, columns, first));
            sum(&from[half * depth..], weight, depth, columns, second);
        });
    } else {
        sum(&from, &weight, depth, columns, &mut sums);
    }
    let mut bias = vec![0.0; columns];
    if product.bias != Address::NOWHERE {
        read(to_number, (product.bias, columns), 0, columns, &mut bias);
    }
    let mut added = vec![0.0; columns];
    for (row, sums) in sums.chunks_exact_mut(columns.max(1)).enumerate() {
        if product.added != Address::NOWHERE {
            read(to_number, (product.added, product.to.1), row, columns, &mut added);
        }
        for ((sum, bias), added) in sums.iter_mut().zip(&bias).zip(&added) {
            *sum = epilogue(product.epilogue, *sum + bias) + added;
        }
        // SAFETY: within what was checked.
        unsafe { write_row(to_number, product.to.0.skip(row * product.to.1 * to_number.bytes()), sums) };
    }
}

/// Sums of `from`'s rows, in order of depth.
fn sum(from: &[f32], weight: &[f32], depth: usize, columns: usize, to: &mut [f32]) {
    if depth == 0 || columns == 0 {
        return;
    }
    for (tile, weight) in weight.chunks_exact(TILE * depth).enumerate() {
        let first = tile * TILE;
        let width = TILE.min(columns - first);
        for (from, to) in from.chunks_exact(depth).zip(to.chunks_exact_mut(columns)) {
            let mut sums = [0.0f32; TILE];
            for (x, weights) in from.iter().zip(weight.as_chunks::<TILE>().0) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += x * weight;
                }
            }
            to[first..first + width].copy_from_slice(&sums[..width]);
        }
    }
}

fn epilogue(epilogue: Epilogue, x: f32) -> f32 {
    match epilogue {
        Epilogue::None => x,
        Epilogue::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        // What is no number stays so.
        Epilogue::Relu if x < 0.0 => 0.0,
        Epilogue::Relu => x,
    }
}

/// # Safety
/// So many numbers are there.
unsafe fn read_row(number: Number, at: Address, columns: usize, to: &mut [f32]) {
    for (index, to) in to[..columns].iter_mut().enumerate() {
        // SAFETY: the caller's; they lie on multiples of their sizes.
        *to = unsafe {
            match number {
                Number::F32 => (at.0 as *const f32).add(index).read(),
                Number::F16 => (at.0 as *const f16).add(index).read().to_f32(),
                Number::Bf16 => (at.0 as *const bf16).add(index).read().to_f32(),
            }
        };
    }
}

/// # Safety
/// As many numbers are there, and the caller's.
unsafe fn write_row(number: Number, at: Address, from: &[f32]) {
    for (index, from) in from.iter().enumerate() {
        // SAFETY: the caller's; they lie on multiples of their sizes.
        unsafe {
            match number {
                Number::F32 => (at.0 as *mut f32).add(index).write(*from),
                Number::F16 => (at.0 as *mut f16).add(index).write(f16::from_f32(*from)),
                Number::Bf16 => (at.0 as *mut bf16).add(index).write(bf16::from_f32(*from)),
            }
        }
    }
}

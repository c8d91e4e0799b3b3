//! Products on a matrix unit: up to 32 rows times up to 32 columns at a time, the sums in four tiles.
//!
//! Both factors lie as they do for vectors: rows of words on the left, a panel of 32 columns on the right, of which a tile
//! takes sixteen words of every other half line. So a unit needs no packing of its own.
//!
//! An f32 is the exact sum of three bf16, each the nearest to what the ones before leave. Of the nine products of two such
//! sums, the six whose parts' indices add up to at most 2 give the product as exactly as f32 arithmetic has it; the three
//! of at most 1 are about 2⁻¹⁶ off. Of six, the five small ones are summed up over all steps before the large one, so that
//! few sums are rounded where they are large.

use super::isa::Simd;
use super::matrix_unit::{MatrixUnit, TILE_ROWS, TILE_WORDS};

/// Rows and columns of a block: two tiles each.
pub(super) const BLOCK: usize = 2 * TILE_ROWS;
/// In place of a number of products of bf16: products of bytes.
pub(super) const BYTES: usize = 0;

/// Where the factors are: row 0 and column 0, the distance of rows, and of the next part.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub left: (*const f32, usize, usize),
    pub right: (*const f32, usize, usize),
}

impl Factors {
    /// From that step of the depth on.
    fn skip(self, steps: usize) -> Factors {
        let Factors { left, right } = self;
        Factors {
            left: (left.0.wrapping_add(steps * TILE_WORDS), left.1, left.2),
            right: (right.0.wrapping_add(steps * TILE_WORDS * right.1), right.1, right.2),
        }
    }
}

/// What a core does while its unit multiplies.
pub(super) trait Meanwhile {
    /// A little of it: as long as four products take.
    fn go_on(&mut self);
}

/// What is multiplied next is brought nearer.
pub(super) struct Fetch<S> {
    s: S,
    from: *const f32,
    lines: usize,
}

impl<S: Simd> Fetch<S> {
    /// So many words from there (any address) on, in so many times.
    pub(super) fn new(s: S, from: *const f32, words: usize, times: usize) -> Fetch<S> {
        Fetch { s, from, lines: words.div_ceil(LINE).div_ceil(times.max(1)) }
    }
}

/// Words of a cache line.
const LINE: usize = 16;

impl<S: Simd> Meanwhile for Fetch<S> {
    #[inline(always)]
    fn go_on(&mut self) {
        for _ in 0..self.lines {
            self.s.prefetch_next(self.from);
            self.from = self.from.wrapping_add(LINE);
        }
    }
}

/// The next weights, rows of f32, are split into parts.
pub(super) struct Split<S> {
    s: S,
    from: *const f32,
    to: *mut f32,
    part: usize,
    pairs: usize,
    done: usize,
    at_once: usize,
    then: Fetch<S>,
}

/// Words ahead of those that are split, that are asked for: they come from the third-level cache.
const SPLIT_AHEAD: usize = 2048;

impl<S: Simd> Split<S> {
    /// So many pairs of rows of a panel, whole vectors of them, in so many times; if there are none, something is fetched. Three parts are written,
    /// `part` words apart.
    ///
    /// # Safety
    /// While it goes on, `from` must be readable for these rows, and `to` writable for half as many in every part, by
    /// nobody else.
    pub(super) unsafe fn new(
        s: S,
        from: *const f32,
        (to, part): (*mut f32, usize),
        pairs: usize,
        times: usize,
        then: Fetch<S>,
    ) -> Split<S> {
        Split { s, from, to, part, pairs, done: 0, at_once: pairs.div_ceil(times.max(1)), then }
    }

    /// What is left.
    #[inline(always)]
    pub(super) fn finish(mut self) {
        while self.pairs > 0 {
            self.go_on();
        }
    }
}

impl<S: Simd> Meanwhile for Split<S> {
    #[inline(always)]
    fn go_on(&mut self) {
        if self.at_once == 0 {
            return self.then.go_on();
        }
        for _ in 0..self.at_once.min(self.pairs) {
            // SAFETY: by the promise made to `new`, this pair is there; the last of the pairs has not been reached.
            unsafe { split_pair(self.s, self.from, self.to, self.part) };
            for line in 0..2 * BLOCK / LINE {
                let ahead = SPLIT_AHEAD + line / 2 * S::LANES * BLOCK + line % 2 * LINE;
                self.s.prefetch_next(self.from.wrapping_add(ahead));
            }
            self.done += 1;
            // The next first row: the one beside, or beyond the second ones.
            let rows = if self.done.is_multiple_of(S::LANES) { 1 + S::LANES } else { 1 };
            self.from = self.from.wrapping_add(rows * BLOCK);
            self.to = self.to.wrapping_add(BLOCK);
        }
        self.pairs -= self.at_once.min(self.pairs);
    }
}

/// Splits two rows of a panel, those a vector apart, into words of their parts. They are cut off, not rounded, which is as exact where the other
/// factor is rounded, and keeps what is no number.
///
/// # Safety
/// `from` must be readable for both rows, `to` writable for one in each of three parts.
#[inline(always)]
unsafe fn split_pair<S: Simd>(s: S, from: *const f32, to: *mut f32, part: usize) {
    for at in (0..BLOCK).step_by(S::LANES) {
        // SAFETY: within the rows.
        unsafe {
            let (mut first, mut second) = (s.load(from.add(at)), s.load(from.add(S::LANES * BLOCK + at)));
            s.store(to.add(at), s.bits(s.pairs_of_upper_halves(first, second)));
            (first, second) = (s.sub(first, s.upper_half(first)), s.sub(second, s.upper_half(second)));
            s.store(to.add(part + at), s.bits(s.pairs_of_upper_halves(first, second)));
            (first, second) = (s.sub(first, s.upper_half(first)), s.sub(second, s.upper_half(second)));
            s.store(to.add(2 * part + at), s.bits(s.pairs_of_upper_halves(first, second)));
        }
    }
}

/// Products after which a tile is stored, though it is not done: where many more are computed in a row, the next store
/// takes a thousand cycles on the CPUs met so far.
const PRODUCTS_IN_A_ROW: usize = 48;

/// Counts products since the last store.
struct Row {
    products: usize,
    sums: *mut f32,
    stride: usize,
}

impl Row {
    /// So many groups of four more; a tile is stored where there have been enough.
    ///
    /// # Safety
    /// `sums` must be writable for a tile.
    #[inline(always)]
    unsafe fn grow<U: MatrixUnit>(&mut self, unit: &mut U, groups: usize) {
        self.products += 4 * groups;
        if self.products + 4 * groups > PRODUCTS_IN_A_ROW {
            self.products = 0;
            // SAFETY: writable by contract; what is stored is overwritten by the sums.
            unsafe { unit.store::<0>(self.sums, self.stride) };
        }
    }
}

/// A part of the left factor times one of the right.
struct Product {
    parts: (usize, usize),
    /// Whether each is still to be loaded into its tiles.
    loads: (bool, bool),
}

impl Product {
    const fn new(parts: (usize, usize), loads: (bool, bool)) -> Product {
        Product { parts, loads }
    }
}

/// Of six products in parts the five small ones.
const SMALL: [Product; 5] = [
    Product::new((0, 2), (true, true)),
    Product::new((0, 1), (false, true)),
    Product::new((1, 1), (true, false)),
    Product::new((1, 0), (false, true)),
    Product::new((2, 0), (true, false)),
];
/// Three products in parts.
const THREE: [Product; 3] =
    [Product::new((0, 1), (true, true)), Product::new((0, 0), (false, true)), Product::new((1, 0), (true, false))];
/// The large one of six, and all there is of one part.
const LARGE: [Product; 1] = [Product::new((0, 0), (true, true))];

/// The sums of a block over some steps of the depth, stored `sums.1` words apart.
///
/// # Safety
/// The left factor must be readable for sixteen or 32 rows, the fewest that hold `rows`, the right one for sixteen or 32
/// columns, in all words of these steps and all parts; `sums` must be writable for as many of both.
#[inline(always)]
pub(super) unsafe fn block<U: MatrixUnit, M: Meanwhile, const TERMS: usize>(
    unit: &mut U,
    (rows, columns): (usize, usize),
    factors: Factors,
    steps: std::ops::Range<usize>,
    sums: (*mut f32, usize),
    meanwhile: &mut M,
) {
    let (factors, steps) = (factors.skip(steps.start), steps.len());
    let size = (rows > TILE_ROWS, columns > TILE_WORDS);
    // SAFETY: handed on.
    unsafe {
        match size {
            (true, true) => tiles::<U, M, TERMS, true>(unit, size, factors, steps, sums, meanwhile),
            _ => tiles::<U, M, TERMS, false>(unit, size, factors, steps, sums, meanwhile),
        }
    }
}

/// A block of one or two tiles each way, `WHOLE` if two both ways. Tiles 0 to 3 hold the sums, 4 and 5 the left factor, 6 and
/// 7 the right one.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
unsafe fn tiles<U: MatrixUnit, M: Meanwhile, const TERMS: usize, const WHOLE: bool>(
    unit: &mut U,
    size: (bool, bool),
    factors: Factors,
    steps: usize,
    (sums, stride): (*mut f32, usize),
    meanwhile: &mut M,
) {
    // SAFETY: within the factors and the sums, by contract.
    unsafe {
        unit.zero::<0>();
        unit.zero::<1>();
        unit.zero::<2>();
        unit.zero::<3>();
        let mut row = Row { products: 0, sums, stride };
        if TERMS == 6 {
            all_steps::<U, M, TERMS, WHOLE>(unit, size, (factors, steps), &SMALL, &mut row, meanwhile);
        }
        let products: &[Product] = if TERMS == 3 { &THREE } else { &LARGE };
        all_steps::<U, M, TERMS, WHOLE>(unit, size, (factors, steps), products, &mut row, meanwhile);
        let (tall, wide) = if WHOLE { (true, true) } else { size };
        let below = sums.wrapping_add(TILE_ROWS * stride);
        unit.store::<0>(sums, stride);
        if wide {
            unit.store::<1>(sums.add(TILE_WORDS), stride);
        }
        if tall {
            unit.store::<2>(below, stride);
        }
        if tall && wide {
            unit.store::<3>(below.add(TILE_WORDS), stride);
        }
    }
}

/// Adds these products of each step.
///
/// # Safety
/// The factors must be readable for the steps, `row`'s sums writable for a tile.
#[inline(always)]
unsafe fn all_steps<U: MatrixUnit, M: Meanwhile, const TERMS: usize, const WHOLE: bool>(
    unit: &mut U,
    size: (bool, bool),
    (mut factors, steps): (Factors, usize),
    products: &[Product],
    row: &mut Row,
    meanwhile: &mut M,
) {
    for _ in 0..steps {
        // A loop, and not as many copies: what is done meanwhile is in each.
        for product in products {
            // SAFETY: handed on.
            unsafe { multiply::<U, TERMS, WHOLE>(unit, size, factors, product) };
            meanwhile.go_on();
        }
        // SAFETY: handed on.
        unsafe { row.grow(unit, products.len()) };
        factors = factors.skip(1);
    }
}

/// One step of one part of the left by one of the right, loading those that are not in their tiles yet.
///
/// # Safety
/// Both parts must be readable for a step.
#[inline(always)]
unsafe fn multiply<U: MatrixUnit, const TERMS: usize, const WHOLE: bool>(
    unit: &mut U,
    size: (bool, bool),
    Factors { left, right }: Factors,
    product: &Product,
) {
    let from_left = left.0.wrapping_add(product.parts.0 * left.2);
    let from_right = right.0.wrapping_add(product.parts.1 * right.2);
    let (tall, wide) = if WHOLE { (true, true) } else { size };
    let (load_left, load_right) = if TERMS == 3 || TERMS == 6 { product.loads } else { (true, true) };
    // SAFETY: readable by contract.
    unsafe {
        // With few parts the right factor, which the next rows need again, is best left in the first-level cache.
        if load_left && TERMS == 6 {
            unit.load::<4>(from_left, left.1);
        } else if load_left {
            unit.load_once::<4>(from_left, left.1);
        }
        if load_right {
            unit.load::<6>(from_right, right.1);
        }
        add_products::<U, TERMS, 0, 4, 6>(unit);
        if wide {
            if load_right {
                unit.load::<7>(from_right.add(TILE_WORDS), right.1);
            }
            add_products::<U, TERMS, 1, 4, 7>(unit);
        }
        if tall {
            if load_left && TERMS == 6 {
                unit.load::<5>(from_left.add(TILE_ROWS * left.1), left.1);
            } else if load_left {
                unit.load_once::<5>(from_left.add(TILE_ROWS * left.1), left.1);
            }
            add_products::<U, TERMS, 2, 5, 6>(unit);
        }
        if tall && wide {
            add_products::<U, TERMS, 3, 5, 7>(unit);
        }
    }
}

#[inline(always)]
fn add_products<U: MatrixUnit, const TERMS: usize, const SUMS: usize, const LEFT: usize, const RIGHT: usize>(
    unit: &mut U,
) {
    match TERMS {
        BYTES => unit.add_byte_products::<SUMS, LEFT, RIGHT>(),
        _ => unit.add_bf16_products::<SUMS, LEFT, RIGHT>(),
    }
}

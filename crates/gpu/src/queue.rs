//! Kernels by their names, each with its launch: how many threads, and who has which rows.

use std::ffi::CStr;

use crate::arguments::{
    ActivationArguments, AddNormedArguments, AddShareArguments, AttentionArguments, EmbeddingArguments,
    GatherArguments, HeadsArguments, NormArguments, PoolingArguments, RouteArguments, TakersArguments, WidenArguments,
};
use crate::card::{Card, CardResult, Launch, Number, Product};
use crate::layout::{TILE_QUERIES, Takers};

/// Threads of a block.
const THREADS: u32 = 128;
/// Rows of a block, where each warp has one.
const ROWS: u32 = THREADS / 32;

/// Head sizes that attention in 16 bits is compiled for, with the keys of a tile; others are rounded up to the next.
const HEAD_SIZES: [(usize, usize); 6] = [(32, 64), (64, 64), (80, 64), (96, 64), (128, 64), (256, 32)];

/// The largest head.
pub(crate) const LARGEST_HEAD: usize = HEAD_SIZES[HEAD_SIZES.len() - 1].0;

/// A card's queue, for numbers of one kind.
#[derive(Debug)]
pub(crate) struct Queue<'c, C> {
    pub(crate) card: &'c C,
    pub(crate) number: Number,
}

/// The kernel's name for the queue's numbers.
macro_rules! named {
    ($queue:expr, $name:literal) => {
        named!($queue, $name, concat!($name, "_f32\0"))
    };
    ($queue:expr, $name:literal, $f32:expr) => {{
        let name = match $queue.number {
            Number::F32 => $f32,
            Number::F16 => concat!($name, "_f16\0"),
            Number::Bf16 => concat!($name, "_bf16\0"),
        };
        CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or_default()
    }};
}

/// What is asked for here is done later: arguments name memory that must be the caller's until then, as large as they say. So all
/// of these are unsafe, with [`Card::launch`]'s conditions and errors.
impl<C: Card> Queue<'_, C> {
    unsafe fn launch<A>(&self, kernel: &CStr, blocks: [u32; 2], shared_bytes: usize, arguments: &A) -> CardResult<()> {
        if blocks.contains(&0) {
            return Ok(());
        }
        let (shared_bytes, arguments_bytes) = (shared_bytes as u32, size_of::<A>());
        let launch = Launch { blocks, threads: THREADS, shared_bytes, arguments_bytes };
        // SAFETY: the caller's promise; the arguments are the structure that the kernel of this name takes.
        unsafe { self.card.launch(kernel, launch, std::ptr::from_ref(arguments).cast()) }
    }

    unsafe fn by_rows<A>(&self, kernel: &CStr, rows: u32, arguments: &A) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(kernel, [rows.div_ceil(ROWS), 1], 0, arguments) }
    }

    /// The rows' embeddings, in f32 where `wide`.
    pub(crate) unsafe fn embed(&self, wide: bool, arguments: &EmbeddingArguments) -> CardResult<()> {
        let kernel = if wide { named!(self, "embed_wide", "embed_f32\0") } else { named!(self, "embed") };
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(kernel, arguments.rows, arguments) }
    }

    /// Norms of rows, which are of f32 where `wide`.
    pub(crate) unsafe fn norm(&self, wide: bool, arguments: &NormArguments) -> CardResult<()> {
        let kernel = if wide { named!(self, "norm_wide", "norm_f32\0") } else { named!(self, "norm") };
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(kernel, arguments.rows, arguments) }
    }

    /// Adds norms of rows to rows of f32.
    pub(crate) unsafe fn add_normed(&self, arguments: &AddNormedArguments) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(named!(self, "add_normed"), arguments.rows, arguments) }
    }

    /// Norms and turns queries and keys.
    pub(crate) unsafe fn prepare_heads(&self, arguments: &HeadsArguments) -> CardResult<()> {
        let parts = if arguments.over_all != 0 { 2 } else { arguments.heads + arguments.key_heads };
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(named!(self, "prepare_heads"), arguments.rows * parts, arguments) }
    }

    /// Attention of so many tiles and all heads.
    pub(crate) unsafe fn attend(&self, tiles: usize, arguments: &AttentionArguments) -> CardResult<()> {
        let size = arguments.size as usize;
        let (columns, keys) = HEAD_SIZES.into_iter().find(|&(columns, _)| size <= columns).unwrap_or(HEAD_SIZES[5]);
        let (kernel, shared_bytes) = match (self.number, columns) {
            (Number::F32, _) => (c"attend_f32", 4 * (3 * 16 * (size + 1) + 16 * 17)),
            _ => {
                let kernel = match columns {
                    32 => named!(self, "attend_32", ""),
                    64 => named!(self, "attend_64", ""),
                    80 => named!(self, "attend_80", ""),
                    96 => named!(self, "attend_96", ""),
                    128 => named!(self, "attend_128", ""),
                    _ => named!(self, "attend_256", ""),
                };
                (kernel, 2 * (TILE_QUERIES + 2 * keys) * (columns + 8))
            }
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch(kernel, [tiles as u32, arguments.heads], shared_bytes, arguments) }
    }

    /// Activates, and multiplies by factors where there are some.
    pub(crate) unsafe fn activate(&self, arguments: &ActivationArguments) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(named!(self, "activate"), arguments.rows, arguments) }
    }

    /// Which experts a row takes.
    pub(crate) unsafe fn route(&self, arguments: &RouteArguments) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(named!(self, "route"), arguments.rows, arguments) }
    }

    /// Rows in f32, and a bias added.
    pub(crate) unsafe fn widen(&self, arguments: &WidenArguments) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(named!(self, "widen"), arguments.rows, arguments) }
    }

    /// Lists the rows that took each expert.
    pub(crate) unsafe fn list_takers(&self, arguments: &TakersArguments) -> CardResult<()> {
        let threads = Takers::groups(arguments.rows as usize) as u32 * arguments.experts;
        let blocks = [threads.div_ceil(THREADS), 1];
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(c"count_takers", blocks, 0, arguments)?;
            self.launch(c"list_takers", blocks, 0, arguments)
        }
    }

    /// Copies some rows.
    pub(crate) unsafe fn gather(&self, arguments: &GatherArguments) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(c"gather", arguments.rows, arguments) }
    }

    /// Adds an expert's share.
    pub(crate) unsafe fn add_share(&self, arguments: &AddShareArguments) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.by_rows(named!(self, "add_share"), arguments.rows, arguments) }
    }

    /// One vector of each of so many sequences.
    pub(crate) unsafe fn pool(&self, sequences: usize, arguments: &PoolingArguments) -> CardResult<()> {
        let blocks = [sequences as u32, arguments.width.div_ceil(32)];
        // SAFETY: the caller's promise.
        unsafe { self.launch(named!(self, "pool"), blocks, 4 * THREADS as usize, arguments) }
    }

    /// A product.
    pub(crate) unsafe fn multiply(&self, product: &Product) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.card.multiply(product) }
    }
}

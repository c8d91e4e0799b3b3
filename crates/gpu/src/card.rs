//! What the executor asks of a card: memory, copies, kernels, products, and to replay what it recorded.
//!
//! Two answer: an NVIDIA GPU (`cuda`), and the CPU with the same kernels compiled for it (`emulated`), so that everything but
//! the driver is tested on any machine.

use std::ffi::CStr;
use std::fmt;

use half::{bf16, f16};

/// Where something lies in a card's memory.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    /// In place of what is not there.
    pub const NOWHERE: Address = Address(0);

    /// So many bytes further.
    #[must_use]
    pub fn skip(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// The numbers of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Number {
    /// 4 bytes.
    F32,
    /// 2 bytes, 5 bits of them the exponent.
    F16,
    /// 2 bytes, 8 bits of them the exponent.
    Bf16,
}

impl Number {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Number::F32 => 4,
            Number::F16 | Number::Bf16 => 2,
        }
    }
}

/// Numbers as a card's memory has them, rounded to the nearest.
pub fn bytes_of(number: Number, values: &[f32]) -> Vec<u8> {
    match number {
        Number::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Number::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Number::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
    }
}

/// The values of such bytes.
pub fn values_of(number: Number, bytes: &[u8]) -> Vec<f32> {
    match number {
        Number::F32 => bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
        Number::F16 => bytes.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()).collect(),
        Number::Bf16 => bytes.as_chunks().0.iter().map(|&value| bf16::from_le_bytes(value).to_f32()).collect(),
    }
}

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks of threads, in two directions; none is no launch at all.
    pub blocks: [u32; 2],
    /// Threads of a block, a multiple of 32.
    pub threads: u32,
    /// Bytes of memory that a block's threads share.
    pub shared_bytes: u32,
    /// Bytes of the structure that the kernel takes.
    pub arguments_bytes: usize,
}

/// What is done to a product's sums before they are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// GELU's tanh approximation.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
}

/// `to[rows, columns] = epilogue(from[rows, depth] · weight[columns, depth]ᵀ + bias[columns]) + added[rows, columns]`, summed in
/// f32. Strides are in numbers, and with them and the addresses every row lies on 16 bytes. There is no epilogue where something
/// is added.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Rows of `from`.
    pub rows: usize,
    /// Columns of `from` and of `weight`.
    pub depth: usize,
    /// Rows of `weight`, columns of `to`.
    pub columns: usize,
    /// The numbers of `from` and `weight`.
    pub number: Number,
    /// The numbers of `to`, `added` and `bias`: as above, or f32.
    pub to_number: Number,
    /// First row and stride.
    pub from: (Address, usize),
    /// First row and stride.
    pub weight: (Address, usize),
    /// Or nowhere.
    pub bias: Address,
    /// See [`Epilogue`].
    pub epilogue: Epilogue,
    /// Or nowhere; with the stride of `to`, and `to` itself perhaps.
    pub added: Address,
    /// First row and stride.
    pub to: (Address, usize),
}

/// What the driver answers to all that is asked of a context after it: only a new process can use the card again.
pub const LOST: [&str; 14] = [
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_UNKNOWN",
];

/// What went wrong with a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardError {
    /// It has no memory left for this. It goes on working.
    OutOfMemory,
    /// Whatever is asked of it from now on fails in this process ([`LOST`]); in the driver's words.
    Lost(String),
    /// Anything else, in the driver's words.
    Failed(String),
}

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CardError::OutOfMemory => f.write_str("out of memory"),
            CardError::Lost(reason) | CardError::Failed(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for CardError {}

/// Result with [`CardError`].
pub type CardResult<T> = Result<T, CardError>;

/// A card. Copies, kernels and products are done one after the other, in the order in which they are asked for, and may be done
/// later than the call returns; [`Card::wait`] waits for all of them.
pub trait Card: Send + fmt::Debug + 'static {
    /// Memory on the card, given back when dropped (after what was asked for before is done).
    type Memory: Send;
    /// Memory of the host that the card copies from and to by itself; to be written and read while nothing is copied.
    type Staging: Send + AsMut<[u8]>;
    /// Work that can be asked for again as a whole.
    type Recording: Send;
    /// A point in what was asked for.
    type Mark: Mark;

    /// Whether many rows at once are faster than a few: it is not the CPU in a card's place.
    fn is_parallel(&self) -> bool {
        true
    }

    /// Returns memory to whoever else uses the card that is kept for the next use.
    ///
    /// # Errors
    /// What the driver says.
    fn give_back_unused(&self) -> CardResult<()> {
        Ok(())
    }

    /// Bytes of the card's memory that nobody has, and all of them.
    ///
    /// # Errors
    /// What the driver says.
    fn memory(&self) -> CardResult<(usize, usize)>;

    /// Takes memory, all zero, at a multiple of 256.
    ///
    /// # Errors
    /// `OutOfMemory`, or what the driver says.
    fn take(&self, bytes: usize) -> CardResult<Self::Memory>;

    /// Where memory lies.
    fn address(&self, memory: &Self::Memory) -> Address;

    /// Takes memory of the host, all zero, at a multiple of 16.
    ///
    /// # Errors
    /// As [`Card::take`].
    fn staging(&self, bytes: usize) -> CardResult<Self::Staging>;

    /// Copies bytes of the host to a place, and returns when that is done.
    ///
    /// # Safety
    /// As many bytes there are the caller's.
    ///
    /// # Errors
    /// What the driver says.
    unsafe fn write(&self, to: Address, bytes: &[u8]) -> CardResult<()>;

    /// Copies the first so many bytes to a place. May be recorded.
    ///
    /// # Safety
    /// As many bytes there are the caller's, and the host's are neither written nor dropped before [`Card::wait`], or that for a
    /// later [`Card::Mark`], returns.
    ///
    /// # Errors
    /// What the driver says.
    unsafe fn copy_in(&self, from: &Self::Staging, bytes: usize, to: Address) -> CardResult<()>;

    /// Copies so many bytes of a place to the first ones of the host's. May be recorded.
    ///
    /// # Safety
    /// As [`Card::copy_in`]; nor are they read before.
    ///
    /// # Errors
    /// What the driver says.
    unsafe fn copy_out(&self, from: Address, bytes: usize, to: &Self::Staging) -> CardResult<()>;

    /// Runs a kernel by its name. Its one argument is a `#[repr(C)]` structure, given as its bytes' address. May be recorded.
    ///
    /// # Safety
    /// `arguments` points to what the kernel takes, and it accesses only what is the caller's.
    ///
    /// # Errors
    /// What the driver says.
    unsafe fn launch(&self, kernel: &CStr, launch: Launch, arguments: *const std::ffi::c_void) -> CardResult<()>;

    /// Computes a product. May be recorded.
    ///
    /// # Safety
    /// Its matrices are the caller's.
    ///
    /// # Errors
    /// What the driver says.
    unsafe fn multiply(&self, product: &Product) -> CardResult<()>;

    /// Records what is asked for within `work` in place of doing it. `work` takes no memory and waits for nothing.
    ///
    /// # Safety
    /// All memory that it uses, staging included, outlives the recording.
    ///
    /// # Errors
    /// Those of `work`, and what the driver says.
    unsafe fn record(&self, work: &mut dyn FnMut() -> CardResult<()>) -> CardResult<Self::Recording>;

    /// Does what was recorded.
    ///
    /// # Safety
    /// As for everything that was recorded.
    ///
    /// # Errors
    /// What the driver says.
    unsafe fn replay(&self, recording: &Self::Recording) -> CardResult<()>;

    /// Waits for everything that was asked for.
    ///
    /// # Errors
    /// What the driver says, also of what was asked for before.
    fn wait(&self) -> CardResult<()>;

    /// Marks what was asked for so far.
    ///
    /// # Errors
    /// What the driver says.
    fn mark(&self) -> CardResult<Self::Mark>;
}

/// A point in what a card was asked for. Another thread may wait for it, while the card is asked for more.
pub trait Mark: Send {
    /// Waits until everything before it is done.
    ///
    /// # Errors
    /// As [`Card::wait`].
    fn wait(&self) -> CardResult<()>;
}

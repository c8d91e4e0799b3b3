//! Which instruction sets there are kernels for, and which of them this CPU has.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::dot::{ByteProducts, Factors};
use super::isa::{PANEL_VECTORS, Simd, Task};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::operand::Form;
use super::portable::Portable;
use super::precision::Precision;
use super::unit::Unit;
use crate::error::{Error, Result};

/// The instruction sets there are kernels for, the widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstructionSet {
    /// AVX-512 and AMX: tiles of bf16 and of bytes. Products of f32 are sums of six of bf16.
    Amx,
    /// 16 lanes; AVX-512 F, BW, VL, DQ.
    Avx512,
    /// 8 lanes; AVX2 and FMA.
    Avx2,
    /// 4 lanes; what every CPU of 64-bit ARM has, with products of bytes by DotProd or I8MM and of bf16 where it has them.
    Neon,
    /// 4 lanes in plain Rust, for the compiler to vectorise.
    Portable,
}

impl InstructionSet {
    /// Every set.
    pub const ALL: [InstructionSet; 5] = [
        InstructionSet::Amx,
        InstructionSet::Avx512,
        InstructionSet::Avx2,
        InstructionSet::Neon,
        InstructionSet::Portable,
    ];

    /// Its name on the command line and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            InstructionSet::Amx => "amx",
            InstructionSet::Avx512 => "avx512",
            InstructionSet::Avx2 => "avx2",
            InstructionSet::Neon => "neon",
            InstructionSet::Portable => "portable",
        }
    }
}

impl std::fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for InstructionSet {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = InstructionSet::ALL.into_iter().find(|set| set.name() == name);
        known.ok_or_else(|| {
            Error::unusable(format!("unknown instruction set '{name}': use amx, avx512, avx2, neon or portable"))
        })
    }
}

/// The kernels of one instruction set that this CPU has.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    vectors: Token,
    /// What multiplies in place of the vectors, in precisions whose factors it takes.
    unit: Option<Unit>,
    /// Whether the unit multiplies f32 too, in parts.
    splits_f32: bool,
    /// Whether attention is the unit's too in precisions of several parts.
    splits_attention: bool,
    /// Whether vectors multiply bf16 by bf16, by instructions for it. Without, they multiply f32 by bf16.
    multiplies_bf16: bool,
}

#[derive(Debug, Clone, Copy)]
enum Token {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    Portable(Portable),
}

impl Kernels {
    /// The widest this CPU has.
    pub fn detect() -> Kernels {
        static WIDEST: OnceLock<Kernels> = OnceLock::new();
        *WIDEST.get_or_init(|| Kernels::available()[0])
    }

    /// Every set this CPU has, the widest first. Never empty.
    pub fn available() -> Vec<Kernels> {
        InstructionSet::ALL.into_iter().filter_map(|set| Kernels::with(set).ok()).collect()
    }

    /// Every set this CPU has, AVX-512, AVX2 and NEON also as other CPUs have them.
    #[cfg(test)]
    pub(super) fn every() -> Vec<Kernels> {
        let mut every = Kernels::available();
        #[cfg(target_arch = "x86_64")]
        if let Some(set) = Avx512::detect() {
            let widest = Kernels::of_vectors(Token::Avx512(set));
            every.extend(widest.multiplies_bf16.then(|| widest.with_f32_by_bf16()));
            every.push(Kernels::of_vectors(Token::Avx512(set.plain())));
        }
        #[cfg(target_arch = "x86_64")]
        every
            .extend(Avx2::detect().into_iter().flat_map(Avx2::others).map(|set| Kernels::of_vectors(Token::Avx2(set))));
        #[cfg(target_arch = "aarch64")]
        for set in Neon::detect().older() {
            every.push(Kernels::of_vectors(Token::Neon(set)));
        }
        every
    }

    /// The longest vectors this CPU has and the shortest, each with the emulated unit.
    #[cfg(test)]
    pub(super) fn emulated() -> Vec<Kernels> {
        let sets = [InstructionSet::Avx512, InstructionSet::Portable].map(Kernels::with);
        let vectors = sets.into_iter().flatten();
        vectors.map(|kernels| kernels.with_unit(Unit::Emulated)).collect()
    }

    fn of_vectors(vectors: Token) -> Kernels {
        let multiplies_bf16 = match vectors {
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => simd.has_bf16_products(),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(simd) => simd.has_squares(Precision::Bf16),
            _ => false,
        };
        Kernels { vectors, unit: None, splits_f32: false, splits_attention: false, multiplies_bf16 }
    }

    /// The same with a unit, for all that it can.
    fn with_unit(self, unit: Unit) -> Kernels {
        Kernels { unit: Some(unit), splits_f32: true, splits_attention: true, ..self }
    }

    /// A given set.
    ///
    /// # Errors
    /// `Unusable` if this CPU lacks it.
    pub fn with(set: InstructionSet) -> Result<Kernels> {
        let kernels = match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Amx => Avx512::detect()
                .zip(Unit::detect())
                .map(|(set, unit)| Kernels::of_vectors(Token::Avx512(set)).with_unit(unit)),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => Avx512::detect().map(|set| Kernels::of_vectors(Token::Avx512(set))),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => Avx2::detect().map(|set| Kernels::of_vectors(Token::Avx2(set))),
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => Some(Kernels::of_vectors(Token::Neon(Neon::detect()))),
            InstructionSet::Portable => Some(Kernels::of_vectors(Token::Portable(Portable))),
            _ => None,
        };
        kernels.ok_or_else(|| Error::unusable(format!("this CPU has no {set}: choose another instruction set")))
    }

    /// Which one it is.
    pub fn instruction_set(self) -> InstructionSet {
        if self.unit.is_some() {
            return InstructionSet::Amx;
        }
        match self.vectors {
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => InstructionSet::Avx512,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => InstructionSet::Avx2,
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => InstructionSet::Neon,
            Token::Portable(_) => InstructionSet::Portable,
        }
    }

    /// Runs a task with these instructions.
    pub(super) fn run<T: Task>(self, task: T) -> T::Output {
        match self.vectors {
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => simd.call(task),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(simd) => simd.call(task),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(simd) => simd.call(task),
            Token::Portable(simd) => simd.call(task),
        }
    }

    /// Whether vectors multiply bf16 by bf16, by instructions for it.
    pub(super) fn multiplies_bf16(self) -> bool {
        self.multiplies_bf16
    }

    /// Whether attention by vectors is faster rounded to bf16. Not where bf16 are multiplied in squares: ARM's instructions round to
    /// odd, so that what a mask hides, next to nothing as it is, would show in the last bit.
    pub(super) fn rounds_attention(self) -> bool {
        self.multiplies_bf16 && !self.has_squares(Precision::Bf16)
    }

    /// By which instructions bytes are multiplied.
    pub(super) fn byte_products(self) -> ByteProducts {
        match self.vectors {
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => simd.byte_products(),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(simd) => simd.byte_products(),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(simd) => simd.byte_products(),
            Token::Portable(_) => ByteProducts::Portable,
        }
    }

    /// What vectors multiply in a precision.
    pub(super) fn factors(self, precision: Precision) -> Factors {
        match precision {
            Precision::F32 | Precision::Bf16x3 => Factors::F32,
            Precision::F16 => Factors::F32ByF16,
            Precision::Bf16 if self.multiplies_bf16 && self.has_squares(precision) => Factors::Bf16Squares,
            Precision::Bf16 if self.multiplies_bf16 => Factors::Bf16,
            Precision::Bf16 => Factors::F32ByBf16,
            Precision::Int8 if self.has_squares(precision) => Factors::ByteSquares,
            Precision::Int8 => Factors::Bytes,
        }
    }

    /// Whether vectors multiply what that precision rounds to in squares.
    fn has_squares(self, precision: Precision) -> bool {
        match (self.vectors, precision) {
            #[cfg(target_arch = "aarch64")]
            (Token::Neon(simd), precision) => simd.has_squares(precision),
            _ => false,
        }
    }

    /// How products of a precision read their rows, by vectors or on a unit.
    pub(super) fn form(self, precision: Precision, unit: Option<Unit>) -> Form {
        match unit {
            Some(_) => Form::on_unit(precision),
            None => Form::of(self.factors(precision)),
        }
    }

    /// What runs an encoder of that precision, as people are told.
    pub fn engine(self, precision: Precision) -> &'static str {
        match (self.unit(precision), precision) {
            (Some(_), Precision::F32) => "amx (f32 by six bf16 products)",
            (Some(_), _) => InstructionSet::Amx.name(),
            (None, Precision::Bf16) if !self.multiplies_bf16 => match self.vectors() {
                InstructionSet::Amx | InstructionSet::Avx512 => "avx512 (f32 by bf16 products)",
                InstructionSet::Avx2 => "avx2 (f32 by bf16 products)",
                InstructionSet::Neon => "neon (f32 by bf16 products)",
                InstructionSet::Portable => "portable (f32 by bf16 products)",
            },
            (None, _) => self.vectors().name(),
        }
    }

    /// The set without its matrix unit.
    pub fn vectors(self) -> InstructionSet {
        Kernels { unit: None, ..self }.instruction_set()
    }

    /// The same, multiplying f32 by bf16 where the other would multiply bf16 by bf16, by vectors.
    pub(super) fn with_f32_by_bf16(self) -> Kernels {
        Kernels { multiplies_bf16: false, ..self }
    }

    /// The same, multiplying f32 by vectors.
    pub(super) fn with_f32_by_vectors(self) -> Kernels {
        Kernels { splits_f32: false, ..self }
    }

    /// The same, with the attention of precisions of several parts by vectors.
    pub(super) fn with_attention_by_vectors(self) -> Kernels {
        Kernels { splits_attention: false, ..self }
    }

    /// In how many parts attention is the unit's, in a precision of which it multiplies the layers; none where vectors do it.
    pub(super) fn attention_parts(self, precision: Precision) -> Option<usize> {
        let parts = match precision {
            Precision::F32 => 3,
            Precision::Bf16x3 => 2,
            // Of int8 too.
            Precision::F16 | Precision::Bf16 | Precision::Int8 => 1,
        };
        self.unit(precision).map(|_| parts).filter(|&parts| parts == 1 || self.splits_attention)
    }

    /// What multiplies in a precision in place of the vectors.
    pub(super) fn unit(self, precision: Precision) -> Option<Unit> {
        let multiplies = match precision {
            Precision::F32 => self.splits_f32,
            Precision::F16 => false,
            Precision::Bf16x3 | Precision::Bf16 | Precision::Int8 => true,
        };
        self.unit.filter(|_| multiplies)
    }

    /// Columns of a panel of vectors.
    pub(super) fn panel_width(self) -> usize {
        self.run(Widths).0
    }

    /// f32 lanes of a vector.
    pub(super) fn lanes(self) -> usize {
        self.panel_width() / PANEL_VECTORS
    }

    /// Rows of the largest tile.
    pub(super) fn tile_rows(self) -> usize {
        self.run(Widths).1
    }
}

struct Widths;

impl Task for Widths {
    type Output = (usize, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (S::LANES * PANEL_VECTORS, S::TILE_ROWS)
    }
}

#[cfg(test)]
mod tests;

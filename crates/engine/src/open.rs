//! From a model's directory to its encoders: which weights, what runs them, and on what.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Map, Value};
#[cfg(feature = "cuda")]
use text2vec_gpu::card::CardError;
use text2vec_kernel::quantized::Arithmetic;
use text2vec_kernel::{InstructionSet, Kernels, Precision};

use crate::candle::library::{self, LibraryEncoder};
use crate::candle::packed::CandlePackedEncoder;
use crate::candle::plain::CandleEncoder;
use crate::cpu::PackedEncoder;
use crate::device::Card;
#[cfg(feature = "cuda")]
use crate::device::NO_MEMORY;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::NamedTensor;
use crate::family::{self, Masks};
#[cfg(any(feature = "cuda", feature = "emulated"))]
use crate::gpu::GpuEncoder;
use crate::onnx::{self, OnnxEncoder};
use crate::static_embedding::{Library, StaticEncoder};
use crate::weights::{self, Weights};

/// What runs an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// Our kernels: with the widest instruction set the CPU has, or those for GPUs.
    #[default]
    Auto,
    /// Our kernels with this instruction set.
    Kernels(InstructionSet),
    /// Candle's own operations, plainly: the oracle in tests.
    Candle,
    /// Candle's operations on packed rows, on a GPU or the CPU: for comparison.
    CandlePacked,
}

impl FromStr for Engine {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Engine::Auto),
            "candle" => Ok(Engine::Candle),
            "candle-packed" => Ok(Engine::CandlePacked),
            set => set.parse().map(Engine::Kernels).map_err(|_| {
                Error::unusable(format!(
                    "unknown engine '{text}': use auto, amx, avx512, avx2, neon, portable, candle or candle-packed"
                ))
            }),
        }
    }
}

/// Where the weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// f32 weights, in these files.
    Weights(Vec<PathBuf>),
    /// A quantised graph with its weights, and on which architecture its vectors were computed.
    Graph(PathBuf, Arithmetic),
}

impl Source {
    /// f32 weights, unless there are none, or there is a graph and that is preferred.
    ///
    /// # Errors
    /// A directory without either.
    pub fn choose(dir: &Path, prefer_graph: bool) -> Result<Source> {
        match onnx::graph_file(dir) {
            Some(graph) if prefer_graph || onnx::is_only_weights(dir) => {
                Ok(Source::Graph(graph, onnx::arithmetic(dir)?))
            }
            _ => weights::weight_files(dir).map(Source::Weights),
        }
    }

    /// The numbers of the weights, as people are told.
    pub fn precision(&self, chosen: Precision, engine: &str) -> &'static str {
        match (self, chosen, engine) {
            (Source::Graph(_, Arithmetic::X86_64), ..) => "int8 (onnx)",
            (Source::Graph(_, Arithmetic::Arm64), ..) => "int8 (onnx, arm64)",
            // Other vectors than the CPU's kernels make of f16 weights: there everything but the weights is f32.
            (_, Precision::F16, "candle-packed" | GPU_KERNELS) => "f16 throughout",
            (_, Precision::Bf16, "candle-packed" | GPU_KERNELS) => "bf16 throughout",
            (Source::Weights(_), ..) => chosen.name(),
        }
    }

    /// Its files.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Source::Weights(files) => files,
            Source::Graph(file, _) => std::slice::from_ref(file),
        }
    }
}

/// What a model says about itself that its encoder depends on.
#[derive(Debug, Clone, Copy)]
pub struct Description<'a> {
    /// `config.json`.
    pub config: &'a Map<String, Value>,
    /// `model_type` in it.
    pub model_type: &'a str,
    /// It is a table of embeddings without a transformer, and these vectors of it are wanted.
    pub table: Option<Library>,
    /// Which masks it has.
    pub masks: Masks,
}

impl Description<'_> {
    /// Which tokens see which, in a word. `None` where none sees another.
    ///
    /// # Errors
    /// `Unusable` for an architecture that cannot be used.
    pub fn attention(&self) -> Result<Option<&'static str>> {
        match self.model_type {
            _ if self.table.is_some() => Ok(None),
            other if library::has(other) => Ok(Some("bidirectional")),
            other => {
                family::architecture(other, self.config, self.masks).map(|architecture| Some(architecture.masks()))
            }
        }
    }
}

/// The model's encoders: one, for passes of `threads` threads, or one on each card; and the name of what runs them.
///
/// # Errors
/// As [`on_cpu`]. For cards also what is for the CPU only, and a card without memory for the weights (`Unusable`).
pub fn encoders(
    description: Description<'_>,
    source: &Source,
    engine: Engine,
    precision: Precision,
    (threads, cards): (usize, &[Card]),
) -> Result<(Vec<Box<dyn Encoder>>, &'static str)> {
    if cards.is_empty() {
        let (encoder, name) = on_cpu(description, source, engine, precision, threads)?;
        return Ok((vec![encoder], name));
    }
    let files = match (source, engine) {
        (_, Engine::Kernels(_) | Engine::Candle) => {
            return Err(Error::unusable(
                "--engine names what runs on the CPU: leave it out with --device cuda, or use --device cpu",
            ));
        }
        (Source::Graph(path, _), _) => {
            return Err(Error::unusable(format!(
                "{} is quantised for the CPU: use --device cpu, or a directory with safetensors",
                path.display()
            ))
            .naming(path));
        }
        (Source::Weights(files), Engine::Auto | Engine::CandlePacked) => files,
    };
    if let Some(library) = description.table {
        f32_table(precision)?;
        let encoder =
            |card: &Card| Ok(Box::new(StaticEncoder::open(files, library, Some(&card.device))?) as Box<dyn Encoder>);
        return Ok((cards.iter().map(encoder).collect::<Result<_>>()?, "candle"));
    }
    if library::has(description.model_type) {
        let encoder = |card: &Card| in_library(description, files, precision, &card.device);
        return Ok((cards.iter().map(encoder).collect::<Result<_>>()?, LIBRARY));
    }
    stable_in(description, precision)?;
    let (architecture, weights) = transformer(description, files)?;
    let own = engine == Engine::Auto && cards.iter().all(Card::has_kernels);
    let encoder = |card: &Card| {
        let tensors = |name: &str, _: &[usize]| weights.tensor(name);
        match own {
            true => gpu_encoder(card, &architecture, precision, tensors),
            false => {
                let encoder = CandlePackedEncoder::new(&architecture, &card.device, precision, tensors)?;
                Ok(Box::new(encoder) as Box<dyn Encoder>)
            }
        }
    };
    let name = if own { GPU_KERNELS } else { "candle-packed" };
    Ok((cards.iter().map(encoder).collect::<Result<_>>()?, name))
}

/// What runs encoders on our kernels for GPUs, as people are told.
const GPU_KERNELS: &str = "cuda";

/// An encoder on our kernels for GPUs, of a card that [has them](Card::has_kernels).
fn gpu_encoder(
    card: &Card,
    architecture: &Architecture,
    precision: Precision,
    tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
) -> Result<Box<dyn Encoder>> {
    #[cfg(feature = "cuda")]
    if card.device.is_cuda() {
        let opened = text2vec_gpu::cuda::CudaCard::open(card.number).map_err(|error| {
            let reason = if error == CardError::OutOfMemory { NO_MEMORY.to_owned() } else { error.to_string() };
            Error::unusable(format!("cuda:{} ({}) cannot be used: {reason}", card.number, card.name))
        })?;
        return Ok(Box::new(GpuEncoder::new(architecture, opened, precision, tensors)?));
    }
    #[cfg(feature = "emulated")]
    if !card.device.is_cuda() {
        let card = text2vec_gpu::emulated::EmulatedCard::new();
        return Ok(Box::new(GpuEncoder::new(architecture, card, precision, tensors)?));
    }
    let _ = (architecture, precision, tensors);
    Err(Error::internal(format!("{} has no kernels in this build", card.name)))
}

/// The encoder on the CPU, for passes of `threads` threads, and the name of what runs it.
///
/// # Errors
/// `Unusable` for an architecture or weights that cannot be used and for settings that do not go together, `Internal` if a
/// thread cannot be started.
pub fn on_cpu(
    description: Description<'_>,
    source: &Source,
    engine: Engine,
    precision: Precision,
    threads: usize,
) -> Result<(Box<dyn Encoder>, &'static str)> {
    let files = match source {
        Source::Weights(files) => files,
        Source::Graph(path, arithmetic) => {
            if precision != Precision::F32 {
                return Err(Error::unusable(format!(
                    "{} is quantised already: leave out --precision {precision}",
                    path.display()
                ))
                .naming(path));
            }
            let kernels = match engine {
                Engine::Auto => Kernels::detect(),
                Engine::Kernels(set) => Kernels::with(set)?,
                Engine::Candle | Engine::CandlePacked => {
                    let message = "the engine candle cannot run a quantised ONNX graph: use the engine auto";
                    return Err(Error::unusable(message));
                }
            };
            if *arithmetic == Arithmetic::Arm64 {
                tracing::info!(
                    "vectors are those of ONNX Runtime on {arithmetic}, as onnx_quantization_info says ARM64: if the collection \
                     was made on x86-64, write AVX-512 into that file"
                );
            }
            let encoder = OnnxEncoder::load(path, (kernels, *arithmetic), threads)?;
            return Ok((Box::new(encoder), kernels.engine(Precision::Int8)));
        }
    };
    if let Some(library) = description.table {
        f32_table(precision)?;
        let (device, name) = match engine {
            Engine::Candle | Engine::CandlePacked => (Some(&candle_core::Device::Cpu), "candle"),
            Engine::Auto | Engine::Kernels(_) => (None, "table"),
        };
        return Ok((Box::new(StaticEncoder::open(files, library, device)?), name));
    }
    if library::has(description.model_type) {
        if let Engine::Kernels(set) = engine {
            return Err(Error::unusable(format!(
                "{} is computed by candle-transformers, which has no {set}: leave out --engine",
                description.model_type
            )));
        }
        return Ok((in_library(description, files, precision, &candle_core::Device::Cpu)?, LIBRARY));
    }
    let (architecture, weights) = transformer(description, files)?;
    let tensors = |name: &str, _: &[usize]| weights.tensor(name);
    let kernels = match engine {
        Engine::Candle if precision != Precision::F32 => {
            return Err(Error::unusable(format!(
                "the engine candle computes in f32 only: leave out --engine candle, or --precision {precision}"
            )));
        }
        Engine::Candle => {
            let encoder = CandleEncoder::new(&architecture, &candle_core::Device::Cpu, tensors)?;
            return Ok((Box::new(encoder), "candle"));
        }
        Engine::CandlePacked => {
            stable_in(description, precision)?;
            let encoder = CandlePackedEncoder::new(&architecture, &candle_core::Device::Cpu, precision, tensors)?;
            return Ok((Box::new(encoder), "candle-packed"));
        }
        Engine::Auto => Kernels::fastest(precision, threads)?,
        Engine::Kernels(set) => Kernels::with(set)?.with_fastest_bf16(precision, threads)?,
    };
    let encoder = PackedEncoder::new(&architecture, (kernels, precision), threads, tensors)?;
    Ok((Box::new(encoder), kernels.engine(precision)))
}

/// What is said to run a family of candle-transformers.
const LIBRARY: &str = "candle-transformers";

fn in_library(
    description: Description<'_>,
    files: &[PathBuf],
    precision: Precision,
    device: &candle_core::Device,
) -> Result<Box<dyn Encoder>> {
    let model_type = description.model_type;
    if precision != Precision::F32 {
        return Err(Error::unusable(format!("{model_type} is served in f32 only: leave out --precision {precision}")));
    }
    tracing::warn!(
        "{model_type} is computed by candle-transformers, one text at a time: several times slower than the families that have \
         kernels"
    );
    Ok(Box::new(LibraryEncoder::open(description.config, files, device)?))
}

fn f32_table(precision: Precision) -> Result<()> {
    match precision {
        Precision::F32 => Ok(()),
        _ => Err(Error::unusable("static embeddings are served in f32 only: leave out --precision")),
    }
}

/// Whether a model can be computed with everything in a precision, as on a GPU.
fn stable_in(description: Description<'_>, precision: Precision) -> Result<()> {
    match (description.model_type, precision) {
        ("gemma3_text", Precision::F16) => Err(Error::unusable(
            "gemma3_text exceeds the range of f16, which a GPU would compute in: use --precision bf16 or f32",
        )),
        _ => Ok(()),
    }
}

/// A configuration that describes more than so many times what the files hold, and more than so many weights, is refused without
/// a look at them.
const FAR_TOO_MANY: (u64, u64) = (16, 1 << 30);

fn transformer(description: Description<'_>, files: &[PathBuf]) -> Result<(Architecture, Weights)> {
    let mut architecture = family::architecture(description.model_type, description.config, description.masks)?;
    let weights = Weights::open(files, architecture.anchor)?;
    architecture.settle(|name| weights.has(name));
    // Room is made for what the configuration describes before its tensors are asked for one by one.
    let (described, there) = (architecture.shape.weights(), weights.elements());
    if described > there.saturating_mul(FAR_TOO_MANY.0).max(FAR_TOO_MANY.1) {
        let message =
            format!("config.json describes blocks of {described} weights, but the files hold {there} numbers");
        return Err(Error::unusable(message));
    }
    Ok((architecture, weights))
}

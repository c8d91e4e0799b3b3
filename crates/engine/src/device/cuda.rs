//! The real thing: asks the driver for facts and opens cards.

use candle_core::cuda::cudarc::driver::result;
use candle_core::cuda::cudarc::driver::sys::{CUdevice_attribute, CUresult};

use super::card::Card;
use super::facts::{self, Built, Facts, Version};
use crate::device::driver;
use crate::error::{Error, Result};

/// Makes the cards ready for use.
pub(super) fn open(numbers: &[usize]) -> Result<Vec<Card>> {
    let names = facts().cards(built()?, numbers)?;
    let card = |(&number, name): (&usize, String)| {
        let unusable = |error: candle_core::Error| {
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            Error::unusable(format!(
                "cuda:{number} ({name}) cannot be used: {reason}; see whether another program has it for itself \
                 (nvidia-smi), or serve on the CPU with --device cpu (T2V_DEVICE=cpu)"
            ))
        };
        // A stream of its own: a model is loaded by another thread than the one that uses it.
        let device = candle_core::Device::new_cuda_with_stream(number).map_err(unusable)?;
        let opened = device.as_cuda_device().map_err(unusable)?;
        driver::of_one_stream(opened);
        if let Err(error) = driver::keep_memory(opened) {
            tracing::warn!("cuda:{number} ({name}) takes its memory anew for each batch, which is slower: {error}");
        }
        Ok(Card { number, name, device })
    };
    numbers.iter().zip(names).map(card).collect()
}

/// What this build was compiled with, as build.rs found it.
fn built() -> Result<Built> {
    let version = |text: &str| -> Option<Version> {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    match (version(env!("T2V_CUDA_VERSION")), version(env!("T2V_CUDA_CAPABILITY"))) {
        (Some(cuda), Some(capability)) => Ok(Built { cuda, capability }),
        _ => Err(Error::internal("this build does not know which CUDA it was compiled with")),
    }
}

fn facts() -> Facts {
    if let Err(reason) = driver::load_library("libcuda.so.1") {
        return Facts { driver: Err(reason.clone()), missing: Vec::new(), cards: Err(reason) };
    }
    Facts {
        driver: driver::version().map(|version| (version / 1000, version % 1000 / 10)),
        missing: env!("T2V_CUDA_LIBRARIES").split(',').filter_map(|name| driver::load_library(name).err()).collect(),
        cards: cards().map_err(|error| format!("{error:?}")),
    }
}

fn cards() -> std::result::Result<Vec<facts::Card>, result::DriverError> {
    match result::init() {
        Ok(()) => {}
        // "No device" is a driver without cards.
        Err(result::DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let card = |number| {
        let device = result::device::get(number)?;
        let part = |attribute| driver::attribute(device, attribute).map(|value| value as u32);
        let major = part(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = part(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(facts::Card { name: result::device::get_name(device)?, capability: (major, minor) })
    };
    (0..result::device::get_count()?).map(card).collect()
}

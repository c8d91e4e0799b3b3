//! Where encoders run: on the CPU, or on NVIDIA GPUs where the crate is built with the feature `cuda`.
//!
//! `facts` decides whether cards that were asked for can be used, [`budget`] how much one computes at once. Only what
//! talks to the driver itself is left out of a build without the feature.

pub mod budget;
mod card;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub(crate) mod driver;
#[cfg(any(feature = "cuda", test))]
mod facts;

pub use self::card::Card;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where the encoder is to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Device {
    /// On the CPU.
    #[default]
    Cpu,
    /// On the cards with these numbers, each once, at least one.
    Cuda(Vec<usize>),
}

/// Whether this build can use a GPU at all.
pub const GPU_SUPPORT: bool = cfg!(feature = "cuda");

/// The refusal of a build that cannot.
pub const NO_GPU_SUPPORT: &str = "this build has no GPU support: use --device cpu (T2V_DEVICE=cpu), or forward texts to a \
                                  server that has a GPU with --upstream";

/// What is told of a card that is too small for a model.
pub(crate) const NO_MEMORY: &str = "the GPU has no memory left for this model: stop what else uses it, choose another card with \
                                    --device cuda:N, or take --precision f16";

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, `cuda`, `cuda:1`, or several: `cuda:0,1` and, as the reference container has it, `cuda:0,cuda:1`.
    fn from_str(text: &str) -> Result<Device> {
        if text == "cpu" {
            return Ok(Device::Cpu);
        }
        let unknown = || {
            Error::unusable(format!(
                "'{text}' is no device: use cpu, cuda, cuda:1 for another card, cuda:0,1 for several"
            ))
        };
        let mut cards = Vec::new();
        for (place, part) in text.split(',').enumerate() {
            let number = match part.strip_prefix("cuda") {
                Some("") if place == 0 => "0",
                Some(number) => number.strip_prefix(':').ok_or_else(unknown)?,
                None if place > 0 => part,
                None => return Err(unknown()),
            };
            let card = number.parse::<u16>().map_err(|_| unknown())?.into();
            if cards.contains(&card) {
                return Err(Error::unusable(format!("'{text}' names the card cuda:{card} twice: name each once")));
            }
            cards.push(card);
        }
        Ok(Device::Cuda(cards))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(cards) => {
                let cards: Vec<_> = cards.iter().map(ToString::to_string).collect();
                write!(f, "cuda:{}", cards.join(","))
            }
        }
    }
}

/// Makes the cards ready: none for the CPU.
///
/// # Errors
/// `Unusable`, with what to do, where a card that is asked for cannot be used.
pub fn open(device: &Device) -> Result<Vec<Card>> {
    match device {
        Device::Cpu => Ok(Vec::new()),
        #[cfg(feature = "cuda")]
        Device::Cuda(cards) => cuda::open(cards),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(Error::unusable(NO_GPU_SUPPORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_people_and_the_reference_write_them() {
        let read = |text: &str| text.parse::<Device>().map_err(|error| error.message().to_owned());
        assert_eq!(read("cpu"), Ok(Device::Cpu));
        for (text, cards) in
            [("cuda", vec![0]), ("cuda:3", vec![3]), ("cuda:0,2", vec![0, 2]), ("cuda:1,cuda:0", vec![1, 0])]
        {
            assert_eq!(read(text), Ok(Device::Cuda(cards)), "{text}");
        }
        for text in
            ["", "gpu", "tpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda1", "0", "cpu,cuda", "cuda:0,", "cuda:70000"]
        {
            assert!(read(text).expect_err(text).contains("use cpu, cuda"), "{text}");
        }
        assert!(read("cuda:1,cuda:1").expect_err("twice").contains("twice"));
        for text in ["cpu", "cuda:0", "cuda:0,2"] {
            assert_eq!(read(text).map(|device| device.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_build_without_gpu_support_says_so() {
        assert!(open(&Device::Cpu).expect("the CPU").is_empty());
        if !GPU_SUPPORT {
            let error = open(&Device::Cuda(vec![0])).expect_err("no support");
            assert!(error.message().contains("no GPU support") && error.message().contains("--upstream"), "{error}");
        }
    }
}

//! Where the encoder is to run: our flag, and the reference container's two variables.

use crate::backend::local::Device;
use crate::error::{Error, Result};
use text2vec_engine::device::NO_GPU_SUPPORT;

/// What `ENABLE_CUDA` and `CUDA_CORE` ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A GPU that this build can use.
    pub device: Option<Device>,
    /// A GPU, which this build cannot use.
    pub in_vain: bool,
}

/// The flag's value. A GPU is refused here where the build has no support for it.
pub(super) fn parse(text: &str, gpu_support: bool) -> std::result::Result<Device, String> {
    match text.parse::<Device>() {
        Ok(Device::Cuda(_)) if !gpu_support => Err(NO_GPU_SUPPORT.to_owned()),
        Err(_) if !gpu_support => Err("use cpu".to_owned()),
        device => device.map_err(|error| error.message().to_owned()),
    }
}

/// Reads the reference's variables: `ENABLE_CUDA` is `true` or `1`, and `CUDA_CORE` names the cards, `cuda:0` where it is
/// empty.
///
/// # Errors
/// `Config` if `CUDA_CORE` names no card, where that matters.
pub(super) fn wanted(enabled: bool, cores: &str, gpu_support: bool) -> Result<Wanted> {
    if !enabled || !gpu_support {
        return Ok(Wanted { device: None, in_vain: enabled });
    }
    match if cores.is_empty() { "cuda:0" } else { cores }.parse() {
        Ok(device @ Device::Cuda(_)) => Ok(Wanted { device: Some(device), in_vain: false }),
        _ => Err(Error::config(format!(
            "CUDA_CORE is '{cores}', which is no card: use cuda:0, or cuda:0,cuda:1 for several, or unset ENABLE_CUDA"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_refused_where_there_is_no_support() {
        assert_eq!(parse("cpu", false), Ok(Device::Cpu));
        assert_eq!(parse("cuda:1", false), Err(NO_GPU_SUPPORT.to_owned()));
        assert_eq!(parse("tpu", false), Err("use cpu".to_owned()));
        assert_eq!(parse("cuda:0,1", true), Ok(Device::Cuda(vec![0, 1])));
        assert!(parse("tpu", true).expect_err("no device").contains("use cpu, cuda"));
    }

    #[test]
    fn the_reference_s_variables_choose_cards_only_where_there_is_support() {
        let device = |enabled, cores, support| wanted(enabled, cores, support).map(|wanted| wanted.device);
        assert_eq!(device(true, "", true), Ok(Some(Device::Cuda(vec![0]))));
        assert_eq!(device(true, "cuda:1", true), Ok(Some(Device::Cuda(vec![1]))));
        assert_eq!(device(true, "cuda:0,cuda:1", true), Ok(Some(Device::Cuda(vec![0, 1]))));
        assert_eq!(device(false, "cuda:1", true), Ok(None));
        assert_eq!(wanted(true, "nonsense", false), Ok(Wanted { device: None, in_vain: true }));
        assert_eq!(wanted(false, "nonsense", true), Ok(Wanted::default()));
        for cores in ["nonsense", "cpu", "cuda:0,cuda:0"] {
            let error = device(true, cores, true).expect_err("refused");
            assert!(error.message().contains("CUDA_CORE") && error.message().contains("ENABLE_CUDA"), "{error}");
        }
    }
}

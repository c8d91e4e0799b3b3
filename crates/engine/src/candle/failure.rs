//! What a device's errors mean.

use text2vec_gpu::card::LOST;

use crate::device::NO_MEMORY;
use crate::error::Error;
use crate::weights::first_line;

/// Whether it failed for want of memory. Candle has no kind of error for this; the driver's and cuBLAS's names are in its text.
pub(super) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string();
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|name| text.contains(name))
}

/// Whether the device fails from now on, whatever it is asked.
pub(super) fn is_lost(error: &candle_core::Error) -> bool {
    let text = error.to_string();
    LOST.iter().any(|name| text.contains(name))
}

/// What cannot be loaded, and what to do.
pub(crate) fn unusable(error: candle_core::Error) -> Error {
    let refused = match is_out_of_memory(&error) {
        true => Error::unusable(NO_MEMORY),
        false => Error::unusable(format!("the weights cannot be used: {}", first_line(&error.to_string()))),
    };
    refused.caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_device_that_fails_for_good_is_known() {
        let said = |text: &str| is_lost(&candle_core::Error::Msg(text.to_owned()));
        assert!(said("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")"));
        assert!(!said("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")") && !said("something else"));
    }

    #[test]
    fn want_of_memory_is_told_with_what_to_do() {
        for (said, words) in [
            ("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", "--device cuda:N"),
            ("CUBLAS_STATUS_ALLOC_FAILED", "--precision f16"),
            ("something else\nat a place", "the weights cannot be used: something else"),
        ] {
            let error = unusable(candle_core::Error::Msg(said.to_owned()));
            assert_eq!(error.kind(), ErrorKind::Unusable, "{error}");
            assert!(error.message().contains(words) && !error.message().contains('\n'), "{error}");
        }
    }
}

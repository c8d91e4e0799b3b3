//! What a device's errors mean.

use crate::error::Error;
use crate::weights::first_line;

/// Whether it failed for want of memory. Candle has no kind of error for this; the driver's and cuBLAS's names are in its text.
pub(super) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string();
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|name| text.contains(name))
}

/// What cannot be loaded, and what to do.
pub(super) fn unusable(error: candle_core::Error) -> Error {
    match is_out_of_memory(&error) {
        true => Error::unusable(
            "the GPU has no memory left for this model: stop what else uses it, choose another card with --device cuda:N, \
             or take --precision f16",
        ),
        false => Error::unusable(format!("the weights cannot be used: {}", first_line(&error.to_string()))),
    }
}

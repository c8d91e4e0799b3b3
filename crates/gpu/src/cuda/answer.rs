//! What the driver and cuBLASLt answer, in words.

use std::ffi::CStr;
use std::fmt::Display;

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::cublasStatus_t;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

use crate::card::{CardError, CardResult, LOST};

/// The driver's answer to this call.
pub(super) fn driver<T>(call: impl Display, answer: Result<T, DriverError>) -> CardResult<T> {
    answer.map_err(|error| {
        if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return CardError::OutOfMemory;
        }
        let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), in_words);
        let description = error.error_string().map_or_else(|_| "the driver has no word for it".to_owned(), in_words);
        let said = format!("{call}: {name}: {description}");
        if LOST.contains(&&*name) { CardError::Lost(said) } else { CardError::Failed(said) }
    })
}

fn in_words(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

/// cuBLASLt's answer to this call.
pub(super) fn blas<T>(call: &str, answer: Result<T, CublasError>) -> CardResult<T> {
    // Not by its own function for names: without the library that would be another one, which answers with a number.
    answer.map_err(|CublasError(status)| match status {
        cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => CardError::OutOfMemory,
        _ => CardError::Failed(format!("{call}: {status:?}")),
    })
}

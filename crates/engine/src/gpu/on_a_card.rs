//! The same of a real card; where there is none, nothing is shown, and it says so. `CudaCard` also takes the stand-in of
//! tests/fixtures/cuda/card.

use text2vec_gpu::cuda::CudaCard;

use super::checks;
use crate::device::{self, Device};

/// Opens the first card, if there is one that may be used.
fn card() -> Option<impl Fn() -> CudaCard> {
    match device::open(&Device::Cuda(vec![0])) {
        Ok(_) => Some(|| CudaCard::open(0).expect("a card")),
        Err(error) => {
            println!("NO GPU HERE: {error}");
            None
        }
    }
}

#[test]
fn every_family_has_the_cpu_s_states_and_vectors_whatever_the_budget() {
    card().map(checks::every_family_has_the_cpu_s_states_and_vectors_whatever_the_budget);
}

#[test]
fn half_precisions_stay_close() {
    card().map(checks::half_precisions_stay_close);
}

#[test]
fn heads_of_any_size_are_computed() {
    card().map(checks::heads_of_any_size_are_computed);
}

#[test]
fn batches_are_begun_while_others_are_computed() {
    card().map(checks::batches_are_begun_while_others_are_computed);
}

#[test]
fn every_kernel_is_run() {
    card().map(checks::every_kernel_is_run);
}

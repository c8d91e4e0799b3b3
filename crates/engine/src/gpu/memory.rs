//! What is told where a start ends for want of a card's memory: what there was of it, and what to do.

use text2vec_gpu::card::Card;
use text2vec_kernel::Precision;

use crate::error::Error;

/// Bytes that nobody has, and all of them; unknown where the card does not say.
pub(super) type Free = Option<(usize, usize)>;

/// Asks a card. What it keeps for its next use is free to us, but not in this count.
pub(super) fn free<C: Card>(card: &C) -> Free {
    let counted = card.give_back_unused().and_then(|()| card.memory());
    counted.inspect_err(|error| tracing::debug!("the GPU does not say how much memory is free: {error}")).ok()
}

/// There is none left for this.
pub(super) fn refused(what: &str, free: Free, precision: Precision) -> Error {
    let found = free.map(|free| format!(" ({})", in_words(free))).unwrap_or_default();
    // Weights of 16 bits take half; int8 is the CPU's.
    let smaller = if precision == Precision::F32 { "--precision f16 or a smaller model" } else { "a smaller model" };
    Error::unusable(format!(
        "the GPU has no memory left for {what}{found}: stop what else uses it (nvidia-smi), choose another card with \
         --device cuda:N, take {smaller}, or serve on the CPU with --device cpu (T2V_DEVICE=cpu)"
    ))
}

fn in_words((free, all): (usize, usize)) -> String {
    let (unit, name) = if all >= 1_000_000_000 { (1e9, "GB") } else { (1e6, "MB") };
    format!("{:.1} of {:.1} {name} were free", free as f64 / unit, all as f64 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_there_was_and_what_helps() {
        let error = refused("this model", Some((1_230_000_000, 24_000_000_000)), Precision::F32);
        for word in
            ["memory left for this model (1.2 of 24.0 GB were free): ", "cuda:N", "--precision f16", "--device cpu"]
        {
            assert!(error.message().contains(word), "'{word}' is not in: {error}");
        }
        let error = refused("this model", Some((400_000, 12_000_000)), Precision::F16);
        assert!(error.message().contains("(0.4 of 12.0 MB were free)"), "{error}");
        let error = refused("this model", None, Precision::Bf16);
        assert!(error.message().contains("this model: stop") && !error.message().contains("f16"), "{error}");
    }
}

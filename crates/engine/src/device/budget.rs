//! How many tokens a device is to compute at once, found by trying.

use crate::error::{Error, Result};

/// The first batch tried, in tokens.
const FIRST: usize = 1024;
/// The largest batch tried. A query that comes while a batch is computed waits for all of it.
const MOST: usize = 1 << 18;
/// A batch twice as large must be faster by at least this, or its size is not worth a query's waiting.
const GROWTH: f64 = 1.05;

/// Sizes in a row that bring little: one alone may have been measured while something else went on.
const FLAT: i32 = 2;

/// The smallest batch beyond which twice the tokens bring little or do not fit. `rate` computes a batch of about so many
/// tokens and answers with tokens per second, or with `None` where the device has no memory for it.
///
/// # Errors
/// `Unusable` if not even the first batch fits; whatever else `rate` fails with.
pub fn search(mut rate: impl FnMut(usize) -> Result<Option<f64>>) -> Result<usize> {
    let mut best: Option<(usize, f64)> = None;
    let (mut tokens, mut flat) = (FIRST, 0);
    while tokens <= MOST && flat < FLAT {
        match (rate(tokens)?, best) {
            (None, _) => break,
            (Some(now), Some((_, before))) if now < before * GROWTH.powi(flat + 1) => flat += 1,
            (Some(now), _) => (best, flat) = (Some((tokens, now)), 0),
        }
        tokens *= 2;
    }
    best.map(|(tokens, _)| tokens).ok_or_else(|| {
        Error::unusable(format!(
            "the GPU has no memory left for a batch of {FIRST} tokens: stop what else uses it, choose another card with \
             --device cuda:N, or take --precision f16"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The budget for these rates from [`FIRST`] on, and how many were asked for.
    fn found(rates: &[Option<f64>]) -> (Result<usize>, usize) {
        let mut asked = Vec::new();
        let budget = search(|tokens| {
            asked.push(tokens);
            Ok(rates.get(asked.len() - 1).copied().flatten())
        });
        assert!(asked.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{asked:?}");
        (budget, asked.len())
    }

    #[test]
    fn budgets_grow_as_long_as_it_pays_and_fits() {
        // Grows, then flattens: the last one that paid.
        assert_eq!(found(&[Some(1.0), Some(1.9), Some(3.0), Some(3.1), Some(3.2), Some(9.0)]), (Ok(4096), 5));
        // One was measured while something else went on.
        assert_eq!(found(&[Some(1.0), Some(0.4), Some(3.0), Some(3.1), Some(2.0)]), (Ok(4096), 5));
        // Little twice is not much.
        assert_eq!(found(&[Some(1.0), Some(1.04), Some(1.08)]), (Ok(1024), 3));
        // Slower again.
        assert_eq!(found(&[Some(1.0), Some(0.5), Some(0.6)]), (Ok(1024), 3));
        // No memory.
        assert_eq!(found(&[Some(1.0), Some(2.0), None]), (Ok(2048), 3));
        let (refused, asked) = found(&[None]);
        assert!(refused.expect_err("nothing fits").message().contains("--precision f16") && asked == 1);
    }

    #[test]
    fn the_search_ends_however_fast_the_device_is() {
        let mut largest = 0;
        let budget = search(|tokens| {
            largest = tokens;
            Ok(Some((tokens * tokens) as f64))
        });
        assert_eq!((budget, largest), (Ok(MOST), MOST));
        assert!(search(|_| Err(Error::internal("a bug"))).is_err());
    }
}

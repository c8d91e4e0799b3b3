//! How many texts go into one request, and what an upstream teaches about that.
//!
//! An upstream that takes less at once than is customary for its kind refuses what is larger. Such a batch is halved. When
//! both halves are then accepted, no text was to blame but the size, and the halves' size is remembered, so that later
//! calls are cut right away. The upstream may come back with other limits: after [`PATIENCE`] twice as much is tried.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::contract::call::Text;

/// Bytes of text in one request, where several go into one.
const BYTES: usize = 1024 * 1024;

/// After so long twice as much as was learned is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which limit was met is not said on every wire. Hardly a server takes fewer bytes than this: below it, it was the number
/// of texts. Otherwise two long texts would have short ones sent one by one.
const FEW_BYTES: usize = 64 * 1024;

/// Texts and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Number of texts.
    pub texts: usize,
    /// Length of them all, UTF-8.
    pub bytes: usize,
}

impl Size {
    /// The size of those texts of a call that have these indices.
    pub fn of(texts: &[Text], indices: &[usize]) -> Size {
        Size { texts: indices.len(), bytes: indices.iter().map(|&index| texts[index].len()).sum() }
    }

    /// Whether a batch of this size may be sent. A text alone always may.
    fn fits(self, most: Size) -> bool {
        self.texts <= 1 || (self.texts <= most.texts && self.bytes <= most.bytes)
    }
}

/// What one upstream takes at once, as far as it was learned.
#[derive(Debug, Default)]
pub struct Learned(Mutex<Option<(Size, Instant)>>);

impl Learned {
    /// The largest batch to send now to an upstream of a kind that takes `texts`.
    pub fn most(&self, texts: usize, now: Instant) -> Size {
        let customary = Size { texts, bytes: BYTES };
        let mut learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((size, since)) = learned.as_mut() else { return customary };
        if now.saturating_duration_since(*since) >= PATIENCE {
            *size = Size { texts: size.texts.saturating_mul(2), bytes: size.bytes.saturating_mul(2) };
            *since = now;
        }
        let most = Size { texts: size.texts.min(customary.texts), bytes: size.bytes.min(customary.bytes) };
        if most == customary {
            *learned = None;
        }
        most
    }

    /// A batch was refused, and both its halves, the larger of which is given, were accepted. `true`: that was news.
    pub fn refused(&self, whole: Size, half: Size, now: Instant) -> bool {
        let mut learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = learned.map_or(Size { texts: usize::MAX, bytes: usize::MAX }, |(size, _)| size);
        let after = match whole.bytes < FEW_BYTES {
            true => Size { texts: half.texts.min(before.texts), ..before },
            false => Size { bytes: half.bytes.min(before.bytes), ..before },
        };
        *learned = Some((after, now));
        after != before
    }
}

/// Texts of a call, by their indices, in order, in batches of at most so much.
pub fn batches(texts: &[Text], indices: impl IntoIterator<Item = usize>, most: Size) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for index in indices {
        let length = texts[index].len();
        match batches.last_mut() {
            Some(last) if (Size { texts: last.len() + 1, bytes: bytes + length }).fits(most) => {
                last.push(index);
                bytes += length;
            }
            _ => {
                batches.push(vec![index]);
                bytes = length;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_batched_by_number_and_size() {
        let texts: Vec<Text> = (0..6).map(|i| Text::from(i.to_string())).collect();
        let most = |texts| Size { texts, bytes: BYTES };
        assert_eq!(batches(&texts, 0..5, most(2)), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(batches(&texts, [5, 0, 2], most(2)), [vec![5, 0], vec![2]]);
        assert_eq!(batches(&texts, 0..2, most(1)), [vec![0], vec![1]]);
        let large = vec![Text::from("x".repeat(BYTES - 1)); 3];
        assert_eq!(batches(&large, 0..3, most(10)).len(), 3);
        assert!(batches(&[], [], most(10)).is_empty());
    }

    fn size(texts: usize, bytes: usize) -> Size {
        Size { texts, bytes }
    }

    #[test]
    fn what_worked_is_kept_and_twice_as_much_is_tried_later() {
        let (learned, start) = (Learned::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(learned.most(256, start), size(256, BYTES));
        assert!(learned.refused(size(16, 400), size(8, 200), start));
        assert_eq!(learned.most(256, later(59)), size(8, BYTES));
        // A batch that was under way when this was learned teaches nothing more, nor does it make it larger.
        assert!(!learned.refused(size(32, 400), size(16, 200), start));
        assert_eq!(learned.most(256, later(60)), size(16, BYTES), "twice as much");
        assert_eq!(learned.most(256, later(61)), size(16, BYTES), "for the next minute");
        assert!(learned.refused(size(16, 400), size(8, 200), later(62)));
        assert_eq!(learned.most(256, later(121)), size(8, BYTES), "a minute from the last refusal");
        for (minute, texts) in [(1, 16), (2, 32), (3, 64), (4, 128), (5, 256), (6, 256)] {
            assert_eq!(learned.most(256, later(62 + 60 * minute)), size(texts, BYTES), "minute {minute}");
        }
    }

    #[test]
    fn long_texts_do_not_have_short_ones_sent_one_by_one() {
        let (learned, now) = (Learned::default(), Instant::now());
        assert!(learned.refused(size(2, 1_200_000), size(1, 600_000), now));
        assert_eq!(learned.most(256, now), size(256, 600_000));
        assert!(learned.refused(size(100, 10_000), size(50, 5_000), now));
        assert_eq!(learned.most(256, now), size(50, 600_000), "both limits");
    }
}

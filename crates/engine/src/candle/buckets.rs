//! Sequences of like length, for attention on a device: a bucket is one dense tensor, padded to its longest sequence.
//!
//! Only attention sees padding. Everything else of a block works on packed rows.

use std::ops::Range;

/// A bucket's longest sequence is at most this many tokens longer than its shortest, plus a quarter of that: so no more than
/// ten buckets up to 512 tokens, each of which costs its own launches, and little attention spent on padding.
const SLACK: usize = 16;

/// Sequences that share a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Which ones, by their place in the order of lengths.
    pub(super) sequences: Range<usize>,
    /// Their rows among the packed ones.
    pub(super) rows: Range<usize>,
    /// Tokens of the longest.
    pub(super) longest: usize,
}

/// Cuts lengths, shortest first and none 0, into buckets. All sequences of one have at most `pairs` pairs of tokens together,
/// unless a single one has more.
pub(super) fn buckets(lengths: &[usize], pairs: usize) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    let (mut shortest, mut row) = (0, 0);
    for (place, &length) in lengths.iter().enumerate() {
        match buckets.last_mut() {
            Some(bucket)
                if length <= shortest + shortest / 4 + SLACK
                    && (bucket.sequences.len() + 1).saturating_mul(length.saturating_mul(length)) <= pairs =>
            {
                bucket.sequences.end = place + 1;
                bucket.rows.end = row + length;
                bucket.longest = length;
            }
            _ => {
                shortest = length;
                buckets.push(Bucket { sequences: place..place + 1, rows: row..row + length, longest: length });
            }
        }
        row += length;
    }
    buckets
}

impl Bucket {
    /// Whether all its sequences have one length, so that nothing is padded. `lengths` are those of all sequences.
    pub(super) fn is_even(&self, lengths: &[usize]) -> bool {
        lengths[self.sequences.start] == self.longest
    }

    /// The packed row for each row of the padded tensor, `[sequences × longest]`. Padding repeats the sequence's own first
    /// row: whatever that is, it reaches no other sequence.
    pub(super) fn padded(&self, lengths: &[usize]) -> Vec<u32> {
        let mut first = self.rows.start;
        let mut rows = Vec::with_capacity(self.sequences.len() * self.longest);
        for &length in &lengths[self.sequences.clone()] {
            rows.extend((0..self.longest).map(|at| (first + if at < length { at } else { 0 }) as u32));
            first += length;
        }
        rows
    }

    /// Where the bucket's packed rows are in a tensor `[sequences, heads, longest]`, for the first head: with one head, what
    /// undoes [`Bucket::padded`].
    pub(super) fn real(&self, lengths: &[usize], heads: usize) -> Vec<u32> {
        let lengths = lengths[self.sequences.clone()].iter().enumerate();
        lengths
            .flat_map(|(place, &length)| (0..length).map(move |at| (place * heads * self.longest + at) as u32))
            .collect()
    }

    /// For each row of the padded tensor whether it is a token.
    pub(super) fn tokens(&self, lengths: &[usize]) -> impl Iterator<Item = bool> {
        let longest = self.longest;
        lengths[self.sequences.clone()].iter().flat_map(move |&length| (0..longest).map(move |at| at < length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_in_one_bucket_and_padding_stays_small() {
        let lengths: Vec<usize> = (1..=512).collect();
        let cut = buckets(&lengths, usize::MAX);
        assert!(cut.len() <= 10, "{} buckets", cut.len());
        let (mut sequence, mut row) = (0, 0);
        for bucket in &cut {
            assert_eq!((bucket.sequences.start, bucket.rows.start), (sequence, row));
            let inside = &lengths[bucket.sequences.clone()];
            assert_eq!(bucket.rows.len(), inside.iter().sum::<usize>());
            assert_eq!(inside.last(), Some(&bucket.longest));
            assert!(bucket.longest <= inside[0] + inside[0] / 4 + SLACK);
            (sequence, row) = (bucket.sequences.end, bucket.rows.end);
        }
        assert_eq!((sequence, row), (512, lengths.iter().sum()));
        assert!(buckets(&[], 1).is_empty());
    }

    #[test]
    fn padded_rows_lead_back_to_the_real_ones() {
        let lengths = [2, 3, 3, 90];
        let cut = buckets(&lengths, usize::MAX);
        assert_eq!(cut.len(), 2);
        let bucket = &cut[0];
        assert_eq!(bucket.padded(&lengths), [0, 1, 0, 2, 3, 4, 5, 6, 7]);
        assert_eq!(bucket.real(&lengths, 1), [0, 1, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bucket.real(&lengths, 2), [0, 1, 6, 7, 8, 12, 13, 14]);
        assert_eq!(bucket.tokens(&lengths).map(u8::from).collect::<Vec<_>>(), [1, 1, 0, 1, 1, 1, 1, 1, 1]);
        let padded = bucket.padded(&lengths);
        let back: Vec<u32> = bucket.real(&lengths, 1).iter().map(|&at| padded[at as usize]).collect();
        assert_eq!(back, (0..8).collect::<Vec<_>>());
        assert!(!bucket.is_even(&lengths) && cut[1].is_even(&lengths));
    }

    #[test]
    fn the_pairs_of_a_bucket_are_bounded() {
        let cut = |lengths: &[usize], pairs| -> Vec<usize> {
            buckets(lengths, pairs).iter().map(|bucket| bucket.sequences.len()).collect()
        };
        assert_eq!(cut(&[10; 7], usize::MAX), [7]);
        assert_eq!(cut(&[10; 7], 300), [3, 3, 1]);
        // The longest decides, as all are padded to it.
        assert_eq!(cut(&[10, 10, 20], 800), [2, 1]);
        assert_eq!(cut(&[10, 10, 20], 1200), [3]);
        // A sequence cannot be cut.
        assert_eq!(cut(&[10, 10], 1), [1, 1]);
        assert_eq!(cut(&[usize::MAX / 2, usize::MAX / 2], usize::MAX - 1), [1, 1]);
    }
}

//! What a pass tells the card of its texts, as one array of words: one copy brings it there.

use std::ops::Range;

/// Queries of a block of threads in attention; `kernels/attention.cuh` has the same number.
pub(crate) const TILE_QUERIES: usize = 64;

/// Words that describe a tile of queries.
const TILE_WORDS: usize = 4;

/// Passes of up to so many rows are recorded the second time that their size is met: launching their kernels one by one takes
/// longer than running them.
pub const RECORDED_ROWS: usize = 1024;

/// Sizes that a pass is rounded up to, so that few kinds of passes are met, and recordings and products are found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Size {
    /// Rows of all matrices.
    pub(crate) rows: usize,
    /// Tiles of queries.
    pub(crate) tiles: usize,
    /// Sequences.
    pub(crate) sequences: usize,
}

impl Size {
    pub(crate) fn of(lengths: &[usize]) -> Size {
        let tiles = lengths.iter().map(|length| length.div_ceil(TILE_QUERIES)).sum::<usize>().max(1);
        let (rows, sequences) = (rounded_rows(lengths.iter().sum()), lengths.len().max(1));
        let size = Size { rows, tiles, sequences };
        match size.is_recorded() {
            true => Size { rows, tiles: tiles.next_power_of_two(), sequences: sequences.next_power_of_two() },
            false => size,
        }
    }

    /// Whether a pass of this size is recorded: it waits for nothing then.
    pub(crate) fn is_recorded(self) -> bool {
        self.rows <= RECORDED_ROWS
    }
}

/// The rows of the products of a pass of so many: a few per cent more at most, but never fewer than 16, so that there are few
/// different ones.
pub fn rounded_rows(rows: usize) -> usize {
    let below = (rows.max(1) + 1).next_power_of_two() / 2;
    rows.max(1).next_multiple_of((below / 16).max(16))
}

/// Where the parts lie, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    size: Size,
    tables: usize,
}

impl Layout {
    pub(crate) fn new(size: Size, tables: usize) -> Layout {
        Layout { size, tables }
    }

    /// For each row its row of this table.
    pub(crate) fn rows_of(&self, table: usize) -> usize {
        table * self.size.rows
    }

    /// For each row its position.
    pub(crate) fn positions(&self) -> usize {
        self.tables * self.size.rows
    }

    /// The tiles, on 16 bytes.
    pub(crate) fn tiles(&self) -> usize {
        (self.tables + 1) * self.size.rows
    }

    /// First row and length of each sequence.
    pub(crate) fn sequences(&self) -> usize {
        self.tiles() + TILE_WORDS * self.size.tiles
    }

    /// All of them.
    pub(crate) fn words(&self) -> usize {
        self.sequences() + 2 * self.size.sequences
    }

    /// Writes them: row 0 of each table for rows that are no token's, and tiles and sequences of no length.
    pub(crate) fn write(&self, rows: &[Vec<u32>], lengths: &[usize], words: &mut [u32]) {
        words.fill(0);
        for (table, rows) in rows.iter().enumerate() {
            words[self.rows_of(table)..][..rows.len()].copy_from_slice(rows);
        }
        let (mut tile, mut sequence) = (self.tiles(), self.sequences());
        for Range { start, end } in ranges(lengths) {
            let length = end - start;
            for position in 0..length {
                words[self.positions() + start + position] = position as u32;
            }
            for query in (0..length).step_by(TILE_QUERIES) {
                words[tile..tile + 3].copy_from_slice(&[start as u32, length as u32, query as u32]);
                tile += TILE_WORDS;
            }
            words[sequence..sequence + 2].copy_from_slice(&[start as u32, length as u32]);
            sequence += 2;
        }
    }
}

/// Rows of each sequence.
pub(crate) fn ranges(lengths: &[usize]) -> impl Iterator<Item = Range<usize>> + '_ {
    lengths.iter().scan(0, |start, &length| {
        let range = *start..*start + length;
        *start = range.end;
        Some(range)
    })
}

/// Rows that are counted together; `kernels/experts.cuh` has the same number.
const GROUP_ROWS: usize = 128;

/// Where words about experts' rows lie, behind each other: of how many rows, and how many experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Takers {
    pub(crate) rows: usize,
    pub(crate) experts: usize,
}

impl Takers {
    /// How many groups there are.
    pub(crate) fn groups(rows: usize) -> usize {
        rows.div_ceil(GROUP_ROWS)
    }

    /// The rows that took an expert.
    pub(crate) fn of(self, expert: usize) -> usize {
        expert * self.rows
    }

    /// How many rows of each group took each expert.
    pub(crate) fn counts(self) -> usize {
        self.experts * self.rows
    }

    /// How many rows took each expert.
    pub(crate) fn totals(self) -> usize {
        self.counts() + Takers::groups(self.rows) * self.experts
    }

    /// All of them.
    pub(crate) fn words(self) -> usize {
        self.totals() + self.experts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_few_and_a_few_per_cent_more() {
        let all: std::collections::BTreeSet<usize> = (1..=100_000).map(rounded_rows).collect();
        assert!(all.len() < 200, "{}", all.len());
        for rows in 1..=100_000 {
            let got = rounded_rows(rows);
            assert!(got >= rows && got.is_multiple_of(16) && got <= (rows + 16).max(rows * 17 / 16), "{rows}: {got}");
            assert_eq!(rounded_rows(got), got);
        }
        let size = Size::of(&[64, 65, 1]);
        assert_eq!(size, Size { rows: 144, tiles: 4, sequences: 4 });
    }

    #[test]
    fn words_say_where_tokens_and_sequences_are() {
        let lengths = [70, 2];
        let layout = Layout::new(Size::of(&lengths), 2);
        let mut words = vec![9; layout.words()];
        layout.write(&[(1..=72).collect(), (101..=172).collect()], &lengths, &mut words);
        assert_eq!((layout.size.rows, layout.tiles() % 4), (80, 0));
        assert_eq!((words[0], words[71], words[72], words[80], words[152]), (1, 72, 0, 101, 0));
        let positions = &words[layout.positions()..][..80];
        assert_eq!((&positions[..3], &positions[68..73]), (&[0, 1, 2][..], &[68, 69, 0, 1, 0][..]));
        assert_eq!(words[layout.tiles()..][..16], [0, 70, 0, 0, 0, 70, 64, 0, 70, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(words[layout.sequences()..], [0, 70, 70, 2]);
    }
}

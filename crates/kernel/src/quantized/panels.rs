//! Weights, keys and values as what multiplies them reads them: in panels of columns.

use super::tile::{GROUP, PANEL};
use crate::matrix_unit::TILE_WORDS;
use crate::memory::AlignedBuffer;

/// Groups of codes in a step of a unit: a tile's words.
pub(super) const UNIT_GROUPS: usize = TILE_WORDS;

/// How the codes of a panel lie, for what multiplies them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Layout {
    /// A group of each column, then the next.
    #[default]
    Groups,
    /// The same with zeros after the last up to a whole step of a unit.
    Steps,
    /// Two groups of each column, then the next two.
    Squares,
}

impl Layout {
    /// Every one.
    #[cfg(test)]
    pub(super) const ALL: [Layout; 3] = [Layout::Groups, Layout::Steps, Layout::Squares];

    /// Groups of a column that lie together, and rows on the left that are multiplied at once.
    pub(super) fn together(self) -> usize {
        if self == Layout::Squares { 2 } else { 1 }
    }

    /// So many groups, filled up with zeros.
    fn filled(self, groups: usize) -> usize {
        match self {
            Layout::Groups => groups,
            Layout::Steps => groups.next_multiple_of(UNIT_GROUPS),
            Layout::Squares => groups.next_multiple_of(2),
        }
    }
}

/// A matrix of signed codes, in panels: `[inputs, columns]`.
#[derive(Default)]
pub(super) struct Panels {
    memory: AlignedBuffer,
    /// Groups of each panel, filled up.
    groups: usize,
    layout: Layout,
    columns: usize,
    /// Sum of each column's codes, to take an activation's zero point off; whole panels.
    pub(super) column_sums: Vec<i32>,
}

impl Panels {
    /// An empty matrix of a size. Codes beyond its edges are zero.
    pub(super) fn zeroed(inputs: usize, columns: usize, layout: Layout) -> Panels {
        let mut panels = Panels::default();
        panels.resize(inputs, columns, layout);
        panels
    }

    /// Makes it an empty matrix of another size, in the same memory if that is enough.
    pub(super) fn resize(&mut self, inputs: usize, columns: usize, layout: Layout) {
        self.groups = layout.filled(inputs.div_ceil(GROUP));
        self.layout = layout;
        self.columns = columns;
        let bytes = self.panel_count() * self.groups * PANEL * GROUP;
        self.memory.reserve(bytes / size_of::<f32>());
        self.memory.fill(0.0);
        self.column_sums.clear();
        self.column_sums.resize(self.panel_count() * PANEL, 0);
    }

    /// Number of panels, the last perhaps not full.
    pub(super) fn panel_count(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// Number of columns.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of codes.
    pub(super) fn bytes(&self) -> usize {
        self.panel_count() * self.groups * PANEL * GROUP
    }

    /// Codes of one panel.
    pub(super) fn panel(&self, panel: usize) -> &[i8] {
        let size = self.groups * PANEL * GROUP;
        &self.codes()[panel * size..(panel + 1) * size]
    }

    /// The panel after another, if the tile that begins at `row` is the one during which to fetch it: the first.
    #[inline(always)]
    pub(super) fn panel_after(&self, panel: usize, row: usize) -> Option<&[i8]> {
        (row == 0 && panel + 1 < self.panel_count()).then(|| self.panel(panel + 1))
    }

    pub(super) fn codes(&self) -> &[i8] {
        // SAFETY: any bytes of the buffer are codes; it has at least that many.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.memory.len() * size_of::<f32>()) }
    }

    fn codes_mut(&mut self) -> &mut [i8] {
        // SAFETY: any bytes of the buffer are codes, and any codes are f32 bits; it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.memory.len() * size_of::<f32>()) }
    }

    /// Sets the rows of one group of inputs, each input's codes for every column. `None` is a row of zeros. Each group
    /// once: the sums of the columns grow with it.
    #[inline(always)]
    pub(super) fn set_rows(&mut self, group: usize, rows: [Option<&[i8]>; GROUP]) {
        let (groups, columns, together) = (self.groups, self.columns, self.layout.together());
        assert!(group < groups && rows.iter().flatten().all(|row| row.len() == columns));
        for panel in 0..self.panel_count() {
            let first = panel * PANEL;
            let count = PANEL.min(columns - first);
            // Whole rows of a panel: the compiler knows how to interleave them.
            let mut whole = [[0i8; PANEL]; GROUP];
            for (whole, row) in whole.iter_mut().zip(rows) {
                let Some(row) = row else { continue };
                match row[first..][..count].try_into() {
                    Ok(row) => *whole = row,
                    Err(_) => whole[..count].copy_from_slice(&row[first..][..count]),
                }
            }
            let [a, b, c, d] = whole;
            let sums = &mut self.column_sums[first..][..PANEL];
            for i in 0..PANEL {
                sums[i] += i32::from(a[i]) + i32::from(b[i]) + i32::from(c[i]) + i32::from(d[i]);
            }
            let first = (panel * groups + group / together * together) * PANEL * GROUP;
            let places = &mut self.codes_mut()[first..][..PANEL * together * GROUP];
            if together == 1 {
                for i in 0..PANEL {
                    places[i * GROUP..][..GROUP].copy_from_slice(&[a[i], b[i], c[i], d[i]]);
                }
            } else {
                for i in 0..PANEL {
                    let place = (i * together + group % together) * GROUP;
                    places[place..][..GROUP].copy_from_slice(&[a[i], b[i], c[i], d[i]]);
                }
            }
        }
    }

    /// Sets one column, its codes for every input. Each column once.
    #[inline(always)]
    pub(super) fn set_column(&mut self, column: usize, codes: &[i8]) {
        assert!(column < self.columns && codes.len() <= self.groups * GROUP);
        let together = self.layout.together();
        let start = column / PANEL * self.groups * PANEL * GROUP + column % PANEL * together * GROUP;
        let places = &mut self.codes_mut()[start..];
        let (whole, rest) = codes.as_chunks::<GROUP>();
        let place = |group: usize| (group / together * together * PANEL + group % together) * GROUP;
        for (group, codes) in whole.iter().enumerate() {
            places[place(group)..][..GROUP].copy_from_slice(codes);
        }
        if !rest.is_empty() {
            places[place(whole.len())..][..rest.len()].copy_from_slice(rest);
        }
        self.column_sums[column] = codes.iter().map(|&code| i32::from(code)).sum();
    }
}

//! What Punkt learned of English: abbreviations, collocations, sentence starters, and in which cases words were seen.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// The contexts and cases a word was seen in during training, a bit set with Punkt's own numbering.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orthography(pub(super) u8);

impl Orthography {
    /// With an upper-case first letter, inside a sentence.
    pub(super) const MIDDLE_UPPER: u8 = 1 << 2;
    /// With an upper-case first letter: first in a sentence, inside one, or in an unknown place.
    pub(super) const UPPER: u8 = (1 << 1) | Self::MIDDLE_UPPER | (1 << 3);
    /// With a lower-case first letter, first in a sentence.
    pub(super) const FIRST_LOWER: u8 = 1 << 4;
    /// With a lower-case first letter: first in a sentence, inside one, or in an unknown place.
    pub(super) const LOWER: u8 = Self::FIRST_LOWER | (1 << 5) | (1 << 6);

    /// What is known of a type; nothing of an unseen one.
    pub(super) fn of(word_type: &str) -> Self {
        PARAMETERS.orthography.get(word_type).copied().unwrap_or_default()
    }
}

/// A trained Punkt model.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) abbreviations: HashSet<&'static str>,
    pub(super) collocations: HashSet<(&'static str, &'static str)>,
    pub(super) sentence_starters: HashSet<&'static str>,
    pub(super) orthography: HashMap<&'static str, Orthography>,
}

/// The English model from the NLTK data package `punkt_tab` (Punkt Tokenizer Models by Jan Strunk, MIT License), all
/// of it, put into one file by `tests/oracles/punkt_fuzz.py parameters`.
pub(super) static PARAMETERS: LazyLock<Parameters> = LazyLock::new(|| Parameters::parse(include_str!("english.txt")));

impl Parameters {
    /// Reads `[section]` lines, each followed by lines of tab-separated entries; what precedes the first section is
    /// commentary. No entry starts with `[`, as Punkt splits that off every word.
    fn parse(model: &'static str) -> Self {
        let mut parameters = Self::default();
        let mut section = "";
        for line in model.lines() {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_end_matches(']');
                continue;
            }
            let entries = line.split('\t');
            match section {
                "abbreviations" => parameters.abbreviations.extend(entries),
                "collocations" => {
                    parameters.collocations.extend(entries.filter_map(|pair| pair.split_once(' ')));
                }
                "sentence starters" => parameters.sentence_starters.extend(entries),
                _ => {
                    if let Some(Ok(seen)) = section.strip_prefix("orthography ").map(str::parse) {
                        parameters.orthography.extend(entries.map(|word| (word, Orthography(seen))));
                    }
                }
            }
        }
        parameters
    }
}

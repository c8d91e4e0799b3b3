//! Sentence splitting with the Punkt model for English, span for span what NLTK 3.9.1's `sent_tokenize` does.
//!
//! The reference container averages sentence vectors, so a boundary in another place is another vector: oddities of
//! the original are kept on purpose and marked as such. Method: Kiss and Strunk, "Unsupervised Multilingual Sentence
//! Boundary Detection", Computational Linguistics 32 (2006). The way through the file is the way of a text:
//!
//! 1. [`Candidates`]: marks that could end a sentence, each with a small *context* of text around it;
//! 2. [`contains_break`]: the context's words, a first look at each word alone, a second at each pair;
//! 3. [`Sentences`]: closing quotes and brackets go back to the sentence they close.
//!
//! Every step reads its input once, so the time is linear in the length of the text, whatever the text is.
//! The original asks Python's Unicode tables (14.0 in Python 3.11). Every character assigned in 14.0 is classed here as
//! there; characters assigned since are classed by the newer tables of this program.

mod parameters;

use std::borrow::Cow;
use std::iter;
use std::ops::Range;

use self::parameters::{Orthography, PARAMETERS};
use unicode_general_category::{GeneralCategory, get_general_category};

/// Replaces every run of whitespace by one blank and drops it at both ends: Python's `" ".join(text.split())`.
///
/// Whitespace is Unicode's, and the four separators U+001C to U+001F, which Python counts as such.
pub fn collapse_whitespace(text: &str) -> String {
    collapse_joined(&[text])
}

/// The same of a text that comes in parts, so that it need not be joined before.
pub fn collapse_joined(parts: &[&str]) -> String {
    let mut collapsed = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    // Whether whitespace came since the last word: a part's end alone ends none.
    let mut apart = false;
    for part in parts {
        for (index, word) in part.split(is_whitespace).enumerate() {
            apart |= index > 0;
            if word.is_empty() {
                continue;
            }
            if std::mem::take(&mut apart) && !collapsed.is_empty() {
                collapsed.push(' ');
            }
            collapsed.push_str(word);
        }
    }
    collapsed
}

/// Splits a text into sentences, given as byte ranges into `text`, in order and without overlap.
///
/// Whitespace between sentences belongs to none of them; no range is empty, and a text without a word has none. The
/// reference collapses whitespace first ([`collapse_whitespace`]); a text that still has line breaks is split as
/// NLTK would split it.
pub fn split_sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences = Sentences::default();
    iter::from_fn(|| sentences.next(text)).collect()
}

/// The sentences of a text one after the other, as [`split_sentences`] has them: of a text of millions only one need be
/// there at a time.
#[derive(Debug, Default)]
pub struct Sentences {
    slices: Slices,
    /// The slice that comes next, once it is known, and what of its head belongs to the one before.
    ahead: Option<(Range<usize>, usize)>,
    begun: bool,
}

impl Sentences {
    /// The next sentence of a text, the same at each call, as a byte range.
    pub fn next(&mut self, text: &str) -> Option<Range<usize>> {
        if !std::mem::replace(&mut self.begun, true) {
            self.ahead = self.slices.next(text).map(|slice| (slice, 0));
        }
        loop {
            // Closing punctuation at the head of a slice goes to the end of the slice before it; what is then empty is
            // dropped.
            let (slice, moved) = self.ahead.take()?;
            let start = slice.start + moved;
            let mut end = slice.end;
            if let Some(next) = self.slices.next(text) {
                let mut moved = 0;
                if let Some((closers, consumed)) = closing_punctuation(&text[next.clone()]) {
                    end = next.start + closers;
                    moved = consumed;
                }
                self.ahead = Some((next, moved));
            }
            if start < end {
                return Some(start..end);
            }
        }
    }
}

/// The stretches between accepted breaks, before realignment.
#[derive(Debug, Default)]
struct Slices {
    candidates: Candidates,
    start: usize,
    ended: bool,
}

impl Slices {
    fn next(&mut self, text: &str) -> Option<Range<usize>> {
        if self.ended {
            return None;
        }
        let start = self.start;
        while let Some(candidate) = self.candidates.next(text) {
            if contains_break(&text[candidate.context()]) {
                self.start = candidate.next_start;
                return Some(start..candidate.mark + 1);
            }
        }
        self.ended = true;
        Some(start..text.trim_end_matches(is_whitespace).len())
    }
}

/// Closing quotes and brackets at the head of a slice, if they stand apart from what follows: before whitespace, a
/// double hyphen or the slice's end. Returns their length, and their length with the whitespace after them.
fn closing_punctuation(slice: &str) -> Option<(usize, usize)> {
    let rest = slice.trim_start_matches(['"', '\'', ')', ']', '}']);
    let closers = slice.len() - rest.len();
    let tail = rest.trim_start_matches(is_whitespace);
    let apart = rest.is_empty() || tail.len() < rest.len() || rest.starts_with("--");
    (closers > 0 && apart).then_some((closers, slice.len() - tail.len()))
}

/// A mark that may end a sentence.
#[derive(Clone, Debug)]
struct Candidate {
    /// Where the word before the mark starts.
    word_start: usize,
    /// The mark itself: one of `.?!`, one byte.
    mark: usize,
    /// The end of what follows the mark: a punctuation character, or whitespace and the next token.
    context_end: usize,
    /// Where the next sentence starts if the mark ends one.
    next_start: usize,
}

impl Candidate {
    /// The part of the text that decides on the mark.
    fn context(&self) -> Range<usize> {
        self.word_start..self.context_end
    }
}

/// The candidates of a text; of a run with overlapping words before the marks only the last is kept.
#[derive(Debug, Default)]
struct Candidates {
    position: usize,
    last_blank: usize,
    pending: Option<Candidate>,
}

impl Candidates {
    /// The word before a mark begins after the last blank since the previous candidate's mark. Without such a blank
    /// the original falls back to the start of the previous candidate's word, and it takes a blank at the very first
    /// place it looks at for none.
    fn word_start(&self) -> usize {
        let (previous_start, previous_mark) = self.pending.as_ref().map_or((0, 0), |last| (last.word_start, last.mark));
        if self.last_blank > previous_mark { self.last_blank + 1 } else { previous_start }
    }

    fn next(&mut self, text: &str) -> Option<Candidate> {
        while let Some(&byte) = text.as_bytes().get(self.position) {
            let mark = self.position;
            self.position += 1;
            match byte {
                // ASCII only, as in the original (Python's `string.whitespace`).
                b' ' | b'\t'..=b'\r' => self.last_blank = mark,
                b'.' | b'?' | b'!' => {
                    let Some((context_end, next_start)) = after_mark(text, mark + 1) else { continue };
                    let candidate = Candidate { word_start: self.word_start(), mark, context_end, next_start };
                    let word_start = candidate.word_start;
                    if let Some(previous) = self.pending.replace(candidate)
                        && previous.mark <= word_start
                    {
                        return Some(previous);
                    }
                }
                _ => {}
            }
        }
        self.pending.take()
    }
}

/// What must follow a mark for it to be a candidate: punctuation, or whitespace and a token. Returns where that ends
/// and where the next sentence would start.
fn after_mark(text: &str, after: usize) -> Option<(usize, usize)> {
    let rest = &text[after..];
    if rest.starts_with(is_word_boundary_punctuation) {
        return Some((after + 1, after));
    }
    let token = rest.trim_start_matches(is_whitespace);
    if token.is_empty() || token.len() == rest.len() {
        return None;
    }
    let start = text.len() - token.len();
    Some((start + token.find(is_whitespace).unwrap_or(token.len()), start))
}

/// Whether any word of a context but its last ends a sentence.
fn contains_break(context: &str) -> bool {
    let mut tokens = context.split('\n').flat_map(words).map(Token::new);
    let Some(mut token) = tokens.next() else { return false };
    for next in tokens {
        if token.ends_sentence_before(&next) {
            return true;
        }
        token = next;
    }
    false
}

/// The words of one line, punctuation split off, except for periods, which stay with their word.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    iter::from_fn(move || {
        rest = rest.trim_start_matches(is_whitespace);
        if rest.is_empty() {
            return None;
        }
        let (word, tail) = rest.split_at(word_length(rest));
        rest = tail;
        Some(word)
    })
}

/// The length in bytes of the word at the head of `rest`, which starts with no whitespace.
fn word_length(rest: &str) -> usize {
    if let Some(length) = multi_character_punctuation(rest) {
        return length;
    }
    let mut characters = rest.char_indices();
    if let Some((_, '(' | '"' | '`' | '{' | '[' | ':' | ';' | '&' | '#' | '*' | '@' | ')' | '}' | ']' | '-' | ',')) =
        characters.next()
    {
        return 1;
    }
    characters.map(|(at, _)| at).find(|&at| ends_word(&rest[at..])).unwrap_or(rest.len())
}

/// Whether a word ends before `rest`. A comma ends it only if a boundary comes right after: not in `1,000`.
fn ends_word(rest: &str) -> bool {
    is_boundary(rest) || rest.strip_prefix(',').is_some_and(is_boundary)
}

fn is_boundary(rest: &str) -> bool {
    rest.is_empty()
        || rest.starts_with(is_whitespace)
        || rest.starts_with(is_word_boundary_punctuation)
        || multi_character_punctuation(rest).is_some()
}

/// The length of the dashes (`--`), dots (`..`) or spaced dots (`. . .`, one whitespace character between any two, at
/// least three dots) at the head of `rest`.
fn multi_character_punctuation(rest: &str) -> Option<usize> {
    let run = |byte: u8| rest.bytes().take_while(|&other| other == byte).count();
    let length = run(b'-').max(run(b'.'));
    if length >= 2 {
        return Some(length);
    }
    let (mut dots, mut length, mut tail) = (0, 0, rest);
    while let Some(after_dot) = tail.strip_prefix('.') {
        dots += 1;
        length = rest.len() - after_dot.len();
        match after_dot.strip_prefix(is_whitespace) {
            Some(next) => tail = next,
            None => break,
        }
    }
    (dots >= 3).then_some(length)
}

/// Punctuation that never stands inside a word, and that makes a candidate of a mark before it.
fn is_word_boundary_punctuation(character: char) -> bool {
    matches!(character, ')' | '"' | ';' | '}' | ']' | '*' | ':' | '@' | '\'' | '(' | '{' | '[' | '?' | '!')
}

/// Python's `str.isspace`, which `\s` and `str.split` use as well.
fn is_whitespace(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// What a word looks like by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Annotation {
    SentenceBreak,
    Abbreviation,
    Ellipsis,
    None,
}

/// A word of a context. Its *type* is the word in lower case, or [`NUMBER`] for a number.
struct Token<'t> {
    text: &'t str,
    annotation: Annotation,
}

/// The type of all numbers.
const NUMBER: &str = "##number##";

impl<'t> Token<'t> {
    fn new(text: &'t str) -> Self {
        let annotation = match text.strip_suffix('.') {
            _ if matches!(text, "." | "?" | "!") => Annotation::SentenceBreak,
            Some(stem) if stem.bytes().all(|byte| byte == b'.') => Annotation::Ellipsis,
            Some(stem) if stem.ends_with('.') => Annotation::None,
            Some(stem) if is_abbreviation(stem) => Annotation::Abbreviation,
            Some(_) => Annotation::SentenceBreak,
            None => Annotation::None,
        };
        Self { text, annotation }
    }

    /// The final decision on this word, seen with the word after it.
    fn ends_sentence_before(&self, next: &Token<'_>) -> bool {
        let mut ends = self.annotation == Annotation::SentenceBreak;
        if !self.text.ends_with('.') {
            return ends;
        }
        let own_type = word_type(self.text);
        let own_type = without_period(&own_type);
        let next_type = word_type(next.text);
        let next_type =
            if next.annotation == Annotation::SentenceBreak { without_period(&next_type) } else { &*next_type };
        if PARAMETERS.collocations.contains(&(own_type, next_type)) {
            return false;
        }

        let is_initial = is_initial(self.text);
        let is_abbreviated = matches!(self.annotation, Annotation::Abbreviation | Annotation::Ellipsis);
        if !is_initial && !is_abbreviated && own_type != NUMBER {
            return ends;
        }

        let next_is_upper = next.text.starts_with(char::is_uppercase);
        let starts_sentence = starts_sentence(next.text, next_type);
        if is_abbreviated && !is_initial {
            let frequent_starter = next_is_upper && PARAMETERS.sentence_starters.contains(next_type);
            if starts_sentence == Some(true) || frequent_starter {
                return true;
            }
        }
        if is_initial || own_type == NUMBER {
            let never_lower = Orthography::of(next_type).0 & Orthography::LOWER == 0;
            ends &= match starts_sentence {
                Some(false) => false,
                Some(true) => true,
                // "J. Bach": a name that is never seen in lower case.
                None => !(is_initial && next_is_upper && never_lower),
            };
        }
        ends
    }
}

/// Whether a word is a known abbreviation, as a whole or by what follows its last hyphen.
fn is_abbreviation(stem: &str) -> bool {
    let stem = lower_case(stem);
    let known = |part: &str| PARAMETERS.abbreviations.contains(part);
    known(&stem) || stem.rsplit('-').next().is_some_and(known)
}

/// The orthographic heuristic: whether a word looks like the first of a sentence, if its case and the cases that the
/// model has seen it in tell.
fn starts_sentence(word: &str, word_type: &str) -> Option<bool> {
    if matches!(word, ";" | ":" | "," | "." | "!" | "?") {
        return Some(false);
    }
    let Orthography(seen) = Orthography::of(word_type);
    if word.starts_with(char::is_uppercase) && seen & Orthography::LOWER != 0 && seen & Orthography::MIDDLE_UPPER == 0 {
        return Some(true);
    }
    if word.starts_with(is_lower_case) && (seen & Orthography::UPPER != 0 || seen & Orthography::FIRST_LOWER == 0) {
        return Some(false);
    }
    None
}

fn word_type(word: &str) -> Cow<'_, str> {
    if is_number(word) { Cow::Borrowed(NUMBER) } else { lower_case(word) }
}

/// A type without its final period, if it is more than a period.
fn without_period(word_type: &str) -> &str {
    word_type.strip_suffix('.').filter(|stem| !stem.is_empty()).unwrap_or(word_type)
}

fn lower_case(word: &str) -> Cow<'_, str> {
    if word.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(word.to_lowercase())
    }
}

/// Python 3.11's `str.islower` of one character. Of the characters in its Unicode version, 14.0, six have changed their
/// lower-case property since.
fn is_lower_case(character: char) -> bool {
    match character {
        '\u{295}' => true,
        '\u{10fc}' | '\u{a7f2}'..='\u{a7f4}' | '\u{ab69}' => false,
        _ => character.is_lowercase(),
    }
}

/// An optional minus and one of `.,`, then a decimal digit of any script, then digits and `,.-`.
fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let digits = digits.strip_prefix(['.', ',']).unwrap_or(digits);
    digits.starts_with(is_decimal) && digits.chars().all(|c| matches!(c, ',' | '.' | '-') || is_decimal(c))
}

/// One letter, or a number that is no decimal digit, or `_`, before a period.
fn is_initial(word: &str) -> bool {
    let mut characters = word.chars();
    characters.next().is_some_and(is_letter_like) && characters.as_str() == "."
}

fn is_decimal(character: char) -> bool {
    character.is_ascii_digit()
        || (!character.is_ascii() && get_general_category(character) == GeneralCategory::DecimalNumber)
}

/// Python's `[^\W\d]`: general categories L, Nl and No, and `_`.
fn is_letter_like(character: char) -> bool {
    use GeneralCategory::{
        LetterNumber, LowercaseLetter, ModifierLetter, OtherLetter, OtherNumber, TitlecaseLetter, UppercaseLetter,
    };
    if character.is_ascii() {
        return character.is_ascii_alphabetic() || character == '_';
    }
    matches!(
        get_general_category(character),
        UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter | LetterNumber | OtherNumber
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_model_is_read() {
        assert_eq!(PARAMETERS.abbreviations.len(), 156);
        assert_eq!(PARAMETERS.collocations.len(), 37);
        assert_eq!(PARAMETERS.sentence_starters.len(), 39);
        assert_eq!(PARAMETERS.orthography.len(), 20_366);
        assert!(PARAMETERS.abbreviations.contains(". . "), "an entry may end in a blank");
        assert!(PARAMETERS.collocations.contains(&("##number##", "pay-fone")));
        assert_eq!(Orthography::of("hanging").0, 34);
        assert_eq!(Orthography::of("no such word").0, 0);
    }

    #[test]
    fn a_text_in_parts_is_collapsed_as_if_joined() {
        for parts in
            [["", " a  b "], ["Q:", "a b"], ["Q: ", " a"], ["Q:\n", "\u{1f}a"], ["a", ""], [" ", " "], [" ", "é\t"]]
        {
            assert_eq!(collapse_joined(&parts), collapse_whitespace(&parts.concat()), "{parts:?}");
        }
        assert_eq!(collapse_joined(&["Q: ", " a\n b"]), "Q: a b");
        assert_eq!(collapse_joined(&["pre", "fix"]), "prefix");
    }

    #[test]
    fn words_keep_their_periods_and_lose_other_punctuation() {
        let cases: [(&str, &[&str]); 9] = [
            ("Mr. O'Neil's", &["Mr.", "O", "'Neil", "'s"]),
            ("1,000, then", &["1,000", ",", "then"]),
            ("well--yes", &["well", "--", "yes"]),
            ("wait... what", &["wait", "...", "what"]),
            ("so . . . on", &["so", ". . .", "on"]),
            ("so . . on", &["so", ".", ".", "on"]),
            ("-5 (a) #1", &["-", "5", "(", "a", ")", "#", "1"]),
            ("x,,y ,-- é,", &["x,,y", ",", "--", "é", ","]),
            ("!x ?.y", &["!x", "?.y"]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line).collect::<Vec<_>>(), expected, "{line}");
        }
    }

    #[test]
    fn numbers_and_initials() {
        for number in ["1", "-1", "1.", "-.5", ",5", "1,000.50-3.", "٣", "1-2-.,"] {
            assert!(is_number(number), "{number}");
        }
        for word in ["", "-", ".", "--1", "..1", "1a", "²", "Ⅻ", "1.a"] {
            assert!(!is_number(word), "{word}");
        }
        for initial in ["J.", "é.", "_.", "².", "Ⅻ.", "中."] {
            assert!(is_initial(initial), "{initial}");
        }
        for word in ["J", ".", "JJ.", "1.", "٣.", "-.", "\u{301}.", "J.."] {
            assert!(!is_initial(word), "{word}");
        }
    }

    #[test]
    fn letter_case_is_that_of_unicode_14() {
        for lower in ['a', 'é', 'ª', 'ⓐ', '\u{295}'] {
            assert!(is_lower_case(lower), "{lower}");
        }
        for other in ['A', '1', '中', 'ǅ', '\u{10fc}', '\u{a7f2}', '\u{a7f4}', '\u{ab69}'] {
            assert!(!is_lower_case(other), "{other}");
        }
    }

    #[test]
    fn only_closers_that_stand_apart_are_realigned() {
        assert_eq!(closing_punctuation("\") Then"), Some((2, 3)));
        assert_eq!(closing_punctuation(")--then"), Some((1, 1)));
        assert_eq!(closing_punctuation("]}"), Some((2, 2)));
        assert_eq!(closing_punctuation("'tis"), None);
        assert_eq!(closing_punctuation(")-"), None);
        assert_eq!(closing_punctuation("(a)"), None);
        assert_eq!(closing_punctuation(""), None);
    }
}

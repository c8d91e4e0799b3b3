//! Class and property names → words, and Go's lower case.
//!
//! Splitting follows `github.com/fatih/camelcase` (`camelcase.go`), joining Weaviate's
//! `usecases/modulecomponents/vectorizer/object_texts.go`.

use unicode_general_category::{GeneralCategory, get_general_category};

/// The words of a name, joined with blanks and lower-cased if asked: `PDFLoader2` → `PDF Loader 2`.
///
/// A word that is exactly one blank is left out. A blank stands before every other word but the first of all words, so
/// `" A"` stays `" A"` and `"A "` becomes `"A"`.
pub fn spaced(name: &str, lowercase: bool) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    for (i, word) in words(name).into_iter().enumerate() {
        if word == " " {
            continue;
        }
        if i > 0 {
            out.push(' ');
        }
        if lowercase { out.extend(word.chars().map(lower)) } else { out.push_str(word) }
    }
    out
}

/// Splits a name where the class of its characters changes; the last capital before small letters goes with them.
///
/// The words are pieces of the name, in order, none empty.
pub fn words(name: &str) -> Vec<&str> {
    let mut runs: Vec<(Class, usize)> = Vec::new(); // class, start
    for (at, c) in name.char_indices() {
        let class = Class::of(c);
        if runs.last().is_none_or(|&(last, _)| last != class) {
            runs.push((class, at));
        }
    }
    // Capitals before small letters: the small run starts one capital earlier.
    for i in 1..runs.len() {
        if let [(Class::Upper, _), (Class::Lower, start)] = &mut runs[i - 1..=i] {
            let capital = name[..*start].chars().next_back().map_or(0, char::len_utf8);
            *start -= capital;
        }
    }
    let ends = runs.iter().skip(1).map(|run| run.1).chain([name.len()]);
    runs.iter().zip(ends).map(|(&(_, start), end)| &name[start..end]).filter(|word| !word.is_empty()).collect()
}

/// Go's `strings.ToLower`: each character for itself, without context, one to one. `Σ` is always `σ`, `İ` is `i`.
pub fn lowercase(text: &str) -> String {
    text.chars().map(lower).collect()
}

/// Go's `unicode.ToLower`. Where Unicode's full mapping has more than one character (`İ` alone), the simple mapping is
/// the first of them.
fn lower(c: char) -> char {
    if newer_than_unicode_15(c) { c } else { c.to_lowercase().next().unwrap_or(c) }
}

/// What the splitter tells apart: plain general categories, not the derived properties behind `char::is_lowercase`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Lower,
    Upper,
    Digit,
    Other,
}

impl Class {
    fn of(c: char) -> Class {
        match get_general_category(c) {
            _ if newer_than_unicode_15(c) => Class::Other,
            GeneralCategory::LowercaseLetter => Class::Lower,
            GeneralCategory::UppercaseLetter => Class::Upper,
            GeneralCategory::DecimalNumber => Class::Digit,
            _ => Class::Other,
        }
    }
}

/// Cased letters and digits that Go 1.26 does not know, because its tables are those of Unicode 15.0.
fn newer_than_unicode_15(c: char) -> bool {
    matches!(c,
        '\u{1c89}'..='\u{1c8a}' | '\u{a7cb}'..='\u{a7cf}' | '\u{a7d2}' | '\u{a7d4}' | '\u{a7da}'..='\u{a7dc}'
        | '\u{10d40}'..='\u{10d85}' | '\u{116d0}'..='\u{116e3}' | '\u{11bf0}'..='\u{11bf9}' | '\u{11de0}'..='\u{11de9}'
        | '\u{16130}'..='\u{16139}' | '\u{16d70}'..='\u{16d79}' | '\u{16ea0}'..='\u{16ed3}' | '\u{1ccf0}'..='\u{1ccf9}'
        | '\u{1e5f1}'..='\u{1e5fa}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_between_go_with_the_small_letters() {
        assert_eq!(words("userIDsList"), ["user", "I", "Ds", "List"]);
        assert_eq!(words("ABc"), ["A", "Bc"]);
        assert_eq!(words("Ab"), ["Ab"]);
        assert_eq!(spaced("ΑΒΓδεΖ", true), "αβ γδε ζ");
    }

    /// Every code point, against the digest of the table printed by a Go 1.26 program: one line
    /// `<code point> <class> <lower case>` each, class 1 for `unicode.IsLower`, else 2 for `IsUpper`, else 3 for
    /// `IsDigit`, else 4; hexadecimal, surrogates left out. A new Rust or a new table crate may break this; then
    /// [`newer_than_unicode_15`] wants more rows.
    #[test]
    fn classes_and_lower_case_are_those_of_go_for_all_code_points() {
        let mut digest: u64 = 0xcbf2_9ce4_8422_2325; // FNV-1a, 64 bits
        let mut lines = 0_u32;
        for c in '\0'..=char::MAX {
            let class = match Class::of(c) {
                Class::Lower => 1,
                Class::Upper => 2,
                Class::Digit => 3,
                Class::Other => 4,
            };
            for byte in format!("{:x} {class} {:x}\n", u32::from(c), u32::from(lower(c))).bytes() {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            lines += 1;
        }
        assert_eq!(lines, 1_112_064);
        assert_eq!(digest, GO_TABLE, "{digest:#x}");
    }

    const GO_TABLE: u64 = 0x7bb3_7963_af97_d223;
}

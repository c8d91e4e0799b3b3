//! The sentence splitter against NLTK 3.9.1, sentence for sentence, and its time on large and hostile texts.
//!
//! `english.json` holds prose and generated texts; `fuzz_sample.json` was written by `oracles/punkt_fuzz.py`. In both,
//! whitespace is collapsed before the split, except for the texts marked as `uncollapsed`.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde::Deserialize;
use text2vec_sidecar::backend::local::sentences::{collapse_whitespace, split_sentences};

/// A text and what NLTK made of it.
#[derive(Deserialize)]
struct Case {
    src: String,
    text: String,
    sentences: Vec<String>,
}

fn sentences(text: &str) -> Vec<&str> {
    split_sentences(text).into_iter().map(|span| &text[span]).collect()
}

fn assert_as_nltk(fixture: &str, expected_cases: usize) {
    let cases: Vec<Case> = serde_json::from_str(fixture).expect("the fixture is a list of cases");
    assert_eq!(cases.len(), expected_cases);
    let mut differences = String::new();
    for case in &cases {
        let text = if case.src == "uncollapsed" { case.text.clone() } else { collapse_whitespace(&case.text) };
        let actual = sentences(&text);
        if actual != case.sentences {
            writeln!(differences, "{:?}\n  nltk {:?}\n  here {actual:?}", case.text, case.sentences).expect("a string");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn golden_texts_are_split_as_nltk_splits_them() {
    assert_as_nltk(include_str!("../fixtures/punkt/english.json"), 416);
}

#[test]
fn fuzzed_texts_are_split_as_nltk_splits_them() {
    assert_as_nltk(include_str!("../fixtures/punkt/fuzz_sample.json"), 500);
}

#[test]
fn whitespace_is_collapsed_as_python_does_it() {
    assert_eq!(collapse_whitespace(""), "");
    assert_eq!(collapse_whitespace(" \n\t "), "");
    assert_eq!(collapse_whitespace("  a \r\n b\u{a0}\u{3000}c\u{85}"), "a b c");
    assert_eq!(collapse_whitespace("a\u{1c}b\u{1d}c\u{1e}d\u{1f}e\u{2028}f"), "a b c d e f");
    assert_eq!(collapse_whitespace("a\u{200b}b\u{feff}c\u{1b}d"), "a\u{200b}b\u{feff}c\u{1b}d");
}

#[test]
fn texts_without_words_have_no_sentences() {
    for text in ["", " ", "\n\n"] {
        assert!(split_sentences(text).is_empty());
    }
}

#[test]
fn spans_are_in_order_and_cover_all_but_whitespace() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../fixtures/punkt/fuzz_sample.json")).expect("cases");
    for Case { text, .. } in &cases {
        let text = collapse_whitespace(text);
        let mut end = 0;
        for span in split_sentences(&text) {
            assert!(span.start < span.end, "{text:?}");
            assert_eq!(text[end..span.start].trim(), "", "{text:?}");
            end = span.end;
        }
        assert_eq!(end, text.len(), "{text:?}");
    }
}

/// Patterns that, over and over, make the longest words, contexts, runs and slices.
const HOSTILE: &str = r#"
. ? ! " ') .) .␣ .␣.␣ ."␣ -- .- a. a.␣ A.␣b␣ !a a a, , -a a-b. x.) etc.␣ 1. ... ...␣ ?" é.␣É .␣␣ ␤. .␤ 　 .　 　. ␣ ),
"#;

/// Linear work on an eighth of a megabyte is a fraction of a second even in a debug build. Quadratic work is 1.6·10^10 steps,
/// which is minutes in such a build; the limit is far from both, so that a busy machine does not fail the test. The length
/// grows step by step, so that quadratic work fails soon.
#[test]
fn time_is_linear_in_the_length_of_the_text() {
    for pattern in HOSTILE.split([' ', '\n']).filter(|pattern| !pattern.is_empty()) {
        let pattern = pattern.replace('␣', " ").replace('␤', "\n");
        for length in [0, 3].map(|doublings| 15_625 << doublings) {
            let run = pattern.repeat(length / pattern.len());
            for text in [format!("x. {run}x"), format!("a{run}. B"), run] {
                let start = Instant::now();
                split_sentences(&text);
                let elapsed = start.elapsed();
                assert!(elapsed < Duration::from_secs(10), "{} bytes of {pattern:?}: {elapsed:?}", text.len());
            }
        }
    }
}

#[test]
fn megabytes_are_split_in_seconds() {
    for pattern in ["Dr. No sees 1.5 m. of it. \"The end?\" (Not yet.) ", ".", "\"", "A. b "] {
        let text = pattern.repeat(2_000_000 / pattern.len());
        let start = Instant::now();
        split_sentences(&text);
        assert!(start.elapsed() < Duration::from_secs(30), "{pattern:?}: {:?}", start.elapsed());
    }
}

//! Any text: sentences lie in order within it, hold something, and leave out nothing but whitespace.
#![no_main]
#![allow(dead_code)]

#[path = "../../../src/backend/local/sentences/mod.rs"]
mod sentences;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for text in [text.as_ref(), &sentences::collapse_whitespace(&text)] {
        let mut end = 0;
        for sentence in sentences::split_sentences(text) {
            assert!(sentence.start >= end && sentence.start < sentence.end, "{sentence:?} after {end}");
            let between = &text[end..sentence.start];
            assert!(sentences::collapse_whitespace(between).is_empty(), "{between:?} is left out");
            end = sentence.end;
        }
        assert!(sentences::collapse_whitespace(&text[end..]).is_empty(), "{:?} is left out", &text[end..]);
    }
});

//! Tokenizers of model directories without `tokenizer.json`, text by text against transformers.
//! `tests/fixtures/tokenizers/make.py` made them.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};

use support::fixture;
use text2vec_sidecar::model::tokenizer::TextTokenizer;

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name)
}

#[test]
fn every_vocabulary_gives_the_ids_of_transformers() {
    let golden = fixture("tokenizers/ids.json");
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).expect("texts");
    assert!(texts.len() >= 200, "{} texts", texts.len());
    let tokenizers = golden["ids"].as_object().expect("ids by tokenizer");
    assert_eq!(tokenizers.len(), 7);
    let mut wrong = Vec::new();
    for (name, ids) in tokenizers {
        assert!(!dir(name).join("tokenizer.json").exists());
        let tokenizer = TextTokenizer::load(&dir(name), 100_000).expect(name);
        let ids: Vec<Vec<u32>> = serde_json::from_value(ids.clone()).expect("ids");
        assert_eq!(ids.len(), texts.len());
        for (text, expected) in texts.iter().zip(ids) {
            let tokens = tokenizer.encode(text).expect("tokens");
            if tokens.ids != expected {
                wrong.push(format!("{name} {text:?}: {:?} instead of {expected:?}", tokens.ids));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is cut off a long text is not looked at; what is kept is the same as if it was.
#[test]
fn the_tokens_of_a_long_text_are_the_first_of_all_its_tokens() {
    let golden = fixture("tokenizers/ids.json");
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).expect("texts");
    let mut dirs: Vec<PathBuf> =
        golden["ids"].as_object().expect("ids by tokenizer").keys().map(|name| dir(name)).collect();
    dirs.push(support::model_dir());
    for dir in dirs {
        let load = |tokens| TextTokenizer::load(&dir, tokens).expect("a tokenizer");
        let (all, few) = (load(1_000_000), load(12));
        let mut long = 0;
        for number in (0..texts.len()).step_by(3) {
            // Texts without an end: each with what comes after it in the list, in several ways.
            for between in [" ", "  ", "\u{301} ", "\n", "", ", ", ". a. ", "! ) ", " \u{301}"] {
                let following: Vec<&str> = texts.iter().skip(number).take(30).map(String::as_str).collect();
                let text = following.join(between);
                let (whole, cut) = (all.encode(&text).expect("tokens"), few.encode(&text).expect("tokens"));
                assert!(!whole.truncated);
                if whole.ids.len() <= 12 {
                    assert_eq!(whole, cut);
                    continue;
                }
                long += 1;
                // Each of them has one special token at the end.
                let mut expected = whole.ids[..11].to_vec();
                expected.extend(whole.ids.last());
                assert_eq!(cut.ids, expected, "{}: {text:?}", dir.display());
                assert!(cut.truncated);
            }
        }
        assert!(long > 400, "{long}");
        let parts = [
            "a", "B", "é", "e\u{301}", "中", "文", "\u{f900}", "か", "가", "б", "Σ", "ا", "क्", "\u{d4e}", "\u{600}",
            "😀", "①", "1", ".", "'", "[", "]", "<", "=\u{338}", "。", "「", "…", "\u{301}", " ", "  ", "\u{3000}",
            "\n", "\u{0}", "\u{200d}", "[SEP]", "[MASK]", "</s>", "<mask>", "SEP", "word", "##s",
        ];
        let mut seed = 7u64;
        let mut below = |end: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % end
        };
        for _ in 0..500 {
            // Few kinds of parts, many of them.
            let kinds: Vec<_> = (0..1 + below(4)).map(|_| parts[below(parts.len())]).collect();
            let text: String = (0..400).map(|_| kinds[below(kinds.len())]).collect();
            let (whole, cut) = (all.encode(&text).expect("tokens"), few.encode(&text).expect("tokens"));
            let mut expected = whole.ids.clone();
            if whole.ids.len() > 12 {
                expected.drain(11..whole.ids.len() - 1);
            }
            assert_eq!(cut.ids, expected, "{}: {text:?}", dir.display());
        }
    }
}

/// A directory with the files of a fixture.
fn copy(name: &str) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(dir(name)).expect("a fixture") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.path().join(path.file_name().expect("a name"))).expect("copy");
    }
    to
}

#[test]
fn vocabularies_that_cannot_be_used_are_refused() {
    let load = |dir: &Path| TextTokenizer::load(dir, 512).map(|_| ()).map_err(|error| error.message().to_owned());
    let refused = |dir: &Path, words: &[&str]| {
        let error = load(dir).expect_err("unusable");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let empty = tempfile::tempdir().expect("a directory");
    refused(empty.path(), &["no tokenizer", "vocab.txt"]);

    let bert = copy("bert");
    assert_eq!(load(bert.path()), Ok(()));
    fs::write(bert.path().join("vocab.txt"), "[UNK]\n[SEP]\nword\n").expect("write");
    refused(bert.path(), &["vocab.txt", "'[CLS]'"]);
    fs::write(bert.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "BertJapaneseTokenizer"}"#)
        .expect("write");
    refused(bert.path(), &["BertJapanese", "tokenizer.json"]);

    let t5 = copy("t5");
    let model = t5.path().join("spiece.model");
    let whole = fs::read(&model).expect("read");
    fs::write(&model, &whole[..whole.len() / 2]).expect("write");
    refused(t5.path(), &["spiece.model", "not a usable tokenizer"]);
    fs::write(&model, "").expect("write");
    refused(t5.path(), &["spiece.model"]);

    // The map of characters is a program of its own kind: none of its bytes may bring the loader or a text down.
    let xlm = copy("xlm_roberta");
    let model = xlm.path().join("sentencepiece.bpe.model");
    let whole = fs::read(&model).expect("read");
    for cut in (1..12).map(|part| whole.len() * part / 12) {
        fs::write(&model, &whole[..cut]).expect("write");
        assert!(load(xlm.path()).is_err(), "cut to {cut} bytes");
    }

    let roberta = copy("roberta");
    fs::write(roberta.path().join("merges.txt"), "#version: 0.2\na b c\n").expect("write");
    refused(roberta.path(), &["merges.txt line 2"]);
    fs::write(roberta.path().join("vocab.json"), "{").expect("write");
    refused(roberta.path(), &["vocab.json", "not a usable tokenizer"]);
}

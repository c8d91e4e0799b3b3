//! Splits texts into sentences, for comparison with NLTK (`tests/oracles/punkt_fuzz.py`).
//!
//! Reads one JSON string per line and writes one JSON array of sentences per line, in the same order. Whitespace is
//! collapsed first, as the embedding path does it; with the argument `--as-given` it is not.

use std::env;
use std::io::{self, BufRead, BufWriter, Write};

use text2vec_sidecar::backend::local::sentences::{collapse_whitespace, split_sentences};

fn main() -> io::Result<()> {
    let collapse = !env::args().skip(1).any(|argument| argument == "--as-given");
    let mut output = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let mut text: String = serde_json::from_str(&line?)?;
        if collapse {
            text = collapse_whitespace(&text);
        }
        let sentences: Vec<&str> = split_sentences(&text).into_iter().map(|span| &text[span]).collect();
        serde_json::to_writer(&mut output, &sentences)?;
        output.write_all(b"\n")?;
    }
    output.flush()
}

//! A directory's tokenizer, whatever files it is made of.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::files::bytes_of;
use super::special::Settings;
use super::unusable::unusable;
use super::{byte_pairs, sentencepiece, word_piece};
use crate::error::Result;

/// Reads the files that [`tokenizer_files`](super::tokenizer_files) names, the main one first.
///
/// # Errors
/// `Config` for a file that cannot be read or makes no tokenizer this program can use.
pub(super) fn open(dir: &Path, files: &[PathBuf]) -> Result<Tokenizer> {
    let path = &files[0];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name == "tokenizer.json" {
        let mut tokenizer = Tokenizer::from_bytes(bytes_of(path)?).map_err(|error| unusable(path.display(), error))?;
        // Beside it only where it decides too.
        if files.len() > 1 {
            Settings::read(dir)?.enclose_as_llama(&mut tokenizer, path)?;
        }
        return Ok(tokenizer);
    }
    let settings = Settings::read(dir)?;
    match name.as_ref() {
        "vocab.txt" => word_piece::build(path, &settings),
        "vocab.json" => byte_pairs::build(path, &files[1], &settings),
        _ => sentencepiece::build(path, &settings),
    }
}

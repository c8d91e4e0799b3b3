//! Text to token ids. The only module that knows the tokenizers crate.

mod byte_pairs;
mod prefix;
mod sentencepiece;
mod special;
mod word_piece;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{Model, Tokenizer};

use self::prefix::Places;
use self::special::Settings;

use crate::error::{Error, Result};

/// A model's tokenizer with *our* truncation and no padding: what `tokenizer.json` says about both is ignored, since
/// well-known models ship files with limits of 128 that nobody means.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    max_tokens: usize,
    special_tokens: bool,
    /// Where a long text may be cut, if anywhere.
    places: Option<Places>,
}

/// Token ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types, as many as ids.
    pub type_ids: Vec<u32>,
    /// Whether the text was longer than the limit.
    pub truncated: bool,
}

/// A token of a text, for people and programs who ask which there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The part of the text that it stands for; a special token's own name.
    pub text: String,
    /// Whether it stands for no part of the text.
    pub special: bool,
    /// Where that part begins, in bytes; `None` for a special token.
    pub start: Option<usize>,
    /// Where it ends, in bytes.
    pub stop: Option<usize>,
}

impl TextTokenizer {
    /// Reads a model directory's tokenizer: `tokenizer.json` or, without one, the vocabulary that [`tokenizer_files`]
    /// names. `max_tokens` counts special tokens.
    pub fn load(dir: &Path, max_tokens: usize) -> Result<TextTokenizer> {
        let files = tokenizer_files(dir)?;
        let path = &files[0];
        let mut tokenizer = read(dir, &files)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| unusable(path.display(), error))?;
        let special = tokenizer
            .encode_fast("", true)
            .map_err(|error| Error::config(format!("{} cannot encode a text: {error}", path.display())))?
            .len();
        if max_tokens <= special {
            return Err(Error::config(format!(
                "a limit of {max_tokens} tokens leaves no room for text beside {special} special tokens"
            )));
        }
        let places = Places::of(&tokenizer);
        Ok(TextTokenizer { tokenizer, max_tokens, special_tokens: true, places })
    }

    /// Ids that the vocabulary can make: one more than the largest, tokens added to it left aside.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab(false).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The same tokenizer without special tokens around a text, as static embeddings have it.
    pub fn without_special_tokens(self) -> TextTokenizer {
        TextTokenizer { special_tokens: false, ..self }
    }

    /// The limit, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Encodes a text, special tokens included where the model has them, cut at the end to the limit. Of a text far longer
    /// than the limit no more is looked at than it takes, where the tokenizer allows that.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        if let Some(places) = &self.places {
            let mut length = self.max_tokens.saturating_mul(prefix::BYTES_PER_TOKEN);
            while let Some(end) = places.find(text, length) {
                let tokens = self.encode_all(&text[..end])?;
                if tokens.truncated {
                    return Ok(tokens);
                }
                length = end.saturating_mul(4);
            }
        }
        self.encode_all(text)
    }

    fn encode_all(&self, text: &str) -> Result<Tokens> {
        let encoding = self
            .tokenizer
            .encode_fast(text, self.special_tokens)
            .map_err(|error| Error::invalid(format!("the text cannot be tokenized: {error}")))?;
        let mut ids = encoding.get_ids().to_vec();
        let mut type_ids = encoding.get_type_ids().to_vec();
        let truncated = ids.len() > self.max_tokens;
        if truncated {
            // The special tokens at the end stay at the end of what is kept.
            let special = encoding.get_special_tokens_mask();
            let closing = special.iter().rev().take_while(|&&flag| flag == 1).count();
            let keep = self.max_tokens - closing;
            for values in [&mut ids, &mut type_ids] {
                values.drain(keep..values.len() - closing);
            }
        }
        Ok(Tokens { ids, type_ids, truncated })
    }

    /// The tokens of a text, uncut, with the special ones where the model has them and they are wanted.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that cannot be tokenized.
    pub fn tokens(&self, text: &str, special_tokens: bool) -> Result<Vec<Token>> {
        let encoding = self
            .tokenizer
            .encode(text, special_tokens && self.special_tokens)
            .map_err(|error| Error::invalid(format!("the text cannot be tokenized: {error}")))?;
        let (ids, names) = (encoding.get_ids(), encoding.get_tokens());
        let (offsets, special) = (encoding.get_offsets(), encoding.get_special_tokens_mask());
        let mut tokens = Vec::with_capacity(ids.len());
        for (((&id, name), &(start, stop)), &special) in ids.iter().zip(names).zip(offsets).zip(special) {
            tokens.push(match (special, text.get(start..stop)) {
                (1, _) => Token { id, text: name.clone(), special: true, start: None, stop: None },
                // Part of a letter has no text of its own.
                (_, part) => {
                    let text = part.unwrap_or(name).to_owned();
                    Token { id, text, special: false, start: Some(start), stop: Some(stop) }
                }
            });
        }
        Ok(tokens)
    }

    /// The text that token ids stand for.
    ///
    /// # Errors
    /// `InvalidArgument` for ids that the vocabulary does not have.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.tokenizer.id_to_token(id).is_none()) {
            return Err(Error::invalid(format!("no token of this model has the id {id}")));
        }
        let undecodable = |error| Error::invalid(format!("the token ids cannot be decoded: {error}"));
        self.tokenizer.decode(ids, skip_special_tokens).map_err(undecodable)
    }

    /// The text whose token ids these are: all of them, special ones included.
    ///
    /// # Errors
    /// `InvalidArgument` for ids that this tokenizer would not have made of that text, such as another tokenizer's. A list
    /// of those may well be one of this vocabulary's too, which is why nothing less is asked for.
    pub fn text_of(&self, ids: &[u32]) -> Result<String> {
        let text = self.decode(ids, true)?;
        let again = self.tokenizer.encode_fast(&*text, self.special_tokens);
        if again.is_ok_and(|again| again.get_ids() == ids) {
            return Ok(text);
        }
        Err(Error::invalid(
            "these token ids are not what this model's tokenizer makes of a text, special tokens included: send those that \
             POST /tokenize gives, or the text",
        ))
    }
}

/// How to get a tokenizer this program can read.
const REMEDY: &str =
    "write a tokenizer.json beside it (transformers: AutoTokenizer.from_pretrained(dir).save_pretrained(dir))";

/// The files that make a directory's tokenizer, the main one first: `tokenizer.json`, else a vocabulary (`vocab.txt`,
/// `vocab.json` with `merges.txt`, `sentencepiece.bpe.model`, `spiece.model`) and the settings beside it.
pub fn tokenizer_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let there = |names: &[&str]| -> Vec<PathBuf> {
        names.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect()
    };
    let main = [
        &["tokenizer.json"][..],
        &["sentencepiece.bpe.model"],
        &["spiece.model"],
        &["vocab.json", "merges.txt"],
        &["vocab.txt"],
    ];
    let Some(names) = main.into_iter().find(|names| there(names).len() == names.len()) else {
        return Err(Error::config(format!(
            "{} has no tokenizer: it needs tokenizer.json, or vocab.txt, vocab.json with merges.txt, \
             sentencepiece.bpe.model or spiece.model",
            dir.display()
        )));
    };
    let mut files = there(names);
    if names[0] != "tokenizer.json" {
        files.extend(there(&["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]));
    }
    Ok(files)
}

fn read(dir: &Path, files: &[PathBuf]) -> Result<Tokenizer> {
    let path = &files[0];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name == "tokenizer.json" {
        return Tokenizer::from_bytes(bytes_of(path)?).map_err(|error| unusable(path.display(), error));
    }
    let settings = Settings::read(dir)?;
    match name.as_ref() {
        "vocab.txt" => word_piece::build(path, &settings),
        "vocab.json" => byte_pairs::build(path, &files[1], &settings),
        _ => sentencepiece::build(path, &settings),
    }
}

/// Puts special tokens, which the vocabulary must have, around every text.
fn enclose(tokenizer: &mut Tokenizer, first: Option<&str>, last: &str, path: &Path) -> Result<()> {
    let id = |token: &str| {
        let lacks = || Error::config(format!("{} lacks the token '{token}': copy it again", path.display()));
        Ok((token.to_owned(), tokenizer.get_model().token_to_id(token).ok_or_else(lacks)?))
    };
    let special = first.into_iter().chain([last]).map(id).collect::<Result<Vec<_>>>()?;
    let pieces: Vec<String> = first.into_iter().chain(["$A", last]).map(str::to_owned).collect();
    let mut template = TemplateProcessing::builder();
    template.try_single(pieces).map_err(|error| unusable(path.display(), error.into()))?.special_tokens(special);
    tokenizer.with_post_processor(Some(template.build().map_err(|error| unusable(path.display(), error.into()))?));
    Ok(())
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::config(format!("{} cannot be read: {error}", path.display())))
}

fn text_of(path: &Path) -> Result<String> {
    String::from_utf8(bytes_of(path)?).map_err(|error| unusable(path.display(), error.into()))
}

fn unusable(what: impl Display, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::config(format!("{what} is not a usable tokenizer: {error}"))
}

/// A vocabulary of a tokenizer class that is not converted here.
fn refused(path: &Path, class: &str) -> Error {
    Error::config(format!("{} belongs to a tokenizer of class '{class}', which is not known: {REMEDY}", path.display()))
}

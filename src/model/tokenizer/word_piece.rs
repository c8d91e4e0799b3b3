//! A tokenizer from `vocab.txt`: BERT and its kin, and MPNet.

use std::path::Path;

use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, Tokenizer};

use super::files::text_of;
use super::special::{Between, Settings, enclose};
use super::unusable::{refused, unusable};
use crate::error::{Error, Result};

/// Builds the tokenizer as transformers' `BertConverter` and `MPNetConverter` do.
///
/// # Errors
/// `Config` for files that cannot be read or do not fit this class of tokenizer.
pub(super) fn build(path: &Path, settings: &Settings) -> Result<Tokenizer> {
    let class = settings.class();
    let special = |text: &str| AddedToken::from(text, true);
    let defaults = match class.as_str() {
        "MPNet" => vec![
            ("bos_token", special("<s>")),
            ("eos_token", special("</s>")),
            ("unk_token", special("[UNK]")),
            ("sep_token", special("</s>")),
            ("pad_token", special("<pad>")),
            ("cls_token", special("<s>")),
            ("mask_token", special("<mask>").lstrip(true)),
        ],
        "" | "Bert" | "BasicBert" | "DistilBert" | "Electra" | "MobileBert" | "DPR" | "DPRContextEncoder"
        | "DPRQuestionEncoder" | "DPRReader" => vec![
            ("unk_token", special("[UNK]")),
            ("sep_token", special("[SEP]")),
            ("pad_token", special("[PAD]")),
            ("cls_token", special("[CLS]")),
            ("mask_token", special("[MASK]")),
        ],
        other => return Err(refused(path, other)),
    };
    let vocabulary: Vocab = text_of(path)?.lines().zip(0..).map(|(token, id)| (token.to_owned(), id)).collect();
    let token = |role: &str| {
        let default = defaults.iter().find(|(name, _)| *name == role).map(|(_, token)| token.clone());
        settings.token(role, default.unwrap_or_default()).content
    };
    for role in ["unk_token", "cls_token", "sep_token"] {
        if !vocabulary.contains_key(&token(role)) {
            let message = format!("{} lacks the token '{}': copy it again", path.display(), token(role));
            return Err(Error::config(message));
        }
    }
    let model = WordPiece::builder().vocab(vocabulary).unk_token(token("unk_token")).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|error| unusable(path.display(), error))?);
    let normalizer = BertNormalizer::new(
        true,
        settings.flag("tokenize_chinese_chars").unwrap_or(true),
        settings.flag("strip_accents"),
        settings.flag("do_lower_case").unwrap_or(true),
    );
    tokenizer.with_normalizer(Some(normalizer)).map_err(|error| unusable(path.display(), error))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_decoder(Some(Decoder::default()));
    settings.add_to(&mut tokenizer, &defaults)?;
    let between = if class == "MPNet" { Between::Two } else { Between::One };
    enclose(&mut tokenizer, (Some(&token("cls_token")), &token("sep_token")), between, path)?;
    Ok(tokenizer)
}

//! A tokenizer from a SentencePiece model: `sentencepiece.bpe.model` of XLM-RoBERTa and `spiece.model` of T5.

use std::path::Path;

use prost::Message;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{NormalizerWrapper, Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, Tokenizer};

use super::files::bytes_of;
use super::special::{Between, Settings, enclose};
use super::unusable::{REMEDY, refused, unusable};
use crate::error::{Error, Result};

/// Which model's numbering of pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbering {
    /// fairseq's: four special tokens first, `<mask>` last.
    XlmRoberta,
    /// The file's own, then `<extra_id_99>` to `<extra_id_0>`.
    T5,
}

/// Builds the tokenizer as transformers' `XLMRobertaConverter` and `T5Converter` do.
///
/// # Errors
/// `Config` for files that cannot be read or do not fit this class of tokenizer.
pub(super) fn build(path: &Path, settings: &Settings) -> Result<Tokenizer> {
    let is_spiece = path.file_name().is_some_and(|name| name == "spiece.model");
    let numbering = match settings.class().as_str() {
        "XLMRoberta" => Numbering::XlmRoberta,
        "T5" => Numbering::T5,
        "" | "bert" | "Bert" if !is_spiece => Numbering::XlmRoberta,
        other => return Err(refused(path, other)),
    };
    let file = ModelProto::decode(&bytes_of(path)?[..]).map_err(|error| unusable(path.display(), error.into()))?;
    let trainer = file.trainer_spec.unwrap_or_default();
    if trainer.model_type() != UNIGRAM {
        return Err(Error::config(format!(
            "{} holds no unigram model (type {}): {}",
            path.display(),
            trainer.model_type(),
            REMEDY
        )));
    }
    let pieces = file.pieces.iter().map(|piece| (piece.piece().to_owned(), f64::from(piece.score())));
    let (vocabulary, unknown) = match numbering {
        Numbering::XlmRoberta => {
            let first = ["<s>", "<pad>", "</s>", "<unk>"].map(|piece| (piece.to_owned(), 0.0));
            let last = ("<mask>".to_owned(), 0.0);
            (first.into_iter().chain(pieces.skip(3)).chain([last]).collect::<Vec<_>>(), 3)
        }
        Numbering::T5 => {
            let extra = settings.count("extra_ids").unwrap_or(100).min(10_000);
            let extra = (0..extra).rev().map(|index| (format!("<extra_id_{index}>"), 0.0));
            (pieces.chain(extra).collect(), usize::try_from(trainer.unk_id()).unwrap_or(0))
        }
    };
    let extra: Vec<String> =
        vocabulary.iter().map(|(piece, _)| piece).filter(|piece| piece.starts_with("<extra_id_")).cloned().collect();
    let model = Unigram::from(vocabulary, Some(unknown), false).map_err(|error| unusable(path.display(), error))?;
    let mut tokenizer = Tokenizer::new(model);
    let normalizer = file.normalizer_spec.unwrap_or_default();
    let mut steps = Vec::new();
    if !normalizer.precompiled_charsmap().is_empty() {
        let map = Precompiled::from(normalizer.precompiled_charsmap());
        steps.push(NormalizerWrapper::from(map.map_err(|error| unusable(path.display(), error.into()))?));
    }
    let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".into());
    let replace = Replace::new(spaces, "▁").map_err(|error| unusable(path.display(), error))?;
    steps.extend([NormalizerWrapper::from(Strip::new(false, true)), NormalizerWrapper::from(replace)]);
    tokenizer.with_normalizer(Some(Sequence::new(steps))).map_err(|error| unusable(path.display(), error))?;
    // The slow T5 tokenizer of old does as SentencePiece; what came later treats only the text's beginning so.
    let scheme = match (settings.flag("add_prefix_space"), settings.flag("legacy")) {
        (Some(false), _) if numbering == Numbering::T5 => PrependScheme::Never,
        (_, Some(false)) if numbering == Numbering::T5 => PrependScheme::First,
        _ => PrependScheme::Always,
    };
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, true)));
    tokenizer.with_decoder(Some(Metaspace::new('▁', scheme, true)));
    let special = |text: &str| AddedToken::from(text, true);
    let added = file.pieces.iter().filter(|piece| [CONTROL, USER_DEFINED].contains(&piece.kind()));
    let added = added.map(|piece| special(piece.piece()).special(piece.kind() == CONTROL));
    tokenizer.add_tokens(added).map_err(|error| unusable(path.display(), error))?;
    let mut defaults =
        vec![("eos_token", special("</s>")), ("unk_token", special("<unk>")), ("pad_token", special("<pad>"))];
    if numbering == Numbering::XlmRoberta {
        defaults.extend([
            ("bos_token", special("<s>")),
            ("sep_token", special("</s>")),
            ("cls_token", special("<s>")),
            ("mask_token", special("<mask>").lstrip(true)),
        ]);
    }
    settings.add_to(&mut tokenizer, &defaults)?;
    let extra = extra.iter().map(|text| special(text));
    tokenizer.add_tokens(extra).map_err(|error| unusable(path.display(), error))?;
    let is_xlm_roberta = numbering == Numbering::XlmRoberta;
    let between = if is_xlm_roberta { Between::Two } else { Between::One };
    enclose(&mut tokenizer, (is_xlm_roberta.then_some("<s>"), "</s>"), between, path)?;
    Ok(tokenizer)
}

/// `ModelType::UNIGRAM` of the file format.
const UNIGRAM: i32 = 1;
/// `Type::CONTROL` of a piece.
const CONTROL: i32 = 3;
/// `Type::USER_DEFINED` of a piece.
const USER_DEFINED: i32 = 4;

// What is read of SentencePiece's `sentencepiece_model.proto`.

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(int32, optional, tag = "40", default = "0")]
    unk_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
}

//! The model families by their names.
//!
//! To add a family, write its function, from `config.json` to an [`Architecture`], beside those it resembles, its line in
//! [`architecture`], and its name in [`SUPPORTED`]. Defaults are those of transformers' configuration classes.

use serde_json::{Map, Value};

use super::architecture::{Architecture, Masks};
use super::config::Config;
use super::{bert, decoders, encoders};
use crate::error::{Error, Result};

/// The transformer that `config.json` describes, by its model type.
///
/// # Errors
/// `Unusable` for a model type that is not supported, and for a value that is of another kind or not supported.
pub fn architecture(model_type: &str, config: &Map<String, Value>, masks: Masks) -> Result<Architecture> {
    let config = Config(config);
    match model_type {
        "bert" => match config.word("position_embedding_type", "absolute") {
            "alibi" => encoders::jina_v2(&config),
            _ => bert::bert(&config),
        },
        "dpr" => bert::dpr(&config),
        "distilbert" => bert::distilbert(&config),
        "roberta" => bert::roberta(&config, 50265),
        "xlm-roberta" | "camembert" => bert::roberta(&config, 30522),
        "mpnet" => bert::mpnet(&config),
        "albert" => bert::albert(&config),
        "electra" => bert::electra(&config),
        "t5" => bert::t5(&config),
        "modernbert" => encoders::modernbert(&config),
        "nomic_bert" => encoders::nomic_bert(&config),
        "new" | "gte" => encoders::gte(&config),
        "eurobert" => decoders::eurobert(&config),
        "llama" => decoders::llama(&config, masks),
        "mistral" => decoders::mistral(&config, masks),
        "qwen2" => decoders::qwen2(&config, masks),
        "qwen3" => decoders::qwen3(&config, masks),
        "gemma3_text" => decoders::gemma3(&config, masks),
        other => Err(Error::unusable(refusal(other))),
    }
}

/// The families' names, as people are told.
const SUPPORTED: &str = "bert (with JinaBERT v2), distilbert, roberta, xlm-roberta, camembert, mpnet, albert, electra, t5, dpr, \
                         modernbert, nomic_bert, gte, eurobert, qwen2, qwen3, mistral, llama, gemma3_text, model2vec and, \
                         slowly, deberta-v2";

/// What is said of a family that is not supported: what is near to it, and what to do.
fn refusal(model_type: &str) -> String {
    let near = match model_type {
        "" => "config.json names no model_type: it is not a model of transformers, or not all of it was copied",
        "phi3" | "gemma" | "gemma2" | "qwen3_moe" | "mixtral" => {
            "of models with a language model's body, qwen3 (Qwen3-Embedding), qwen2, mistral, llama and gemma3_text \
             (EmbeddingGemma) are served"
        }
        "gemma3" | "qwen3_vl" | "qwen2_vl" | "clip" | "siglip" | "siglip2" => {
            "only models of text are served: EmbeddingGemma is gemma3_text, Qwen3-Embedding is qwen3"
        }
        "deberta" => "of relatives of BERT, deberta-v2, modernbert and roberta are near to it",
        "jina_embeddings_v3" | "xlm-roberta-xl" | "xlm_roberta_flash" => {
            "of multilingual models, xlm-roberta and gte are served"
        }
        "mt5" | "umt5" | "longt5" => "of models with T5's encoder, t5 is served",
        _ => "",
    };
    let separator = if near.is_empty() { "" } else { "; " };
    format!(
        "the architecture '{model_type}' is not supported{separator}{near}. Supported are {SUPPORTED}. Choose a model of one \
         of these, or serve this one from its own container and name that with --upstream"
    )
}

//! Text to token ids. The only module that knows the tokenizers crate.

mod byte_pairs;
mod files;
mod model2vec;
mod open;
mod pair;
mod pair_rules;
mod prefix;
mod sentencepiece;
mod special;
mod text;
mod unusable;
mod word_piece;

pub use self::files::tokenizer_files;
pub use self::model2vec::MODEL2VEC_MAX_TOKENS;
pub use self::pair::Query;
pub use self::pair_rules::PairRules;
pub use self::text::{TextTokenizer, Token, Tokens};

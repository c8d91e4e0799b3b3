//! What the surfaces for callers without tasks have in common.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::shapes::any_of;

/// One text, or a list of texts.
pub(super) struct Texts;

impl PartialSchema for Texts {
    fn schema() -> RefOr<Schema> {
        any_of("One text, or a list of texts.", [String::schema(), Vec::<String>::schema()])
    }
}

impl ToSchema for Texts {}

/// The ids of a text's tokens, or a list of them.
pub(super) struct TokenIds;

impl PartialSchema for TokenIds {
    fn schema() -> RefOr<Schema> {
        any_of("The token ids of one text, or lists of them.", [Vec::<u32>::schema(), Vec::<Vec<u32>>::schema()])
    }
}

impl ToSchema for TokenIds {}

/// One text or the ids of its tokens, or a list of either.
pub(super) struct Inputs;

impl PartialSchema for Inputs {
    fn schema() -> RefOr<Schema> {
        let one = any_of("A text, or the ids of its tokens.", [String::schema(), Vec::<u32>::schema()]);
        let several = RefOr::T(Schema::Array(ArrayBuilder::new().items(one).build()));
        let about = "One text or the ids of its tokens as `POST /tokenize` gives them, or a list of either.";
        any_of(about, [String::schema(), Vec::<u32>::schema(), several])
    }
}

impl ToSchema for Inputs {}

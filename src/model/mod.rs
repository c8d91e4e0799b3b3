//! What a model is on disk: where its files are, how they get there, and what they say. No tensors.

pub mod card;
pub mod hub;
pub mod locate;
pub mod modules;
pub mod tokenizer;

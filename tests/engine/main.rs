//! Models in this process: the vectors of every family, precision and engine, and what files may hold.

mod batch_size;
mod contradictions;
mod corrupt_models;
mod devices;
mod download;
mod engines;
mod families;
mod golden;
mod model2vec;
mod onnx;
mod precision;
mod profiles;
mod punkt;
mod rerankers;
mod sentence_transformers;
#[path = "../support/mod.rs"]
mod support;
mod tokenizers;
mod weights;

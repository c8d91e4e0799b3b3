//! The gRPC surface `text2vec.v1`, with health and reflection.

pub(super) mod call;
mod module;
mod reranker;
mod router;
mod status;
mod value;
mod vectorizer;

pub(super) use router::router;

//! Objects from a file into a Weaviate collection, with vectors that a text2vec-sidecar makes in bulk.
//!
//! The way of a row: [`source`] reads it from JSONL, CSV or Parquet; [`ids`] gives it an id that is the same in every run;
//! [`sidecar`] makes its vectors, as Weaviate itself would have them, by the class's settings; [`weaviate`] inserts it.
//! [`run`](run()) has both at work at once, on chunks of bounded size, and [`checkpoint`] notes how far all rows are in, so that an
//! import that was killed goes on there.
//!
//! This crate is a client: it knows the two gRPC interfaces and nothing of the server.

#![forbid(unsafe_code)]

mod checkpoint;
mod chunk;
mod collection;
mod error;
mod failed;
mod files;
mod growing;
mod ids;
mod options;
mod outage;
mod output;
mod progress;
mod properties;
mod reader;
mod run;
mod sidecar;
mod source;
mod transport;
mod verdict;
mod weaviate;

pub use error::{Error, Result};
pub use options::{Consistency, Format, IdRule, Options, SidecarOptions, SourceOptions, TenantRule, WeaviateOptions};
pub use run::{Summary, run};

/// `text2vec.v1`, generated.
mod text2vec {
    #![allow(missing_docs, clippy::all, clippy::missing_errors_doc, unreachable_pub, dead_code)]
    tonic::include_proto!("text2vec.v1");
}

/// The part of `weaviate.v1` that is spoken, generated.
mod weaviate_v1 {
    #![allow(missing_docs, clippy::all, clippy::missing_errors_doc, unreachable_pub, dead_code)]
    tonic::include_proto!("weaviate.v1");
}

//! The server and its surfaces, as clients see them.

mod auth;
mod cache;
mod cancel;
mod clients;
mod grpc;
mod http;
mod large_bodies;
mod meta;
mod models;
mod module;
mod openapi;
mod page;
mod rerank;
#[path = "../support/mod.rs"]
mod support;
mod surfaces;
mod telemetry;
mod tls;

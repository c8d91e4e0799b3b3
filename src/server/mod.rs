//! One port for HTTP/1.1, h2c and gRPC. Surfaces only translate their wire format: [`http`] and [`grpc`] have a file for
//! each. [`service`] is what they share; [`run()`] binds them together.

mod access;
mod answers;
mod auth;
mod classes;
mod connection;
mod cors;
mod decoding;
mod followed;
mod freed;
mod grpc;
mod health;
mod http;
mod inflight;
mod itself;
mod limits;
mod models;
mod observe;
mod options;
mod run;
mod service;
mod tls;

pub use access::Access;
pub use cors::Origins;
pub use limits::Limits;
pub use models::Readiness;
pub use options::{Lifetimes, ModuleOptions, ServerOptions, SurfaceOptions};
pub use run::run;
pub use tls::Tls;

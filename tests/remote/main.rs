//! Other inference servers behind this one.

mod compare;
mod forwarder;
mod remote;
mod remote_faults;
mod ssrf;
#[path = "../support/mod.rs"]
mod support;

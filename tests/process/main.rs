//! The program, its flags and what it says.

mod absurd_settings;
mod cli;
mod documents;
mod file;
mod import;
mod mistakes;
mod service_manager;
mod settings;
#[path = "../support/mod.rs"]
mod support;

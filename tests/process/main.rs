//! The program, its flags and what it says.

mod absurd_settings;
mod cli;
mod settings;
#[path = "../support/mod.rs"]
mod support;

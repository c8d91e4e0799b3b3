//! The program, its flags and what it says.

mod absurd_settings;
mod cli;
#[path = "../support/mod.rs"]
mod support;

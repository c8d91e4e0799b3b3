//! The subcommands: what each puts together. [`assemble`] makes backends of settings, for all of them.

mod assemble;
mod compare;
mod documents;
mod download;
mod embed;
mod healthcheck;
mod import;
mod input;
mod logs;
mod notify;
mod output;
mod print_config;
mod run;
mod serve;
mod signals;

pub use run::run;

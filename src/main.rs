//! A table of contents: configuration → logs → one subcommand → exit code.

use std::process::ExitCode;

use clap::CommandFactory;
use text2vec_sidecar::cli;
use text2vec_sidecar::config::Cli;

fn main() -> ExitCode {
    match cli::run(&Cli::command().get_matches()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

//! A table of contents: configuration → logs → one subcommand → exit code.

use std::process::ExitCode;

use text2vec_sidecar::app;
use text2vec_sidecar::config;

fn main() -> ExitCode {
    match app::run(&config::command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

//! Which setting an error is about, by the name that was used for it: the one place where every error of a command passes.

use super::command_line::CommandLine;
use super::mistakes::REFERENCE_VARIABLES;
use super::table::{Given, Source};
use crate::error::Error;

/// The error with what gave the setting at fault in front: `config.toml:3: cors-origins: …`, `T2V_CORS_ORIGINS: …` or
/// `--cors-origins: …`. A flag or a variable that its text names already is not named twice.
///
/// The setting is what the error has for its parameter: a flag with its dashes, or another program's variable.
pub fn told(line: &CommandLine, error: Error) -> Error {
    let Some(name) = error.parameter_name() else { return error };
    let Some(long) = name.strip_prefix("--") else {
        let is_variable = REFERENCE_VARIABLES.contains(&name) && !error.message().contains(name);
        return if is_variable { error.clone().context(name) } else { error };
    };
    let given = Given::new(line, line.matches.subcommand_name().unwrap_or("serve"));
    match given.source_of_flag(long) {
        source @ Source::File(_) => error.clone().context(format_args!("{source}: {long}")),
        source @ (Source::Flag(_) | Source::Variable(_)) => {
            let source = source.to_string();
            let is_told = error.message().contains(&source);
            if is_told { error } else { error.clone().context(source) }
        }
        Source::Default | Source::Because(_) => error,
    }
}

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
        let is_variable = REFERENCE_VARIABLES.contains(&name) && !has_word(error.message(), name);
        return if is_variable { error.clone().context(name) } else { error };
    };
    let given = Given::new(line, line.matches.subcommand_name().unwrap_or("serve"));
    match given.source_of_flag(long) {
        source @ Source::File(_) => error.clone().context(format_args!("{source}: {long}")),
        source @ (Source::Flag(_) | Source::Variable(_)) => {
            let source = source.to_string();
            if has_word(error.message(), &source) { error } else { error.clone().context(source) }
        }
        Source::Default | Source::Because(_) => error,
    }
}

/// Whether a flag or a variable is in a text, and not only as a part of a longer name.
fn has_word(text: &str, word: &str) -> bool {
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, behind) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(is_of_a_name) && !behind.starts_with(is_of_a_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_within_a_longer_one_is_not_that_name() {
        for (text, word, has) in [
            ("give --upstream once", "--upstream", true),
            ("see --upstream", "--upstream", true),
            ("(--upstream=x)", "--upstream", true),
            ("see --upstream-tokens", "--upstream", false),
            ("see --upstream-tokens or --upstream", "--upstream", true),
            ("T2V_MODEL_X is set", "T2V_MODEL", false),
            ("T2V_MODEL: none", "T2V_MODEL", true),
            ("MY_MODEL_NAME", "MODEL_NAME", false),
        ] {
            assert_eq!(has_word(text, word), has, "{word} in {text}");
        }
    }
}

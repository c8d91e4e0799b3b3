//! What people mistype, on the command line, in variables and in a file of settings: told in a line, by the name they used.

use std::char::ParseCharError;
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseIntError};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory};

use super::args::Cli;
use super::file::SettingsFile;
use super::secrets::without_secrets;

/// The names of the reference container's and the module's variables that mean something here.
pub const REFERENCE_VARIABLES: &[&str] = &[
    "MODEL_NAME",
    "ONNX_RUNTIME",
    "USE_SENTENCE_TRANSFORMERS_VECTORIZER",
    "T2V_TRANSFORMERS_DIRECT_TOKENIZE",
    "USE_QUERY_PASSAGE_PREFIXES",
    "LOG_FORMAT",
    "ENABLE_CUDA",
    "CUDA_CORE",
    "TRUST_REMOTE_CODE",
    "AUTHENTICATION_ALLOWED_TOKENS",
    "TRANSFORMERS_INFERENCE_API",
    "TRANSFORMERS_PASSAGE_INFERENCE_API",
    "TRANSFORMERS_QUERY_INFERENCE_API",
    "TRANSFORMERS_WAIT_FOR_STARTUP",
    "MODEL2VEC_INFERENCE_API",
    "MODEL2VEC_WAIT_FOR_STARTUP",
    "LOWERCASE_VECTORIZATION_INPUT",
    "ENABLE_CACHE",
];

/// Where a flag's value can come from, to be told by that name.
pub(super) struct Spoken<'a> {
    /// The words of the command line behind the command, up to `--`.
    pub words: &'a [OsString],
    /// The command is `serve`.
    pub serves: bool,
    /// The file of settings, with those that count.
    pub file: Option<&'a SettingsFile>,
}

impl Spoken<'_> {
    /// What gave a flag its value: `config.toml:3: threads`, `T2V_THREADS` or `--threads`. `None`: there is no such flag.
    fn name(&self, long: &str) -> Option<String> {
        let root = Cli::command();
        let argument = every_argument(&root).find(|argument| argument.get_long() == Some(long))?;
        Some(match (self.file.and_then(|file| file.place(long)), argument.get_env()) {
            (Some(place), _) => format!("{place}: {long}"),
            (None, Some(variable)) if !on_the_command_line(self.words, long) => variable.to_string_lossy().into_owned(),
            _ => format!("--{long}"),
        })
    }

    /// Two settings that cannot be together, one of them the file's. `None`: clap's text is as good.
    fn conflict(&self, error: &clap::Error) -> Option<String> {
        let flags = |kind| match error.get(kind) {
            Some(ContextValue::String(flag)) => vec![flag.clone()],
            Some(ContextValue::Strings(flags)) => flags.clone(),
            _ => Vec::new(),
        };
        let flags = [flags(ContextKind::InvalidArg), flags(ContextKind::PriorArg)].concat();
        let mut names: Vec<&str> = flags.iter().filter_map(|shown| long(shown)).collect();
        let is_in_the_file = |name: &str| self.file.is_some_and(|file| file.place(name).is_some());
        let first = names.remove(names.iter().position(|name| is_in_the_file(name))?);
        let others: Vec<String> = names.into_iter().filter_map(|name| self.name(name)).collect();
        Some(format!(
            "{} cannot be beside {}: leave one of them out",
            self.name(first)?,
            if others.is_empty() { "what else is given".to_owned() } else { others.join(" and ") }
        ))
    }
}

/// The name of a flag as clap shows it, `--model <MODEL>`.
fn long(shown: &str) -> Option<&str> {
    shown.split([' ', '=', '[']).next()?.strip_prefix("--")
}

/// Whether a flag is among these words.
pub(super) fn on_the_command_line(words: &[OsString], long: &str) -> bool {
    let is_it = |word: &OsString| {
        let flag = word.as_encoded_bytes().strip_prefix(b"--");
        let rest = flag.and_then(|flag| flag.strip_prefix(long.as_bytes()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    };
    words.iter().any(is_it)
}

/// What is wrong with a value, which clap tells by the flag even where a variable has it; `None` where clap's text is as good.
pub(super) fn explained(error: &clap::Error, given: &Spoken<'_>) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if error.kind() == ErrorKind::InvalidSubcommand {
        let word = text(ContextKind::InvalidSubcommand)?;
        let is_model = word.contains('/') || Path::new(word).is_dir();
        let shown = without_secrets(word);
        return is_model.then(|| format!("'{shown}' is no command: give a model as --model {shown}"));
    }
    if error.kind() == ErrorKind::UnknownArgument {
        let word = text(ContextKind::InvalidArg)?;
        return (given.serves && !word.starts_with('-')).then(|| {
            let shown = without_secrets(word);
            format!("'{shown}' is no flag: give a model as --model {shown}")
        });
    }
    if error.kind() == ErrorKind::ArgumentConflict {
        return given.conflict(error);
    }
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let shown = text(ContextKind::InvalidArg)?;
    let value = text(ContextKind::InvalidValue)?;
    let name = given.name(long(shown)?)?;
    let source = std::error::Error::source(error);
    let remedy = match (error.get(ContextKind::ValidValue), source) {
        (Some(ContextValue::Strings(values)), _) if !values.is_empty() => format!("use {}", values.join(", ")),
        _ if shown.contains("<BOOL>") => "use true or false".to_owned(),
        (_, None) if value.is_empty() => "give a value".to_owned(),
        (_, Some(source)) => match source.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
            Some(IntErrorKind::PosOverflow) => "use a smaller number".to_owned(),
            Some(_) => "use a whole number, without a unit".to_owned(),
            None if source.is::<ParseCharError>() => "use one character".to_owned(),
            None => source.to_string(),
        },
        _ => return None,
    };
    // The remedy is words, whether clap's or a parser's; where they tell the value, it is not told twice.
    let told = match value {
        "" => format!("{name} is empty: {remedy}, or leave it out"),
        value if remedy.contains(&format!("'{value}'")) => format!("{name}: {remedy}"),
        value => format!("{name} is '{value}': {remedy}"),
    };
    // In a URL a password may stand.
    let is_url = value.contains("://");
    Some(if is_url { told.replace(value, &without_secrets(value)) } else { told })
}

fn every_argument(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().chain(command.get_subcommands().flat_map(Command::get_arguments))
}

/// Those of these variables that begin as ours do and mean nothing, so that a typo is not taken for a setting.
pub(super) fn unknown(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let root = Cli::command();
    let known: Vec<_> = every_argument(&root).filter_map(Arg::get_env).collect();
    let is_unknown = |name: &String| {
        name.starts_with("T2V_")
            && !known.iter().any(|known| *known == name.as_str())
            && !REFERENCE_VARIABLES.contains(&name.as_str())
            && !is_service_link(name)
            && !is_of_the_repository(name)
    };
    let mut unknown: Vec<String> = names.filter_map(|name| name.into_string().ok()).filter(is_unknown).collect();
    unknown.sort_unstable();
    unknown
}

/// Kubernetes gives every pod such variables for a Service whose name begins with `t2v`.
fn is_service_link(name: &str) -> bool {
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"].iter().any(|part| name.contains(part))
        || (name.ends_with("_PORT") && name != "T2V_PORT")
}

/// Those of tests, benches and the Makefile.
fn is_of_the_repository(name: &str) -> bool {
    ["T2V_BIN", "T2V_TEST_", "T2V_BENCH_", "T2V_SOAK_"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: &[&str]) -> Option<String> {
        let all = ["text2vec-sidecar"].iter().chain(arguments);
        let error = Cli::command().try_get_matches_from(all).expect_err("refused");
        let serves = arguments[0] == "serve" || arguments[0].starts_with('-');
        let words: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        explained(&error, &Spoken { words: &words, serves, file: None })
    }

    #[test]
    fn values_are_refused_with_what_to_use() {
        for (arguments, words) in [
            (&["--threads", "many"][..], "--threads is 'many': use a whole number"),
            (&["--cache-bytes=64MB"], "--cache-bytes is '64MB': use a whole number, without a unit"),
            (&["serve", "--max-wait="], "--max-wait is empty: use a whole number, without a unit, or leave it out"),
            (&["--queries-first", "maybe"], "--queries-first is 'maybe': use true or false"),
            (&["--listen", "8080"], "--listen is '8080': use an address and a port, such as 0.0.0.0:8080"),
            (&["serve", "models/bge"], "'models/bge' is no flag: give a model as --model models/bge"),
            (&["serve", "--threads", "2", "bge"], "'bge' is no flag: give a model as --model bge"),
            (&["src"], "'src' is no command: give a model as --model src"),
            (&["--profile", "x"], "--profile: unknown profile 'x': use auto, transformers"),
            (&["--max-texts", "99999999999999999999"], "use a number from 1 to 1000000000"),
            (&["--max-wait=-1"], "--max-wait is '-1': use a number from 0 to 31536000"),
            (&["--log-format", "xml"], "--log-format is 'xml': use text, json"),
            (&["--tls-cert", ""], "--tls-cert is empty: give a value, or leave it out"),
            (&["--upstream-ca="], "--upstream-ca is empty: give a value, or leave it out"),
            (&["import", "--list-delimiter", ""], "--list-delimiter is empty: use one character, or leave it out"),
            (&["embed", "--task", "search"], "--task is 'search': use passage, query"),
            (&["embed", "--pooling", "zzz"], "--pooling is 'zzz': use masked_mean, cls"),
            (&["compare", "--pooling", "mean", "a", "b"], "--pooling is 'mean': use masked_mean, cls"),
            (&["compare", "--dimensions", "-5", "a", "b"], "--dimensions is '-5': use a number from 1 to"),
            (&["models/bge"], "give a model as --model models/bge"),
        ] {
            let said = said(arguments).unwrap_or_else(|| panic!("nothing of {arguments:?}"));
            assert!(said.contains(words) && !said.contains('\n'), "{arguments:?}: {said}");
        }
        assert_eq!(said(&["--modle", "x"]), None, "clap knows a similar flag");
        assert_eq!(said(&["--help"]), None);
        assert_eq!(said(&["healthcheck", "x"]), None, "nothing of models");
    }

    #[test]
    fn a_variable_is_refused_by_its_own_name() {
        let error = Cli::command().try_get_matches_from(["x", "--threads", "many"]).expect_err("refused");
        let said = explained(&error, &Spoken { words: &[], serves: true, file: None }).expect("a text");
        assert!(said.starts_with("T2V_THREADS is 'many': "), "{said}");
    }

    #[test]
    fn variables_that_mean_nothing_are_found() {
        let names = [
            "T2V_MAXWAIT",
            "T2V_PORT",
            "T2V_MAX_WAIT",
            "T2V_TRANSFORMERS_DIRECT_TOKENIZE",
            "T2V_TEST_MODEL",
            "PATH",
            "T2V_TEXT2VEC_SIDECAR_SERVICE_HOST",
            "T2V_TEXT2VEC_SIDECAR_SERVICE_PORT_HTTP",
            "T2V_TEXT2VEC_SIDECAR_PORT",
            "T2V_TEXT2VEC_SIDECAR_PORT_8080_TCP_ADDR",
        ];
        assert_eq!(unknown(names.into_iter().map(OsString::from)), ["T2V_MAXWAIT", "T2V_PORT"]);
    }
}

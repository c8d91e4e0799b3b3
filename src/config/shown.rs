//! The configuration as it takes effect, for people: each setting, its value, and where that comes from.

use std::fmt::Write;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use super::args::{Cli, ServeArgs};
use super::reference::ReferenceEnv;
use crate::error::Result;
use crate::telemetry::LogFormat;

const HIDDEN: &str = "(hidden)";

/// The settings of `serve`, a line each: name, value, source. No secret is among them.
///
/// # Errors
/// `Config`, as the server itself would refuse to start.
pub fn shown(matches: &ArgMatches, args: &ServeArgs, reference: &ReferenceEnv) -> Result<String> {
    let given = matches.subcommand_matches("serve").unwrap_or(matches);
    let command = Cli::command();
    let arguments = command.find_subcommand("serve").into_iter().flat_map(clap::Command::get_arguments);
    let mut lines = String::new();
    let mut line = |name: &str, value: &str, source: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{name:<22} {value:<44} {source}");
    };
    for argument in arguments {
        let (id, Some(name)) = (argument.get_id().as_str(), argument.get_long()) else { continue };
        if matches!(id, "help" | "print_config" | "check") {
            continue;
        }
        let raw = given.get_raw(id).into_iter().flatten();
        let value = raw.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",");
        let variable = argument.get_env().map(|name| name.to_string_lossy()).unwrap_or_default();
        let source = match given.value_source(id) {
            Some(ValueSource::CommandLine) => format!("--{name}"),
            Some(ValueSource::EnvVariable) => variable.into_owned(),
            _ => "default".to_owned(),
        };
        if !given.contains_id(id) {
            let (value, source) = implied(id, args, reference)?;
            line(name, &without_secrets(&value), source);
        } else if value.is_empty() {
            line(name, "-", &source);
        } else if argument.is_hide_env_values_set() && !id.ends_with("upstream") {
            line(name, HIDDEN, &source);
        } else {
            line(name, &without_secrets(&value), &source);
        }
    }
    if reference.allowed_tokens.is_some() {
        line("auth-tokens", HIDDEN, "AUTHENTICATION_ALLOWED_TOKENS");
    }
    for warning in &reference.warnings {
        line("warning", warning, "");
    }
    Ok(lines)
}

/// What holds where neither flag nor `T2V_*` variable says anything, and which of the reference's variables decides.
fn implied(id: &str, args: &ServeArgs, reference: &ReferenceEnv) -> Result<(String, &'static str)> {
    let from = |variable: &'static str, is_set: bool| if is_set { variable } else { "default" };
    let endpoints = reference.endpoints(args);
    let upstream = |query: bool| {
        let urls = endpoints.environment();
        urls.map(|urls| if query { &urls.query } else { &urls.passage }).filter(|url| !url.is_empty()).cloned()
    };
    Ok(match id {
        "model" if args.passage_model.is_some() => ("-".into(), "--passage-model and --query-model"),
        "model" if upstream(true).is_some() && upstream(false).is_some() => ("-".into(), "texts are forwarded"),
        "model" if !args.upstream.models()?.is_empty() => ("-".into(), "--upstream"),
        "model" => {
            let models: Vec<_> = reference.models(&args.model)?.into_iter().map(|model| model.source).collect();
            let source = match &reference.model_name {
                _ if models[..] == [crate::model::locate::IMAGE_MODEL_DIR] => "the directory is there",
                name => from("MODEL_NAME", name.is_some()),
            };
            (models.join(","), source)
        }
        "passage_upstream" | "query_upstream" => match upstream(id == "query_upstream") {
            Some(url) if reference.inference_urls.is_some() && args.upstream.urls().is_none() => {
                (url, "TRANSFORMERS_*INFERENCE_API")
            }
            Some(url) => (url, "--upstream"),
            None => ("-".into(), "default"),
        },
        "device" => (reference.device(&args.model).to_string(), from("ENABLE_CUDA", reference.device.is_some())),
        "cache_bytes" => {
            let (own, of_classes) = reference.caches(args, false);
            ((own.max_bytes + of_classes.max_bytes).to_string(), from("ENABLE_CACHE", reference.cache_off))
        }
        "cache_ttl" => {
            ((if args.upstream.any() || endpoints.environment().is_some() { "600" } else { "never" }).into(), "default")
        }
        "direct_tokenize" => {
            (reference.direct_tokenize.to_string(), from("T2V_TRANSFORMERS_DIRECT_TOKENIZE", reference.direct_tokenize))
        }
        "task_prefixes" => {
            (reference.task_prefixes.to_string(), from("USE_QUERY_PASSAGE_PREFIXES", reference.task_prefixes))
        }
        "apply_dimensions" => ("false".into(), "default"),
        "lowercase_input" => {
            (reference.lowercase_input.to_string(), from("LOWERCASE_VECTORIZATION_INPUT", reference.lowercase_input))
        }
        "upstream_wait" => {
            (reference.waits(args).to_string(), from("TRANSFORMERS_WAIT_FOR_STARTUP", reference.wait_off))
        }
        "log_format" => {
            let name = match reference.log_format.unwrap_or_default() {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            };
            (name.into(), from("LOG_FORMAT", reference.log_format.is_some()))
        }
        _ => ("-".into(), "default"),
    })
}

/// URLs without user-info and query, which may hold passwords and keys.
fn without_secrets(value: &str) -> String {
    let url = |part: &str| {
        let Some((scheme, rest)) = part.split_once("://") else { return part.to_owned() };
        let (rest, hidden) = match rest.split_once(['?', '#']) {
            Some((rest, _)) => (rest, "?…"),
            None => (rest, ""),
        };
        let host = rest.find('/').unwrap_or(rest.len());
        match rest[..host].rfind('@') {
            Some(at) => format!("{scheme}://…{}{hidden}", &rest[at..]),
            None => format!("{scheme}://{rest}{hidden}"),
        }
    };
    value.split(',').map(url).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_what_may_be_secret() {
        for (given, expected) in [
            ("http://a:1", "http://a:1"),
            ("http://user:p@ss@a:1/x@y,grpcs://b", "http://…@a:1/x@y,grpcs://b"),
            ("openai+https://a/v1?key=secret#secret", "openai+https://a/v1?…"),
            ("no URL: a@b?c", "no URL: a@b?c"),
        ] {
            assert_eq!(without_secrets(given), expected);
        }
    }
}

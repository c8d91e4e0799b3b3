//! What `--print-config` prints is a file that comes to the same settings. Tests alone are in this file.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};

use super::file::{Kind, settings_of_serve};
use super::table::Table;
use super::{Cli, CommandLine, ReferenceEnv, Settings};

/// Every setting with a value that is not its default, alone or with what it needs. Numbers are added to these.
const GIVEN: &[&[&str]] = &[
    &[],
    &["--listen=127.0.0.1:9"],
    &["--auth-tokens-file=/a b/tokens"],
    &["--auth-metrics"],
    &["--tls-cert=/cert", "--tls-key=/key"],
    &["--tls-cert=/cert", "--tls-key=/key", "--tls-client-ca=C:\\ca"],
    &["--cors-origins=https://a,https://b"],
    &["--model=./x"],
    &["--model=a=./x,b=./y", "--model=c=org/z"],
    &["--model=./x", "--revision=2024"],
    &["--profile=onnx"],
    &["--model=a=./x,b=./y", "--profile=a=onnx,b=auto", "--profile=transformers"],
    &["--direct-tokenize"],
    &["--task-prefixes=true"],
    &["--task-prefixes=false"],
    &["--apply-dimensions"],
    &["--engine=portable"],
    &["--device=cpu"],
    &["--precision=int8"],
    &["--queries-first=false"],
    &["--log-format=json"],
    &["--passage-model=./x", "--query-model=./y"],
    &["--upstream=http://a"],
    &["--upstream=openai+http://a/v1,openai+http://b/v1"],
    &["--upstream=a=http://a,http://b", "--upstream=c=grpc://d:1"],
    &["--upstream=a=http://a", "--model=b=./x"],
    &["--passage-upstream=http://a"],
    &["--passage-upstream=http://a", "--query-upstream=http://b,http://c"],
    &["--query-upstream=http://b", "--model=./x"],
    &["--upstream=http://a", "--self-urls=http://a,http://b"],
    &["--self-urls=http://a"],
    &["--allow-upstream=*.example.com,10.0.0.0/8"],
    &["--upstream-wait=false"],
    &["--upstream-ca=/ca"],
    &["--upstream-cert=/cert"],
    &["--upstream-cert=/cert", "--upstream-key=/key"],
    &["--upstream-token-files=a=/token,b=/token"],
    &["--lowercase-input"],
    &["--surface-normalize=false"],
    &["--page=false"],
];

/// Those that are never told.
const SECRET: [&str; 2] = ["upstream-tokens", "upstream-headers"];

fn settings(arguments: &[String], reference: &ReferenceEnv) -> Settings {
    let words = ["text2vec-sidecar"].into_iter().map(OsString::from).chain(arguments.iter().map(OsString::from));
    let line = CommandLine::read(words.collect()).unwrap_or_else(|refusal| panic!("{arguments:?}: {refusal:?}"));
    let args = Cli::from_arg_matches(&line.matches).expect("arguments").serve;
    Settings::beside(&line, &args, reference).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

/// All that the commands read.
fn shown(settings: &Settings) -> String {
    let Settings { listen, serves, model, endpoints, upstreams, security, .. } = settings;
    let Settings { cache, lowercase_input, surfaces, page, limits, lifetimes, .. } = settings;
    let remote = (upstreams.wait, &upstreams.allowed, upstreams.options().map_err(|error| error.message().to_owned()));
    format!(
        "{:?}",
        (listen, serves, model, endpoints, remote, security, cache, lowercase_input, surfaces, page, limits, lifetimes)
    )
}

/// Names and values.
fn values(table: &Table) -> Vec<(String, String)> {
    let lines = table.0.iter().filter(|line| line.name != "warning");
    lines.map(|line| (line.name.clone(), line.value.clone())).collect()
}

/// Prints what these come to, reads it, prints that and reads it once more. Answers the names that the file sets.
fn goes_round(dir: &Path, arguments: &[String], reference: &ReferenceEnv) -> Vec<String> {
    let first = settings(arguments, reference);
    let mut last = first.table.clone();
    for variables in [reference, &ReferenceEnv::default()] {
        let path = dir.join("config.toml");
        std::fs::write(&path, last.to_string()).expect("write");
        let again = settings(&["--config".to_owned(), path.display().to_string()], variables);
        assert_eq!(values(&again.table), values(&first.table), "{arguments:?}\n{last}");
        assert_eq!(shown(&again), shown(&first), "{arguments:?}\n{last}");
        for (line, before) in again.table.0.iter().zip(&last.0) {
            assert_eq!((&line.written, line.is_set), (&before.written, before.is_set), "{arguments:?}: {line:?}");
            if line.is_set {
                let place = format!("{}:", path.display());
                assert!(line.source.to_string().starts_with(&place), "{arguments:?}: {line:?}");
            }
        }
        last = again.table;
    }
    first.table.0.into_iter().filter(|line| line.is_set).map(|line| line.name).collect()
}

#[test]
fn what_is_printed_comes_to_the_same_settings_when_it_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = Cli::command();
    let number = |argument: &&clap::Arg| Kind::of(argument) == Kind::Number;
    let numbers = settings_of_serve(&root).filter(number).map(|argument| {
        let name = argument.get_long().unwrap_or_default();
        vec![format!("--{name}={}", if name == "threads" { 7 } else { 5001 })]
    });
    let given = GIVEN.iter().map(|arguments| arguments.iter().map(|&word| word.to_owned()).collect());
    let mut told = Vec::new();
    for arguments in given.chain(numbers) {
        let set: Vec<String> = goes_round(dir.path(), &arguments, &ReferenceEnv::default());
        let flags = arguments.iter().map(|word| word.split('=').next().unwrap_or_default().trim_start_matches("--"));
        for flag in flags {
            assert!(set.iter().any(|name| name == flag), "{arguments:?}: {flag} is not in the file");
            told.push(flag.to_owned());
        }
    }
    for name in settings_of_serve(&root).filter_map(clap::Arg::get_long) {
        assert_eq!(told.iter().any(|told| told == name), !SECRET.contains(&name), "{name}");
    }
}

#[test]
fn what_other_programs_variables_say_goes_into_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    for (variables, name) in [
        (&[("TRANSFORMERS_INFERENCE_API", "http://a")][..], "query-upstream"),
        (
            &[("TRANSFORMERS_PASSAGE_INFERENCE_API", "http://a"), ("TRANSFORMERS_QUERY_INFERENCE_API", "http://b")],
            "passage-upstream",
        ),
        (&[("MODEL2VEC_INFERENCE_API", "http://a"), ("MODEL2VEC_WAIT_FOR_STARTUP", "no")], "upstream-wait"),
        (&[("ENABLE_CACHE", "0")], "cache-bytes"),
        (&[("LOG_FORMAT", "json")], "log-format"),
        (&[("LOWERCASE_VECTORIZATION_INPUT", "on")], "lowercase-input"),
        (&[("T2V_TRANSFORMERS_DIRECT_TOKENIZE", "1")], "direct-tokenize"),
        (&[("MODEL_NAME", "org/model")], "model"),
    ] {
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let reference = ReferenceEnv::read(get).expect("variables");
        let set = goes_round(dir.path(), &[], &reference);
        assert!(set.iter().any(|told| told == name), "{variables:?}: {name} is not in the file");
    }
}

/// What a machine, a model's files or another setting decide is told, and not pinned.
#[test]
fn what_was_found_out_is_a_comment() {
    let none = ReferenceEnv::default();
    let comments = |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let text = settings(&arguments, &none).table.to_string();
        let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("# {name} "))).map(str::to_owned);
        ["threads", "model", "task-prefixes", "passage-upstream", "upstream-tokens", "upstream"].map(line)
    };
    let [threads, model, prefixes, upstream, tokens, _] = comments(&["--upstream=http://u:verysecret@a"]);
    assert!(threads.is_some_and(|line| line.ends_with("# default")));
    assert!(model.is_some_and(|line| line.contains("= - ") && line.ends_with("# texts are forwarded")));
    assert!(prefixes.is_some_and(|line| line.contains("= false ")));
    let [_, model, ..] = comments(&[]);
    assert!(model.is_some_and(|line| line.contains("= \"sentence-transformers/")), "as a file would have it");
    assert!(upstream.is_some_and(|line| line.contains("= http://…@a ") && line.ends_with("# --upstream")));
    assert!(tokens.is_some_and(|line| line.contains("= - ")));
    let [threads, _, prefixes, _, tokens, upstream] = comments(&[
        "--threads=3",
        "--task-prefixes=false",
        "--upstream-tokens=a=verysecret",
        "--upstream=http://u:p@a",
    ]);
    assert_eq!((threads, prefixes), (None, None));
    assert!(tokens.is_some_and(|line| line.contains("= (hidden) ") && line.ends_with("# --upstream-tokens")));
    assert!(upstream.is_some_and(|line| line.contains("= http://…@a ")), "a part of it is no setting");
}

#[test]
fn a_value_with_lines_stays_in_its_line() {
    let arguments = ["--self-urls=http://u:p@a\nlisten = \"0.0.0.0:1\"", "--allow-upstream=a\n,b"].map(str::to_owned);
    let text = settings(&arguments, &ReferenceEnv::default()).table.to_string();
    assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#') || line.contains("  # ")), "{text}");
    assert!(!text.contains("\nlisten = \"0.0.0.0:1\""), "{text}");
}

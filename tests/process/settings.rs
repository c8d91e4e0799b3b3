//! What `--print-config` names is what the started program reports in `/meta`, however flags and variables are combined.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestError, TestRunner};
use serde_json::{Value, json};
use text2vec_sidecar::config::REFERENCE_VARIABLES;

use crate::support::process::{self, Connection, Process};
use crate::support::repository;
use crate::support::upstream::{Act, Arrived, Upstream, container, ok};

/// What a caller gives for one setting: by its flag, its `T2V_*` variable, another program's variable, or several of them.
#[derive(Debug, Clone)]
struct Given {
    flag: Option<(&'static str, String)>,
    variables: Vec<(&'static str, String)>,
}

/// A setting, the values that a flag or its variable may have, and the other program's variable with its own values.
type Setting = (&'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const SETTINGS: &[Setting] = &[
    ("max-body-bytes", "T2V_MAX_BODY_BYTES", &["1000", "2000000"], &[]),
    ("max-texts", "T2V_MAX_TEXTS", &["1", "77"], &[]),
    ("max-text-bytes", "T2V_MAX_TEXT_BYTES", &["512"], &[]),
    ("max-class-bytes", "T2V_MAX_CLASS_BYTES", &["4096"], &[]),
    ("max-wait", "T2V_MAX_WAIT", &["3", "60"], &[]),
    ("max-body-wait", "T2V_MAX_BODY_WAIT", &["7"], &[]),
    ("max-head-wait", "T2V_MAX_HEAD_WAIT", &["8"], &[]),
    ("max-head-bytes", "T2V_MAX_HEAD_BYTES", &["9000"], &[]),
    ("max-connections", "T2V_MAX_CONNECTIONS", &["40"], &[]),
    ("max-inflight-bytes", "T2V_MAX_INFLIGHT_BYTES", &["8000000"], &[]),
    ("max-tokenize-bytes", "T2V_MAX_TOKENIZE_BYTES", &["5000"], &[]),
    ("max-answer-bytes", "T2V_MAX_ANSWER_BYTES", &["6000000"], &[]),
    ("max-write-wait", "T2V_MAX_WRITE_WAIT", &["11"], &[]),
    ("surface-normalize", "T2V_SURFACE_NORMALIZE", &["true", "false"], &[]),
    ("queries-first", "T2V_QUERIES_FIRST", &["true", "false"], &[]),
    ("max-waiting-tokens", "T2V_MAX_WAITING_TOKENS", &["5000"], &[]),
    ("threads", "T2V_THREADS", &["1", "2"], &[]),
    ("precision", "T2V_PRECISION", &["f32", "bf16"], &[]),
    ("apply-dimensions", "T2V_APPLY_DIMENSIONS", &["true", "false"], &[]),
    ("cache-bytes", "T2V_CACHE_BYTES", &["0", "5000000"], &[("ENABLE_CACHE", "0"), ("ENABLE_CACHE", "true")]),
    ("cache-ttl", "T2V_CACHE_TTL", &["5"], &[]),
    (
        "profile",
        "T2V_PROFILE",
        &["transformers", "sentence-transformers", "onnx", "auto"],
        &[("ONNX_RUNTIME", "true"), ("USE_SENTENCE_TRANSFORMERS_VECTORIZER", "true")],
    ),
    (
        "direct-tokenize",
        "T2V_DIRECT_TOKENIZE",
        &["true", "false"],
        &[("T2V_TRANSFORMERS_DIRECT_TOKENIZE", "1"), ("T2V_TRANSFORMERS_DIRECT_TOKENIZE", "no")],
    ),
    ("task-prefixes", "T2V_TASK_PREFIXES", &["true", "false"], &[("USE_QUERY_PASSAGE_PREFIXES", "false")]),
    ("device", "T2V_DEVICE", &["cpu"], &[]),
    ("allow-upstream", "T2V_ALLOW_UPSTREAM", &["example.com"], &[]),
];

/// One setting given in some way, most often not at all.
fn given((flag, variable, values, others): Setting) -> impl Strategy<Value = Given> {
    let value = || select(values).prop_map(str::to_owned);
    let other =
        if others.is_empty() { Just(None).boxed() } else { prop::option::weighted(0.3, select(others)).boxed() };
    (prop::option::weighted(0.15, value()), prop::option::weighted(0.15, value()), other).prop_map(
        move |(by_flag, by_variable, other)| {
            let other = other.map(|(name, value)| (name, value.to_owned()));
            let variables = by_variable.map(|value| (variable, value)).into_iter().chain(other).collect();
            Given { flag: by_flag.map(|value| (flag, value)), variables }
        },
    )
}

/// What is served.
#[derive(Debug, Clone, Copy)]
enum Source {
    Model(usize),
    Named,
    ByModelName,
    ByUpstreamFlag,
    ByInferenceApi,
    BesideInferenceApi,
    OfItself,
}

const SOURCES: [Source; 9] = [
    Source::Model(0),
    Source::Model(1),
    Source::Model(2),
    Source::Named,
    Source::ByModelName,
    Source::ByUpstreamFlag,
    Source::ByInferenceApi,
    Source::BesideInferenceApi,
    Source::OfItself,
];

/// Three models: with modules.json, without, and with the marker files of the reference's images.
fn models(at: &Path) -> Vec<PathBuf> {
    let families = repository().join("tests/fixtures/families");
    let marked = at.join("marked");
    copy(&families.join("bert"), &marked);
    std::fs::write(marked.join("model_name"), "some/model").expect("write");
    std::fs::write(marked.join("use_query_passage_prefixes"), "true").expect("write");
    vec![families.join("bert"), families.join("distilbert"), marked]
}

/// A reference container that says what it is.
fn described(arrived: &Arrived) -> Act {
    match arrived.path.as_str() {
        "/meta" => ok(r#"{"model_type":"bert"}"#),
        _ => container(arrived),
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copy")),
        }
    }
}

/// The arguments and variables that name what is served.
fn source_of(source: Source, models: &[PathBuf], upstream: &str) -> Given {
    let model = |place: usize| models[place].display().to_string();
    let flag = |name, value| Given { flag: Some((name, value)), variables: Vec::new() };
    let variables = |variables| Given { flag: None, variables };
    match source {
        Source::Model(place) => flag("model", model(place)),
        Source::Named => flag("model", format!("a={},b={}", model(0), model(2))),
        Source::ByModelName => variables(vec![("MODEL_NAME", model(1))]),
        Source::ByUpstreamFlag => flag("upstream", upstream.to_owned()),
        Source::ByInferenceApi => variables(vec![("TRANSFORMERS_INFERENCE_API", upstream.to_owned())]),
        Source::BesideInferenceApi => {
            let variables = vec![("TRANSFORMERS_INFERENCE_API", upstream.to_owned())];
            Given { flag: Some(("model", model(1))), variables }
        }
        Source::OfItself => {
            let variables = vec![("TRANSFORMERS_INFERENCE_API", upstream.to_owned()), ("T2V_MODEL", model(0))];
            Given { flag: Some(("self-urls", upstream.to_owned())), variables }
        }
    }
}

fn command(all: &[Given]) -> std::process::Command {
    let mut command = Process::command();
    for (name, _) in std::env::vars() {
        if name.starts_with("T2V_") || REFERENCE_VARIABLES.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    for Given { flag, variables } in all {
        command.args(flag.iter().map(|(name, value)| format!("--{name}={value}")));
        command.envs(variables.iter().map(|(name, value)| (name, value)));
    }
    command
}

/// The values that `--print-config` names, by setting.
fn printed(all: &[Given]) -> BTreeMap<String, String> {
    let output = command(all).arg("--print-config").output().expect("the binary runs");
    assert!(output.status.success(), "{all:?}: {}", String::from_utf8_lossy(&output.stderr));
    process::settings(&output).into_iter().map(|(name, printed)| (name, printed.value)).collect()
}

/// As `/meta` writes a value that was printed.
fn as_json(name: &str, value: &str) -> Value {
    match value {
        "never" => Value::Null,
        value if name.ends_with("-wait") => json!(value.parse::<f64>().expect("seconds")),
        value => serde_json::from_str(value).unwrap_or_else(|_| json!(value)),
    }
}

/// What differs between the two.
fn differences(printed: &BTreeMap<String, String>, meta: &Value) -> Vec<String> {
    let own = &meta["sidecar"];
    let forwards = own["upstream"].is_object();
    let mut differences = Vec::new();
    let mut same = |name: &str, expected: Value, reported: &Value| {
        if expected != *reported {
            differences.push(format!("{name}: printed {expected}, reported {reported}"));
        }
    };
    for &(name, ..) in SETTINGS {
        let value = &printed[name];
        let expected = as_json(name, value);
        match name {
            "allow-upstream" => {}
            "cache-bytes" => {
                let all: u64 = value.parse().expect("bytes");
                let of_classes = if printed["allow-upstream"] == "-" { 0 } else { all / 4 };
                let held = if all == 0 { Value::Null } else { json!(all - of_classes) };
                same(name, held, &own["cache"]["max_bytes"]);
            }
            "cache-ttl" => {
                let expected = if own["cache"].is_null() { Value::Null } else { expected };
                let seconds = own["cache"]["ttl_seconds"].as_f64().map_or(Value::Null, |seconds| json!(seconds as u64));
                same(name, expected, &seconds);
            }
            name if name.ends_with("-wait") => {
                same(name, expected, &own[format!("{}_seconds", name.replace('-', "_"))]);
            }
            name if name.starts_with("max-") && name != "max-waiting-tokens" || name == "surface-normalize" => {
                same(name, expected, &own[name.replace('-', "_")]);
            }
            // What a model here does is nothing to an upstream.
            _ if forwards => {}
            // What each model decides by itself is listed for each; `/meta` is the first one's.
            "profile" | "task-prefixes" => {
                let first = value.split(',').next().unwrap_or_default();
                same(name, as_json(name, first), &own[name.replace('-', "_")]);
            }
            name => same(name, expected, &own[name.replace('-', "_")]),
        }
    }
    if forwards {
        same("query-upstream", json!(printed["query-upstream"]), &own["upstream"]["url"]);
        same("model", json!("-"), &json!(printed["model"]));
    } else {
        let models = printed["model"].split(',').map(|model| model.split_once('=').map_or(model, |(name, _)| name));
        let name =
            |model: &str| Path::new(model).file_name().map_or(json!(model), |name| json!(name.to_string_lossy()));
        same("model", Value::Array(models.map(name).collect()), &own["models"]);
        // A URL that means this program itself stands there, and nothing is forwarded.
        if printed["query-upstream"] != printed["self-urls"] {
            same("query-upstream", json!("-"), &json!(printed["query-upstream"]));
        }
    }
    differences
}

#[test]
fn what_is_printed_is_what_the_started_program_reports() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let dir = tempfile::tempdir().expect("a directory");
    let models = models(dir.path());
    let upstream = runtime.block_on(Upstream::start(described));
    let config = Config { cases: 24, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let settings: Vec<_> = SETTINGS.iter().map(|&setting| given(setting)).collect();
    let outcome = TestRunner::new(config).run(&(select(&SOURCES[..]), settings), |(source, mut all)| {
        all.push(source_of(source, &models, &upstream.url()));
        let printed = printed(&all);
        let meta = runtime.block_on(async {
            let server = Process::launch(command(&all)).await;
            let mut connection = Connection::open(server.address).await.expect("a connection");
            connection.get("/meta").await.expect("meta").into_body()
        });
        let meta: Value = serde_json::from_slice(&meta).expect("JSON");
        let differences = differences(&printed, &meta);
        all.retain(|given| given.flag.is_some() || !given.variables.is_empty());
        prop_assert!(differences.is_empty(), "{differences:?} of {all:?}");
        Ok(())
    });
    if let Err(TestError::Fail(reason, _) | TestError::Abort(reason)) = outcome {
        panic!("{reason}");
    }
}

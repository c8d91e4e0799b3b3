//! Mistakes in a file of settings: each is told with the file, the line and the setting, by whatever reads that setting, and
//! `--print-config` refuses what `serve` refuses, in the same words.

use clap::{ArgAction, CommandFactory};
use text2vec_sidecar::config::Cli;

use crate::cli::{run, sidecar};
use crate::support::model_dir;

/// Settings that are no number and no switch: what stands in front of them in the file, and a value that cannot be meant.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("listen", "", "8080"),
    ("auth-tokens-file", "", "/no/such/file"),
    ("tls-cert", "tls-key = \"/no/such/key\"", "/no/such/file"),
    ("tls-client-ca", "tls-cert = \"CERT\"\ntls-key = \"KEY\"", "/no/such/file"),
    ("tls-key", "tls-cert = \"CERT\"", "/no/such/file"),
    ("tls-key", "tls-cert = \"CERT\"", "JUNK"),
    ("tls-cert", "tls-key = \"KEY\"", "JUNK"),
    ("tls-client-ca", "tls-cert = \"CERT\"\ntls-key = \"KEY\"", "JUNK"),
    ("auth-tokens-file", "", "EMPTY"),
    ("cors-origins", "", "app.example.com"),
    ("cors-origins", "", "*,https://a"),
    ("model", "", "./no/such/dir"),
    ("model", "", "http://embedder:8080"),
    ("model", "", "a b=./dir"),
    ("model", "", "a=./x,a=./y"),
    ("revision", "model = \"MODEL\"", "a b"),
    ("revision", "model = \"MODEL\"", "main"),
    ("profile", "", "none"),
    ("profile", "", "other=onnx"),
    ("profile", "model = \"MODEL\"", "model2vec"),
    ("engine", "", "neo"),
    ("engine", "", if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" }),
    ("engine", "model = \"MODEL\"\nprecision = \"int8\"", "candle"),
    ("model", "", "org/none"),
    ("device", "", "tpu"),
    ("precision", "", "f64"),
    ("log-format", "", "xml"),
    ("passage-model", "query-model = \"MODEL\"", "./no/such/dir"),
    ("query-model", "passage-model = \"MODEL\"", "./no/such/dir"),
    ("upstream", "", "http://h=x"),
    ("upstream", "", "localhost:8080"),
    ("upstream", "", "a b=http://127.0.0.1:9"),
    ("upstream", "", "http://127.0.0.1:9/vectors"),
    ("upstream", "", "http://a,grpc://b"),
    ("upstream", "model = \"./dir\"", "http://127.0.0.1:9"),
    ("upstream", "model = \"a=./x\"", "a=http://127.0.0.1:9"),
    ("upstream", "passage-model = \"./x\"\nquery-model = \"./y\"", "a=http://127.0.0.1:9"),
    ("passage-upstream", "", "ftp://a"),
    ("query-upstream", "", "http://"),
    ("self-urls", "", "http://a,localhost:8080"),
    ("self-urls", "", "any:verysecret@localhost:8080"),
    ("allow-upstream", "", "a b"),
    ("allow-upstream", "", "http://a"),
    ("upstream", "", ","),
    ("upstream-ca", "", "/no/such/file"),
    ("upstream-cert", "", "/no/such/file"),
    ("upstream-cert", "", "KEY"),
    ("upstream-cert", "", "CERT"),
    ("upstream-key", "upstream-cert = \"CERT\"", "/no/such/file"),
    ("upstream-key", "upstream-cert = \"CERT\"", "JUNK"),
    ("upstream-tokens", "", "verysecret"),
    ("upstream-tokens", "", "http://a=verysecret"),
    ("upstream-tokens", "", "a="),
    ("upstream-token-files", "", "a=/no/such/file"),
    ("upstream-token-files", "", "/no/such/file"),
    ("upstream-token-files", "", "a=EMPTY"),
    ("upstream-headers", "", "a=verysecret"),
    ("upstream-headers", "", "a=a b:verysecret"),
];

#[test]
fn every_setting_s_mistake_is_told_with_its_file_and_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).expect("write");
    std::fs::write(&key, certified.signing_key.serialize_pem()).expect("write");
    let (junk, empty) = (dir.path().join("junk.pem"), dir.path().join("empty"));
    std::fs::write(&junk, "none").expect("write");
    std::fs::write(&empty, "").expect("write");
    let model = model_dir();
    let filled = |text: &str| {
        let path = |path: &std::path::Path| path.to_str().expect("a path").to_owned();
        let files = [("CERT", &cert), ("KEY", &key), ("JUNK", &junk), ("EMPTY", &empty), ("MODEL", &model)];
        files.into_iter().fold(text.to_owned(), |text, (name, file)| text.replace(name, &path(file)))
    };
    let root = Cli::command();
    let serve = root.find_subcommand("serve").expect("serve");
    let mut mistakes: Vec<(String, String, String)> = Vec::new();
    for argument in serve.get_arguments() {
        let Some(name) = argument.get_long() else { continue };
        if ["help", "config", "print-config", "check"].contains(&name) {
            continue;
        }
        let wrong = |value: &str| (name.to_owned(), String::new(), value.to_owned());
        let before = mistakes.len();
        let texts = MISTAKES.iter().filter(|(setting, ..)| *setting == name);
        mistakes.extend(
            texts.map(|(_, beside, value)| (name.to_owned(), filled(beside), format!("\"{}\"", filled(value)))),
        );
        let takes_switch = matches!(argument.get_action(), ArgAction::Set)
            && argument.get_value_names().is_some_and(|names| names.iter().any(|name| name == "BOOL"));
        if mistakes.len() == before {
            mistakes.push(wrong(if takes_switch { "3" } else { "-1" }));
        }
        mistakes.push(wrong("1979-05-27"));
    }
    for (name, beside, value) in mistakes {
        let text = format!("\n{beside}\n{name} = {value}\n");
        let line = text.lines().count();
        std::fs::write(dir.path().join("config.toml"), &text).expect("write");
        let said = ["--check", "--print-config"].map(|flag| {
            let mut command = sidecar(&["--config", "config.toml", flag, "--upstream-wait=false"]);
            let output = run(command.current_dir(&dir).env("HF_HUB_OFFLINE", "1"));
            let error = String::from_utf8(output.stderr).expect("UTF-8");
            assert!(output.stdout.is_empty(), "{text}: {}", String::from_utf8_lossy(&output.stdout));
            (output.status.code(), error)
        });
        let (code, error) = &said[0];
        assert_eq!(said[0], said[1], "{text}");
        assert!(*code == Some(1) || *code == Some(2), "{text}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{text}: {error}");
        assert!(error.starts_with(&format!("error: config.toml:{line}: {name}")), "{text}: {error}");
        assert!(!error.contains("verysecret"), "{text}: {error}");
        println!("{}", error.trim_end());
    }
}

/// What is wrong is said before a server is asked, and by the name of what says it.
#[test]
fn what_newcomers_mistake_is_said_before_anything_else() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("file"), "x").expect("write");
    let said = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = sidecar(arguments);
        let nobody = ("HF_ENDPOINT", "http://127.0.0.1:9");
        command.env("RUST_LOG", "warn").env("HF_HOME", dir.path()).envs([nobody]).envs(variables.iter().copied());
        let output = run(command.current_dir(&dir));
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!((output.status.code(), error.trim_end().lines().count()), (Some(1), 1), "{arguments:?}: {error}");
        error
    };
    let nobody = "http://127.0.0.1:9";
    for (arguments, variables, words) in [
        (
            &["download", "https://huggingface.co/org/none"][..],
            &[][..],
            "named by its id, such as org/name, not by a URL",
        ),
        (&["download", "org/none", "--revision", "a b"], &[], "--revision: \"a b\" is not a revision"),
        (&["download", "org/none", "--revision", "a b"], &[("HF_HUB_OFFLINE", "1")], "--revision: \"a b\" is not"),
        (&["download", "org/none", "--dir", "file"], &[], "--dir: file is a file: name a directory"),
        (
            &["import", "none.jsonl", "--collection", "A", "--weaviate", nobody],
            &[],
            "none.jsonl cannot be read: No such",
        ),
        (
            &["import", "file", "--collection", "A", "--output", "no/such/x", "--weaviate", nobody],
            &[],
            "--output: no/such/x cannot be written: there is no such folder",
        ),
        (&["--check"], &[("MODEL_NAME", "./none")], "error: MODEL_NAME: there is no directory \"./none\""),
        (&["--check"], &[("HF_HUB_OFFLINE", "1")], "error: HF_HUB_OFFLINE is set and sentence-transformers/"),
        (&["import", ".", "--collection", "A", "--weaviate", nobody], &[], ". is a directory: give a file"),
        (&["--check", "--model", "org/none"], &[("T2V_REVISION", "")], "as a Hub id it cannot be had"),
        (&["download", "org/none"], &[("T2V_REVISION", "")], "cannot be reached"),
        (&["--check", "--self-urls", "localhost:8080"], &[], "--self-urls: 'localhost:8080' is no URL"),
    ] {
        let error = said(arguments, variables);
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    // What the log is to have, and cannot.
    let model = model_dir();
    let arguments = ["embed", "--model", model.to_str().expect("a path"), "a text"];
    let output = run(sidecar(&arguments).env("RUST_LOG", "a=b=c"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("RUST_LOG is 'a=b=c', which cannot be read"), "{text}");
}

/// What is no fault of the model is not told as one, though it shows while that is loaded.
#[test]
fn a_model_is_blamed_for_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = model_dir();
    let text = format!("\nmodel = {:?}\nengine = \"candle\"\nprecision = \"int8\"\n", model.to_str().expect("a path"));
    std::fs::write(dir.path().join("engine.toml"), text).expect("write");
    std::fs::write(dir.path().join("hub.toml"), "model = \"org/none\"").expect("write");
    let path = |name: &str| dir.path().join(name);
    for broken in ["config.json", "tokenizer.json"] {
        let copy = path(&format!("without-{broken}"));
        std::fs::create_dir(&copy).expect("a directory");
        for file in std::fs::read_dir(&model).expect("a model") {
            let file = file.expect("a file");
            if file.path().is_file() {
                std::fs::copy(file.path(), copy.join(file.file_name())).expect("copy");
            }
        }
        std::fs::create_dir(copy.join("1_Pooling")).expect("a directory");
        std::fs::copy(model.join("1_Pooling/config.json"), copy.join("1_Pooling/config.json")).expect("copy");
        std::fs::write(copy.join(broken), "{").expect("write");
        let text = format!("\nmodel = {copy:?}");
        std::fs::write(path(&format!("{broken}.toml")), text).expect("write");
    }
    let tokenizer = path("without-tokenizer.json").join("tokenizer.json");
    let tokenizer = tokenizer.to_str().expect("a path");
    for (file, arguments, variables, words) in [
        ("engine.toml", &["--check"][..], &[][..], "engine.toml:3: engine: the engine candle computes in f32 only"),
        ("engine.toml", &["--print-config"], &[], "engine.toml:3: engine: the engine candle computes in f32 only"),
        ("engine.toml", &["embed", "a text"], &[], "engine.toml:3: engine: the engine candle computes in f32 only"),
        ("hub.toml", &["--check"], &[("HF_ENDPOINT", "nonsense")], "HF_ENDPOINT is not a URL"),
        ("hub.toml", &["--print-config"], &[("HF_ENDPOINT", "nonsense")], "HF_ENDPOINT is not a URL"),
        ("hub.toml", &["embed", "a text"], &[("HF_ENDPOINT", "nonsense")], "HF_ENDPOINT is not a URL"),
        ("hub.toml", &["--print-config"], &[("HF_HUB_OFFLINE", "1")], "hub.toml:1: model: HF_HUB_OFFLINE is set"),
        // These are the model's; what only loading shows names its file.
        ("config.json.toml", &["--check"], &[], "config.json.toml:2: model: "),
        ("config.json.toml", &["--print-config"], &[], "config.json.toml:2: model: "),
        ("config.json.toml", &["embed", "a text"], &[], "config.json.toml:2: model: "),
        ("tokenizer.json.toml", &["--check"], &[], tokenizer),
    ] {
        let mut command = sidecar(arguments);
        command.current_dir(&dir).env("T2V_CONFIG", file).envs(variables.iter().copied());
        let output = run(&mut command);
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        let what = format!("{file}, {arguments:?}: {error}");
        assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{what}");
        assert!(error.starts_with(&format!("error: {words}")), "{what}");
    }
}

/// Commands that take some of the settings say it in the same way.
#[test]
fn other_commands_tell_the_file_and_the_line_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = model_dir();
    let model = model.to_str().expect("a path");
    for (text, arguments, words) in [
        ("upstream-tokens = \"x\"", &["compare", "http://a", "http://b"][..], "config.toml:1: upstream-tokens: "),
        ("profile = \"model2vec\"", &["compare", model, model], "config.toml:1: profile: "),
        ("\nmodel = \"./none\"", &["embed", "a text"], "config.toml:2: model: there is no directory"),
        ("\nmodel = [\"a=./x\", \"b=./y\"]", &["embed", "a text"], "config.toml:2: model: embed works with one model"),
    ] {
        std::fs::write(dir.path().join("config.toml"), text).expect("write");
        let output = run(sidecar(arguments).current_dir(&dir).env("T2V_CONFIG", "config.toml"));
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.code() == Some(1) && error.starts_with(&format!("error: {words}")), "{text}: {error}");
    }
    // A model that is no setting of the command is not told as one.
    std::fs::write(dir.path().join("config.toml"), "model = \"./x\"").expect("write");
    let output = run(sidecar(&["compare", "./none", model]).current_dir(&dir).env("T2V_CONFIG", "config.toml"));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: there is no directory \"./none\""));
}

/// The same mistakes, given as flags and variables: by the name that was used.
#[test]
fn a_mistake_is_told_by_the_flag_or_the_variable_that_has_it() {
    for (flag, variable, value) in [
        ("--cors-origins", "T2V_CORS_ORIGINS", "app.example.com"),
        ("--upstream-headers", "T2V_UPSTREAM_HEADERS", "a=verysecret"),
        ("--upstream-tokens", "T2V_UPSTREAM_TOKENS", "verysecret"),
        ("--upstream", "T2V_UPSTREAM", "http://h=x"),
        ("--allow-upstream", "T2V_ALLOW_UPSTREAM", "a b"),
        ("--auth-tokens-file", "T2V_AUTH_TOKENS_FILE", "/no/such/file"),
        ("--model", "T2V_MODEL", "./no/such/dir"),
        ("--profile", "T2V_PROFILE", "other=onnx"),
        ("--query-upstream", "TRANSFORMERS_INFERENCE_API", "http://"),
    ] {
        let by_flag = run(&mut sidecar(&["--print-config", &format!("{flag}={value}")]));
        let by_variable = run(sidecar(&["--print-config"]).env(variable, value));
        for (output, name) in [(by_flag, flag), (by_variable, variable)] {
            let error = String::from_utf8(output.stderr).expect("UTF-8");
            assert_eq!(output.status.code(), Some(1), "{name}: {error}");
            assert!(error.starts_with(&format!("error: {name}: ")), "{name}: {error}");
            assert!(!error.contains("verysecret"), "{error}");
        }
    }
}

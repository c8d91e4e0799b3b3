//! A file of settings: who goes before whom, what it may hold, and what is said of mistakes in it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::cli::{run, sidecar};
use crate::support::model_dir;
use crate::support::process::{Printed, settings};

/// A directory with this file of settings in it, from which the program is to be started.
fn directory(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.toml"), text).expect("write");
    dir
}

fn printed(command: &mut Command) -> BTreeMap<String, Printed> {
    let output = run(command.arg("--print-config"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    settings(&output)
}

/// One line on stderr that holds every given word, and the exit code of a command line that cannot be understood.
fn assert_refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), text.trim_end().lines().count()), (Some(2), 1), "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn a_file_goes_before_other_programs_variables_and_behind_flags_and_our_own() {
    let dir =
        directory("max-texts = 5\ncache-bytes = 6\nmax-wait = 7\n\nlog-format = \"json\"\nmodel = \"org/file\"\n");
    let mut command = sidecar(&["--config", "config.toml", "--max-texts", "1"]);
    command.current_dir(&dir).env("T2V_MAX_WAIT", "2").env("T2V_MAX_TEXTS", "3").env("T2V_LOG_FORMAT", "");
    let lines = printed(command.env("ENABLE_CACHE", "0").env("LOG_FORMAT", "text").env("MODEL_NAME", "org/variable"));
    for (name, value, source) in [
        ("max-texts", "1", "--max-texts"),
        ("max-wait", "2", "T2V_MAX_WAIT"),
        ("cache-bytes", "6", "config.toml:2"),
        ("log-format", "json", "config.toml:5"),
        ("model", "org/file", "config.toml:6"),
        ("max-body-wait", "60", "default"),
    ] {
        assert_eq!((&*lines[name].value, &*lines[name].source), (value, source), "{name}");
    }
    // The variable names it as well, and the flag goes before the variable.
    let by_variable = printed(sidecar(&["serve"]).current_dir(&dir).env("T2V_CONFIG", "config.toml"));
    assert_eq!(by_variable["max-wait"].source, "config.toml:3");
    let other = directory("max-wait = 8");
    let path = other.path().join("config.toml").display().to_string();
    let flag = format!("--config={path}");
    let by_both = printed(sidecar(&[&flag]).current_dir(&dir).env("T2V_CONFIG", "config.toml"));
    assert_eq!((&*by_both["max-wait"].value, by_both["max-wait"].source.clone()), ("8", format!("{path}:1")));
    assert_eq!(by_both["max-texts"].source, "default");
}

/// Compose files and charts pass on variables that nobody has set.
#[test]
fn a_variable_that_is_empty_says_nothing_beside_a_file_or_a_flag() {
    let plain = |(name, line): (String, Printed)| {
        let is_plain = line.value.parse::<u64>().is_ok() || line.value.parse::<bool>().is_ok();
        is_plain.then_some((name, line.value))
    };
    let known: Vec<_> = printed(&mut sidecar(&["--model", "org/m"])).into_iter().filter_map(plain).collect();
    assert!(known.len() > 30, "{known:?}");
    let variable = |name: &str| format!("T2V_{}", name.to_uppercase().replace('-', "_"));
    let empty: Vec<_> = known.iter().map(|(name, _)| (variable(name), "")).collect();
    let dir = directory(&known.iter().map(|(name, value)| format!("{name} = {value}\n")).collect::<String>());
    let lines = printed(sidecar(&["--config", "config.toml"]).current_dir(&dir).envs(empty.clone()));
    for (at, (name, value)) in known.iter().enumerate() {
        assert_eq!((&lines[name].value, &*lines[name].source), (value, &*format!("config.toml:{}", at + 1)), "{name}");
    }
    let flags: Vec<_> = known.iter().map(|(name, value)| format!("--{name}={value}")).collect();
    let flags: Vec<_> = ["serve"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let lines = printed(sidecar(&flags).envs(empty));
    for (name, value) in &known {
        assert_eq!((&lines[name].value, &lines[name].source), (value, &format!("--{name}")), "{name}");
    }
    assert_refused(&run(sidecar(&["serve", "--print-config"]).env("T2V_MAX_WAIT", "")), &["T2V_MAX_WAIT is empty"]);
}

#[test]
fn what_is_printed_is_such_a_file_and_tells_no_secret() {
    let text = "upstream-tokens = \"a=verysecret\"\nupstream = [\"http://any:verysecret@a:1/x?key=verysecret\"]\nmax-wait = 7\n";
    let dir = directory(text);
    let output = run(sidecar(&["--config", "config.toml", "--print-config"]).current_dir(&dir));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("verysecret"));
    let lines = settings(&output);
    for (name, value, source) in [
        ("upstream-tokens", "(hidden)", "config.toml:1"),
        ("upstream", "http://…@a:1/x?…", "config.toml:2"),
        ("query-upstream", "http://…@a:1/x?…", "config.toml:2"),
    ] {
        let expected = Printed { value: value.to_owned(), source: source.to_owned(), is_set: false };
        assert_eq!(lines[name], expected, "{name}");
    }
    // With a model whose files decide what is not set, and a variable by which the profile is chosen.
    let (model, again) = (model_dir(), directory(""));
    let model = model.to_str().expect("a path");
    for variables in [&[][..], &[("ONNX_RUNTIME", "true")]] {
        let mut command = sidecar(&["--model", model, "--max-texts", "9", "--print-config"]);
        let first = run(command.envs(variables.iter().copied()));
        std::fs::write(again.path().join("config.toml"), &first.stdout).expect("write");
        let second = printed(sidecar(&["--config", "config.toml"]).current_dir(&again));
        let value = |lines: &BTreeMap<String, Printed>| {
            lines.iter().map(|(name, line)| (name.clone(), line.value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(value(&settings(&first)), value(&second), "{variables:?}");
        assert_eq!(second["profile"].is_set, !variables.is_empty(), "{:?}", second["profile"]);
    }
    assert_eq!(printed(sidecar(&["--config", "config.toml"]).current_dir(&again))["profile"].value, "onnx");
}

#[test]
fn commands_take_from_a_file_what_they_know() {
    let model = model_dir();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address");
    let text = format!("listen = \"{free}\"\nmodel = {model:?}\nprofile = \"sentence-transformers\"\nmax-texts = 5\n");
    let dir = directory(&text);
    let of_file = |arguments: &[&str]| run(sidecar(arguments).current_dir(&dir).env("T2V_CONFIG", "config.toml"));
    let said = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let checked = said(of_file(&["--check"]));
    assert!(checked.contains("384 dimensions, profile sentence-transformers (chosen by: --profile)"), "{checked}");
    assert!(said(of_file(&["embed", "a text"])).contains("\"dims\":384"));
    let compared = said(of_file(&["compare", model.to_str().expect("a path"), model.to_str().expect("a path")]));
    assert!(compared.contains("sentence-transformers"), "{compared}");
    // A file for several models, beside one model.
    let several = directory("model = [\"a=./x\", \"b=./y\"]\nprofile = [\"sentence-transformers\", \"b=onnx\"]\n");
    let model = model.to_str().expect("a path");
    let of_several =
        |arguments: &[&str]| run(sidecar(arguments).current_dir(&several).env("T2V_CONFIG", "config.toml"));
    assert!(said(of_several(&["embed", "--model", model, "a text"])).contains("\"dims\":384"));
    assert!(said(of_several(&["compare", model, model])).contains("sentence-transformers"));
    let mut by_variable = sidecar(&["embed", "--model", model, "a text"]);
    let by_variable = run(by_variable.env("T2V_PROFILE", "b=onnx"));
    assert!(String::from_utf8_lossy(&by_variable.stderr).contains("names the model 'b', which is not served here"));
    let healthcheck = of_file(&["healthcheck"]);
    let text = String::from_utf8_lossy(&healthcheck.stderr).into_owned();
    assert!(text.contains(&format!("http://{free}/.well-known/ready does not answer")), "{text}");
    // Commands that take no file do not look for one, and neither does whoever asks for help.
    for arguments in [&["completions", "bash"][..], &["man"], &["--help"], &["serve", "--help"], &["help", "serve"]] {
        assert!(run(sidecar(arguments).env("T2V_CONFIG", "/no/such/file")).status.success(), "{arguments:?}");
    }
}

#[test]
fn mistakes_are_said_by_the_file_s_line_and_key() {
    for (text, words) in [
        ("\n\nthreads = 0", &["error: config.toml:3: threads is '0': use a number from 1 to 1024"][..]),
        ("max-txts = 5", &["config.toml:1: 'max-txts' is no setting: did you mean max-texts?"]),
        ("listen = \"8080\"", &["config.toml:1: listen is '8080': use an address and a port"]),
        ("log-format = \"xml\"", &["config.toml:1: log-format is 'xml': use text, json"]),
        ("profile = [\"onnx\", \"x\"]", &["config.toml:1: profile: unknown profile 'x'"]),
        ("precision = \"f64\"", &["config.toml:1: precision"]),
        ("tls-cert = \"\"\ntls-key = \"/k\"", &["config.toml:1: tls-cert is empty"]),
        ("listen = \"x", &["config.toml:1: ", "a setting stands on a line"]),
        ("\ntls-cert = \"/c\"", &["config.toml:2: tls-cert needs --tls-key <FILE> beside it"]),
        ("tls-client-ca = \"/c\"\ntls-key = \"/k\"", &["config.toml:2: tls-key needs --tls-cert <FILE> beside it"]),
        (
            "upstream = \"http://a\"\nquery-upstream = \"http://b\"",
            &["cannot be beside", "config.toml:1: upstream", "config.toml:2: query-upstream", "leave one of them out"],
        ),
    ] {
        let dir = directory(text);
        assert_refused(&run(sidecar(&["--config", "config.toml", "--check"]).current_dir(&dir)), words);
    }
    let refused = |text: &str, arguments: &[&str], words: &[&str]| {
        let dir = directory(text);
        let mut command = sidecar(&[&["--config", "config.toml", "--print-config"], arguments].concat());
        assert_refused(&run(command.current_dir(&dir)), words);
    };
    // The one that is at fault is named, wherever it stands.
    refused("threads = 2", &["--max-wait", "x"], &["error: --max-wait is 'x'"]);
    refused(
        "model = \"x\"",
        &["--passage-model", "a", "--query-model", "b"],
        &["config.toml:1: model cannot be beside --passage-model"],
    );
    assert_refused(
        &run(&mut sidecar(&["--config", "no/such.toml"])),
        &["no/such.toml cannot be read", "--config or T2V_CONFIG"],
    );
    assert_refused(&run(&mut sidecar(&["--config", "/dev/zero"])), &["/dev/zero has more than 1048576 bytes"]);
    // A half of a pair in the file, the other one on the command line.
    let dir = directory("tls-cert = \"cert.pem\"");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(dir.path().join("cert.pem"), certified.cert.pem()).expect("write");
    std::fs::write(dir.path().join("key.pem"), certified.signing_key.serialize_pem()).expect("write");
    let pair = printed(sidecar(&["--config", "config.toml", "--tls-key", "key.pem"]).current_dir(&dir));
    assert_eq!((&*pair["tls-cert"].source, &*pair["tls-key"].source), ("config.toml:1", "--tls-key"));
}

#[test]
fn a_path_that_is_no_text_is_not_passed_over() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().expect("a directory");
    let name = std::ffi::OsStr::from_bytes(b"\xff.toml");
    std::fs::write(dir.path().join(name), "threads = 0").expect("write");
    let refused = run(sidecar(&["--config"]).arg(name).arg("--check").current_dir(&dir));
    assert_refused(&refused, &["threads is '0'"]);
    let joined = [&b"--config="[..], name.as_bytes()].concat();
    let joined = run(sidecar(&[]).arg(std::ffi::OsStr::from_bytes(&joined)).arg("--check").current_dir(&dir));
    assert_refused(&joined, &["--config is not UTF-8 text"]);
}

/// The example in docs/configuration.md is a file whose every line counts.
#[test]
fn the_example_of_the_documents_is_such_a_file() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("docs/configuration.md");
    let (_, rest) = page.split_once("```toml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let dir = directory(example);
    let lines = printed(sidecar(&["--config", "config.toml"]).current_dir(&dir));
    let named: Vec<&str> =
        example.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim()).collect();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        assert!(lines[name].source.starts_with("config.toml:"), "{name}: {:?}", lines[name]);
    }
}

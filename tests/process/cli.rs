//! The binary as people meet it: subcommands, errors in one line, and a table of flags that tells the truth.

use crate::support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use clap::CommandFactory;
use serde_json::Value;
use support::process::settings;
use support::{floats, model_dir};
use text2vec_engine::device::GPU_SUPPORT;
use text2vec_sidecar::config::{Cli, REFERENCE_VARIABLES};

pub(crate) fn sidecar(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"));
    // Nothing of the developer's own settings; a backtrace must not appear even when asked for.
    for (name, _) in std::env::vars() {
        if name.starts_with("T2V_") || name.starts_with("HF_") || REFERENCE_VARIABLES.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command.env("RUST_BACKTRACE", "1").env("RUST_LOG", "error").args(arguments);
    command
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the binary runs")
}

/// One line on stderr that holds every given word, exit code 1, nothing on stdout.
fn assert_one_line_error(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "more than a line: {text}");
    assert!(output.stdout.is_empty());
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn a_missing_model_directory_is_said_in_one_line() {
    let output = run(sidecar(&["--model", "./no/such/dir", "--listen", "127.0.0.1:0"]).env("HF_HUB_OFFLINE", "1"));
    assert_one_line_error(&output, &["./no/such/dir"]);
}

/// A path that looks like a Hub id, without a network.
#[test]
fn what_is_neither_a_directory_nor_on_the_hub_is_said_in_one_line() {
    let mut command = sidecar(&["--model", "models/typo", "--listen", "127.0.0.1:0"]);
    let output = run(command.env("HF_ENDPOINT", "http://127.0.0.1:9").env("HF_HOME", "/nonexistent"));
    assert_one_line_error(
        &output,
        &["no directory \"models/typo\"", "as a Hub id", "http://127.0.0.1:9 cannot be reached"],
    );
    let output = run(&mut sidecar(&["compare", "localhost:8080", "./x"]));
    assert_one_line_error(&output, &["'localhost:8080' is no directory", "http://localhost:8080"]);
}

#[test]
fn values_that_cannot_be_read_are_said_in_one_line_by_the_name_that_was_used() {
    let refused = |command: &mut Command| {
        let output = run(command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
        text
    };
    let by_variable = refused(sidecar(&[]).env("T2V_THREADS", "many"));
    assert!(by_variable.starts_with("error: T2V_THREADS is 'many': use a whole number"), "{by_variable}");
    let by_flag = refused(sidecar(&["--listen", "8080"]).env("T2V_LISTEN", "127.0.0.1:0"));
    assert!(by_flag.starts_with("error: --listen is '8080': use an address and a port"), "{by_flag}");
    let misspelt =
        run(sidecar(&["--model", "./no/such/dir", "--check"]).env("T2V_MAXWAIT", "3").env("RUST_LOG", "warn"));
    let text = String::from_utf8_lossy(&misspelt.stderr);
    assert!(text.contains("T2V_MAXWAIT is set, which is no variable"), "{text}");
}

#[test]
fn what_people_try_first_is_said_in_one_line() {
    let (dir, model) = (tempfile::tempdir().expect("a directory"), model_dir());
    let (empty, blank) = (dir.path().join("empty"), dir.path().join("blank"));
    std::fs::write(&empty, "").expect("write");
    std::fs::write(&blank, "\n  \n").expect("write");
    let [model, empty, blank] = [&model, &empty, &blank].map(|path| path.to_str().expect("a path"));
    for (arguments, words) in [
        (&["download", model][..], &["is a directory, and download takes a Hub id", "--dir", "--model"][..]),
        (&["download", "models/all-MiniLM-L6-v2"], &["is a directory, and download takes a Hub id"]),
        (&["download", "./no/such"], &["is a directory, and download takes a Hub id"]),
        (&["compare", model, model, "--texts", empty], &["empty holds no text: write one per line"]),
        (&["compare", model, model, "--texts", blank], &["blank holds no text"]),
        (&["compare", model, model, "--dimensions", "5000"], &["--dimensions is 5000", "have 384"]),
        (
            &["embed", "--model", model, "--dimensions", "5000", "x"],
            &["--dimensions is 5000", "have 384: ask for 1 to 384"],
        ),
        (&["compare", model, "./none"], &["there is no directory \"./none\""]),
        (
            &["--upstream", "http://127.0.0.1:9/vectors", "--listen", "127.0.0.1:0"],
            &[
                "http://127.0.0.1:9/vectors ends with /vectors, which is put behind it: give its base, http://127.0.0.1:9",
            ],
        ),
        (
            &["--query-upstream", "openai+http://127.0.0.1:9/v1/embeddings/", "--listen", "127.0.0.1:0"],
            &["give its base, openai+http://127.0.0.1:9"],
        ),
        (&["--model", "my model=DIR", "--listen", "127.0.0.1:0"], &["'my model' cannot be a name"]),
        (
            &["--model", model, "--cors-origins", "app.example.com", "--listen", "127.0.0.1:0"],
            &["--cors-origins", "no origin"],
        ),
    ] {
        assert_one_line_error(&run(&mut sidecar(arguments)), words);
    }
    for (arguments, words) in [
        (&["serve", model][..], format!("give a model as --model {model}")),
        (&[model], format!("give a model as --model {model}")),
        (&["--listen", "no.such.host.invalid:1"], "no address is known for 'no.such.host.invalid'".to_owned()),
        // Before anything is looked for, or loaded.
        (
            &["embed", "--model", "./none", "--dimensions", "0", "x"],
            "--dimensions is '0': use a number from 1".to_owned(),
        ),
        (
            &["embed", "--model", "./none", "--pooling", "zzz", "x"],
            "--pooling is 'zzz': use masked_mean, cls".to_owned(),
        ),
        (&["compare", "./a", "./b", "--pooling=max"], "--pooling is 'max': use masked_mean, cls".to_owned()),
        (&["compare", "./a", "./b", "--task=none"], "--task is 'none': use passage, query".to_owned()),
    ] {
        let output = run(&mut sidecar(arguments));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
        assert!(text.contains(&words), "{text}");
    }
}

#[test]
fn unreadable_weights_and_unknown_architectures_are_said_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = |name: &str| std::fs::copy(model_dir().join(name), dir.path().join(name)).expect("copy");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        copy(name);
    }
    let path = dir.path().to_str().expect("a path").to_owned();
    let serve = || run(&mut sidecar(&["--model", &path, "--listen", "127.0.0.1:0"]));
    assert_one_line_error(&serve(), &["model.safetensors"]);
    std::fs::write(dir.path().join("model.safetensors"), b"this is not a safetensors file").expect("write");
    assert_one_line_error(&serve(), &["model.safetensors", "not a usable safetensors file", "download it again"]);
    // A file that ends early, as an interrupted copy leaves it.
    let whole = std::fs::read(model_dir().join("model.safetensors")).expect("weights");
    std::fs::write(dir.path().join("model.safetensors"), &whole[..whole.len() / 2]).expect("write");
    assert_one_line_error(&serve(), &["model.safetensors", "not a usable safetensors file"]);
    std::fs::write(dir.path().join("config.json"), r#"{"model_type":"mamba"}"#).expect("write");
    assert_one_line_error(&serve(), &["'mamba'", "not supported"]);
    std::fs::write(dir.path().join("config.json"), "{").expect("write");
    assert_one_line_error(&serve(), &["config.json", "not a JSON object"]);
}

#[test]
fn a_taken_port_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("address").to_string();
    let output = run(&mut sidecar(&["--model", model_dir().to_str().expect("a path"), "--listen", &address]));
    assert_one_line_error(&output, &[&address, "--listen", "T2V_LISTEN"]);
}

#[test]
fn offline_with_nothing_cached_is_said_in_one_line() {
    let cache = tempfile::tempdir().expect("a directory");
    let mut command = sidecar(&["--listen", "127.0.0.1:0", "--model", "some-org/some-model"]);
    let output = run(command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", cache.path()));
    assert_one_line_error(&output, &["some-org/some-model", "HF_HUB_OFFLINE"]);
}

#[test]
fn embed_writes_a_json_line_per_text() {
    let model = model_dir();
    let arguments = ["embed", "--model", model.to_str().expect("a path"), "The London Eye", "hello"];
    let output = run(&mut sidecar(&arguments));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["text"], "The London Eye");
    // The first number of the reference's vector for this text.
    assert!((floats(&lines[0]["vector"])[0] - 0.416_775_76).abs() < 1e-5, "{}", lines[0]);
    assert_eq!((lines[1]["dims"].as_u64(), floats(&lines[1]["vector"]).len()), (Some(384), 384));
}

#[test]
fn embed_reads_standard_input_and_marks_what_fails() {
    let model = model_dir();
    let arguments = ["embed", "--model", model.to_str().expect("a path"), "--profile", "transformers"];
    let mut child = sidecar(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut input = child.stdin.take().expect("stdin");
    let texts: String = (0..70).map(|i| if i == 40 { "\n".to_owned() } else { format!("line {i}\n") }).collect();
    input.write_all(texts.as_bytes()).expect("write");
    drop(input);
    let output = child.wait_with_output().expect("an end");
    let lines = json_lines(&output);
    assert_eq!((lines.len(), output.status.code()), (70, Some(1)));
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line.get("error").is_some(), i == 40, "{line}");
        assert_eq!(line.get("vector").is_some(), i != 40, "{line}");
    }
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 texts could not be embedded"));
}

fn json_lines(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone())
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn healthcheck_follows_the_server_and_sigterm_ends_it_with_0() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").to_string();
    let check = || run(&mut sidecar(&["healthcheck", "--listen", &free]));
    assert_one_line_error(&check(), &["does not answer"]);
    let model = model_dir();
    let mut server = sidecar(&["--model", model.to_str().expect("a path"), "--listen", &free]).spawn().expect("starts");
    let started = std::time::Instant::now();
    while !check().status.success() {
        assert!(started.elapsed().as_secs() < 60, "not ready after a minute");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    assert_eq!(server.wait().expect("an end").code(), Some(0));
}

#[test]
fn print_config_says_what_holds_and_why_and_no_secret() {
    let mut command = sidecar(&["--print-config", "--listen", "127.0.0.1:8081", "--cache-ttl=5"]);
    command
        .env("AUTHENTICATION_ALLOWED_TOKENS", "verysecret,b")
        .env("ENABLE_CUDA", "1")
        .env("ENABLE_CACHE", "0")
        .env("T2V_MAX_TEXTS", "77")
        .env("T2V_UPSTREAM_TOKENS", "a=verysecret")
        .env("T2V_UPSTREAM_HEADERS", "a=api-key:verysecret://")
        .env("T2V_UPSTREAM", "http://any:verysecret@a:1/x?key=verysecret");
    let output = run(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = settings(&output);
    for (name, words) in [
        ("listen", ["127.0.0.1:8081", "--listen"]),
        ("cache-ttl", ["5", "--cache-ttl"]),
        ("max-texts", ["77", "T2V_MAX_TEXTS"]),
        ("cache-bytes", ["0", "ENABLE_CACHE"]),
        ("upstream", ["http://…@a:1/x?…", "T2V_UPSTREAM"]),
        ("upstream-tokens", ["(hidden)", "T2V_UPSTREAM_TOKENS"]),
        ("upstream-headers", ["(hidden)", "T2V_UPSTREAM_HEADERS"]),
        ("auth-tokens", ["(hidden)", "AUTHENTICATION_ALLOWED_TOKENS"]),
        ("max-wait", ["45", "default"]),
        // Only a build for GPUs heeds it.
        ("device", if GPU_SUPPORT { ["cuda:0", "ENABLE_CUDA"] } else { ["cpu", "default"] }),
    ] {
        let line = lines.get(name).unwrap_or_else(|| panic!("no {name} in {lines:?}"));
        assert_eq!([&*line.value, &*line.source], words, "{name}");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let warned = text.lines().any(|line| line.starts_with("# warning: ") && line.contains("ENABLE_CUDA"));
    assert_eq!(warned, !GPU_SUPPORT, "{text}");
    assert!(!text.contains("verysecret"));
    let model = &settings(&run(sidecar(&["serve", "--print-config"]).env("MODEL_NAME", "org/model")))["model"];
    assert_eq!((&*model.value, &*model.source, model.is_set), ("org/model", "MODEL_NAME", true));
}

#[test]
fn check_loads_and_embeds_without_a_port() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("address").to_string();
    let path = model_dir();
    let model = path.to_str().expect("a path");
    let output = run(&mut sidecar(&["--check", "--model", model, "--listen", &address]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("ok: '") && text.contains("all-MiniLM-L6-v2' makes vectors of 384 dimensions, profile "),
        "{text}"
    );
    assert!(text.contains("profile transformers (chosen by: the reference container's published image"), "{text}");
    let files = tempfile::tempdir().expect("a directory");
    let tokens = files.path().join("tokens");
    std::fs::write(&tokens, "\n").expect("write");
    let tokens = tokens.to_str().expect("a path");
    let check = |flags: &[&str]| run(&mut sidecar(&[&["--check", "--model", model], flags].concat()));
    assert_one_line_error(&check(&["--auth-tokens-file", tokens]), &[tokens, "holds no token"]);
    assert_one_line_error(&check(&["--tls-cert", tokens, "--tls-key", tokens]), &[tokens, "holds no certificate"]);
    // A server that is not there.
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address");
    let upstream = format!("t2v+http://{gone}");
    let check = ["--check", "--upstream", &upstream, "--upstream-wait", "false", "--max-wait", "1"];
    assert_one_line_error(&run(&mut sidecar(&check)), &[&upstream]);
}

/// One variable for Weaviate and its sidecar leads the sidecar to itself, by its address, or round through something else.
#[test]
fn an_upstream_that_is_the_sidecar_itself_is_refused_at_once() {
    let free = || TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address");
    let refused = |own: std::net::SocketAddr, url: &str, more: &[&str]| {
        let started = std::time::Instant::now();
        let mut command = sidecar(&[&["--listen", &own.to_string()], more].concat());
        let output = run(command.env("TRANSFORMERS_INFERENCE_API", url));
        assert_one_line_error(
            &output,
            &[url.trim_end_matches('/'), "is this sidecar itself", "T2V_SELF_URLS", "--model"],
        );
        println!("{url} {more:?}: {:.2} s", started.elapsed().as_secs_f64());
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    };
    let own = free();
    for url in [format!("http://{own}"), format!("http://localhost:{}/", own.port()), format!("grpc://{own}")] {
        refused(own, &url, &[]);
        refused(own, &url, &["--upstream-wait", "false"]);
    }
    refused(own, &format!("http://{own}"), &["--check"]);
    // As a Service or a proxy of another address does it.
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (at, own) = (proxy.local_addr().expect("address"), free());
    std::thread::spawn(move || {
        for near in proxy.incoming().take(8).flatten() {
            let Ok(far) = std::net::TcpStream::connect(own) else { continue };
            let pipes = [(near.try_clone(), far.try_clone()), (far.try_clone(), near.try_clone())];
            for (from, to) in pipes {
                if let (Ok(mut from), Ok(mut to)) = (from, to) {
                    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                }
            }
        }
    });
    refused(own, &format!("http://{at}"), &[]);
}

/// `TRANSFORMERS_INFERENCE_API` in an environment that containers share does not put aside a model that is named here.
#[test]
fn a_model_named_here_wins_over_a_shared_variable_and_a_flag_is_not_put_aside_silently() {
    let (path, gone) = (model_dir(), TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address"));
    let (model, url) = (path.to_str().expect("a path"), format!("http://{gone}"));
    let check = |flags: &[&str], variables: &[(&str, &str)]| {
        let mut command = sidecar(&[&["--check"], flags].concat());
        command.env("RUST_LOG", "warn").env("TRANSFORMERS_INFERENCE_API", &url).envs(variables.iter().copied());
        run(&mut command)
    };
    let pair = ["--passage-model", model, "--query-model", model];
    for output in [check(&["--model", model], &[]), check(&[], &[("T2V_MODEL", model)]), check(&pair, &[])] {
        let [said, warned] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success() && said.contains("384 dimensions"), "{said} {warned}");
        assert!(
            warned.contains("TRANSFORMERS_INFERENCE_API (or its passage and query pair) is set beside"),
            "{warned}"
        );
    }
    for (flags, variables) in [
        (&["--model", model, "--upstream", &url][..], &[][..]),
        (&["--upstream", &url], &[("T2V_MODEL", model)]),
        (&["--model", model], &[("T2V_UPSTREAM", &*url)]),
    ] {
        let output = check(flags, variables);
        assert_one_line_error(&output, &["--model (T2V_MODEL)", "--upstream (T2V_UPSTREAM)", "are both given"]);
    }
    let printed = run(sidecar(&["--print-config", "--model", model]).env("TRANSFORMERS_INFERENCE_API", &url));
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.contains("warning") && printed.contains("is set beside --model"), "{printed}");
    assert!(!printed.contains(&url), "{printed}");
}

/// A folder as sentence-transformers has it, that nobody says anything about: two profiles are possible.
#[test]
fn a_profile_that_modules_json_alone_chose_is_warned_about_with_the_other_one() {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(model_dir()).expect("the model") {
        let path = std::fs::canonicalize(entry.expect("an entry").path()).expect("a path");
        let name = path.file_name().expect("a name");
        if name != "text2vec-sidecar.json" {
            std::os::unix::fs::symlink(&path, dir.path().join(name)).expect("a link");
        }
    }
    let model = dir.path().to_str().expect("a path");
    let check = |flags: &[&str]| {
        let output = run(sidecar(&[&["--check", "--model", model], flags].concat()).env("RUST_LOG", "warn"));
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
        assert!(output.status.success(), "{said:?}");
        said
    };
    let [ok, warning] = check(&[]);
    assert!(ok.ends_with("profile sentence-transformers (chosen by: modules.json)\n"), "{ok}");
    for word in ["modules.json alone", "profile sentence-transformers", "under transformers", "--profile", model] {
        assert!(warning.contains(word), "'{word}' is not in: {warning}");
    }
    let [ok, warning] = check(&["--profile", "transformers"]);
    assert!(ok.ends_with("profile transformers (chosen by: --profile)\n") && warning.is_empty(), "{ok} {warning}");
}

#[test]
fn tokens_that_cannot_be_read_do_not_leave_the_server_open() {
    use std::os::unix::ffi::OsStrExt;
    for tokens in [&b"\xff"[..], b","] {
        let tokens = std::ffi::OsStr::from_bytes(tokens);
        let mut command = sidecar(&["--model", "./no/such/dir", "--listen", "127.0.0.1:0"]);
        let output = run(command.env("AUTHENTICATION_ALLOWED_TOKENS", tokens));
        assert_one_line_error(&output, &["AUTHENTICATION_ALLOWED_TOKENS", "unset it"]);
    }
}

/// What a build for GPUs refuses is in `cuda.rs`.
#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_is_refused_where_there_is_none() {
    for device in ["cuda", "cuda:1"] {
        let output = run(&mut sidecar(&["--device", device]));
        let text = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(
            text.contains("no GPU support") && text.contains("--device cpu") && text.contains("--upstream"),
            "{text}"
        );
    }
}

#[test]
fn a_device_that_does_not_exist_is_refused() {
    assert!(!run(&mut sidecar(&["--device", "tpu"])).status.success());
}

/// The flags as the table in docs/configuration.md shows them.
fn table_from_code() -> String {
    let mut rows = String::from("| command | flag | variable | default | meaning |\n|---|---|---|---|---|\n");
    let command = Cli::command();
    let mut seen = Vec::new();
    for sub in command.get_subcommands() {
        for argument in sub.get_arguments() {
            let Some(long) = argument.get_long().filter(|&long| long != "help" && long != "version") else { continue };
            let variable = argument.get_env().expect("every flag has a variable").to_str().expect("UTF-8");
            assert!(variable.starts_with("T2V_"), "--{long} has the variable {variable}");
            let users: Vec<_> = command
                .get_subcommands()
                .filter(|other| {
                    let is_it =
                        |theirs: &clap::Arg| (theirs.get_long(), theirs.get_env()) == (Some(long), argument.get_env());
                    other.get_arguments().any(is_it)
                })
                .map(clap::Command::get_name)
                .collect();
            let default = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<String>();
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
            let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
            let row = format!("| {} | `--{long}` | `{variable}` | {default} | {help} |\n", users.join(", "));
            if !seen.contains(&row) {
                rows.push_str(&row);
                seen.push(row);
            }
        }
    }
    rows
}

/// README leads to docs/configuration.md, which has the table. With `UPDATE_README=1` it is written instead of compared.
#[test]
fn the_readme_leads_to_every_flag_and_variable_as_the_code_has_them() {
    const BEGIN: &str = "<!-- flags: kept by tests/process/cli.rs -->\n";
    const END: &str = "<!-- end of flags -->";
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    assert!(readme.contains("(docs/configuration.md)"), "README does not lead to docs/configuration.md");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = std::fs::read_to_string(path).expect("docs/configuration.md");
    let (before, rest) = page.split_once(BEGIN).expect("the table's begin mark");
    let (table, after) = rest.split_once(END).expect("the table's end mark");
    let wanted = table_from_code();
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("write");
    } else {
        for (row, wanted) in table.lines().zip(wanted.lines()) {
            assert_eq!(
                row, wanted,
                "run `UPDATE_README=1 cargo test --test process readme` and look at the difference"
            );
        }
        assert_eq!(
            table.lines().count(),
            wanted.lines().count(),
            "run `UPDATE_README=1 cargo test --test process readme`"
        );
    }
    for variable in REFERENCE_VARIABLES {
        assert!(after.contains(&format!("`{variable}`")), "docs/configuration.md says nothing about {variable}");
    }
}

/// What listens there is not asked where it points to, and what it says does not reach the terminal as it is.
#[test]
fn healthcheck_asks_nobody_else_and_shows_no_control_characters() {
    let asked = TcpListener::bind("127.0.0.1:0").expect("a port");
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, other) = (asked.local_addr().expect("address"), elsewhere.local_addr().expect("address"));
    let body = format!("\u{1b}[31mred{}", "x".repeat(100_000));
    let answers = [
        format!("HTTP/1.1 302 Found\r\nlocation: http://{other}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        format!("HTTP/1.1 503 No\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()),
    ];
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = asked.accept().expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
        // Speaks something else.
        let (mut stream, _) = asked.accept().expect("a connection");
        let _ = stream.write_all(b"SSH-2.0-x\r\n");
    });
    let check = || run(&mut sidecar(&["healthcheck", "--listen", &address.to_string()]));
    assert_one_line_error(&check(), &["answered 302"]);
    let output = check();
    assert_one_line_error(&output, &["answered 503", "\\u{1b}[31mred"]);
    assert!(output.stderr.len() < 1000, "{}", output.stderr.len());
    assert_one_line_error(&check(), &["does not answer: is the server running there, and without --tls-cert"]);
    elsewhere.set_nonblocking(true).expect("no waiting");
    assert!(elsewhere.accept().is_err(), "nobody went there");
}

#[test]
fn input_without_an_end_is_refused() {
    let model = model_dir();
    let model = model.to_str().expect("a path");
    let mut command = sidecar(&["embed", "--model", model]);
    let endless = std::fs::File::open("/dev/zero").expect("a device");
    let output = command.stdin(endless).output().expect("the binary runs");
    assert_one_line_error(&output, &["line 1 of standard input has more than 4194304 bytes"]);
    let output = run(&mut sidecar(&["compare", "--texts", "/dev/zero", model, model]));
    assert_one_line_error(&output, &["/dev/zero has more than 16777216 bytes"]);
    let output = run(&mut sidecar(&["--model", model, "--auth-tokens-file", "/dev/zero", "--listen", "127.0.0.1:0"]));
    assert_one_line_error(&output, &["/dev/zero cannot be read: it has more than 1048576 bytes"]);
    for flag in ["--tls-client-ca", "--upstream-ca", "--upstream-cert"] {
        let (cert, key) = ("/dev/zero", "/dev/zero");
        let tls = ["--tls-cert", cert, "--tls-key", key];
        let output = run(sidecar(&["--print-config", flag, "/dev/zero"]).args(tls));
        assert_one_line_error(&output, &["/dev/zero cannot be read: it has more than 1048576 bytes"]);
    }
    let output = run(&mut sidecar(&["--print-config", "--upstream-token-files", "a=/dev/zero"]));
    assert_one_line_error(&output, &["--upstream-token-files: ", "it has more than 1048576 bytes"]);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md"));
    let page = page.expect("docs/configuration.md");
    let (_, page) = page.split_once("## How large files may be").expect("the limits of files");
    for (flag, most) in [("--auth-tokens-file", "1 MiB"), ("compare --texts", "16 MiB"), ("standard input", "4 MiB")] {
        let row = page.lines().find(|line| line.contains(flag)).expect(flag);
        assert!(row.ends_with(&format!("| {most} |")), "{row}");
    }
}

#[test]
fn no_error_tells_a_password_of_a_url() {
    let url = "http://u:verysecret@h";
    for arguments in [
        &["--check", "--model", url][..],
        &["--print-config", "--model", url],
        &["--print-config", "--allow-upstream", url],
        &["embed", "--model", url, "x"],
        &["download", url],
        &[url],
        &["serve", url],
        &["--listen", url],
        &["--cors-origins", "https://u:verysecret@h", "--print-config"],
    ] {
        let output = run(&mut sidecar(arguments));
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8")).concat();
        assert!(!text.contains("verysecret") && !text.is_empty(), "{arguments:?}: {text}");
    }
}

#[test]
fn a_command_does_not_fail_by_the_settings_of_another() {
    for arguments in [&["man"][..], &["completions", "bash"], &["healthcheck", "--help"]] {
        let mut command = sidecar(arguments);
        command.env("T2V_MAX_TEXTS", "abc").env("T2V_UPSTREAM", "http://a").env("T2V_PASSAGE_UPSTREAM", "http://b");
        let output = run(&mut command);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_file_of_settings_in_front_of_the_command_is_told_its_place() {
    for first in [&["--config", "x.toml"][..], &["--config=x.toml"]] {
        let output = run(&mut sidecar(&[first, &["embed", "hi"]].concat()));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("--config goes behind the command: embed --config …"), "{text}");
    }
}

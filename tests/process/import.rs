//! `import` from the command line's side: what its flags take and show.

use clap::CommandFactory;
use text2vec_sidecar::config::Cli;

use crate::cli::{run, sidecar};

/// What an import says that ends at once, since its class is not there: its other flags were understood.
fn said(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = sidecar(&["import"]);
    command.args(arguments).args(["--class-file", "no/such/class.json", "--output", "-"]);
    let output = run(command.envs(variables.iter().copied()));
    assert!(output.stdout.is_empty() && !output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

#[test]
fn help_shows_no_value_of_a_variable_that_may_hold_a_secret() {
    let root = Cli::command();
    let import = root.find_subcommand("import").expect("the command");
    let may_hold_one = |argument: &&clap::Arg| {
        let names = argument.get_value_names().unwrap_or_default();
        names.iter().any(|name| ["URL", "KEY", "TOKEN", "SECRET"].contains(&name.as_str()))
    };
    let variables: Vec<_> = import.get_arguments().filter(may_hold_one).filter_map(clap::Arg::get_env).collect();
    assert!(variables.len() >= 5, "{variables:?}");
    for help in ["--help", "-h"] {
        let mut command = sidecar(&["import", help]);
        for name in &variables {
            command.env(name, "http://u:verysecret@host");
        }
        let output = run(&mut command);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("--weaviate") && text.contains("T2V_WEAVIATE") && !text.contains("verysecret"), "{text}");
    }
}

#[test]
fn checkpoints_may_be_switched_off() {
    let homeless = [("HOME", ""), ("XDG_STATE_HOME", ""), ("LOCALAPPDATA", "")];
    assert!(said(&["a.jsonl"], &homeless).contains("--checkpoints ''"), "what is advised");
    for (arguments, variable) in
        [(&["a.jsonl", "--checkpoints", ""][..], None), (&["a.jsonl"], Some(("T2V_CHECKPOINTS", "")))]
    {
        let variables: Vec<_> = homeless.into_iter().chain(variable).collect();
        let said = said(arguments, &variables);
        assert!(said.contains("--class-file no/such/class.json cannot be read"), "{arguments:?}: {said}");
    }
    let failed = said(&["a.jsonl", "--failed", ""], &[]);
    assert_eq!(failed, "error: --failed is empty: give a value, or leave it out");
    let collection = said(&["a.jsonl", "--collection="], &[]);
    assert_eq!(collection, "error: --collection is empty: give a value, or leave it out");
}

#[test]
fn a_file_behind_a_switch_is_the_file() {
    for switch in ["--dry-run", "--create-tenants", "--allow-new-properties", "--restart"] {
        for arguments in [&[switch, "a.jsonl"][..], &["a.jsonl", switch], &[&format!("{switch}=false"), "a.jsonl"]] {
            let said = said(&[arguments, &["--checkpoints", ""]].concat(), &[]);
            assert!(said.contains("--class-file no/such/class.json cannot be read"), "{arguments:?}: {said}");
        }
    }
    assert!(said(&["--dry-run=perhaps", "a.jsonl"], &[]).contains("--dry-run is 'perhaps': use true or false"));
}

/// A file that would be lost is refused before anything is asked or read.
#[test]
fn a_file_that_has_something_in_it_is_not_written_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("full"), "precious\n").expect("write");
    std::fs::write(path("empty"), "").expect("write");
    let made = std::process::Command::new("mkfifo").arg(path("fifo")).status();
    assert!(made.expect("mkfifo runs").success());
    std::os::unix::fs::symlink(path("full"), path("link")).expect("a link");
    let import = |output: &str, more: &[&str]| {
        let mut command = sidecar(&["import", "a.jsonl", "--class-file", "no/such/class.json", "--output", output]);
        run(command.args(more))
    };
    let said = |output: &str, more: &[&str]| {
        let output = import(output, more);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let full = path("full");
    for (output, more) in
        [(&full, &[][..]), (&path("link"), &[]), (&full, &["--dry-run"]), (&full, &["--overwrite=false"])]
    {
        let text = said(output, more);
        let expected =
            format!("error: --output: {output} has something in it already: name another file, or add --overwrite");
        assert!(text.starts_with(&expected) && text.lines().count() == 1, "{text}");
    }
    assert!(said(&path("."), &[]).contains("is a directory: name a file in it"));
    // Of what is read nothing is to be lost.
    for output in [&full, &path("link")] {
        let text = run(&mut sidecar(&["import", &full, "--collection", "A", "--output", output])).stderr;
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(text, format!("error: --output: {output} is the file that is read: name another file\n"));
    }
    let by_variable = run(sidecar(&["import", "-", "--collection", "A"]).env("T2V_OUTPUT", &full));
    let text = String::from_utf8_lossy(&by_variable.stderr);
    assert!(text.starts_with(&format!("error: T2V_OUTPUT: {full} has something in it already")), "{text}");
    // These go on, to the class file that is not there.
    let others = [path("empty"), path("none"), path("fifo"), "/dev/null".into(), "/dev/stdout".into(), "-".into()];
    for (output, more) in others.iter().map(|output| (output, &[][..])).chain([(&full, &["--overwrite"][..])]) {
        let text = said(output, more);
        assert!(text.contains("no/such/class.json cannot be read"), "{output}: {text}");
    }
    // Standard output into that file, which the shell has begun or goes on with.
    for name in ["-", "/dev/stdout", "/dev/fd/1"] {
        let file = std::fs::OpenOptions::new().append(true).open(&full).expect("open");
        let mut command = sidecar(&["import", "a.jsonl", "--class-file", "no/such/class.json", "--output", name]);
        let output = command.stdout(file).output().expect("the binary runs");
        assert!(String::from_utf8_lossy(&output.stderr).contains("class.json cannot be read"), "{name}: {output:?}");
    }
    assert_eq!(std::fs::read_to_string(&full).expect("a file"), "precious\n");
}

#[test]
fn a_class_file_of_another_collection_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let class = dir.path().join("class.json");
    std::fs::write(&class, r#"{"class": "Article", "vectorizer": "text2vec-transformers"}"#).expect("written");
    let class = class.to_str().expect("a path");
    let said = |collection| {
        let arguments = ["import", "no/such.jsonl", "--class-file", class, "--output", "-", "--collection", collection];
        String::from_utf8_lossy(&run(&mut sidecar(&arguments)).stderr).into_owned()
    };
    assert!(said("Author").contains("--class-file is of Article, and --collection is 'Author'"), "{}", said("Author"));
    assert!(said("article").contains("no/such.jsonl cannot be read"), "{}", said("article"));
}

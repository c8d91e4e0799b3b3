//! What shells and readers of manuals are told: real shells complete by the scripts, and real tools read the pages.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::cli::{run, sidecar};

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// A program, if it is installed; says so where it is not.
fn installed(program: &str) -> Option<Command> {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        println!("skipped: {program} is not installed");
    }
    found.then(|| Command::new(program))
}

fn text(output: Output) -> String {
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && error.is_empty(), "{out}{error}");
    out
}

/// The scripts, by shell, in a directory. They are the same whatever is set.
fn scripts(dir: &Path) {
    for shell in SHELLS {
        let script = text(run(&mut sidecar(&["completions", shell])));
        for word in ["max-text-bytes", "healthcheck"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        let mut command = sidecar(&["completions", shell]);
        let with_secrets =
            command.env("T2V_UPSTREAM_TOKENS", "a=verysecret").env("T2V_UPSTREAM", "http://verysecret@a");
        assert!(text(run(with_secrets)) == script, "{shell}: another script");
        std::fs::write(dir.join(shell), script).expect("write");
    }
}

#[test]
fn real_shells_complete_commands_flags_and_values() {
    let dir = tempfile::tempdir().expect("a directory");
    scripts(dir.path());
    let asked = [
        ("hea", "healthcheck"),
        ("serve --max-text-", "--max-text-bytes"),
        ("--max-text-", "--max-text-bytes"),
        ("compare --upstream-hea", "--upstream-headers"),
        ("completions po", "powershell"),
        ("serve --log-format js", "json"),
    ];
    let mut shells = 0;
    if let Some(mut bash) = installed("bash") {
        text(bash.args(["-n", "bash"]).current_dir(&dir).output().expect("bash"));
        // As readline asks: the words, the place of the one at the cursor, then the command, that word and the one before.
        let ask = r#"source ./bash; COMP_WORDS=(text2vec-sidecar $1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            COMP_LINE="text2vec-sidecar $1"; COMP_POINT=${#COMP_LINE}
            name=$(complete -p text2vec-sidecar | sed 's/.*-F \([^ ]*\) .*/\1/')
            $name text2vec-sidecar "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
        for (words, wanted) in asked {
            let mut command = Command::new("bash");
            let answered = text(command.args(["-c", ask, "bash", words]).current_dir(&dir).output().expect("bash"));
            assert!(answered.lines().any(|line| line == wanted), "bash, {words}: {answered}");
        }
        shells += 1;
    }
    if let Some(mut fish) = installed("fish") {
        text(fish.args(["--no-execute", "fish"]).current_dir(&dir).output().expect("fish"));
        for (words, wanted) in asked {
            let ask = format!("source ./fish; complete -C 'text2vec-sidecar {words}'");
            let mut command = Command::new("fish");
            let answered = command.args(["--no-config", "-c", &ask]).env("HOME", dir.path()).current_dir(&dir).output();
            let answered = text(answered.expect("fish"));
            assert!(answered.lines().any(|line| line.split('\t').next() == Some(wanted)), "fish, {words}: {answered}");
        }
        shells += 1;
    }
    if let Some(mut zsh) = installed("zsh") {
        text(zsh.args(["-n", "zsh"]).current_dir(&dir).output().expect("zsh"));
        for (words, wanted) in asked {
            let answered = in_zsh(dir.path(), words);
            assert!(answered.contains(wanted), "zsh, {words}: {answered}");
        }
        shells += 1;
    }
    if installed("elvish").is_some() {
        // The script without what only a terminal has. It completes no values.
        let script = std::fs::read_to_string(dir.path().join("elvish")).expect("a script");
        let script = script.replace(
            "set edit:completion:arg-completer[text2vec-sidecar] =",
            "fn candidate {|text &display=''| echo $text }\nvar complete =",
        );
        let script = script.replace("edit:complex-candidate", "candidate") + "\n$complete text2vec-sidecar $@args\n";
        std::fs::write(dir.path().join("asked.elv"), script).expect("write");
        for (words, wanted) in &asked[..4] {
            let before = words.split(' ').rev().skip(1).collect::<Vec<_>>();
            let mut command = Command::new("elvish");
            let asked = command.arg("asked.elv").args(before.iter().rev()).arg("").env("HOME", dir.path());
            let answered = text(asked.current_dir(&dir).output().expect("elvish"));
            assert!(answered.lines().any(|line| line == *wanted), "elvish, {words}: {answered}");
        }
        shells += 1;
    }
    if let Some(mut pwsh) = installed("pwsh") {
        let read = "[void][scriptblock]::Create((Get-Content -Raw ./powershell))";
        text(pwsh.args(["-NoProfile", "-Command", read]).current_dir(&dir).output().expect("pwsh"));
        shells += 1;
    }
    println!("{shells} shells");
    assert!(shells > 0, "no shell is here");
}

/// Presses Tab behind these words in a real zsh, on a terminal of its own, and answers what it shows.
fn in_zsh(dir: &Path, words: &str) -> String {
    // What is typed is shown as well: the marks are spelt otherwise there.
    let ask = r"zmodload zsh/zpty
        zpty asked zsh -f -i
        zpty -w asked 'PS1=; autoload -U compinit; compinit -u -D; source ./zsh; compdef _text2vec-sidecar text2vec-sidecar
            zle-line-init() { print be\gin }; zle -N zle-line-init'
        zpty -r asked shown '*begin*'
        zpty -w -n asked text2vec-sidecar' '$1$'\t'
        zpty -w asked $'\C-a\C-kprint the\\end'
        zpty -r asked shown '*theend*'
        print -r -- $shown
        zpty -d asked";
    let mut command = Command::new("timeout");
    let asked = command.args(["60", "zsh", "-f", "-c", ask, "zsh", words]).current_dir(dir).stdin(Stdio::null());
    String::from_utf8_lossy(&asked.output().expect("zsh").stdout).into_owned()
}

#[test]
fn the_pages_are_read_by_real_tools_and_tell_every_flag() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("new/man1");
    let mut command = sidecar(&["man", "--dir", pages.to_str().expect("a path")]);
    let printed = text(run(command.env("T2V_UPSTREAM_TOKENS", "a=verysecret")));
    assert_eq!(printed, "");
    let entries = std::fs::read_dir(&pages).expect("pages").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
    names.sort();
    let subcommands =
        ["-compare", "-completions", "-download", "-embed", "-healthcheck", "-import", "-man", "-serve", ""];
    let expected: Vec<String> = subcommands.iter().map(|name| format!("text2vec-sidecar{name}.1")).collect();
    assert_eq!(names, expected);
    let printed = text(run(&mut sidecar(&["man"])));
    assert!(printed == std::fs::read_to_string(pages.join("text2vec-sidecar.1")).expect("the page"), "two pages");
    let version = concat!("text2vec-sidecar ", env!("CARGO_PKG_VERSION"));
    let mut tools = 0;
    for name in &expected {
        let page = pages.join(name);
        let source = std::fs::read_to_string(&page).expect("a page");
        assert!(!source.contains("verysecret"), "{name}");
        if let Some(mut groff) = installed("groff") {
            let read = groff.args(["-man", "-Tutf8", "-z"]).arg(&page).output().expect("groff");
            let said = String::from_utf8_lossy(&read.stderr);
            assert!(read.status.success() && !said.contains("error"), "{name}: {said}");
            tools += 1;
        }
        if let Some(mut mandoc) = installed("mandoc") {
            // Its warnings are of blank lines and of the date, which is none.
            text(mandoc.args(["-Tlint", "-Werror"]).arg(&page).output().expect("mandoc"));
            tools += 1;
        }
        if let Some(mut man) = installed("man") {
            let shown =
                text(man.arg("-l").arg(&page).env("MANPAGER", "cat").env("LC_ALL", "C.UTF-8").output().expect("man"));
            let title = name.trim_end_matches(".1");
            assert!(shown.contains("NAME") && shown.contains(title), "{name}: {shown}");
            assert!(shown.trim_end().lines().last().is_some_and(|line| line.starts_with(version)), "{name}: {shown}");
            if name == "text2vec-sidecar-serve.1" {
                for word in ["--max-text-bytes", "T2V_MAX_TEXT_BYTES", "--config"] {
                    assert!(shown.contains(word), "no {word} in: {shown}");
                }
            }
            tools += 1;
        }
    }
    println!("{tools} times a tool read a page");
    let taken = dir.path().join("taken");
    std::fs::write(&taken, "").expect("write");
    let refused = run(&mut sidecar(&["man", "--dir", taken.to_str().expect("a path")]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("taken cannot be written into: ") && said.lines().count() == 1, "{said}");
}

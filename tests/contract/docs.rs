//! What the documents quote must be there: messages in the source, files in the repository, headings behind links.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All source text, each string literal on one line as the program says it.
fn source(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            source(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let mut continued = false;
            for line in fs::read_to_string(&path).expect("a source file").lines() {
                let line = if continued { line.trim_start() } else { line };
                continued = line.ends_with('\\');
                text.push_str(line.strip_suffix('\\').unwrap_or(line));
                if !continued {
                    text.push('\n');
                }
            }
        }
    }
}

/// The documents for users and contributors, by their paths in the repository.
fn documents() -> Vec<String> {
    let mut documents =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "deploy/README.md"].map(str::to_owned).to_vec();
    let pages = fs::read_dir(root().join("docs")).expect("docs").map(|entry| entry.expect("an entry").file_name());
    let pages = pages.map(|name| name.into_string().expect("UTF-8")).filter(|name| name.ends_with(".md"));
    documents.extend(pages.map(|name| format!("docs/{name}")));
    documents
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// A document's lines outside of its blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The anchors of a document's headings, as GitHub makes them: small letters, no punctuation, blanks as hyphens, and a
/// number behind the second of the same name.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    let mut seen = HashMap::new();
    for line in prose(text) {
        let title = line.trim_start_matches('#');
        if !(1..=6).contains(&(line.len() - title.len())) || !title.starts_with(' ') {
            continue;
        }
        let title = title.trim().to_lowercase();
        let kept = title.chars().filter(|&c| c.is_alphanumeric() || " -_".contains(c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before = seen.entry(anchor.clone()).or_insert(0);
        anchors.push(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
        *before += 1;
    }
    anchors
}

/// Where the links of a document lead.
fn links(text: &str) -> Vec<String> {
    // A link may go over a line's end, and what is quoted is none.
    let text = prose(text).collect::<Vec<_>>().join("\n");
    let unquoted: String = text.split('`').step_by(2).collect();
    unquoted.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn messages_of_the_troubleshooting_table_are_in_the_source() {
    let mut code = String::new();
    for folder in ["src", "crates"] {
        source(&root().join(folder), &mut code);
    }
    let document = read("deploy/README.md");
    let (_, table) = document.split_once("<!-- messages:").expect("the table's beginning");
    let (table, _) = table.split_once("<!-- end of messages -->").expect("the table's end");
    let mut messages = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let message = row.split(" | ").next().expect("a cell");
        for part in quoted(message) {
            assert!(code.contains(part), "no message says {part:?}");
            messages += 1;
        }
    }
    assert!(messages >= 15, "only {messages} messages");
}

#[test]
fn files_that_the_documents_name_are_there() {
    const FOLDERS: &[&str] = &["benches/", "crates/", "deploy/", "docs/", "examples/", "proto/", "src/", "tests/"];
    let mut files = 0;
    for document in documents() {
        let text = read(&document);
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "./_-".contains(c))) {
            if !FOLDERS.iter().any(|folder| word.starts_with(folder)) {
                continue;
            }
            let word = word.trim_end_matches(['.', '/']);
            assert!(root().join(word).exists(), "{document} names {word}, which is not there");
            files += 1;
        }
    }
    assert!(files >= 100, "the documents name {files} files");
}

#[test]
fn links_of_the_documents_lead_to_files_and_headings() {
    let mut followed = 0;
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
            let here = root().join(&document);
            let path = if file.is_empty() { here } else { here.parent().expect("a folder").join(file) };
            assert!(path.exists(), "{document} links to {link}: there is no such file");
            if let Some(anchor) = anchor {
                let target = fs::read_to_string(&path).expect("a document");
                let found = anchors(&target).iter().any(|heading| heading == anchor);
                assert!(found, "{document} links to {link}: there is no such heading");
            }
            followed += 1;
        }
    }
    assert!(followed >= 40, "only {followed} links");
}

#[test]
fn the_readme_is_short_and_leads_to_every_document() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= 150, "README.md has {lines} lines of at most 150: details belong into docs/");
    let links = links(&readme);
    for document in documents().into_iter().filter(|document| document != "README.md") {
        assert!(links.contains(&document), "README.md has no link to {document}");
    }
}

/// The Makefile names the tiers that it runs: none may be forgotten there or in CONTRIBUTING.md.
#[test]
fn every_tier_is_run_and_described() {
    let (makefile, contributing) = (read("Makefile"), read("CONTRIBUTING.md"));
    let tiers = fs::read_dir(root().join("tests")).expect("tests").map(|entry| entry.expect("an entry").path());
    let tiers: Vec<_> = tiers.filter(|path| path.join("main.rs").is_file() || path.ends_with("cuda.rs")).collect();
    assert!((5..=8).contains(&tiers.len()), "{tiers:?}");
    for tier in tiers {
        let tier = tier.file_stem().and_then(|name| name.to_str()).expect("a name");
        // Lines for a single tier, such as that of `make soak`, set variables first.
        let runs = |line: &str| line.starts_with("\tcargo test") && line.split_whitespace().any(|word| word == tier);
        assert!(makefile.lines().any(runs), "no line of the Makefile runs --test {tier}");
        assert!(
            contributing.contains(&format!("--test {tier}`")),
            "CONTRIBUTING.md does not say what tests/{tier} is for"
        );
    }
}

/// A release has one version: that of the binary, its chart and the newest section of the changelog.
#[test]
fn chart_and_changelog_have_the_version_of_the_binary() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = read("deploy/helm/text2vec-sidecar/Chart.yaml");
    for field in ["version", "appVersion"] {
        let line = format!("{field}: {version}");
        assert!(chart.lines().any(|found| found == line), "Chart.yaml has no line {line:?}");
    }
    let changelog = read("CHANGELOG.md");
    let headings: Vec<_> = prose(&changelog).filter(|line| line.starts_with("## [")).collect();
    assert_eq!(headings.first(), Some(&"## [Unreleased]"), "CHANGELOG.md");
    let released = format!("## [{version}] - ");
    assert!(
        headings[1].starts_with(&released),
        "CHANGELOG.md has {:?} where {released:?} and a date belong",
        headings[1]
    );
}

#[test]
fn anchors_and_links_are_found_as_github_finds_them() {
    let text = "# One\n```\n# none\n```\n## The `a_b` of C, D/E & F\n## One\n#none\n### It's -- so\n";
    assert_eq!(anchors(text), ["one", "the-a_b-of-c-de--f", "one-1", "its----so"]);
    let text = "[a](b.md), [two\nlines](c.md#d), `[no](x)` ![i](e.png)\n```\n[no](x)\n```\n";
    assert_eq!(links(text), ["b.md", "c.md#d", "e.png"]);
}

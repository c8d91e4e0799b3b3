//! What the documents quote must be there: messages in the source, files in the repository.

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

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn messages_of_the_troubleshooting_table_are_in_the_source() {
    let mut code = String::new();
    source(&root().join("src"), &mut code);
    let document = fs::read_to_string(root().join("deploy/README.md")).expect("deploy/README.md");
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
    for document in ["README.md", "deploy/README.md"] {
        let path = root().join(document);
        let text = fs::read_to_string(&path).expect("a document");
        let mut files = 0;
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "./_-".contains(c))) {
            let word = word.trim_end_matches(['.', '/']);
            if word.starts_with("deploy/") || word.starts_with("tests/") || word.starts_with("benches/") {
                assert!(root().join(word).exists(), "{document} names {word}, which is not there");
                files += 1;
            }
        }
        assert!(files >= 5, "{document} names {files} files");
    }
}

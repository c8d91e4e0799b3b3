//! No two files import each other: whoever reads one of them would have to know both. `mod.rs` and `lib.rs` count as files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module's path within its crate.
type Module = Vec<String>;

/// The files of a crate by their module, without tests and comments.
fn files(folder: &Path, at: &Module, found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let mut module = at.clone();
        if !["mod", "lib"].contains(&&*name) {
            module.push(name.clone());
        }
        if path.is_dir() {
            files(&path, &module, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !["main", "tests"].contains(&&*name) {
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code: Vec<_> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            found.insert(module, code.join("\n"));
        }
    }
}

/// The paths of a `use`: `a::{b, c::{d, e}}` names three.
fn paths(tree: &str, before: &str, named: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        named.push(format!("{before}{}", tree.split(" as ").next().unwrap_or_default()));
        return;
    };
    let inside = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inside[start..at].trim().is_empty() {
                    paths(&inside[start..at], &format!("{before}{}", prefix.trim()), named);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Every path that a file names, in `use` or on its way.
fn named(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in code.match_indices("use ") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        if let Some((tree, _)) = code[at + 4..].split_once(';') {
            paths(tree, "", &mut named);
        }
    }
    for (at, _) in code.match_indices("::") {
        // The first word of a path, with all that follows.
        let start = code[..at]
            .rfind(|c| !is_word(c))
            .map_or(0, |before| before + code[before..].chars().next().map_or(1, char::len_utf8));
        if start < at && !code[..start].ends_with("::") {
            let end = code[at..].find(|c: char| !is_word(c) && c != ':').map_or(code.len(), |length| at + length);
            // Of `use a::{…}` each path was named above.
            if !code[start..end].ends_with(':') {
                named.push(code[start..end].to_owned());
            }
        }
    }
    named
}

/// The file that a path leads to, seen from a module.
fn target(path: &str, from: &Module, files: &BTreeMap<Module, String>) -> Option<Module> {
    let mut parts = path.split("::").map(str::trim).peekable();
    let mut at = match *parts.peek()? {
        "crate" => Vec::new(),
        "self" | "super" => from.clone(),
        first => {
            let child = [&from[..], &[first.to_owned()]].concat();
            return files.contains_key(&child).then_some(child);
        }
    };
    while let Some(step) = parts.next_if(|part| ["crate", "self", "super"].contains(part)) {
        if step == "super" {
            at.pop();
        }
    }
    for part in parts {
        let below = [&at[..], &[part.to_owned()]].concat();
        if !files.contains_key(&below) {
            break;
        }
        at = below;
    }
    (files.contains_key(&at) && at != *from).then_some(at)
}

#[test]
fn no_two_files_import_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, least) in [("src", 100), ("crates/engine/src", 30), ("crates/gpu/src", 10), ("crates/kernel/src", 40)]
    {
        let mut found = BTreeMap::new();
        files(&root.join(folder), &Vec::new(), &mut found);
        assert!(found.len() >= least, "{folder}: only {} files", found.len());
        let known: BTreeMap<&Module, BTreeSet<Module>> = found
            .iter()
            .map(|(module, code)| {
                (module, named(code).iter().filter_map(|path| target(path, module, &found)).collect())
            })
            .collect();
        let imports: usize = known.values().map(BTreeSet::len).sum();
        assert!(imports > 2 * least, "{folder}: only {imports} imports were found");
        let mutual: Vec<_> = known
            .iter()
            .flat_map(|(module, others)| others.iter().map(move |other| (*module, other)))
            .filter(|(module, other)| module < other && known.get(other).is_some_and(|back| back.contains(*module)))
            .map(|(module, other)| format!("{} and {}", module.join("::"), other.join("::")))
            .collect();
        assert!(mutual.is_empty(), "{folder}: files that import each other: {}", mutual.join(", "));
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let mut tree = Vec::new();
    paths("super::{a::{B, c::D}, E as F, g}", "", &mut tree);
    assert_eq!(tree, ["super::a::B", "super::a::c::D", "super::E", "super::g"]);
    let found = named("use crate::one::Two;\nfn f() -> super::three::Four { five::six() }");
    for path in ["crate::one::Two", "super::three::Four", "five::six"] {
        assert!(found.iter().any(|found| found == path), "{path} is not among {found:?}");
    }
    let module = |path: &str| path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect::<Module>();
    let files: BTreeMap<Module, String> =
        ["", "a", "a::b", "c"].into_iter().map(|path| (module(path), String::new())).collect();
    assert_eq!(target("crate::a::b::X", &module("c"), &files), Some(module("a::b")));
    assert_eq!(target("super::c::X", &module("a"), &files), Some(module("c")));
    assert_eq!(target("super::X", &module("a::b"), &files), Some(module("a")));
    assert_eq!(target("b::x", &module("a"), &files), Some(module("a::b")));
    assert_eq!(target("std::x", &module("a"), &files), None);
}

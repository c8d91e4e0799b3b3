//! Who may know whom: a rule that is not checked is a wish. `src/lib.rs` tells what each module is for.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of this crate, by path, and which others each may name. The longest matching path counts.
const ARROWS: &[(&str, &[&str])] = &[
    ("main.rs", &["app", "config"]),
    ("lib.rs", &[]),
    ("compare.rs", &["backend", "contract", "error"]),
    ("small_file.rs", &[]),
    (
        "app/",
        &["backend", "cache", "compare", "config", "contract", "error", "model", "server", "small_file", "telemetry"],
    ),
    ("config.rs", &["config"]),
    ("config/", &["backend", "cache", "config", "contract", "error", "model", "server", "small_file", "telemetry"]),
    ("server/", &["backend", "contract", "error", "proto", "server", "small_file", "telemetry"]),
    ("cache/", &["backend", "contract", "error", "telemetry"]),
    ("backend/", &["backend", "contract", "error", "hex", "model", "telemetry"]),
    ("backend/remote/", &["backend", "contract", "error", "hex", "small_file", "telemetry"]),
    ("backend/remote/formats/sidecar.rs", &["backend", "contract", "error", "proto"]),
    ("model/", &["contract", "error", "hex", "model", "small_file"]),
    ("contract/", &["contract", "error"]),
    ("telemetry/", &["contract"]),
    ("error.rs", &[]),
    ("hex.rs", &[]),
];

/// Foreign crates, and the only places that may name each.
const FOREIGN: &[(&str, &[&str])] = &[
    ("axum", &["server/"]),
    ("base64", &["server/access.rs", "server/http/written.rs", "backend/remote/"]),
    ("hyper", &["server/"]),
    ("hyper_util", &["server/"]),
    ("tonic", &["server/", "lib.rs", "backend/remote/formats/sidecar.rs"]),
    ("tower", &["server/"]),
    ("tower_http", &["server/cors.rs"]),
    ("flate2", &["server/decoding.rs"]),
    ("percent_encoding", &["server/"]),
    // Descriptions stand beside what is sent: types that are answered are described where they are.
    ("utoipa", &["server/http/", "backend/meta.rs", "telemetry/metrics/mod.rs", "model/tokenizer/text.rs"]),
    ("prost_types", &["server/"]),
    ("tokenizers", &["model/tokenizer/"]),
    ("prost", &["model/tokenizer/sentencepiece.rs", "lib.rs", "server/grpc/"]),
    ("reqwest", &["model/hub/", "app/", "backend/remote/", "telemetry/otlp.rs"]),
    ("subtle", &["server/access.rs"]),
    ("tokio_rustls", &["server/tls.rs", "server/connection/"]),
    ("moka", &["cache/store.rs", "server/classes.rs"]),
    ("rlimit", &["app/"]),
    ("clap_complete", &["app/documents.rs", "config/args.rs"]),
    ("sd_notify", &["app/notify.rs"]),
    ("clap_mangen", &["app/documents.rs"]),
    ("toml", &["config/file.rs"]),
    ("indicatif", &["model/hub/", "app/"]),
    ("tracing_subscriber", &["telemetry/"]),
    ("tracing_opentelemetry", &["telemetry/"]),
    ("opentelemetry", &["telemetry/"]),
    ("opentelemetry_otlp", &["telemetry/otlp.rs"]),
    ("opentelemetry_sdk", &["telemetry/"]),
    ("text2vec_import", &["config/import.rs", "app/import.rs"]),
    ("text2vec_kernel", &["backend/local/", "config/", "error.rs", "server/freed.rs", "app/"]),
    ("text2vec_engine", &["backend/local/", "backend/scoring.rs", "model/", "config/", "app/"]),
];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below src").to_str().expect("UTF-8").to_owned();
        // Tests may know more; comments are not code.
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        (name, code)
    };
    paths.into_iter().map(read).collect()
}

/// The names that follow `prefix` wherever it stands as a path's beginning.
fn names_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.split(prefix).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn modules_name_only_those_they_may_know() {
    let sources = sources();
    assert!(sources.len() > 40, "only {} files", sources.len());
    for (file, code) in &sources {
        let rule = ARROWS.iter().filter(|(place, _)| file.starts_with(place)).max_by_key(|(place, _)| place.len());
        let (_, allowed) = rule.unwrap_or_else(|| panic!("{file} has no rule: say whom it may know"));
        for name in names_after(code, "crate::") {
            assert!(allowed.contains(&name), "{file} names crate::{name}");
        }
    }
}

#[test]
fn foreign_crates_stay_behind_their_module() {
    for (file, code) in sources() {
        for (name, places) in FOREIGN {
            let named = code
                .split(&format!("{name}::"))
                .zip(code.split(&format!("{name}::")).skip(1))
                .any(|(before, _)| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
            assert!(!named || places.iter().any(|place| file.starts_with(place)), "{file} names {name}");
        }
    }
}

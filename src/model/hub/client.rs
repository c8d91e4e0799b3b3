//! Talking to the Hub: its list of a model's files, redirects, and what it means when it refuses.

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION, RANGE};
use reqwest::{Client, Method, NoProxy, Proxy, Response, StatusCode, Url};
use serde::Deserialize;

use super::config::HubConfig;
use super::files::{RepoFile, needed, weight_format};
use super::names::{is_commit, is_plain_name, is_sha256};
use crate::error::{Error, ErrorKind, Result};

const MAX_REDIRECTS: usize = 10;

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
pub(super) struct Hub<'a> {
    client: Client,
    base: Url,
    pub(super) id: &'a str,
    pub(super) revision: &'a str,
    pub(super) config: &'a HubConfig,
}

/// The last answer of a chain of redirects, and what the Hub itself said on the way.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) etag: Option<String>,
    pub(super) size: Option<u64>,
}

/// Why a transfer stopped, and whether trying again may help.
pub(super) enum Failure {
    Passing(Error),
    Final(Error),
}

impl<'a> Hub<'a> {
    pub(super) fn new(id: &'a str, revision: &'a str, config: &'a HubConfig) -> Result<Self> {
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
    pub(super) async fn list(&self) -> Result<(String, Vec<RepoFile>)> {
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
    pub(super) async fn ask(&self, method: Method, mut url: Url, from: u64) -> Result<Answer, Failure> {
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

    pub(super) fn file_url(&self, commit: &str, name: &str) -> Url {
        let mut segments: Vec<&str> = self.id.split('/').collect();
        segments.extend(["resolve", commit]);
        segments.extend(name.split('/'));
        self.url(&segments)
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
            // Without a code: the words are all there is.
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
    pub(super) fn broken(&self, error: reqwest::Error) -> Failure {
        let connect = error.is_connect();
        let detail = one_line(&error.without_url());
        if connect {
            // Not worth repeating: an unreachable Hub should cost seconds.
            return Failure::Final(self.unavailable(format!("cannot be reached ({detail})")));
        }
        self.failed(format!("broke off ({detail})"))
    }

    pub(super) async fn pause(&self, attempt: u32) {
        tokio::time::sleep(self.config.retry_pause * 2_u32.pow(attempt - 1)).await;
    }

    pub(super) fn failed(&self, what: String) -> Failure {
        Failure::Passing(self.unavailable(what))
    }

    pub(super) fn unavailable(&self, what: String) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "{} {what}: check the network and HF_ENDPOINT or HTTPS_PROXY, or give a directory that holds the model",
                self.config.endpoint
            ),
        )
    }
}

/// A header's value, if it is text.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// An error of another crate and its causes on one line: some texts have their cause's in them, others do not.
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

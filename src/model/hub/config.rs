//! Where the Hub and its cache are, by the environment variables of Python's `huggingface_hub`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::error::{Error, Result};
use crate::small_file;

const PUBLIC_ENDPOINT: &str = "https://huggingface.co";

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

// Written by hand, as the next one: the token and passwords inside proxy URLs must not reach a log.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("except", &self.except)
            .finish()
    }
}

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
    /// `Config` naming the variable that cannot be used.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The same from any source of variables; an empty value counts as unset.
    ///
    /// # Errors
    /// `Config` naming the variable that cannot be used.
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
            .or_else(|| small_file::read_text(&token_file?).ok())
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
    /// `Config` when nothing says where it is.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::ErrorKind;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig> {
        HubConfig::from_vars(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
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
}

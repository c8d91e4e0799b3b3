//! Which model or URL serves passages and queries.
//!
//! Sources: `modules/text2vec-transformers/module.go` (environment), `usecases/modulecomponents/clients/transformers`
//! (`url_builder`, precedence of class URLs). One rule is ours: with no variable set Weaviate refuses to start, while
//! this sidecar has a model of its own and uses that.

use super::class::Settings;
use super::request::Task;
use crate::error::{Error, Result};

/// What a model's name follows, in the path of a URL.
const MODELS: &str = "/models/";

/// Base URLs of the inference services named by the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferenceUrls {
    /// For objects.
    pub passage: String,
    /// For everything else.
    pub query: String,
}

/// Where a text is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// By this sidecar's default model.
    Local,
    /// By this sidecar's model of this name, as the URL has it (percent-encoded, perhaps): the URL is one of its own, with
    /// `/models/<name>` behind.
    Model(&'a str),
    /// By the service with this base URL, as written; nothing is trimmed or checked.
    Remote(&'a str),
}

/// What the operator configured; with a class's [`Settings`] it says where a text is embedded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoints {
    environment: Option<InferenceUrls>,
    own_urls: Vec<String>,
}

impl InferenceUrls {
    /// Reads `TRANSFORMERS_INFERENCE_API`, `TRANSFORMERS_PASSAGE_INFERENCE_API` and `TRANSFORMERS_QUERY_INFERENCE_API`,
    /// in this order; an empty value is an unset variable. `None`: none is set, the local model serves.
    ///
    /// # Errors
    /// `Config`, in Weaviate's words (which puts `init vectorizer: ` in front), if both the common variable and one of
    /// the pair are set, or only one of the pair.
    pub fn from_environment(common: &str, passage: &str, query: &str) -> Result<Option<InferenceUrls>> {
        let pair = |passage: &str, query: &str| Some(InferenceUrls { passage: passage.into(), query: query.into() });
        match (common, passage, query) {
            ("", "", "") => Ok(None),
            ("", _, "") => Err(Error::config("required variable TRANSFORMERS_QUERY_INFERENCE_API is not set")),
            ("", "", _) => Err(Error::config("required variable TRANSFORMERS_PASSAGE_INFERENCE_API is not set")),
            ("", passage, query) => Ok(pair(passage, query)),
            (common, "", "") => Ok(pair(common, common)),
            _ => Err(Error::config(
                "either variable TRANSFORMERS_INFERENCE_API or both variables TRANSFORMERS_PASSAGE_INFERENCE_API and \
                 TRANSFORMERS_QUERY_INFERENCE_API should be set",
            )),
        }
    }

    /// Whether both tasks have the same service: equal as text.
    pub fn is_one_service(&self) -> bool {
        self.passage == self.query
    }
}

impl Endpoints {
    /// `own_urls`: a comma-separated list of base URLs that name this sidecar itself (`T2V_SELF_URLS`). Blanks around
    /// them and slashes at their ends do not count, nor do user-info and the letter case of scheme and host.
    pub fn new(environment: Option<InferenceUrls>, own_urls: &str) -> Endpoints {
        let own_urls = own_urls.split(',').map(comparable).filter(|url| !url.is_empty()).collect();
        Endpoints { environment, own_urls }
    }

    /// What the environment named: the services whose meta and readiness count. Class URLs never do.
    pub fn environment(&self) -> Option<&InferenceUrls> {
        self.environment.as_ref()
    }

    /// Whether this is the URL, as text, that the environment has for the task.
    pub fn is_environment(&self, url: &str, task: Task) -> bool {
        self.environment.as_ref().is_some_and(|urls| match task {
            Task::Passage => urls.passage == url,
            Task::Query => urls.query == url,
        })
    }

    /// Where texts of a task go: the class's common URL, else its URL for the task, else the environment's, else local.
    /// Each side falls back on its own. A URL that names this sidecar is local.
    pub fn resolve<'a>(&'a self, settings: &'a Settings, task: Task) -> Endpoint<'a> {
        let of_task = match task {
            Task::Passage => &settings.passage_inference_url,
            Task::Query => &settings.query_inference_url,
        };
        let of_environment = self.environment.as_ref().map_or("", |urls| match task {
            Task::Passage => &urls.passage,
            Task::Query => &urls.query,
        });
        match [&settings.inference_url, of_task, of_environment].into_iter().find(|url| !url.is_empty()) {
            Some(url) => self.classify(url),
            None => Endpoint::Local,
        }
    }
}

impl Endpoints {
    /// Whether a base URL is this sidecar, one of its models, or another service.
    fn classify<'a>(&self, url: &'a str) -> Endpoint<'a> {
        let is_own = |url: &str| self.own_urls.contains(&comparable(url));
        let plain = url.trim().trim_end_matches('/');
        // A base may have such a path itself, and so may a model's name.
        let mut below = plain.match_indices(MODELS).map(|(at, _)| (&plain[..at], &plain[at + MODELS.len()..]));
        match below.find(|(base, _)| is_own(base)) {
            _ if is_own(url) => Endpoint::Local,
            Some((_, name)) if !name.is_empty() && !name.contains(['?', '#']) => Endpoint::Model(name),
            _ => Endpoint::Remote(url),
        }
    }
}

/// The URL of a request: base and path put together as they are, so a trailing slash gives two.
pub fn request_url(base: &str, path: &str) -> String {
    format!("{base}{path}")
}

/// Weaviate's reading of its switches (`LOWERCASE_VECTORIZATION_INPUT`, …): on, enabled, 1 or true in any letter case;
/// every other text, blanks included, is off.
pub fn enabled(value: &str) -> bool {
    ["on", "enabled", "1", "true"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Equal for URLs that name the same service as far as the text can tell.
fn comparable(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    let (scheme, rest) = url.split_at(url.find("://").map_or(0, |at| at + 3));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    // A token for this very sidecar, say: Weaviate has no other place for it.
    let host = authority.rsplit('@').next().unwrap_or_default();
    scheme.to_ascii_lowercase() + &host.to_ascii_lowercase() + path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_names_this_sidecar_is_local() {
        let endpoints = Endpoints::new(None, " http://T2V:8080/ ,https://x/Base,, ");
        let at = |url: &str| {
            let settings = Settings { inference_url: url.to_owned(), ..Settings::default() };
            matches!(endpoints.resolve(&settings, Task::Query), Endpoint::Local)
        };
        for url in [
            "",
            "http://t2v:8080",
            "http://t2v:8080//",
            "HTTP://t2v:8080",
            "https://X/Base/",
            "http://any:token@t2v:8080",
            "http://any:to@ken@t2v:8080/",
        ] {
            assert!(at(url), "{url}");
        }
        for url in [
            "http://t2v:8081",
            "http://t2v:8080/base",
            "https://x/base",
            "t2v:8080",
            " ",
            "http://other/@t2v:8080",
            "http://other\\@t2v:8080",
            "http://other?@t2v:8080",
            "http://t2v:8080@other",
        ] {
            assert!(!at(url), "{url}");
        }
    }

    #[test]
    fn a_url_that_names_a_model_of_this_sidecar_is_that_model() {
        let endpoints = Endpoints::new(None, "http://t2v:8080,https://x/base");
        let at = |url: &str| {
            let settings = Settings { inference_url: url.to_owned(), ..Settings::default() };
            match endpoints.resolve(&settings, Task::Passage) {
                Endpoint::Model(name) => Some(name.to_owned()),
                Endpoint::Local | Endpoint::Remote(_) => None,
            }
        };
        for url in ["http://t2v:8080/models/bge", "http://T2V:8080/models/bge/", "https://x/base/models/bge"] {
            assert_eq!(at(url).as_deref(), Some("bge"), "{url}");
        }
        assert_eq!(at("http://t2v:8080/models/BAAI/bge").as_deref(), Some("BAAI/bge"));
        assert_eq!(at("http://t2v:8080/models/a/models/b").as_deref(), Some("a/models/b"));
        for url in
            ["http://t2v:8080/models/", "http://t2v:8080/models/a?b", "http://other/models/bge", "http://t2v:8080"]
        {
            assert_eq!(at(url), None, "{url}");
        }
    }

    #[test]
    fn an_environment_that_names_this_sidecar_is_local_too() {
        let urls = InferenceUrls::from_environment("", "http://me:1", "http://other:1").unwrap();
        let endpoints = Endpoints::new(urls, "http://me:1");
        assert_eq!(endpoints.resolve(&Settings::default(), Task::Passage), Endpoint::Local);
        assert_eq!(endpoints.resolve(&Settings::default(), Task::Query), Endpoint::Remote("http://other:1"));
    }

    #[test]
    fn four_words_are_on() {
        for word in ["on", "ON", "enabled", "Enabled", "1", "true", "TRUE"] {
            assert!(enabled(word), "{word}");
        }
        for word in ["", "yes", "false", "0", " true", "true ", "t", "11", "ｏｎ"] {
            assert!(!enabled(word), "{word}");
        }
    }
}

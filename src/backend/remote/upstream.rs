//! The backend that asks another server: its texts checked, its model named, its meta told.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use super::batch::Learned;
use super::formats::{self, Format, Models};
use super::identity::{self, UNNAMED};
use super::pool::Pool;
use super::sending::Sending;
use crate::backend::meta::theirs::Theirs;
use crate::backend::meta::{Meta, Served, Subject, UpstreamReport};
use crate::backend::{Backend, Embedding, ModelInfo};
use crate::contract::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::{Report, Source, UpstreamModel};

/// Models of one upstream that are served under their own names: what else it lists can be named in its URL.
const MODELS: usize = 64;

/// Lengths of vectors remembered: one for each `dimensions` that was asked for.
const LENGTHS: usize = 64;

/// A backend that asks another server. See [`remote`](super).
pub struct Remote {
    pool: Arc<Pool>,
    format: OnceCell<Box<dyn Format>>,
    /// Of the upstream, not of a replica: all of them serve one model.
    lengths: Mutex<HashMap<Option<i64>, usize>>,
    /// How much it takes at once.
    learned: Learned,
    total_timeout: Duration,
    info: ModelInfo,
    /// What the upstream's meta was at start.
    meta: Theirs,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.format.get();
        f.debug_struct("Remote")
            .field("pool", &self.pool)
            .field("format", &format)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// An upstream of which nothing is known yet but what its URL says. The URL is the operator's own matter and no name:
    /// names go to every caller.
    pub(super) fn new(pool: Arc<Pool>, format: Option<Box<dyn Format>>, fingerprint: String) -> Remote {
        let info = ModelInfo { name: UNNAMED.to_owned(), fingerprint, dimensions: None, ..ModelInfo::default() };
        Remote {
            total_timeout: pool.options().total_timeout,
            pool,
            format: OnceCell::new_with(format),
            lengths: Mutex::default(),
            learned: Learned::default(),
            info,
            meta: Theirs::default(),
        }
    }

    /// The same upstream under the name of its model.
    pub(super) fn named_as(mut self, name: String) -> Remote {
        self.info.name = name;
        self
    }

    /// The same upstream with what it said of itself at start.
    pub(super) fn with_meta(mut self, meta: Theirs) -> Remote {
        self.meta = meta;
        self
    }

    /// The same upstream with the length of its full vectors.
    pub(super) fn with_dimensions(mut self, dimensions: usize) -> Remote {
        self.info.dimensions = Some(dimensions);
        self
    }

    /// What speaks there, once it is known.
    pub(super) fn found(&self) -> Option<&dyn Format> {
        self.format.get().map(|format| &**format)
    }

    /// Whether the upstream says what its model is called.
    pub fn names_its_model(&self) -> bool {
        self.info.name != UNNAMED
    }

    /// The names that the upstream's models have there, each with the backend that asks for it; the first is this one's
    /// where it has another name. Nothing is asked or embedded for it.
    pub fn models(self: &Arc<Self>) -> Vec<(String, Arc<Remote>)> {
        let Models { own, others } = self.found().map(|format| format.models(&self.meta)).unwrap_or_default();
        let own = own.into_iter().map(|name| Some((name, self.clone())));
        let others = others.into_iter().map(|name| self.of_model(&name).map(|remote| (name, remote)));
        own.chain(others).flatten().filter(|(name, _)| *name != self.info.name).take(MODELS).collect()
    }

    /// The same upstream, asked for another of its models.
    fn of_model(&self, name: &str) -> Option<Arc<Remote>> {
        let (pool, format) = self.found()?.of_model(&self.pool, name)?;
        let fingerprint = identity::fingerprint(&format!("{name} of {}", self.info.fingerprint), &Theirs::default());
        Some(Arc::new(Remote::new(pool, Some(format), fingerprint).named_as(name.to_owned())))
    }

    /// What speaks there; found out now if it could not be at start.
    async fn format(&self) -> Result<&dyn Format> {
        Ok(&**self.format.get_or_try_init(|| formats::detect(&self.pool)).await?)
    }

    async fn embed_all(&self, call: &Call) -> Result<Vec<Result<Embedding>>> {
        let settings = match call.to_embed() {
            Some(settings) => settings,
            None => return self.info.reranks().map(|_| Vec::new()),
        };
        let sending = Sending {
            pool: &self.pool,
            format: self.format().await.map_err(|error| self.named(error))?,
            learned: &self.learned,
            call,
            settings,
            dimensions: self.info.dimensions,
            deadline: call.deadline.unwrap_or_else(|| Instant::now() + self.total_timeout),
        };
        let results = sending.answers().await;
        let missing = || Err(Error::internal("the upstream gave no answer for the text"));
        let results: Vec<Result<Embedding>> = results
            .into_iter()
            .map(|result| {
                let checked = result.unwrap_or_else(missing);
                let checked = checked.and_then(|embedding| self.checked(embedding, settings.dimensions));
                checked.map_err(|error| self.named(error))
            })
            .collect();
        // When nothing succeeded and no text is to blame, it is the call that failed.
        let of_the_call = |result: &Result<Embedding>| match result {
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge),
        };
        if results.iter().all(of_the_call)
            && let Some(Err(error)) = results.first()
        {
            return Err(error.clone());
        }
        Ok(results)
    }

    /// Lets through only what can be a vector of this upstream: some finite numbers, as many as always where so many
    /// `dimensions` were asked for.
    fn checked(&self, embedding: Embedding, dimensions: Option<i64>) -> Result<Embedding> {
        let vector = &embedding.vector;
        let wrong = |text: String| Err(Error::new(ErrorKind::Upstream, text));
        if vector.is_empty() {
            return wrong("an empty vector".to_owned());
        }
        if let Some(position) = vector.iter().position(|value| !value.is_finite()) {
            return wrong(format!("the vector has {} at position {position}", vector[position]));
        }
        let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lengths.get(&dimensions).copied();
        match known {
            Some(length) if length != vector.len() => wrong(format!(
                "the vector has {} dimensions, before they were {length}: if the model there was changed, import again and \
                 restart this sidecar",
                vector.len()
            )),
            Some(_) => Ok(embedding),
            None => {
                if lengths.len() < LENGTHS {
                    lengths.insert(dimensions, vector.len());
                }
                drop(lengths);
                Ok(embedding)
            }
        }
    }

    /// The error with the upstream's name, if its text has none yet. Once for each error.
    fn named(&self, error: Error) -> Error {
        let place = self.pool.place();
        match error.place() {
            None => error.at(place),
            Some(named) if *named == place || *named == self.pool.address().place() => error,
            // A file, or a replica behind another URL than the first: whose it is is told beside it.
            Some(_) => error.telling(&place),
        }
    }

    /// What the upstream says, and what is known of it here; what a sidecar there says of itself goes into the latter.
    fn with_report(&self, mut meta: Theirs) -> Meta {
        let sidecar = meta.fields.remove("sidecar");
        let kind = self.found().map(|format| format.kind().name);
        let upstream = UpstreamReport { url: self.pool.shown(), kind, replicas: self.pool.report(), sidecar };
        Meta::of(Subject::Upstream(meta), Served::Upstream { upstream, fingerprint: self.info.fingerprint.clone() })
    }
}

impl Backend for Remote {
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        Box::pin(async move { if call.texts.is_empty() { Ok(Vec::new()) } else { self.embed_all(&call).await } })
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// As it was at start.
    fn meta(&self) -> Meta {
        self.with_report(self.meta.clone())
    }

    /// As the upstream has it now.
    fn live_meta(&self) -> BoxFuture<'_, Result<Option<Meta>>> {
        Box::pin(async move {
            let format = self.format().await?;
            Ok(format.meta(&self.pool).await?.map(|meta| self.with_report(meta)))
        })
    }
}

impl Source for Remote {
    fn report(&self, to: &mut Report) {
        let theirs = self.meta.said.sidecar.as_ref();
        let known = self.lengths.lock().unwrap_or_else(PoisonError::into_inner).get(&None).copied();
        to.upstream(UpstreamModel {
            // The operator's own page: upstreams without names are told apart by their URLs.
            name: if self.names_its_model() { self.info.name.clone() } else { self.pool.shown() },
            profile: theirs.and_then(|theirs| theirs.profile.clone()).unwrap_or_default(),
            dimensions: known,
            dtype: theirs.and_then(|theirs| theirs.precision.clone()).unwrap_or_default(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::remote::address;
    use crate::backend::remote::options::RemoteOptions;
    use crate::error::Place;

    #[test]
    fn an_error_s_text_names_the_upstream_once() {
        let (first, both) = ("http://a:1/x", "http://a:1/x,http://b:2");
        let addresses = address::parse_list("http://user:pw@a:1/x?k=v,http://b:2").expect("addresses");
        let remote = Remote::new(Pool::new(addresses, None, RemoteOptions::default()), None, String::new());
        let upstream = |url: &str| Some(Place::Upstream(url.to_owned()));
        let file = || Place::File("/token".into());
        for (message, place, told, noted) in [
            ("an empty vector", None, true, upstream(both)),
            ("Post \"http://a:1/x/vectors\": refused", upstream(first), false, upstream(first)),
            ("upstream http://a:1/x,http://b:2: no replica", upstream(both), false, upstream(both)),
            // Which upstream it is a replica of is not in its URL.
            ("Post \"http://b:2/vectors\": refused", upstream("http://b:2"), true, upstream("http://b:2")),
            ("the token file /token cannot be read", Some(file()), true, Some(file())),
            // What another server says is no place, whatever is in it.
            ("fail with status 500: http://a:1/x is asleep", None, true, upstream(both)),
        ] {
            let error = Error::new(ErrorKind::Upstream, message);
            let error = remote.named(place.into_iter().fold(error, Error::naming));
            let tail = if told { format!(" (upstream {both})") } else { String::new() };
            assert_eq!(error.message(), format!("{message}{tail}"));
            assert_eq!(error.place(), noted.as_ref(), "{message}");
        }
    }
}

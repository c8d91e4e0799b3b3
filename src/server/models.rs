//! The models served: their names, and how far each of them is. Readiness is made of this.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::metrics;

/// How often backends are looked at. Whoever asks whether the server is ready is told what holds at that moment.
const INTERVAL: Duration = Duration::from_secs(1);

/// The models of a server and its readiness, shared by every surface. A model goes from loading to ready; the server is
/// ready when all its models are, and draining once it is told to stop.
#[derive(Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness").finish_non_exhaustive()
    }
}

/// What changes.
pub(super) struct State {
    /// The first is the default.
    models: Vec<Model>,
    draining: bool,
}

struct Model {
    /// As the operator named it; without one, the backend's own name counts.
    name: Option<String>,
    /// There once it is loaded and warmed.
    backend: Option<Arc<dyn Backend>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness::of([None])
    }
}

impl Readiness {
    /// A server of these models, none of them ready. The first is the default; one without a name is called as its
    /// backend calls itself. Names are unique.
    pub fn of(names: impl IntoIterator<Item = Option<String>>) -> Readiness {
        let models = names.into_iter().map(|name| Model { name, backend: None }).collect();
        Readiness { state: Arc::new(watch::Sender::new(State { models, draining: false })) }
    }

    /// The default model is loaded and warmed.
    pub fn ready(&self, backend: Arc<dyn Backend>) {
        self.model_ready(0, backend);
    }

    /// The model at this place is loaded and warmed.
    pub fn model_ready(&self, place: usize, backend: Arc<dyn Backend>) {
        self.state.send_modify(|state| {
            if let Some(model) = state.models.get_mut(place) {
                model.backend = Some(backend);
            }
            state.tell();
        });
    }

    /// Serves a model under one more name, unless there is a model of that name. It is ready.
    pub fn also(&self, name: String, backend: Arc<dyn Backend>) {
        self.state.send_modify(|state| {
            if state.models.iter().all(|model| model.label() != name) {
                state.models.push(Model { name: Some(name), backend: Some(backend) });
            }
        });
    }

    /// No longer ready; requests that still arrive are served.
    pub fn draining(&self) {
        self.state.send_modify(|state| {
            state.draining = true;
            state.tell();
        });
    }

    /// Why a backend will not embed anything until the process is started again; `None`: each is well.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.borrow().models.iter().find_map(Model::trouble)
    }

    /// Looks now and then, for ever, whether a backend has come into trouble, and tells those who follow.
    pub(super) async fn look_after(self) {
        let mut told = false;
        loop {
            tokio::time::sleep(INTERVAL).await;
            if !told && let Some(trouble) = self.trouble() {
                told = true;
                tracing::error!("no longer ready: {trouble}");
                self.state.send_modify(|state| state.tell());
            }
        }
    }

    /// Why the server is not ready, or `None` when it is.
    pub(super) fn reason(&self) -> Option<String> {
        let state = self.state.borrow();
        state.models.iter().find_map(Model::missing).or_else(|| state.shutting_down())
    }

    /// Why a model is not ready, or `None` when it is. Others may still be loading.
    pub(super) fn reason_for(&self, model: Option<&str>) -> Option<String> {
        let state = self.state.borrow();
        match state.model(model) {
            Ok(model) => model.missing().or_else(|| state.shutting_down()),
            Err(error) => Some(error.message().to_owned()),
        }
    }

    /// The backend of a model; `None` is the default one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] while it is loaded, [`ErrorKind::NotFound`], naming those there are, for another name.
    pub(super) fn backend(&self, model: Option<&str>) -> Result<Arc<dyn Backend>> {
        let state = self.state.borrow();
        let model = state.model(model)?;
        let not_ready = || not_ready(&model.missing().unwrap_or_default());
        model.backend.clone().ok_or_else(not_ready)
    }

    /// The models that are ready under every name they are found by, the default one first.
    pub(super) fn names(&self) -> Vec<(String, Arc<dyn Backend>)> {
        let state = self.state.borrow();
        let mut names: Vec<(String, Arc<dyn Backend>)> = Vec::new();
        for model in &state.models {
            let Some(backend) = &model.backend else { continue };
            for name in model.names() {
                // A name that another model was given is that one's.
                let is_this = state.model(Some(&name)).is_ok_and(|found| std::ptr::eq(found, model));
                if is_this && names.iter().all(|(known, _)| *known != name) {
                    names.push((name, backend.clone()));
                }
            }
        }
        names
    }

    /// The models that are ready, each under the name it is listed by.
    pub fn listed(&self) -> Vec<(String, Arc<dyn Backend>)> {
        let entry = |model: &Model| model.backend.clone().map(|backend| (model.label(), backend));
        self.state.borrow().models.iter().filter_map(entry).collect()
    }

    /// Whether the server is stopping.
    pub(super) fn is_draining(&self) -> bool {
        self.state.borrow().draining
    }

    /// Tells of changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

impl State {
    fn model(&self, name: Option<&str>) -> Result<&Model> {
        let Some(name) = name else {
            return self.models.first().ok_or_else(|| Error::internal("a server without a model"));
        };
        // What the operator chose goes before what a model calls itself.
        let named = self.models.iter().find(|model| model.name.as_deref() == Some(name));
        if let Some(model) = named.or_else(|| self.models.iter().find(|model| model.is_called(name))) {
            return Ok(model);
        }
        if let Some(reason) = self.models.iter().filter(|model| model.name.is_none()).find_map(Model::missing) {
            // Its name is not known before.
            return Err(not_ready(&reason));
        }
        let names: Vec<_> = self.models.iter().map(|model| format!("'{}'", model.label())).collect();
        let message = match &names[..] {
            [only] => format!("no model '{name}' is served here: there is {only}"),
            _ => format!("no model '{name}' is served here: there are {}", names.join(", ")),
        };
        Err(Error::new(ErrorKind::NotFound, message))
    }

    /// Puts it into the metrics.
    fn tell(&self) {
        let ready = !self.draining && self.models.iter().all(|model| model.missing().is_none());
        metrics().ready.set(ready.into());
    }

    fn shutting_down(&self) -> Option<String> {
        self.draining.then(|| "the server is shutting down".to_owned())
    }
}

impl Model {
    fn label(&self) -> String {
        let own = || self.backend.as_ref().map(|backend| backend.info().name.clone());
        self.name.clone().or_else(own).unwrap_or_default()
    }

    /// The names it is found by: the operator's, its own, and the last part of that, which is what people call it.
    fn names(&self) -> impl Iterator<Item = String> {
        let own = self.backend.as_ref().map(|backend| backend.info().name.clone());
        let last = own.as_deref().and_then(|own| own.rsplit('/').next()).map(str::to_owned);
        self.name.clone().into_iter().chain(own).chain(last)
    }

    fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    fn trouble(&self) -> Option<String> {
        self.backend.as_ref()?.trouble().map(str::to_owned)
    }

    fn missing(&self) -> Option<String> {
        match (&self.backend, &self.name) {
            (Some(_), _) => self.trouble(),
            (None, None) => Some("the model is being loaded".to_owned()),
            (None, Some(name)) => Some(format!("the model '{name}' is being loaded")),
        }
    }
}

fn not_ready(reason: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("not ready: {reason}"))
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::backend::meta::Meta;
    use crate::backend::{Embedding, ModelInfo};
    use crate::contract::call::Call;

    struct Named(ModelInfo);

    impl Backend for Named {
        fn embed(&self, _: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn info(&self) -> &ModelInfo {
            &self.0
        }

        fn meta(&self) -> Meta {
            Meta::default()
        }
    }

    fn named(name: &str) -> Arc<dyn Backend> {
        Arc::new(Named(ModelInfo { name: name.into(), fingerprint: String::new(), dimensions: Some(1) }))
    }

    fn found(readiness: &Readiness, name: Option<&str>) -> std::result::Result<String, ErrorKind> {
        readiness.backend(name).map(|backend| backend.info().name.clone()).map_err(|error| error.kind())
    }

    #[test]
    fn each_model_is_ready_by_itself_and_the_server_with_the_last() {
        let readiness = Readiness::of([Some("a".to_owned()), Some("b".to_owned())]);
        assert_eq!(readiness.reason().as_deref(), Some("the model 'a' is being loaded"));
        readiness.model_ready(1, named("org/two"));
        assert_eq!(found(&readiness, Some("b")), Ok("org/two".to_owned()));
        assert_eq!(readiness.reason_for(Some("b")), None);
        assert_eq!(found(&readiness, None), Err(ErrorKind::Unavailable));
        assert!(readiness.reason().is_some() && readiness.reason_for(Some("a")).is_some());
        readiness.ready(named("org/one"));
        assert_eq!(readiness.reason(), None);
        assert_eq!(found(&readiness, None), Ok("org/one".to_owned()));
        readiness.draining();
        assert!(readiness.reason().is_some() && readiness.reason_for(Some("a")).is_some());
        assert_eq!(found(&readiness, Some("a")), Ok("org/one".to_owned()), "what still comes is served");
    }

    /// Embeds nothing any more.
    struct Broken(ModelInfo);

    impl Backend for Broken {
        fn embed(&self, _: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
            Box::pin(async { Err(Error::new(ErrorKind::Unavailable, "broken")) })
        }

        fn info(&self) -> &ModelInfo {
            &self.0
        }

        fn trouble(&self) -> Option<&'static str> {
            Some("broken for good")
        }

        fn meta(&self) -> Meta {
            Meta::default()
        }
    }

    #[tokio::test]
    async fn a_server_is_unready_once_a_backend_is_in_trouble_and_those_who_follow_are_told() {
        let readiness = Readiness::of([Some("a".to_owned()), Some("b".to_owned())]);
        readiness.model_ready(0, named("org/one"));
        let info = ModelInfo { name: "two".into(), fingerprint: String::new(), dimensions: None };
        let broken: Arc<dyn Backend> = Arc::new(Broken(info));
        // However it is wrapped.
        let cached = crate::cache::Cached::around(broken.clone(), crate::cache::CacheOptions::default());
        let paired = crate::backend::paired::Paired::new(named("org/one"), cached.expect("a cache")).expect("a pair");
        readiness.model_ready(1, Arc::new(paired));
        assert_eq!(readiness.reason().as_deref(), Some("broken for good"));
        assert_eq!(readiness.trouble().as_deref(), Some("broken for good"), "only a restart helps: it is not alive");
        assert_eq!((readiness.reason_for(Some("a")), readiness.reason_for(Some("b")).is_some()), (None, true));
        let mut changes = readiness.subscribe();
        changes.mark_unchanged();
        let looking = tokio::spawn(readiness.clone().look_after());
        let told = tokio::time::timeout(Duration::from_secs(10), changes.changed()).await;
        told.expect("in time").expect("a change");
        looking.abort();
    }

    #[test]
    fn models_are_found_by_the_operators_name_and_by_their_own() {
        let readiness = Readiness::of([None, Some("one".to_owned())]);
        assert_eq!(found(&readiness, Some("unknown")), Err(ErrorKind::Unavailable), "it may be the one being loaded");
        readiness.model_ready(0, named("org/one"));
        readiness.model_ready(1, named("org/two"));
        for (name, model) in [("one", "org/two"), ("org/one", "org/one"), ("org/two", "org/two"), ("two", "org/two")] {
            assert_eq!(found(&readiness, Some(name)), Ok(model.to_owned()), "{name}");
        }
        let error = readiness.backend(Some("three")).err().expect("no such model");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.message(), "no model 'three' is served here: there are 'org/one', 'one'");
        let names: Vec<_> = readiness.names().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["org/one", "one", "org/two", "two"]);
        for (name, backend) in readiness.names() {
            assert_eq!(found(&readiness, Some(&name)), Ok(backend.info().name.clone()), "{name}");
        }
    }
}

//! The models served: their names, and how far each of them is. Readiness is made of this.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::backend::{Backend, ModelInfo};
use crate::contract::module::Module;
use crate::contract::request::Profile;
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

/// What a caller who names no model asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Vectors.
    Vectors,
    /// Vectors of a model2vec model, if one is served.
    Model2vecVectors,
    /// Scores of pairs.
    Scores,
}

/// What texts of a module's classes need.
impl From<Module> for Need {
    fn from(module: Module) -> Need {
        match module {
            Module::Transformers => Need::Vectors,
            Module::Model2vec => Need::Model2vecVectors,
        }
    }
}

impl Need {
    fn is_met_by(self, info: &ModelInfo) -> bool {
        match self {
            Need::Vectors => info.scoring.is_none(),
            Need::Model2vecVectors => info.profile == Some(Profile::Model2vec),
            Need::Scores => info.scoring.is_some(),
        }
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
    pub fn trouble(&self) -> Option<String> {
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
        match state.model(model, Need::Vectors) {
            Ok(model) => model.missing().or_else(|| state.shutting_down()),
            Err(error) => Some(error.message().to_owned()),
        }
    }

    /// The backend of a model; `None` is the default one for what is needed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] while it is loaded, [`ErrorKind::NotFound`], naming those there are, for another name, and
    /// where none can do it.
    pub(super) fn backend(&self, model: Option<&str>, need: Need) -> Result<Arc<dyn Backend>> {
        let state = self.state.borrow();
        let model = state.model(model, need)?;
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
                let is_this = state.named(&name).is_ok_and(|found| std::ptr::eq(found, model));
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
    fn model(&self, name: Option<&str>, need: Need) -> Result<&Model> {
        match name {
            Some(name) => self.named(name),
            None => self.default_for(need),
        }
    }

    /// The first model that does what is needed; of vectors, the first one at all where none does. One that is still loaded may
    /// be it: later ones do not take its place meanwhile.
    fn default_for(&self, need: Need) -> Result<&Model> {
        let first = || self.models.first().ok_or_else(|| Error::internal("a server without a model"));
        for model in &self.models {
            match &model.backend {
                None => return Ok(model),
                Some(backend) if need.is_met_by(backend.info()) => return Ok(model),
                Some(_) => {}
            }
        }
        match need {
            Need::Vectors => first(),
            Need::Model2vecVectors => self.default_for(Need::Vectors),
            Need::Scores => {
                let message = "no model that is served here reranks: serve a cross-encoder beside the others, --model \
                               <name>=<its directory or Hub id>";
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }

    fn named(&self, name: &str) -> Result<&Model> {
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
    use crate::backend::Embedding;
    use crate::backend::meta::Meta;
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
        Arc::new(Named(ModelInfo {
            name: name.into(),
            fingerprint: String::new(),
            dimensions: Some(1),
            ..ModelInfo::default()
        }))
    }

    fn found(readiness: &Readiness, name: Option<&str>) -> std::result::Result<String, ErrorKind> {
        readiness.backend(name, Need::Vectors).map(|backend| backend.info().name.clone()).map_err(|error| error.kind())
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
        let info =
            ModelInfo { name: "two".into(), fingerprint: String::new(), dimensions: None, ..ModelInfo::default() };
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
    fn without_a_name_the_first_model_that_does_it_is_asked() {
        use crate::backend::scoring::Scoring;
        let of = |name: &str, profile, reranks: bool| -> Arc<dyn Backend> {
            let scoring = Scoring { labels: vec!["LABEL_0".into()], activation: Default::default() };
            let scoring = reranks.then(|| Arc::new(scoring));
            Arc::new(Named(ModelInfo { name: name.into(), profile: Some(profile), scoring, ..ModelInfo::default() }))
        };
        let readiness = Readiness::of(["r", "a", "m", "s"].map(|name| Some(name.to_owned())));
        let asked = |need| readiness.backend(None, need).map(|it| it.info().name.clone()).map_err(|error| error.kind());
        readiness.model_ready(2, of("m", Profile::Model2vec, false));
        readiness.model_ready(1, of("a", Profile::Transformers, false));
        for need in [Need::Vectors, Need::Model2vecVectors, Need::Scores] {
            assert_eq!(asked(need), Err(ErrorKind::Unavailable), "{need:?}: the first one may be it");
        }
        readiness.model_ready(0, of("r", Profile::CrossEncoder, true));
        assert_eq!(asked(Need::Vectors), Ok("a".to_owned()));
        assert_eq!(asked(Need::Model2vecVectors), Ok("m".to_owned()));
        assert_eq!(asked(Need::Scores), Ok("r".to_owned()));
        let alone = Readiness::of([Some("a".to_owned())]);
        alone.ready(of("a", Profile::Transformers, false));
        let error = alone.backend(None, Need::Scores).err().expect("none reranks");
        assert!(error.kind() == ErrorKind::NotFound && error.message().contains("--model"), "{error}");
        assert_eq!(alone.backend(None, Need::Model2vecVectors).expect("a model").info().name, "a");
        let rerankers = Readiness::of([Some("r".to_owned())]);
        rerankers.ready(of("r", Profile::CrossEncoder, true));
        assert_eq!(rerankers.backend(None, Need::Vectors).expect("a model").info().name, "r", "which says what it is");
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
        let error = readiness.backend(Some("three"), Need::Vectors).err().expect("no such model");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.message(), "no model 'three' is served here: there are 'org/one', 'one'");
        let names: Vec<_> = readiness.names().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["org/one", "one", "org/two", "two"]);
        for (name, backend) in readiness.names() {
            assert_eq!(found(&readiness, Some(&name)), Ok(backend.info().name.clone()), "{name}");
        }
    }
}

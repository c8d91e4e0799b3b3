//! From settings to backends: models loaded, upstreams connected, caches around both.

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::backend::Backend;
use crate::backend::local::{self, Inference, LocalBackend, LocalOptions};
use crate::backend::paired::Paired;
use crate::backend::remote::directory::ClassUpstreams;
use crate::backend::remote::startup::{self, Services};
use crate::backend::remote::{Remote, RemoteOptions};
use crate::cache::{CacheOptions, Cached};
use crate::config::{ModelChoice, ModelSettings, Served, Serves, Settings, Side, Source, UpstreamChoice};
use crate::contract::call::Call;
use crate::error::{Error, Result};
use crate::model::hub::HubConfig;
use crate::model::locate::{self, ModelDir};
use crate::model::modules::ProfileHints;
use crate::server::Readiness;
use text2vec_engine::device;

/// What is served, not ready yet.
pub(super) fn readiness_of(serves: &Serves) -> Readiness {
    match serves {
        Serves::ByTask { .. } => Readiness::default(),
        Serves::Named(served) => Readiness::of(served.iter().map(|served| served.name().cloned())),
    }
}

/// Makes everything ready that is served.
pub(super) async fn serve_models(settings: &Settings, remote: &RemoteOptions, readiness: &Readiness) -> Result<()> {
    let mut cache = SharedCache { options: settings.cache.served, first: None };
    match &settings.serves {
        Serves::ByTask { passage, query } => {
            let (backend, also) = by_task(settings, (passage, query), remote, &mut cache).await?;
            readiness.ready(backend);
            also.into_iter().for_each(|(name, backend)| readiness.also(name, backend));
            Ok(())
        }
        Serves::Named(served) => {
            load_and_warm(settings, served, &mut cache, readiness).await?;
            connect_named(settings, served, remote, &mut cache, readiness).await
        }
    }
}

/// One cache around all backends.
struct SharedCache {
    options: CacheOptions,
    first: Option<Arc<Cached>>,
}

impl SharedCache {
    fn around(&mut self, backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
        let cached = match &self.first {
            Some(first) => Some(first.beside(backend.clone())),
            None => Cached::around(backend.clone(), self.options),
        };
        if self.first.is_none() {
            self.first.clone_from(&cached);
        }
        cached.map_or(backend, |cached| cached)
    }
}

/// Flags that name a model.
const MODEL: &str = "--model";
const MODEL_NAME: &str = "MODEL_NAME";
const PASSAGE_MODEL: &str = "--passage-model";
const QUERY_MODEL: &str = "--query-model";

/// The models that are to be here, each with the flag that names it.
pub(super) fn models_here(settings: &Settings) -> Vec<(ModelChoice, &'static str)> {
    let of_side = |(side, own): (&Side, _)| match side {
        Side::Model(source) => Some((ModelChoice::unnamed(source), flag_of_side(settings, own))),
        Side::Upstream(_) => None,
    };
    match &settings.serves {
        Serves::ByTask { passage, query } => {
            [(passage, PASSAGE_MODEL), (query, QUERY_MODEL)].into_iter().filter_map(of_side).collect()
        }
        Serves::Named(_) => settings.serves.models().into_iter().map(|model| (model, MODEL)).collect(),
    }
}

/// The flag that names the model of a task: its own one, if it is given.
fn flag_of_side(settings: &Settings, own: &'static str) -> &'static str {
    if settings.table.is_given(own.trim_start_matches('-')) { own } else { MODEL }
}

/// Notes in an error about a model what names it; nothing does if it is the default one.
pub(super) fn of_model(error: Error, flag: &'static str, settings: &Settings) -> Error {
    match settings.table.source(flag.trim_start_matches('-')) {
        Some(Source::Default | Source::Because(_)) | None => error,
        Some(Source::Variable(name)) if name == MODEL_NAME => error.parameter(MODEL_NAME),
        Some(_) => error.parameter(flag),
    }
}

/// The queue and the threads for all models of this process. A GPU that cannot be used is an error here.
pub(super) fn inference(settings: &ModelSettings) -> Result<Arc<Inference>> {
    let cards = device::open(&settings.device).map_err(|error| Error::from(error).parameter("--device"))?;
    for card in &cards {
        tracing::info!(card = %format!("cuda:{} ({})", card.number, card.name), "a GPU is ready");
    }
    Ok(Arc::new(match cards.is_empty() {
        true => Inference::start(settings.threads, settings.max_waiting_tokens)?,
        false => Inference::start_on(cards, settings.max_waiting_tokens)?,
    }))
}

/// How a model that was found is to be loaded.
pub(super) fn local_options(found: ModelDir, model: &ModelChoice, settings: &ModelSettings) -> LocalOptions {
    LocalOptions {
        dir: found.path,
        marker_root: Some(found.markers),
        id: found.id,
        profile: settings.profiles.of(model.name.as_deref(), &model.source),
        hints: ProfileHints { image: found.image, ..settings.hints },
        direct_tokenize: settings.direct_tokenize,
        task_prefixes: settings.task_prefixes,
        reference_prefixes: settings.reference_prefixes,
        apply_dimensions: settings.apply_dimensions,
        engine: settings.engine,
        precision: settings.precision,
        queries_first: settings.queries_first,
    }
}

/// Finds (or downloads) and loads a model. That it is not there, or not what it should be, is `named` by what names it; other errors
/// may be other settings' or the machine's, and name the files that they are about.
pub(super) async fn load(
    model: &ModelChoice,
    settings: &ModelSettings,
    inference: &Arc<Inference>,
    named: impl Fn(Error) -> Error,
) -> Result<LocalBackend> {
    let started = Instant::now();
    let hub = HubConfig { progress: std::io::stderr().is_terminal(), ..HubConfig::from_env()? };
    let found = locate::locate(&model.source, settings.revision.as_deref(), &hub).await.map_err(&named)?;
    let options = local_options(found, model, settings);
    local::chosen(&options).map_err(&named)?;
    let inference = inference.clone();
    let backend = tokio::task::spawn_blocking(move || LocalBackend::load_beside(&options, inference))
        .await
        .map_err(|error| Error::internal(format!("loading the model failed: {error}")))??;
    let (profile, chosen_by) = backend.profile();
    let (engine, threads) = backend.engine();
    tracing::info!(
        model = backend.info().name,
        %profile,
        chosen_by,
        dimensions = backend.info().dimensions,
        max_tokens = backend.max_tokens(),
        precision = settings.precision.name(),
        device = backend.device(),
        engine,
        threads,
        seconds = format!("{:.2}", started.elapsed().as_secs_f64()),
        "model loaded"
    );
    Ok(backend)
}

/// The upstreams that classes may name, with one cache for all of them.
pub(super) fn class_upstreams(settings: &Settings, remote: &RemoteOptions) -> ClassUpstreams {
    let room = settings.cache.of_classes;
    let first: OnceLock<Option<Arc<Cached>>> = OnceLock::new();
    let wrap = move |backend: Arc<dyn Backend>| -> Arc<dyn Backend> {
        match first.get_or_init(|| Cached::around(backend.clone(), room)) {
            Some(cached) => cached.beside(backend),
            None => backend,
        }
    };
    ClassUpstreams::new(settings.upstreams.allowed.clone(), remote.clone(), Box::new(wrap))
}

/// A backend by its name.
type Named = (String, Arc<dyn Backend>);

/// Who embeds passages and who embeds queries, as one backend; of an upstream for both also the other names of its models.
async fn by_task(
    settings: &Settings,
    sides: (&Side, &Side),
    remote: &RemoteOptions,
    cache: &mut SharedCache,
) -> Result<(Arc<dyn Backend>, Vec<Named>)> {
    fn url(side: &Side) -> Option<&str> {
        match side {
            Side::Upstream(url) => Some(url),
            Side::Model(_) => None,
        }
    }
    let services = match (url(sides.0), url(sides.1)) {
        (None, None) => Services::default(),
        (passage, query) => startup::connect(passage, query, settings.upstreams.wait, remote).await?,
    };
    if let (Some(passage), Some(query)) = (&services.passage, &services.query)
        && Arc::ptr_eq(passage, query)
    {
        let backend = cache.around(passage.clone());
        return Ok((backend, other_names(passage, cache)));
    }
    let mut here = Here { settings, inference: None };
    let passage = here.or_upstream(sides.0, flag_of_side(settings, PASSAGE_MODEL), services.passage).await?;
    let query = here.or_upstream(sides.1, flag_of_side(settings, QUERY_MODEL), services.query).await?;
    Ok((cache.around(Arc::new(Paired::new(passage, query)?)), Vec::new()))
}

/// Models in this process, with one queue and its threads for all of them.
struct Here<'a> {
    settings: &'a Settings,
    /// Begun with the first model.
    inference: Option<Arc<Inference>>,
}

impl Here<'_> {
    /// Loads a model that this flag names, and lets it make a vector of each kind.
    async fn model(&mut self, model: &ModelChoice, flag: &'static str) -> Result<Arc<dyn Backend>> {
        let inference = match &self.inference {
            Some(inference) => inference.clone(),
            None => inference(&self.settings.model)?,
        };
        self.inference = Some(inference.clone());
        let named = |error: Error| of_model(error, flag, self.settings);
        let backend: Arc<dyn Backend> = Arc::new(load(model, &self.settings.model, &inference, named).await?);
        warm(&*backend).await?;
        Ok(backend)
    }

    /// Who embeds the texts of a task.
    async fn or_upstream(
        &mut self,
        side: &Side,
        flag: &'static str,
        upstream: Option<Arc<Remote>>,
    ) -> Result<Arc<dyn Backend>> {
        match (side, upstream) {
            (Side::Model(source), _) => self.model(&ModelChoice::unnamed(source), flag).await,
            (Side::Upstream(_), Some(upstream)) => Ok(upstream),
            (Side::Upstream(_), None) => Err(Error::internal("no connection to the server")),
        }
    }
}

/// The names an upstream's models have there, beside the one that its backend is listed by.
fn other_names(upstream: &Arc<Remote>, cache: &mut SharedCache) -> Vec<Named> {
    let cached = |(name, remote): (String, Arc<Remote>)| (name, cache.around(remote));
    upstream.models().into_iter().map(cached).collect()
}

/// Connects to the upstreams that are models beside others, all at once, each ready as itself.
async fn connect_named(
    settings: &Settings,
    served: &[Served],
    remote: &RemoteOptions,
    cache: &mut SharedCache,
    readiness: &Readiness,
) -> Result<()> {
    let connecting = served.iter().enumerate().filter_map(|(place, served)| match served {
        Served::Upstream(UpstreamChoice { urls, .. }) => Some(async move {
            let urls = Some(urls.as_str());
            let services = startup::connect(urls, urls, settings.upstreams.wait, remote).await?;
            let upstream = services.passage.ok_or_else(|| Error::internal("no connection to the server"))?;
            Ok::<_, Error>((place, upstream))
        }),
        Served::Model(_) => None,
    });
    let mut connecting: FuturesUnordered<_> = connecting.collect();
    let mut connected = Vec::new();
    while let Some(next) = connecting.next().await {
        let (place, upstream) = next?;
        let backend = cache.around(upstream.clone());
        readiness.model_ready(place, backend.clone());
        connected.push((place, upstream, backend));
    }
    // Of two that call a model the same, the one named first has the name.
    connected.sort_by_key(|(place, ..)| *place);
    for (_, upstream, backend) in connected {
        if upstream.names_its_model() {
            readiness.also(upstream.info().name.clone(), backend);
        }
        other_names(&upstream, cache).into_iter().for_each(|(name, backend)| readiness.also(name, backend));
    }
    Ok(())
}

/// Loads one model after the other, the default one first. Each is ready when it has made a vector of each kind.
async fn load_and_warm(
    settings: &Settings,
    served: &[Served],
    cache: &mut SharedCache,
    readiness: &Readiness,
) -> Result<()> {
    let mut here = Here { settings, inference: None };
    let mut loaded = Vec::new();
    for (place, served) in served.iter().enumerate() {
        let Served::Model(choice) = served else { continue };
        // A model of several names is there once.
        let model = (&*choice.source, settings.model.profiles.of(choice.name.as_deref(), &choice.source));
        let known = loaded
            .iter()
            .find(|(other, _)| *other == model)
            .map(|(_, backend): &(_, Arc<dyn Backend>)| backend.clone());
        let backend = match known {
            Some(backend) => backend,
            None => cache.around(here.model(choice, MODEL).await?),
        };
        loaded.push((model, backend.clone()));
        readiness.model_ready(place, backend);
    }
    Ok(())
}

pub(super) async fn warm(backend: &dyn Backend) -> Result<()> {
    let calls = match backend.info().scoring {
        None => vec![Call::passage("warm up"), Call::query("warm up")],
        Some(_) => vec![Call::pairs("warm up", ["a document"])],
    };
    for call in calls {
        for warmed in backend.embed(call).await? {
            warmed.map_err(|error| error.context("the model cannot compute a first text"))?;
        }
    }
    Ok(())
}

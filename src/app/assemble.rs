//! From flags to backends: models loaded, upstreams connected, caches around both.

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::served::{Forwards, Served};
use crate::backend::Backend;
use crate::backend::local::{Inference, LocalBackend, LocalOptions};
use crate::backend::paired::Paired;
use crate::backend::remote::directory::ClassUpstreams;
use crate::backend::remote::{Remote, RemoteOptions, startup};
use crate::cache::{CacheOptions, Cached};
use crate::config::{ModelArgs, ModelChoice, ReferenceEnv, ServeArgs, UpstreamChoice};
use crate::contract::request::EmbedRequest;
use crate::error::{Error, Result};
use crate::model::hub::HubConfig;
use crate::model::locate;
use crate::model::modules::ProfileHints;
use crate::server::Readiness;
use text2vec_engine::device;

/// Makes everything ready that is served.
pub(super) async fn serve_models(
    args: &ServeArgs,
    served: &[Served],
    forwards: &Forwards,
    reference: &ReferenceEnv,
    remote: &RemoteOptions,
    readiness: &Readiness,
) -> Result<()> {
    if forwards.any() {
        let (backend, also) = connect(args, forwards, reference, remote).await?;
        readiness.ready(backend);
        also.into_iter().for_each(|(name, backend)| readiness.also(name, backend));
        return Ok(());
    }
    let upstreams = served.iter().any(|served| matches!(served, Served::Upstream(_)));
    let mut cache = SharedCache { options: reference.caches(args, upstreams).0, first: None };
    load_and_warm(args, served, reference, &mut cache, readiness).await?;
    connect_named(args, served, reference, remote, &mut cache, readiness).await
}

/// One cache around all backends.
struct SharedCache {
    pub(super) options: CacheOptions,
    pub(super) first: Option<Arc<Cached>>,
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

/// The queue and the threads for all models of this process. A GPU that cannot be used is an error here.
pub(super) fn inference(args: &ModelArgs, reference: &ReferenceEnv) -> Result<Arc<Inference>> {
    let cards = device::open(&reference.device(args))?;
    for card in &cards {
        tracing::info!(card = %format!("cuda:{} ({})", card.number, card.name), "a GPU is ready");
    }
    Ok(Arc::new(match cards.is_empty() {
        true => Inference::start(args.threads, args.max_waiting_tokens)?,
        false => Inference::start_on(cards, args.max_waiting_tokens)?,
    }))
}

/// Finds (or downloads) and loads a model.
pub(super) async fn load(
    name: &str,
    args: &ModelArgs,
    reference: &ReferenceEnv,
    inference: &Arc<Inference>,
) -> Result<LocalBackend> {
    let started = Instant::now();
    let hub = HubConfig { progress: std::io::stderr().is_terminal(), ..HubConfig::from_env()? };
    let found = locate::locate(name, args.revision.as_deref(), &hub).await?;
    let options = LocalOptions {
        dir: found.path,
        marker_root: Some(found.markers),
        id: found.id,
        profile: args.profile.0,
        hints: ProfileHints { in_image: found.in_image, ..reference.hints },
        direct_tokenize: args.direct_tokenize.unwrap_or(reference.direct_tokenize),
        task_prefixes: args.task_prefixes,
        reference_prefixes: reference.task_prefixes,
        apply_dimensions: args.apply_dimensions.unwrap_or(false),
        engine: args.engine,
        precision: args.precision,
        queries_first: args.queries_first,
    };
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
        precision = args.precision.name(),
        device = backend.device(),
        engine,
        threads,
        seconds = format!("{:.2}", started.elapsed().as_secs_f64()),
        "model loaded"
    );
    Ok(backend)
}

/// The upstreams that classes may name, with one cache for all of them.
pub(super) fn class_upstreams(
    args: &ServeArgs,
    reference: &ReferenceEnv,
    remote: &RemoteOptions,
) -> Result<ClassUpstreams> {
    let (_, room) = reference.caches(args, true);
    let first: OnceLock<Option<Arc<Cached>>> = OnceLock::new();
    let wrap = move |backend: Arc<dyn Backend>| -> Arc<dyn Backend> {
        match first.get_or_init(|| Cached::around(backend.clone(), room)) {
            Some(cached) => cached.beside(backend),
            None => backend,
        }
    };
    Ok(ClassUpstreams::new(reference.allowed(args)?, remote.clone(), Box::new(wrap)))
}

/// A backend by its name.
type Named = (String, Arc<dyn Backend>);

/// Another server for all texts, and the other names of its models; or for the texts of one task, and then a model here for
/// the other.
pub(super) async fn connect(
    args: &ServeArgs,
    forwards: &Forwards,
    reference: &ReferenceEnv,
    remote: &RemoteOptions,
) -> Result<(Arc<dyn Backend>, Vec<Named>)> {
    let (passage, query) = (forwards.passage.as_deref(), forwards.query.as_deref());
    let services = startup::connect(passage, query, reference.waits(args), remote).await?;
    let mut cache = SharedCache { options: reference.caches(args, true).0, first: None };
    let backend: Arc<dyn Backend> = match (services.passage, services.query) {
        (Some(passage), Some(query)) if Arc::ptr_eq(&passage, &query) => {
            let backend = cache.around(passage.clone());
            return Ok((backend, other_names(&passage, &mut cache)));
        }
        (Some(passage), Some(query)) => Arc::new(Paired::new(passage, query)?),
        (Some(passage), None) => {
            Arc::new(Paired::new(passage, beside_upstream(args, &args.query_model, reference).await?)?)
        }
        (None, Some(query)) => {
            Arc::new(Paired::new(beside_upstream(args, &args.passage_model, reference).await?, query)?)
        }
        (None, None) => return Err(Error::internal("nothing to forward to")),
    };
    Ok((cache.around(backend), Vec::new()))
}

/// The names an upstream's models have there, beside the one that its backend is listed by.
fn other_names(upstream: &Arc<Remote>, cache: &mut SharedCache) -> Vec<Named> {
    let cached = |(name, remote): (String, Arc<Remote>)| (name, cache.around(remote));
    upstream.models().into_iter().map(cached).collect()
}

/// Connects to the upstreams that are models beside others, all at once, each ready as itself.
async fn connect_named(
    args: &ServeArgs,
    served: &[Served],
    reference: &ReferenceEnv,
    remote: &RemoteOptions,
    cache: &mut SharedCache,
    readiness: &Readiness,
) -> Result<()> {
    let connecting = served.iter().enumerate().filter_map(|(place, served)| match served {
        Served::Upstream(UpstreamChoice { urls, .. }) => Some(async move {
            let services =
                startup::connect(Some(urls.as_str()), Some(urls.as_str()), reference.waits(args), remote).await?;
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

/// The model here for the task that is not forwarded.
async fn beside_upstream(
    args: &ServeArgs,
    model: &Option<String>,
    reference: &ReferenceEnv,
) -> Result<Arc<dyn Backend>> {
    let source = match model {
        Some(source) => source.clone(),
        None => match &reference.models(&args.model)?[..] {
            [ModelChoice { source, .. }] => source.clone(),
            _ => return Err(Error::config("beside an upstream there is room for one model: give --model once")),
        },
    };
    let backend: Arc<dyn Backend> =
        Arc::new(load(&source, &args.model, reference, &inference(&args.model, reference)?).await?);
    warm(&*backend).await?;
    Ok(backend)
}

/// Loads one model after the other, the default one first. Each is ready when it has made a vector of each kind.
async fn load_and_warm(
    args: &ServeArgs,
    served: &[Served],
    reference: &ReferenceEnv,
    cache: &mut SharedCache,
    readiness: &Readiness,
) -> Result<()> {
    if !served.is_empty() && served.iter().all(|served| matches!(served, Served::Upstream(_))) {
        return Ok(());
    }
    let inference = inference(&args.model, reference)?;
    if let (Some(passage), Some(query)) = (&args.passage_model, &args.query_model) {
        let passage = load(passage, &args.model, reference, &inference).await?;
        let query = load(query, &args.model, reference, &inference).await?;
        let pair: Arc<dyn Backend> = Arc::new(Paired::new(Arc::new(passage), Arc::new(query))?);
        warm(&*pair).await?;
        readiness.ready(cache.around(pair));
    }
    let mut loaded: Vec<(&str, Arc<dyn Backend>)> = Vec::new();
    for (place, served) in served.iter().enumerate() {
        let Served::Model(ModelChoice { source, .. }) = served else { continue };
        // A model of several names is there once.
        let known = loaded.iter().find(|(other, _)| other == source).map(|(_, backend)| backend.clone());
        let backend = match known {
            Some(backend) => backend,
            None => {
                let backend: Arc<dyn Backend> = Arc::new(load(source, &args.model, reference, &inference).await?);
                warm(&*backend).await?;
                cache.around(backend)
            }
        };
        loaded.push((source, backend.clone()));
        readiness.model_ready(place, backend);
    }
    Ok(())
}

pub(super) async fn warm(backend: &dyn Backend) -> Result<()> {
    for warmed in backend.embed(vec![EmbedRequest::passage("warm up"), EmbedRequest::query("warm up")]).await? {
        warmed.map_err(|error| error.context("the model cannot embed a first text"))?;
    }
    Ok(())
}

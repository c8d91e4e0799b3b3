//! The subcommands: what each puts together.

use std::io::{BufRead, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::{ArgMatches, FromArgMatches};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::backend::local::{Inference, LocalBackend, LocalOptions};
use crate::backend::paired::Paired;
use crate::backend::remote::directory::ClassUpstreams;
use crate::backend::remote::itself::Itself;
use crate::backend::remote::{Remote, RemoteOptions, startup};
use crate::backend::{Backend, ModelInfo};
use crate::cache::{CacheOptions, Cached};
use crate::compare::{self, Comparison, Verdict};
use crate::config::{
    self, Cli, Command, CompareArgs, DownloadArgs, EmbedArgs, HealthcheckArgs, ModelArgs, ModelChoice, ReferenceEnv,
    ServeArgs, UpstreamChoice,
};
use crate::contract::class::Settings;
use crate::contract::endpoint::Endpoint;
use crate::contract::request::{EmbedRequest, Task};
use crate::error::{Error, Result};
use crate::model::hub::HubConfig;
use crate::model::locate;
use crate::model::modules::ProfileHints;
use crate::server::{self, Access, Readiness, Tls};
use crate::telemetry::metrics::metrics;
use crate::telemetry::{self, LogFormat};
use text2vec_engine::device;
use text2vec_kernel::keep_little_freed;

/// Lines of standard input that `embed` works on at once.
const EMBED_LINES: usize = 64;

/// Runs the chosen subcommand to its end.
///
/// # Errors
/// Whatever keeps it from its end; for settings that do not fit, and for `--help`, the process ends here as clap ends it.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let cli = Cli::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("the async runtime could not be started: {error}")))?;
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) if args.print_config => {
            print!("{}", config::shown(matches, &args, &ReferenceEnv::from_process()?.beside(&args)?)?);
            Ok(())
        }
        Command::Serve(args) => runtime.block_on(serve(*args)),
        Command::Download(args) => runtime.block_on(download(args)),
        Command::Embed(args) => runtime.block_on(embed(args)),
        Command::Compare(args) => runtime.block_on(compare(args)),
        Command::Healthcheck(args) => runtime.block_on(healthcheck(args)),
    }
}

/// Bind first, load second, ready last.
async fn serve(args: ServeArgs) -> Result<()> {
    let reference = ReferenceEnv::from_process()?.beside(&args)?;
    let _telemetry = telemetry::init(log_format(&args.model, &reference));
    warn(&reference);
    let mut remote = args.upstream.options(args.max_wait)?;
    let upstreams = class_upstreams(&args, &reference, &remote)?;
    let mut options = reference.server(&args, Arc::new(upstreams))?;
    let forwards = Forwards::of(&args, &reference);
    let served = served(&args, &forwards, &reference)?;
    if args.check {
        remote.itself = Some(Itself::new(args.listen));
        return check(&args, &served, &forwards, &reference, &remote).await;
    }
    options.open_files = raise_file_limit();
    keep_little_freed();
    let listener = TcpListener::bind(args.listen).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::config(format!(
            "{} is taken by another program: stop it, or choose another address with --listen or T2V_LISTEN",
            args.listen
        )),
        _ => Error::config(format!("{} cannot be listened on: {error}; see --listen or T2V_LISTEN", args.listen)),
    })?;
    let address = listener.local_addr().unwrap_or(args.listen);
    if forwards.any() || served.iter().any(|served| matches!(served, Served::Upstream(_))) {
        remote.itself = Some(Itself::new(address));
        options.itself.clone_from(&remote.itself);
    }
    tracing::info!(%address, tls = options.tls.is_some(), tokens = options.access.tokens(), "live: HTTP and gRPC on one port");
    let readiness = readiness_of(&served);
    let reloading = hangups(options.access.clone(), options.tls.clone())?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut server = tokio::spawn(server::run(listener, readiness.clone(), options, async {
        // An error means that the sender is gone, which is a reason to stop as well.
        let _ = stopped.await;
    }));
    let serving = async {
        serve_models(&args, &served, &forwards, &reference, &remote, &readiness).await?;
        tracing::info!("ready");
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        loading = serving => return loading,
        // The server ends by itself only when something is wrong with it.
        ended = &mut server => return server_end(ended),
        () = reloading => {}
        () = termination() => {}
    }
    tracing::info!("stopping: what is in flight is finished first");
    drop(stop);
    server_end(server.await)
}

/// What is served under a name of its own.
enum Served {
    Model(ModelChoice),
    Upstream(UpstreamChoice),
}

impl Served {
    fn name(&self) -> Option<&String> {
        match self {
            Served::Model(choice) => choice.name.as_ref(),
            Served::Upstream(choice) => choice.name.as_ref(),
        }
    }
}

/// What is served by names, the default first. A pair is one model without a name, and so is what is forwarded as a whole.
fn served(args: &ServeArgs, forwards: &Forwards, reference: &ReferenceEnv) -> Result<Vec<Served>> {
    let upstreams = args.upstream.models()?;
    if args.passage_model.is_some() && !upstreams.is_empty() {
        return Err(Error::config(
            "--passage-model and --query-model are served alone: leave --upstream <name>=URL out",
        ));
    }
    if args.passage_model.is_some() || forwards.any() {
        return Ok(Vec::new());
    }
    // Beside upstreams only a model that somebody asked for is loaded.
    let models = match upstreams.is_empty() || !args.model.model.is_empty() {
        true => reference.models(&args.model)?,
        false => Vec::new(),
    };
    let served: Vec<Served> =
        models.into_iter().map(Served::Model).chain(upstreams.into_iter().map(Served::Upstream)).collect();
    for (place, one) in served.iter().enumerate() {
        if let Some(name) = one.name().filter(|name| served[..place].iter().any(|other| other.name() == Some(name))) {
            return Err(Error::config(format!(
                "two models are named '{name}': give each --model and --upstream a name of its own"
            )));
        }
    }
    Ok(served)
}

fn readiness_of(served: &[Served]) -> Readiness {
    match served {
        [] => Readiness::default(),
        served => Readiness::of(served.iter().map(|served| served.name().cloned())),
    }
}

/// Makes everything ready that is served.
async fn serve_models(
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

/// All that `serve` does before it is ready, without a port. A first text is embedded.
async fn check(
    args: &ServeArgs,
    served: &[Served],
    forwards: &Forwards,
    reference: &ReferenceEnv,
    remote: &RemoteOptions,
) -> Result<()> {
    let readiness = readiness_of(served);
    serve_models(args, served, forwards, reference, remote, &readiness).await?;
    // What is only listed by an upstream is not made to load there.
    let own = readiness.listed();
    for (_, backend) in own.iter().take(served.len().max(1)) {
        warm(&**backend).await?;
    }
    let shown = |(name, backend): (String, Arc<dyn Backend>)| {
        let profile = compare::profiles(&backend.meta());
        match backend.info().dimensions {
            Some(dimensions) => format!("'{name}' makes vectors of {dimensions} dimensions, profile {profile}"),
            None => format!("'{name}' is listed by its upstream"),
        }
    };
    let models: Vec<_> = own.into_iter().map(shown).collect();
    println!("ok: {}", models.join("\n    "));
    Ok(())
}

/// A connection is an open file, and many systems give a process 1,024 of them unless it asks for more. Answers how many
/// it has now; `None`: not known.
fn raise_file_limit() -> Option<u64> {
    let raised = rlimit::increase_nofile_limit(u64::MAX);
    if let Err(error) = &raised {
        tracing::warn!("the limit of open files could not be raised: {error}");
    }
    raised.ok().or_else(|| rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(files, _)| files))
}

fn server_end(ended: std::result::Result<std::io::Result<()>, tokio::task::JoinError>) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("the server failed: {error}"));
    ended.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

async fn download(args: DownloadArgs) -> Result<()> {
    let model = &args.model;
    if model.starts_with(['/', '.', '~']) || (args.dir.is_none() && Path::new(model).is_dir()) {
        return Err(Error::config(format!(
            "'{model}' is a directory, and download takes a Hub id such as sentence-transformers/all-MiniLM-L6-v2: to put its \
             files into a directory add --dir {model}; to serve a directory, --model {model}"
        )));
    }
    let config = HubConfig::from_env()?;
    let found = locate::download(&args.model, args.revision.as_deref(), args.dir.as_deref(), &config).await?;
    println!("{}", found.path.display());
    Ok(())
}

#[derive(Serialize)]
struct EmbedLine<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dims: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// One JSON line per text, in order; a text that cannot be embedded gets `error`, and the exit code tells.
async fn embed(args: EmbedArgs) -> Result<()> {
    let reference = ReferenceEnv::from_process()?;
    init_logs(&args.model, &reference);
    let [ModelChoice { source, .. }] = &reference.models(&args.model)?[..] else {
        return Err(Error::config("embed works with one model: give --model once"));
    };
    let backend = load(source, &args.model, &reference, &inference(&args.model, &reference)?).await?;
    check_dimensions(args.dimensions, backend.info())?;
    let settings = EmbedRequest {
        task_name: Some(args.task.clone().into()),
        pooling: Some(args.pooling.clone()),
        dimensions: args.dimensions,
        ..EmbedRequest::default()
    };
    let progress = progress_bar(args.texts.len());
    let mut lines: Box<dyn Iterator<Item = std::io::Result<String>>> = if args.texts.is_empty() {
        Box::new(std::io::stdin().lock().lines())
    } else {
        Box::new(args.texts.clone().into_iter().map(Ok))
    };
    let mut failed = 0;
    loop {
        let texts: Vec<String> = lines
            .by_ref()
            .take(EMBED_LINES)
            .collect::<std::io::Result<_>>()
            .map_err(|error| Error::invalid(format!("standard input cannot be read: {error}")))?;
        if texts.is_empty() {
            break;
        }
        let requests = texts.iter().map(|text| EmbedRequest { text: text.clone(), ..settings.clone() }).collect();
        let results = backend.embed(requests).await?;
        let mut out = std::io::stdout().lock();
        for (text, result) in texts.iter().zip(&results) {
            failed += usize::from(result.is_err());
            let vector = result.as_ref().ok().map(|embedding| &*embedding.vector);
            let error = result.as_ref().err().map(Error::message);
            let line = serde_json::to_string(&EmbedLine { text, vector, dims: vector.map(<[f32]>::len), error })
                .map_err(|error| Error::internal(format!("an answer could not be written as JSON: {error}")))?;
            match writeln!(out, "{line}") {
                Ok(()) => {}
                // `head` has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(Error::internal(format!("standard output cannot be written: {error}"))),
            }
        }
        progress.inc(texts.len() as u64);
    }
    progress.finish_and_clear();
    match failed {
        0 => Ok(()),
        failed => Err(Error::invalid(format!("{failed} texts could not be embedded: see their \"error\""))),
    }
}

/// Refuses `--dimensions` that no vector of the model has.
fn check_dimensions(wanted: Option<i64>, model: &ModelInfo) -> Result<()> {
    match (wanted, model.dimensions) {
        (Some(wanted), Some(there_are)) if wanted < 1 || wanted > there_are as i64 => Err(Error::config(format!(
            "--dimensions is {wanted}, but the vectors of {} have {there_are}: ask for 1 to {there_are}",
            model.name
        ))),
        _ => Ok(()),
    }
}

/// Prints how two sides compare; an error where they should not share a collection.
async fn compare(args: CompareArgs) -> Result<()> {
    let reference = ReferenceEnv::from_process()?;
    init_logs(&args.model, &reference);
    let texts = match &args.texts {
        None => compare::TEXTS.map(str::to_owned).to_vec(),
        Some(path) => {
            let unreadable = |error| Error::config(format!("{} cannot be read: {error}", path.display()));
            let texts: Vec<String> =
                std::fs::read_to_string(path).map_err(unreadable)?.lines().map(str::to_owned).collect();
            if texts.iter().all(|text| text.trim().is_empty()) {
                return Err(Error::config(format!("{} holds no text: write one per line", path.display())));
            }
            texts
        }
    };
    let settings = EmbedRequest {
        task_name: Some(args.task.clone().into()),
        pooling: Some(args.pooling.clone()),
        dimensions: args.dimensions,
        ..EmbedRequest::default()
    };
    let requests: Vec<_> = texts.into_iter().map(|text| EmbedRequest { text, ..settings.clone() }).collect();
    let remote = args.access.options()?;
    let is_url = |side: &String| side.contains("://");
    if let Some(side) = [&args.first, &args.second].into_iter().find(|side| looks_like_an_address(side)) {
        return Err(Error::config(format!("'{side}' is no directory: for a server there, give http://{side}")));
    }
    // Between two servers nothing is computed here, so no device is asked for.
    let inference = match [&args.first, &args.second].into_iter().all(is_url) {
        true => None,
        false => Some(inference(&args.model, &reference)?),
    };
    let mut sides: Vec<Arc<dyn Backend>> = Vec::new();
    for side in [&args.first, &args.second] {
        sides.push(match &inference {
            Some(inference) if !is_url(side) => Arc::new(load(side, &args.model, &reference, inference).await?),
            _ => {
                let services = startup::connect(Some(side), None, false, &remote).await?;
                services.passage.ok_or_else(|| Error::internal("no connection to the server"))?
            }
        });
    }
    for side in &sides {
        check_dimensions(args.dimensions, side.info())?;
    }
    let comparison = Comparison::run([&*sides[0], &*sides[1]], &requests).await?;
    println!("first           {}\nsecond          {}\n{comparison}", args.first, args.second);
    match comparison.verdict() {
        Verdict::Same | Verdict::Interchangeable => Ok(()),
        Verdict::Different => Err(Error::invalid("the two sides must not share a collection")),
    }
}

/// `host:port`, which is neither a directory nor a Hub id.
fn looks_like_an_address(side: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok();
    side.rsplit_once(':').is_some_and(|(host, end)| !host.contains('/') && port(end)) && !Path::new(side).exists()
}

/// Asks `/.well-known/ready`, as an image's HEALTHCHECK does. Over TLS the server's certificate is not checked: it is asked
/// at an address of its own machine, where its name does not hold, and is told nothing.
async fn healthcheck(args: HealthcheckArgs) -> Result<()> {
    let mut address = args.listen;
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}/.well-known/ready");
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .tls_danger_accept_invalid_certs(true)
        .timeout(Duration::from_secs(2))
        .build();
    let client = client.map_err(|error| Error::internal(format!("no HTTP client: {error}")))?;
    let answer = client.get(&url).send().await;
    let answer = answer.map_err(|_| Error::config(format!("{url} does not answer: is the server running there?")))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
    Err(Error::config(format!("{url} answered {status}: {body}")))
}

fn log_format(args: &ModelArgs, reference: &ReferenceEnv) -> LogFormat {
    args.log_format.or(reference.log_format).unwrap_or_default()
}

/// Starts the log of a command that serves nobody: without traces.
fn init_logs(args: &ModelArgs, reference: &ReferenceEnv) {
    telemetry::init_logs(log_format(args, reference));
    warn(reference);
}

fn warn(reference: &ReferenceEnv) {
    metrics().cuda_unavailable.set(reference.cuda_wanted.into());
    for warning in &reference.warnings {
        tracing::warn!("{warning}");
    }
}

/// The queue and the threads for all models of this process. A GPU that cannot be used is an error here.
fn inference(args: &ModelArgs, reference: &ReferenceEnv) -> Result<Arc<Inference>> {
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
async fn load(
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
        threads: args.threads,
        waiting_tokens: args.max_waiting_tokens,
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

/// The base URLs to which texts are forwarded by default.
struct Forwards {
    passage: Option<String>,
    query: Option<String>,
}

impl Forwards {
    fn of(args: &ServeArgs, reference: &ReferenceEnv) -> Forwards {
        let (endpoints, defaults) = (reference.endpoints(args), Settings::default());
        let url = |task| match endpoints.resolve(&defaults, task) {
            Endpoint::Local | Endpoint::Model(_) => None,
            Endpoint::Remote(url) => Some(url.to_owned()),
        };
        Forwards { passage: url(Task::Passage), query: url(Task::Query) }
    }

    fn any(&self) -> bool {
        self.passage.is_some() || self.query.is_some()
    }
}

/// The upstreams that classes may name, with one cache for all of them.
fn class_upstreams(args: &ServeArgs, reference: &ReferenceEnv, remote: &RemoteOptions) -> Result<ClassUpstreams> {
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
async fn connect(
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

async fn warm(backend: &dyn Backend) -> Result<()> {
    for warmed in backend.embed(vec![EmbedRequest::passage("warm up"), EmbedRequest::query("warm up")]).await? {
        warmed.map_err(|error| error.context("the model cannot embed a first text"))?;
    }
    Ok(())
}

/// On each SIGHUP, reads certificates and tokens again. Never resolves.
///
/// # Errors
/// `Internal` if the signal cannot be heard, which would else end the process, and lose what is in flight.
fn hangups(access: Access, tls: Option<Arc<Tls>>) -> Result<impl Future<Output = ()>> {
    let unheard = |error| Error::internal(format!("SIGHUP cannot be listened to: {error}"));
    let mut signals = signal(SignalKind::hangup()).map_err(unheard)?;
    Ok(async move {
        while signals.recv().await.is_some() {
            tracing::info!("SIGHUP: files of tokens and certificates are read again; other settings need a restart");
            access.look_now();
            if let Some(tls) = &tls {
                tls.look_now();
            }
        }
        std::future::pending().await
    })
}

/// Resolves on SIGTERM or SIGINT.
async fn termination() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            // Without the handler the signal ends the process by itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

fn progress_bar(texts: usize) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let (length, template) = match texts {
        0 => (None, "{spinner} {pos} texts, {per_sec}"),
        texts => (Some(texts as u64), "{bar:40} {pos}/{len} texts, {per_sec}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(length, target).with_style(style)
}

//! What is served, and under which names.

use std::path::Path;

use super::args::{ModelArgs, ServeArgs};
use super::model_choice::{DEFAULT_MODEL, ModelChoice};
use super::reference::ReferenceEnv;
use super::secrets::without_secrets;
use super::table::{Given, Source};
use super::upstream::UpstreamChoice;
use crate::backend::remote::address;
use crate::contract::class::Settings as ClassSettings;
use crate::contract::endpoint::{Endpoint, Endpoints, InferenceUrls};
use crate::contract::request::Task;
use crate::error::{Error, Result};
use crate::model::locate::{IMAGE_MODEL_DIR, MODEL2VEC_IMAGE_DIR};

/// What is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// Models here, and upstreams that are models beside others; the default one first, never empty.
    Named(Vec<Served>),
    /// One model without a name: who embeds passages, and who embeds queries.
    ByTask {
        /// For texts to be stored.
        passage: Side,
        /// For texts to search with.
        query: Side,
    },
}

/// What is served under a name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// A model here.
    Model(ModelChoice),
    /// Another server.
    Upstream(UpstreamChoice),
}

/// Who embeds the texts of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// A model here: directory or Hub id.
    Model(String),
    /// Another server: its base URL, or those of its replicas, separated by commas.
    Upstream(String),
}

impl Served {
    /// As the operator named it; `None`: as it calls itself.
    pub fn name(&self) -> Option<&String> {
        match self {
            Served::Model(choice) => choice.name.as_ref(),
            Served::Upstream(choice) => choice.name.as_ref(),
        }
    }
}

impl Serves {
    /// Whether texts leave this process.
    pub fn forwards(&self) -> bool {
        match self {
            Serves::Named(served) => served.iter().any(|served| matches!(served, Served::Upstream(_))),
            Serves::ByTask { passage, query } => [passage, query].iter().any(|side| matches!(side, Side::Upstream(_))),
        }
    }

    /// The models here, as they were chosen, in order.
    pub fn models(&self) -> Vec<ModelChoice> {
        match self {
            Serves::Named(served) => {
                let model = |served: &Served| match served {
                    Served::Model(choice) => Some(choice.clone()),
                    Served::Upstream(_) => None,
                };
                served.iter().filter_map(model).collect()
            }
            Serves::ByTask { passage, query } => {
                let model = |side: &Side| match side {
                    Side::Model(source) => Some(ModelChoice::unnamed(source)),
                    Side::Upstream(_) => None,
                };
                [passage, query].into_iter().filter_map(model).collect()
            }
        }
    }

    /// Of the flags and variables, and the endpoints that they name.
    ///
    /// # Errors
    /// `Config` for what cannot be served together, and for names that cannot be.
    pub(super) fn resolve(
        given: &mut Given<'_>,
        args: &ServeArgs,
        reference: &ReferenceEnv,
        endpoints: &Endpoints,
    ) -> Result<Serves> {
        let upstreams = args.upstream.models()?;
        if args.passage_model.is_some() && !upstreams.is_empty() {
            return Err(Error::config(
                "--passage-model and --query-model are served alone: leave --upstream <name>=URL out",
            )
            .parameter("--upstream"));
        }
        let defaults = ClassSettings::default();
        let forwarded = |task| match endpoints.resolve(&defaults, task) {
            Endpoint::Local | Endpoint::Model(_) => None,
            Endpoint::Remote(url) => Some(url.to_owned()),
        };
        let models = models(&args.model, reference)?;
        let serves = match (forwarded(Task::Passage), forwarded(Task::Query)) {
            (None, None) => match (&args.passage_model, &args.query_model) {
                (Some(passage), Some(query)) => {
                    Serves::ByTask { passage: Side::Model(passage.clone()), query: Side::Model(query.clone()) }
                }
                _ => Serves::Named(named(&args.model, models, upstreams)?),
            },
            (passage, query) => {
                let side = |upstream: Option<String>, own: &Option<String>| match (upstream, own, &models[..]) {
                    (Some(url), ..) => Ok(Side::Upstream(url)),
                    (None, Some(source), _) => Ok(Side::Model(source.clone())),
                    (None, None, [ModelChoice { source, .. }]) => Ok(Side::Model(source.clone())),
                    _ => {
                        let message = "beside an upstream there is room for one model: give --model once";
                        Err(Error::config(message).parameter("--model"))
                    }
                };
                Serves::ByTask { passage: side(passage, &args.passage_model)?, query: side(query, &args.query_model)? }
            }
        };
        serves.note_model(given, args, reference);
        for (id, own) in [("passage_model", &args.passage_model), ("query_model", &args.query_model)] {
            given.or(id, own.clone(), (String::new(), Source::Default));
        }
        Ok(serves)
    }

    /// What `--model` comes to.
    fn note_model(&self, given: &mut Given<'_>, args: &ServeArgs, reference: &ReferenceEnv) {
        if !args.model.model.is_empty() {
            given.text("model");
            return;
        }
        let models: Vec<String> = self.models().into_iter().map(|model| model.source).collect();
        let (value, source) = match (self, &models[..]) {
            _ if args.passage_model.is_some() => ("", Source::Because("--passage-model and --query-model")),
            (Serves::Named(_), []) => ("", Source::Because("--upstream")),
            (Serves::ByTask { .. }, []) => ("", Source::Because("texts are forwarded")),
            (_, [model, ..]) if [IMAGE_MODEL_DIR, MODEL2VEC_IMAGE_DIR].contains(&&**model) => {
                (&**model, Source::Because("the directory is there"))
            }
            (_, [model, ..]) if reference.model_name.is_some() => {
                return given.note("model", model, Source::Variable("MODEL_NAME".to_owned()));
            }
            (_, [model, ..]) => (&**model, Source::Default),
        };
        given.note_found("model", value, source);
    }
}

/// Models and upstreams by their names, the default one first.
fn named(args: &ModelArgs, models: Vec<ModelChoice>, upstreams: Vec<UpstreamChoice>) -> Result<Vec<Served>> {
    // Beside upstreams only a model that somebody asked for is loaded.
    let models = if upstreams.is_empty() || !args.model.is_empty() { models } else { Vec::new() };
    let served: Vec<Served> =
        models.into_iter().map(Served::Model).chain(upstreams.into_iter().map(Served::Upstream)).collect();
    for (place, one) in served.iter().enumerate() {
        if let Some(name) = one.name().filter(|name| served[..place].iter().any(|other| other.name() == Some(name))) {
            return Err(Error::config(format!(
                "two models are named '{name}': give each --model and --upstream a name of its own"
            ))
            .parameter("--upstream"));
        }
    }
    Ok(served)
}

/// The models to serve, the default one first: the flag's, else an image's model directory, else `MODEL_NAME`, else the
/// default.
///
/// # Errors
/// `Config` for a name that cannot be one, and for one that two models have.
pub(super) fn models(args: &ModelArgs, reference: &ReferenceEnv) -> Result<Vec<ModelChoice>> {
    let models = models_with(args, reference, image_dir())?;
    for (place, model) in models.iter().enumerate() {
        if model.name.is_some() && models[..place].iter().any(|other| other.name == model.name) {
            let name = model.name.as_deref().unwrap_or_default();
            let message = format!("two models are named '{name}': give each --model its own name");
            return Err(Error::config(message).parameter("--model"));
        }
    }
    Ok(models)
}

/// The directory in which an image has its model, if it is there: the reference container's and the reranker's, or the model2vec
/// container's.
fn image_dir() -> Option<&'static str> {
    if Path::new(IMAGE_MODEL_DIR).is_dir() {
        return Some(IMAGE_MODEL_DIR);
    }
    Path::new(MODEL2VEC_IMAGE_DIR).join("config.json").is_file().then_some(MODEL2VEC_IMAGE_DIR)
}

pub(super) fn models_with(
    args: &ModelArgs,
    reference: &ReferenceEnv,
    image_dir: Option<&str>,
) -> Result<Vec<ModelChoice>> {
    Ok(match (&args.model[..], image_dir, &reference.model_name) {
        ([], Some(dir), _) => vec![ModelChoice::unnamed(dir)],
        ([], None, Some(name)) => vec![ModelChoice::unnamed(name)],
        ([], None, None) => vec![ModelChoice::unnamed(DEFAULT_MODEL)],
        (models, _, _) => models.iter().map(|model| ModelChoice::read(model)).collect::<Result<_>>()?,
    })
}

/// The base URLs to which texts are forwarded unless a class says otherwise: the flags', else the other programs' variables'.
/// A model that a flag (or its `T2V_*` variable) names is not put aside for `TRANSFORMERS_INFERENCE_API`, which a deployment
/// may share among its containers; `warnings` says so.
///
/// # Errors
/// `Config` if flags name both a model here and an upstream for every text, and for what is no URL of this sidecar.
pub(super) fn endpoints(
    given: &mut Given<'_>,
    args: &ServeArgs,
    reference: &ReferenceEnv,
    warnings: &mut Vec<String>,
) -> Result<Endpoints> {
    let of_flags = args.upstream.urls();
    let variables = match reference.inference_url_variable {
        Some("MODEL2VEC_INFERENCE_API") => "MODEL2VEC_INFERENCE_API",
        _ => "TRANSFORMERS_INFERENCE_API (or its passage and query pair)",
    };
    let mut of_variables = reference.inference_urls.clone();
    if args.upstream.any() && of_variables.take().is_some() {
        let is_whole = of_flags.as_ref().is_some_and(|urls| !urls.passage.is_empty() && !urls.query.is_empty());
        if !is_whole {
            warnings.push(format!(
                "{variables} is set beside a flag that names an upstream: the flags alone say what is forwarded; to forward all \
                 texts give --upstream, or --passage-upstream and --query-upstream"
            ));
        }
    }
    let own = args.self_urls.split(',').map(str::trim);
    if let Some(odd) = own.into_iter().find(|url| !url.is_empty() && !url.contains("://")) {
        let shown = without_secrets(odd);
        let message = format!("'{shown}' is no URL, and means no server: give it as classes do, http://{shown}");
        return Err(Error::config(message).parameter("--self-urls"));
    }
    let endpoints = |urls: Option<InferenceUrls>| Endpoints::new(urls, &args.self_urls);
    let model = match &args.passage_model {
        Some(_) => Some("--passage-model and --query-model (T2V_PASSAGE_MODEL, T2V_QUERY_MODEL)"),
        None => (!args.model.model.is_empty()).then_some("--model (T2V_MODEL)"),
    };
    let defaults = ClassSettings::default();
    let all = endpoints(of_flags.clone().or_else(|| of_variables.clone()));
    let forwards = |task| matches!(all.resolve(&defaults, task), Endpoint::Remote(_));
    let (passages, queries) = (forwards(Task::Passage), forwards(Task::Query));
    // One task's model beside the other's upstream is a pair; models for both leave no room for any.
    let is_too_much = if args.passage_model.is_some() { passages || queries } else { passages && queries };
    if let Some(model) = model.filter(|_| is_too_much) {
        if let Some(urls) = &of_flags {
            let url = if urls.passage.is_empty() { &urls.query } else { &urls.passage };
            let addresses = address::parse_list(url).unwrap_or_default();
            let shown = addresses.first().map_or("a server", |address| address.shown());
            let flags = ["--upstream", "--passage-upstream", "--query-upstream", "--model", "--passage-model"];
            let is_of_file =
                |flag: &&&str| matches!(given.source_of_flag(flag.trim_start_matches('-')), Source::File(_));
            let by = flags.iter().find(is_of_file).copied().unwrap_or("--upstream");
            return Err(Error::config(format!(
                "{model} and --upstream (T2V_UPSTREAM) are both given, a model to serve here and {shown} to forward texts \
                 to: leave one of them out, or name the server (--upstream <name>=URL) to serve both"
            ))
            .parameter(by));
        }
        of_variables = None;
        warnings.push(format!(
            "{variables} is set beside {model}: that model is served here, and \
             nothing is forwarded; unset one of them, or say --upstream if texts should be forwarded"
        ));
    }
    note_upstreams(given, args, reference, &of_flags, &of_variables);
    Ok(endpoints(of_flags.or(of_variables)))
}

/// What `--upstream` and its pair come to.
fn note_upstreams(
    given: &mut Given<'_>,
    args: &ServeArgs,
    reference: &ReferenceEnv,
    of_flags: &Option<InferenceUrls>,
    of_variables: &Option<InferenceUrls>,
) {
    given.text("upstream");
    let flags = &args.upstream;
    for (id, own, variable) in [
        ("passage_upstream", &flags.passage_upstream, "TRANSFORMERS_PASSAGE_INFERENCE_API"),
        ("query_upstream", &flags.query_upstream, "TRANSFORMERS_QUERY_INFERENCE_API"),
    ] {
        let side =
            |urls: &InferenceUrls| if id == "query_upstream" { urls.query.clone() } else { urls.passage.clone() };
        let of_upstream = of_flags.as_ref().map(side).filter(|url| !url.is_empty());
        match (own, of_upstream, of_variables) {
            (Some(url), ..) => drop(given.value(id, url.clone())),
            (None, Some(url), _) => given.note_found(id, &url, given.source("upstream")),
            (None, None, Some(urls)) => {
                let variable = reference.inference_url_variable.unwrap_or(variable);
                given.note(id, &side(urls), Source::Variable(variable.to_owned()));
            }
            (None, None, None) => given.note_found(id, "", Source::Default),
        }
    }
}

//! What is served, and under which names.

use crate::config::{ModelChoice, ReferenceEnv, ServeArgs, UpstreamChoice};
use crate::contract::class::Settings;
use crate::contract::endpoint::Endpoint;
use crate::contract::request::Task;
use crate::error::{Error, Result};
use crate::server::Readiness;

/// What is served under a name of its own.
pub(super) enum Served {
    Model(ModelChoice),
    Upstream(UpstreamChoice),
}

impl Served {
    pub(super) fn name(&self) -> Option<&String> {
        match self {
            Served::Model(choice) => choice.name.as_ref(),
            Served::Upstream(choice) => choice.name.as_ref(),
        }
    }
}

/// What is served by names, the default first. A pair is one model without a name, and so is what is forwarded as a whole.
pub(super) fn served(args: &ServeArgs, forwards: &Forwards, reference: &ReferenceEnv) -> Result<Vec<Served>> {
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

pub(super) fn readiness_of(served: &[Served]) -> Readiness {
    match served {
        [] => Readiness::default(),
        served => Readiness::of(served.iter().map(|served| served.name().cloned())),
    }
}

/// The base URLs to which texts are forwarded by default.
pub(super) struct Forwards {
    pub(super) passage: Option<String>,
    pub(super) query: Option<String>,
}

impl Forwards {
    pub(super) fn of(args: &ServeArgs, reference: &ReferenceEnv) -> Forwards {
        let (endpoints, defaults) = (reference.endpoints(args), Settings::default());
        let url = |task| match endpoints.resolve(&defaults, task) {
            Endpoint::Local | Endpoint::Model(_) => None,
            Endpoint::Remote(url) => Some(url.to_owned()),
        };
        Forwards { passage: url(Task::Passage), query: url(Task::Query) }
    }

    pub(super) fn any(&self) -> bool {
        self.passage.is_some() || self.query.is_some()
    }
}

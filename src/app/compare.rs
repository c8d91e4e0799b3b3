//! `compare`: two sides on the same texts.

use std::path::Path;
use std::sync::Arc;

use super::assemble::{inference, load};
use super::embed::check_dimensions;
use super::input::texts_of;
use super::logs::init_logs;
use crate::backend::Backend;
use crate::backend::remote::startup;
use crate::compare::{self as comparison, Comparison, Verdict};
use crate::config::{CompareArgs, CompareCommand, ModelChoice, without_secrets};
use crate::contract::call::{EmbedSettings, Text};
use crate::error::{Error, ErrorKind, Result};
use crate::model::hub::HubConfig;
use crate::model::locate;

/// Prints how two sides compare; an error where they should not share a collection.
pub(super) async fn compare(command: CompareCommand, args: CompareArgs) -> Result<()> {
    let CompareCommand { model, remote } = command;
    init_logs(&model);
    let texts = match &args.texts {
        None => comparison::TEXTS.map(Text::from).to_vec(),
        Some(path) => texts_of(path)?,
    };
    let settings = EmbedSettings {
        task_name: Some(args.task.clone().into()),
        pooling: Some(args.pooling.clone()),
        dimensions: args.dimensions,
        prompt: None,
    };
    let is_url = |side: &String| side.contains("://");
    if let Some(side) = [&args.first, &args.second].into_iter().find(|side| looks_like_an_address(side)) {
        let side = without_secrets(side);
        return Err(Error::config(format!("'{side}' is no directory: for a server there, give http://{side}")));
    }
    // Before either is loaded, which may take long.
    let hub = HubConfig::from_env()?;
    for side in [&args.first, &args.second].into_iter().filter(|side| !is_url(side)) {
        locate::find(side, model.revision.as_deref(), &hub)?;
    }
    // Between two servers nothing is computed here, so no device is asked for.
    let inference = match [&args.first, &args.second].into_iter().all(is_url) {
        true => None,
        false => Some(inference(&model)?),
    };
    let mut sides: Vec<Arc<dyn Backend>> = Vec::new();
    for side in [&args.first, &args.second] {
        sides.push(match &inference {
            Some(inference) if !is_url(side) => {
                // No setting names it, but a word of the command line.
                Arc::new(load(&ModelChoice::unnamed(side), &model, inference, |error| error).await?)
            }
            _ => {
                let services = startup::connect(Some(side), None, false, &remote).await?;
                services.passage.ok_or_else(|| Error::internal("no connection to the server"))?
            }
        });
    }
    for side in &sides {
        side.info().makes_vectors().map_err(|error| error.with_kind(ErrorKind::Config))?;
        check_dimensions(args.dimensions, side.info())?;
    }
    let comparison = Comparison::run([&*sides[0], &*sides[1]], &texts, &settings).await?;
    println!(
        "first           {}\nsecond          {}\n{comparison}",
        without_secrets(&args.first),
        without_secrets(&args.second)
    );
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

//! `serve --print-config`: the settings as they take effect, and what the models themselves decide, as far as they are here.

use super::assemble::{local_options, models_here, of_model};
use super::output::print_whole;
use super::serve::open;
use crate::backend::local::{self, Chosen};
use crate::config::{ModelChoice, REFERENCE_VARIABLES, Settings, Source};
use crate::error::Result;
use crate::model::hub::HubConfig;
use crate::model::locate;

/// Prints the table, which is a file for `--config`. Nothing is downloaded for it: of a model that is not here yet, `auto` is
/// all that is known.
///
/// # Errors
/// What keeps `serve` from its start, as far as it shows without the network, a card and a model's weights; `Internal` if the
/// table cannot be written.
pub(super) fn print_config(mut settings: Settings) -> Result<()> {
    open(&settings)?;
    let chosen = chosen(&settings)?;
    if !chosen.is_empty() {
        let one = |each: &dyn Fn(&Chosen) -> (String, &'static str)| {
            let (mut values, mut reasons): (Vec<_>, Vec<_>) = chosen.iter().map(each).unzip();
            reasons.dedup();
            let is_one = values.windows(2).all(|two| two[0] == two[1]);
            values.truncate(if is_one { 1 } else { values.len() });
            let source = match reasons[..] {
                [reason] if is_one && REFERENCE_VARIABLES.contains(&reason) => Source::Variable(reason.to_owned()),
                [reason] => Source::Because(reason),
                _ => Source::Because("each model's own"),
            };
            (values, source)
        };
        if settings.model.profiles.are_auto() {
            let (profiles, source) = one(&|chosen| (chosen.profile.to_string(), chosen.profile_chosen_by));
            settings.table.found("profile", &profiles, source);
        }
        let marked = |chosen: &Chosen| chosen.prefixes_are_marked;
        if settings.model.task_prefixes.is_none() && chosen.iter().any(marked) {
            let (prefixes, source) = one(&|chosen| {
                let reason = if marked(chosen) { "the marker file use_query_passage_prefixes" } else { "default" };
                (chosen.task_prefixes.to_string(), reason)
            });
            settings.table.found("task-prefixes", &prefixes, source);
        }
    }
    print_whole(settings.table.to_string().as_bytes())
}

/// What each of the models here chooses by itself; of none, if one is not on disk yet.
fn chosen(settings: &Settings) -> Result<Vec<Chosen>> {
    let models = models_here(settings);
    if models.is_empty() {
        return Ok(Vec::new());
    }
    let hub = HubConfig::from_env()?;
    let one = |(model, flag): &(ModelChoice, &'static str)| {
        let named = |error| of_model(error, flag, settings);
        let revision = settings.model.revision.as_deref();
        match locate::find(&model.source, revision, &hub).map_err(named)? {
            Some(found) => local::chosen(&local_options(found, model, &settings.model)).map(Some).map_err(named),
            None if hub.offline => Err(named(locate::absent_offline(&model.source, revision, &hub))),
            None => Ok(None),
        }
    };
    // Of all that are here something is wrong or nothing, whether or not others are still to be downloaded.
    let chosen: Vec<Option<Chosen>> = models.iter().map(one).collect::<Result<_>>()?;
    Ok(chosen.into_iter().collect::<Option<_>>().unwrap_or_default())
}

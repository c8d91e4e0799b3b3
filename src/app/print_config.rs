//! `serve --print-config`: the settings as they take effect, and what the models themselves decide, as far as they are here.

use super::assemble::local_options;
use super::output::print_whole;
use crate::backend::local::{self, Chosen};
use crate::config::{REFERENCE_VARIABLES, Settings, Source};
use crate::error::Result;
use crate::model::hub::HubConfig;
use crate::model::locate;

/// Prints the table, which is a file for `--config`. Nothing is downloaded for it: of a model that is not here yet, `auto` is
/// all that is known.
///
/// # Errors
/// `Internal` if it cannot be written.
pub(super) fn print_config(mut settings: Settings) -> Result<()> {
    let chosen = chosen(&settings).unwrap_or_else(|error| {
        settings.table.warn(format!("what the models decide by themselves cannot be told: {error}"));
        Vec::new()
    });
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
    let hub = HubConfig::from_env()?;
    let mut chosen = Vec::new();
    for model in settings.serves.models() {
        let Some(found) = locate::find(&model.source, settings.model.revision.as_deref(), &hub)? else {
            return Ok(Vec::new());
        };
        chosen.push(local::chosen(&local_options(found, &model, &settings.model))?);
    }
    Ok(chosen)
}

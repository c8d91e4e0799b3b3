//! `serve --print-config`: the settings as they take effect, and what the models themselves decide, as far as they are here.

use super::assemble::local_options;
use crate::backend::local::{self, Chosen};
use crate::config::{Settings, Source};
use crate::error::Result;
use crate::model::hub::HubConfig;
use crate::model::locate;

/// Prints the table. Nothing is downloaded for it: of a model that is not here yet, `auto` is all that is known.
pub(super) fn print_config(mut settings: Settings) {
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
            let source = if let [reason] = reasons[..] { reason } else { "each model's own" };
            (values.join(","), Source::Because(source))
        };
        if settings.model.profiles.are_auto() {
            let (profile, source) = one(&|chosen| (chosen.profile.to_string(), chosen.profile_chosen_by));
            settings.table.set("profile", profile, source);
        }
        let marked = |chosen: &Chosen| chosen.prefixes_are_marked;
        if settings.model.task_prefixes.is_none() && chosen.iter().any(marked) {
            let (prefixes, source) = one(&|chosen| {
                let reason = if marked(chosen) { "the marker file use_query_passage_prefixes" } else { "default" };
                (chosen.task_prefixes.to_string(), reason)
            });
            settings.table.set("task-prefixes", prefixes, source);
        }
    }
    print!("{}", settings.table);
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

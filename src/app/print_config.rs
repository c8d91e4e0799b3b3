//! `serve --print-config`: the settings as they take effect, and what the models themselves decide, as far as they are here.

use super::assemble::local_options;
use crate::backend::local::{self, Chosen};
use crate::config::{Settings, Source};
use crate::model::hub::HubConfig;
use crate::model::locate;

/// Prints the table. Nothing is downloaded for it: of a model that is not here yet, `auto` is all that is known.
pub(super) fn print_config(mut settings: Settings) {
    if let Some(chosen) = chosen(&settings) {
        let one = |each: &dyn Fn(&Chosen) -> (String, &'static str)| {
            let (mut values, mut reasons): (Vec<_>, Vec<_>) = chosen.iter().map(each).unzip();
            reasons.dedup();
            let is_one = values.windows(2).all(|two| two[0] == two[1]);
            values.truncate(if is_one { 1 } else { values.len() });
            let source = if let [reason] = reasons[..] { reason } else { "each model's own" };
            (values.join(","), Source::Because(source))
        };
        if settings.model.profile.is_none() {
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

/// What each of the models here chooses by itself; `None` if there is none, or one is not here.
fn chosen(settings: &Settings) -> Option<Vec<Chosen>> {
    let hub = HubConfig::from_env().ok()?;
    let mut chosen = Vec::new();
    for model in settings.serves.models() {
        let found = locate::find(&model.source, settings.model.revision.as_deref(), &hub).ok()??;
        chosen.push(local::chosen(&local_options(found, &settings.model)).ok()?);
    }
    (!chosen.is_empty()).then_some(chosen)
}

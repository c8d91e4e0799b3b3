//! The log of each subcommand, and what is said in it first.

use crate::config::ModelSettings;
use crate::telemetry;
use crate::telemetry::metrics::metrics;

/// Starts the log of a command that serves nobody: without traces.
pub(super) fn init_logs(settings: &ModelSettings) {
    telemetry::init_logs(settings.log.format);
    warn(settings);
}

/// Says what is asked for that cannot be honoured.
pub(super) fn warn(settings: &ModelSettings) {
    metrics().cuda_unavailable.set(settings.cuda_wanted.into());
    for warning in &settings.log.warnings {
        tracing::warn!("{warning}");
    }
}

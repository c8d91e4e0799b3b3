//! The log of each subcommand, and what is said in it first.

use crate::config::{ModelArgs, ReferenceEnv};
use crate::telemetry::metrics::metrics;
use crate::telemetry::{self, LogFormat};

/// How log lines look: by the flag, else by the reference's variable.
pub(super) fn log_format(args: &ModelArgs, reference: &ReferenceEnv) -> LogFormat {
    args.log_format.or(reference.log_format).unwrap_or_default()
}

/// Starts the log of a command that serves nobody: without traces.
pub(super) fn init_logs(args: &ModelArgs, reference: &ReferenceEnv) {
    telemetry::init_logs(log_format(args, reference));
    warn(reference);
}

/// Says what the environment asks for that cannot be honoured.
pub(super) fn warn(reference: &ReferenceEnv) {
    metrics().cuda_unavailable.set(reference.cuda_wanted.into());
    for warning in &reference.warnings {
        tracing::warn!("{warning}");
    }
}

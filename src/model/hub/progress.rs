//! How far a download is, for who watches it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::config::HubConfig;
use super::files::RepoFile;

/// A bar over all bytes that are missing.
pub(super) fn progress_bar(config: &HubConfig, missing: &[&RepoFile]) -> ProgressBar {
    if !config.progress || missing.is_empty() {
        return ProgressBar::hidden();
    }
    let total = missing.iter().map(|file| file.size.unwrap_or(0)).sum();
    // Not drawn unless standard error is a terminal.
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = "{msg:24!} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

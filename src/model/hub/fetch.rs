//! A model from the Hub, from its name to its files on disk.

use super::client::Hub;
use super::config::HubConfig;
use super::names::{check_id, check_revision};
use super::snapshot::{Destination, Snapshot};
use crate::error::{Error, Result};

const DEFAULT_REVISION: &str = "main";

/// Downloads what is needed of model `id` at `revision` (`main` if `None`), skipping what is already there whole.
///
/// # Errors
/// `Config` offline or when files cannot be written, `NotFound` for a model or revision
/// that the Hub does not know (or hides), `PermissionDenied` for a gated model, `Unavailable`
/// when the Hub cannot be reached or fails. Every message is one line and says what to do.
pub async fn fetch(id: &str, revision: Option<&str>, to: &Destination, config: &HubConfig) -> Result<Snapshot> {
    check_id(id)?;
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    check_revision(revision)?;
    if config.offline {
        return Err(offline_error(id, config));
    }
    let hub = Hub::new(id, revision, config)?;
    let (commit, files) = hub.list().await?;
    match to {
        Destination::Cache => hub.fill_cache(config.cache_dir()?, &commit, files).await,
        Destination::Folder(dir) => hub.fill_folder(dir, &commit, files).await,
    }
}

/// The answer to every wish for a connection while offline.
pub(in crate::model) fn offline_error(id: &str, config: &HubConfig) -> Error {
    let place =
        config.cache.as_deref().map_or("there is no cache".to_owned(), |dir| format!("looked in {}", dir.display()));
    Error::config(format!(
        "HF_HUB_OFFLINE is set and {id} is not on this machine ({place}): unset it, or run `text2vec-sidecar download \
         {id}` where the Hub can be reached and copy the folder, or give the directory of the model"
    ))
}

//! From a model's name to its directory: a directory, an id in the cache, or else the Hub.

use std::fs;
use std::path::Path;

use super::complete::{check_complete, lacks};
use super::directory::{in_directory, plain};
use super::found::{IMAGE_MODEL_DIR, Image, Layout, MODEL2VEC_IMAGE_DIR, ModelDir};
use super::memo::Memo;
use super::snapshots::{commits, snapshot};
use crate::error::{Error, Result};
use crate::model::hub::{self, Destination, HubConfig};

/// Finds a model on disk, or downloads it into the Hub cache if `model` is an id that is not there.
/// A model that is there costs no request.
///
/// # Errors
/// As [`find`] and [`hub::fetch`]; offline, `Config` for an id that is not on disk.
pub async fn locate(model: &str, revision: Option<&str>, config: &HubConfig) -> Result<ModelDir> {
    if let Some(found) = find(model, revision, config)? {
        return Ok(found);
    }
    if config.offline {
        return Err(absent_offline(model, revision, config));
    }
    let nowhere =
        |error: Error| error.context(format!("there is no directory {model:?}, and as a Hub id it cannot be had"));
    download(model, revision, None, config).await.map_err(nowhere)
}

/// Downloads a Hub model into the cache or, with `dir`, as plain files with a [`Memo`]. Offline it only succeeds when
/// nothing has to be fetched.
///
/// # Errors
/// As [`hub::fetch`], and `Config` if what the Hub has is not a model that can be loaded.
pub async fn download(model: &str, revision: Option<&str>, dir: Option<&Path>, config: &HubConfig) -> Result<ModelDir> {
    hub::check_id(model)?;
    if let Some(revision) = revision {
        hub::check_revision(revision)?;
    }
    if config.offline {
        let here = match dir {
            None => find_cached(model, revision, config)?,
            Some(dir) => match Memo::read(dir)? {
                Some(memo) if memo.model_id == model => Some(plain(dir, revision)?),
                _ => None,
            },
        };
        return here.ok_or_else(|| absent_offline(model, revision, config));
    }
    let (destination, layout) = match dir {
        None => (Destination::Cache, Layout::HubCache),
        Some(dir) => (Destination::Folder(dir.to_owned()), Layout::Plain),
    };
    let snapshot = hub::fetch(model, revision, &destination, config).await?;
    let found = ModelDir {
        markers: snapshot.path.clone(),
        path: snapshot.path,
        id: Some(model.to_owned()),
        revision: Some(snapshot.revision.clone()),
        layout,
        image: None,
    };
    check_complete(&found.path)?;
    if layout == Layout::Plain {
        let source = config.endpoint.clone();
        Memo { model_id: model.to_owned(), revision: Some(snapshot.revision), source }.write(&found.path)?;
    }
    Ok(found)
}

/// Finds a model on disk without any request: `model` is a directory or a Hub id in the cache. `Ok(None)` is an id
/// that is not in the cache, or not wholly.
///
/// # Errors
/// `Config` for a directory that is no complete model and for what is neither a directory nor an id, `InvalidArgument`
/// for what cannot be a revision; each says what to do.
pub fn find(model: &str, revision: Option<&str>, config: &HubConfig) -> Result<Option<ModelDir>> {
    if let Some(revision) = revision {
        hub::check_revision(revision)?;
    }
    let path = Path::new(model);
    if path.is_dir() {
        let found = in_directory(path, revision)?;
        let images = [(IMAGE_MODEL_DIR, Image::Transformers), (MODEL2VEC_IMAGE_DIR, Image::Model2vec)];
        let image = images.into_iter().find(|(dir, _)| found.id.is_none() && is_same(path, Path::new(dir)));
        return Ok(Some(ModelDir { image: image.map(|(_, image)| image), ..found }));
    }
    if path.exists() {
        return Err(Error::config(format!("{model} is a file: give the directory that holds the model")));
    }
    if model.contains("://") {
        // It may have a password in it.
        return Err(Error::config(
            "a model is a directory or a Hub id (like org/name), not a URL: a server that embeds is named by --upstream",
        ));
    }
    if hub::check_id(model).is_err() {
        return Err(Error::config(format!(
            "there is no directory {model:?}: give a directory with a model or a Hub id (like org/name)"
        )));
    }
    find_cached(model, revision, config)
}

fn find_cached(id: &str, revision: Option<&str>, config: &HubConfig) -> Result<Option<ModelDir>> {
    let Some(cache) = &config.cache else { return Ok(None) };
    let folder = cache.join(hub::cache_folder_name(id));
    let Some((path, commit)) = snapshot(&folder, revision) else { return Ok(None) };
    if !lacks(&path)?.is_empty() {
        return Ok(None);
    }
    let markers = path.clone();
    let (id, revision) = (Some(id.to_owned()), Some(commit));
    Ok(Some(ModelDir { path, markers, id, revision, layout: Layout::HubCache, image: None }))
}

/// Why an id could not be found while offline, with what the cache does have.
pub fn absent_offline(id: &str, revision: Option<&str>, config: &HubConfig) -> Error {
    let error = hub::offline_error(id, config);
    let Some(cache) = &config.cache else { return error };
    let folder = cache.join(hub::cache_folder_name(id));
    let others = commits(&folder).join(", ");
    let detail = match snapshot(&folder, revision).map(|(path, _)| lacks(&path)) {
        Some(Ok(missing)) if !missing.is_empty() => format!("the copy is incomplete, without {}", missing.join(", ")),
        _ if !others.is_empty() => {
            format!("revision {:?} is not here, only {others}: see --revision", revision.unwrap_or("main"))
        }
        _ => return error,
    };
    error.context(detail)
}

/// Whether two paths are one directory, however they are written and linked.
fn is_same(one: &Path, other: &Path) -> bool {
    let canonical = |path| fs::canonicalize(path).ok();
    canonical(one).is_some_and(|one| canonical(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_has_many_paths() {
        let dir = tempfile::tempdir().expect("a directory");
        let (image, link) = (dir.path().join("model"), dir.path().join("link"));
        fs::create_dir(&image).expect("a directory");
        std::os::unix::fs::symlink(&image, &link).expect("a link");
        for same in [image.clone(), image.join(""), dir.path().join("./link/../model"), link] {
            assert!(is_same(&same, &image), "{}", same.display());
        }
        for other in [dir.path().to_owned(), dir.path().join("none"), image.join("deeper")] {
            assert!(!is_same(&other, &image), "{}", other.display());
        }
        assert!(!is_same(&dir.path().join("none"), &dir.path().join("none")), "nothing is there");
    }
}

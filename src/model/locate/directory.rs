//! The model in a directory that is given: in the directory itself, in the cache that it is, or in one of a cache's
//! folders.

use std::fs;
use std::path::{Path, PathBuf};

use super::complete::check_complete;
use super::found::{Layout, ModelDir};
use super::memo::Memo;
use super::snapshots::{cached_identity, commits, id_of_folder, snapshot};
use crate::error::{Error, Result};
use crate::model::hub;

/// Files that the reference's `download.py` leaves beside a model.
const MARKERS: [&str; 7] = [
    "model_name",
    "model_config",
    "onnx_runtime",
    "onnx_quantization_info",
    "use_query_passage_prefixes",
    "use_query_prompt",
    "trust_remote_code",
];

/// The model that a directory is or holds.
pub(super) fn in_directory(dir: &Path, revision: Option<&str>) -> Result<ModelDir> {
    let marked = MARKERS.iter().any(|name| dir.join(name).is_file());
    if dir.join("config.json").exists() || dir.join("modules.json").exists() {
        let (layout, markers) = (if marked { Layout::ReferenceImage } else { Layout::Plain }, dir.to_owned());
        return match cached_identity(dir) {
            Some((id, commit)) => {
                if let Some(wanted) = revision.filter(|wanted| *wanted != commit) {
                    return Err(Error::config(format!(
                        "{} is revision {commit}, not {wanted}: leave --revision out or give the id {id}",
                        dir.display()
                    ))
                    .parameter("--revision"));
                }
                check_complete(dir)?;
                let layout = if marked { Layout::ReferenceImage } else { Layout::HubCache };
                let (id, revision) = (Some(id), Some(commit));
                Ok(ModelDir { path: dir.to_owned(), markers, id, revision, layout, image: None })
            }
            None => Ok(ModelDir { layout, ..plain(dir, revision)? }),
        };
    }
    if let Some(id) = dir.file_name().and_then(|name| id_of_folder(name.to_str()?)) {
        return in_model_folder(dir, id, revision, dir, Layout::HubCache);
    }
    let layout = if marked { Layout::ReferenceImage } else { Layout::HubCache };
    let (id, folder) = choose_in_cache(dir)?;
    // Caches of sentence-transformers before 2.3 hold plain folders.
    if !folder.join("snapshots").exists() {
        check_complete(&folder)?;
        let (markers, id) = (dir.to_owned(), Some(id));
        return Ok(ModelDir { path: folder, markers, id, revision: None, layout, image: None });
    }
    in_model_folder(&folder, id, revision, dir, layout)
}

/// The model in a directory that is a cache: the one its `model_name` marker names, else the only one.
fn choose_in_cache(dir: &Path) -> Result<(String, PathBuf)> {
    let named = fs::read_to_string(dir.join("model_name")).ok().map(|name| name.trim().to_owned());
    let mut there: Vec<(String, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| Error::config(format!("cannot read {}: {error}", dir.display())))? {
        let path = entry.map_err(|error| Error::config(format!("cannot read {}: {error}", dir.display())))?.path();
        if let Some(id) = path.file_name().and_then(|name| id_of_folder(name.to_str()?))
            && path.join("snapshots").is_dir()
        {
            there.push((id, path));
        }
    }
    there.sort();
    if let Some(id) = named.filter(|name| hub::check_id(name).is_ok()) {
        // sentence-transformers takes a bare name for one of its own models.
        let full = format!("sentence-transformers/{id}");
        for id in [&id, &full] {
            if let Some(found) = there.iter().find(|(other, _)| other == id) {
                return Ok(found.clone());
            }
            let old = dir.join(id.replace('/', "_"));
            if old.join("modules.json").exists() || old.join("config.json").exists() {
                return Ok((id.clone(), old));
            }
        }
        return Err(Error::config(format!(
            "{} should hold {id} (its file model_name says so) but does not: copy the whole directory",
            dir.display()
        )));
    }
    match there.len() {
        1 => Ok(there.remove(0)),
        0 => Err(Error::config(format!(
            "{} holds no model (neither config.json nor models--… in it): give the directory of a model or a Hub id",
            dir.display()
        ))),
        _ => {
            let ids: Vec<String> = there.into_iter().map(|(id, _)| id).collect();
            Err(Error::config(format!(
                "{} holds several models ({}): set HF_HUB_CACHE to it and give the id of one",
                dir.display(),
                ids.join(", ")
            )))
        }
    }
}

fn in_model_folder(
    folder: &Path,
    id: String,
    revision: Option<&str>,
    markers: &Path,
    layout: Layout,
) -> Result<ModelDir> {
    let mut found = snapshot(folder, revision);
    let there = commits(folder);
    if let (None, None, [only]) = (&found, revision, &there[..]) {
        found = Some((folder.join("snapshots").join(only), only.clone()));
    }
    let Some((path, commit)) = found else {
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        return Err(Error::config(format!(
            "{} has no revision {:?}; it has: {there}",
            folder.display(),
            revision.unwrap_or("main")
        )));
    };
    check_complete(&path)?;
    let (markers, id, revision) = (markers.to_owned(), Some(id), Some(commit));
    Ok(ModelDir { path, markers, id, revision, layout, image: None })
}

/// A directory with the model's files in it.
pub(super) fn plain(dir: &Path, revision: Option<&str>) -> Result<ModelDir> {
    let memo = Memo::read(dir)?;
    let known = memo.as_ref().and_then(|memo| memo.revision.clone());
    if let Some(wanted) = revision.filter(|wanted| known.as_deref() != Some(*wanted)) {
        let known = known.unwrap_or("unknown".to_owned());
        return Err(Error::config(format!(
            "the revision of {} is {known}, not {wanted}: leave --revision out, it is for Hub ids",
            dir.display()
        ))
        .parameter("--revision"));
    }
    check_complete(dir)?;
    Ok(ModelDir {
        path: dir.to_owned(),
        markers: dir.to_owned(),
        id: memo.map(|memo| memo.model_id),
        revision: known,
        layout: Layout::Plain,
        image: None,
    })
}

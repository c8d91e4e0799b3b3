//! A model's folder in a Hub cache: `models--org--name/{refs,snapshots/<commit>}`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::hub;

/// The snapshot folder and commit of a revision (`main` if `None`).
pub(super) fn snapshot(folder: &Path, revision: Option<&str>) -> Option<(PathBuf, String)> {
    let revision = revision.unwrap_or("main");
    let commit = if hub::is_commit(revision) {
        revision.to_owned()
    } else {
        let commit = fs::read_to_string(folder.join("refs").join(revision)).ok()?.trim().to_owned();
        hub::is_commit(&commit).then_some(commit)?
    };
    let path = folder.join("snapshots").join(&commit);
    path.is_dir().then_some((path, commit))
}

/// All commits in a model's cache folder, sorted.
pub(super) fn commits(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut commits: Vec<String> = names.filter(|name| hub::is_commit(name)).collect();
    commits.sort();
    commits
}

/// `models--org--name` → `org/name`.
pub(super) fn id_of_folder(name: &str) -> Option<String> {
    let id = name.strip_prefix("models--")?.replacen("--", "/", 1);
    hub::check_id(&id).is_ok().then_some(id)
}

/// Id and commit of a directory `…/models--org--name/snapshots/<commit>`, whichever way the path to it is written.
pub(super) fn cached_identity(dir: &Path) -> Option<(String, String)> {
    let dir = fs::canonicalize(dir).ok()?;
    let commit = dir.file_name()?.to_str().filter(|name| hub::is_commit(name))?;
    let snapshots = dir.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
    let id = id_of_folder(snapshots.parent()?.file_name()?.to_str()?)?;
    Some((id, commit.to_owned()))
}

//! Where a model is on disk.
//!
//! A model is named by a directory or by a Hub id. These layouts are known:
//! - *plain*: `config.json`, tokenizer and weights in the directory, perhaps with our [`Memo`] of where it came from;
//! - *Hub cache*: `models--org--name/{refs,blobs,snapshots/<commit>}`; the directory given may be the cache, the model's
//!   folder in it, or one snapshot;
//! - *reference image*: what t2v-transformers images hold in `/app/models/model`: a plain directory, or (for its
//!   sentence-transformers profile) a cache folder of that library, in either case with marker files beside
//!   (`download.py` of that project).
//!
//! Only a directory that has everything is ever returned: an interrupted copy or download is an error or, for an id,
//! a reason to download the rest.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use text2vec_engine::onnx::graph_file;

use crate::error::{Error, ErrorKind, Result};
use crate::model::hub::{self, Destination, HubConfig};

/// Where the reference container's images, and ours, keep their model.
pub const IMAGE_MODEL_DIR: &str = "/app/models/model";

/// File in a plain directory that says where its content came from.
pub const MEMO_FILE: &str = "text2vec-sidecar.json";

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

/// How the files of a model lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A directory with the files in it.
    Plain,
    /// A snapshot in a Hub cache.
    HubCache,
    /// A directory with marker files of the reference image, or with a model in it next to them.
    ReferenceImage,
}

/// A model on disk, complete as far as file names tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDir {
    /// The directory with `config.json` or `modules.json`.
    pub path: PathBuf,
    /// The directory that may hold the reference's marker files: `path` itself or the cache folder around it.
    pub markers: PathBuf,
    /// The Hub id, where known.
    pub id: Option<String>,
    /// The commit on the Hub, where known.
    pub revision: Option<String>,
    /// How it was found.
    pub layout: Layout,
    /// Somebody put it at [`IMAGE_MODEL_DIR`]: it is that directory, and neither a cache nor downloaded by this program.
    pub in_image: bool,
}

/// Content of [`MEMO_FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    /// The Hub id of the model.
    pub model_id: String,
    /// The commit on the Hub, if it is known.
    #[serde(default)]
    pub revision: Option<String>,
    /// Where the files were fetched from.
    #[serde(default)]
    pub source: String,
}

impl Memo {
    /// The memo in `dir`, `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if there is one that cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Memo>> {
        let path = dir.join(MEMO_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let memo = serde_json::from_str(&read(&path)?).map_err(|error| {
            Error::config(format!("{} is damaged ({error}): delete it or download the model again", path.display()))
        })?;
        Ok(Some(memo))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(MEMO_FILE);
        let json = serde_json::to_string(self).map_err(|error| Error::internal(error.to_string()))? + "\n";
        let part = path.with_extension("json.tmp");
        fs::write(&part, json)
            .and_then(|()| fs::rename(&part, &path))
            .map_err(|error| Error::config(format!("cannot write {}: {error}", path.display())))
    }
}

/// Finds a model on disk, or downloads it into the Hub cache if `model` is an id that is not there.
/// A model that is there costs no request.
///
/// # Errors
/// As [`find`] and [`hub::fetch`]; offline, [`ErrorKind::Config`] for an id that is not on disk.
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
/// As [`hub::fetch`], and [`ErrorKind::Config`] if what the Hub has is not a model that can be loaded.
pub async fn download(model: &str, revision: Option<&str>, dir: Option<&Path>, config: &HubConfig) -> Result<ModelDir> {
    hub::check_id(model)?;
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
        in_image: false,
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
/// [`ErrorKind::Config`] for a directory that is no complete model, [`ErrorKind::InvalidArgument`] for what is neither
/// a directory nor an id; each says what to do.
pub fn find(model: &str, revision: Option<&str>, config: &HubConfig) -> Result<Option<ModelDir>> {
    if let Some(revision) = revision {
        hub::check_revision(revision)?;
    }
    let path = Path::new(model);
    if path.is_dir() {
        let found = in_directory(path, revision)?;
        let in_image = found.id.is_none() && is_same(path, Path::new(IMAGE_MODEL_DIR));
        return Ok(Some(ModelDir { in_image, ..found }));
    }
    if path.exists() {
        return Err(Error::config(format!("{model} is a file: give the directory that holds the model")));
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
    Ok(Some(ModelDir { path, markers, id, revision, layout: Layout::HubCache, in_image: false }))
}

/// Why an id could not be found while offline, with what the cache does have.
fn absent_offline(id: &str, revision: Option<&str>, config: &HubConfig) -> Error {
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

fn in_directory(dir: &Path, revision: Option<&str>) -> Result<ModelDir> {
    let marked = MARKERS.iter().any(|name| dir.join(name).is_file());
    if dir.join("config.json").exists() || dir.join("modules.json").exists() {
        let (layout, markers) = (if marked { Layout::ReferenceImage } else { Layout::Plain }, dir.to_owned());
        return match cached_identity(dir) {
            Some((id, commit)) => {
                if let Some(wanted) = revision.filter(|wanted| *wanted != commit) {
                    return Err(Error::config(format!(
                        "{} is revision {commit}, not {wanted}: leave --revision out or give the id {id}",
                        dir.display()
                    )));
                }
                check_complete(dir)?;
                let layout = if marked { Layout::ReferenceImage } else { Layout::HubCache };
                let (id, revision) = (Some(id), Some(commit));
                Ok(ModelDir { path: dir.to_owned(), markers, id, revision, layout, in_image: false })
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
        return Ok(ModelDir { path: folder, markers, id, revision: None, layout, in_image: false });
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
    Ok(ModelDir { path, markers, id, revision, layout, in_image: false })
}

fn plain(dir: &Path, revision: Option<&str>) -> Result<ModelDir> {
    let memo = Memo::read(dir)?;
    let known = memo.as_ref().and_then(|memo| memo.revision.clone());
    if let Some(wanted) = revision.filter(|wanted| known.as_deref() != Some(*wanted)) {
        let known = known.unwrap_or("unknown".to_owned());
        return Err(Error::config(format!(
            "the revision of {} is {known}, not {wanted}: leave --revision out, it is for Hub ids",
            dir.display()
        )));
    }
    check_complete(dir)?;
    Ok(ModelDir {
        path: dir.to_owned(),
        markers: dir.to_owned(),
        id: memo.map(|memo| memo.model_id),
        revision: known,
        layout: Layout::Plain,
        in_image: false,
    })
}

/// The snapshot folder and commit of a revision (`main` if `None`).
fn snapshot(folder: &Path, revision: Option<&str>) -> Option<(PathBuf, String)> {
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
fn commits(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut commits: Vec<String> = names.filter(|name| hub::is_commit(name)).collect();
    commits.sort();
    commits
}

/// `models--org--name` → `org/name`.
fn id_of_folder(name: &str) -> Option<String> {
    let id = name.strip_prefix("models--")?.replacen("--", "/", 1);
    hub::check_id(&id).is_ok().then_some(id)
}

/// Id and commit of a directory `…/models--org--name/snapshots/<commit>`, whichever way the path to it is written.
fn cached_identity(dir: &Path) -> Option<(String, String)> {
    let dir = fs::canonicalize(dir).ok()?;
    let commit = dir.file_name()?.to_str().filter(|name| hub::is_commit(name))?;
    let snapshots = dir.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
    let id = id_of_folder(snapshots.parent()?.file_name()?.to_str()?)?;
    Some((id, commit.to_owned()))
}

/// Whether two paths are one directory, however they are written and linked.
fn is_same(one: &Path, other: &Path) -> bool {
    let canonical = |path| fs::canonicalize(path).ok();
    canonical(one).is_some_and(|one| canonical(other) == Some(one))
}

fn check_complete(dir: &Path) -> Result<()> {
    let missing = lacks(dir)?;
    if missing.is_empty() {
        return Ok(());
    }
    let has_onnx = dir.join("onnx").is_dir() || dir.join("model.onnx").exists();
    let hint = if has_onnx { " (of ONNX files only model_quantized.onnx is read)" } else { "" };
    Err(Error::config(format!(
        "the model in {} lacks {}{hint}: copy or download it again",
        dir.display(),
        missing.join(", ")
    )))
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type", default)]
    class: String,
}

/// What is missing for `dir` to be a model, by names of files. Follows `modules.json`, where there is one, and the lists
/// of sharded weights.
fn lacks(dir: &Path) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut body = String::new();
    let mut has_config = true;
    let modules = dir.join("modules.json");
    if modules.exists() {
        let modules: Vec<Module> = serde_json::from_str(&read(&modules)?)
            .map_err(|error| Error::config(format!("{} is damaged: {error}", modules.display())))?;
        for module in &modules {
            let class = module.class.rsplit('.').next().unwrap_or_default();
            match class {
                "Transformer" => body = module.path.clone(),
                "StaticEmbedding" => {
                    body = module.path.clone();
                    has_config = false;
                }
                "Pooling" | "Dense" => {
                    let name = format!("{}/config.json", module.path);
                    if !dir.join(&name).is_file() {
                        missing.push(name);
                    }
                }
                _ => {}
            }
            if class == "Dense" {
                missing.extend(lacks_weights(dir, &module.path)?);
            }
        }
    }
    let at = dir.join(&body);
    if has_config && !at.join("config.json").is_file() {
        missing.push(named(&body, "config.json"));
    }
    let has_sentencepiece = || {
        fs::read_dir(&at)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|e| e == "model"))
    };
    if !["tokenizer.json", "vocab.txt", "vocab.json"].iter().any(|name| at.join(name).is_file()) && !has_sentencepiece()
    {
        missing.push(named(&body, "tokenizer.json"));
    }
    if graph_file(dir).is_none() {
        missing.extend(lacks_weights(dir, &body)?);
    }
    Ok(missing)
}

fn named(folder: &str, file: &str) -> String {
    if folder.is_empty() || folder == "." { file.to_owned() } else { format!("{folder}/{file}") }
}

fn lacks_weights(dir: &Path, folder: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let at = dir.join(folder);
    for (single, index) in
        [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")]
    {
        if at.join(single).is_file() {
            refuse_pointer(&at.join(single))?;
            return Ok(Vec::new());
        }
        if at.join(index).is_file() {
            let path = at.join(index);
            let index: Index = serde_json::from_str(&read(&path)?)
                .map_err(|error| Error::config(format!("{} is damaged: {error}", path.display())))?;
            let mut shards: Vec<&String> = index.weight_map.values().collect();
            shards.sort();
            shards.dedup();
            let missing = shards.into_iter().filter(|shard| !at.join(shard).is_file());
            return Ok(missing.map(|shard| named(folder, shard)).collect());
        }
    }
    Ok(vec![named(folder, "model.safetensors")])
}

/// A clone without git-lfs leaves small text files where the weights should be.
fn refuse_pointer(path: &Path) -> Result<()> {
    let small = fs::metadata(path).is_ok_and(|meta| meta.len() < 1024);
    if small && fs::read(path).is_ok_and(|content| content.starts_with(b"version https://git-lfs")) {
        return Err(Error::config(format!(
            "{} is a git-lfs pointer, not the weights: run `git lfs pull` there, or download the model",
            path.display()
        )));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path)
        .map_err(|error| Error::new(ErrorKind::Config, format!("cannot read {}: {error}", path.display())))
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

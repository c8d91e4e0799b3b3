//! A model that was found on disk.

use std::path::PathBuf;

/// Where the reference container's images, and ours, keep their model; the images of the reranker too.
pub const IMAGE_MODEL_DIR: &str = "/app/models/model";

/// Where the model2vec container's images keep theirs.
pub const MODEL2VEC_IMAGE_DIR: &str = "/app/models";

/// Whose images have their model where one was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// The reference container's: [`IMAGE_MODEL_DIR`].
    Transformers,
    /// The model2vec container's: [`MODEL2VEC_IMAGE_DIR`].
    Model2vec,
}

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
    /// Somebody put it where these images have their model: it is that directory, and neither a cache nor downloaded by this
    /// program.
    pub image: Option<Image>,
}

//! Where downloaded files go, and what came of it.

use std::path::PathBuf;

/// Where downloaded files go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// The Hub cache of [`HubConfig::cache`](super::HubConfig::cache).
    Cache,
    /// Plain files in this folder, made if need be.
    Folder(PathBuf),
}

/// A model's files on disk, all of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that holds them.
    pub path: PathBuf,
    /// The commit they are from: 40 hexadecimal digits.
    pub revision: String,
}

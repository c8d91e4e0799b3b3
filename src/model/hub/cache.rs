//! Files into a cache in the layout of `huggingface_hub`.

use std::fs;
use std::path::Path;

use reqwest::Method;

use super::client::{Failure, Hub};
use super::disk::{cannot_write, link_blob, lock, make_dir, replace};
use super::files::RepoFile;
use super::names::{cache_folder_name, is_sha256};
use super::progress::progress_bar;
use super::snapshot::Snapshot;
use crate::error::Result;

impl Hub<'_> {
    /// Fills a Hub cache: blobs first, then the snapshot's links, then the reference.
    pub(super) async fn fill_cache(&self, cache: &Path, commit: &str, mut files: Vec<RepoFile>) -> Result<Snapshot> {
        let folder = cache_folder_name(self.id);
        let root = cache.join(&folder);
        let blobs = root.join("blobs");
        let locks = cache.join(".locks").join(&folder);
        make_dir(&blobs)?;
        make_dir(&locks)?;
        for file in files.iter_mut().filter(|file| file.etag.is_none()) {
            // A mirror that does not list hashes still gives them as headers.
            let answer = self.ask(Method::HEAD, self.file_url(commit, &file.name), 0).await;
            let answer = answer.map_err(|(Failure::Passing(error) | Failure::Final(error))| error)?;
            file.sha256 = answer.etag.clone().filter(|etag| is_sha256(etag));
            file.size = file.size.or(answer.size);
            file.etag = Some(answer.etag.ok_or_else(|| {
                self.unavailable("gave no ETag, which the cache needs: use `download --dir` instead".to_owned())
            })?);
        }
        // Every file now has its ETag.
        let named = || files.iter().filter_map(|file| Some((file, file.etag.as_deref()?)));
        let present = |file: &RepoFile, etag: &str| {
            fs::metadata(blobs.join(etag)).is_ok_and(|meta| file.size.is_none_or(|size| size == meta.len()))
        };
        let missing: Vec<&RepoFile> =
            named().filter(|(file, etag)| !present(file, etag)).map(|(file, _)| file).collect();
        let bar = progress_bar(self.config, &missing);
        for (file, etag) in named() {
            if present(file, etag) {
                continue;
            }
            bar.set_message(file.name.clone());
            let _lock = lock(&locks.join(format!("{etag}.lock")), &bar).await?;
            if !present(file, etag) {
                let part = blobs.join(format!("{etag}.incomplete"));
                self.transfer(commit, file, &part, &bar).await?;
                let blob = blobs.join(etag);
                fs::rename(&part, &blob).map_err(|error| cannot_write(&blob, &error))?;
            }
        }
        let snapshot = root.join("snapshots").join(commit);
        let _lock = lock(&locks.join(format!("{commit}.lock")), &bar).await?;
        for (file, etag) in named() {
            link_blob(&blobs, etag, &snapshot, &file.name)?;
        }
        if self.revision != commit {
            replace(&root.join("refs").join(self.revision), commit.as_bytes())?;
        }
        bar.finish_and_clear();
        Ok(Snapshot { path: snapshot, revision: commit.to_owned() })
    }
}

//! Files into a plain folder.

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use super::client::Hub;
use super::disk::{cannot_write, has_content, lock, make_dir};
use super::files::RepoFile;
use super::progress::progress_bar;
use super::snapshot::Snapshot;
use crate::error::Result;

/// Where files are gathered until all are there.
const STAGING: &str = ".text2vec-download";

impl Hub<'_> {
    /// Fills a plain folder: all files are gathered and checked in a staging folder inside it and then moved.
    pub(super) async fn fill_folder(&self, dir: &Path, commit: &str, files: Vec<RepoFile>) -> Result<Snapshot> {
        let staging = dir.join(STAGING);
        make_dir(&staging)?;
        let _lock = lock(&staging.join("lock"), &ProgressBar::hidden()).await?;
        let mut missing = Vec::new();
        for file in &files {
            let in_place = has_content(&dir.join(&file.name), file).await;
            if !in_place && !has_content(&staging.join(&file.name), file).await {
                missing.push(file);
            }
        }
        let bar = progress_bar(self.config, &missing);
        for file in missing {
            bar.set_message(file.name.clone());
            let staged = staging.join(&file.name);
            make_dir(staged.parent().unwrap_or(&staging))?;
            let mut part = staged.clone().into_os_string();
            part.push(".incomplete");
            let part = PathBuf::from(part);
            self.transfer(commit, file, &part, &bar).await?;
            fs::rename(&part, &staged).map_err(|error| cannot_write(&staged, &error))?;
        }
        for file in &files {
            let (staged, target) = (staging.join(&file.name), dir.join(&file.name));
            if staged.exists() {
                make_dir(target.parent().unwrap_or(dir))?;
                fs::rename(&staged, &target).map_err(|error| cannot_write(&target, &error))?;
            }
        }
        fs::remove_dir_all(&staging).map_err(|error| cannot_write(&staging, &error))?;
        bar.finish_and_clear();
        Ok(Snapshot { path: dir.to_owned(), revision: commit.to_owned() })
    }
}

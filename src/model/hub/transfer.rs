//! One file, downloaded whole or not at all: what broke off is continued, and what arrived is checked.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use indicatif::ProgressBar;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, StatusCode};
use sha2::{Digest, Sha256};

use super::client::{Failure, Hub, text};
use super::disk::{blocking, cannot_write, digest, hex};
use super::files::RepoFile;
use crate::error::Result;

/// Attempts at one file. A broken connection continues where it stopped, so several cost little.
const ATTEMPTS: u32 = 5;

impl Hub<'_> {
    /// Downloads one file to `part`, continuing what is there if its content can be checked, and checks it.
    pub(super) async fn transfer(&self, commit: &str, file: &RepoFile, part: &Path, bar: &ProgressBar) -> Result<()> {
        let before = bar.position();
        let mut attempt = 1;
        loop {
            let error = match self.transfer_once(commit, file, part, bar).await {
                Ok(()) => return Ok(()),
                Err(Failure::Passing(error)) if attempt < ATTEMPTS => error,
                Err(Failure::Passing(error) | Failure::Final(error)) => {
                    return Err(error.context(format_args!("downloading {} of {}", file.name, self.id)));
                }
            };
            bar.suspend(|| tracing::debug!(file = file.name, attempt, %error, "download interrupted, trying again"));
            bar.set_position(before);
            self.pause(attempt).await;
            attempt += 1;
        }
    }

    async fn transfer_once(
        &self,
        commit: &str,
        file: &RepoFile,
        part: &Path,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let disk = |error: std::io::Error| Failure::Final(cannot_write(part, &error));
        // Only a file that is checked by its hash may be continued: nothing else tells whose beginning this is.
        let (mut have, mut hash) = (0, Sha256::new());
        if file.sha256.is_some() && part.exists() {
            let path = part.to_owned();
            (have, hash) = blocking(move || digest(&path)).await.map_err(disk)?;
        }
        let whole = file.size == Some(have) && have > 0;
        if !whole {
            let mut answer = match self.ask(Method::GET, self.file_url(commit, &file.name), have).await {
                // The server does not have this many bytes: what is here is something else.
                Err(failure) if have > 0 && !part_is_plausible(file, have) => {
                    fs::remove_file(part).map_err(disk)?;
                    let (Failure::Passing(error) | Failure::Final(error)) = failure;
                    return Err(Failure::Passing(error));
                }
                answer => answer?,
            };
            let continues = answer.response.status() == StatusCode::PARTIAL_CONTENT
                && text(answer.response.headers(), CONTENT_RANGE.as_str())
                    .is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
            if !continues {
                (have, hash) = (0, Sha256::new());
            }
            let mut options = File::options();
            let mut out =
                options.create(true).write(true).append(continues).truncate(!continues).open(part).map_err(disk)?;
            bar.inc(have);
            while let Some(chunk) = answer.response.chunk().await.map_err(|error| self.broken(error))? {
                out.write_all(&chunk).map_err(disk)?;
                hash.update(&chunk);
                have += chunk.len() as u64;
                bar.inc(chunk.len() as u64);
            }
            out.sync_all().map_err(disk)?;
            let expected = file.size.or(answer.size);
            if let Some(expected) = expected.filter(|&expected| expected != have) {
                if have > expected || file.sha256.is_none() {
                    fs::remove_file(part).map_err(disk)?;
                }
                return Err(self.failed(format!("sent {have} bytes of {expected}")));
            }
        }
        if let Some(expected) = &file.sha256
            && !expected.eq_ignore_ascii_case(&hex(hash))
        {
            fs::remove_file(part).map_err(disk)?;
            return Err(self.failed("sent damaged content (its SHA-256 is not the one announced)".to_owned()));
        }
        Ok(())
    }
}

fn part_is_plausible(file: &RepoFile, have: u64) -> bool {
    file.size.is_none_or(|size| have < size)
}

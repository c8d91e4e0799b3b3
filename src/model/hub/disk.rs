//! Files, links, locks and hashes on disk.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::files::RepoFile;
use crate::error::{Error, Result};

pub(super) fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::config(format!("cannot write {}: {error}", path.display()))
}

pub(super) fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| cannot_write(dir, &error))
}

/// Puts `content` into `path` at once or not at all.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    make_dir(path.parent().unwrap_or(Path::new(".")))?;
    let part = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&part, content).and_then(|()| fs::rename(&part, path)).map_err(|error| cannot_write(path, &error))
}

/// `snapshots/<commit>/<name>` → `../../blobs/<etag>`; a copy where links cannot be made.
pub(super) fn link_blob(blobs: &Path, etag: &str, snapshot: &Path, name: &str) -> Result<()> {
    let pointer = snapshot.join(name);
    let dir = pointer.parent().unwrap_or(snapshot);
    make_dir(dir)?;
    let blob = blobs.join(etag);
    if let (Ok(now), Ok(wanted)) = (fs::canonicalize(&pointer), fs::canonicalize(&blob))
        && now == wanted
    {
        return Ok(());
    }
    let up = "../".repeat(2 + name.matches('/').count());
    let part = dir.join(format!(".{}.{}.tmp", pointer.file_name().unwrap_or_default().display(), std::process::id()));
    // What a crash left here is most likely a link to the blob, and must not be written through.
    let _ = fs::remove_file(&part);
    let made = match symlink(Path::new(&format!("{up}blobs/{etag}")), &part) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => fs::copy(&blob, &part).map(|_| ()),
        made => made,
    };
    made.and_then(|()| fs::rename(&part, &pointer)).map_err(|error| cannot_write(&pointer, &error))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, _link: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Waits for a file lock, as `huggingface_hub` takes it, so that two processes do not write the same file. Where the
/// file system knows no locks we go on without: content is checked and renamed into place either way.
pub(super) async fn lock(path: &Path, bar: &ProgressBar) -> Result<File> {
    let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
    let mut told = false;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if !told {
            bar.suspend(|| tracing::info!(lock = %path.display(), "another process is downloading this file; waiting"));
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(file)
}

/// Length and running SHA-256 of a file.
pub(super) fn digest(path: &Path) -> std::io::Result<(u64, Sha256)> {
    let mut file = File::open(path)?;
    let (mut length, mut hash, mut buffer) = (0, Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((length, hash));
        }
        hash.update(&buffer[..count]);
        length += count as u64;
    }
}

/// Whether `path` already is `file`. Only content with a known SHA-256 can tell; small files are fetched anew.
pub(super) async fn has_content(path: &Path, file: &RepoFile) -> bool {
    let Some(expected) = file.sha256.clone() else { return false };
    let path = path.to_owned();
    blocking(move || digest(&path)).await.is_ok_and(|(_, hash)| hex(hash).eq_ignore_ascii_case(&expected))
}

/// Runs file work that may take seconds outside the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

pub(super) fn hex(hash: Sha256) -> String {
    crate::hex::hex(&hash.finalize())
}

//! What is made of files and made again when they change: orchestrators replace tokens and certificates under a running
//! server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::error::{Error, Place, Result};
use crate::small_file;

/// How often the files are looked at. Their whole content is compared: they are small, and a mounted secret is replaced by
/// a link to another directory, with whatever times its files have.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the contents of some files mean.
type Read<T> = dyn Fn(&[Vec<u8>]) -> Result<T> + Send + Sync;

/// A file that cannot be used, named in the text and noted.
pub(super) fn at_fault(file: &Path, what: fmt::Arguments<'_>) -> Error {
    Error::config(format!("{} {what}", file.display())).naming(Place::File(file.to_owned()))
}

/// A value made of files. Whoever holds an older one keeps it: nothing under way is disturbed by a change.
pub(super) struct Followed<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    read: Box<Read<T>>,
    current: RwLock<Arc<T>>,
    /// Of the contents that `current` was made of.
    digest: [u8; 32],
    now: Notify,
}

impl<T: Send + Sync + 'static> Followed<T> {
    /// Reads the files now. `what` names the value in the log.
    ///
    /// # Errors
    /// `Config` for a file that cannot be read, and what `read` says of the contents.
    pub(super) fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn(&[Vec<u8>]) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Followed<T>> {
        let contents = contents(&files)?;
        let current = RwLock::new(Arc::new(read(&contents)?));
        Ok(Followed { what, digest: digest(&contents), files, read: Box::new(read), current, now: Notify::new() })
    }

    /// The value as it is now.
    pub(super) fn current(&self) -> Arc<T> {
        // A panic while the lock was held leaves a pointer that is still right.
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the files looked at at once, by whoever follows them.
    pub(super) fn look_now(&self) {
        self.now.notify_one();
    }

    /// Looks at the files for ever. What cannot be used is said once, and the last good value kept.
    pub(super) async fn follow(self: Arc<Self>) {
        if self.files.is_empty() {
            return;
        }
        let mut seen = Ok(self.digest);
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.now.notified() => {}
            }
            let this = self.clone();
            // A file system may hang.
            let looked = tokio::task::spawn_blocking(move || this.look(seen)).await;
            match looked {
                Ok(now) => seen = now,
                Err(error) => {
                    tracing::error!("the {} are no longer read again: {error}", self.what);
                    return;
                }
            }
        }
    }

    /// Reads the files again if they are not as `seen`: a digest of them, or why they could not be read.
    fn look(&self, seen: Result<[u8; 32]>) -> Result<[u8; 32]> {
        let kept = |error: &Error| tracing::error!("the {} stay as they were: {error}", self.what);
        let contents = match contents(&self.files) {
            Ok(contents) => contents,
            Err(error) => {
                if seen.as_ref() != Err(&error) {
                    kept(&error);
                }
                return Err(error);
            }
        };
        let now = digest(&contents);
        if seen != Ok(now) {
            match (self.read)(&contents) {
                Ok(value) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                    tracing::info!("the {} were read again", self.what);
                }
                Err(error) => kept(&error),
            }
        }
        Ok(now)
    }
}

fn contents(files: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let read = |path: &PathBuf| {
        small_file::read(path).map_err(|error| {
            let message = format!("{} cannot be read: {error}", path.display());
            Error::config(message).naming(Place::File(path.clone())).caused_by(error)
        })
    };
    files.iter().map(read).collect()
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for content in contents {
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn number(path: &Path) -> Result<Followed<u32>> {
        Followed::new("numbers", vec![path.to_owned()], |contents| {
            let text = String::from_utf8_lossy(&contents[0]);
            text.trim().parse().map_err(|_| Error::config(format!("'{text}' is no number")))
        })
    }

    #[test]
    fn a_value_changes_with_its_file_and_survives_a_bad_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        assert!(number(&path).err().is_some_and(|error| error.message().contains("cannot be read")));
        std::fs::write(&path, "x").expect("write");
        assert!(number(&path).is_err());
        std::fs::write(&path, "1").expect("write");
        let followed = number(&path).expect("a number");
        let held = followed.current();
        let mut seen = Ok(followed.digest);
        let mut look = |content: Option<&str>| {
            match content {
                Some(content) => std::fs::write(&path, content).expect("write"),
                None => std::fs::remove_file(&path).expect("remove"),
            }
            seen = followed.look(seen.clone());
            *followed.current()
        };
        assert_eq!(look(Some("2")), 2);
        assert_eq!(look(Some("")), 2);
        assert_eq!(look(None), 2);
        assert_eq!(look(Some("2")), 2);
        assert_eq!(look(Some("3\n")), 3);
        assert_eq!(*held, 1);
    }
}

//! How far an import is, on disk: what was killed goes on there.
//!
//! Two numbers count. All rows up to `done` are in. Rows beyond `sent` were never sent. Those between may be in, half in or not
//! in: they are deleted, and inserted anew.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::options::Options;

/// What is hashed of a file: so many bytes at both ends.
const HASHED: u64 = 1 << 16;

/// Objects whose presence is looked up before an import goes on.
const SAMPLES: usize = 16;

/// Raised when what is in a checkpoint changes.
const VERSION: u32 = 1;

/// How far an import is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// Names the file's content.
    source: String,
    /// Names the model that made the vectors.
    pub(crate) fingerprint: String,
    /// All rows up to here are in, or have failed.
    pub(crate) done: u64,
    /// No row behind this one was sent.
    pub(crate) sent: u64,
    /// Where the file was read up to with them, in the unit of its size.
    pub(crate) position: u64,
    /// Rows among those done that failed.
    pub(crate) failed: u64,
    /// Bytes of the file of failed rows that belong to the rows done.
    pub(crate) failed_bytes: u64,
    /// Some of the objects that are in, the last one among them.
    pub(crate) samples: Vec<Sample>,
}

/// What is noted of an import before this one.
#[derive(Debug, PartialEq)]
pub(crate) enum Before {
    Nothing,
    /// It cannot be read: how far that import was is not known.
    Unreadable,
    State(State),
}

/// An object that is in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) id: String,
    pub(crate) tenant: String,
}

impl State {
    /// A new import of a file with this content.
    pub(crate) fn new(source: String, fingerprint: String) -> State {
        State { version: VERSION, source, fingerprint, ..State::default() }
    }

    /// Whether this is of the same content.
    pub(crate) fn is_of(&self, source: &str) -> bool {
        self.version == VERSION && self.source == source
    }

    /// Notes an object that is in. The first ones are kept, and the last ones.
    pub(crate) fn sample(&mut self, id: &str, tenant: &str) {
        if self.samples.len() >= SAMPLES {
            self.samples.remove(SAMPLES / 2);
        }
        self.samples.push(Sample { id: id.to_owned(), tenant: tenant.to_owned() });
    }
}

/// The file. It is locked while an import runs, so that two of the same do not meet.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl Checkpoint {
    /// The checkpoint of an import, and what it says if it is there.
    pub(crate) fn open(folder: &Path, options: &Options, collection: &str) -> Result<(Checkpoint, Before)> {
        let unusable = |path: &Path, error: &dyn std::fmt::Display| {
            Error::new(format!(
                "{} cannot be written: {error}: name another folder by --checkpoints, or none by --checkpoints ''",
                path.display()
            ))
        };
        std::fs::create_dir_all(folder).map_err(|error| unusable(folder, &error))?;
        let path = folder.join(format!("{}.json", name(options, collection)));
        let lock_path = path.with_extension("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| unusable(&lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    "the same file is being imported into the same collection: wait for that import's end",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(&lock_path, &error)),
        }
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_or(Before::Unreadable, Before::State),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Before::Nothing,
            Err(_) => Before::Unreadable,
        };
        Ok((Checkpoint { path, _lock: lock }, state))
    }

    /// Writes the state so that either it or the one before is there, whatever happens.
    pub(crate) fn write(&self, state: &State) -> Result<()> {
        let unwritable =
            |error: std::io::Error| Error::new(format!("{} cannot be written: {error}", self.path.display()));
        let new = self.path.with_extension("new");
        let bytes = serde_json::to_vec_pretty(state).map_err(|error| unwritable(error.into()))?;
        let mut file = File::create(&new).map_err(unwritable)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(unwritable)?;
        std::fs::rename(&new, &self.path).map_err(unwritable)?;
        if let Some(folder) = self.path.parent() {
            // Not every system lets a folder be opened for this.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    /// The import is at its end: another one begins anew. The lock's file stays, as another import may be opening it.
    pub(crate) fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One import is told from another by what is read, how, and where it goes.
fn name(options: &Options, collection: &str) -> String {
    let path = std::fs::canonicalize(&options.source.path).unwrap_or_else(|_| options.source.path.clone());
    let source = &options.source;
    let told = format!(
        "{}\n{}\n{collection}\n{:?}\n{:?}\n{:?}\n{:?}\n{}\n{}",
        path.display(),
        options.weaviate.url.trim_end_matches('/'),
        (source.format, source.delimiter, source.list_delimiter, source.max_row_bytes),
        options.ids,
        options.tenant,
        options.weaviate.consistency,
        options.sidecar.model,
        options.allow_new_properties,
    );
    Sha256::digest(told.as_bytes()).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// Names the content of a file: its size, when it was written, and what is at both ends.
pub(crate) fn content(path: &Path) -> Result<String> {
    let unreadable = |error: std::io::Error| Error::new(format!("{} cannot be read: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut hash = Sha256::new();
    let mut piece = Vec::new();
    (&mut file).take(HASHED).read_to_end(&mut piece).map_err(unreadable)?;
    hash.update(&piece);
    piece.clear();
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(HASHED))).map_err(unreadable)?;
    file.take(HASHED).read_to_end(&mut piece).map_err(unreadable)?;
    hash.update(&piece);
    let written = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{} bytes, {} ns, {digits}", metadata.len(), written.unwrap_or_default().as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_known_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, vec![b'x'; 200_000]).expect("written");
        let first = content(&path).expect("read");
        assert_eq!(content(&path).expect("read"), first);
        std::fs::write(&path, [vec![b'x'; 199_999], vec![b'y']].concat()).expect("written");
        assert_ne!(content(&path).expect("read"), first);
    }

    #[test]
    fn a_checkpoint_that_cannot_be_read_is_no_missing_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = crate::options::tests::options();
        let open = || Checkpoint::open(folder.path(), &options, "A").expect("opened");
        let (checkpoint, before) = open();
        assert_eq!(before, Before::Nothing);
        let state = State::new("a".into(), "f".into());
        checkpoint.write(&state).expect("written");
        let path = checkpoint.path.clone();
        drop(checkpoint);
        assert_eq!(open().1, Before::State(state));
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() / 2]).expect("written");
        assert_eq!(open().1, Before::Unreadable);
    }

    #[test]
    fn samples_are_few_and_the_last_one_is_among_them() {
        let mut state = State::new("a".into(), "f".into());
        for number in 0..1000 {
            state.sample(&number.to_string(), "");
            assert_eq!(state.samples.last().map(|sample| &*sample.id), Some(&*number.to_string()));
            assert!(state.samples.len() <= SAMPLES);
        }
        assert_eq!(state.samples[0].id, "0");
    }
}

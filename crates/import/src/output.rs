//! Objects and vectors as JSON lines, for who inserts them otherwise.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use crate::chunk::Failed;
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::sidecar::Made;
use crate::weaviate::Entry;

/// Opens a file for writing. Whoever wrote into it since it was looked at first loses nothing.
fn file(path: &Path, overwrite: bool) -> Result<File> {
    let opened = File::options().write(true).create(true).truncate(overwrite).open(path);
    let file = opened.map_err(|error| unwritable(path, &error))?;
    match file.metadata() {
        Ok(found) if found.is_file() && found.len() > 0 => Err(Error::new(format!(
            "--output {} has something in it already: name another file, or add --overwrite to lose what is there",
            path.display()
        ))),
        _ => Ok(file),
    }
}

/// Where lines go.
pub(crate) struct Output {
    path: PathBuf,
    write: Mutex<Box<dyn Write + Send>>,
}

impl Output {
    /// `-` is standard output. A file that has something in it is written anew only if it may be.
    pub(crate) fn open(path: &Path, overwrite: bool) -> Result<Output> {
        let write: Box<dyn Write + Send> = match path.as_os_str() == "-" {
            true => Box::new(std::io::stdout()),
            false => Box::new(file(path, overwrite)?),
        };
        Ok(Output { path: path.to_owned(), write: Mutex::new(Box::new(BufWriter::new(write))) })
    }

    /// A line each; `vectors` has a field for each vector, the class-level one's name being empty.
    pub(crate) fn write(&self, collection: &Collection, entries: Vec<Entry>) -> Result<Vec<Failed>, String> {
        let mut failed = Vec::new();
        let mut lines = String::new();
        for Entry { object, vectors } in entries {
            if let Some(reason) =
                vectors.iter().find_map(|made| if let Made::Refused(reason) = made { Some(reason) } else { None })
            {
                failed.push(object.failed(reason.clone()));
                continue;
            }
            let vectors = collection.targets.iter().zip(vectors).filter_map(|(target, made)| match made {
                Made::Vector(vector) => Some((target.name.clone(), Value::from(vector))),
                _ => None,
            });
            let vectors: Map<_, _> = vectors.collect();
            let mut line = json!({"id": object.id, "properties": object.properties, "vectors": vectors});
            if let (false, Some(fields)) = (object.tenant.is_empty(), line.as_object_mut()) {
                fields.insert("tenant".into(), object.tenant.into());
            }
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
        let mut write = self.write.lock().unwrap_or_else(PoisonError::into_inner);
        let written = write.write_all(lines.as_bytes()).and_then(|()| write.flush());
        written.map_err(|error| unwritable(&self.path, &error).message().to_owned())?;
        Ok(failed)
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(format!("--output {} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_into_a_file_meanwhile_is_not_lost() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("objects.jsonl");
        assert!(file(&path, false).is_ok(), "it is new");
        assert!(file(&path, false).is_ok(), "nothing is in it");
        std::fs::write(&path, "{}\n").expect("a line");
        let error = file(&path, false).expect_err("something is in it");
        assert!(error.message().contains("--overwrite"), "{error}");
        assert_eq!(std::fs::read(&path).expect("the file"), b"{}\n");
        assert!(file(&path, true).is_ok_and(|file| file.metadata().is_ok_and(|found| found.len() == 0)));
    }
}

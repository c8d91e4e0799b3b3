//! The note in a plain directory that says where its content came from.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::complete::read;
use crate::error::{Error, Result};

/// File in a plain directory that says where its content came from.
pub const MEMO_FILE: &str = "text2vec-sidecar.json";

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
    /// `Config` if there is one that cannot be read.
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

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(MEMO_FILE);
        let json = serde_json::to_string(self).map_err(|error| Error::internal(error.to_string()))? + "\n";
        let part = path.with_extension("json.tmp");
        fs::write(&part, json)
            .and_then(|()| fs::rename(&part, &path))
            .map_err(|error| Error::config(format!("cannot write {}: {error}", path.display())))
    }
}

//! Names of models, revisions and files: which of them are safe in paths and URLs.

use crate::error::{Error, Result};

/// Whether `revision` is a full commit hash rather than the name of a branch or tag.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The name of a model's folder inside a Hub cache.
pub fn cache_folder_name(id: &str) -> String {
    format!("models--{}", id.replace('/', "--"))
}

/// Checks that `id` has the form `name` or `org/name` that the Hub allows, so that it is safe in paths and URLs.
///
/// # Errors
/// `InvalidArgument` for anything else.
pub fn check_id(id: &str) -> Result<()> {
    let part_ok = |part: &str| {
        (1..=96).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("--")
            && !part.contains("..")
    };
    if id.split('/').count() <= 2 && id.split('/').all(part_ok) {
        return Ok(());
    }
    // A URL may have a password in it.
    Err(Error::invalid(match id.contains("://") {
        true => "a model of the Hub is named by its id, such as org/name, not by a URL".to_owned(),
        false => format!("{id:?} is neither a directory nor a Hub model id (like org/name)"),
    }))
}

/// Checks that a branch, tag or commit name is safe in paths and URLs.
///
/// # Errors
/// `InvalidArgument` for anything else.
pub fn check_revision(revision: &str) -> Result<()> {
    let part_ok = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+@".contains(&b))
    };
    if revision.len() <= 200 && revision.split('/').all(part_ok) {
        return Ok(());
    }
    Err(Error::invalid(format!("{revision:?} is not a revision: give a branch, a tag or a commit hash"))
        .parameter("--revision"))
}

/// Whether a name is a file's own, with nothing that a path or URL takes for more.
pub(super) fn is_plain_name(base: &str) -> bool {
    !base.starts_with('.') && base.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

pub(super) fn is_sha256(hash: &str) -> bool {
    hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_revisions_are_safe_in_paths() {
        for good in ["distilbert-base-uncased", "BAAI/bge-small-en-v1.5", "a/b_c", "google/flan-t5-base"] {
            check_id(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a b", "a--b", "-a", "a/b.", "a?b", "ä/b"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        for good in ["main", "v1.0", "refs/pr/1", "0123456789012345678901234567890123456789"] {
            check_revision(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in ["", "..", "a/../b", "/a", "a//b", ".git", "a b", "a\\b"] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
        assert_eq!(cache_folder_name("org/name"), "models--org--name");
        assert_eq!(cache_folder_name("name"), "models--name");
    }
}

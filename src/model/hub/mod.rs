//! Files from the Hugging Face Hub: which ones a model needs, and getting them whole.
//!
//! The environment variables are those of Python's `huggingface_hub`, and so is the layout of the cache, so that both
//! can share one folder: `models--org--name/{blobs/<etag>, snapshots/<commit>/<file>, refs/<revision>}`.
//!
//! What is promised:
//! - *offline means offline*: with [`HubConfig::offline`] no socket is opened, no client is even made;
//! - *whole or absent*: a file gets its name only after its length, and for weights its SHA-256, were checked; a
//!   snapshot gets its `refs/` entry, and a plain folder its files, only after all of them are there;
//! - an interrupted download of a large file is continued, not begun again;
//! - the token goes to the configured endpoint only, never to the storage servers it redirects to.
//!
//! This module is the only one that speaks HTTP to the Hub.
//!
//! | to find | look in |
//! |---|---|
//! | environment variables, the token, proxies | `config` |
//! | names that are safe in paths and URLs | `names` |
//! | which files a model needs | `files` |
//! | requests, redirects, what refusals mean | `client` |
//! | one file, whole and checked | `transfer` |
//! | the two places where files go | `cache`, `folder` |
//! | files, links, locks and hashes on disk | `disk` |
//! | all of it, in order | `fetch` |

mod cache;
mod client;
mod config;
mod disk;
mod fetch;
mod files;
mod folder;
mod names;
mod progress;
mod snapshot;
mod transfer;

pub use self::config::{HubConfig, Proxies};
pub use self::fetch::fetch;
pub(in crate::model) use self::fetch::offline_error;
pub use self::names::{cache_folder_name, check_id, check_revision, is_commit};
pub use self::snapshot::{Destination, Snapshot};

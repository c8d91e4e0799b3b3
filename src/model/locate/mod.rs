//! Where a model is on disk.
//!
//! A model is named by a directory or by a Hub id. These layouts are known:
//! - *plain*: `config.json`, tokenizer and weights in the directory, perhaps with our [`Memo`] of where it came from;
//! - *Hub cache*: `models--org--name/{refs,blobs,snapshots/<commit>}`; the directory given may be the cache, the model's
//!   folder in it, or one snapshot;
//! - *reference image*: what t2v-transformers images hold in `/app/models/model`: a plain directory, or (for its
//!   sentence-transformers profile) a cache folder of that library, in either case with marker files beside
//!   (`download.py` of that project);
//! - *model2vec image*: a plain directory, `/app/models`.
//!
//! Only a directory that has everything is ever returned: an interrupted copy or download is an error or, for an id,
//! a reason to download the rest.
//!
//! | to find | look in |
//! |---|---|
//! | finding and downloading, in order | `search` |
//! | a directory that is given | `directory` |
//! | a model's folder in a Hub cache | `snapshots` |
//! | whether everything is there | `complete` |
//! | what is found, and where it came from | `found`, `memo` |

mod complete;
mod directory;
mod found;
mod memo;
mod search;
mod snapshots;

pub use self::found::{IMAGE_MODEL_DIR, Image, Layout, MODEL2VEC_IMAGE_DIR, ModelDir};
pub use self::memo::{MEMO_FILE, Memo};
pub use self::search::{absent_offline, download, find, locate};

//! Forwarding: texts go to another server, vectors come back, checked.
//!
//! | to find | look in |
//! |---|---|
//! | the backend itself: its texts checked, its model named | [`upstream`] |
//! | the options of all upstreams | [`options`] |
//! | URL schemes, user-info, what may be shown | [`address`], [`base_url`] |
//! | which addresses may be dialled (the SSRF guard) | [`guard`] |
//! | one call's texts cut into requests; how many, learned | `sending`, [`batch`] |
//! | balancing, attempts | [`pool`], [`retry`] |
//! | replicas found by name, their health | [`lookup`], [`replica`] |
//! | connections, TLS, one HTTP exchange | [`client`], [`resolve`], [`credentials`] |
//! | the wire formats, their list, what each must be able to do | [`formats`], [`kind`] |
//! | waiting at start, questions that are no texts, names | [`startup`], [`probe`], [`identity`] |
//! | an upstream that is this sidecar | [`itself`] |
//! | upstreams that classes name | [`directory`] |
//!
//! # What a caller sees when an upstream misbehaves
//!
//! One replica, t2v kind; with more replicas what is tried again goes to another one. Kept by `tests/remote/remote_faults.rs`.
//!
//! | the upstream | tried again | the caller sees | text contains |
//! |---|---|---|---|
//! | answers slowly, in time | no | the vector | |
//! | never answers | no | deadline_exceeded 504 | `no answer within` |
//! | cannot be reached | yes | upstream 502 | `send POST request: Post` |
//! | closes without an answer | once | upstream 502 | `send POST request: Post` |
//! | breaks off in mid-answer | no | upstream 502 | `read response body` |
//! | 500, plain text | no | upstream 502 | `failed to parse vectorization response (status 500)` |
//! | 500, JSON error | no | upstream 502 | `fail with status 500: kaboom` |
//! | 502, HTML | yes | upstream 502 | `failed to parse vectorization response (status 502)` |
//! | 503 with Retry-After, then well | yes | the vector | |
//! | 429 with Retry-After, then well | yes | the vector | |
//! | 429 without Retry-After | no | overloaded 429 | `fail with status 429` |
//! | 422 | no | invalid_argument 400 | `fail with status 422` |
//! | 413 for one text | no | too_large 413 | `fail with status 413` |
//! | 401 | no | upstream 502 | `fail with status 401` |
//! | 307 | no | upstream 502 | `fail with status 307` |
//! | 200 without a vector | no | upstream 502 | `status 200 without a vector` |
//! | 200 with an empty vector | no | upstream 502 | `an empty vector` |
//! | 200 with NaN | no | upstream 502 | `failed to parse vectorization response (status 200)` |
//! | 200 with a number beyond float32 | no | upstream 502 | `no float32` |
//! | 200 with another length than before | no | upstream 502 | `2 dimensions, before they were 3` |
//! | 200, JSON cut short | no | upstream 502 | `failed to parse vectorization response (status 200)` |
//! | fails every other time (502) | yes | the vector | |
//! | DNS with one dead address | yes | the vector | |
//!
//! Nothing of this is ever cached, and nothing lasts longer than the deadline.

pub mod address;
pub mod base_url;
pub mod batch;
pub mod client;
pub mod credentials;
pub mod directory;
pub mod formats;
pub mod guard;
pub mod identity;
pub mod itself;
pub mod kind;
pub mod lookup;
pub mod options;
pub mod pool;
pub mod probe;
pub mod replica;
pub mod resolve;
pub mod retry;
mod sending;
pub mod startup;
pub mod upstream;

pub use self::options::RemoteOptions;
pub use self::upstream::Remote;

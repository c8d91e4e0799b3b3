//! Upstreams that classes name: made when first needed, guarded, a bounded number kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::guard::{Allowed, FLAG};
use super::options::RemoteOptions;
use super::pool::Pool;
use super::upstream::Remote;
use super::{address, formats, identity};
use crate::backend::{Backend, Directory};
use crate::error::{Error, ErrorKind, Result};

/// Upstreams kept. Users choose the URLs, so there must be an end; the one unused for longest goes.
const KEPT: usize = 128;

/// Longest URL of a class.
const MAX_URL: usize = 2048;

/// What is put around each backend: a cache.
pub type Wrap = Box<dyn Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Send + Sync>;

/// See the module.
pub struct ClassUpstreams {
    allowed: Arc<Allowed>,
    options: RemoteOptions,
    wrap: Wrap,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    backends: HashMap<String, (Arc<dyn Backend>, u64)>,
    uses: u64,
}

impl ClassUpstreams {
    /// Upstreams at the allowed hosts, each within `wrap`.
    pub fn new(allowed: Allowed, options: RemoteOptions, wrap: Wrap) -> ClassUpstreams {
        ClassUpstreams { allowed: Arc::new(allowed), options, wrap, known: Mutex::default() }
    }

    /// A backend for a URL of a class. Never probed: a scheme that does not say what it is means the reference
    /// container.
    fn of_class(&self, url: &str) -> Result<Arc<Remote>> {
        let addresses = address::parse_list(url)?;
        for address in &addresses {
            self.allowed.may_resolve(address)?;
        }
        let format = addresses.first().and_then(|address| formats::unasked(address.kind));
        let pool = Pool::new(addresses, Some(self.allowed.clone()), self.options.clone());
        Ok(Arc::new(Remote::new(pool, format, identity::fingerprint_of_url(url))))
    }
}

impl fmt::Debug for ClassUpstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClassUpstreams").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Directory for ClassUpstreams {
    fn backend(&self, url: &str) -> Result<Arc<dyn Backend>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.uses += 1;
        let now = known.uses;
        if let Some((backend, used)) = known.backends.get_mut(url) {
            *used = now;
            return Ok(backend.clone());
        }
        // Whatever is wrong with a class's URL, it is not dialled; the answer always says who may change that.
        let refuse = |error: Error| match error.kind() {
            ErrorKind::PermissionDenied => error,
            _ => {
                let message = format!("{error}; classes may name what {FLAG} allows");
                error.with_kind(ErrorKind::PermissionDenied).with_message(message)
            }
        };
        if url.len() > MAX_URL {
            return Err(refuse(Error::invalid(format!("the class names a URL of {} bytes", url.len()))));
        }
        let remote = self.of_class(url).map_err(refuse)?;
        let backend = (self.wrap)(remote);
        if known.backends.len() >= KEPT {
            let oldest = known.backends.iter().min_by_key(|(_, (_, used))| *used).map(|(url, _)| url.clone());
            known.backends.remove(&oldest.unwrap_or_default());
        }
        known.backends.insert(url.to_owned(), (backend.clone(), now));
        Ok(backend)
    }
}

//! Names to addresses. A seam: tests put a resolver of their own here.

use std::fmt;
use std::net::IpAddr;

use futures_util::future::BoxFuture;

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// All addresses of `host`, in no order that matters.
    ///
    /// # Errors
    /// The resolver's own, if the name is not known or nobody can be asked.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Resolve for System {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect()) })
    }
}

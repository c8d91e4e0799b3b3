//! The replicas behind an upstream's names: looked up, checked by the guard, and kept as long as the names lead to
//! them.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use super::base_url::Address;
use super::client;
use super::guard::{self, Allowed};
use super::options::RemoteOptions;
use super::replica::Replica;
use crate::error::{Error, ErrorKind, Place, Result};

/// Replicas of one upstream.
pub type Replicas = Arc<[Arc<Replica>]>;

/// An upstream's base URLs and the servers they lead to now.
#[derive(Debug)]
pub struct Lookup {
    addresses: Vec<Address>,
    /// `None`: the operator named the upstream himself.
    guard: Option<Arc<Allowed>>,
    options: RemoteOptions,
    /// And when their names were last looked up.
    replicas: RwLock<(Replicas, Option<Instant>)>,
    looking: tokio::sync::Mutex<()>,
}

impl Lookup {
    /// Nothing is looked up or dialled yet. `guard`: the rules for classes; `None` where the operator named the
    /// upstream.
    pub fn new(addresses: Vec<Address>, guard: Option<Arc<Allowed>>, options: RemoteOptions) -> Lookup {
        let (replicas, looking) = (RwLock::new((Arc::from([]), None)), tokio::sync::Mutex::default());
        Lookup { addresses, guard, options, replicas, looking }
    }

    /// Every base URL.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The base URLs as people may see them.
    pub fn shown(&self) -> String {
        self.addresses.iter().map(Address::shown).collect::<Vec<_>>().join(",")
    }

    /// The same as the place of an error.
    pub fn place(&self) -> Place {
        Place::Upstream(self.shown())
    }

    /// How all upstreams are asked.
    pub fn options(&self) -> &RemoteOptions {
        &self.options
    }

    /// The replicas known by now; none before the first look-up.
    pub fn known(&self) -> Replicas {
        self.read().0
    }

    fn read(&self) -> (Replicas, Option<Instant>) {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The replicas as the names have them now. Names are looked up again while requests go on with what is known.
    ///
    /// # Errors
    /// Before any replica is known: `DeadlineExceeded` if the names are not found in time, `PermissionDenied` for what
    /// the guard refuses, `Upstream` for names that lead nowhere, `Config` for credentials that cannot be read.
    pub async fn replicas(self: &Arc<Self>, deadline: Instant) -> Result<Replicas> {
        let (replicas, looked_up) = self.read();
        let fresh = looked_up.is_some_and(|at| at.elapsed() < self.options.refresh);
        if fresh && !replicas.is_empty() {
            return Ok(replicas);
        }
        if !replicas.is_empty() {
            if self.looking.try_lock().is_ok() {
                // So that those who come meanwhile do not start another.
                self.replicas.write().unwrap_or_else(PoisonError::into_inner).1 = Some(Instant::now());
                let lookup = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = lookup.look_up().await {
                        tracing::warn!("{error}: going on with the addresses known before");
                    }
                });
            }
            return Ok(replicas);
        }
        let first = async {
            let _one_at_a_time = self.looking.lock().await;
            let replicas = self.known();
            if replicas.is_empty() { self.look_up().await } else { Ok(replicas) }
        };
        let late = |_| {
            let text = format!("upstream {}: its name was not found in time", self.shown());
            Error::new(ErrorKind::DeadlineExceeded, text).naming(self.place())
        };
        tokio::time::timeout_at(deadline.into(), first).await.map_err(late)?
    }

    /// Looks every name up, checks every address, and keeps the replicas that are still there.
    async fn look_up(&self) -> Result<Replicas> {
        let before = self.known();
        let mut replicas: Vec<Arc<Replica>> = Vec::new();
        let mut problem = None;
        let mut seen = HashSet::new();
        for address in &self.addresses {
            let found = self.ips(address).await;
            let ips = found.unwrap_or_else(|error| {
                problem = Some(error);
                Vec::new()
            });
            for ip in ips {
                let at = SocketAddr::new(ip, address.port());
                if !seen.insert((address.shown().to_owned(), at)) {
                    continue;
                }
                match self.replica(&before, address, at) {
                    Ok(replica) => replicas.push(replica),
                    Err(error) => problem = Some(error),
                }
            }
        }
        if let Some(refusal) = problem.take_if(|problem| problem.kind() == ErrorKind::PermissionDenied) {
            return Err(refusal);
        }
        if replicas.is_empty() {
            return Err(problem.unwrap_or_else(|| {
                let text = format!("upstream {}: its name has no address", self.shown());
                Error::new(ErrorKind::Upstream, text).naming(self.place())
            }));
        }
        let replicas: Replicas = replicas.into();
        *self.replicas.write().unwrap_or_else(PoisonError::into_inner) = (replicas.clone(), Some(Instant::now()));
        Ok(replicas)
    }

    async fn ips(&self, address: &Address) -> Result<Vec<IpAddr>> {
        if let Some(allowed) = &self.guard {
            allowed.may_resolve(address)?;
        }
        if let Some(ip) = address.literal() {
            return Ok(vec![ip]);
        }
        let failed = |error: std::io::Error| match &self.guard {
            // Users who may not name a host are not told whether there is one.
            Some(allowed) if !allowed.knows(address) => guard::refused(address),
            _ => {
                let text = format!("upstream {}: its name cannot be looked up: {error}", address.shown());
                Error::new(ErrorKind::Upstream, text).naming(address.place()).caused_by(error)
            }
        };
        self.options.resolver.resolve(address.host()).await.map_err(failed)
    }

    /// The guard stands here: no client for an address that may not be dialled.
    fn replica(&self, before: &[Arc<Replica>], address: &Address, at: SocketAddr) -> Result<Arc<Replica>> {
        match &self.guard {
            Some(allowed) => allowed.check(address, at.ip(), self.options.credentials.go_to(address))?,
            None => guard::never(address, at.ip())?,
        }
        let headers = self.options.credentials.headers(address)?;
        if let Some(known) = before.iter().find(|replica| replica.at == at && replica.address == *address) {
            known.set_headers(headers);
            return Ok(known.clone());
        }
        let client = client::client(address, at, &self.options.tls, self.options.connect_timeout)?;
        Ok(Arc::new(Replica::new(address.clone(), at, client, headers)))
    }
}

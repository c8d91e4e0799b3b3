//! `serve`: bind first, load second, ready last.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::assemble::{class_upstreams, readiness_of, serve_models, warm};
use super::logs::warn;
use super::notify;
use super::signals::{hangups, termination};
use crate::backend::Backend;
use crate::backend::remote::RemoteOptions;
use crate::backend::remote::itself::Itself;
use crate::compare as comparison;
use crate::config::{Serves, Settings};
use crate::error::{Error, Result};
use crate::server::{self, ServerOptions};
use crate::telemetry;
use text2vec_kernel::keep_little_freed;

/// Bind first, load second, ready last.
pub(super) async fn serve(settings: Settings) -> Result<()> {
    let _telemetry = telemetry::init(settings.model.log.format);
    warn(&settings.model);
    let (mut remote, mut options) = open(&settings)?;
    options.open_files = raise_file_limit();
    keep_little_freed();
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        let message = match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "{} is taken by another program: stop it, or choose another address with --listen or T2V_LISTEN",
                settings.listen
            ),
            _ => format!("{} cannot be listened on: {error}; see --listen or T2V_LISTEN", settings.listen),
        };
        Error::config(message).parameter("--listen")
    })?;
    let address = listener.local_addr().unwrap_or(settings.listen);
    if settings.serves.forwards() {
        remote.itself = Some(Itself::new(address));
        options.itself.clone_from(&remote.itself);
    }
    tracing::info!(%address, tls = options.tls.is_some(), tokens = options.access.tokens(), "live: HTTP and gRPC on one port");
    let readiness = readiness_of(&settings.serves);
    let reloading = hangups(options.access.clone(), options.tls.clone())?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut server = tokio::spawn(server::run(listener, readiness.clone(), options, async {
        // An error means that the sender is gone, which is a reason to stop as well.
        let _ = stopped.await;
    }));
    let serving = async {
        serve_models(&settings, &remote, &readiness).await?;
        tracing::info!("ready");
        notify::ready();
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        loading = serving => return loading,
        // The server ends by itself only when something is wrong with it.
        ended = &mut server => return server_end(ended),
        () = reloading => {}
        () = notify::alive(readiness.clone()) => {}
        () = termination() => {}
    }
    tracing::info!("stopping: what is in flight is finished first");
    notify::stopping();
    drop(stop);
    server_end(server.await)
}

/// Reads the files that the settings name: how upstreams are asked, and what the server is told.
pub(super) fn open(settings: &Settings) -> Result<(RemoteOptions, ServerOptions)> {
    let remote = settings.upstreams.options()?;
    let upstreams = class_upstreams(settings, &remote);
    let options = settings.server(Arc::new(upstreams))?;
    Ok((remote, options))
}

/// All that `serve` does before it is ready, without a port. A first text is embedded.
pub(super) async fn check(settings: Settings) -> Result<()> {
    let _telemetry = telemetry::init(settings.model.log.format);
    warn(&settings.model);
    let (mut remote, _) = open(&settings)?;
    remote.itself = Some(Itself::new(settings.listen));
    let readiness = readiness_of(&settings.serves);
    serve_models(&settings, &remote, &readiness).await?;
    let named = match &settings.serves {
        Serves::Named(served) => served.len(),
        Serves::ByTask { .. } => 1,
    };
    // What is only listed by an upstream is not made to load there.
    let own = readiness.listed();
    for (_, backend) in own.iter().take(named) {
        warm(&**backend).await?;
    }
    let shown = |(name, backend): (String, Arc<dyn Backend>)| {
        let profile = comparison::profiles(&backend.meta());
        if let Some(scoring) = &backend.info().scoring {
            return format!("'{name}' reranks, labels {}, profile {profile}", scoring.labels.join(", "));
        }
        match backend.info().dimensions {
            Some(dimensions) => format!("'{name}' makes vectors of {dimensions} dimensions, profile {profile}"),
            None => format!("'{name}' is listed by its upstream"),
        }
    };
    let models: Vec<_> = own.into_iter().map(shown).collect();
    println!("ok: {}", models.join("\n    "));
    Ok(())
}

/// A connection is an open file, and many systems give a process 1,024 of them unless it asks for more. Answers how many
/// it has now; `None`: not known, or not limited so.
#[cfg(unix)]
fn raise_file_limit() -> Option<u64> {
    let raised = rlimit::increase_nofile_limit(u64::MAX);
    if let Err(error) = &raised {
        tracing::warn!("the limit of open files could not be raised: {error}");
    }
    raised.ok().or_else(|| rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(files, _)| files))
}

#[cfg(not(unix))]
fn raise_file_limit() -> Option<u64> {
    None
}

fn server_end(ended: std::result::Result<std::io::Result<()>, tokio::task::JoinError>) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("the server failed: {error}"));
    ended.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

//! `serve`: bind first, load second, ready last.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::assemble::{class_upstreams, serve_models, warm};
use super::logs::{log_format, warn};
use super::served::{Forwards, Served, readiness_of, served};
use super::signals::{hangups, termination};
use crate::backend::Backend;
use crate::backend::remote::RemoteOptions;
use crate::backend::remote::itself::Itself;
use crate::compare as comparison;
use crate::config::{ReferenceEnv, ServeArgs};
use crate::error::{Error, Result};
use crate::server;
use crate::telemetry;
use text2vec_kernel::keep_little_freed;

/// Bind first, load second, ready last.
pub(super) async fn serve(args: ServeArgs) -> Result<()> {
    let reference = ReferenceEnv::from_process()?.beside(&args)?;
    let _telemetry = telemetry::init(log_format(&args.model, &reference));
    warn(&reference);
    let mut remote = args.upstream.options(args.max_wait)?;
    let upstreams = class_upstreams(&args, &reference, &remote)?;
    let mut options = reference.server(&args, Arc::new(upstreams))?;
    let forwards = Forwards::of(&args, &reference);
    let served = served(&args, &forwards, &reference)?;
    if args.check {
        remote.itself = Some(Itself::new(args.listen));
        return check(&args, &served, &forwards, &reference, &remote).await;
    }
    options.open_files = raise_file_limit();
    keep_little_freed();
    let listener = TcpListener::bind(args.listen).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::config(format!(
            "{} is taken by another program: stop it, or choose another address with --listen or T2V_LISTEN",
            args.listen
        )),
        _ => Error::config(format!("{} cannot be listened on: {error}; see --listen or T2V_LISTEN", args.listen)),
    })?;
    let address = listener.local_addr().unwrap_or(args.listen);
    if forwards.any() || served.iter().any(|served| matches!(served, Served::Upstream(_))) {
        remote.itself = Some(Itself::new(address));
        options.itself.clone_from(&remote.itself);
    }
    tracing::info!(%address, tls = options.tls.is_some(), tokens = options.access.tokens(), "live: HTTP and gRPC on one port");
    let readiness = readiness_of(&served);
    let reloading = hangups(options.access.clone(), options.tls.clone())?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut server = tokio::spawn(server::run(listener, readiness.clone(), options, async {
        // An error means that the sender is gone, which is a reason to stop as well.
        let _ = stopped.await;
    }));
    let serving = async {
        serve_models(&args, &served, &forwards, &reference, &remote, &readiness).await?;
        tracing::info!("ready");
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        loading = serving => return loading,
        // The server ends by itself only when something is wrong with it.
        ended = &mut server => return server_end(ended),
        () = reloading => {}
        () = termination() => {}
    }
    tracing::info!("stopping: what is in flight is finished first");
    drop(stop);
    server_end(server.await)
}

/// All that `serve` does before it is ready, without a port. A first text is embedded.
async fn check(
    args: &ServeArgs,
    served: &[Served],
    forwards: &Forwards,
    reference: &ReferenceEnv,
    remote: &RemoteOptions,
) -> Result<()> {
    let readiness = readiness_of(served);
    serve_models(args, served, forwards, reference, remote, &readiness).await?;
    // What is only listed by an upstream is not made to load there.
    let own = readiness.listed();
    for (_, backend) in own.iter().take(served.len().max(1)) {
        warm(&**backend).await?;
    }
    let shown = |(name, backend): (String, Arc<dyn Backend>)| {
        let profile = comparison::profiles(&backend.meta());
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
/// it has now; `None`: not known.
fn raise_file_limit() -> Option<u64> {
    let raised = rlimit::increase_nofile_limit(u64::MAX);
    if let Err(error) = &raised {
        tracing::warn!("the limit of open files could not be raised: {error}");
    }
    raised.ok().or_else(|| rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(files, _)| files))
}

fn server_end(ended: std::result::Result<std::io::Result<()>, tokio::task::JoinError>) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("the server failed: {error}"));
    ended.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

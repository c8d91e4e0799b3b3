//! The accept loop, its layers in their order, and the shutdown.

use std::future::Future;

use axum::middleware;
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::answers::{AnswerRoom, hold_answer};
use super::auth::guard;
use super::connection::{Connections, Room, later};
use super::inflight::{BodyRoom, hold_room};
use super::models::Readiness;
use super::options::ServerOptions;
use super::service::Service;
use super::{decoding, freed, grpc, http, itself, observe};

/// Serves on a bound listener until `shutdown` resolves, then drains: unready at once, no new connections after
/// [`Lifetimes::drain_delay`](super::Lifetimes::drain_delay), what is in flight finished within
/// [`Lifetimes::shutdown_grace`](super::Lifetimes::shutdown_grace).
///
/// Live as soon as this is called; ready when `readiness` says so.
///
/// # Errors
/// None at present: a connection that cannot be accepted is tried again.
pub async fn run(
    listener: TcpListener,
    readiness: Readiness,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let ServerOptions { mut limits, surfaces, module, lifetimes, .. } = options;
    let room = Room::of(limits.max_connections, options.open_files);
    if room.places < limits.max_connections {
        tracing::warn!(
            files = options.open_files,
            "{} connections are served at once, not {}: more open files are not allowed; see ulimit -n",
            room.places,
            limits.max_connections
        );
        limits.max_connections = room.places;
    }
    let (answers, bodies) = (AnswerRoom::new(limits), BodyRoom::new(limits));
    let rooms = (answers.clone(), bodies.clone());
    let service = Service::new(readiness.clone(), limits, surfaces, module, rooms, options.cuda_wanted);
    let router = http::router(service.clone(), options.page).merge(grpc::router(service).await.reset_fallback());
    let router = router.layer(middleware::from_fn_with_state(bodies, hold_room));
    // Outside of it, so that room is held for what comes out.
    let router = router.layer(middleware::from_fn(decoding::decode));
    let router = router.layer(middleware::from_fn_with_state(answers.clone(), hold_answer));
    let access = options.access.with_certificates(options.tls.as_ref().is_some_and(|tls| tls.asks_for_certificates()));
    let access = access.with_page(options.page);
    let router = match access.asks() {
        true => router.layer(middleware::from_fn_with_state(access.clone(), guard)),
        false => router,
    };
    // Before it is asked for credentials: what a browser asks beforehand has none, and a refusal must be readable there too.
    let router = match &options.cors {
        Some(origins) => router.layer(origins.layer()),
        None => router,
    };
    let router = match options.itself {
        Some(itself) => router.layer(middleware::from_fn_with_state(itself, itself::refuse)),
        None => router,
    };
    let router = router.layer(middleware::from_fn(observe::observe));
    // Ends with this function.
    let mut following = JoinSet::new();
    following.spawn(access.follow());
    following.spawn(answers.give_up_unread());
    following.spawn(readiness.clone().look_after());
    following.spawn(freed::give_back());
    if let Some(tls) = &options.tls {
        following.spawn(tls.clone().follow());
    }
    let mut connections = Connections::new(router, options.tls, readiness.clone(), &limits, &lifetimes, room);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.accept(&listener) => {}
        }
    }
    readiness.draining();
    let deadline = later(tokio::time::Instant::now(), lifetimes.shutdown_grace);
    let mut refusing = std::pin::pin!(tokio::time::sleep(lifetimes.drain_delay.min(lifetimes.shutdown_grace)));
    loop {
        tokio::select! {
            () = &mut refusing => break,
            () = connections.accept(&listener) => {}
        }
    }
    // Whoever waits in the system's queue came in time.
    while connections.accept(&listener).now_or_never().is_some() {}
    drop(listener);
    match connections.finish(deadline).await {
        0 => tracing::info!("stopped: nothing was left undone"),
        left => tracing::warn!("stopped: {left} connections were cut off after {:?}", lifetimes.shutdown_grace),
    }
    Ok(())
}

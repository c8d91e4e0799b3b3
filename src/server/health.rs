//! Health for orchestrators: `/.well-known/live` and `/.well-known/ready` over HTTP, `grpc.health.v1` over gRPC.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use super::http::error_response;
use super::{Phase, Readiness};
use crate::error::{Error, ErrorKind};

/// 204 as soon as the port is bound.
pub async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// 204 when loaded and warmed, else 503 with the reason.
pub async fn ready(State(readiness): State<Readiness>) -> Response {
    match readiness.reason() {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(reason) => error_response(&Error::new(ErrorKind::Unavailable, format!("not ready: {reason}"))),
    }
}

/// `grpc.health.v1` for the process (`""`) and the given services, following the server's readiness.
pub async fn grpc_health(readiness: &Readiness, services: &'static [&'static str]) -> HealthServer<impl Health> {
    let reporter = HealthReporter::new();
    // The reporter is born with "" serving; nothing may be told so before the model is there.
    report(&reporter, services, readiness.reason().is_none()).await;
    let server = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    let mut phases = readiness.subscribe();
    tokio::spawn(async move {
        while phases.changed().await.is_ok() {
            let serving = matches!(*phases.borrow_and_update(), Phase::Ready(_));
            report(&reporter, services, serving).await;
        }
    });
    server
}

async fn report(reporter: &HealthReporter, services: &[&str], serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in services.iter().chain(&[""]) {
        reporter.set_service_status(service, status).await;
    }
}

//! Health for orchestrators: `/.well-known/live` and `/.well-known/ready` over HTTP, `grpc.health.v1` over gRPC.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use super::http::errors::error_response;
use super::http::path::Scoped;
use super::models::Readiness;
use crate::error::{Error, ErrorKind};

/// Whether a path is what probes ask: readiness and liveness of the server and of each of its models, whose names are no
/// longer in the path. They need neither credentials nor a place among the connections.
pub(super) fn is_probe(path: &str) -> bool {
    path.starts_with("/.well-known/")
        || path.trim_end_matches('/') == "/health"
        || path.starts_with("/grpc.health.v1.Health/")
}

/// 204 as soon as the port is bound; 503 once only a restart helps.
pub(super) async fn live(Scoped(service): Scoped) -> Response {
    match service.readiness.trouble() {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(trouble) => error_response(&Error::new(ErrorKind::Unavailable, trouble)),
    }
}

/// 204 when loaded and warmed, else 503 with the reason: every model, or the one of the path.
pub(super) async fn ready(Scoped(service): Scoped) -> Response {
    let readiness = &service.readiness;
    let reason = match service.model.as_deref() {
        None => readiness.reason(),
        model => readiness.reason_for(model),
    };
    match reason {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(reason) => error_response(&Error::new(ErrorKind::Unavailable, format!("not ready: {reason}"))),
    }
}

/// `grpc.health.v1` for the process (`""`) and the given services, following the server's readiness.
pub(super) async fn grpc_health(readiness: &Readiness, services: &'static [&'static str]) -> HealthServer<impl Health> {
    let reporter = HealthReporter::new();
    // The reporter is born with "" serving; nothing may be told so before the model is there.
    report(&reporter, services, readiness.reason().is_none()).await;
    let server = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    let (mut changes, readiness) = (readiness.subscribe(), readiness.clone());
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            report(&reporter, services, readiness.reason().is_none()).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_told_from_all_else() {
        for path in ["/.well-known/live", "/.well-known/ready/", "/health", "/health/", "/grpc.health.v1.Health/Check"]
        {
            assert!(is_probe(path), "{path}");
        }
        for path in [
            "/",
            "/meta",
            "/vectors",
            "/tokenize",
            "/models/health",
            "/v1/models/a/health",
            "/healthy",
            "/metrics",
            "/.well-known",
            "/text2vec.v1.Vectorizer/Vectorize",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(!is_probe(path), "{path}");
        }
    }
}

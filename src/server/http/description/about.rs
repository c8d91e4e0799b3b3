//! Health, metrics, and this description.

use serde_json::{Value, json};
use utoipa::ToSchema;

use super::super::errors::{PlainError, TeiError};
use super::operation::{Described, Tag};
use crate::error::ErrorKind;
use crate::telemetry::metrics::page;

fn described(tag: Tag, id: &'static str, summary: &'static str) -> Described {
    Described::new::<PlainError>(tag, id, summary)
}

/// `GET /.well-known/live`.
pub(in crate::server::http) fn live() -> Described {
    described(Tag::Operation, "live", "Whether the process is alive")
        .open()
        .without_body(204, "Alive: as soon as the port is bound.")
        .refuses(&[ErrorKind::Unavailable])
}

/// `GET /.well-known/ready`.
pub(in crate::server::http) fn ready() -> Described {
    described(Tag::Operation, "ready", "Whether the models are loaded and warmed")
        .open()
        .without_body(204, "Ready.")
        .refuses(&[ErrorKind::Unavailable])
}

/// `GET /metrics`.
pub(in crate::server::http) fn metrics() -> Described {
    described(Tag::Operation, "metrics", "Every metric, for Prometheus")
        .open_without("--auth-metrics")
        .says(page::CONTENT_TYPE, "The metrics.")
}

/// `GET /`.
pub(in crate::server::http) fn welcome() -> Described {
    Described::new::<TeiError>(Tag::Description, "welcome", "What this is and where to look")
        .says("text/plain; charset=utf-8", "A few lines for people; for a browser a page, unless that is off.")
        .says("text/html; charset=utf-8", "")
}

/// An OpenAPI document.
#[derive(ToSchema)]
#[schema(value_type = Object)]
struct OpenApiDocument(#[expect(dead_code, reason = "it describes the document")] Value);

/// `GET /openapi.json`.
pub(in crate::server::http) fn document() -> Described {
    described(Tag::Description, "openapi", "This description, as OpenAPI 3.1")
        .open()
        .answers::<OpenApiDocument>("The document.", &[("begin", json!({"openapi": "3.1.0"}))])
}

/// `GET /docs`.
pub(in crate::server::http) fn docs() -> Described {
    described(Tag::Description, "docs", "This description as a page, with a form to try each operation")
        .open()
        .says("text/html; charset=utf-8", "The page. It fetches nothing from elsewhere.")
}

/// What the page needs: `GET /docs/page.css`.
pub(in crate::server::http) fn style() -> Described {
    described(Tag::Description, "docs_style", "The style of that page").open().says("text/css; charset=utf-8", "CSS.")
}

/// What the page needs: `GET /docs/page.js`.
pub(in crate::server::http) fn script() -> Described {
    let described = described(Tag::Description, "docs_script", "The script of that page");
    described.open().says("text/javascript; charset=utf-8", "JavaScript.")
}

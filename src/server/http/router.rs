//! Every path, and what is said about others.

use std::sync::OnceLock;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, extract};
use percent_encoding::percent_decode_str;
use utoipa::openapi::path::HttpMethod;

use super::description::operation::Described;
use super::description::{self, Entry};
use super::errors::{PlainError, error_response_at, json_response};
use super::path::Scoped;
use super::{metrics, ollama, openai, page, path, rerank, t2v, tei};
use crate::error::{Error, ErrorKind};
use crate::server::health;
use crate::server::observe::is_grpc;
use crate::server::service::Service;

/// A path and method, who answers there, and how that is described: none goes without the other.
struct Route {
    path: &'static str,
    method: HttpMethod,
    served: MethodRouter<Service>,
    described: fn() -> Described,
}

impl Route {
    /// HEAD is answered like GET.
    fn get<H: Handler<T, Service>, T: 'static>(path: &'static str, handler: H, described: fn() -> Described) -> Route {
        Route { path, method: HttpMethod::Get, served: get(handler), described }
    }

    /// The reference container answers HEAD with 405; axum would answer it like GET.
    fn get_only<H: Handler<T, Service>, T: 'static>(
        path: &'static str,
        handler: H,
        described: fn() -> Described,
    ) -> Route {
        Route { path, method: HttpMethod::Get, served: get(handler).head(method_not_allowed), described }
    }

    fn post<H: Handler<T, Service>, T: 'static>(path: &'static str, handler: H, described: fn() -> Described) -> Route {
        Route { path, method: HttpMethod::Post, served: post(handler), described }
    }

    /// Whether it is also below `/models/<name>`, which makes that a base URL like any container's. `/` is what is left of a
    /// model's path alone.
    fn of_a_model(&self) -> bool {
        self.path == "/" || path::OF_A_MODEL.contains(&self.path)
    }
}

/// Every HTTP route but those of the page's files, in the order in which they are described.
fn routes(with_page: bool) -> Vec<Route> {
    use description as d;
    let front = match with_page {
        true => Route::get("/", page_or_welcome, d::about::welcome),
        false => Route::get("/", welcome, d::about::welcome),
    };
    vec![
        Route::post("/vectors", t2v::vectors, d::t2v::vectors),
        Route::get_only("/meta", t2v::meta, d::t2v::meta),
        Route::post("/rerank", rerank::rerank, d::rerank::rerank),
        Route::post("/v1/rerank", rerank::rerank_v1, || d::rerank::rerank_as_cohere("rerank_v1")),
        Route::post("/v2/rerank", rerank::rerank_v1, || d::rerank::rerank_as_cohere("rerank_v2")),
        Route::post("/v1/embeddings", openai::embeddings, || d::openai::embeddings("openai_embeddings")),
        Route::post("/embeddings", openai::embeddings, || d::openai::embeddings("openai_embeddings_without_v1")),
        Route::get("/v1/models", openai::models, d::openai::models),
        Route::get("/v1/models/{*model}", openai::model, d::openai::model),
        Route::post("/api/embed", ollama::embed_many, d::ollama::embed_many),
        Route::post("/api/embeddings", ollama::embed_one, d::ollama::embed_one),
        Route::post("/api/show", ollama::show, d::ollama::show),
        Route::get("/api/tags", ollama::tags, d::ollama::tags),
        Route::get("/api/ps", ollama::running, d::ollama::running),
        Route::get("/api/version", ollama::version, d::ollama::version),
        Route::post("/embed", tei::embeddings, || d::tei::embeddings("embed")),
        Route::post("/", tei::embeddings, || d::tei::embeddings("embed_at_root")),
        Route::post("/tokenize", tei::tokenize, d::tei::tokenize),
        Route::post("/decode", tei::decode, d::tei::decode),
        Route::get_only("/info", tei::info, d::tei::info),
        Route::get("/health", tei::health, d::tei::health),
        Route::get_only("/.well-known/live", health::live, d::about::live),
        Route::get_only("/.well-known/ready", health::ready, d::about::ready),
        Route::get_only("/metrics", metrics::metrics, d::about::metrics),
        front,
        Route::get("/openapi.json", openapi, d::about::document),
        Route::get("/docs", d::docs, d::about::docs),
        Route::get("/docs/page.css", d::style, d::about::style),
        Route::get("/docs/page.js", d::script, d::about::script),
    ]
}

/// Every HTTP route, with those of the page for browsers if it is wanted.
pub(in crate::server) fn router(service: Service, with_page: bool) -> Router {
    let max_body_bytes = service.limits.max_body_bytes;
    let mut router = Router::new();
    for Route { path, served, .. } in routes(with_page) {
        if path::OF_A_MODEL.contains(&path) {
            router = router.route(&format!("{path}/"), served.clone());
        }
        router = router.route(path, served);
    }
    for file in page::FILES.iter().filter(|_| with_page) {
        router = router.route(file.path, get(async |headers: HeaderMap| file.answer(&headers)));
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(from_fn(readable_path))
        .with_state(service)
}

/// `GET /openapi.json`: written once.
async fn openapi() -> Response {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let document = DOCUMENT.get_or_init(|| description::document(entries).into());
    description::json(document.clone())
}

fn entries() -> Vec<Entry> {
    let entry = |route: Route| Entry {
        path: route.path,
        method: route.method.clone(),
        of_a_model: route.of_a_model(),
        described: (route.described)(),
    };
    routes(true).into_iter().map(entry).collect()
}

/// Refuses a path that is no text once its `%` are read: whoever looks for a name in it would say so in its own way.
async fn readable_path(request: extract::Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_text(path) {
        return next.run(request).await;
    }
    let message = format!("the path {path} is not UTF-8 text once its % are read: encode names as UTF-8");
    error_response_at(path, &Error::invalid(message))
}

/// Whether a path is UTF-8 with its escapes read. What is no escape stands for itself.
fn is_text(path: &str) -> bool {
    percent_decode_str(path).decode_utf8().is_ok()
}

/// `GET /` where there is a page: a browser gets it, all others the text.
async fn page_or_welcome(scoped: Scoped, request: extract::Request) -> Response {
    let mut response = match page::is_asked_for(&request) {
        true => page::DOCUMENT.answer(request.headers()),
        false => welcome(scoped).await.into_response(),
    };
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    response
}

/// `GET /`: what this is and where to look.
async fn welcome(Scoped(_): Scoped) -> impl IntoResponse {
    let text = format!("text2vec-sidecar {} is running: text in, vectors out.\n\n{PATHS}\n", env!("CARGO_PKG_VERSION"));
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text)
}

/// What there is.
const PATHS: &str = "There are /vectors, /meta, /.well-known/live and /.well-known/ready; /embed, /tokenize, /decode, /info and \
                     /health; /v1/embeddings; /rerank, /v1/rerank and /v2/rerank; each of these also below /models/<name>; /v1/models; /api/embed, /api/tags, \
                     /api/ps, /api/show and /api/version; /metrics; /openapi.json, and /docs for people; gRPC on the same port";

async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    // The port is shared: a gRPC client asking for an unknown service wants a gRPC status.
    if is_grpc(&headers) {
        return tonic::Status::unimplemented(format!("no such gRPC method: {}", uri.path())).into_http();
    }
    let message = format!("no such path: {}. {PATHS}", uri.path());
    if uri.path().starts_with("/v1/") {
        return error_response_at(uri.path(), &Error::new(ErrorKind::NotFound, message));
    }
    json_response(StatusCode::NOT_FOUND, &PlainError::with_detail(message, Some("Not Found")))
}

async fn method_not_allowed() -> Response {
    let message = "this path takes another method: POST for texts (/vectors, /embed, /tokenize, /v1/embeddings, /rerank, /v1/rerank, /api/embed) and \
                   /api/show, GET for the others";
    json_response(StatusCode::METHOD_NOT_ALLOWED, &PlainError::with_detail(message, Some("Method Not Allowed")))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::server::answers::AnswerRoom;
    use crate::server::inflight::BodyRoom;
    use crate::server::{Limits, Readiness};

    /// The paths that axum has, which it tells nobody but whoever debugs.
    fn paths_of(router: &Router) -> BTreeSet<String> {
        let shown = format!("{router:?}");
        let quoted = shown.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
        // Its own are for the fallback.
        let ours = quoted.filter(|path| !path.contains("__private__axum"));
        ours.map(|path| path.replace("{*", "{")).collect()
    }

    #[test]
    fn schemas_of_one_name_are_the_same() {
        let mut known = BTreeMap::new();
        for entry in entries() {
            let (_, schemas, _) = entry.described.build(false);
            for (name, schema) in schemas {
                let schema = serde_json::to_value(schema).expect("JSON");
                assert_eq!(*known.entry(name.clone()).or_insert_with(|| schema.clone()), schema, "{name}");
            }
        }
    }

    #[test]
    fn every_path_is_described_and_every_described_path_is_there() {
        let limits = Limits::default();
        let rooms = (AnswerRoom::new(limits), BodyRoom::new(limits));
        let service = Service::new(Readiness::default(), limits, Default::default(), Default::default(), rooms, false);
        let mut served = paths_of(&router(service.clone(), false));
        assert!(served.len() > 40, "{served:?}");
        let another = paths_of(&router(service, false).route("/another/{*one}", get(async || ())));
        assert_eq!(another.difference(&served).collect::<Vec<_>>(), ["/another/{one}"]);
        let document: Value = serde_json::from_slice(&description::document(entries)).expect("JSON");
        let described: BTreeSet<&str> =
            document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
        let (of_models, own): (BTreeSet<&str>, BTreeSet<&str>) =
            described.into_iter().partition(|path| path.starts_with("/models/"));
        let expected: BTreeSet<_> =
            path::OF_A_MODEL.iter().chain(&[""]).map(|path| format!("/models/{{name}}{path}")).collect();
        assert_eq!(of_models, expected.iter().map(String::as_str).collect());
        // Described once, and there with a slash too.
        served.retain(|path| path == "/" || !path.ends_with('/') || !own.contains(path.trim_end_matches('/')));
        assert_eq!(own, served.iter().map(String::as_str).collect());
    }

    #[test]
    fn a_path_is_text_or_not() {
        for path in ["/", "/a%20b", "/%c3%A4", "/%", "/%f", "/%zz", "/a%2Fb"] {
            assert!(is_text(path), "{path}");
        }
        for path in ["/%ff%fe", "/models/%ff/meta", "/%c3", "/%80"] {
            assert!(!is_text(path), "{path}");
        }
    }
}

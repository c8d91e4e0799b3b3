//! Paths as callers send them, made those of the routes: slashes are single, and `/models/<name>` is taken off and kept
//! beside the request. So a model's path is a base URL like any container's, and whoever looks at a path (routes, guards,
//! counters) sees the same one for every model.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{Request, Uri};
use axum::response::Response;
use percent_encoding::percent_decode_str;

use super::errors::error_response_at;
use crate::error::Result;
use crate::server::service::Service;

/// What a model's path is put in front of. Other paths are the server's.
pub(super) const OF_A_MODEL: [&str; 14] = [
    "/.well-known/live",
    "/.well-known/ready",
    "/meta",
    "/vectors",
    "/v1/embeddings",
    "/embeddings",
    "/embed",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/tokenize",
    "/decode",
    "/info",
    "/health",
];

const MODELS: &str = "/models/";

/// The name of the model that a path began with.
#[derive(Clone)]
struct Named(String);

/// The request with the path of its route.
pub(in crate::server) fn routed<B>(mut request: Request<B>) -> Request<B> {
    let path = request.uri().path();
    if !path.contains("//") && !path.starts_with(MODELS) {
        return request;
    }
    let mut single = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !single.ends_with('/') {
            single.push(c);
        }
    }
    let named = below_a_model(&single)
        .and_then(|(name, rest)| Some((percent_decode_str(name).decode_utf8().ok()?.into_owned(), rest)));
    let (name, rest) = match named {
        Some((name, "")) => (Some(name), "/"),
        Some((name, rest)) => (Some(name), rest),
        // A name that is no text stays in the path, which is refused for it.
        None => (None, &*single),
    };
    let rest = match request.uri().query() {
        Some(query) => PathAndQuery::try_from(format!("{rest}?{query}")),
        None => PathAndQuery::try_from(rest),
    };
    let mut parts = request.uri().clone().into_parts();
    if let Ok(rest) = rest {
        parts.path_and_query = Some(rest);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
            if let Some(name) = name {
                request.extensions_mut().insert(Named(name));
            }
        }
    }
    request
}

/// A model's name, which may have slashes, and what is behind it: nothing, `/`, or a path of [`OF_A_MODEL`].
fn below_a_model(path: &str) -> Option<(&str, &str)> {
    let below = path.strip_prefix(MODELS)?;
    let without_slash = below.strip_suffix('/').unwrap_or(below);
    let names = OF_A_MODEL.iter().filter_map(|path| without_slash.strip_suffix(path));
    // `/v1/embeddings` before `/embeddings`, `/v1/rerank` before `/rerank`.
    let name = names.min_by_key(|name| name.len()).unwrap_or(without_slash);
    (!name.is_empty()).then(|| (name, &below[name.len()..]))
}

/// Whether a path began with a model's name.
pub(super) fn is_of_a_model<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Named>().is_some()
}

/// The service, by the model of a path below `/models/<name>`, else by the default one.
pub(in crate::server) struct Scoped(pub(in crate::server) Service);

impl FromRequestParts<Service> for Scoped {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Scoped, Response> {
        let Some(Named(name)) = parts.extensions.get() else { return Ok(Scoped(service.clone())) };
        service.of_model(name).map(Scoped).map_err(|error| error_response_at(parts.uri.path(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(uri: &str) -> (String, Option<String>) {
        let request = routed(Request::builder().uri(uri).body(()).expect("a request"));
        let name = request.extensions().get::<Named>().map(|Named(name)| name.clone());
        (request.uri().to_string(), name)
    }

    #[test]
    fn repeated_slashes_are_joined_and_the_query_kept() {
        for (given, expected) in [
            ("//vectors", "/vectors"),
            ("/a///b//?x=//y", "/a/b/?x=//y"),
            ("/vectors/", "/vectors/"),
            ("/vectors?a=b", "/vectors?a=b"),
            ("http://host:1/a//b", "http://host:1/a/b"),
        ] {
            assert_eq!(shown(given), (expected.to_owned(), None), "{given}");
        }
    }

    #[test]
    fn a_models_name_is_taken_off_whatever_it_holds() {
        for (given, path, name) in [
            ("/models/bge/vectors", "/vectors", "bge"),
            ("/models//bge//vectors?a=b", "/vectors?a=b", "bge"),
            ("/models/bge/vectors/", "/vectors/", "bge"),
            ("/models/bge", "/", "bge"),
            ("/models/bge/", "/", "bge"),
            ("/models/BAAI/bge-small-en-v1.5/.well-known/ready", "/.well-known/ready", "BAAI/bge-small-en-v1.5"),
            ("/models/BAAI%2Fbge/meta", "/meta", "BAAI/bge"),
            ("/models/nomic-embed-text:v1.5/v1/embeddings", "/v1/embeddings", "nomic-embed-text:v1.5"),
            ("/models/v1/embeddings", "/embeddings", "v1"),
            ("/models/bge/v1/rerank", "/v1/rerank", "bge"),
            ("/models/org/bge/rerank", "/rerank", "org/bge"),
            ("/models/org/meta/meta", "/meta", "org/meta"),
            ("/models/vectors", "/", "vectors"),
            ("/models/a/metrics", "/", "a/metrics"),
            ("/models/a/api/embed", "/embed", "a/api"),
        ] {
            assert_eq!(shown(given), (path.to_owned(), Some(name.to_owned())), "{given}");
        }
        for path in ["/models", "/models/", "/v1/models/a/health", "/model/a/vectors", "/models/%ff/vectors"] {
            assert_eq!(shown(path), (path.to_owned(), None));
        }
    }
}

//! The document: every operation once and, where a model's path may go before it, once more below `/models/{name}`.

use utoipa::openapi::info::{InfoBuilder, LicenseBuilder};
use utoipa::openapi::path::{HttpMethod, PathItem, PathsBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, OpenApiBuilder, RefOr, Server};

use super::operation::{BASIC, BEARER, Described, Tag};

/// What holds for every operation.
const ABOUT: &str = "\
Text in, vectors out: Weaviate's `text2vec-transformers` contract, and the APIs of OpenAI, Ollama, \
text-embeddings-inference, Cohere and Jina for the same models. gRPC is on the same port and described by \
reflection.

**Models.** Paths below `/models/{name}` are a model's own base URL. A name may have slashes. The paths that are \
also there may end in a slash. HEAD is answered like GET, but by the paths of the reference container, `/metrics` \
and `/info` with 405.

**Bodies** are JSON, whatever their `Content-Type` (`POST /vectors` alone wants `application/json`, or none), and \
may come with `Content-Encoding: gzip`. Fields that are not described are ignored. Vectors are float32 in the fewest \
digits that read back to the same float32.

**Errors** have the shape of their surface. 429 and 503 say in `Retry-After` when to try again. Before a request \
comes to a route it may be answered 400 (a path that is not UTF-8), 404 and 405 (no such path or method: `error` and \
`detail`), 408 and 431 (a head that is late or too large), 429 (no more connections), 508 (a sidecar that forwards \
to itself).

**Waiting.** A request waits for its turn at most `--max-wait` seconds. A caller who waits less says so in \
`X-Request-Timeout`.

**Tokens** are asked for where the operator has set them, except for health, this description and, unless told \
otherwise, metrics.";

/// A route and its description.
pub(in crate::server::http) struct Entry {
    /// As the router has it.
    pub(in crate::server::http) path: &'static str,
    pub(in crate::server::http) method: HttpMethod,
    /// A model's path may go before it.
    pub(in crate::server::http) of_a_model: bool,
    pub(in crate::server::http) described: Described,
}

/// The document as JSON. `entries` makes all of them, in their order.
pub(in crate::server::http) fn document(entries: impl Fn() -> Vec<Entry>) -> Vec<u8> {
    let mut components = ComponentsBuilder::new()
        .security_scheme(BEARER, scheme(HttpAuthScheme::Bearer, "A token of the server's."))
        .security_scheme(
            BASIC,
            scheme(HttpAuthScheme::Basic, "A token of the server's as the password, with any name."),
        );
    let mut paths = PathsBuilder::new();
    let of_models = entries().into_iter().filter(|entry| entry.of_a_model);
    let all = entries().into_iter().map(|entry| (entry, false)).chain(of_models.map(|entry| (entry, true)));
    for (Entry { path, method, described, .. }, below) in all {
        let path = path.replace("{*", "{");
        let (path, described) = match below {
            false => (path, described),
            true => (format!("/models/{{name}}{}", path.trim_end_matches('/')), described.of_a_model()),
        };
        let (operation, schemas, responses) = described.build(below);
        paths = paths.path(path, PathItem::new(method, operation));
        for (name, schema) in schemas {
            components = components.schema(name, schema);
        }
        for (name, response) in responses {
            components = components.response(name, RefOr::T(response));
        }
    }
    let tags = Tag::ALL.map(|tag| {
        let (name, about) = tag.words();
        TagBuilder::new().name(name).description(Some(about)).build()
    });
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("text2vec-sidecar")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(license))
        .build();
    let document = OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(tags))
        .build();
    // Of texts, numbers and lists of them: nothing of it can fail.
    serde_json::to_vec(&document).unwrap_or_default()
}

fn scheme(scheme: HttpAuthScheme, about: &str) -> SecurityScheme {
    SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(about)).build())
}

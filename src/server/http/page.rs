//! The page for a browser at `/`: what is served, how it does, and two ways to try it. Its files are compiled into the program
//! and hold nothing that anybody may not know, so they need no token; what they show they ask of the other paths, with the
//! token that the reader types. They name no other host, and the browser is told to ask none.

use std::sync::LazyLock;

use axum::extract::Request;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::path::is_of_a_model;

/// A file of the page.
pub(super) struct File {
    /// The path it is at.
    pub(super) path: &'static str,
    text: &'static str,
    tag: LazyLock<HeaderValue>,
}

/// Declares a file: its path, and its name in the folder beside this one.
macro_rules! file {
    ($path:literal, $name:literal) => {
        File {
            path: $path,
            text: include_str!(concat!("page/", $name)),
            tag: LazyLock::new(|| tag(include_str!(concat!("page/", $name)))),
        }
    };
}

/// The document, at `/`.
pub(super) static DOCUMENT: File = file!("/", "index.html");

/// What the document names, each below `/page/`.
pub(super) static FILES: [File; 15] = [
    file!("/page/page.css", "page.css"),
    file!("/page/icon.svg", "icon.svg"),
    file!("/page/main.js", "main.js"),
    file!("/page/dom.js", "dom.js"),
    file!("/page/numbers.js", "numbers.js"),
    file!("/page/server.js", "server.js"),
    file!("/page/token.js", "token.js"),
    file!("/page/models.js", "models.js"),
    file!("/page/prometheus.js", "prometheus.js"),
    file!("/page/figures.js", "figures.js"),
    file!("/page/chart.js", "chart.js"),
    file!("/page/live.js", "live.js"),
    file!("/page/vectors.js", "vectors.js"),
    file!("/page/similarity.js", "similarity.js"),
    file!("/page/ranking.js", "ranking.js"),
];

/// What a browser may do for the page: read the page's own files, and call this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// With every answer. `no-cache`: a browser may keep a file, and asks each time whether it changed.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// Whether a request is for the page or one of its files. At `/` it is if it takes HTML, as browsers do; all others are told
/// in plain text what there is.
pub(in crate::server) fn is_asked_for(request: &Request) -> bool {
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_document = || path == DOCUMENT.path && takes_html(request.headers()) && !is_of_a_model(request);
    reads && (is_document() || FILES.iter().any(|file| file.path == path))
}

impl File {
    /// The file, or 304 for who has it.
    pub(super) fn answer(&'static self, asked: &HeaderMap) -> Response {
        let tag = &*self.tag;
        let kind = (CONTENT_TYPE, HeaderValue::from_static(self.kind()));
        let mut response = match asked.get_all(IF_NONE_MATCH).iter().any(|known| names(known, tag)) {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => ([kind], self.text).into_response(),
        };
        response.headers_mut().extend(HEADERS);
        response.headers_mut().insert(ETAG, tag.clone());
        response
    }

    fn kind(&self) -> &'static str {
        match self.path.rsplit('.').next() {
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("js") => "text/javascript; charset=utf-8",
            _ => "text/html; charset=utf-8",
        }
    }
}

/// What tells two contents of a file apart: half of a digest.
fn tag(text: &str) -> HeaderValue {
    let digits: String = Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{digits}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether the list of an `If-None-Match` has the tag.
fn names(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(known), Ok(tag)) = (known.to_str(), tag.to_str()) else { return false };
    known.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// Whether an `Accept` lists `text/html` by its name. `*/*`, which programs send, is not enough.
fn takes_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
        let refused = parts.any(|part| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.parse() == Ok(0.0_f32))
        });
        is_html && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_taken_where_it_is_named() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", true),
            ("application/json, Text/HTML;level=1;q=0.1", true),
            ("*/*", false),
            ("text/*", false),
            ("text/html;q=0", false),
            ("text/html; q=0.000, */*", false),
            ("application/xhtml+xml", false),
            ("text/htmlx", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(takes_html(&headers), expected, "{accept}");
        }
        assert!(!takes_html(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_is_found_in_a_list() {
        let tag = tag("a");
        assert_eq!(tag, "\"ca978112ca1bbdcafac231b39a23dc4d\"");
        for (known, expected) in [
            ("\"ca978112ca1bbdcafac231b39a23dc4d\"", true),
            ("\"a\", W/\"ca978112ca1bbdcafac231b39a23dc4d\"", true),
            ("*", true),
            ("\"a\"", false),
            ("ca978112ca1bbdcafac231b39a23dc4d", false),
            ("", false),
        ] {
            assert_eq!(names(&HeaderValue::from_static(known), &tag), expected, "{known}");
        }
    }

    /// A program carries its page everywhere, and nobody waits for it.
    #[test]
    fn the_page_is_small() {
        let bytes: usize = FILES.iter().chain([&DOCUMENT]).map(|file| file.text.len()).sum();
        assert!(bytes <= 60_000, "the page has {bytes} bytes of at most 60,000");
    }
}

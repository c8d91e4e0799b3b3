//! The page for browsers: who is given it, what goes with it, and that it needs nothing from elsewhere. `tests/e2e/test_page.py`
//! uses it in a real browser.

use crate::support;

use std::collections::BTreeSet;
use std::sync::Arc;

use reqwest::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use reqwest::{Client, Method, Response, StatusCode};
use support::{FakeBackend, TestServer};
use text2vec_sidecar::server::{Access, ServerOptions};

/// What Chromium sends.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

const TEXT: &str = "text/plain; charset=utf-8";

const HTML: &str = "text/html; charset=utf-8";

async fn serving(page: bool, access: Access) -> TestServer {
    let server = TestServer::start_with(ServerOptions { page, access, ..ServerOptions::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(3)));
    server
}

/// The answer to a request with an `Accept`, unless it is empty.
async fn asked(server: &TestServer, method: Method, path: &str, accept: &str) -> Response {
    let client = Client::builder().no_proxy().build().expect("a client");
    let mut request = client.request(method, server.url(path));
    if !accept.is_empty() {
        request = request.header(ACCEPT, accept);
    }
    request.send().await.expect("an answer")
}

async fn got(server: &TestServer, path: &str, accept: &str) -> Response {
    asked(server, Method::GET, path, accept).await
}

/// A header's values, joined.
fn header(answer: &Response, name: impl reqwest::header::AsHeaderName) -> String {
    let values = answer.headers().get_all(name).iter().map(|value| value.to_str().expect("ASCII").to_owned());
    values.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn a_browser_gets_the_page_and_all_others_the_text() {
    let server = serving(true, Access::default()).await;
    for (path, accept, kind) in [
        ("/", BROWSER, HTML),
        ("//", BROWSER, HTML),
        ("/?model=fake", BROWSER, HTML),
        ("/", "", TEXT),
        ("/", "*/*", TEXT),
        ("/", "application/json", TEXT),
        ("/models/fake", BROWSER, TEXT),
        ("/models/fake/", BROWSER, TEXT),
    ] {
        let answer = got(&server, path, accept).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path} {accept}");
        assert_eq!(header(&answer, CONTENT_TYPE), kind, "{path} {accept}");
        assert_eq!(header(&answer, VARY), "Accept", "{path} {accept}");
        let body = answer.text().await.expect("a text");
        let begin = if kind == HTML { "<!doctype html>" } else { "text2vec-sidecar 0" };
        assert!(body.starts_with(begin), "{path} {accept}: {body}");
    }
    let head = asked(&server, Method::HEAD, "/", BROWSER).await;
    assert_eq!((head.status(), header(&head, CONTENT_TYPE).as_str()), (StatusCode::OK, HTML));
    assert!(head.bytes().await.expect("a body").is_empty());
    // POST there is an API of its own.
    assert_eq!(header(&asked(&server, Method::POST, "/", BROWSER).await, CONTENT_TYPE), "application/json");
    let unknown = got(&server, "/models/another", BROWSER).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn the_browser_is_told_to_ask_no_other_server() {
    let server = serving(true, Access::default()).await;
    for path in ["/", "/page/main.js", "/page/page.css", "/page/icon.svg"] {
        let answer = got(&server, path, BROWSER).await;
        assert_eq!(
            header(&answer, CONTENT_SECURITY_POLICY),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            "{path}"
        );
        assert_eq!(header(&answer, X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        assert_eq!(header(&answer, REFERRER_POLICY), "no-referrer", "{path}");
        assert_eq!(header(&answer, CACHE_CONTROL), "no-cache", "{path}");
    }
    server.stop().await;
}

/// The names of the files that a text refers to: `page/<name>` in the document, `./<name>` in a script.
fn named(text: &str) -> BTreeSet<String> {
    let quoted = text.split('"').skip(1).step_by(2);
    let names = quoted.filter_map(|it| it.strip_prefix("page/").or_else(|| it.strip_prefix("./")));
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_file_is_there_under_its_type_and_names_nothing_elsewhere() {
    let server = serving(true, Access::default()).await;
    let document = got(&server, "/", BROWSER).await.text().await.expect("a text");
    let mut waiting: Vec<String> = named(&document).into_iter().collect();
    let (mut seen, mut texts) = (BTreeSet::new(), vec![("index.html".to_owned(), document)]);
    while let Some(name) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let answer = got(&server, &format!("/page/{name}"), "*/*").await;
        assert_eq!(answer.status(), StatusCode::OK, "{name}");
        let kind = match name.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(header(&answer, CONTENT_TYPE), kind, "{name}");
        let text = answer.text().await.expect("a text");
        if name.ends_with(".js") {
            waiting.extend(named(&text));
        }
        texts.push((name, text));
    }
    // Those of the folder, neither more nor fewer.
    let folder = support::repository().join("src/server/http/page");
    let there = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").file_name());
    let there: BTreeSet<_> = there.map(|name| name.into_string().expect("UTF-8")).collect();
    assert_eq!(texts.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), there);
    for (name, text) in &texts {
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for word in
            ["http://", "https://", "//cdn", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"]
        {
            assert!(!text.contains(word), "{name} has {word}");
        }
        for word in [" style=", " onclick=", " onload=", "<style", "javascript:"] {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
    for path in ["/page", "/page/", "/page/index.html", "/page/none.js", "/page/../page.rs", "/page/%6dain.js"] {
        assert_eq!(got(&server, path, BROWSER).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(asked(&server, Method::POST, "/page/main.js", BROWSER).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    server.stop().await;
}

#[tokio::test]
async fn who_has_a_file_is_not_sent_it_again() {
    let server = serving(true, Access::default()).await;
    let client = Client::builder().no_proxy().build().expect("a client");
    let mut tags = BTreeSet::new();
    for path in ["/", "/page/main.js", "/page/page.css", "/page/icon.svg"] {
        let tag = header(&got(&server, path, BROWSER).await, ETAG);
        assert!(tag.len() == 34 && tag.starts_with('"') && tag.ends_with('"'), "{path}: {tag}");
        for (known, expected) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"another\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("\"another\"".to_owned(), StatusCode::OK),
        ] {
            let request = client.get(server.url(path)).header(ACCEPT, BROWSER).header(IF_NONE_MATCH, &known);
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), expected, "{path} {known}");
            assert_eq!(header(&answer, ETAG), tag);
            assert!(!header(&answer, CONTENT_SECURITY_POLICY).is_empty());
            assert_eq!(answer.bytes().await.expect("a body").is_empty(), expected == StatusCode::NOT_MODIFIED);
        }
        tags.insert(tag);
    }
    assert_eq!(tags.len(), 4, "each file has its own");
    server.stop().await;
}

#[tokio::test]
async fn without_the_page_a_browser_gets_the_text_too() {
    let server = serving(false, Access::default()).await;
    let answer = got(&server, "/", BROWSER).await;
    assert_eq!((answer.status(), header(&answer, CONTENT_TYPE).as_str()), (StatusCode::OK, TEXT));
    assert_eq!((header(&answer, VARY), header(&answer, ETAG)), (String::new(), String::new()));
    for path in ["/page/main.js", "/page/page.css", "/page/icon.svg"] {
        assert_eq!(got(&server, path, "*/*").await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_page_is_open_and_what_it_asks_for_is_not() {
    let tokens = || Access::new(Some("token1"), None, true).expect("tokens");
    let server = serving(true, tokens()).await;
    for (path, accept) in [("/", BROWSER), ("/page/main.js", "*/*"), ("/page/page.css", "text/css,*/*;q=0.1")] {
        assert_eq!(got(&server, path, accept).await.status(), StatusCode::OK, "{path}");
    }
    for (method, path, accept) in [
        (Method::GET, "/", "*/*"),
        (Method::GET, "/", "application/json"),
        (Method::POST, "/", BROWSER),
        (Method::POST, "/page/main.js", BROWSER),
        (Method::GET, "/page/none.js", BROWSER),
        (Method::GET, "/page/", BROWSER),
        // They tell which models there are.
        (Method::GET, "/models/fake", BROWSER),
        (Method::GET, "/models/another/", BROWSER),
        (Method::GET, "/models/fake/page/main.js", BROWSER),
        (Method::GET, "/meta", BROWSER),
        (Method::GET, "/metrics", BROWSER),
        (Method::POST, "/vectors", BROWSER),
        (Method::POST, "/rerank", BROWSER),
    ] {
        let status = asked(&server, method.clone(), path, accept).await.status();
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} {accept}");
    }
    server.stop().await;
    let server = serving(false, tokens()).await;
    for path in ["/", "/page/main.js"] {
        assert_eq!(got(&server, path, BROWSER).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    server.stop().await;
}

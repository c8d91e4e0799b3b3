//! URLs in a class come from users of the database: whatever they write, only allowed hosts are dialled.

use crate::support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use support::upstream::{Act, Arrived, Names, Upstream, container, ok, status};
use support::{FakeBackend, TestServer};
use text2vec_sidecar::backend::remote::address::Address;
use text2vec_sidecar::backend::remote::credentials::Credentials;
use text2vec_sidecar::backend::remote::directory::ClassUpstreams;
use text2vec_sidecar::backend::remote::guard::Allowed;
use text2vec_sidecar::backend::remote::{RemoteOptions, startup};
use text2vec_sidecar::backend::{Backend, Directory};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::error::{Error, ErrorKind};
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::{ClassConfig, VectorizeInputRequest};
use text2vec_sidecar::server::{ModuleOptions, ServerOptions};
use tonic::{Code, Status};

fn directory(allowed: &str, names: &Names) -> ClassUpstreams {
    let options = RemoteOptions {
        resolver: Arc::new(names.clone()),
        attempt_timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_millis(300),
        // Every request looks names up again.
        refresh: Duration::ZERO,
        ..RemoteOptions::default()
    };
    ClassUpstreams::new(Allowed::parse(allowed).expect("patterns"), options, Box::new(|backend| backend))
}

async fn embed(directory: &ClassUpstreams, url: &str) -> Result<usize, Error> {
    let backend = directory.backend(url)?;
    let mut results = backend.embed(Call::query("x")).await?;
    results.pop().expect("a result").map(|embedding| embedding.vector.len())
}

/// Through the server, as a user of the database gets there.
async fn ask(server: &TestServer, url: &str) -> Result<usize, Status> {
    let module = json!({"text2vec-transformers": {"inferenceUrl": url}});
    let class_json = json!({"class": "A", "properties": [], "moduleConfig": module}).to_string();
    let config = Some(ClassConfig { class_json, ..ClassConfig::default() });
    let mut client = ModuleClient::connect(server.url("")).await.expect("a connection");
    let answer = client.vectorize_input(VectorizeInputRequest { input: "x".into(), config }).await?;
    Ok(answer.into_inner().vector.expect("a vector").values.len())
}

async fn server(directory: ClassUpstreams) -> TestServer {
    let module = ModuleOptions { upstreams: Some(Arc::new(directory)), ..ModuleOptions::default() };
    let server = TestServer::start_with(ServerOptions { module, ..ServerOptions::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(7)));
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_urls_are_refused() {
    let tripwire = Upstream::start(container).await;
    let port = tripwire.address.port();
    let names = Names::default();
    for (name, address) in [
        ("models.example", "127.0.0.1"),
        ("evil.example", "127.0.0.1"),
        ("evil6.example", "::1"),
        ("mapped.inside.example", "::ffff:127.0.0.1"),
        ("meta.inside.example", "169.254.169.254"),
        ("metadata.google.internal", "169.254.169.254"),
        ("zero.inside.example", "0.0.0.0"),
        ("inside.example", "127.0.0.1"),
        ("evilinside.example", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("public.example", "192.0.2.1"),
    ] {
        names.set(name, &[address]);
    }
    let allowed = "models.example:8080,*.inside.example,10.1.0.0/16";
    let server = server(directory(allowed, &names)).await;
    let mut hostile: Vec<String> = [
        // The address in every spelling.
        "http://127.0.0.1:PORT",
        "http://2130706433:PORT",
        "http://017700000001:PORT",
        "http://0x7f000001:PORT",
        "http://0x7f.1:PORT",
        "http://127.1:PORT",
        "http://0177.0.0.1:PORT",
        "http://[::1]:PORT",
        "http://[::ffff:127.0.0.1]:PORT",
        "http://[::ffff:7f00:1]:PORT",
        "http://[::127.0.0.1]:PORT",
        "http://[64:ff9b::127.0.0.1]:PORT",
        "http://[2002:7f00:1::]:PORT",
        "http://0:PORT",
        "http://0.0.0.0:PORT",
        "http://[::]:PORT",
        "http://１２７.０.０.１:PORT",
        "http://127。0。0。1:PORT",
        // Names.
        "http://localhost:PORT",
        "http://LOCALHOST.:PORT",
        "http://evil.example:PORT",
        "http://evil6.example:PORT",
        "http://mapped.inside.example:PORT",
        "http://zero.inside.example:PORT",
        "http://inside.example:PORT",
        "http://evilinside.example:PORT",
        "http://public.example",
        "http://unknown.example",
        // An allowed name whose address is loopback, and its wrong port.
        "http://models.example:8080",
        "http://models.example:PORT",
        "http://models.example.evil.example:PORT",
        // User-info, fragments, backslashes and blanks that look like an allowed host.
        "http://models.example:8080@127.0.0.1:PORT",
        "http://models.example%20@127.0.0.1:PORT",
        "http://127.0.0.1:PORT#@models.example:8080",
        "http://127.0.0.1:PORT\\@models.example:8080",
        "http://127.0.0.1:PORT?models.example:8080",
        "http://127.0.0.1:PORT/models.example:8080",
        "http://user:pw@localhost:PORT",
        "http://127.0.0.1\t:PORT",
        // Metadata, link-local, multicast.
        "http://169.254.169.254",
        "http://2852039166",
        "http://[::ffff:169.254.169.254]",
        "http://[fd00:ec2::254]",
        "http://[fe80::1]",
        "http://100.100.100.200",
        "http://metadata.google.internal",
        "http://meta.inside.example",
        "http://224.0.0.1",
        "http://255.255.255.255",
        // Networks next to the allowed one.
        "http://10.2.0.1",
        "http://[::ffff:10.2.0.1]",
        // Schemes and kinds.
        "grpc://127.0.0.1:PORT",
        "tei+http://127.0.0.1:PORT",
        "openai+http://2130706433:PORT",
        "t2v+http://0x7f.1:PORT",
        "https://127.0.0.1:PORT",
        "file:///etc/passwd",
        "gopher://127.0.0.1:PORT/_x",
        "ftp://models.example",
        "unix:///var/run/docker.sock",
        "t2v:8080",
        "//127.0.0.1:PORT",
        " http://127.0.0.1:PORT",
        "http://",
        "http:127.0.0.1:PORT",
        "HTTP://127.0.0.1:PORT",
        // Lists: one bad entry is enough.
        "http://10.1.0.1,http://127.0.0.1:PORT",
    ]
    .map(|url| url.replace("PORT", &port.to_string()))
    .to_vec();
    hostile.push(format!("http://{}", "a".repeat(5000)));
    assert!(hostile.len() >= 60);
    for url in &hostile {
        match ask(&server, url).await {
            Ok(_) => panic!("{url} was served"),
            Err(status) => {
                assert_eq!(status.code(), Code::PermissionDenied, "{url}: {status}");
                assert!(status.message().contains("--allow-upstream"), "{url}: {status}");
                assert!(!status.message().contains("pw"), "{url}: {status}");
            }
        }
    }
    assert_eq!(tripwire.connections.load(Ordering::SeqCst), 0, "somebody got through");
    println!("{} hostile URLs refused", hostile.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_served() {
    let upstream = Upstream::start(container).await;
    let port = upstream.address.port();
    let names = Names::default();
    names.set("models.example", &["127.0.0.1"]);
    names.set("localhost", &["127.0.0.1"]);
    for (allowed, url) in [
        ("127.0.0.1", "http://127.0.0.1:PORT"),
        ("127.0.0.0/8", "http://2130706433:PORT"),
        ("127.0.0.1:PORT", "http://models.example:PORT"),
        ("localhost:PORT", "http://localhost:PORT"),
        ("127.0.0.1", "http://user:secret@127.0.0.1:PORT"),
    ] {
        let (allowed, url) = (allowed.replace("PORT", &port.to_string()), url.replace("PORT", &port.to_string()));
        let server = server(directory(&allowed, &names)).await;
        assert_eq!(ask(&server, &url).await.expect("served"), 3, "{allowed} {url}");
    }
    // What the operator has named as an upstream, classes may name as well, loopback or not.
    let own = Address::parse(&format!("http://models.example:{port}/base")).expect("a URL");
    let mut allowed = Allowed::default();
    allowed.allow(&own);
    let options = RemoteOptions { resolver: Arc::new(names.clone()), ..RemoteOptions::default() };
    let directory = ClassUpstreams::new(allowed, options, Box::new(|backend| backend));
    assert_eq!(embed(&directory, &format!("http://models.example:{port}")).await, Ok(3));
    let refused = embed(&directory, &format!("http://models.example:{}", port - 1)).await.expect_err("another port");
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
}

/// A class chooses a path and a query at the operator's own upstream, where his token goes along.
#[tokio::test(flavor = "multi_thread")]
async fn a_class_does_not_choose_what_the_operators_token_asks_for() {
    let served_anywhere = |arrived: &Arrived| match arrived.headers.get("authorization").map(String::as_str) {
        Some("Bearer operators-token") => ok(r#"{"text":"","vector":[1,2,3],"dim":3}"#),
        _ => status(401, "{}"),
    };
    let upstream = Upstream::start(served_anywhere).await;
    let port = upstream.address.port();
    let names = Names::default();
    names.set("own.example", &["127.0.0.1"]);
    let guarded = |list: &str| {
        let own = Address::parse(&format!("http://own.example:{port}")).expect("a URL");
        let mut allowed = Allowed::parse(list).expect("patterns");
        allowed.allow(&own);
        let credentials = Credentials::parse("own.example=operators-token", "", "").expect("credentials");
        let options = RemoteOptions { resolver: Arc::new(names.clone()), credentials, ..RemoteOptions::default() };
        ClassUpstreams::new(allowed, options, Box::new(|backend| backend))
    };
    let served = server(guarded("")).await;
    for rest in [
        "/admin/delete?all=1&x=",
        "/admin/delete",
        "/admin/delete?",
        "/admin/delete#",
        "?x=",
        "#",
        "/?all=1",
        "/models/bge?all=1&x=",
        "/models/bge#x",
        "/models/../admin/delete",
        "/models/%2e%2e/admin",
        "/models/..%2fadmin",
        "/models/a%2fb%2fc",
        "/models/a%3fall=1",
        "/models/a/b/c",
        "/models/",
        "\\admin\\delete",
        "/ad\nmin/delete",
        "/v1",
        "//admin",
        "/.well-known/../admin",
    ] {
        for scheme in ["http", "t2v+http", "HTTP"] {
            for host in ["own.example", "OWN.EXAMPLE.", "user:pw@own.example", "operators-token@own.example"] {
                let url = format!("{scheme}://{host}:{port}{rest}");
                match ask(&served, &url).await {
                    Ok(_) => panic!("{url} was served"),
                    Err(status) => {
                        assert_eq!(status.code(), Code::PermissionDenied, "{url}: {status}");
                        assert!(status.message().contains("--allow-upstream"), "{url}: {status}");
                        assert!(!status.message().contains("token@"), "{url}: {status}");
                    }
                }
            }
        }
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 0, "somebody got through");
    // What is left are the upstream's models, with the token.
    for (rest, path) in [("", "/vectors"), ("/", "//vectors"), ("/models/org/bge", "/models/org/bge/vectors")] {
        assert_eq!(ask(&served, &format!("http://own.example:{port}{rest}")).await.expect("served"), 3, "{rest}");
        assert_eq!(upstream.count(path), 1, "{rest}");
    }
    // And what the operator lists.
    let listed = server(guarded(&format!("own.example:{port}/team"))).await;
    assert_eq!(ask(&listed, &format!("http://own.example:{port}/team/a")).await.expect("served"), 3);
    for rest in ["/team/a?x=", "/team/..%2fadmin", "/teams", "/admin"] {
        let refused = ask(&listed, &format!("http://own.example:{port}{rest}")).await.expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{rest}: {refused}");
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 4, "one for each URL that was served");
}

/// The name's address changes between the check and the use, and again later: only checked addresses are dialled.
#[tokio::test(flavor = "multi_thread")]
async fn rebinding_a_name_changes_nothing() {
    let good = Upstream::start_at("127.0.0.2:0", container).await;
    let port = good.address.port();
    let tripwire = Upstream::start_at(&format!("127.0.0.1:{port}"), container).await;
    let names = Names::default();
    names.set("rebind.example", &["127.0.0.2"]);
    let directory = directory("rebind.example,127.0.0.2", &names);
    let url = format!("http://rebind.example:{port}");
    assert_eq!(embed(&directory, &url).await, Ok(3));
    names.set("rebind.example", &["127.0.0.1"]);
    for _ in 0..20 {
        assert_eq!(embed(&directory, &url).await, Ok(3), "the checked address goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(good.count("/vectors"), 21);
    // Never seen before: nothing to go on with.
    let fresh = embed(&directory, &format!("http://rebind.example:{port}/other")).await.expect_err("refused");
    assert_eq!(fresh.kind(), ErrorKind::PermissionDenied, "{fresh}");
    assert_eq!(tripwire.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let tripwire = Upstream::start(container).await;
    let elsewhere = tripwire.url();
    for code in [301, 302, 303, 307, 308] {
        let location = format!("location: {elsewhere}/vectors\r\n");
        let upstream =
            Upstream::start_at("127.0.0.2:0", move |_: &Arrived| Act::Answer(code, location.clone(), "{}".into()));
        let upstream = upstream.await;
        let directory = directory("127.0.0.2", &Names::default());
        let error = embed(&directory, &upstream.url()).await.expect_err("no vector");
        assert!(error.message().contains(&format!("fail with status {code}")), "{error}");
    }
    assert_eq!(tripwire.connections.load(Ordering::SeqCst), 0);
}

/// Not even the operator: these addresses are never meant.
#[tokio::test]
async fn metadata_addresses_are_refused_to_the_operator_too() {
    let options = RemoteOptions { connect_timeout: Duration::from_millis(200), ..RemoteOptions::default() };
    for url in ["http://169.254.169.254", "http://[fd00:ec2::254]:80", "grpc://0.0.0.0:1"] {
        let services = startup::connect(Some(url), Some(url), false, &options).await.expect("not asked yet");
        let remote = services.passage.expect("one");
        let error = remote.embed(Call::passage("x")).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{url}: {error}");
    }
}

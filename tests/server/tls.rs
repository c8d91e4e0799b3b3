//! TLS on the port: HTTP/1.1, HTTP/2 and gRPC over it, client certificates, files that change, and another sidecar as its
//! client.

use crate::support;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use reqwest::{Certificate, Client, Identity, StatusCode};
use support::certificates::{Authority, Files, Issued};
use support::{FakeBackend, TestServer, model_dir};
use text2vec_engine::device::GPU_SUPPORT;
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::remote::client::Tls as ClientTls;
use text2vec_sidecar::backend::remote::credentials::Credentials;
use text2vec_sidecar::backend::remote::{Remote, RemoteOptions, startup};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::error::{ErrorKind, Result};
use text2vec_sidecar::proto::VectorizeRequest;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::server::{Access, ServerOptions, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

async fn serve_with(tls: Tls, access: Access) -> TestServer {
    let options = ServerOptions { tls: Some(Arc::new(tls)), access, page: true, ..ServerOptions::default() };
    let server = TestServer::start_with(options).await;
    server.readiness.ready(Arc::new(FakeBackend::new(3)));
    server
}

/// A server with this certificate, which asks for one of the authority's if there is one.
async fn serve(files: &Files, issued: &Issued, clients: Option<&Authority>) -> TestServer {
    let (certificate, key) = files.put_pair(issued);
    let authority = clients.map(|authority| files.put("clients.pem", &authority.pem()));
    let tls = Tls::read(&certificate, &key, authority.as_deref()).expect("usable files");
    serve_with(tls, Access::default()).await
}

fn https(server: &TestServer, path: &str) -> String {
    server.url(path).replace("http://", "https://")
}

/// A client that believes the authority alone.
fn client(authority: &Authority, identity: Option<&Issued>, http2: bool) -> Client {
    let root = Certificate::from_pem(authority.pem().as_bytes()).expect("a certificate");
    let mut builder = Client::builder().no_proxy().tls_certs_only([root]);
    if let Some(identity) = identity {
        let pem = format!("{}{}", identity.certificate, identity.key);
        builder = builder.identity(Identity::from_pem(pem.as_bytes()).expect("an identity"));
    }
    if !http2 {
        builder = builder.http1_only();
    }
    builder.build().expect("a client")
}

/// A real gRPC client: tonic's, over a TLS connection.
async fn channel(server: &TestServer, authority: &Authority, identity: Option<&Issued>) -> Channel {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
            config.with_client_auth_cert(vec![certificate], key).expect("an identity")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (connector, address) = (TlsConnector::from(Arc::new(config)), server.address);
    let dial = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://sidecar").connect_with_connector_lazy(dial)
}

async fn vectorize(channel: &Channel) -> Result<(), Status> {
    let request = VectorizeRequest { texts: vec!["a".into()], ..VectorizeRequest::default() };
    VectorizerClient::new(channel.clone()).vectorize(request).await.map(drop)
}

/// `POST /vectors`; `Err`: there was no connection, and why.
async fn post(client: &Client, server: &TestServer) -> Result<(StatusCode, reqwest::Version), String> {
    use std::error::Error as _;
    match client.post(https(server, "/vectors")).body(r#"{"text":"a"}"#).send().await {
        Ok(answer) => Ok((answer.status(), answer.version())),
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            Err(text)
        }
    }
}

#[tokio::test]
async fn every_protocol_is_spoken_over_tls() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let server = serve(&files, &authority.server(), None).await;
    assert_eq!(post(&client(&authority, None, false), &server).await, Ok((StatusCode::OK, reqwest::Version::HTTP_11)));
    assert_eq!(post(&client(&authority, None, true), &server).await, Ok((StatusCode::OK, reqwest::Version::HTTP_2)));
    vectorize(&channel(&server, &authority, None).await).await.expect("a vector");
    // A client that does not know the authority leaves.
    let stranger = Authority::new("another");
    for http2 in [false, true] {
        let error = post(&client(&stranger, None, http2), &server).await.expect_err("not believed");
        assert!(error.contains("UnknownIssuer"), "{error}");
    }
    assert!(vectorize(&channel(&server, &stranger, None).await).await.is_err());
    // Who speaks plain HTTP is told.
    let answer = Client::builder().no_proxy().build().expect("a client").get(server.url("/meta")).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let body: serde_json::Value = answer.json().await.expect("whole JSON");
    assert!(body["error"].as_str().is_some_and(|text| text.contains("https://")), "{body}");
    server.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_seen_by_its_clients() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let server = serve(&files, &authority.expired(), None).await;
    for http2 in [false, true] {
        let error = post(&client(&authority, None, http2), &server).await.expect_err("expired");
        assert!(error.contains("expired"), "{error}");
    }
    let status = vectorize(&channel(&server, &authority, None).await).await.expect_err("expired");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // A new one is used without a restart.
    files.put_pair(&authority.server());
    let started = Instant::now();
    while post(&client(&authority, None, true), &server).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn client_certificates_are_asked_for_except_by_probes() {
    let (authority, clients, files) = (Authority::new("ours"), Authority::new("clients"), Files::new());
    let server = serve(&files, &authority.server(), Some(&clients)).await;
    let (right, wrong) = (clients.client(), Authority::new("others").client());
    // Signed by the right authority, but for servers.
    let misused = clients.server();
    for http2 in [false, true] {
        let none = client(&authority, None, http2);
        let answer = none.post(https(&server, "/vectors")).body(r#"{"text":"a"}"#).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.text().await.expect("a body").contains("client certificate"));
        let probe = none.get(https(&server, "/.well-known/ready")).send().await.expect("an answer");
        assert_eq!(probe.status(), StatusCode::NO_CONTENT);
        assert_eq!(
            post(&client(&authority, Some(&right), http2), &server).await.map(|(status, _)| status),
            Ok(StatusCode::OK)
        );
        for identity in [&wrong, &misused] {
            let refused = client(&authority, Some(identity), http2);
            assert!(post(&refused, &server).await.is_err());
            assert!(refused.get(https(&server, "/.well-known/ready")).send().await.is_err());
        }
    }
    let none = channel(&server, &authority, None).await;
    let status = vectorize(&none).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    HealthClient::new(none).check(HealthCheckRequest::default()).await.expect("a probe is answered");
    vectorize(&channel(&server, &authority, Some(&right)).await).await.expect("a vector");
    for identity in [&wrong, &misused] {
        let status = vectorize(&channel(&server, &authority, Some(identity)).await).await.expect_err("refused");
        assert_ne!(status.code(), Code::Unauthenticated, "the handshake ends, not the request: {status}");
    }
    server.stop().await;
}

/// The page for browsers needs no certificate, and its scripts tell by the challenge whether a token or one is missing.
#[tokio::test]
async fn who_lacks_the_certificate_is_not_asked_for_a_token() {
    let (authority, clients, files) = (Authority::new("ours"), Authority::new("clients"), Files::new());
    let (certificate, key) = files.put_pair(&authority.server());
    let tls = Tls::read(&certificate, &key, Some(&files.put("clients.pem", &clients.pem()))).expect("usable files");
    let server = serve_with(tls, Access::new(Some("token1"), None, false).expect("tokens")).await;
    let right = clients.client();
    for (identity, challenges) in [(None, 0), (Some(&right), 2)] {
        let client = client(&authority, identity, false);
        let answer = client.get(https(&server, "/meta")).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers().get_all("www-authenticate").iter().count(), challenges);
        let page = client.get(https(&server, "/")).header("accept", "text/html").send().await.expect("an answer");
        assert_eq!(page.status(), StatusCode::OK);
    }
    server.stop().await;
}

/// Waits until new connections are as expected.
async fn becomes(expected: bool, server: &TestServer, new: impl Fn() -> Client) {
    let started = Instant::now();
    while post(&new(), server).await.is_ok() != expected {
        assert!(started.elapsed() < Duration::from_secs(20), "the files are not read again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn files_are_read_again_under_live_connections() {
    let (before, after, files) = (Authority::new("before"), Authority::new("after"), Files::new());
    let server = serve(&files, &before.server(), None).await;
    let (one, two) = (client(&before, None, false), client(&before, None, true));
    let grpc = channel(&server, &before, None).await;
    let connections_live = async || {
        for client in [&one, &two] {
            assert_eq!(post(client, &server).await.map(|(status, _)| status), Ok(StatusCode::OK));
        }
        vectorize(&grpc).await.expect("a vector");
    };
    connections_live().await;
    // A certificate without its key, and rubbish, are not used.
    let next = after.server();
    files.put("cert.pem", &next.certificate);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(post(&client(&before, None, true), &server).await.is_ok());
    files.put("key.pem", "rubbish");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(post(&client(&before, None, true), &server).await.is_ok());
    files.put("key.pem", &next.key);
    becomes(true, &server, || client(&after, None, true)).await;
    assert!(post(&client(&before, None, true), &server).await.is_err());
    // Those that were open stay.
    connections_live().await;
    server.stop().await;
}

#[tokio::test]
async fn authorities_of_clients_are_read_again() {
    let (authority, before, after) = (Authority::new("ours"), Authority::new("before"), Authority::new("after"));
    let files = Files::new();
    let server = serve(&files, &authority.server(), Some(&before)).await;
    let (old, new) = (before.client(), after.client());
    let opens = async |identity: &Issued| post(&client(&authority, Some(identity), true), &server).await.is_ok();
    assert!(opens(&old).await && !opens(&new).await);
    files.put("clients.pem", &format!("{}{}", before.pem(), after.pem()));
    becomes(true, &server, || client(&authority, Some(&new), true)).await;
    assert!(opens(&old).await);
    files.put("clients.pem", &after.pem());
    becomes(false, &server, || client(&authority, Some(&old), true)).await;
    assert!(opens(&new).await);
    server.stop().await;
}

#[tokio::test]
async fn connections_that_say_nothing_stop_nobody() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let server = serve(&files, &authority.server(), None).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        // The beginning of a handshake that never goes on.
        stream.write_all(&[0x16, 3, 1]).await.expect("written");
        silent.push(stream);
    }
    let asked = tokio::time::timeout(Duration::from_secs(5), post(&client(&authority, None, true), &server)).await;
    assert_eq!(asked.expect("in time").map(|(status, _)| status), Ok(StatusCode::OK));
    // Nor the server's end, and not for ever.
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let closed = silent[0].read(&mut [0; 8]).await;
    assert!(closed.is_err() || closed.is_ok_and(|read| read == 0), "it is closed");
}

#[test]
fn unusable_files_are_refused_with_what_is_wrong() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let (issued, other) = (authority.server(), authority.server());
    let (certificate, key) = files.put_pair(&issued);
    let other_key = files.put("other.pem", &other.key);
    let (empty, missing) = (files.put("empty.pem", ""), files.path("missing.pem"));
    let broken = files.put("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    for (certificate, key, authorities, words) in [
        (&certificate, &other_key, None, "do not go together"),
        (&certificate, &missing, None, "cannot be read"),
        (&empty, &key, None, "holds no certificate"),
        (&key, &key, None, "holds no certificate"),
        (&certificate, &certificate, None, "holds no usable PEM key"),
        (&certificate, &key, Some(empty.as_path()), "holds no certificate"),
        (&certificate, &key, Some(broken.as_path()), "cannot be used"),
    ] {
        let error = Tls::read(certificate, key, authorities).expect_err(words);
        assert!(error.kind() == ErrorKind::Config && error.message().contains(words), "{error}");
        assert!(error.message().contains(".pem"), "it names the file: {error}");
    }
}

#[tokio::test]
async fn healthcheck_speaks_tls_where_the_server_does() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    // Neither its name nor its time matters to a check from beside it.
    let server = serve(&files, &authority.expired(), Some(&authority)).await;
    let check = |tls: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"));
        command.args(["healthcheck", "--listen", &format!("0.0.0.0:{}", server.address.port())]);
        command.env_remove("T2V_TLS_CERT").stdin(Stdio::null());
        if tls {
            command.env("T2V_TLS_CERT", files.path("cert.pem"));
        }
        tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
    };
    let output = check(true).await.expect("a task");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = check(false).await.expect("a task");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("this port speaks TLS only"));
    server.stop().await;
}

/// Ends with the test, however that ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_binary_takes_tokens_and_certificates_from_its_settings() {
    let (authority, clients, files) = (Authority::new("ours"), Authority::new("clients"), Files::new());
    let (certificate, key) = files.put_pair(&authority.server());
    let client_ca = files.put("clients.pem", &clients.pem());
    let tokens = files.put("tokens", "from-file\n");
    let address = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let binary = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"));
        command.env("T2V_TLS_CERT", &certificate).env("T2V_LISTEN", address.to_string()).env("RUST_LOG", "error");
        command.stdin(Stdio::null());
        command
    };
    let mut server = binary();
    server.args(["--model", model_dir().to_str().expect("a path"), "--auth-metrics"]);
    server.env("T2V_TLS_KEY", &key).env("T2V_TLS_CLIENT_CA", &client_ca).env("T2V_AUTH_TOKENS_FILE", &tokens);
    server.env("AUTHENTICATION_ALLOWED_TOKENS", "from-list");
    // A build for GPUs does as it says, or does not start.
    if !GPU_SUPPORT {
        server.env("ENABLE_CUDA", "1");
    }
    let _server = Running(server.spawn().expect("it starts"));
    let started = Instant::now();
    loop {
        let mut check = binary();
        let check = tokio::task::spawn_blocking(move || check.arg("healthcheck").output().expect("the binary runs"));
        if check.await.expect("a task").status.success() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "not ready after a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let certified = clients.client();
    for (identity, token, path, expected) in [
        (Some(&certified), "from-list", "/meta", 200),
        (Some(&certified), "from-file", "/meta", 200),
        (Some(&certified), "another", "/meta", 401),
        (Some(&certified), "another", "/metrics", 401),
        (None, "from-list", "/meta", 401),
        (None, "another", "/.well-known/ready", 204),
    ] {
        let request = client(&authority, identity, true).get(format!("https://{address}{path}")).bearer_auth(token);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), expected, "{path} with '{token}'");
        if expected == 200 {
            let meta: serde_json::Value = answer.json().await.expect("JSON");
            let ignored = (!GPU_SUPPORT).into();
            assert_eq!((&meta["sidecar"]["cuda_ignored"], &meta["sidecar"]["device"]), (&ignored, &"cpu".into()));
        }
    }
}

/// What our own client side is told.
fn upstream(files: &Files, authority: Option<&Authority>, identity: Option<&Issued>, tokens: &str) -> RemoteOptions {
    let authority = authority.map(|authority| files.put("upstream-ca.pem", &authority.pem()));
    let identity = identity.map(|issued| {
        (files.put("upstream-cert.pem", &issued.certificate), files.put("upstream-key.pem", &issued.key))
    });
    let (certificate, key) = identity.unzip();
    let tls = ClientTls::read(authority.as_deref(), certificate.as_deref(), key.as_deref()).expect("usable files");
    let credentials = Credentials::parse(tokens, "", "").expect("credentials");
    RemoteOptions { tls, credentials, attempt_timeout: Duration::from_secs(5), ..RemoteOptions::default() }
}

/// A text through another sidecar, by the scheme.
async fn through(scheme: &str, server: &TestServer, options: &RemoteOptions) -> Result<Vec<f32>> {
    let url = format!("{scheme}://{}", server.address);
    let services = startup::connect(Some(&url), Some(&url), false, options).await?;
    let remote: Arc<Remote> = services.passage.expect("an upstream");
    let embedding = remote.embed(Call::passage("abc")).await?.pop().expect("a result")?;
    Ok(embedding.vector.to_vec())
}

#[tokio::test]
async fn a_sidecar_forwards_to_a_sidecar_over_tls() {
    let (authority, clients, files) = (Authority::new("ours"), Authority::new("clients"), Files::new());
    let (certificate, key) = files.put_pair(&authority.server());
    let client_ca = files.put("clients.pem", &clients.pem());
    let plain = Tls::read(&certificate, &key, None).expect("usable files");
    let plain = serve_with(plain, Access::new(Some("verysecret"), None, false).expect("tokens")).await;
    let mutual =
        serve_with(Tls::read(&certificate, &key, Some(&client_ca)).expect("usable files"), Access::default()).await;
    let (right, wrong) = (clients.client(), Authority::new("others").client());
    let own = Files::new();
    let tokens = "127.0.0.1=verysecret";
    let vector = Ok(vec![3.0, 4.0, 5.0]);
    for scheme in ["https", "t2v+https", "grpcs"] {
        let answer = |authority, identity, tokens, server| {
            let options = upstream(&own, authority, identity, tokens);
            async move { through(scheme, server, &options).await }
        };
        assert_eq!(answer(Some(&authority), None, tokens, &plain).await, vector, "{scheme}");
        assert_eq!(answer(Some(&authority), Some(&right), "", &mutual).await, vector, "{scheme}");
        for (what, error) in [
            ("no authority", answer(None, None, tokens, &plain).await),
            ("another authority", answer(Some(&clients), None, tokens, &plain).await),
            ("no certificate", answer(Some(&authority), None, "", &mutual).await),
            ("a wrong certificate", answer(Some(&authority), Some(&wrong), "", &mutual).await),
            ("no token", answer(Some(&authority), None, "", &plain).await),
            ("a wrong token", answer(Some(&authority), None, "127.0.0.1=no", &plain).await),
        ] {
            let error = error.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Upstream, "{scheme}, {what}: {error}");
            assert!(!error.message().contains("verysecret"));
            let told = match what {
                "no authority" | "another authority" => error.message().contains("UnknownIssuer"),
                "no certificate" => error.message().contains("client certificate"),
                "no token" | "a wrong token" => error.message().contains("Unauthorized: "),
                _ => true,
            };
            assert!(told, "{scheme}, {what}: {error}");
        }
    }
    plain.stop().await;
    mutual.stop().await;
}

#[tokio::test]
async fn compare_believes_and_shows_what_it_is_told_to() {
    let (authority, clients, files) = (Authority::new("ours"), Authority::new("clients"), Files::new());
    let (certificate, key) = files.put_pair(&authority.server());
    let tls = Tls::read(&certificate, &key, Some(&files.put("clients.pem", &clients.pem()))).expect("usable files");
    let server = serve_with(tls, Access::new(Some("verysecret"), None, false).expect("tokens")).await;
    let identity = clients.client();
    let ca = files.put("ca.pem", &authority.pem());
    let shown = files.put("shown.pem", &identity.certificate);
    let shown_key = files.put("shown-key.pem", &identity.key);
    let compare = |tokens: &'static str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"));
        command.args(["compare", &https(&server, ""), &https(&server, "").replace("https://", "grpcs://")]);
        command.arg("--upstream-ca").arg(&ca).arg("--upstream-cert").arg(&shown).arg("--upstream-key").arg(&shown_key);
        command.env("T2V_UPSTREAM_TOKENS", tokens).env("RUST_LOG", "error").stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
    };
    let output = compare("127.0.0.1=verysecret").await.expect("a task");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed} {}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("the same vectors"), "{printed}");
    let output = compare("").await.expect("a task");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("Unauthorized"), "{output:?}");
    server.stop().await;
}

//! Connections that ask nothing, ask slowly, or ask too much, against the real binary: each is given up in its time, and
//! whatever there is of them, probes are answered at once and others are served.
//!
//! `T2V_BIN` names another binary. Flags come as variables, so that an older binary can be measured as well. Run with
//! `--nocapture` to see the figures.

use crate::support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::certificates::{Authority, Files};
use support::model_dir;
use support::process::{Connection, Process};
use text2vec_sidecar::proto::VectorizeRequest;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// A probe is answered within this.
const PROMPTLY: Duration = Duration::from_millis(500);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: u8 = 7;

/// The binary with the real model, told by variables.
async fn server(variables: &[(&str, &str)]) -> Process {
    rlimit::increase_nofile_limit(u64::MAX).expect("files");
    Process::start(&[], variables).await
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = timeout(Duration::from_secs(5), TcpStream::connect(address)).await;
    stream.expect("connected in time").expect("a connection")
}

/// Connections that have sent this much, and nothing more.
async fn connections(address: SocketAddr, count: usize, sent: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(address).await;
        // It may have been closed already.
        let _ = stream.write_all(sent).await;
        open.push(stream);
    }
    open
}

/// How long until the server closes the connection, and what it has said by then; `None`: it stays open.
async fn closed(stream: &mut TcpStream, within: Duration) -> Option<(Duration, Vec<u8>)> {
    let (begun, mut said) = (Instant::now(), Vec::new());
    let read = timeout(within, stream.read_to_end(&mut said)).await;
    read.is_ok().then(|| (begun.elapsed(), said))
}

/// The status of a path on a connection of its own, and how long that took; `None` after ten seconds.
async fn ask(address: SocketAddr, path: &str) -> Option<(u16, Duration)> {
    let begun = Instant::now();
    let answer = async { Connection::open(address).await.ok()?.get(path).await.ok() };
    let status = timeout(Duration::from_secs(10), answer).await.ok()??.status().as_u16();
    Some((status, begun.elapsed()))
}

/// gRPC health on a connection of its own.
async fn grpc_health(server: &Process) -> Option<Duration> {
    let begun = Instant::now();
    let endpoint = tonic::transport::Channel::from_shared(server.url("")).expect("a URL");
    let asked = async {
        let mut client = HealthClient::new(endpoint.connect().await.ok()?);
        client.check(HealthCheckRequest::default()).await.ok()
    };
    let answer = timeout(Duration::from_secs(10), asked).await.ok()??;
    (answer.into_inner().status == 1).then(|| begun.elapsed())
}

/// What orchestrators ask, each with the status that means all is well.
fn probes() -> Vec<(String, u16)> {
    let name = model_dir().file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let mut probes = vec![
        ("/.well-known/ready".to_owned(), 204),
        ("/.well-known/live".to_owned(), 204),
        ("/health".to_owned(), 200),
    ];
    probes.push((format!("/models/{name}/.well-known/ready"), 204));
    probes.push((format!("/models/{name}/.well-known/live"), 204));
    probes.push((format!("/models/{name}/health"), 200));
    probes
}

/// How long a probe took that answered promptly. The machine itself may stand still for a moment, so one that was late is asked
/// again; without a place in the server it is late every time.
async fn promptly<Probe: Future<Output = Duration>>(what: &str, probe: impl Fn() -> Probe) -> Duration {
    let mut late = Vec::new();
    while late.len() < 3 {
        match probe().await {
            took if took < PROMPTLY => return took,
            took => late.push(took),
        }
    }
    panic!("{what} took {late:?}");
}

/// All probes, so many times: right, and promptly. Answers the slowest.
async fn all_probes_answer(server: &Process, times: usize, what: &str) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..times {
        for (path, well) in probes() {
            let probe = async || {
                let answer = ask(server.address, &path).await;
                let (status, took) = answer.unwrap_or_else(|| panic!("{what}: no answer to {path}"));
                assert_eq!(status, well, "{what}: {path}");
                took
            };
            slowest = slowest.max(promptly(&format!("{what}: {path}"), probe).await);
        }
        let health = async || grpc_health(server).await.unwrap_or_else(|| panic!("{what}: gRPC health"));
        slowest = slowest.max(promptly(&format!("{what}: gRPC health"), health).await);
    }
    slowest
}

/// Without an answer, or with a part of a head, or of HTTP/2's opening: thousands of each, and few places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_slow_connections_take_nobodys_place() {
    let _machine = crate::alone().await;
    let server = server(&[("T2V_MAX_CONNECTIONS", "4"), ("T2V_MAX_HEAD_WAIT", "60")]).await;
    let mut all = Vec::new();
    for (what, sent) in [
        ("silent", &b""[..]),
        ("half a head", b"GET /.well-known/ready HTTP/1.1\r\nhost: x\r\n"),
        ("half a preface", &PREFACE[..7]),
        ("a preface", PREFACE),
        ("an HTTP/2 opening", &[PREFACE, SETTINGS].concat()),
        ("a handshake", b"\x16\x03\x01\x02"),
    ] {
        all.push(connections(server.address, 1500, sent).await);
        let slowest = all_probes_answer(&server, 3, what).await;
        println!("{what}: 1,500 connections more, probes after {slowest:?} at most");
        let mut connection = Connection::open(server.address).await.expect("a connection");
        let answer = timeout(Duration::from_secs(5), connection.post(r#"{"text": "a"}"#)).await;
        assert_eq!(answer.expect("in time").expect("an answer").status(), 200, "{what}: there was a place");
    }
    let (resident, _) = server.memory();
    println!("9,000 connections were opened: {resident:.0} MiB");
}

/// New ones come without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_silent_connections_keeps_no_probe_from_its_answer() {
    let _machine = crate::alone().await;
    let server = server(&[("T2V_MAX_CONNECTIONS", "4")]).await;
    let address = server.address;
    let flood = tokio::spawn(async move {
        let (mut open, mut opened) = (std::collections::VecDeque::new(), 0_usize);
        loop {
            if let Ok(stream) = TcpStream::connect(address).await {
                open.push_back(stream);
                opened += 1;
            }
            if open.len() > 3000 {
                open.pop_front();
            }
            if opened.is_multiple_of(50) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let slowest = all_probes_answer(&server, 10, "a flood").await;
    println!("probes during a flood: {slowest:?} at most");
    flood.abort();
}

/// Many systems give a process few files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_file_descriptors_are_enough_for_probes() {
    let _machine = crate::alone().await;
    for (files, count) in [(64, 200), (256, 600)] {
        let mut command = Command::new("sh");
        let binary = Process::command();
        command.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\"")).arg(binary.get_program());
        command.args(["--model", model_dir().to_str().expect("a path")]).env("RUST_LOG", "error");
        rlimit::increase_nofile_limit(u64::MAX).expect("files");
        let server = Process::launch(command).await;
        for (what, sent) in [
            ("silent", &b""[..]),
            ("half a head", b"GET /.well-known/ready HTTP/1.1\r\nhost: x\r\n"),
            ("a preface", PREFACE),
        ] {
            let held = connections(server.address, count, sent).await;
            let slowest = all_probes_answer(&server, 5, what).await;
            println!("{files} files, {count} connections ({what}): probes after {slowest:?} at most");
            drop(held);
        }
        // All that may be kept is kept, and asks.
        let mut kept = Vec::new();
        for _ in 0..files {
            let Ok(mut connection) = Connection::open(server.address).await else { break };
            let answer = timeout(Duration::from_secs(2), connection.get("/meta")).await.expect("in time");
            kept.push((answer.expect("an answer").status().as_u16(), connection));
        }
        let served = kept.iter().filter(|(status, _)| *status == 200).count();
        assert!(served >= files / 4 && served < files && kept.iter().all(|(status, _)| [200, 429].contains(status)));
        all_probes_answer(&server, 3, "all places taken").await;
        println!("{files} files: {served} connections served");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connection_has_its_time_for_its_first_byte_and_for_a_head() {
    let _machine = crate::beside_others().await;
    let server = server(&[("T2V_MAX_HEAD_WAIT", "1"), ("T2V_MAX_CONNECTION_IDLE", "4")]).await;
    let late = Duration::from_millis(900)..Duration::from_millis(3000);
    for sent in [&b""[..], &PREFACE[..7], PREFACE] {
        let mut stream = connections(server.address, 1, sent).await.remove(0);
        let (took, _) = closed(&mut stream, Duration::from_secs(10)).await.expect("closed");
        assert!(late.contains(&took), "{sent:?}: {took:?}");
    }
    // A head that comes a byte at a time is told why it is left.
    let mut stream = connect(server.address).await;
    let begun = Instant::now();
    for byte in b"GET /.well-known/ready HTTP/1.1\r\nx-padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        if stream.write_all(&[*byte]).await.is_err() || begun.elapsed() > Duration::from_secs(5) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, said) = closed(&mut stream, Duration::from_secs(10)).await.expect("closed");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("--max-head-wait"), "{said}");
    assert!(late.contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let (_, body) = said.split_once("\r\n\r\n").expect("a body");
    assert!(serde_json::from_str::<Value>(body).expect("JSON")["error"].is_string());
    // Between requests there is more time, and for a head again only this.
    let mut stream = connect(server.address).await;
    for _ in 0..2 {
        stream.write_all(b"GET /.well-known/ready HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).await.expect("read");
        assert!(answer[..read].starts_with(b"HTTP/1.1 204 "), "{}", String::from_utf8_lossy(&answer[..read]));
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    stream.write_all(b"GET /.well-").await.expect("sent");
    let (took, _) = closed(&mut stream, Duration::from_secs(10)).await.expect("closed");
    assert!(late.contains(&took), "the third head: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_closed_when_nothing_is_asked_over_them_any_more() {
    let _machine = crate::beside_others().await;
    let server = server(&[("T2V_MAX_CONNECTION_IDLE", "2"), ("T2V_MAX_HEAD_WAIT", "1")]).await;
    let idle = Duration::from_millis(1900)..Duration::from_millis(4500);
    let mut stream = connect(server.address).await;
    stream.write_all(b"GET /.well-known/ready HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let (took, said) = closed(&mut stream, Duration::from_secs(10)).await.expect("closed");
    assert!(said.starts_with(b"HTTP/1.1 204 ") && idle.contains(&took), "HTTP/1.1: {took:?}");
    // HTTP/2 is told before; this client does not even listen.
    let mut stream = connections(server.address, 1, &[PREFACE, SETTINGS].concat()).await.remove(0);
    let (took, said) = closed(&mut stream, Duration::from_secs(10)).await.expect("closed");
    assert!(idle.contains(&took), "HTTP/2: {took:?}");
    assert!(frames(&said).contains(&GOAWAY), "{said:?}");
    // A stream that is open, and says nothing, is no reason.
    let mut grpc = VectorizerClient::connect(server.url("")).await.expect("a connection");
    let (send, requests) = tokio::sync::mpsc::channel(1);
    let stream = grpc.vectorize_stream(tokio_stream::wrappers::ReceiverStream::new(requests));
    let talk = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        send.send(text2vec_sidecar::proto::VectorizeStreamRequest { text: "a".into(), ..Default::default() }).await
    };
    let (stream, sent) = tokio::join!(stream, talk);
    sent.expect("sent");
    let answer = stream.expect("a stream").into_inner().message().await.expect("an answer");
    assert!(answer.is_some());
    drop(send);
    // And a client that was told to leave comes again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let request = VectorizeRequest { texts: vec!["a".into()], ..Default::default() };
    grpc.vectorize(request).await.expect("on a new connection");
}

/// The types of the frames in what a server sent.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        types.push(*kind);
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        bytes = rest.get(length..).unwrap_or_default();
    }
    types
}

/// Probes are not among those who are told that there are too many, on HTTP/1.1 and over HTTP/2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_probe_is_answered_when_all_places_are_taken() {
    let _machine = crate::beside_others().await;
    let server = server(&[("T2V_MAX_CONNECTIONS", "2")]).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(server.address).await.expect("a connection");
        assert_eq!(connection.post(r#"{"text": "a"}"#).await.expect("an answer").status(), 200);
        kept.push(connection);
    }
    assert_eq!(ask(server.address, "/meta").await.expect("an answer").0, 429);
    all_probes_answer(&server, 2, "all places taken").await;
    let http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    for (path, well) in probes() {
        let answer = http2.get(server.url(&path)).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), well, "{path} over HTTP/2");
    }
    // A guest's connection does not stay.
    let mut stream = connect(server.address).await;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let (took, said) = closed(&mut stream, Duration::from_secs(10)).await.expect("closed");
    let said = String::from_utf8_lossy(&said).to_lowercase();
    assert!(said.starts_with("http/1.1 200") && said.contains("connection: close"), "{said}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let mut stream = connections(server.address, 1, &[PREFACE, SETTINGS].concat()).await.remove(0);
    // GET /health by HPACK's static table and a literal path, without Huffman.
    let head = [&[0x82, 0x86, 0x04, 0x07][..], b"/health"].concat();
    let frame = [&[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1][..], &head].concat();
    stream.write_all(&frame).await.expect("sent");
    let (took, said) = closed(&mut stream, Duration::from_secs(20)).await.expect("closed");
    assert!(frames(&said).contains(&GOAWAY) && took < Duration::from_secs(8), "{took:?}: {:?}", frames(&said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_have_a_size() {
    let _machine = crate::beside_others().await;
    let server = server(&[("T2V_MAX_HEAD_BYTES", "4096")]).await;
    let exchange = async |head: String| {
        let mut stream = connect(server.address).await;
        // The server may answer and close before all is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = closed(&mut stream, Duration::from_secs(10)).await.map(|(_, said)| said).unwrap_or_default();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let head =
        |headers: &str| format!("GET /.well-known/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    assert!(exchange(head("")).await.starts_with("HTTP/1.1 204 "));
    assert!(exchange(head(&format!("a: {}\r\n", "b".repeat(3000)))).await.starts_with("HTTP/1.1 204 "));
    for (what, headers) in [
        ("one large header", format!("a: {}\r\n", "b".repeat(5000))),
        ("many small ones", "c: dddddddddddddddddddddddddddddd\r\n".repeat(80)),
    ] {
        let answer = exchange(head(&headers)).await;
        assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("--max-head-bytes"), "{what}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "a".repeat(5000));
    assert!(exchange(long).await.starts_with("HTTP/1.1 431 "), "a long path");
    // Without an end: not for ever, and never in memory.
    let (before, _) = server.memory();
    let mut stream = connect(server.address).await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&b"a: b\r\n".repeat(10_000)).await.is_ok() {
        sent += 60_000;
    }
    let (after, _) = server.memory();
    println!("a head without end: {} KiB were taken, {:.0} MiB grown", sent >> 10, after - before);
    assert!(sent < 32 << 20 && after < before + 20.0);
    // HTTP/2 as well.
    let http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    let large = |size: usize| http2.get(server.url("/.well-known/ready")).header("a", "b".repeat(size)).send();
    assert_eq!(large(3000).await.expect("an answer").status(), 204);
    match large(5000).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => println!("HTTP/2: {error:?}"),
    }
    assert_eq!(large(3000).await.expect("the connection lives, or another is made").status(), 204);
}

/// CONTINUATION frames without end, streams reset as they are opened, PINGs and SETTINGS: the client is sent away or
/// served; others are served, and nothing is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_harm_their_own_connection_alone() {
    let _machine = crate::alone().await;
    let server = server(&[]).await;
    all_probes_answer(&server, 1, "before").await;
    let (before, _) = server.memory();
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let get = [&[0x82, 0x86, 0x04, 0x05][..], b"/meta", &[0x41, 0x01, b'x']].concat();
    let continuation = frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(1000));
    let mut floods: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("CONTINUATION", frame(1, 0, 1, &get), continuation),
        ("empty CONTINUATION", frame(1, 0, 1, &get), frame(9, 0, 1, &[]).repeat(1000)),
        ("PING", Vec::new(), frame(6, 0, 0, &[7; 8]).repeat(1000)),
        ("SETTINGS", Vec::new(), frame(4, 0, 0, &[]).repeat(1000)),
        ("PRIORITY", Vec::new(), frame(2, 0, 1, &[0, 0, 0, 0, 1]).repeat(1000)),
        ("WINDOW_UPDATE", Vec::new(), frame(8, 0, 0, &[0, 0, 0, 1]).repeat(1000)),
    ];
    let mut resets = Vec::new();
    for number in 0..20_000 {
        let stream = 1 + 2 * number;
        resets.extend(frame(1, 5, stream, &get));
        resets.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
    }
    floods.push(("rapid reset", resets, Vec::new()));
    for (what, first, again) in floods {
        let mut stream = connections(server.address, 1, &[PREFACE, SETTINGS, &first].concat()).await.remove(0);
        let begun = Instant::now();
        let (mut sent, mut left, mut at) = (first.len(), false, 0);
        let mut buffer = vec![0; 1 << 16];
        while begun.elapsed() < Duration::from_secs(2) && !left {
            match timeout(Duration::from_millis(200), stream.write(&again[at..])).await {
                Ok(Ok(wrote)) if !again.is_empty() => {
                    at = (at + wrote) % again.len();
                    sent += wrote;
                }
                Ok(Err(_)) => left = true,
                _ => {}
            }
            // Answers are read, so that they are no reason to stop.
            while let Ok(read) = stream.try_read(&mut buffer) {
                if read == 0 {
                    left = true;
                    break;
                }
            }
            if again.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let slowest = all_probes_answer(&server, 2, what).await;
        let (after, _) = server.memory();
        println!(
            "{what}: {} KiB sent, sent away: {left}, probes {slowest:?}, {after:.0} MiB ({before:.0})",
            sent >> 10
        );
        assert!(after < before + 40.0, "{what}: {after:.0} MiB");
        if what.contains("CONTINUATION") || what == "rapid reset" {
            assert!(left, "{what} is an attack");
        }
    }
}

/// After a handshake as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_after_a_handshake_ends_as_silence_before_it_does() {
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let _machine = crate::beside_others().await;
    let (authority, files) = (Authority::new("ours"), Files::new());
    let (certificate, key) = files.put_pair(&authority.server());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a root");
    let config = ClientConfig::builder_with_provider(std::sync::Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let address = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let child = Process::command()
        .args(["--model", model_dir().to_str().expect("a path"), "--listen", &address.to_string()])
        .arg("--tls-cert")
        .arg(&certificate)
        .arg("--tls-key")
        .arg(&key)
        .env("T2V_MAX_HEAD_WAIT", "2")
        .env("T2V_MAX_CONNECTIONS", "4")
        .spawn()
        .expect("the server starts");
    let _server = Killed(child);
    let handshake = async || {
        let stream = TcpStream::connect(address).await.ok()?;
        connector.connect(ServerName::from(address.ip()), stream).await.ok()
    };
    let ready = async || {
        let mut stream = timeout(Duration::from_secs(2), handshake()).await.ok()??;
        stream.write_all(b"GET /.well-known/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await.ok()?;
        answer.starts_with(b"HTTP/1.1 204 ").then_some(())
    };
    let started = Instant::now();
    while ready().await.is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(handshake().await.expect("a handshake"));
    }
    let shaken = Instant::now();
    let probe = async || {
        let begun = Instant::now();
        ready().await.expect("a probe is answered");
        begun.elapsed()
    };
    promptly("a probe beside silent handshakes", probe).await;
    for stream in &mut silent {
        let mut said = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await.expect("closed");
    }
    assert!(shaken.elapsed() < Duration::from_secs(5), "{:?}", shaken.elapsed());
}

/// A process that ends with its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// SIGHUP under load: nothing is lost, and a new token opens the server at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_tokens_again_and_loses_nothing() {
    let _machine = crate::alone().await;
    let files = Files::new();
    let tokens = files.put("tokens", "first\n");
    let mut server =
        server(&[("T2V_AUTH_TOKENS_FILE", tokens.to_str().expect("a path")), ("T2V_CACHE_BYTES", "0")]).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let post = |token: &'static str, text: String| {
        let request = client.post(server.url("/vectors")).bearer_auth(token);
        let request = request.json(&serde_json::json!({"text": text}));
        async move { request.send().await.map(|answer| answer.status().as_u16()) }
    };
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..100 {
        calls.spawn(post("first", format!("{call} a passage that takes a while, and then some more. ").repeat(3)));
    }
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if round == 2 {
            files.put("tokens", "first\nsecond\n");
        }
        server.signal("-HUP");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let meta = client.get(server.url("/meta")).bearer_auth("second").send().await.expect("an answer");
    assert_eq!(meta.status().as_u16(), 200, "read again at once");
    let mut answered = 0;
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.expect("a task").expect("an answer"), 200);
        answered += 1;
    }
    println!("5 times SIGHUP: {answered} of 100 answered");
    server.terminate();
    assert_eq!(server.ended(Duration::from_secs(30)).await.expect("an end").code(), Some(0));
}

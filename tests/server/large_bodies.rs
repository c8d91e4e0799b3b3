//! Bodies that are larger than allowed: the answer comes from the head alone, and whoever sends first can still read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{FakeBackend, TestServer};
use text2vec_sidecar::server::Limits;

async fn server() -> TestServer {
    let server = TestServer::start_unready(Limits { max_body_bytes: 1000, ..Limits::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(2)));
    server
}

async fn connect(server: &TestServer) -> TcpStream {
    let url = server.url("");
    TcpStream::connect(url.trim_start_matches("http://").trim_end_matches('/')).await.expect("a connection")
}

/// The next answer on a connection that may go on: its head, of which so much is known that its body is read as well.
async fn next_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let whole = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.split("content-length: ").nth(1)?.lines().next()?.parse::<usize>().ok()?;
        (body.len() >= length).then(|| head.to_owned())
    };
    loop {
        if let Some(head) = whole(&bytes) {
            return head;
        }
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut piece)).await.expect("in time");
        let read = read.expect("an answer");
        assert!(read > 0, "it ended after {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..read]);
    }
}

/// The answer up to the connection's end: its head and its body.
async fn answer(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("an answer, and an end");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_refused_before_the_body_comes() {
    let server = server().await;
    for (path, more, error) in [
        ("/vectors", "", "/error"),
        ("/vectors/", "expect: 100-continue\r\n", "/error"),
        ("/v1/embeddings", "", "/error/message"),
        ("/embed", "", "/error"),
        ("/rerank", "", "/error"),
        ("/v1/rerank", "", "/error/message"),
    ] {
        let mut stream = connect(&server).await;
        let begun = Instant::now();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: 2000000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let (head, body) = answer(&mut stream).await;
        assert!(head.starts_with("http/1.1 413 ") && head.contains("connection: close"), "{path}: {head}");
        let error = body.pointer(error).and_then(Value::as_str).expect("a text");
        assert!(error.contains("--max-body-bytes"), "{path}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{path}: {:?}", begun.elapsed());
    }
    // One byte more is refused as well, but so small a body is read: the connection goes on behind it.
    let mut stream = connect(&server).await;
    stream.write_all(b"POST /vectors HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n").await.expect("sent");
    let head = next_answer(&mut stream).await;
    assert!(head.starts_with("http/1.1 413 ") && !head.contains("connection: close"), "{head}");
    stream.write_all(&[b' '; 1001]).await.expect("sent");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let head = next_answer(&mut stream).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    // As much as is allowed is waited for.
    let mut stream = connect(&server).await;
    stream.write_all(b"POST /vectors HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n").await.expect("sent");
    let silent = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut [0; 1])).await;
    assert!(silent.is_err(), "{silent:?}");
    drop(stream);
    server.stop().await;
}

/// Whatever is refused before its body was read says whether the connection goes on, and does as it says.
#[tokio::test]
async fn whoever_reuses_a_connection_after_a_refusal_loses_nothing() {
    let server = server().await;
    let chunk = |pieces: usize| format!("{:x}\r\n{}\r\n", 2000, " ".repeat(2000)).repeat(pieces) + "0\r\n\r\n";
    let long = " ".repeat(100_000);
    for (path, headers, body, status, goes_on) in [
        ("/nowhere", "content-length: 2000", &long[..2000], 404, true),
        ("/nowhere", "content-length: 100000", &*long, 404, false),
        ("/nowhere", "content-length: 2000\r\nexpect: 100-continue", "", 404, false),
        ("/nowhere", "transfer-encoding: chunked", &*chunk(10), 404, false),
        ("/vectors", "transfer-encoding: chunked", &*chunk(10), 413, false),
        ("/vectors", "content-length: 100000\r\ncontent-encoding: br", &*long, 415, false),
        ("/vectors", "content-length: 500\r\ncontent-encoding: br", &long[..500], 415, true),
        // Read to its end before it is refused.
        ("/vectors", "content-length: 500", &long[..500], 422, true),
    ] {
        let what = format!("{path}, {headers}");
        let mut stream = connect(&server).await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(body.as_bytes()).await.expect("sent");
        let head = next_answer(&mut stream).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{what}: {head}");
        assert_eq!(!head.contains("connection: close"), goes_on, "{what}: {head}");
        if goes_on {
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
            let head = next_answer(&mut stream).await;
            assert!(head.starts_with("http/1.1 200 "), "{what}: {head}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn over_http_2_as_well() {
    let server = server().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    let nothing = reqwest::Body::wrap_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let begun = Instant::now();
    let request = client.post(server.url("/vectors")).header("content-length", 2_000_000_000_u64).body(nothing);
    let answer = request.send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers().get("connection")), (413, None));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    server.stop().await;
}

/// As a client does that knows no way to read while it sends: what it sends is taken in, or the answer would be lost.
#[tokio::test]
async fn whoever_sends_all_of_it_first_reads_the_answer() {
    const PIECES: usize = 2000;
    let server = server().await;
    let piece = vec![b' '; 16 * 1024];
    for is_chunked in [false, true] {
        let mut stream = connect(&server).await;
        let head = match is_chunked {
            true => "transfer-encoding: chunked".to_owned(),
            false => format!("content-length: {}", PIECES * piece.len()),
        };
        let head = format!("POST /vectors HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        for number in 0..PIECES {
            let sent = async {
                if is_chunked {
                    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                    stream.write_all(&piece).await?;
                    return stream.write_all(b"\r\n").await;
                }
                stream.write_all(&piece).await
            };
            sent.await.unwrap_or_else(|error| panic!("piece {number}, chunked {is_chunked}: {error}"));
            // A slow line: the server has long answered.
            if number % 500 == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let (head, body) = answer(&mut stream).await;
        assert!(head.starts_with("http/1.1 413 "), "{head}");
        assert!(body["error"].as_str().is_some_and(|text| text.contains("--max-body-bytes")), "{body}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_ends_waits_for_nobody_who_sends_on_and_on() {
    let server = server().await;
    let mut stream = connect(&server).await;
    stream.write_all(b"POST /vectors HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000000\r\n\r\n").await.expect("sent");
    let (mut read, mut write) = stream.split();
    let sending = async {
        let piece = [b' '; 1024];
        while write.write_all(&piece).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let stopping = async {
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).await.expect("an answer, and an end");
        assert!(bytes.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&bytes));
        let begun = Instant::now();
        server.stop().await;
        begun.elapsed()
    };
    let (stopped, ()) =
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(stopping, sending) }).await.expect("an end");
    assert!(stopped < Duration::from_secs(5), "{stopped:?}");
}

/// Whoever has a place, is refused, and goes on sending has as long as a body may take.
#[tokio::test]
async fn who_is_refused_is_listened_to_for_max_body_wait() {
    let wait = Duration::from_secs(1);
    let server = TestServer::start_unready(Limits { max_body_wait: wait, ..Limits::default() }).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"POST /vectors HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000000\r\n\r\n").await.expect("sent");
    let begun = Instant::now();
    let head = next_answer(&mut stream).await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
    while stream.write_all(b" ").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "still listened to");
    }
    assert!(begun.elapsed() >= wait, "{:?}", begun.elapsed());
    server.stop().await;
}

/// Whoever finds no place, and goes on sending what is not read, is left as soon as guests are.
#[tokio::test]
async fn who_has_no_place_is_listened_to_for_five_seconds() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let server = TestServer::start_unready(limits).await;
    let mut served = connect(&server).await;
    served.write_all(b"GET /meta HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    next_answer(&mut served).await;
    let mut guest = connect(&server).await;
    guest.write_all(b"POST /vectors HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n").await.expect("sent");
    let begun = Instant::now();
    let head = next_answer(&mut guest).await;
    assert!(head.starts_with("http/1.1 429 ") && head.contains("connection: close"), "{head}");
    while guest.write_all(b" ").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < Duration::from_secs(9), "still listened to");
    }
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(served);
    server.stop().await;
}

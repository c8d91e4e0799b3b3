//! What is in memory at once of requests and answers, and who waits for whom: bodies that come slowly or not at all, answers
//! that are not read, streams of very short texts.

use crate::support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use serde_json::{Value, json};
use support::process::{Connection, Process};
use support::{FakeBackend, TestServer};
use text2vec_sidecar::proto::{VectorizeRequest, VectorizeStreamRequest, VectorizeStreamResponse};
use text2vec_sidecar::server::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

const MIB: usize = 1024 * 1024;

/// A server of vectors of so many numbers.
async fn server(dimensions: usize, limits: Limits) -> TestServer {
    let server = TestServer::start_unready(limits).await;
    server.readiness.ready(Arc::new(FakeBackend::new(dimensions)));
    server
}

/// A connection whose reader the system holds little for.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a buffer");
    socket.connect(address).await.expect("a connection")
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn texts(count: usize) -> String {
    json!({"texts": (0..count).map(|i| format!("w{i}")).collect::<Vec<_>>()}).to_string()
}

/// A small query on a connection of its own: the status and how long it took.
async fn query(address: SocketAddr) -> (u16, Duration) {
    let begun = Instant::now();
    let mut connection = Connection::open(address).await.expect("a connection");
    let answer = connection.post(json!({"text": "a query"}).to_string()).await.expect("an answer");
    (answer.status().as_u16(), begun.elapsed())
}

type Sender = SendRequest<BoxBody<Bytes, std::io::Error>>;

/// An HTTP/2 connection whose streams' windows are of this size.
async fn http2(address: SocketAddr, window: u32) -> Sender {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(64 * 1024 * 1024);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

async fn send(
    sender: &mut Sender,
    address: SocketAddr,
    method: Method,
    path: &str,
    body: BoxBody<Bytes, std::io::Error>,
) -> hyper::Result<Response<Incoming>> {
    let request = Request::builder().method(method).uri(format!("http://{address}{path}"));
    let kind = if path.starts_with("/text2vec.v1.") { "application/grpc" } else { "application/json" };
    sender
        .send_request(request.header("content-type", kind).header("te", "trailers").body(body).expect("a request"))
        .await
}

fn whole(bytes: impl Into<Bytes>) -> BoxBody<Bytes, std::io::Error> {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Each item in a DATA frame of its own.
fn frames(frames: impl futures_util::Stream<Item = Bytes> + Send + Sync + 'static) -> BoxBody<Bytes, std::io::Error> {
    BodyExt::boxed(StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes)))))
}

/// A gRPC message on the wire.
fn message(message: &impl Message) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend((message.encoded_len() as u32).to_be_bytes());
    bytes.extend(message.encode_to_vec());
    bytes.into()
}

fn vectorize(count: usize) -> Bytes {
    message(&VectorizeRequest { texts: (0..count).map(|i| format!("w{i}")).collect(), options: None })
}

/// 40 who never read: what is held for them is bounded, they are given up, and others are served meanwhile and after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_hold_no_more_than_their_room() {
    let _machine = crate::beside_others().await;
    const TEXTS: usize = 4000;
    let server = Process::start(&["--max-answer-bytes", "33554432", "--max-write-wait", "3"], &[]).await;
    let body = texts(TEXTS);
    let mut warm = Connection::open(server.address).await.expect("a connection");
    let answer = warm.post(body.clone()).await.expect("an answer");
    let length = answer.body().len();
    drop((warm, answer));
    let (before, peak_before) = server.memory();
    let mut unread = Vec::new();
    for _ in 0..40 {
        let mut stream = narrow(server.address).await;
        stream.write_all(post("/vectors", &body).as_bytes()).await.expect("a request");
        unread.push(stream);
    }
    let mut highest: f64 = 0.0;
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (status, took) = query(server.address).await;
        assert_eq!(status, 200);
        (highest, slowest) = (highest.max(server.memory().0), slowest.max(took));
    }
    // Each has its answer or waits for room; none of them is read.
    let begun = Instant::now();
    let mut connection = Connection::open(server.address).await.expect("a connection");
    let answer = connection.post(body.clone()).await.expect("an answer");
    let waited = begun.elapsed();
    assert_eq!((answer.status().as_u16(), answer.body().len()), (200, length));
    // All have had their turn by now, and were left.
    let begun = Instant::now();
    let mut ended = 0;
    for stream in &mut unread {
        let mut rest = Vec::new();
        let left = Duration::from_secs(40).saturating_sub(begun.elapsed());
        let read = tokio::time::timeout(left, stream.read_to_end(&mut rest)).await.expect("the connection ends");
        ended += usize::from(read.is_err() || rest.len() < length);
    }
    let (after, peak) = server.memory();
    println!(
        "40 unread answers of {length} bytes: memory {before:.0} MiB before (peak {peak_before:.0}), {highest:.0} meanwhile, \
         {after:.0} after, peak {peak:.0}; queries beside them at most {slowest:?}; a batch behind them {waited:?}; {ended} \
         were given up"
    );
    assert_eq!(ended, 40);
    assert!(highest < before + 32.0 + 40.0, "{highest:.0} MiB");
}

/// 16 who read at once: the text of an answer is never whole in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_of_an_answer_is_never_whole_in_memory() {
    let _machine = crate::beside_others().await;
    let server = Process::start(&[], &[]).await;
    let body = texts(4000);
    let mut warm = Connection::open(server.address).await.expect("a connection");
    let expected = warm.post(body.clone()).await.expect("an answer").into_body();
    let (before, _) = server.memory();
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let (address, body, expected) = (server.address, body.clone(), expected.clone());
        callers.spawn(async move {
            let mut connection = Connection::open(address).await.expect("a connection");
            assert_eq!(connection.post(body).await.expect("an answer").into_body(), expected);
        });
    }
    let mut highest: f64 = 0.0;
    while !callers.is_empty() {
        tokio::select! {
            done = callers.join_next() => done.expect("one").expect("a caller"),
            () = tokio::time::sleep(Duration::from_millis(10)) => highest = highest.max(server.memory().0),
        }
    }
    println!("16 answers of {} bytes: memory {before:.0} MiB before, {highest:.0} meanwhile", expected.len());
    assert!(highest < before + 64.0, "{highest:.0} MiB");
}

/// A stream's window is never opened while its connection lives: the answer is given up, and its room is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_stays_shut_frees_the_room_over_http2_and_grpc() {
    let _machine = crate::beside_others().await;
    // Room for one answer of 1,000 vectors of 1,024 numbers, over gRPC for a third of one, which then has it alone.
    let limits = Limits { max_answer_bytes: 4 * MIB, max_write_wait: Duration::from_secs(1), ..Limits::default() };
    let server = server(1024, limits).await;
    for (path, body) in [("/vectors", Bytes::from(texts(1000))), ("/text2vec.v1.Vectorizer/Vectorize", vectorize(1000))]
    {
        for window in [0, 1000] {
            let mut sender = http2(server.address, window).await;
            let unread = send(&mut sender, server.address, Method::POST, path, whole(body.clone())).await;
            let unread = unread.expect("a head").into_body();
            let mut other = http2(server.address, 1024 * 1024).await;
            let begun = Instant::now();
            let answer = send(&mut other, server.address, Method::POST, path, whole(body.clone())).await;
            let read = answer.expect("an answer").into_body().collect().await.expect("read").to_bytes();
            let waited = begun.elapsed();
            assert!(read.len() > 4_000_000, "{path}: {} bytes", read.len());
            assert!(
                waited > Duration::from_millis(500) && waited < Duration::from_secs(4),
                "{path}, {window}: {waited:?}"
            );
            // What was begun ends with an error, not as if it were whole.
            let rest = tokio::time::timeout(Duration::from_secs(5), unread.collect()).await.expect("it ends");
            assert!(rest.is_err(), "{path}, {window}: {} bytes", rest.map(|rest| rest.to_bytes().len()).unwrap_or(0));
        }
    }
    server.stop().await;
}

/// The room is full of an answer that is read slowly; a query neither waits for it nor counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_answers_wait_for_nobody() {
    let _machine = crate::beside_others().await;
    let limits = Limits { max_answer_bytes: 4 * MIB, ..Limits::default() };
    let server = server(1024, limits).await;
    let mut unread = narrow(server.address).await;
    unread.write_all(post("/vectors", &texts(5000)).as_bytes()).await.expect("a request");
    let mut waiting = narrow(server.address).await;
    waiting.write_all(post("/vectors", &texts(5000)).as_bytes()).await.expect("a request");
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..10 {
        let (status, took) = query(server.address).await;
        assert_eq!(status, 200);
        // Behind the others it would wait five seconds.
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    drop((unread, waiting));
    server.stop().await;
}

/// Whoever announces a body and sends nothing holds nothing, in whatever way it was announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_which_nothing_came_hold_no_room() {
    let _machine = crate::beside_others().await;
    let server = server(2, Limits { max_wait: Duration::from_secs(5), ..Limits::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        for length in ["Transfer-Encoding: chunked", "Content-Length: 67108864"] {
            let mut stream = TcpStream::connect(server.address).await.expect("a connection");
            let head = format!("POST /vectors HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("a head");
            silent.push(stream);
        }
    }
    let mut sender = http2(server.address, 1024 * 1024).await;
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let mut sender = sender.clone();
        let address = server.address;
        let prefix = stream::iter([Bytes::from_static(&[0, 3, 255, 255, 255])]).chain(stream::pending());
        calls.spawn(async move {
            send(&mut sender, address, Method::POST, "/text2vec.v1.Vectorizer/Vectorize", frames(prefix))
                .await
                .map(drop)
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let large = json!({"text": "word ".repeat(100_000)}).to_string();
    let begun = Instant::now();
    let mut connection = Connection::open(server.address).await.expect("a connection");
    assert_eq!(connection.post(large).await.expect("an answer").status(), 200);
    let (status, took) = query(server.address).await;
    assert_eq!(status, 200);
    println!("beside 48 silent bodies: a large one in {:?}, a query in {took:?}", begun.elapsed());
    // `max_wait` is five.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let call =
        send(&mut sender, server.address, Method::POST, "/text2vec.v1.Vectorizer/Vectorize", whole(vectorize(3)));
    assert_eq!(call.await.expect("an answer").status(), 200);
    calls.abort_all();
    drop(silent);
    server.stop().await;
}

/// The room is full of what has really come; queries do not notice, and a large body gets the place of a slow one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_do_not_wait_behind_large_bodies_and_slow_ones_make_way() {
    let _machine = crate::beside_others().await;
    let limits = Limits {
        max_inflight_bytes: 4 * MIB,
        max_body_bytes: 2 * MIB,
        max_wait: Duration::from_secs(10),
        ..Limits::default()
    };
    let server = server(2, limits).await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await.expect("a connection");
        let head = "POST /vectors HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("a head");
        let piece = "x".repeat(1000 * 1024);
        stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.expect("a piece");
        slow.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let address = server.address;
    let large = tokio::spawn(async move {
        let begun = Instant::now();
        let mut connection = Connection::open(address).await.expect("a connection");
        let answer = connection.post(json!({"text": "word ".repeat(350_000)}).to_string()).await.expect("an answer");
        (answer.status().as_u16(), begun.elapsed())
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let (status, took) = query(address).await;
        assert_eq!(status, 200);
        slowest = slowest.max(took);
    }
    // Behind a body that stopped it would wait two seconds.
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
    let (status, took) = large.await.expect("a caller");
    println!("beside bodies that stopped half-way: queries at most {slowest:?}, a large body in {took:?}");
    assert_eq!(status, 200);
    // Each of the three that stopped is waited for two seconds, one after the other.
    assert!(took < Duration::from_secs(9), "{took:?}");
    let mut answers = String::new();
    let first = tokio::time::timeout(Duration::from_secs(1), slow[0].read_to_string(&mut answers)).await;
    assert!(first.is_ok() || !answers.is_empty());
    assert!(answers.contains("408") && answers.contains("--max-inflight-bytes"), "{answers}");
    server.stop().await;
}

/// Twelve bodies that come piece by piece, together three times the room: none waits for the others for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_grow_together_are_all_read() {
    let _machine = crate::beside_others().await;
    let limits = Limits {
        max_inflight_bytes: 2 * MIB,
        max_body_bytes: MIB,
        max_wait: Duration::from_secs(20),
        ..Limits::default()
    };
    let server = server(2, limits).await;
    let mut callers = JoinSet::new();
    for caller in 0..12 {
        let address = server.address;
        callers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let body = json!({"text": "x".repeat(500_000)}).to_string();
            let head = format!(
                "POST /vectors HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.expect("a head");
            for piece in body.as_bytes().chunks(25_000) {
                stream.write_all(piece).await.expect("a piece");
                tokio::time::sleep(Duration::from_millis(5 + caller % 3)).await;
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            answer.split(' ').nth(1).map(str::to_owned)
        });
    }
    let begun = Instant::now();
    while let Some(status) = callers.join_next().await {
        assert_eq!(status.expect("a caller").as_deref(), Some("200"));
    }
    println!("12 bodies in three times their room: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    server.stop().await;
}

/// One rule for every method: what comes with a GET is counted like what comes with a POST.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_by_get_has_no_more_room_than_by_post() {
    let _machine = crate::beside_others().await;
    let flags = ["--max-inflight-bytes", "33554432", "--max-body-bytes", "16777216", "--max-wait", "2"];
    let server = Process::start(&flags, &[("T2V_CACHE_BYTES", "0")]).await;
    let (before, _) = server.memory();
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST] {
        let mut calls = JoinSet::new();
        for _ in 0..32 {
            let (address, method) = (server.address, method.clone());
            calls.spawn(async move {
                let mut sender = http2(address, 1024 * 1024).await;
                // All but the last byte of a message of 12 MiB.
                let mut start = vec![0];
                start.extend(u32::to_be_bytes(12 * 1024 * 1024));
                let body =
                    std::iter::once(start.into()).chain((0..12 * 64 - 1).map(|_| Bytes::from_static(&[10; 16 * 1024])));
                let body = frames(stream::iter(body).chain(stream::pending()));
                let sent = send(&mut sender, address, method, "/text2vec.v1.Vectorizer/Vectorize", body);
                let _ = tokio::time::timeout(Duration::from_secs(4), sent).await;
            });
        }
        while calls.join_next().await.is_some() {}
        let (_, peak) = server.memory();
        println!("32 calls by {method} of 12 MiB each: memory {before:.0} MiB before, {peak:.0} at most");
        assert!(peak < before + 150.0, "{method}: {peak:.0} MiB");
    }
}

/// A million words are too many for a test: so many as h2 counted to before it ended the connection, and more. Each is a DATA
/// frame of its own, as grpc-go sends them, as fast as flow control lets it; the answers are read at once or slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_short_texts_pass_with_other_calls_beside_them() {
    let _machine = crate::beside_others().await;
    const TEXTS: usize = 100_000;
    let server = server(384, Limits::default()).await;
    for (streams, pause) in [(1, Duration::ZERO), (1, Duration::from_millis(1)), (8, Duration::ZERO)] {
        let mut sender = http2(server.address, 64 * 1024).await;
        let mut callers = JoinSet::new();
        let count = TEXTS / streams;
        for _ in 0..streams {
            let (mut sender, address) = (sender.clone(), server.address);
            callers.spawn(async move {
                let items =
                    (0..count).map(|i| VectorizeStreamRequest { id: i.to_string(), text: "w".into(), options: None });
                let body = frames(stream::iter(items.map(|item| message(&item))));
                let path = "/text2vec.v1.Vectorizer/VectorizeStream";
                let answer = send(&mut sender, address, Method::POST, path, body).await.expect("a head");
                let mut body = answer.into_body();
                let (mut buffer, mut seen, mut answered) = (Vec::new(), vec![false; count], 0);
                while let Some(frame) = body.frame().await {
                    let Ok(data) = frame.expect("the stream goes on").into_data() else { break };
                    buffer.extend_from_slice(&data);
                    let mut at = 0;
                    while let Some(prefix) = buffer.get(at..at + 5) {
                        let length = u32::from_be_bytes(prefix[1..5].try_into().expect("four")) as usize;
                        let Some(bytes) = buffer.get(at + 5..at + 5 + length) else { break };
                        let answer = VectorizeStreamResponse::decode(bytes).expect("an answer");
                        let id: usize = answer.id.parse().expect("our id");
                        assert!(!std::mem::replace(&mut seen[id], true), "{id} twice");
                        (answered, at) = (answered + 1, at + 5 + length);
                    }
                    buffer.drain(..at);
                    if !pause.is_zero() && answered % 64 == 0 {
                        tokio::time::sleep(pause).await;
                    }
                }
                assert_eq!(answered, count);
            });
        }
        let begun = Instant::now();
        while !callers.is_empty() {
            tokio::select! {
                done = callers.join_next() => done.expect("one").expect("a caller"),
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    let body = whole(json!({"text": "a query"}).to_string());
                    let beside = send(&mut sender, server.address, Method::POST, "/vectors", body).await.expect("an answer");
                    let beside: Value =
                        serde_json::from_slice(&beside.into_body().collect().await.expect("a body").to_bytes()).expect("JSON");
                    assert_eq!(beside["dim"], 384);
                }
            }
        }
        println!("{streams} streams of {count} texts, {pause:?} between reads: {:?}", begun.elapsed());
    }
    server.stop().await;
}

//! What attackers do, each in so many connections at once, until a given time. Whatever the server ends is begun again.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::client::conn::http2 as client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::proto::{ClassConfig, ValidateClassRequest, VectorizeStreamRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::Channel;

use crate::http2::{self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS, frame};

/// Before a connection that ended is opened again.
const PAUSE: Duration = Duration::from_millis(20);

/// How long what is under way at the end may take to be answered.
const FINISH: Duration = Duration::from_secs(30);

/// What is done, and in how many connections.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attack {
    /// Not a byte.
    Silent(usize),
    /// A byte of a head twice a second.
    SlowHeads(usize),
    /// Heads of ten thousand fields, or with one of a mebibyte.
    LargeHeads(usize),
    /// 10,000 texts asked for, by HTTP/1.1 and HTTP/2 in turns, and nothing read.
    UnreadAnswers(usize),
    /// A large body, announced by length, in chunks or as a gRPC message, of which nothing comes.
    MissingBodies(usize),
    /// A gRPC call by GET whose message of 60 MiB lacks its end.
    GrpcByGet(usize),
    /// Streams of texts of one word, as fast as they are taken.
    SmallFrames(usize),
    /// Requests that are reset as soon as they are sent (CVE-2023-44487).
    RapidReset(usize),
    /// A head that goes on in frame after frame.
    Continuations(usize),
    /// Frames that ask for an answer each.
    Pings(usize),
    /// Classes of 0.7 and 1.5 MB, each another one: the larger ones are refused.
    Classes(usize),
    /// Texts of a million sentences.
    Sentences(usize),
}

impl Attack {
    pub(crate) fn name(self) -> String {
        let text = format!("{self:?}");
        text.split('(').next().unwrap_or_default().to_owned()
    }

    /// Begins; the task ends soon after `until` and tells how often what was done.
    pub(crate) fn start(self, server: SocketAddr, until: Instant) -> JoinHandle<String> {
        tokio::spawn(async move {
            match self {
                Attack::Silent(count) => crowd(count, until, move |_| silent(server)).await,
                Attack::SlowHeads(count) => crowd(count, until, move |_| slow_head(server)).await,
                Attack::LargeHeads(count) => crowd(count, until, move |number| large_head(server, number)).await,
                Attack::UnreadAnswers(count) => crowd(count, until, move |number| unread_answer(server, number)).await,
                Attack::MissingBodies(count) => crowd(count, until, move |number| missing_body(server, number)).await,
                Attack::GrpcByGet(count) => crowd(count, until, move |_| grpc_by_get(server)).await,
                // They end by themselves, with every text answered.
                Attack::SmallFrames(count) => {
                    let act = move |_| small_frames(server, until);
                    crowd_to_its_end(count, until, FINISH, act).await
                }
                Attack::RapidReset(count) => crowd(count, until, move |_| rapid_reset(server)).await,
                Attack::Continuations(count) => crowd(count, until, move |_| continuations(server)).await,
                Attack::Pings(count) => crowd(count, until, move |_| pings(server)).await,
                Attack::Classes(count) => crowd(count.min(4), until, move |number| class(server, number, count)).await,
                Attack::Sentences(count) => crowd(count, until, move |number| sentences(server, number)).await,
            }
        })
    }
}

/// Does the same in so many tasks, again and again, and breaks off in the end. The number given is the task's, plus the tasks'
/// count for each time more.
async fn crowd<F, T>(count: usize, until: Instant, act: F) -> String
where
    F: Fn(usize) -> T + Send + Sync + 'static,
    T: Future<Output = std::io::Result<()>> + Send,
{
    crowd_to_its_end(count, until, Duration::ZERO, act).await
}

/// The same, with so much time for what is under way in the end.
async fn crowd_to_its_end<F, T>(count: usize, until: Instant, finish: Duration, act: F) -> String
where
    F: Fn(usize) -> T + Send + Sync + 'static,
    T: Future<Output = std::io::Result<()>> + Send,
{
    let (act, ended, failed) = (Arc::new(act), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..count {
        let (act, ended, failed) = (act.clone(), ended.clone(), failed.clone());
        tasks.spawn(async move {
            let mut number = task;
            while Instant::now() < until {
                match tokio::time::timeout_at((until + finish).into(), act(number)).await {
                    Ok(Ok(())) => ended.fetch_add(1, Ordering::Relaxed),
                    Ok(Err(_)) => failed.fetch_add(1, Ordering::Relaxed),
                    Err(_) => break,
                };
                number += count;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    tasks.join_all().await;
    format!(
        "{count} at once, {} done, {} refused or ended by the server",
        ended.load(Ordering::Relaxed),
        failed.load(Ordering::Relaxed)
    )
}

/// Waits until the other side ends the connection, reading whatever it says.
async fn until_closed(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

/// Announces a body that is too large, and sends a byte of it a second, refused or not, until it is left. Answers what it was
/// told, and for how long it was listened to.
pub(crate) async fn refused_sender(server: SocketAddr, until: Instant) -> (String, Duration) {
    let begun = Instant::now();
    let head = b"POST /vectors HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000000\r\n\r\n";
    let (mut stream, answer) = loop {
        let mut stream = TcpStream::connect(server).await.expect("a connection");
        stream.write_all(head).await.expect("sent");
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.expect("an answer");
        answer.truncate(read);
        // Whoever waited for the server's start may still have the place.
        if !answer.starts_with(b"HTTP/1.1 429 ") {
            break (stream, answer);
        }
    };
    while Instant::now() < until && stream.write_all(b" ").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    (line, begun.elapsed())
}

async fn silent(server: SocketAddr) -> std::io::Result<()> {
    until_closed(TcpStream::connect(server).await?).await
}

async fn slow_head(server: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"POST /vectors HTTP/1.1\r\nhost: sidecar\r\nx-slow: ").await?;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stream.write_all(b"a").await?;
    }
}

async fn large_head(server: SocketAddr, number: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"POST /vectors HTTP/1.1\r\nhost: sidecar\r\n").await?;
    match number % 2 {
        0 => stream.write_all("x-field: value\r\n".repeat(10_000).as_bytes()).await?,
        _ => stream.write_all(format!("x-field: {}\r\n", "v".repeat(1024 * 1024)).as_bytes()).await?,
    }
    stream.write_all(b"\r\n").await?;
    until_closed(stream).await
}

/// A request for many vectors that costs little to send, and little to answer once the text is in the cache.
fn many_texts() -> Bytes {
    json!({"texts": vec!["a"; 10_000]}).to_string().into()
}

async fn unread_answer(server: SocketAddr, number: usize) -> std::io::Result<()> {
    let body = many_texts();
    if number.is_multiple_of(2) {
        let mut stream = TcpStream::connect(server).await?;
        let head = format!(
            "POST /vectors HTTP/1.1\r\nhost: sidecar\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        // Never reads. A server that gives up resets the connection, which a write notices.
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stream.write_all(b"GET / HTTP/1.1\r\n").await?;
        }
    }
    let stream = TokioIo::new(TcpStream::connect(server).await?);
    let (mut sender, connection) =
        client::handshake(TokioExecutor::new(), stream).await.map_err(std::io::Error::other)?;
    // Ends with the attacker.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let request = hyper::Request::post(format!("http://{server}/vectors")).header("content-type", "application/json");
    let request = request.body(Full::new(body)).expect("a request");
    let answer = sender.send_request(request).await.map_err(std::io::Error::other)?;
    // Held, so that the stream's window stays as it is.
    connections.join_next().await;
    drop(answer);
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

async fn missing_body(server: SocketAddr, number: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    let head = "POST /vectors HTTP/1.1\r\nhost: sidecar\r\ncontent-type: application/json\r\n";
    match number % 4 {
        0 => stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?,
        1 => stream.write_all(format!("{head}content-length: {}\r\n\r\n", 64 * 1024 * 1024).as_bytes()).await?,
        2 => {
            stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
            // Honest, and never at its end.
            let chunk = format!("100000\r\n{}\r\n", " ".repeat(0x10_0000));
            for _ in 0..60 {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        _ => {
            drop(stream);
            return grpc_prefix(server, "POST", 0).await;
        }
    }
    until_closed(stream).await
}

async fn grpc_by_get(server: SocketAddr) -> std::io::Result<()> {
    grpc_prefix(server, "GET", 59).await
}

/// A gRPC message that announces 60 MiB, of which so many come.
async fn grpc_prefix(server: SocketAddr, method: &str, mebibytes: usize) -> std::io::Result<()> {
    let stream = TokioIo::new(TcpStream::connect(server).await?);
    let (mut sender, connection) =
        client::handshake(TokioExecutor::new(), stream).await.map_err(std::io::Error::other)?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let prefix = [&[0][..], &(60 * 1024 * 1024u32).to_be_bytes()].concat();
    let mebibyte = Bytes::from(vec![b' '; 1024 * 1024]);
    let sent = std::iter::once(Bytes::from(prefix)).chain(std::iter::repeat_n(mebibyte, mebibytes));
    let sent = stream::iter(sent.map(|bytes| Ok::<_, std::convert::Infallible>(Frame::data(bytes))));
    let body = StreamBody::new(futures_util::StreamExt::chain(sent, stream::pending()));
    let request = hyper::Request::builder()
        .method(method)
        .uri(format!("http://{server}/text2vec.v1.Vectorizer/Vectorize"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let answer = sender.send_request(request.body(body).expect("a request")).await.map_err(std::io::Error::other)?;
    answer.into_body().collect().await.map(drop).map_err(std::io::Error::other)
}

async fn small_frames(server: SocketAddr, until: Instant) -> std::io::Result<()> {
    let channel = Channel::from_shared(format!("http://{server}")).expect("a URL").connect().await;
    let mut grpc = VectorizerClient::new(channel.map_err(std::io::Error::other)?);
    let mut answered = 0u64;
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let texts = stream::iter((0..1_000_000u64).take_while(move |_| Instant::now() < until).map(move |id| {
        counted.fetch_add(1, Ordering::Relaxed);
        VectorizeStreamRequest { id: id.to_string(), text: "word".into(), options: None }
    }));
    let mut answers = grpc.vectorize_stream(texts).await.map_err(std::io::Error::other)?.into_inner();
    while let Some(answer) = answers.message().await.unwrap_or_else(|status| panic!("a stream ended: {status}")) {
        assert!(answer.result.is_some_and(|result| result.tokens == 3), "a bad answer for {}", answer.id);
        answered += 1;
    }
    assert_eq!(count.load(Ordering::Relaxed), answered, "texts and answers");
    Ok(())
}

async fn rapid_reset(server: SocketAddr) -> std::io::Result<()> {
    let mut raw = Raw::open(server).await?;
    let head = http2::request("POST", "/vectors");
    for id in (1..).step_by(2).take(100_000) {
        let mut frames = frame(HEADERS, END_HEADERS, id, &head);
        frames.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
        raw.send(&frames).await?;
    }
    Ok(())
}

async fn continuations(server: SocketAddr) -> std::io::Result<()> {
    let mut raw = Raw::open(server).await?;
    raw.send(&frame(HEADERS, END_STREAM, 1, &http2::request("GET", "/meta"))).await?;
    let more = frame(CONTINUATION, 0, 1, &http2::field("x-more", &"v".repeat(100)).repeat(100));
    for _ in 0..100_000 {
        raw.send(&more).await?;
    }
    Ok(())
}

async fn pings(server: SocketAddr) -> std::io::Result<()> {
    let mut raw = Raw::open(server).await?;
    let frames = [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])].concat().repeat(100);
    for _ in 0..10_000 {
        raw.send(&frames).await?;
    }
    Ok(())
}

/// One of so many classes, of ten or twenty thousand properties.
async fn class(server: SocketAddr, number: usize, count: usize) -> std::io::Result<()> {
    let properties: Vec<_> = (0..10_000 * (1 + number % 2))
        .map(|i| json!({"name": format!("property{i}"), "dataType": ["text"], "description": "of an object"}))
        .collect();
    let class_json = json!({
        "class": format!("Class{}", number % count),
        "vectorizer": "text2vec-transformers",
        "properties": properties,
    })
    .to_string();
    let channel = Channel::from_shared(format!("http://{server}")).expect("a URL").connect().await;
    let mut module = ModuleClient::new(channel.map_err(std::io::Error::other)?);
    let config = Some(ClassConfig { class_json, ..ClassConfig::default() });
    let answer = module.validate_class(ValidateClassRequest { config, auto_schema: None }).await;
    answer.map(drop).map_err(std::io::Error::other)
}

async fn sentences(server: SocketAddr, number: usize) -> std::io::Result<()> {
    let text = format!("{number} {}", "a. ".repeat(4_000_000 / 3));
    let body = Bytes::from(json!({"text": text}).to_string());
    let mut stream = TcpStream::connect(server).await?;
    let head = format!(
        "POST /vectors HTTP/1.1\r\nhost: sidecar\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    until_closed(stream).await
}

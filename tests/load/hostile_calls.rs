//! Calls that are large, or small and costly, against the real binary: nobody else waits for them, and memory stays bounded
//! and comes back. `T2V_BIN` names another binary, to compare. Run with `--nocapture` to see the figures.

use crate::support;

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::{Value, json};
use support::process::{Connection, Process};
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::{ClassConfig, VectorizablePropertiesRequest};
use tokio::task::JoinHandle;

/// A text of some 250 tokens, different for each number.
fn long_text(number: usize) -> String {
    format!("{number} {}", "the harbour master wrote down each ship that came in with the evening tide ".repeat(16))
}

fn many(texts: usize, first: usize) -> Bytes {
    let texts: Vec<_> = (first..first + texts).map(long_text).collect();
    json!({"texts": texts}).to_string().into()
}

fn one(text: &str) -> Bytes {
    json!({"text": text}).to_string().into()
}

/// Sends a body and waits for the answer, until it is aborted.
fn send(server: &Process, body: Bytes) -> JoinHandle<u16> {
    let address = server.address;
    tokio::spawn(async move {
        let mut connection = Connection::open(address).await.expect("a connection");
        connection.post(body).await.map_or(0, |answer| answer.status().as_u16())
    })
}

/// Small passages one after the other: status and time of each that is not served at once.
async fn small_passages(server: &Process, count: usize, from: usize) -> Duration {
    let mut connection = Connection::open(server.address).await.expect("a connection");
    let mut slowest = Duration::ZERO;
    for number in from..from + count {
        let asked = Instant::now();
        let answer = connection.post(one(&format!("two words {number}"))).await.expect("an answer");
        slowest = slowest.max(asked.elapsed());
        let text = String::from_utf8_lossy(answer.body());
        assert_eq!(answer.status(), 200, "after {:?}: {text}", asked.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_calls_shut_nobody_out() {
    let _machine = crate::alone().await;
    let server = Process::start(&["--max-wait", "5"], &[]).await;
    let mut calls = Vec::new();
    for large in [1, 12] {
        while calls.len() < large {
            calls.push(send(&server, many(1500, calls.len() * 1500)));
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let slowest = small_passages(&server, 10, large * 100).await;
        println!("a small passage beside {large} calls of 1,500 long texts: at most {slowest:?}");
        assert!(slowest < Duration::from_secs(5), "{large}: {slowest:?}");
        assert!(calls.iter().all(|call| !call.is_finished()), "the large calls were done too soon");
    }
    calls.iter().for_each(JoinHandle::abort);
}

/// The last text of a large call, asked for by somebody else: it is not waited for until the large call is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_the_computation_of_a_large_call_that_has_the_same_text() {
    let _machine = crate::alone().await;
    let server = Process::start(&["--max-wait", "5"], &[]).await;
    let large = send(&server, many(1500, 0));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut connection = Connection::open(server.address).await.expect("a connection");
    for text in [1499, 750, 0] {
        let asked = Instant::now();
        let answer = connection.post(one(&long_text(text))).await.expect("an answer");
        println!("text {text} of 1,500, asked for beside: {} after {:?}", answer.status(), asked.elapsed());
        assert_eq!(answer.status(), 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "{text}: {:?}", asked.elapsed());
        assert!(!large.is_finished(), "the large call was done too soon");
    }
    large.abort();
}

/// The highest memory while a body is worked on for so long, or longer while it still grows, when that was, and what is left
/// soon after its caller is gone, in MiB.
async fn memory_of(server: &Process, body: Bytes, time: Duration, allowed: f64) -> (f64, Duration, f64) {
    const STILL: Duration = Duration::from_secs(2);
    let call = send(server, body);
    let (started, mut grown, mut highest) = (Instant::now(), Instant::now(), 0f64);
    let goes_on =
        |grown: Instant| started.elapsed() < time || (grown.elapsed() < STILL && started.elapsed() < 3 * time);
    while goes_on(grown) && !call.is_finished() {
        let now = server.memory().0;
        if now > highest {
            (highest, grown) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    call.abort();
    let left = Instant::now();
    // What was freed is looked for every few seconds, and once a minute where little was found before.
    while left.elapsed() < Duration::from_secs(90) && server.memory().0 > allowed {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (highest, grown - started, server.memory().0)
}

/// 4 MB of such a text cost at most this much memory for each MB.
const MIB_PER_MB: f64 = 90.0;

/// What may be left of it, in MiB.
fn most_left(idle: f64) -> f64 {
    1.3 * idle
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_of_megabytes_cost_bounded_memory_that_comes_back() {
    let _machine = crate::beside_others().await;
    tokio::join!(texts_of_megabytes("transformers"), texts_of_megabytes("sentence-transformers"));
}

async fn texts_of_megabytes(profile: &str) {
    const LENGTH: usize = 4_000_000;
    let server = Process::start(&["--profile", profile], &[]).await;
    // Everything is there once it was used.
    small_passages(&server, 20, 0).await;
    let (idle, _) = server.memory();
    for (name, unit) in [
        ("sentences of two letters", "a. "),
        ("one sentence of words", "word "),
        ("no blank", "abcdefgh"),
        ("without blanks, each a word", "中"),
        ("without blanks, all one word", "か"),
        ("punctuation of another script", "。"),
        ("letters with an accent, apart", "é "),
        ("letters and dots", "a."),
        ("dots", "."),
        ("dots apart", ". "),
        ("letters apart", "a "),
        ("quotes", "\"a.\" "),
    ] {
        let body = one(&unit.repeat(LENGTH / unit.len()));
        let (highest, when, left) = memory_of(&server, body, Duration::from_secs(4), most_left(idle)).await;
        let per_mb = (highest - idle) / (LENGTH as f64 / 1e6);
        println!(
            "{profile}, 4 MB of {name}: {idle:.0} MiB idle, {highest:.0} at most ({per_mb:.0} a MB) after {when:.1?}, \
             {left:.0} in the end"
        );
        if std::env::var_os("T2V_BIN").is_none() {
            assert!(per_mb <= MIB_PER_MB, "{profile} {name}: {per_mb:.0} MiB for each MB");
            assert!(left <= most_left(idle), "{profile} {name}: {left:.0} MiB are left of {idle:.0}");
        }
    }
}

/// A class of this many bytes, of a kind.
fn class(number: usize, bytes: usize, kind: usize) -> String {
    let (entry, open, close) = [
        (r#"{"name":"a","dataType":["text"]}"#, r#""properties":["#, "]"),
        ("{}", r#""properties":["#, "]"),
        (r#"{"":0}"#, r#""moduleConfig":{"text2vec-transformers":{"x":["#, "]}}"),
        (r#"{"":0}"#, r#""moduleConfig":{"other":{"x":["#, "]}}"),
    ][kind];
    let entries = vec![entry; bytes / (entry.len() + 1)].join(",");
    format!(r#"{{"class":"C{number}",{open}{entries}{close}}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_without_end_cost_bounded_memory() {
    let _machine = crate::beside_others().await;
    let server = Process::start(&[], &[]).await;
    small_passages(&server, 20, 0).await;
    let (idle, _) = server.memory();
    let channel =
        tonic::transport::Channel::from_shared(server.url("")).expect("a URL").connect().await.expect("connected");
    let mut client = ModuleClient::new(channel);
    let (mut served, mut refused, mut highest) = (0, 0, 0f64);
    for number in 0..160 {
        let bytes = [2_200_000, 1_000_000][number % 2];
        let class_json = class(number, bytes, number / 2 % 4);
        let config = Some(ClassConfig { class_json, ..ClassConfig::default() });
        match client.vectorizable_properties(VectorizablePropertiesRequest { config }).await {
            Ok(_) => served += 1,
            Err(status) => {
                assert!(status.message().contains("--max-class-bytes"), "{status}");
                refused += 1;
            }
        }
        highest = highest.max(server.memory().0);
    }
    let (mut left, ended) = (server.memory().0, Instant::now());
    // What was freed is looked for every few seconds, and once a minute where little was found before.
    while left > most_left(idle) && ended.elapsed() < Duration::from_secs(90) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        left = server.memory().0;
    }
    println!(
        "160 classes ({served} served, {refused} refused): {idle:.0} MiB idle, {highest:.0} at most, {left:.0} after"
    );
    if std::env::var_os("T2V_BIN").is_none() {
        // One of a megabyte takes some 200 MiB while it is parsed, and they are parsed one at a time.
        assert!(served > 0 && refused > 0);
        assert!(highest < idle + 256.0 && left <= most_left(idle), "{idle:.0} {highest:.0} {left:.0}");
    }
    let ready: Value = json!(server.ready().await);
    assert_eq!(ready, 204);
}

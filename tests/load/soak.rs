//! Everything at once for a while: mixed lengths, both protocols, callers who leave, bad input. Every request is answered
//! as it deserves, every value is finite, and memory stays where it is.
//!
//! Half a minute by default; `T2V_SOAK_SECONDS=900` is a quarter of an hour, `T2V_BIN` another binary. `make soak` does both.

use crate::support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::{Value, json};
use support::process::{Connection, Process};
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::proto::{VectorizeRequest, vectorize_result};
use tokio::task::JoinSet;
use tonic::transport::Channel;

const CALLERS: u64 = 12;
/// An answer that takes longer than this is lost. Long, for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(300);

const WORDS: [&str; 32] = [
    "harbour",
    "evening",
    "the",
    "ship",
    "wrote",
    "a",
    "tide",
    "of",
    "name",
    "captain",
    "slowly",
    "under",
    "bridge",
    "seven",
    "light",
    "and",
    "unfathomable",
    "42",
    "naïve",
    "Zürich",
    "ein",
    "rué",
    "日本",
    "on",
    "in",
    "markets",
    "index",
    "vector",
    "it",
    "was",
    "never",
    "quite",
];

/// Numbers that look random, the same ones in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    /// 1 to 5,000 words; long texts are rare.
    fn words(&mut self) -> u64 {
        match self.below(100) {
            0 => 1 + self.below(5000),
            1..10 => 1 + self.below(500),
            _ => 1 + self.below(60),
        }
    }

    fn text(&mut self) -> String {
        let mut text = String::new();
        for i in 0..self.words() {
            let end = if i % 15 == 14 { ". " } else { " " };
            text.push_str(WORDS[self.below(WORDS.len() as u64) as usize]);
            text.push_str(end);
        }
        text
    }
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    left: AtomicU64,
    cached: AtomicU64,
}

/// Bad requests, and the status each deserves.
const BAD: [(&str, u16); 6] = [
    ("{\"text\": ", 422),
    ("{\"config\": {}}", 422),
    ("{\"text\": \"   \"}", 400),
    ("{\"text\": \"a\", \"config\": {\"pooling_strategy\": \"best\"}}", 400),
    ("{\"text\": \"a\", \"config\": {\"dimensions\": \"many\"}}", 422),
    ("\u{0}", 422),
];

async fn caller(number: u64, server: std::net::SocketAddr, until: Instant, counts: Arc<Counts>) -> Result<(), String> {
    let mut numbers = Numbers(number);
    let mut connection = Connection::open(server).await.map_err(|error| error.to_string())?;
    let channel = Channel::from_shared(format!("http://{server}")).expect("a URL").connect().await;
    let mut grpc = VectorizerClient::new(channel.map_err(|error| error.to_string())?);
    while Instant::now() < until {
        // A connection has its age; who keeps one opens another.
        if connection.ends() {
            connection = Connection::open(server).await.map_err(|error| error.to_string())?;
        }
        match numbers.below(10) {
            0 => {
                let (body, status) = BAD[numbers.below(BAD.len() as u64) as usize];
                let answer = connection.post(body).await.map_err(|error| format!("{body}: {error}"))?;
                let value: Value = serde_json::from_slice(answer.body()).map_err(|error| format!("{body}: {error}"))?;
                if answer.status() != status || !value["error"].is_string() {
                    return Err(format!("{body}: {} {:.300}", answer.status(), value.to_string()));
                }
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            1 => {
                // Leaves in the middle, connection and all.
                let body = json!({"text": numbers.text()}).to_string();
                let patience = Duration::from_millis(numbers.below(40));
                let _ = tokio::time::timeout(patience, connection.post(body)).await;
                connection = Connection::open(server).await.map_err(|error| error.to_string())?;
                counts.left.fetch_add(1, Ordering::Relaxed);
            }
            2 => {
                let texts: Vec<String> = (0..1 + numbers.below(6)).map(|_| numbers.text()).collect();
                let asked = texts.len();
                let call = grpc.vectorize(VectorizeRequest { texts, ..VectorizeRequest::default() });
                let answer = tokio::time::timeout(PATIENCE, call).await.map_err(|_| "gRPC: no answer")?;
                let results = answer.map_err(|status| format!("gRPC: {status}"))?.into_inner().results;
                let good = |result: &Option<vectorize_result::Result>| match result {
                    Some(vectorize_result::Result::Vector(vector)) => {
                        vector.values.len() == 384 && vector.values.iter().all(|value| value.is_finite())
                    }
                    _ => false,
                };
                if results.len() != asked || !results.iter().all(|result| good(&result.result)) {
                    return Err(format!("gRPC: a bad answer for {asked} texts: {results:?}"));
                }
                counts.answered.fetch_add(asked as u64, Ordering::Relaxed);
            }
            kind => {
                let text = match kind {
                    3 => format!("a text that comes again {}", numbers.below(20)),
                    _ => numbers.text(),
                };
                let task = if kind == 4 { "query" } else { "passage" };
                let body = json!({"text": text, "config": {"task_type": task}}).to_string();
                let answer = tokio::time::timeout(PATIENCE, connection.post(body)).await;
                let answer = answer.map_err(|_| "HTTP: no answer")?.map_err(|error| format!("HTTP: {error}"))?;
                let value: Value = serde_json::from_slice(answer.body()).map_err(|error| format!("HTTP: {error}"))?;
                let vector = value["vector"].as_array().map_or(&[][..], Vec::as_slice);
                if answer.status() != StatusCode::OK || vector.len() != 384 || !vector.iter().all(Value::is_number) {
                    return Err(format!("HTTP: {} {:.300}", answer.status(), value.to_string()));
                }
                let counter = if kind == 3 { &counts.cached } else { &counts.answered };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat_and_every_request_is_answered() {
    let _machine = crate::beside_others().await;
    let seconds = std::env::var("T2V_SOAK_SECONDS").map_or(30, |text| text.parse().expect("a number of seconds"));
    // A cache that is full before the first look at memory: its growth is wanted, and not what is looked for.
    let server = Process::start(&["--cache-bytes", "1000000"], &[]).await;
    let (started, counts) = (Instant::now(), Arc::new(Counts::default()));
    let until = started + Duration::from_secs(seconds);
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        callers.spawn(caller(number, server.address, until, counts.clone()));
    }
    let warm = (seconds / 5).max(12);
    tokio::time::sleep(Duration::from_secs(warm)).await;
    let (early, _) = server.memory();
    while let Some(ended) = callers.join_next().await {
        ended.expect("a caller").expect("every request is answered as it deserves");
    }
    let (late, peak) = server.memory();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let Counts { answered, refused, left, cached } = &*counts;
    println!(
        "{seconds} s: {} texts answered, {} of few texts, {} bad requests refused, {} callers left; memory {early:.1} MiB \
         after {} s, {late:.1} at the end ({:.3} times), {peak:.1} at most",
        count(answered),
        count(cached),
        count(refused),
        count(left),
        warm,
        late / early,
    );
    assert!(late <= early * 1.1, "memory grows: {early:.1} MiB, then {late:.1}");
    for (name, counter) in [("answered", answered), ("cached", cached), ("refused", refused), ("left", left)] {
        assert!(count(counter) >= 5, "too few {name}: {}", count(counter));
    }
}

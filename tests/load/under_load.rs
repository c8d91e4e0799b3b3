//! The real binary under more work than it can do: probes, thousands of connections, SIGTERM, a soak.
//!
//! `T2V_BIN` names another binary (a release build, to measure), `T2V_DRAIN_ROUNDS` and `T2V_SOAK_SECONDS` more work.
//! Run with `--nocapture` to see the figures.

use crate::support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, RETRY_AFTER};
use serde_json::{Value, json};
use support::process::{Connection, Process};
use text2vec_sidecar::proto::VectorizeRequest;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// A text of so many words, different for each seed.
fn text(words: usize, seed: usize) -> String {
    const WORDS: [&str; 16] = [
        "harbour", "evening", "the", "ship", "wrote", "a", "tide", "of", "name", "captain", "slowly", "under",
        "bridge", "seven", "light", "and",
    ];
    let word = |i: usize| WORDS[(i * 7 + seed * 13 + i * i % 11) % WORDS.len()];
    let mut text = format!("{seed}");
    for i in 0..words {
        text.push_str(if i % 17 == 16 { ". " } else { " " });
        text.push_str(word(i));
    }
    text
}

fn body(text: &str) -> Bytes {
    json!({"text": text}).to_string().into()
}

fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share).round() as usize]
}

/// Callers on their own connections who send passages one after the other until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<Result<(), String>>,
}

impl Load {
    fn start(server: &Process, connections: usize) -> Load {
        let (stop, answered, mut callers) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for caller in 0..connections {
            let (stop, answered, address) = (stop.clone(), answered.clone(), server.address);
            callers.spawn(async move {
                let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let sent = connection.post(body(&text(40, caller * 100_000 + round))).await;
                    let answer = sent.map_err(|error| format!("caller {caller}, request {round}: {error}"))?;
                    if answer.status() != StatusCode::OK {
                        return Err(format!("{}: {:?}", answer.status(), answer.body()));
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Load { stop, answered, callers }
    }

    /// Ends and answers how many requests were served.
    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(caller) = self.callers.join_next().await {
            assert_eq!(caller.expect("a caller"), Ok(()));
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Ready (on a connection of its own, as kubelet asks) and gRPC health while 32 callers keep the CPU full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_answer_at_once_while_the_cpu_is_full() {
    let _machine = crate::alone().await;
    let server = Process::start(&[], &[("T2V_CACHE_BYTES", "0")]).await;
    let load = Load::start(&server, 32);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let channel = Channel::from_shared(server.url("")).expect("a URL").connect().await.expect("a connection");
    let mut health = HealthClient::new(channel);
    let (mut ready, mut grpc) = (Vec::new(), Vec::new());
    for _ in 0..number("T2V_PROBES", 100) {
        let asked = Instant::now();
        assert_eq!(server.ready().await, Some(204));
        ready.push(asked.elapsed());
        let asked = Instant::now();
        let answer = health.check(HealthCheckRequest::default()).await.expect("an answer").into_inner();
        grpc.push(asked.elapsed());
        assert_eq!(answer.status, 1, "serving");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let served = load.end().await;
    assert!(served > 10, "the load did nothing: {served}");
    for (name, times) in [("ready", &mut ready), ("gRPC health", &mut grpc)] {
        let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|share| percentile(times, share));
        println!("{name}: p50 {p50:?}, p99 {p99:?}, max {max:?} of {} probes; {served} texts beside", times.len());
        // The machine itself may stand still for a moment.
        assert!(p95 < Duration::from_millis(500) && max < Duration::from_secs(5), "{name}: {p95:?}, {max:?}");
    }
}

/// 2,000 connections, each with a request, at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_connections_at_once_are_all_answered() {
    let _machine = crate::alone().await;
    const CONNECTIONS: usize = 2000;
    // The debug build answers as many in the time as a release build does in less: who waits longer is refused.
    let server = Process::start(&["--max-wait", "10"], &[("T2V_CACHE_BYTES", "0")]).await;
    rlimit::increase_nofile_limit(u64::MAX).expect("files");
    let (before, _) = server.memory();
    let mut callers = JoinSet::new();
    let started = Instant::now();
    for caller in 0..CONNECTIONS {
        let address = server.address;
        callers.spawn(async move {
            let mut connection = Connection::open(address).await.map_err(|error| format!("connect: {error}"))?;
            let answer = connection.post(body(&text(60, caller))).await.map_err(|error| format!("request: {error}"))?;
            let value: Value = serde_json::from_slice(answer.body()).map_err(|error| format!("body: {error}"))?;
            match answer.status() {
                StatusCode::OK if value["vector"].as_array().is_some_and(|vector| vector.len() == 384) => Ok(true),
                StatusCode::TOO_MANY_REQUESTS
                    if answer.headers().contains_key(RETRY_AFTER)
                        && value["error"].as_str().is_some_and(|text| text.contains("too much work is waiting")) =>
                {
                    Ok(false)
                }
                status => Err(format!("{status}: {value}")),
            }
        });
    }
    let (mut served, mut refused) = (0, 0);
    while let Some(answer) = callers.join_next().await {
        match answer.expect("a caller") {
            Ok(true) => served += 1,
            Ok(false) => refused += 1,
            Err(error) => panic!("a request was lost: {error}"),
        }
    }
    let (after, peak) = server.memory();
    println!(
        "{CONNECTIONS} connections: {served} served, {refused} refused by their deadline, 0 lost, in {:.1} s; memory \
         {before:.0} MiB before, {peak:.0} at most, {after:.0} after",
        started.elapsed().as_secs_f64()
    );
    assert_eq!(served + refused, CONNECTIONS);
    assert!(served > 100, "hardly anything was served: {served}");
    // About 50 KiB each in a debug build, whose futures are larger.
    assert!(peak < before + 130.0, "2,000 short texts took {:.0} MiB", peak - before);
}

/// The client kept the request: the server had said that it would take no more on this connection.
fn was_not_sent(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Over HTTP and gRPC, keep-alive and new connections: what was accepted is answered, and the process ends well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_on_sigterm() {
    let _machine = crate::alone().await;
    let (mut answered, mut slowest) = (0, Duration::ZERO);
    let rounds = number("T2V_DRAIN_ROUNDS", 3);
    for round in 0..rounds {
        let mut server = Process::start(&["--drain-delay", "1"], &[("T2V_CACHE_BYTES", "0")]).await;
        let mut callers = JoinSet::new();
        for caller in 0..32 {
            let address = server.address;
            // Until the server takes no new connection: everything sent before has to be answered.
            callers.spawn(async move {
                let mut answered = 0;
                'connections: while let Ok(mut connection) = Connection::open(address).await {
                    for sent in 0.. {
                        let answer = match connection.post(body(&text(40, caller * 100_000 + answered))).await {
                            Ok(answer) => answer,
                            // Accepted by the system's queue only: the server was gone before it came to this connection.
                            Err(_) if sent == 0 => break 'connections,
                            Err(error) => return Err(format!("caller {caller}, request {answered}: {error:?}")),
                        };
                        if answer.status() != StatusCode::OK {
                            return Err(format!("{}: {:?}", answer.status(), answer.body()));
                        }
                        answered += 1;
                        // New connections now and then, as pools have them.
                        if answer.headers().get(CONNECTION).is_some_and(|value| value == "close") || answered % 7 == 0 {
                            continue 'connections;
                        }
                    }
                }
                Ok(answered)
            });
        }
        let mut grpc = JoinSet::new();
        for caller in 0..4 {
            let url = server.url("");
            grpc.spawn(async move {
                let endpoint = Channel::from_shared(url).expect("a URL");
                let mut answered = 0;
                while let Ok(channel) = endpoint.connect().await {
                    let mut client = VectorizerClient::new(channel);
                    loop {
                        let texts = vec![text(40, caller * 77_777 + answered)];
                        match client.vectorize(VectorizeRequest { texts, ..VectorizeRequest::default() }).await {
                            Ok(_) => answered += 1,
                            // Nobody there any more, or the request was never sent as the connection was closing.
                            Err(status) if status.message().contains("connect error") || was_not_sent(&status) => break,
                            Err(status) => return Err(format!("gRPC {caller}, request {answered}: {status}")),
                        }
                    }
                }
                Ok(answered)
            });
        }
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let asked = Instant::now();
        server.terminate();
        let status = server.ended(Duration::from_secs(30)).await.expect("it ends within its grace");
        slowest = slowest.max(asked.elapsed());
        assert_eq!(status.code(), Some(0), "round {round}");
        for mut callers in [callers, grpc] {
            while let Some(caller) = callers.join_next().await {
                answered += caller.expect("a caller").expect("every accepted request is answered");
            }
        }
    }
    println!("{rounds} times SIGTERM under 36 callers: {answered} answered, 0 failed, exit 0, at most {slowest:?}");
    assert!(answered > 50 * rounds as usize / 3, "the load did too little: {answered}");
}

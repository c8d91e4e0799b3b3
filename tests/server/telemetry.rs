//! Logs, traces and metrics of the real binary: one trace across two sidecars at a real OTLP receiver, a collector that is
//! not there, and every line that Prometheus would read.

#[path = "../support/collector.rs"]
mod collector;
use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use collector::{Collector, Received, Way};
use serde_json::{Value, json};
use support::process::Process;
use support::upstream::{Upstream, container};
use text2vec_engine::device::GPU_SUPPORT;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::proto::{VectorizeRequest, VectorizeStreamRequest};
use tonic::Request;

/// A word that may be nowhere but in texts.
const CANARY: &str = "kanarienvogel";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn tiny_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/bert")
}

/// A server with the tiny model, or with an upstream.
async fn sidecar(upstream: Option<&str>, variables: &[(&str, &str)]) -> Process {
    let mut command = Process::command();
    match upstream {
        None => command.arg("--model").arg(tiny_model()),
        Some(url) => command.args(["--upstream", url]),
    };
    Process::launch({
        command.args(["--drain-delay", "0"]).envs(variables.iter().copied());
        command
    })
    .await
}

/// Ends a server in order; its last spans are delivered by then.
async fn end(mut server: Process) {
    server.terminate();
    let status = server.ended(Duration::from_secs(10)).await.expect("it ends");
    assert!(status.success(), "{status}");
}

fn traced<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", format!("00-{TRACE}-{PARENT}-{flags}").parse().expect("a value"));
    metadata.insert("tracestate", "vendor=state".parse().expect("a value"));
    request
}

fn texts(texts: &[&str]) -> VectorizeRequest {
    VectorizeRequest { texts: texts.iter().map(|&text| text.to_owned()).collect(), options: None }
}

/// The span of this name and service whose parent is given.
fn child<'a>(spans: &'a [Received], service: &str, name: &str, parent: &str) -> &'a Received {
    let is = |span: &&Received| {
        span.span.name == name && span.parent() == parent && span.resource("service.name") == service
    };
    let found: Vec<&Received> = spans.iter().filter(is).collect();
    let all: Vec<_> = spans.iter().map(|s| (s.resource("service.name"), &s.span.name, s.id(), s.parent())).collect();
    assert_eq!(found.len(), 1, "{service} {name} below {parent} in {all:#?}");
    found[0]
}

/// `cache` below `request`, `tokenize`, `queue` and `forward` below it, one after the other, with their sizes.
fn assert_local_stages(spans: &[Received], service: &str, request: &Received, texts: usize) {
    let cache = child(spans, service, "cache", &request.id());
    let [tokenize, queue, forward] =
        ["tokenize", "queue", "forward"].map(|name| child(spans, service, name, &cache.id()));
    assert_eq!(cache.attribute("t2v.texts"), Some(texts.to_string()));
    assert_eq!(cache.attribute("t2v.cache.hits").as_deref(), Some("0"));
    let number = |span: &Received, key: &str| -> usize {
        span.attribute(key).unwrap_or_else(|| panic!("{key}: {span:?}")).parse().expect("a number")
    };
    assert_eq!(number(tokenize, "t2v.texts"), texts);
    assert!(number(tokenize, "t2v.tokens") >= 3 * texts);
    assert_eq!(number(queue, "t2v.texts"), texts);
    assert_eq!(queue.attribute("t2v.priority").as_deref(), Some("passage"));
    assert!(number(forward, "t2v.batches") >= 1);
    assert_eq!(number(forward, "t2v.batch.tokens"), number(tokenize, "t2v.tokens"));
    assert_eq!(number(forward, "t2v.dimensions"), 32);
    for (before, after) in [(tokenize, queue), (queue, forward)] {
        assert!(before.span.end_time_unix_nano <= after.span.start_time_unix_nano + 1_000_000, "{before:?} {after:?}");
    }
    for span in [cache, tokenize, queue, forward] {
        assert_eq!(span.span.kind, 1, "internal: {span:?}");
        assert!(span.span.end_time_unix_nano >= span.span.start_time_unix_nano);
    }
}

fn assert_no_text(spans: &[Received]) {
    // Names, attributes, events, links, status: everything there is.
    let all = format!("{spans:?}");
    assert!(all.contains("t2v.texts") && !all.to_lowercase().contains(CANARY), "{all}");
    for span in spans {
        assert!(span.span.events.is_empty(), "{span:?}");
    }
}

/// gRPC → A → gRPC → B, spans over gRPC; the sender's parent, state and decision to sample are kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_two_sidecars_is_one_trace() {
    let (collector, url) = Collector::start().await;
    let common = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=open%20sesame"),
    ];
    let b = sidecar(None, &[&common[..], &[("OTEL_SERVICE_NAME", "b")]].concat()).await;
    let named = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,deployment.environment.name=test");
    let a = sidecar(Some(&format!("grpc://{}", b.address)), &[&common[..], &[named]].concat()).await;
    let mut client = VectorizerClient::connect(a.url("")).await.expect("a connection");
    let message = texts(&["The kanarienvogel sings.", "Kanarienvogel again", "a third"]);
    client.vectorize(traced(message.clone(), "01")).await.expect("vectors");
    // Known now, so nothing is asked of B; not sampled by its sender, so not recorded.
    client.vectorize(traced(message, "00")).await.expect("vectors");
    // Without a trace of its own.
    client.vectorize(texts(&["kanarienvogel"])).await.expect("vectors");
    let before = Instant::now();
    end(a).await;
    end(b).await;
    assert!(before.elapsed() < Duration::from_secs(5), "flushing took {:?}", before.elapsed());

    let all = collector.spans();
    let spans: Vec<Received> = all.iter().filter(|span| span.trace_id() == TRACE).cloned().collect();
    let call = "text2vec.v1.Vectorizer/Vectorize";
    let at_a = child(&spans, "a", call, PARENT);
    assert_eq!((at_a.span.kind, at_a.span.trace_state.as_str()), (2, "vendor=state"));
    assert_eq!(at_a.resource("deployment.environment.name"), "test");
    assert_eq!(at_a.resource("service.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(at_a.attribute("rpc.grpc.status_code").as_deref(), Some("0"));
    let remote = child(&spans, "a", "remote", &child(&spans, "a", "cache", &at_a.id()).id());
    assert_eq!(remote.span.kind, 3, "client");
    assert_eq!(remote.attribute("t2v.texts").as_deref(), Some("3"));
    assert_eq!(remote.attribute("server.address").as_deref(), Some("127.0.0.1"));
    let at_b = child(&spans, "b", call, &remote.id());
    assert_eq!((at_b.span.kind, at_b.span.trace_state.as_str()), (2, "vendor=state"));
    assert_local_stages(&spans, "b", at_b, 3);
    // request, cache, remote; request, cache, tokenize, queue, forward.
    assert_eq!(spans.len(), 8, "the call that was not sampled is not there");
    // Beside what A asked B when it started, a trace of the third call; no trace begins in the middle.
    let calls: Vec<&Received> = all.iter().filter(|span| span.trace_id() != TRACE && span.span.name == call).collect();
    assert_eq!(calls.len(), 2, "{calls:#?}");
    assert_eq!(calls[0].trace_id(), calls[1].trace_id());
    for span in &all {
        assert!(!span.parent().is_empty() || span.span.kind == 2, "{span:?}");
    }
    assert_no_text(&all);
    let way = Way { protocol: "grpc", key: "open sesame".to_owned(), encoding: String::new() };
    assert!(collector.ways().iter().all(|known| *known == way), "{:?}", collector.ways());
}

/// HTTP → A → `POST /vectors` → B, spans over HTTP; and a stream, whose texts are parts of the one trace.
#[tokio::test(flavor = "multi_thread")]
async fn http_and_streams_are_one_trace_too() {
    let (collector, url) = Collector::start().await;
    let traces = format!("{url}/v1/traces");
    let b_variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*traces),
        ("OTEL_SERVICE_NAME", "b"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let a_variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        // As in an image without certificates.
        ("SSL_CERT_FILE", "/nonexistent"),
        ("SSL_CERT_DIR", "/nonexistent"),
    ];
    let b = sidecar(None, &b_variables).await;
    let a = sidecar(Some(&format!("t2v+http://{}", b.address)), &a_variables).await;
    let send = reqwest::Client::new()
        .post(a.url("/vectors"))
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .json(&json!({"text": "kanarienvogel over HTTP"}));
    assert_eq!(send.send().await.expect("an answer").status(), 200);
    let spans = collector.trace(TRACE, 8).await;
    // Where no name is given.
    let at_a = child(&spans, "text2vec-sidecar", "POST /vectors", PARENT);
    assert_eq!(at_a.attribute("http.response.status_code").as_deref(), Some("200"));
    assert_eq!(at_a.attribute("t2v.surface").as_deref(), Some("t2v"));
    let remote =
        child(&spans, "text2vec-sidecar", "remote", &child(&spans, "text2vec-sidecar", "cache", &at_a.id()).id());
    let at_b = child(&spans, "b", "POST /vectors", &remote.id());
    assert_local_stages(&spans, "b", at_b, 1);

    let mut client = VectorizerClient::connect(a.url("")).await.expect("a connection");
    let stream_trace = "11111111111111111111111111111111";
    let item =
        |id: u64| VectorizeStreamRequest { id: id.to_string(), text: format!("kanarienvogel {id}"), options: None };
    let mut request = traced(tokio_stream::iter((0..3).map(item)), "01");
    let parent = format!("00-{stream_trace}-{PARENT}-01");
    request.metadata_mut().insert("traceparent", parent.parse().expect("a value"));
    let mut answers = client.vectorize_stream(request).await.expect("a stream").into_inner();
    while answers.message().await.expect("an answer").is_some() {}
    // At A the stream, and of each text cache and remote; at B of each a request and its four stages.
    let spans = collector.trace(stream_trace, 1 + 3 * 2 + 3 * 5).await;
    let stream = child(&spans, "text2vec-sidecar", "text2vec.v1.Vectorizer/VectorizeStream", PARENT);
    let below = |parent: &str, name: &str| -> Vec<String> {
        spans.iter().filter(|span| span.parent() == parent && span.span.name == name).map(Received::id).collect()
    };
    let caches = below(&stream.id(), "cache");
    assert_eq!(caches.len(), 3);
    for cache in caches {
        let remote = below(&cache, "remote");
        assert_eq!(remote.len(), 1);
        assert_eq!(below(&remote[0], "POST /vectors").len(), 1);
    }
    end(a).await;
    end(b).await;
    assert_no_text(&collector.spans());
    assert!(collector.ways().iter().all(|way| way.protocol == "http" && way.encoding.is_empty()));
}

/// What goes to an upstream: our span as the parent where traces are exported, else what came; baggage always.
#[tokio::test(flavor = "multi_thread")]
async fn context_goes_on_to_upstreams() {
    let (_collector, url) = Collector::start().await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    for (exported, variables) in [
        (true, vec![("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)]),
        (false, vec![("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_SDK_DISABLED", "true")]),
        (false, vec![]),
    ] {
        let upstream = Upstream::start(container).await;
        let a = sidecar(Some(&upstream.url()), &variables).await;
        let send = reqwest::Client::new().post(a.url("/vectors")).header("traceparent", &parent);
        let send = send.header("tracestate", "vendor=state").header("baggage", "user=7,tier=gold");
        assert_eq!(send.json(&json!({"text": "x"})).send().await.expect("an answer").status(), 200);
        let arrived = upstream.requests().into_iter().rfind(|arrived| arrived.path == "/vectors").expect("a request");
        let header = |name: &str| arrived.headers.get(name).map(String::as_str).unwrap_or_default();
        assert_eq!(header("baggage"), "user=7,tier=gold");
        assert_eq!(header("tracestate"), "vendor=state");
        if exported {
            assert!(header("traceparent").starts_with(&format!("00-{TRACE}-")), "{}", header("traceparent"));
            assert!(header("traceparent").ends_with("-01") && !header("traceparent").contains(PARENT));
        } else {
            assert_eq!(header("traceparent"), parent);
        }
        end(a).await;
    }
}

/// `OTEL_TRACES_SAMPLER`: who comes with a trace decides about it, others are subject to the ratio.
#[tokio::test(flavor = "multi_thread")]
async fn the_sampler_is_the_one_asked_for() {
    let (collector, url) = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
    ];
    let server = sidecar(None, &variables).await;
    let client = reqwest::Client::new();
    let post = |text| client.post(server.url("/vectors")).json(&json!({"text": text}));
    assert_eq!(post("x").send().await.expect("an answer").status(), 200);
    let traced = post("y").header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(traced.send().await.expect("an answer").status(), 200);
    // Probes are no part of any trace.
    let probe = client.get(server.url("/.well-known/ready")).header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(probe.send().await.expect("an answer").status(), 204);
    end(server).await;
    let names: BTreeSet<_> = collector.spans().into_iter().map(|span| (span.trace_id(), span.span.name)).collect();
    let expected = ["POST /vectors", "cache", "forward", "queue", "tokenize"];
    assert_eq!(names, expected.map(|name| (TRACE.to_owned(), name.to_owned())).into());
}

/// `OTEL_EXPORTER_OTLP_COMPRESSION`: what is known is done, whatever else is warned about and loses no span.
#[tokio::test(flavor = "multi_thread")]
async fn spans_are_compressed_where_asked_for() {
    for (protocol, sent) in [("grpc", "grpc"), ("http/protobuf", "http")] {
        for (compression, encoding) in [("gzip", "gzip"), ("none", ""), ("zstd", "")] {
            let (collector, url) = Collector::start().await;
            let variables = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", compression),
            ];
            let server = sidecar(None, &variables).await;
            let post = reqwest::Client::new().post(server.url("/vectors")).json(&json!({"text": "x"})).send();
            assert_eq!(post.await.expect("an answer").status(), 200);
            end(server).await;
            let way = Way { protocol: sent, key: String::new(), encoding: encoding.to_owned() };
            assert_eq!(collector.ways(), [way], "{compression}");
            assert_eq!(collector.spans().len(), 5, "{protocol} {compression}");
        }
    }
}

/// Neither serving nor the end waits for a collector that is not there, or that takes connections and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collector_harms_nobody() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    for (address, protocol) in
        [(gone, "grpc"), (gone, "http/protobuf"), (silent.local_addr().expect("an address"), "grpc")]
    {
        let endpoint = format!("http://{address}");
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
        ];
        let server = sidecar(None, &variables).await;
        let client = reqwest::Client::new();
        let failures = async || metric(&page(&server).await, "t2v_trace_export_failures_total", &[]);
        let begun = Instant::now();
        while failures().await < 1.0 {
            let asked = Instant::now();
            let answer = client.post(server.url("/vectors")).json(&json!({"text": "x"})).send().await;
            assert_eq!(answer.expect("an answer").status(), 200);
            // One delivery after the other takes `OTEL_EXPORTER_OTLP_TIMEOUT`, and nobody waits for it.
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
            assert!(begun.elapsed() < Duration::from_secs(20), "no delivery failed");
        }
        let ending = Instant::now();
        end(server).await;
        assert!(ending.elapsed() < Duration::from_secs(4), "{protocol}: the end took {:?}", ending.elapsed());
    }
}

/// Every line of the log of one request, as JSON.
#[tokio::test(flavor = "multi_thread")]
async fn log_lines_carry_the_trace_and_no_text() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let mut command = Process::command();
    command.arg("--model").arg(tiny_model()).args(["--drain-delay", "0", "--log-format", "json"]);
    command.env("RUST_LOG", "text2vec_sidecar=debug").stderr(std::fs::File::create(&path).expect("a file"));
    let server = Process::launch(command).await;
    let send = reqwest::Client::new().post(server.url("/vectors")).json(&json!({"text": "Kanarienvogel"}));
    let parent = format!("00-{TRACE}-{PARENT}-01");
    assert_eq!(send.header("traceparent", parent).send().await.expect("an answer").status(), 200);
    end(server).await;
    let log = std::fs::read_to_string(&path).expect("a log");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let answered = lines.iter().find(|line| line["fields"]["message"] == "answered").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(answered["span"]["trace_id"], TRACE, "{answered}");
    assert_eq!(answered["span"]["t2v.surface"], "t2v");
    assert_eq!(answered["fields"]["code"], "200");
    assert!(!log.to_lowercase().contains(CANARY), "{log}");
}

// ---- metrics ----

/// A sample's name and labels to its value.
type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

async fn page(server: &Process) -> Samples {
    let answer = reqwest::get(server.url("/metrics")).await.expect("a page");
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    parse(&answer.text().await.expect("text"))
}

/// Reads the text format as strictly as `promtool check metrics`, and more: families whole, in one piece, with help and
/// type; every name and number valid; no series twice; histograms cumulative.
fn parse(text: &str) -> Samples {
    assert!(text.ends_with('\n'));
    let mut samples = Samples::new();
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let (mut helped, mut family) = (String::new(), String::new());
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(name, helped, "help stands right before");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            family = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').expect(line);
            let value: f64 = value.parse().expect(line);
            let (name, rest) = series.split_at(series.find('{').unwrap_or(series.len()));
            let suffix = name.strip_prefix(&*family).unwrap_or_else(|| panic!("{line} below {family}"));
            match &*families[&family] {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                _ => assert!(suffix.is_empty(), "{line}"),
            }
            assert!(is_name(name), "{line}");
            let mut labels = BTreeMap::new();
            let inner = rest.strip_prefix('{').map_or("", |rest| rest.strip_suffix('}').expect(line));
            for label in inner.split("\",").filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once("=\"").expect(line);
                let value = value.trim_end_matches('"');
                assert!(is_name(key) && !value.contains(['"', '\\']), "{line}");
                assert!(labels.insert(key.to_owned(), value.to_owned()).is_none(), "{line}");
            }
            assert!(samples.insert((name.to_owned(), labels), value).is_none(), "{line} twice");
        }
    }
    for family in families.iter().filter(|(_, kind)| *kind == "histogram").map(|(family, _)| family) {
        for ((_, labels), count) in samples.iter().filter(|((name, _), _)| *name == format!("{family}_count")) {
            let mut buckets: Vec<(f64, f64)> = Vec::new();
            for ((name, of), value) in &samples {
                let mut of = of.clone();
                if *name == format!("{family}_bucket")
                    && let Some(le) = of.remove("le")
                    && of == *labels
                {
                    buckets.push((le.replace("+Inf", "inf").parse().expect("a bound"), *value));
                }
            }
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.len() > 5 && buckets.is_sorted_by(|a, b| a.1 <= b.1), "{family} {labels:?}: {buckets:?}");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{family} {labels:?}");
            assert!(samples.contains_key(&(format!("{family}_sum"), labels.clone())));
        }
    }
    samples
}

fn metric(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    *samples.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("no {name} in {:?}", samples.keys()))
}

type Labels = &'static [(&'static str, &'static str)];

/// The names that dashboards rely on, and their labels.
const NAMES: &[(&str, &[Labels])] = &[
    (
        "t2v_requests_total",
        &[
            &[("surface", "t2v"), ("code", "200")],
            &[("surface", "openai"), ("code", "429")],
            &[("surface", "vectorizer"), ("code", "OK")],
            &[("surface", "module"), ("code", "RESOURCE_EXHAUSTED")],
        ],
    ),
    ("t2v_request_duration_seconds_count", &[&[("surface", "t2v")], &[("surface", "vectorizer")]]),
    (
        "t2v_stage_duration_seconds_count",
        &[&[("stage", "queue")], &[("stage", "tokenize")], &[("stage", "forward")], &[("stage", "remote")]],
    ),
    ("t2v_batch_texts_count", &[&[]]),
    ("t2v_batch_tokens_count", &[&[]]),
    ("t2v_queue_depth", &[&[("priority", "query")], &[("priority", "passage")]]),
    ("t2v_truncated_texts_total", &[&[]]),
    ("t2v_cache_hits_total", &[&[]]),
    ("t2v_cache_misses_total", &[&[]]),
    ("t2v_cache_evictions_total", &[&[]]),
    ("t2v_cache_bytes", &[&[]]),
    ("t2v_build_info", &[&[("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH)]]),
];

const MODEL: Labels =
    &[("model", "bert"), ("profile", "transformers"), ("dimensions", "32"), ("device", "cpu"), ("dtype", "f32")];

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_all_there_from_the_first_scrape_and_move() {
    let mut command = Process::command();
    command.arg("--model").arg(tiny_model()).args([
        "--drain-delay",
        "0",
        "--max-texts",
        "3",
        "--max-body-bytes",
        "5000",
    ]);
    command.args(["--profile", "transformers"]);
    // A build for GPUs does as it says, or does not start.
    if !GPU_SUPPORT {
        command.env("ENABLE_CUDA", "1");
    }
    let server = Process::launch(command).await;
    let first = page(&server).await;
    for (name, series) in NAMES {
        for labels in *series {
            metric(&first, name, labels);
        }
    }
    assert_eq!(metric(&first, "t2v_model_info", MODEL), 1.0);
    assert_eq!(metric(&first, "t2v_ready", &[]), 1.0);
    assert_eq!(metric(&first, "t2v_cuda_unavailable", &[]), if GPU_SUPPORT { 0.0 } else { 1.0 });
    let rss = metric(&first, "process_resident_memory_bytes", &[]) / 1048576.0;
    assert!((1.0..4096.0).contains(&rss), "{rss} MiB");
    let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64()
        - metric(&first, "process_start_time_seconds", &[]);
    assert!((0.0..120.0).contains(&age.round()), "{age} s old");

    let client = reqwest::Client::new();
    let post = async |path: &str, body: Value| {
        client.post(server.url(path)).json(&body).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(post("/vectors", json!({"text": "one two three"})).await, 200);
    assert_eq!(post("/vectors", json!({"text": "one two three"})).await, 200);
    assert_eq!(post("/vectors", json!({"texts": ["a", "b", "c", "d"]})).await, 413);
    assert_eq!(post("/vectors", json!({"text": "x".repeat(6000)})).await, 413);
    assert_eq!(post("/v1/embeddings", json!({"input": ["four five", "one two three"], "model": "bert"})).await, 200);
    assert_eq!(post("/v1/embeddings", json!({"input": "x", "model": "no-such"})).await, 404);
    assert_eq!(post("/models/bert/vectors", json!({})).await, 422);
    let mut grpc = VectorizerClient::connect(server.url("")).await.expect("a connection");
    grpc.vectorize(texts(&["by grpc"])).await.expect("a vector");
    grpc.vectorize(texts(&["a", "b", "c", "d"])).await.expect_err("too many");

    // The batch that an answer was in is counted right after the answer.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let last = page(&server).await;
    let moved = |name: &str, labels: &[(&str, &str)]| metric(&last, name, labels) - metric(&first, name, labels);
    let requests = |surface, code| moved("t2v_requests_total", &[("surface", surface), ("code", code)]);
    assert_eq!((requests("t2v", "200"), requests("t2v", "413"), requests("t2v", "422")), (2.0, 2.0, 1.0));
    assert_eq!((requests("openai", "200"), requests("openai", "404")), (1.0, 1.0));
    assert_eq!((requests("vectorizer", "OK"), requests("vectorizer", "RESOURCE_EXHAUSTED")), (1.0, 1.0));
    assert_eq!(moved("t2v_request_duration_seconds_count", &[("surface", "t2v")]), 5.0);
    assert!(moved("t2v_request_duration_seconds_sum", &[("surface", "t2v")]) > 0.0);
    let refused = |reason| moved("t2v_refused_requests_total", &[("reason", reason)]);
    assert_eq!((refused("max_texts"), refused("max_body_bytes")), (2.0, 1.0));
    // The second of two equal texts; without a task, in the list, it is another one.
    assert_eq!(moved("t2v_cache_hits_total", &[]), 1.0);
    assert_eq!(moved("t2v_cache_misses_total", &[]), 4.0);
    assert!(moved("t2v_cache_bytes", &[]) > 3.0 * 32.0 * 4.0);
    assert_eq!(moved("t2v_texts_total", &[]), 5.0);
    let model = |name| moved(name, &[("model", "bert")]);
    assert_eq!(model("t2v_model_texts_total"), 4.0);
    assert_eq!(model("t2v_model_tokens_total"), moved("t2v_batch_tokens_sum", &[]));
    assert_eq!(model("t2v_model_texts_total"), moved("t2v_batch_texts_sum", &[]));
    for stage in ["queue", "tokenize", "forward"] {
        assert!(moved("t2v_stage_duration_seconds_count", &[("stage", stage)]) >= 3.0, "{stage}");
    }
    assert_eq!(moved("t2v_stage_duration_seconds_count", &[("stage", "remote")]), 0.0);
    assert_eq!(metric(&last, "t2v_requests_in_flight", &[("surface", "other")]), 1.0, "this very scrape");
    assert_eq!(metric(&last, "t2v_requests_in_flight", &[("surface", "t2v")]), 0.0);
    assert!(metric(&last, "t2v_connections", &[]) >= 1.0);
    let same: BTreeSet<_> = first.keys().collect();
    assert_eq!(same, last.keys().collect(), "series came or went");
    end(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_errors_are_counted() {
    let upstream = Upstream::start(|arrived| match arrived.path.as_str() {
        "/vectors" => support::upstream::status(503, "later"),
        _ => container(arrived),
    })
    .await;
    let server = sidecar(Some(&upstream.url()), &[("ENABLE_CUDA", "0")]).await;
    // Starting asked for a first vector.
    let (asked, before) = (upstream.count("/vectors") as f64, page(&server).await);
    let answer = reqwest::Client::new().post(server.url("/vectors")).json(&json!({"text": "x"})).send().await;
    assert_eq!(answer.expect("an answer").status(), 503);
    let samples = page(&server).await;
    let attempts = upstream.count("/vectors") as f64 - asked;
    assert!(attempts >= 2.0);
    let moved = |name, labels: &[_]| metric(&samples, name, labels) - metric(&before, name, labels);
    assert_eq!(moved("t2v_upstream_errors_total", &[("kind", "busy")]), attempts);
    assert_eq!(moved("t2v_upstream_retries_total", &[]), attempts - 1.0);
    assert_eq!(moved("t2v_stage_duration_seconds_count", &[("stage", "remote")]), attempts);
    assert_eq!(metric(&samples, "t2v_requests_total", &[("surface", "t2v"), ("code", "503")]), 1.0);
    assert_eq!(metric(&samples, "t2v_cuda_unavailable", &[]), 0.0);
    let url = upstream.url();
    let model = [("model", &*url), ("profile", ""), ("dimensions", ""), ("device", "upstream"), ("dtype", "")];
    assert_eq!(metric(&samples, "t2v_model_info", &model), 1.0);
    end(server).await;
}

/// As far as the upstream says of its model what we say of ours.
#[tokio::test(flavor = "multi_thread")]
async fn the_model_of_an_upstream_is_told() {
    let b = sidecar(None, &[("T2V_PROFILE", "transformers")]).await;
    let container = Upstream::start(container).await;
    let url = container.url();
    let bare = [("model", &*url), ("profile", ""), ("dimensions", "3"), ("device", "upstream"), ("dtype", "")];
    let named = [
        ("model", "bert"),
        ("profile", "transformers"),
        ("dimensions", "32"),
        ("device", "upstream"),
        ("dtype", "f32"),
    ];
    for (upstream, labels) in [(format!("grpc://{}", b.address), named), (b.url(""), named), (url.clone(), bare)] {
        let a = sidecar(Some(&upstream), &[]).await;
        let samples = page(&a).await;
        assert_eq!(metric(&samples, "t2v_model_info", &labels), 1.0, "{upstream}");
        assert!(!samples.keys().any(|(name, _)| name == "t2v_model_texts_total"), "nothing is computed here");
        end(a).await;
    }
    end(b).await;
}

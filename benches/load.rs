//! The load client: replays a corpus against running servers, over HTTP as Weaviate does and over gRPC, and says what they
//! took for it.
//!
//! ```text
//! cargo bench --bench load -- --start                                  # our own binary, caches off
//! cargo bench --bench load -- --start --start=--some-flag              # with and without a flag, taking turns
//! cargo bench --bench load -- --url http://127.0.0.1:8080 --url http://127.0.0.1:9090 --protocol http
//! cargo bench --bench load -- --start --connections 32 --queries-every 100ms
//! ```
//!
//! Each connection has one request under way and sends the next when the answer is there. A round visits every protocol,
//! number of connections and server in turn, so that a machine that drifts drifts for all; figures are medians of rounds.
//! The client reads status and length of an answer, on one thread, and prints its own share of the CPU: where that is
//! large, it is the client that is measured. CPU and memory of a server are those of one process on this machine: the one
//! that listens, or `--pid`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT_ENCODING, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use text2vec_sidecar::proto;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, timeout};
use tonic::transport::{Channel, Endpoint};

/// A connection that failed so often in a row is given up.
const FAILURES_IN_A_ROW: usize = 20;
/// Queries under way at once, at most; more are counted as errors.
const QUERIES_IN_FLIGHT: usize = 64;
/// Queries sent while nothing else runs, for comparison.
const IDLE_QUERIES: usize = 30;
/// Words of a passage that make a query.
const QUERY_WORDS: usize = 8;
/// The shortest answer that can hold a vector.
const SHORTEST_ANSWER: usize = 16;

type Failure = String;

/// Replays a corpus against servers that speak `/vectors` or `text2vec.v1`.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Args {
    /// Base URL of a running server; may be given several times
    #[arg(long)]
    url: Vec<String>,
    /// Process of the server, in the order of --url; else the one that listens on its port
    #[arg(long)]
    pid: Vec<u32>,
    /// Start our own binary (T2V_BIN, else the one just built) with the model T2V_TEST_MODEL, on a free port, its cache off
    /// unless T2V_CACHE_BYTES says otherwise; may be given several times, with further flags after `=`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "", value_name = "FLAGS")]
    start: Vec<String>,
    /// JSON lines with `text`
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/corpus.jsonl"))]
    corpus: PathBuf,
    /// Only so many texts of the corpus; 1 asks for the same text again and again
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    texts: Option<u32>,
    /// Ways to ask
    #[arg(long, value_enum, value_delimiter = ',', default_value = "http,grpc,grpc-batch")]
    protocol: Vec<Protocol>,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,128",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: Vec<u32>,
    /// Texts of a grpc-batch request
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Rounds; figures are their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Run each measurement so long, over and over the corpus, instead of once through it
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// Once through the corpus takes no longer than this
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=3600))]
    max_seconds: u32,
    /// End each text with a number of its own, so that no cache knows it
    #[arg(long)]
    fresh: bool,
    /// Beside the passages, send a query this often (100ms, 1s) and compare with an idle server
    #[arg(long, value_parser = parse_duration)]
    queries_every: Option<Duration>,
    /// Give an answer up after so many seconds; Weaviate waits 50
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    patience: u32,
    /// Allow servers on other machines: they will be loaded as much as they can bear
    #[arg(long)]
    allow_remote: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Protocol {
    /// `POST /vectors`, one text a request, body and headers as Weaviate sends them
    Http,
    /// `Vectorize`, one text a request
    Grpc,
    /// `Vectorize`, --batch texts a request
    GrpcBatch,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
            Protocol::GrpcBatch => "grpc-batch",
        }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| format!("'{text}' is no duration: 100ms or 1s"))?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(format!("'{text}' has no unit: 100ms or 1s")),
    };
    match duration {
        _ if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&duration) => Ok(duration),
        _ => Err(format!("'{text}' is not between 1ms and 60s")),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.url.is_empty() && args.start.is_empty() {
        // `cargo bench` without a name runs every benchmark; this one needs to be told whom to load.
        eprintln!("load: nothing to do; give --start or --url (cargo bench --bench load -- --help)");
        return ExitCode::SUCCESS;
    }
    // One thread: a client that spreads over the cores takes them from the server.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                result = run(args) => result,
                // Servers we started end with us, not after us.
                error = interrupted() => Err(error),
            }
        })
    });
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(errors) => {
            eprintln!("load: {errors} requests failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::from(2)
        }
    }
}

/// Why we are told to stop, when we are.
async fn interrupted() -> Failure {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return "interrupted".to_owned();
        }
    }
    std::future::pending().await
}

/// Measures everything and prints it; the number of failed requests.
async fn run(args: Args) -> Result<usize, Failure> {
    let corpus = Arc::new(Corpus::read(&args)?);
    let mut targets = Vec::new();
    for (index, url) in args.url.iter().enumerate() {
        targets.push(Target::running(url, args.pid.get(index).copied(), &args).await?);
    }
    for flags in &args.start {
        targets.push(Target::start(flags, &args).await?);
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    println!("{} texts, {:.0} words on average; {cores} cores", corpus.texts.len(), corpus.mean_words());
    for (index, target) in targets.iter().enumerate() {
        let process = target.pid.map_or_else(|| "process unknown".to_owned(), |pid| format!("process {pid}"));
        println!("{}: {}, {process}", letter(index), target.label);
    }
    let mut cells = Cells::new();
    let mut idle = Idle::new();
    for target in &targets {
        let warm_up = Plan { protocol: args.protocol[0], connections: 8, per_request: 1, passes: false };
        measure(target, &corpus, &warm_up, Duration::from_secs(1), None).await;
    }
    for round in 1..=args.rounds {
        for &protocol in &args.protocol {
            if let Some(every) = args.queries_every {
                for (index, target) in targets.iter().enumerate() {
                    let queries = Queries { every, count: IDLE_QUERIES };
                    let latencies = queries.run(target, protocol, &corpus, std::future::pending()).await;
                    idle.entry((protocol, index)).or_default().push(latencies);
                }
            }
            for &connections in &args.connections {
                for (index, target) in targets.iter().enumerate() {
                    let per_request = if protocol == Protocol::GrpcBatch { args.batch as usize } else { 1 };
                    let plan = Plan { protocol, connections, per_request, passes: args.seconds.is_none() };
                    let limit = Duration::from_secs(args.seconds.unwrap_or(args.max_seconds).into());
                    let cell = measure(target, &corpus, &plan, limit, args.queries_every).await;
                    eprintln!(
                        "round {round}/{}: {} {} × {connections}: {:.1} texts/s, {} errors",
                        args.rounds,
                        letter(index),
                        protocol.name(),
                        cell.rate(),
                        cell.passages.errors.len()
                    );
                    cells.entry((protocol, connections, index)).or_default().push(cell);
                }
            }
        }
    }
    print_passages(&cells, cores);
    if args.queries_every.is_some() {
        print_queries(&cells, &idle);
    }
    Ok(print_errors(&cells, &idle))
}

/// The texts, as they go over the wire.
struct Corpus {
    texts: Vec<String>,
    /// Bodies for `/vectors`.
    bodies: Vec<Bytes>,
    fresh: bool,
    /// Makes fresh texts differ, also from those of earlier runs.
    serial: AtomicUsize,
}

impl Corpus {
    fn read(args: &Args) -> Result<Corpus, Failure> {
        let path = args.corpus.display();
        let lines = std::fs::read_to_string(&args.corpus).map_err(|error| format!("{path}: {error}"))?;
        let mut texts = Vec::new();
        for (number, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line: serde_json::Value =
                serde_json::from_str(line).map_err(|error| format!("{path}, line {}: {error}", number + 1))?;
            let text = line["text"].as_str().ok_or_else(|| format!("{path}, line {}: no \"text\"", number + 1))?;
            texts.push(text.to_owned());
        }
        texts.truncate(args.texts.map_or(usize::MAX, |most| most as usize));
        if texts.is_empty() {
            return Err(format!("{path} has no texts"));
        }
        let bodies = texts.iter().map(|text| vectors_body(text, "passage")).collect();
        let serial = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as usize);
        Ok(Corpus { texts, bodies, fresh: args.fresh, serial: AtomicUsize::new(serial) })
    }

    fn mean_words(&self) -> f64 {
        let words: usize = self.texts.iter().map(|text| text.split_whitespace().count()).sum();
        words as f64 / self.texts.len() as f64
    }

    fn text(&self, index: usize) -> String {
        let text = &self.texts[index % self.texts.len()];
        if !self.fresh {
            return text.clone();
        }
        format!("{text} {}", self.serial.fetch_add(1, Ordering::Relaxed))
    }

    /// Passages from `index` on.
    fn passages(&self, protocol: Protocol, index: usize, count: usize) -> Ask {
        match protocol {
            Protocol::Http if self.fresh => Ask::Http(vectors_body(&self.text(index), "passage")),
            Protocol::Http => Ask::Http(self.bodies[index % self.bodies.len()].clone()),
            Protocol::Grpc | Protocol::GrpcBatch => {
                Ask::grpc((index..index + count).map(|index| self.text(index)).collect(), proto::Task::Passage)
            }
        }
    }

    /// The beginning of a passage, with a number: people do not all ask the same.
    fn query(&self, protocol: Protocol, index: usize) -> Ask {
        let text = &self.texts[index % self.texts.len()];
        let mut text = text.split_whitespace().take(QUERY_WORDS).collect::<Vec<_>>().join(" ");
        if self.fresh {
            text = format!("{text} {}", self.serial.fetch_add(1, Ordering::Relaxed));
        }
        match protocol {
            Protocol::Http => Ask::Http(vectors_body(&text, "query")),
            Protocol::Grpc | Protocol::GrpcBatch => Ask::grpc(vec![text], proto::Task::Query),
        }
    }
}

/// What Weaviate's module sends, byte for byte: Go's JSON escapes `<`, `>` and `&`.
fn vectors_body(text: &str, task: &str) -> Bytes {
    let text = serde_json::Value::from(text).to_string();
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let config = format!("{{\"pooling_strategy\":\"masked_mean\",\"task_type\":\"{task}\"}}");
    format!("{{\"text\":{text},\"dims\":0,\"vector\":null,\"error\":\"\",\"config\":{config}}}").into()
}

/// One request.
enum Ask {
    Http(Bytes),
    Grpc(proto::VectorizeRequest),
}

impl Ask {
    fn grpc(texts: Vec<String>, task: proto::Task) -> Ask {
        let options = proto::VectorizeOptions {
            task: task.into(),
            pooling_strategy: "masked_mean".to_owned(),
            ..proto::VectorizeOptions::default()
        };
        Ask::Grpc(proto::VectorizeRequest { texts, options: Some(options) })
    }
}

/// A server under load.
struct Target {
    label: String,
    address: SocketAddr,
    /// Path in front of `/vectors`.
    base_path: String,
    patience: Duration,
    pid: Option<u32>,
    /// Ended with us, if we started it.
    _child: Option<Stopped>,
}

fn patience(args: &Args) -> Duration {
    Duration::from_secs(args.patience.into())
}

/// Ends a process we started.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Target {
    async fn running(url: &str, pid: Option<u32>, args: &Args) -> Result<Target, Failure> {
        let uri: hyper::Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let host = match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) => host.trim_matches(['[', ']']),
            _ => return Err(format!("{url}: give http://host:port")),
        };
        let found = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(80))).await;
        let addresses: Vec<SocketAddr> = found.map_err(|error| format!("{url}: {error}"))?.collect();
        // The address checked here is the one that is dialled.
        let address = *addresses.first().ok_or_else(|| format!("{url}: no address"))?;
        let local = address.ip().to_canonical().is_loopback();
        if !local && !args.allow_remote {
            return Err(format!("{url} is another machine ({address}): loading it takes --allow-remote"));
        }
        let pid = pid.or_else(|| if local { process_listening_on(address.port()) } else { None });
        let base_path = uri.path().trim_end_matches('/').to_owned();
        Ok(Target { label: url.to_owned(), address, base_path, patience: patience(args), pid, _child: None })
    }

    /// Starts our own binary and waits until it is ready.
    async fn start(flags: &str, args: &Args) -> Result<Target, Failure> {
        let built = option_env!("CARGO_BIN_EXE_text2vec-sidecar");
        let binary = std::env::var("T2V_BIN").ok().or_else(|| built.map(str::to_owned));
        let binary = binary.ok_or("set T2V_BIN to the binary to start")?;
        let model = std::env::var("T2V_TEST_MODEL")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/models/all-MiniLM-L6-v2").to_owned());
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.map_err(|error| format!("no free port: {error}"))?;
        let mut command = Command::new(&binary);
        command.args(["--listen", &address.to_string(), "--model", &model]).args(flags.split_whitespace());
        if std::env::var_os("T2V_CACHE_BYTES").is_none() {
            command.env("T2V_CACHE_BYTES", "0");
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = Stopped(child.map_err(|error| format!("{binary}: {error}"))?);
        let start = Instant::now();
        while !is_ready(address).await {
            if let Ok(Some(status)) = child.0.try_wait() {
                return Err(format!("{binary} {flags} ended at once: {status}; start it by hand to see why"));
            }
            if start.elapsed() > Duration::from_secs(120) {
                return Err(format!("{binary} {flags} is not ready after 120 s"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let label = format!("{binary} {flags}").trim_end().to_owned();
        let (pid, base_path) = (Some(child.0.id()), String::new());
        Ok(Target { label, address, base_path, patience: patience(args), pid, _child: Some(child) })
    }

    fn usage(&self) -> Option<Usage> {
        self.pid.and_then(Usage::of)
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut sender = http_connection(address).await.ok()?;
        let request = hyper::Request::get("/.well-known/ready").header(HOST, address.to_string());
        let answer = sender.send_request(request.body(Full::default()).ok()?).await.ok()?;
        Some(answer.status().is_success())
    };
    timeout(Duration::from_secs(5), ask).await.ok().flatten().unwrap_or(false)
}

async fn http_connection(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"))?;
    let _ = stream.set_nodelay(true);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| format!("connecting: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A connection that is kept and asked one thing after another.
enum Connection {
    Http(SendRequest<Full<Bytes>>),
    Grpc(VectorizerClient<Channel>),
}

impl Connection {
    async fn open(target: &Target, protocol: Protocol) -> Result<Connection, Failure> {
        match protocol {
            Protocol::Http => http_connection(target.address).await.map(Connection::Http),
            Protocol::Grpc | Protocol::GrpcBatch => {
                let endpoint = Endpoint::from_shared(format!("http://{}", target.address));
                let endpoint = endpoint.map_err(|error| error.to_string())?.tcp_nodelay(true);
                let channel = endpoint.connect().await.map_err(|error| format!("connecting: {error}"))?;
                Ok(Connection::Grpc(VectorizerClient::new(channel).max_decoding_message_size(256 << 20)))
            }
        }
    }

    /// Sends a request and reads its answer to the end. An error leaves the connection unusable, or as good as.
    async fn ask(&mut self, target: &Target, ask: Ask) -> Result<(), Failure> {
        timeout(target.patience, self.ask_patiently(target, ask))
            .await
            .unwrap_or_else(|_| Err(format!("no answer in {:?}", target.patience)))
    }

    async fn ask_patiently(&mut self, target: &Target, ask: Ask) -> Result<(), Failure> {
        match (self, ask) {
            (Connection::Http(sender), Ask::Http(body)) => {
                let request = hyper::Request::post(format!("{}/vectors", target.base_path))
                    .header(HOST, target.address.to_string())
                    .header(USER_AGENT, "Go-http-client/1.1")
                    .header(ACCEPT_ENCODING, "gzip")
                    .body(Full::new(body))
                    .map_err(|error| error.to_string())?;
                sender.ready().await.map_err(|error| format!("connection: {error}"))?;
                let answer = sender.send_request(request).await.map_err(|error| format!("connection: {error}"))?;
                let status = answer.status();
                let mut body = answer.into_body();
                let mut length = 0;
                while let Some(frame) = body.frame().await {
                    let frame = frame.map_err(|error| format!("connection: {error}"))?;
                    length += frame.data_ref().map_or(0, Bytes::len);
                }
                match status.as_u16() {
                    200 if length >= SHORTEST_ANSWER => Ok(()),
                    200 => Err(format!("status 200 with {length} bytes")),
                    status => Err(format!("status {status}")),
                }
            }
            (Connection::Grpc(client), Ask::Grpc(request)) => {
                let asked = request.texts.len();
                let answer = client.vectorize(request).await;
                let results = answer.map_err(|status| format!("gRPC {:?}", status.code()))?.into_inner().results;
                let is_vector = |result: &&proto::VectorizeResult| {
                    matches!(result.result, Some(proto::vectorize_result::Result::Vector(_)))
                };
                match results.iter().filter(is_vector).count() {
                    vectors if vectors == asked => Ok(()),
                    vectors => Err(format!("{vectors} vectors for {asked} texts")),
                }
            }
            _ => Err("a request of another protocol".to_owned()),
        }
    }
}

/// How long answers took, in the order they came; and what went wrong.
#[derive(Default)]
struct Latencies {
    micros: Vec<u64>,
    errors: Vec<Failure>,
}

impl Latencies {
    fn add(&mut self, took: Duration, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.micros.push(took.as_micros() as u64),
            Err(error) => self.errors.push(error),
        }
    }

    fn join(&mut self, mut other: Latencies) {
        self.micros.append(&mut other.micros);
        self.errors.append(&mut other.errors);
    }

    /// Milliseconds, by nearest rank.
    fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(f64::NAN, |&micros| micros as f64 / 1e3)
    }
}

/// What is measured in one go.
struct Plan {
    protocol: Protocol,
    connections: u32,
    per_request: usize,
    /// Once through the corpus; else over and over until the time is up.
    passes: bool,
}

/// One measurement.
struct Cell {
    passages: Latencies,
    texts: usize,
    seconds: f64,
    client_cpu: Option<f64>,
    server_cpu: Option<f64>,
    resident_mib: Option<f64>,
    queries: Option<Latencies>,
}

impl Cell {
    fn rate(&self) -> f64 {
        self.texts as f64 / self.seconds
    }
}

async fn measure(
    target: &Target,
    corpus: &Corpus,
    plan: &Plan,
    limit: Duration,
    queries_every: Option<Duration>,
) -> Cell {
    let next = AtomicUsize::new(0);
    // Connections are there before the clock starts.
    let opening = (0..plan.connections).map(|_| Connection::open(target, plan.protocol));
    let connections = join_all(opening).await;
    let (client, server) = (Usage::of(std::process::id()), target.usage());
    let start = Instant::now();
    let workers =
        connections.into_iter().map(|connection| worker(target, corpus, plan, &next, start + limit, connection));
    let mut passages = Latencies::default();
    let mut texts = 0;
    let load = async {
        for (latencies, answered) in join_all(workers).await {
            passages.join(latencies);
            texts += answered;
        }
        start.elapsed().as_secs_f64()
    };
    let (queries, seconds) = match queries_every {
        None => (None, load.await),
        Some(every) => {
            let (ended, end) = tokio::sync::oneshot::channel();
            let load = async {
                let seconds = load.await;
                let _ = ended.send(());
                seconds
            };
            let end = async {
                let _ = end.await;
            };
            let queries = Queries { every, count: usize::MAX }.run(target, plan.protocol, corpus, end);
            let (queries, seconds) = tokio::join!(queries, load);
            (Some(queries), seconds)
        }
    };
    let since = |before: Option<Usage>, after: Option<Usage>| Some(after?.cpu_seconds - before?.cpu_seconds);
    let after = target.usage();
    Cell {
        passages,
        texts,
        seconds,
        client_cpu: since(client, Usage::of(std::process::id())),
        server_cpu: since(server, after),
        resident_mib: after.map(|usage| usage.resident_mib),
        queries,
    }
}

/// Asks on one connection until the corpus or the time is over: latencies, and the number of texts answered.
async fn worker(
    target: &Target,
    corpus: &Corpus,
    plan: &Plan,
    next: &AtomicUsize,
    deadline: Instant,
    opened: Result<Connection, Failure>,
) -> (Latencies, usize) {
    let mut latencies = Latencies::default();
    let mut answered = 0;
    let mut failures = 0;
    let mut opened = Some(opened);
    while failures < FAILURES_IN_A_ROW && Instant::now() < deadline {
        let mut connection = match opened.take() {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => {
                latencies.errors.push(error);
                failures += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            None => {
                opened = Some(Connection::open(target, plan.protocol).await);
                continue;
            }
        };
        let index = next.fetch_add(plan.per_request, Ordering::Relaxed);
        let left = if plan.passes { corpus.texts.len().saturating_sub(index) } else { usize::MAX };
        let count = plan.per_request.min(left);
        if count == 0 {
            break;
        }
        let ask = corpus.passages(plan.protocol, index, count);
        let start = Instant::now();
        let result = connection.ask(target, ask).await;
        if result.is_ok() {
            answered += count;
            failures = 0;
            opened = Some(Ok(connection));
        } else {
            failures += 1;
        }
        latencies.add(start.elapsed(), result);
    }
    (latencies, answered)
}

/// Queries by the clock, whether or not the one before is answered: who waits longer does not ask less often.
struct Queries {
    every: Duration,
    count: usize,
}

impl Queries {
    /// Asks until `count` or `end`.
    async fn run(
        self,
        target: &Target,
        protocol: Protocol,
        corpus: &Corpus,
        end: impl Future<Output = ()>,
    ) -> Latencies {
        let ask = |due: tokio::time::Instant, index: usize, connection: Option<Connection>| async move {
            let answer = async {
                let mut connection = match connection {
                    Some(connection) => connection,
                    None => Connection::open(target, protocol).await?,
                };
                connection.ask(target, corpus.query(protocol, index)).await.map(|()| connection)
            }
            .await;
            (due.elapsed(), answer)
        };
        let mut idle: Vec<Connection> = Vec::new();
        let mut latencies = Latencies::default();
        let mut done =
            |(took, answer): (Duration, Result<Connection, Failure>), idle: &mut Vec<Connection>| match answer {
                Ok(connection) => {
                    idle.push(connection);
                    latencies.add(took, Ok(()));
                }
                Err(error) => latencies.add(took, Err(format!("query: {error}"))),
            };
        let mut end = std::pin::pin!(end);
        let mut clock = tokio::time::interval(self.every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut running = FuturesUnordered::new();
        let mut skipped = 0;
        for index in 0..self.count {
            let due = loop {
                tokio::select! {
                    () = &mut end => break None,
                    Some(answered) = running.next() => done(answered, &mut idle),
                    due = clock.tick() => break Some(due),
                }
            };
            match due {
                Some(due) if running.len() < QUERIES_IN_FLIGHT => running.push(ask(due, index, idle.pop())),
                Some(_) => skipped += 1,
                None => break,
            }
        }
        while let Some(answered) = running.next().await {
            done(answered, &mut idle);
        }
        latencies.errors.extend((0..skipped).map(|_| format!("query: {QUERIES_IN_FLIGHT} others unanswered")));
        latencies
    }
}

/// What a process has used so far, from `/proc`; unknown on other systems.
#[derive(Clone, Copy)]
struct Usage {
    cpu_seconds: f64,
    resident_mib: f64,
}

impl Usage {
    fn of(pid: u32) -> Option<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The process's name stands in parentheses and may hold anything; utime and stime are the 12th and 13th behind it,
        // in the hundredths of a second that Linux shows to programs whatever its own clock.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = resident.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(Usage { cpu_seconds: ticks / 100.0, resident_mib: kib / 1024.0 })
    }
}

/// The process that listens on a port of this machine, if it is ours to see.
fn process_listening_on(port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local_port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        // 0A: listening.
        (local_port == port && *fields.get(3)? == "0A").then(|| format!("socket:[{}]", fields[9]))
    })?;
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let files = std::fs::read_dir(process.path().join("fd")).ok()?;
        let holds = |file: std::fs::DirEntry| {
            std::fs::read_link(file.path()).is_ok_and(|link| link.to_str() == Some(inode.as_str()))
        };
        files.flatten().any(holds).then_some(pid)
    })
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

/// A figure, or a dash where there is none.
fn figure(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "–".to_owned() }
}

/// Rounds of each measurement, by protocol, connections and index of the server.
type Cells = BTreeMap<(Protocol, u32, usize), Vec<Cell>>;

/// Rounds of queries at rest, by protocol and index of the server.
type Idle = BTreeMap<(Protocol, usize), Vec<Latencies>>;

fn letter(index: usize) -> char {
    (b'A'..=b'Z').nth(index).map_or('?', char::from)
}

fn print_passages(cells: &Cells, cores: usize) {
    println!("\nmedians of {} rounds; latencies in ms of a request", cells.values().map(Vec::len).max().unwrap_or(0));
    println!("client: its CPU in % of the machine's; step: rate in % of the best with fewer connections");
    println!(
        "{:<11}{:>6} {:>2} {:>9} {:>9} {:>9} {:>9} {:>7} {:>12} {:>8} {:>7} {:>6}",
        "protocol", "conns", "", "texts/s", "p50", "p95", "p99", "errors", "CPU ms/text", "RSS MiB", "client", "step"
    );
    let mut best: BTreeMap<(Protocol, usize), f64> = BTreeMap::new();
    for (&(protocol, connections, target), rounds) in cells {
        let of = |value: &dyn Fn(&Cell) -> f64| median(rounds.iter().map(value));
        let rate = of(&Cell::rate);
        let fewer = best.get(&(protocol, target)).copied();
        best.insert((protocol, target), fewer.unwrap_or(0.0).max(rate));
        println!(
            "{:<11}{connections:>6} {:>2} {:>9} {:>9} {:>9} {:>9} {:>7} {:>12} {:>8} {:>7} {:>6}",
            protocol.name(),
            letter(target),
            figure(rate, 1),
            figure(of(&|cell| cell.passages.percentile(50)), 2),
            figure(of(&|cell| cell.passages.percentile(95)), 2),
            figure(of(&|cell| cell.passages.percentile(99)), 2),
            rounds.iter().map(|cell| cell.passages.errors.len()).sum::<usize>(),
            figure(of(&|cell| cell.server_cpu.map_or(f64::NAN, |cpu| cpu * 1e3 / cell.texts as f64)), 2),
            figure(of(&|cell| cell.resident_mib.unwrap_or(f64::NAN)), 0),
            figure(of(&|cell| cell.client_cpu.map_or(f64::NAN, |cpu| 100.0 * cpu / cell.seconds / cores as f64)), 1),
            fewer.map_or_else(|| "–".to_owned(), |fewer| figure(100.0 * rate / fewer, 0)),
        );
    }
}

fn print_queries(cells: &Cells, idle: &Idle) {
    println!("\nqueries by the clock beside the passages, ms; bound: 3 × idle p95 + 10");
    println!(
        "{:<11}{:>6} {:>2} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "protocol", "conns", "", "idle p50", "idle p95", "p50", "p95", "bound", "", "errors"
    );
    for (&(protocol, connections, target), rounds) in cells {
        let idle: &[Latencies] = idle.get(&(protocol, target)).map_or(&[], Vec::as_slice);
        let idle = |percent| median(idle.iter().map(|latencies| latencies.percentile(percent)));
        let queries = || rounds.iter().filter_map(|cell| cell.queries.as_ref());
        let loaded = |percent| median(queries().map(|latencies| latencies.percentile(percent)));
        let bound = 3.0 * idle(95) + 10.0;
        println!(
            "{:<11}{connections:>6} {:>2} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
            protocol.name(),
            letter(target),
            figure(idle(50), 2),
            figure(idle(95), 2),
            figure(loaded(50), 2),
            figure(loaded(95), 2),
            figure(bound, 2),
            if loaded(95) <= bound { "within" } else { "over" },
            queries().map(|latencies| latencies.errors.len()).sum::<usize>(),
        );
    }
}

/// What went wrong, how often; the number of all failures.
fn print_errors(cells: &Cells, idle: &Idle) -> usize {
    let loaded = cells.iter().flat_map(|(&(protocol, _, target), rounds)| {
        let latencies = rounds.iter().flat_map(|cell| std::iter::once(&cell.passages).chain(&cell.queries));
        latencies.map(move |latencies| (protocol, target, latencies))
    });
    let idle = idle.iter().flat_map(|(&(protocol, target), rounds)| rounds.iter().map(move |l| (protocol, target, l)));
    let mut kinds: BTreeMap<(Protocol, char, &str), usize> = BTreeMap::new();
    for (protocol, target, latencies) in loaded.chain(idle) {
        for error in &latencies.errors {
            *kinds.entry((protocol, letter(target), error.as_str())).or_default() += 1;
        }
    }
    for ((protocol, target, error), count) in &kinds {
        println!("error: {} {target}: {count} × {error}", protocol.name());
    }
    kinds.values().sum()
}

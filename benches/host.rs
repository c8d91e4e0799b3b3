//! What the host's side of a card can do: texts through the whole backend (sentences, tokens, queue, batches, answers) around an
//! encoder that computes nothing, or as fast as a card that one names. It prints passages a second by number of cores (taskset gives
//! each measurement its own), and the CPU time of a passage, which other work on the machine moves less: how many cores a card
//! needs follows.
//!
//! ```text
//! cargo bench --bench host -- --model models/all-MiniLM-L6-v2
//! cargo bench --bench host -- --model … --card-tokens 3000000       # a card of so many tokens a second: what of it is used
//! cargo bench --bench host -- --model … --listen 127.0.0.1:8090     # the same behind HTTP and gRPC, for benches/load.rs
//! ```

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::StreamExt;
use serde::Deserialize;
use text2vec_engine::encoder::{Encoder, HiddenStates, TokenBatch};
use text2vec_engine::pooling::PoolingMode;
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{DEFAULT_WAITING_TOKENS, Inference, LocalBackend, LocalOptions};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::error::{Error, Result};
use text2vec_sidecar::server::{self, Readiness, ServerOptions};

/// Passages a second without an encoder.
#[derive(Debug, Parser)]
#[command(name = "host")]
struct Args {
    /// Directory of the model: its tokenizer is used, and its width
    #[arg(long)]
    model: Option<PathBuf>,
    /// JSON lines with a text each
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/corpus.jsonl"))]
    corpus: PathBuf,
    /// How many texts; the corpus again and again
    #[arg(long, default_value_t = 10_000)]
    texts: usize,
    /// Texts of a call
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// How many calls at once
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    calls: Vec<usize>,
    /// Numbers of cores; else 1, 2, 4, … up to what there are
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Rounds; figures are their medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Tokens of a card's batch
    #[arg(long, default_value_t = 16_384)]
    batch_tokens: usize,
    /// Tokens a second of the card that is played; 0: any number of them takes no time
    #[arg(long, default_value_t = 0)]
    card_tokens: u64,
    /// transformers, sentence-transformers or onnx
    #[arg(long, default_value = "sentence-transformers")]
    profile: Profile,
    /// Serve there instead
    #[arg(long)]
    listen: Option<std::net::SocketAddr>,
    /// One measurement, on the cores it was given
    #[arg(long, hide = true)]
    alone: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// Plays an encoder on a card.
struct Card {
    width: usize,
    tokens_per_second: u64,
    /// Nanoseconds in which it computed.
    busy: Arc<AtomicU64>,
}

impl Encoder for Card {
    fn forward(&mut self, batch: &TokenBatch) -> text2vec_kernel::Result<HiddenStates> {
        Ok(HiddenStates { values: vec![1.0; batch.tokens() * self.width], width: self.width })
    }

    fn pooled(&mut self, batch: &TokenBatch, modes: &[&[PoolingMode]]) -> text2vec_kernel::Result<Vec<Vec<f32>>> {
        let begun = Instant::now();
        if let Some(nanoseconds) = (batch.tokens() as u64 * 1_000_000_000).checked_div(self.tokens_per_second) {
            std::thread::sleep(Duration::from_nanos(nanoseconds));
        }
        let vectors = modes.iter().map(|modes| vec![1.0; modes.len() * self.width]).collect();
        self.busy.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        Ok(vectors)
    }

    fn warm_up(&mut self, _: usize) -> text2vec_kernel::Result<Option<usize>> {
        Ok(None)
    }

    fn hidden_size(&self) -> usize {
        self.width
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(model) = args.model.clone() else {
        // `cargo bench` without a name runs every benchmark; this one needs a model.
        eprintln!("host: nothing to do; give --model (cargo bench --bench host -- --help)");
        return ExitCode::SUCCESS;
    };
    let done = match args.alone || args.listen.is_some() {
        true => alone(&args, model),
        false => by_cores(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts this program again on 1, 2, 4, … cores: a table in Markdown.
fn by_cores(args: &Args) -> Result<()> {
    let most = text2vec_kernel::cores();
    let mut cores = args.cores.clone();
    if cores.is_empty() {
        cores = (0..).map(|doublings| 1 << doublings).take_while(|&count| count < most).chain([most]).collect();
    }
    let this = std::env::current_exe().map_err(|error| Error::internal(error.to_string()))?;
    let card = match args.card_tokens {
        0 => "an encoder that computes nothing".to_owned(),
        tokens => format!("a card of {tokens} tokens/s"),
    };
    println!("The host alone, before {card}: passages/s, and µs of CPU a passage; calls of {} texts\n", args.batch);
    let columns: Vec<String> = args.calls.iter().map(|calls| format!(" calls at once: {calls} |")).collect();
    println!("| cores |{}\n|---|{}", columns.concat(), "---|".repeat(columns.len()));
    for count in cores {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(format!("0-{}", count - 1)).arg(&this);
        command.args(std::env::args().skip(1).filter(|argument| argument != "--bench")).arg("--alone");
        let output = command.output();
        let figures = match output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            Ok(output) => format!("not measured: {}", String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => format!("not measured, as taskset cannot be started: {error}"),
        };
        println!("| {count} | {figures} |");
    }
    Ok(())
}

/// One row of the table, or a server.
fn alone(args: &Args, model: PathBuf) -> Result<()> {
    let unreadable = |error: &dyn std::fmt::Display| Error::config(format!("{}: {error}", args.corpus.display()));
    let corpus = std::fs::read_to_string(&args.corpus).map_err(|error| unreadable(&error))?;
    let lines: std::result::Result<Vec<Line>, _> = corpus.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|error| unreadable(&error))?;
    let texts: Vec<&str> = lines.iter().map(|line| &*line.text).cycle().take(args.texts).collect();
    let config = std::fs::read(model.join("config.json")).ok();
    let config: Option<serde_json::Value> = config.and_then(|text| serde_json::from_slice(&text).ok());
    let width = config.and_then(|config| config["hidden_size"].as_u64()).unwrap_or(384) as usize;
    let busy = Arc::new(AtomicU64::new(0));
    let card = Card { width, tokens_per_second: args.card_tokens, busy: busy.clone() };
    let inference = Arc::new(Inference::start_as_with_a_card(DEFAULT_WAITING_TOKENS)?);
    inference.widen(args.batch_tokens);
    let options = LocalOptions { profile: Some(args.profile), ..LocalOptions::new(model) };
    let backend = Arc::new(LocalBackend::load_around(&options, inference, vec![Box::new(card)])?);
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(text2vec_kernel::cores()).enable_all().build();
    let runtime = runtime.map_err(|error| Error::internal(error.to_string()))?;
    if let Some(address) = args.listen {
        let served = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(address).await?;
            let readiness = Readiness::default();
            readiness.ready(backend);
            println!("http://{}", listener.local_addr()?);
            server::run(listener, readiness, ServerOptions::default(), std::future::pending()).await
        });
        return served.map_err(|error| Error::internal(error.to_string()));
    }
    let mut cells = Vec::new();
    for &calls in &args.calls {
        let run = || runtime.block_on(run(&backend, &texts, args.batch as usize, calls));
        run()?;
        let mut rates = Vec::new();
        busy.store(0, Ordering::Relaxed);
        let cpu = cpu_seconds();
        let begun = Instant::now();
        for _ in 0..args.rounds {
            rates.push(texts.len() as f64 / run()?);
        }
        rates.sort_by(f64::total_cmp);
        let share = busy.load(Ordering::Relaxed) as f64 / 1e9 / begun.elapsed().as_secs_f64();
        let used = if args.card_tokens > 0 { format!(" ({:.0} % of the card)", share * 100.0) } else { String::new() };
        let passages = texts.len() as f64 * f64::from(args.rounds);
        let cpu =
            cpu.zip(cpu_seconds()).map(|(before, after)| format!(", {:.0} µs", (after - before) * 1e6 / passages));
        cells.push(format!("{:.0}{}{used}", rates[rates.len() / 2], cpu.unwrap_or_default()));
    }
    println!("{}", cells.join(" | "));
    Ok(())
}

/// Seconds for all texts.
async fn run(backend: &LocalBackend, texts: &[&str], batch: usize, calls: usize) -> Result<f64> {
    let begun = Instant::now();
    let mut answers = futures_util::stream::iter(texts.chunks(batch))
        .map(|texts| backend.embed(Call::passages(texts.iter().copied())))
        .buffered(calls.max(1));
    while let Some(made) = answers.next().await {
        for embedding in made? {
            embedding?;
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// CPU that this process has used, from `/proc`; unknown on other systems.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The process's name stands in parentheses; utime and stime are the 12th and 13th behind it, in hundredths of a second.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

//! Texts through the whole backend, on a GPU or the CPU: what benches/gpu/run.py sets beside sentence-transformers.
//!
//! Orders come line by line on standard input, answers go to standard output:
//!
//! ```text
//! run          embeds all texts, many calls at once      → seconds texts tokens
//! vector 3     embeds the text of that place             → its values
//! ```

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use futures_util::future::join_all;
use serde::Deserialize;
use text2vec_engine::device;
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{
    DEFAULT_WAITING_TOKENS, Device, Engine, Inference, LocalBackend, LocalOptions, Precision,
};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::error::{Error, Result};

/// Texts of a call, as an import's requests have them.
const TEXTS_OF_A_CALL: usize = 100;

/// Embeds texts on request; see benches/gpu/run.py.
#[derive(Debug, Parser)]
#[command(name = "gpu")]
struct Args {
    /// Directory of the model
    #[arg(long)]
    model: Option<PathBuf>,
    /// JSON lines with a text each
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/corpus.jsonl"))]
    corpus: PathBuf,
    /// How many texts; the corpus again and again
    #[arg(long, default_value_t = 20_000)]
    texts: usize,
    /// cpu, cuda, cuda:1 or cuda:0,1
    #[arg(long, default_value_t)]
    device: Device,
    /// auto, or candle-packed for what runs on GPUs, on the CPU
    #[arg(long, default_value = "auto")]
    engine: Engine,
    /// f32, f16 or bf16
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // What the engine has to say goes to standard error.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let Some(model) = args.model.clone() else {
        // `cargo bench` without a name runs every benchmark; this one is driven.
        eprintln!("gpu: nothing to do; benches/gpu/run.py starts it with --model");
        return ExitCode::SUCCESS;
    };
    match serve(&args, model) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers orders until there are no more.
fn serve(args: &Args, model: PathBuf) -> Result<()> {
    let unreadable = |error: &dyn std::fmt::Display| Error::config(format!("{}: {error}", args.corpus.display()));
    let corpus = std::fs::read_to_string(&args.corpus).map_err(|error| unreadable(&error))?;
    let lines: std::result::Result<Vec<Line>, _> = corpus.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|error| unreadable(&error))?;
    let texts: Vec<&str> = lines.iter().map(|line| &*line.text).cycle().take(args.texts).collect();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::internal(error.to_string()))?;
    let options = LocalOptions {
        profile: Some(Profile::SentenceTransformers),
        engine: args.engine,
        precision: args.precision,
        ..LocalOptions::new(model)
    };
    let cards = device::open(&args.device)?;
    let names: Vec<_> = cards.iter().map(|card| card.name.clone()).collect();
    let inference = match cards.is_empty() {
        true => Inference::start(None, DEFAULT_WAITING_TOKENS)?,
        false => Inference::start_on(cards, DEFAULT_WAITING_TOKENS)?,
    };
    let backend = LocalBackend::load_beside(&options, Arc::new(inference))?;
    let sidecar = &backend.meta().to_json()["sidecar"];
    answer(&format!(
        "ready {} on {} {} {}, batches of {} tokens",
        sidecar["engine"].as_str().unwrap_or_default(),
        backend.device(),
        names.join(" and "),
        args.precision,
        sidecar["batch_tokens"]
    ))?;
    for order in std::io::stdin().lock().lines() {
        let order = order.map_err(|error| Error::internal(error.to_string()))?;
        match order.split_once(' ') {
            None if order == "run" => {
                let (seconds, tokens) = runtime.block_on(run(&backend, &texts))?;
                answer(&format!("{seconds:.6} {} {tokens}", texts.len()))?;
            }
            Some(("vector", place)) => {
                let text = place.parse().ok().and_then(|place: usize| texts.get(place));
                let text = text.ok_or_else(|| Error::invalid(format!("there is no text {place}")))?;
                let made = runtime.block_on(backend.embed(Call::passage(*text)))?;
                let vector = made.into_iter().next().ok_or_else(|| Error::internal("no answer"))??.vector;
                answer(&vector.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))?;
            }
            _ => return Err(Error::invalid(format!("unknown order '{order}'"))),
        }
    }
    Ok(())
}

/// Seconds for all texts, tokenizing included, and their tokens.
async fn run(backend: &LocalBackend, texts: &[&str]) -> Result<(f64, u64)> {
    let begun = Instant::now();
    let call = |texts: &[&str]| backend.embed(Call::passages(texts.iter().copied()));
    let mut tokens = 0;
    for answers in join_all(texts.chunks(TEXTS_OF_A_CALL).map(call)).await {
        for made in answers? {
            tokens += u64::from(made?.tokens);
        }
    }
    Ok((begun.elapsed().as_secs_f64(), tokens))
}

fn answer(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Error::internal(error.to_string()))
}

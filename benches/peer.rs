//! Our engine as one of the peers that benches/peers/run.py compares: forward passes of a real model, timed on request.
//!
//! Orders come line by line on standard input, answers go to standard output; between them the process waits without
//! using the CPU. The peers in benches/peers/engines speak the same:
//!
//! ```text
//! ids 101 2023 102     the tokens of the passes to come                  → ok
//! time 50              so many passes, after a tenth to warm up          → their milliseconds
//! vector               the mean of the hidden states, to compare peers   → its values
//! ```

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use text2vec_engine::encoder::{Encoder, TokenBatch};
use text2vec_kernel::Precision;
use text2vec_sidecar::backend::local::{Engine, open_encoder};
use text2vec_sidecar::model::modules::ModelDescription;

/// Times forward passes on request; see benches/peers/run.py.
#[derive(Debug, Parser)]
#[command(name = "peer")]
struct Args {
    /// Directory of the model
    #[arg(long)]
    model: Option<PathBuf>,
    /// auto, amx, avx512, avx2, neon, portable or candle
    #[arg(long, default_value = "auto")]
    engine: Engine,
    /// f32, bf16x3, f16, bf16 or int8
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Threads of a forward pass [default: what the CPU set and the cgroup's quota allow]
    #[arg(long)]
    threads: Option<usize>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(model) = &args.model else {
        // `cargo bench` without a name runs every benchmark; this one is driven.
        eprintln!("peer: nothing to do; benches/peers/run.py starts it with --model");
        return ExitCode::SUCCESS;
    };
    let threads = args.threads.unwrap_or_else(text2vec_kernel::cores);
    let encoder = ModelDescription::read(model, model)
        .and_then(|description| open_encoder(&description, args.engine, args.precision, threads));
    let served = match encoder {
        Ok((mut encoder, engine)) => serve(encoder.as_mut(), &format!("{engine}, {threads} threads")),
        Err(error) => Err(error.to_string()),
    };
    served.map_or_else(
        |error| {
            eprintln!("peer: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// Answers orders until there are no more.
fn serve(encoder: &mut dyn Encoder, name: &str) -> Result<(), String> {
    let answer = |text: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| error.to_string())
    };
    answer(format!("ready {name}"))?;
    let mut batch = TokenBatch::new();
    for order in std::io::stdin().lock().lines() {
        let order = order.map_err(|error| error.to_string())?;
        let (verb, rest) = order.split_once(' ').unwrap_or((&order, ""));
        match verb {
            "ids" => {
                let ids: Result<Vec<u32>, _> = rest.split_whitespace().map(str::parse).collect();
                let ids = ids.map_err(|error| format!("{rest}: {error}"))?;
                batch = TokenBatch::new();
                batch.push(&ids, &vec![0; ids.len()]);
                answer("ok".to_owned())?;
            }
            "time" => {
                let count: usize = rest.parse().map_err(|error| format!("{rest}: {error}"))?;
                answer(join(&time(encoder, &batch, count)?))?;
            }
            "vector" => answer(join(&mean(encoder, &batch)?))?,
            _ => return Err(format!("unknown order '{order}'")),
        }
    }
    Ok(())
}

/// Milliseconds of `count` passes, after a tenth as many to warm up.
fn time(encoder: &mut dyn Encoder, batch: &TokenBatch, count: usize) -> Result<Vec<f64>, String> {
    let mut times = Vec::with_capacity(count);
    for pass in 0..count.div_ceil(10) + count {
        let start = Instant::now();
        std::hint::black_box(encoder.forward(batch).map_err(|error| error.to_string())?);
        if pass >= count.div_ceil(10) {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times)
}

fn mean(encoder: &mut dyn Encoder, batch: &TokenBatch) -> Result<Vec<f64>, String> {
    let states = encoder.forward(batch).map_err(|error| error.to_string())?;
    let mut mean = vec![0f64; states.width];
    for row in states.values.chunks_exact(states.width) {
        mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value) / batch.tokens() as f64);
    }
    Ok(mean)
}

fn join(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.6}")).collect::<Vec<_>>().join(" ")
}

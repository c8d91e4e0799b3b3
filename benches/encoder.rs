//! What the CPU engine reaches on this machine: products against the multiply-add peak, and whole encoders.
//!
//! `cargo bench --bench encoder [-- amx|avx512|avx2|neon|portable f32|bf16x3|f16|bf16|int8 products|encoders base]`. Random weights, medians (and minima) of wall-clock time;
//! run it on an idle machine.

use std::sync::Arc;
use std::time::Instant;

use text2vec_kernel::{
    Activation, Block, Dense, Error, Executor, InstructionSet, Kernels, Norm, Outer, PackedLinear, Precision, Shape,
    Style, Transformer, peak,
};

/// all-MiniLM-L6-v2.
const MINILM: Shape = bert(384, 12, 6);
/// bge-base and other BERT-base models.
const BASE: Shape = bert(768, 12, 12);

const fn bert(hidden: usize, heads: usize, layers: usize) -> Shape {
    let style = Style::BERT;
    let (intermediate, activation) = (4 * hidden, Activation::Gelu);
    Shape { hidden, heads, intermediate, layers, activation, epsilon: 1e-12, style }
}

const TOKENS: [usize; 4] = [8, 32, 128, 384];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = arguments.iter().find_map(|argument| argument.parse::<InstructionSet>().ok());
    let kernels = match named.map_or_else(|| Ok(Kernels::detect()), Kernels::with) {
        Ok(kernels) => kernels,
        Err(error) => return eprintln!("{error}"),
    };
    let mut precisions: Vec<Precision> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if precisions.is_empty() {
        precisions.extend(Precision::ALL);
    }
    let asks_for = |name: &str| arguments.iter().any(|argument| argument == name);
    println!("instruction set {}", kernels.instruction_set());
    if !asks_for("encoders") {
        precisions.iter().for_each(|&precision| products(kernels, precision));
    }
    if !asks_for("products") {
        encoders(kernels, &precisions, "MiniLM-L6", MINILM);
        if asks_for("base") {
            encoders(kernels, &precisions, "BERT-base", BASE);
        }
    }
}

/// Repeatable small values.
fn values(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 27) as f32 - 0.0625).collect()
}

fn dense(outputs: usize, inputs: usize) -> Dense {
    Dense { weight: values(outputs * inputs), bias: values(outputs) }
}

/// Seconds per call, median and minimum: calls for about `seconds`, after some to warm up.
fn time(seconds: f64, mut call: impl FnMut()) -> (f64, f64) {
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds / 5.0 {
        call();
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds || times.len() < 7 {
        let call_start = Instant::now();
        call();
        times.push(call_start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

fn products(kernels: Kernels, precision: Precision) {
    let peak = peak::measure(kernels, precision, 50) / 1e9;
    println!(
        "\n{precision}, one thread, weights hot: 10⁹ operations a second, median (best), share of the peak {peak:.1}"
    );
    print!("{:>6}", "rows");
    let shapes = [(1152, 384), (1536, 384), (384, 1536), (768, 3072)];
    shapes.iter().for_each(|(outputs, inputs)| print!("  {:>24}", format!("n={outputs} k={inputs}")));
    println!();
    let layers = shapes.map(|(outputs, inputs)| {
        let layer = PackedLinear::new(kernels, precision, &dense(outputs, inputs), inputs);
        (outputs, inputs, layer.expect("the layer is sound"))
    });
    for rows in [1, 4, 8, 16, 32, 128, 1024] {
        print!("{rows:>6}");
        for (outputs, inputs, layer) in &layers {
            let input = values(rows * inputs);
            let rounded = layer.round(&input);
            let mut out = vec![0f32; rows * outputs];
            let (median, best) = time(0.1, || layer.apply_rounded(&input, &rounded, None, &mut out));
            let rate = |seconds: f64| (2 * rows * outputs * inputs) as f64 / seconds / 1e9;
            let text = format!("{:.1} ({:.1}) {:.0} %", rate(median), rate(best), 100.0 * rate(median) / peak);
            print!("  {text:>24}");
        }
        println!();
    }
}

fn encoders(kernels: Kernels, precisions: &[Precision], name: &str, shape: Shape) {
    println!("\n{name}, ms median (minimum)");
    print!("{:>10} {:>8}", "precision", "threads");
    TOKENS.iter().for_each(|tokens| print!("  {:>18}", format!("1 × {tokens}")));
    println!("  {:>18}", "32 × 32");
    for &precision in precisions {
        encoder(kernels, precision, shape);
    }
}

fn encoder(kernels: Kernels, precision: Precision, shape: Shape) {
    let Shape { hidden, intermediate, .. } = shape;
    let norm = || Norm { gamma: vec![1.0; hidden], beta: values(hidden) };
    let tables = vec![values(30_000 * hidden), values(512 * hidden)];
    let outer = Outer { tables, embedding_norm: Some(norm()), ..Outer::default() };
    let model = Transformer::new(kernels, precision, shape, outer, |_| {
        Ok::<_, Error>(Block {
            query: dense(hidden, hidden),
            key: dense(hidden, hidden),
            value: dense(hidden, hidden),
            attention_output: dense(hidden, hidden),
            attention_norm: Some(norm()),
            up: dense(intermediate, hidden),
            down: dense(hidden, intermediate),
            output_norm: norm(),
            ..Block::default()
        })
    });
    let model = Arc::new(model.expect("the shape is sound"));
    let most = std::thread::available_parallelism().map_or(1, |count| count.get());
    for threads in (0..).map(|doublings| 1 << doublings).take_while(|&threads| threads <= most) {
        let mut executor = Executor::new(Arc::clone(&model), threads).expect("threads can be started");
        print!("{:>10} {threads:>8}", precision.name());
        for lengths in TOKENS.iter().map(|&tokens| vec![tokens]).chain([vec![32; 32]]) {
            let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
            let ids: Vec<u32> = (0..positions.len() as u32).map(|i| i.wrapping_mul(7919) % 30_000).collect();
            let (median, best) = time(0.7, || {
                std::hint::black_box(executor.forward(&[&ids, &positions], &lengths).expect("ids are in range"));
            });
            print!("  {:>18}", format!("{:.3} ({:.3})", median * 1e3, best * 1e3));
        }
        println!();
    }
}

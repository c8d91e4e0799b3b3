//! Milliseconds of one text through a quantised ONNX graph, already tokenized: `T2V_TEST_ONNX_DIR=… cargo bench --bench
//! onnx`. `THREADS` are 2 unless said otherwise. Each line: tokens, then the least, the median and the largest of the
//! measured times.

use std::path::Path;
use std::time::{Duration, Instant};

use text2vec_engine::encoder::{Encoder, TokenBatch};
use text2vec_engine::onnx::OnnxEncoder;
use text2vec_engine::onnx::{arithmetic, graph_file};
use text2vec_kernel::Kernels;

fn main() {
    let Some(dir) = std::env::var_os("T2V_TEST_ONNX_DIR") else {
        return println!("T2V_TEST_ONNX_DIR names no directory with model_quantized.onnx");
    };
    let threads = std::env::var("THREADS").ok().and_then(|threads| threads.parse().ok()).unwrap_or(2);
    let path = graph_file(Path::new(&dir)).expect("model_quantized.onnx");
    let mut encoder =
        OnnxEncoder::load(&path, (Kernels::detect(), arithmetic(Path::new(&dir)).expect("a marker")), threads)
            .expect("a graph that can be run");
    for tokens in [8usize, 32, 128, 384] {
        let mut batch = TokenBatch::new();
        let ids: Vec<u32> = (0..tokens as u32).map(|token| 1000 + token * 7919 % 20_000).collect();
        batch.push(&ids, &vec![0; tokens]);
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            let start = Instant::now();
            encoder.forward(&batch).expect("states");
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.drain(..times.len() / 5);
        times.sort_by(f64::total_cmp);
        println!("{tokens} {:.4} {:.4} {:.4}", times[0], times[times.len() / 2], times[times.len() - 1]);
    }
}

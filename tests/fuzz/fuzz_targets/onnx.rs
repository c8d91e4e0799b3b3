//! What a model file may hold: any bytes must be read, recognised or refused, without a panic and without much memory.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// The kernels' types that a graph is read into, as `src/backend/local/kernel` declares them.
mod backend {
    pub mod local {
        pub mod kernel {
            #[derive(Debug, Default)]
            pub struct Norm {
                pub gamma: Vec<f32>,
                pub beta: Vec<f32>,
            }

            pub mod quantized {
                use super::Norm;

                #[derive(Debug, Clone, Copy, Default)]
                pub enum ScoreScale {
                    #[default]
                    None,
                    Multiply(f32),
                    Divide(f32),
                }

                #[derive(Debug)]
                pub struct QuantizedDense {
                    pub codes: Vec<i8>,
                    pub scale: f32,
                    pub zero_point: i32,
                    pub bias: Vec<f32>,
                }

                #[derive(Debug)]
                pub struct QuantizedTable {
                    pub codes: Vec<i8>,
                    pub scale: f32,
                    pub zero_point: i32,
                }

                #[derive(Debug)]
                pub struct QuantizedBlock {
                    pub query: QuantizedDense,
                    pub key: QuantizedDense,
                    pub value: QuantizedDense,
                    pub query_scale: Option<f32>,
                    pub key_scale: Option<f32>,
                    pub score_scale: ScoreScale,
                    pub attention_output: QuantizedDense,
                    pub attention_norm: Norm,
                    pub up: QuantizedDense,
                    pub down: QuantizedDense,
                    pub output_norm: Norm,
                }
            }
        }
    }
}

#[path = "../../../src/backend/local/onnx/reader.rs"]
mod reader;
#[path = "../../../src/backend/local/onnx/recognise.rs"]
mod recognise;

fuzz_target!(|bytes: &[u8]| {
    let Ok(graph) = reader::read(bytes) else { return };
    let Ok(found) = recognise::recognise(&graph) else { return };
    let _ = found.embedding_norm.read(&graph);
    for table in &found.tables {
        let _ = table.read(&graph, found.hidden);
    }
    for layer in &found.layers {
        let _ = layer.read(&graph, found.hidden, found.intermediate);
    }
});

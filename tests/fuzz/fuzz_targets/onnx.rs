//! What a model file may hold: any bytes must be read, recognised or refused, without a panic and without much memory.

#![no_main]
#![allow(dead_code, unused_imports)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/engine/src/onnx/reader.rs"]
mod reader;
#[path = "../../../crates/engine/src/onnx/recognise/mod.rs"]
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

//! A backend of your own behind all surfaces: implement [`Backend`], put the cache around it, and serve.
//!
//! `cargo run --example custom_backend`, then
//! `curl -s localhost:8081/vectors -H 'Content-Type: application/json' -d '{"text":"The London Eye"}'`

use std::sync::Arc;

use futures_util::future::BoxFuture;
use text2vec_sidecar::backend::{Backend, Embedding, ModelInfo};
use text2vec_sidecar::cache::{CacheOptions, Cached};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::error::{Error, Result};
use text2vec_sidecar::server::{self, Readiness, ServerOptions};

const DIMENSIONS: usize = 64;

/// Counts words by their hash: two texts are near where they share words.
struct Words(ModelInfo);

impl Words {
    fn vector(text: &str) -> Result<Embedding> {
        let mut vector = [0.0; DIMENSIONS];
        let mut tokens = 0;
        for word in text.split_whitespace() {
            vector[place(&word.to_lowercase())] += 1.0;
            tokens += 1;
        }
        match tokens {
            // The error of this text alone: the call's others have their vectors.
            0 => Err(Error::invalid("the text has no word")),
            tokens => {
                Ok(Embedding { vector: vector.into(), tokens, truncated: false, ignored: Vec::new() }.normalized())
            }
        }
    }
}

/// FNV-1a: the same in every release, as vectors are kept for long.
fn place(word: &str) -> usize {
    let hash = word
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash % DIMENSIONS as u64) as usize
}

impl Backend for Words {
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        // Quick enough to be done at once. What takes longer belongs on a thread of its own.
        Box::pin(async move { Ok(call.texts.iter().map(|text| Words::vector(text)).collect()) })
    }

    fn info(&self) -> &ModelInfo {
        &self.0
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // Another fingerprint means other vectors: the cache never mixes two.
    let info = ModelInfo {
        name: "words".into(),
        fingerprint: "words-1".into(),
        dimensions: Some(DIMENSIONS),
        ..ModelInfo::default()
    };
    let backend: Arc<dyn Backend> = Arc::new(Words(info));
    let readiness = Readiness::default();
    match Cached::around(backend.clone(), CacheOptions::default()) {
        Some(cached) => readiness.ready(cached),
        None => readiness.ready(backend),
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
    println!("serving on {}", listener.local_addr()?);
    let stop = async {
        // An error means that the signal cannot be heard: then the process is ended otherwise.
        let _ = tokio::signal::ctrl_c().await;
    };
    server::run(listener, readiness, ServerOptions::default(), stop).await
}

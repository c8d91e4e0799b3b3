//! Vectors in a program of your own, without a server: the backend that computes here, embedded.
//!
//! `make model && cargo run --release --example embed_in_process -- models/all-MiniLM-L6-v2 "The London Eye" "a text"`

use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::error::{Error, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or_else(|| Error::invalid("give a model's directory, then texts"))?;
    // Reads and hashes the weights, which blocks; a server would do it on a thread for blocking work.
    let backend = LocalBackend::load(&LocalOptions::new(dir))?;
    let (profile, chosen_by) = backend.profile();
    println!("{}: profile {profile}, chosen by {chosen_by}", backend.info().name);

    // All texts in one call: they share forward passes, and no text's vector depends on its neighbours.
    let texts: Vec<String> = arguments.collect();
    for (text, result) in texts.iter().zip(backend.embed(Call::passages(&texts)).await?) {
        match result {
            Ok(embedding) => {
                let beginning: Vec<f32> = embedding.vector.iter().copied().take(4).collect();
                println!("{beginning:?}… {} tokens: {text}", embedding.tokens);
            }
            // Of this text alone; the others have their vectors.
            Err(error) => println!("{text}: {error}"),
        }
    }
    Ok(())
}

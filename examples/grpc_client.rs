//! A client of the gRPC interface: one request of several texts, then a stream whose answers come as they are ready.
//!
//! `make run`, and in another terminal `cargo run --example grpc_client -- http://localhost:8080`

use text2vec_sidecar::proto::vectorize_result::Result as Outcome;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::proto::{Task, VectorizeOptions, VectorizeRequest, VectorizeResult, VectorizeStreamRequest};
use tonic::Request;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://localhost:8080".to_owned());
    let mut client = VectorizerClient::connect(url).await?;

    let options = VectorizeOptions { task: Task::Query as i32, ..VectorizeOptions::default() };
    let texts = vec!["wheels to look from".to_owned(), "a second text".to_owned()];
    let mut request = Request::new(VectorizeRequest { texts, options: Some(options) });
    // The server stops working on what nobody waits for any more.
    request.set_timeout(std::time::Duration::from_secs(10));
    let answer = client.vectorize(request).await?.into_inner();
    println!("{} ({})", answer.model, answer.fingerprint);
    answer.results.into_iter().for_each(|result| show("query", Some(result)));

    // For imports: texts flow as fast as the server takes them, and each answer has its text's id.
    let texts = (0..1000).map(|number| VectorizeStreamRequest {
        id: number.to_string(),
        text: format!("passage number {number}"),
        options: None,
    });
    let mut answers = client.vectorize_stream(tokio_stream::iter(texts)).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        if answer.id.ends_with("99") {
            show(&answer.id, answer.result);
        }
    }
    Ok(())
}

fn show(id: &str, result: Option<VectorizeResult>) {
    match result.and_then(|result| result.result) {
        Some(Outcome::Vector(vector)) => println!("{id}: {} dimensions", vector.values.len()),
        Some(Outcome::Error(error)) => println!("{id}: {} (reason: {})", error.message, error.reason),
        None => println!("{id}: no answer"),
    }
}

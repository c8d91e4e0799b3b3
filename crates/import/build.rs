//! Compiles what is spoken: the sidecar's interface, and the part of Weaviate's that inserts objects.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let files = ["text2vec/v1/text2vec.proto", "weaviate/v1/batch.proto"];
    let descriptors = protox::compile(files, ["../../proto"])?;
    tonic_prost_build::configure().build_client(true).build_server(false).compile_fds(descriptors)?;
    Ok(())
}

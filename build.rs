//! Compiles the gRPC interface. `protox` is a protobuf compiler in Rust, so nobody needs protoc.

use std::path::PathBuf;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["text2vec/v1/text2vec.proto"], ["proto"])?;
    // Reflection serves these descriptors, so that clients need no proto file.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("text2vec_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(descriptors)?;
    Ok(())
}

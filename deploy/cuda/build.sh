#!/bin/sh
# Compiles the program for GPUs: `build.sh FILE` puts it there. With the toolkit that toolkit.py finds or gets.
set -eu
. deploy/cuda/env.sh
cargo build --release --locked --features cuda
cp "${CARGO_TARGET_DIR:-target}/release/text2vec-sidecar" "${1:?}"

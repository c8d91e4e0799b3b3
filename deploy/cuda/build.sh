#!/bin/sh
# Compiles the program for GPUs: `build.sh FILE` puts it there. With the toolkit that toolkit.py finds or gets.
set -eu
CUDA_HOME=$(python3 deploy/cuda/toolkit.py)
export CUDA_HOME CUDA_PATH="$CUDA_HOME" CUDA_ROOT="$CUDA_HOME" CUDA_TOOLKIT_ROOT_DIR="$CUDA_HOME" PATH="$CUDA_HOME/bin:$PATH"
# The oldest cards that are to run it: 80 is Ampere (A100; A10 and L4 are newer). Newer ones run it too.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
cargo build --release --locked --features cuda
cp "${CARGO_TARGET_DIR:-target}/release/text2vec-sidecar" "${1:?}"

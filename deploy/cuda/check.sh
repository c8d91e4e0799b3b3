#!/usr/bin/env bash
# Compiles for GPUs and runs the tests of that build: `make cuda-check`. Needs a C++ compiler (g++), but neither a GPU nor a
# CUDA toolkit: without a GPU the tests hold the refusals against this machine, and a card that is the CPU computes; with one they
# compare its vectors with the CPU's. In a target folder of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
started=$SECONDS
. deploy/cuda/env.sh
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/cuda
# Nothing is computed on a CPU here to speak of: compiling quickly counts.
cheap=(--locked --features cuda --config 'profile.dev.opt-level=0' --config 'profile.dev.package."*".opt-level=0')
# What Cargo.toml optimises by name, and takes long.
cheap+=(--config profile.dev.package.text2vec-kernel.opt-level=0 --config profile.dev.package.tokenizers.opt-level=0)
# Nothing optimised, some functions have more on their stack than the 2 MiB of a thread.
export RUST_MIN_STACK=33554432
cargo build "${cheap[@]}"
binary=$CARGO_TARGET_DIR/debug/text2vec-sidecar

# It must start where there is no driver. (The names of needed libraries stand in the dynamic section; ldd needs no binutils.)
if ldd "$binary" | grep -E 'lib(cuda|cublas|cublasLt|curand|nvrtc|cudart)\.so'; then
  echo "the binary links CUDA's libraries: add what is missing to crates/engine/src/device/late/functions.txt" >&2
  exit 1
fi
"$binary" --version

# Which registers the kernels take; ends here where they do not suffice.
bash deploy/cuda/registers.sh
# By name, as text2vec-gpu's own tests find no library of CUDA to be linked with.
cargo test "${cheap[@]}" -p text2vec-sidecar -p text2vec-engine --lib -- device config
cargo test "${cheap[@]}" --test process -- config device readme
cargo test "${cheap[@]}" --test server telemetry
compared=$CARGO_TARGET_DIR/compared.log
cargo test "${cheap[@]}" --test cuda -- --nocapture | tee "$compared"

# A card that is the CPU takes the place of CUDA's libraries, for the linker too.
card=$CARGO_TARGET_DIR/card
sh tests/fixtures/cuda/card/build.sh "$card"
on_card=(env LIBRARY_PATH="$card" cargo test "${cheap[@]}" -p text2vec-gpu --features emulated --test stand_in)
LD_LIBRARY_PATH=$card "${on_card[@]}"
FAKE_CARD_NO_POOLS=1 LD_LIBRARY_PATH=$card "${on_card[@]}"
if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then "${on_card[@]}"; fi
LD_LIBRARY_PATH=$card cargo test "${cheap[@]}" -p text2vec-sidecar -p text2vec-engine --lib -- --nocapture on_a_card |
  tee "$CARGO_TARGET_DIR/engine.log"
if grep '^NO GPU HERE' "$CARGO_TARGET_DIR/engine.log"; then exit 1; fi
grep -E '^(COMPARED ON A CARD|NO GPU HERE)' "$compared"
echo "cuda-check: $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"

#!/usr/bin/env bash
# For a machine with a GPU, and without Rust or a network: `bundle.sh DIR` puts there programs.tar.xz (the binary, the tests of a
# card, the benchmarks), model/ and run.sh, which runs all that needs a card (on-a-card.sh says what). Take DIR and the
# repository to that machine, and in the repository run `bash DIR/run.sh`.
#
# What is large comes along only if asked for: WEIGHTS=1 the model's own weights, in pieces of at most 45 MB, weights-*, which may
# be taken there one by one (else its sizes with random ones are measured), LIBRARIES=1 cuBLAS and cuRAND (730 MB; else they must be there, as with torch), SANITIZER=1 compute-sanitizer (14 MB).
set -euo pipefail
mkdir -p "${1:?}"
bundle=$(realpath "$1")
cd "$(dirname "$0")/../.."
model=${MODEL_DIR:-models/all-MiniLM-L6-v2}
# shellcheck source=deploy/cuda/env.sh
. deploy/cuda/env.sh
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/cuda
programs=$(mktemp -d)
card=$(mktemp -d)
trap 'rm -rf "$programs" "$card"' EXIT

# As `target name, as`: copies what a command of cargo has built.
put() {
  local name=$1 as=$2
  shift 2
  local built
  built=$("$@" --locked --features cuda --message-format json | python3 -c 'import json, sys
built = [message for message in map(json.loads, sys.stdin) if message.get("executable")]
print("\n".join(message["executable"] for message in built if sys.argv[1] in ("", message["target"]["name"])))' "$name")
  [ -n "$built" ] || { echo "nothing was built by: $*" >&2; return 1; }
  local number=0 file
  while read -r file; do
    number=$((number + 1))
    local to=$programs/$as
    [ "$number" = 1 ] || to+=-$number
    strip -o "$to" "$file"
  done <<<"$built"
}
put text2vec-sidecar text2vec-sidecar cargo build --release
for name in gpu load host encoder; do put "$name" "$name" cargo bench --no-run --bench "$name"; done
put cuda test-cuda cargo test --release --no-run --test cuda
put text2vec_engine test-engine cargo test --release --no-run -p text2vec-engine --lib
if [ -f crates/gpu/Cargo.toml ]; then
  # This crate by itself is linked with CUDA's libraries. What stands in for them here has their names.
  sh tests/fixtures/cuda/card/build.sh "$card"
  export LIBRARY_PATH=$card
  put "" test-gpu cargo test --release --no-run -p text2vec-gpu --features emulated
fi

rm -rf "$bundle/model" "$bundle/libraries" "$bundle/sanitizer" "$bundle"/weights-*
mkdir "$bundle/model"
tar -c -C "$model" --exclude='*.safetensors' --exclude='*.onnx' . | tar -x -C "$bundle/model"
if [ -n "${WEIGHTS:-}" ]; then split -b 45MB "$model/model.safetensors" "$bundle/weights-"; fi
if [ -n "${LIBRARIES:-}" ]; then python3 deploy/cuda/toolkit.py --libraries "$bundle/libraries"; fi
if [ -n "${SANITIZER:-}" ]; then python3 deploy/cuda/toolkit.py --sanitizer "$bundle/sanitizer"; fi
# One stream with a large window: much of them is the same.
tar -c -C "$programs" . | xz -T1 --lzma2=preset=6,dict=256MiB >"$bundle/programs.tar.xz"
cp deploy/cuda/on-a-card.sh "$bundle/run.sh"
du -sh "$bundle"/*

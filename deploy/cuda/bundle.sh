#!/usr/bin/env bash
# For a machine with a GPU but without Rust: `bundle.sh DIR` puts there the binary, the tests of a card, the benchmark and a
# script that runs all of them. Take DIR and the repository to that machine, and in the repository run `bash DIR/run.sh`.
set -euo pipefail
mkdir -p "${1:?}"
bundle=$(realpath "$1")
cd "$(dirname "$0")/../.."
. deploy/cuda/env.sh
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/cuda

executable() { # name, command that builds it
  local name=$1
  shift
  "$@" --locked --features cuda --message-format json |
    python3 -c 'import json, sys
built = [message for message in map(json.loads, sys.stdin) if message.get("executable")]
print(next(message["executable"] for message in built if message["target"]["name"] == sys.argv[1]))' "$name"
}
cp "$(executable text2vec-sidecar cargo build --release)" "$bundle/text2vec-sidecar"
cp "$(executable gpu cargo bench --no-run --bench gpu)" "$bundle/gpu"
cp "$(executable cuda cargo test --release --no-run --test cuda)" "$bundle/cuda"
strip "$bundle/text2vec-sidecar" "$bundle/gpu" "$bundle/cuda"

cat >"$bundle/run.sh" <<'RUN'
#!/usr/bin/env bash
# In the repository, with a Python that has torch and sentence-transformers (PYTHON, else python3): the tests of a card, then the
# benchmark, with this script's arguments.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd) python=${PYTHON:-python3}
# Torch brings the libraries of CUDA that the binary loads.
brought=$("$python" -c 'import nvidia, pathlib
print(":".join(str(lib) for base in nvidia.__path__ for lib in pathlib.Path(base).glob("*/lib")))')
export LD_LIBRARY_PATH=$brought${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
T2V_BIN=$here/text2vec-sidecar CARGO_MANIFEST_DIR=$PWD "$here/cuda" --nocapture --test-threads 1
tests=$?
T2V_GPU_BENCH=$here/gpu "$python" benches/gpu/run.py "$@" && exit $tests
RUN
du -h "$bundle"/*

#!/usr/bin/env bash
# Builds the image of deploy/cuda/Dockerfile with buildah and runs it where there is no GPU, as a cluster would: user 65532, root
# filesystem read-only. `image-check.sh BINARY LIBRARIES MODEL_DIR`, with what deploy/cuda/build.sh and
# `toolkit.py --libraries` made. What it proves:
# - the image has the binary, the libraries it loads, the user and the variables that it should; what it weighs is told;
# - where there is no driver it refuses with the reason, and with T2V_DEVICE=cpu it answers with the reference's vector;
# - its health check's command agrees, and SIGTERM ends it with 0.
# Needs root on Debian, buildah and debootstrap. A base made here stands in for Debian's own image.
set -euo pipefail
binary=$(realpath "$1") libraries=$(realpath "$2") model=$(realpath "$3")
cd "$(dirname "$0")/../.."
work=$PWD/target/image run=$(mktemp -d) image=localhost/sidecar:cuda PORT=${PORT:-18082}
mkdir -p "$work"
. deploy/image/running.sh
make_base || fail "the base cannot be made: see target/image/debootstrap.log"

make_context
prebuilt=$context/deploy/image/prebuilt/amd64-cuda
mkdir -p "$prebuilt"
cp -r deploy/cuda "$context/deploy/"
cp "$binary" "$prebuilt/text2vec-sidecar"
cp -r "$libraries" "$prebuilt/libraries"
build --build-arg RUNTIME=localhost/builder --target bare -f "$context/deploy/cuda/Dockerfile" -t $image
rm -rf "$context"

open_image $image
size() { echo "$(($(du -sb --apparent-size "$1" | cut -f1) / 1000000)) MB"; }
echo "$image: $(size "$root") of files; the libraries of CUDA $(size "$root/usr/local/cuda/lib64"), the binary" \
  "$(size "$root/text2vec-sidecar"), the base $(size "$work/base")"

MODEL=$model
# Every library is found and can be loaded.
(inside -- sh -c 'ls /usr/local/cuda/lib64 | while read -r name; do ldd "/usr/local/cuda/lib64/$name"; done') >"$run/ldd.log" ||
  fail "the libraries of CUDA cannot be loaded"
if grep 'not found' "$run/ldd.log"; then fail "the libraries of CUDA need what the image has not"; fi

code=0
(inside -- /text2vec-sidecar) >"$run/refusal.log" 2>&1 || code=$?
if [ -e /dev/nvidiactl ]; then
  echo "there is a GPU here: the refusal without one is not shown"
else
  [ "$code" = 1 ] && grep -q 'a GPU is asked for .* there is no NVIDIA driver: libcuda.so.1' "$run/refusal.log" ||
    { cat "$run/refusal.log" >&2; fail "ended with $code without a driver"; }
  sed 's/^/without a driver: /' "$run/refusal.log"
fi

serve_and_stop T2V_DEVICE=cpu
echo "with T2V_DEVICE=cpu: first answer $milliseconds ms after the start"
buildah rm "$container" >/dev/null
echo "the image for GPUs runs as user 65532 with a read-only root"

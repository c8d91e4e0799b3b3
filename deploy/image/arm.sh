#!/usr/bin/env bash
# The image without a model for amd64 and for arm64, of binaries that are there (`make cross` builds the second), and both in one
# manifest list. `arm.sh AMD64_BINARY ARM64_BINARY MODEL_DIR`. What it proves:
# - each is at most 45 MB (10 more for builds for tests, with STRIP=1), and the list names both;
# - the one for arm64 serves under an emulator as user 65532 with a root filesystem that is read-only: the reference's vector,
#   HEALTHCHECK's command, SIGTERM. The time to its first answer is told; an emulator's says nothing about a CPU.
# Needs root on Debian for amd64, buildah, debootstrap and qemu-user-static.
set -euo pipefail
amd64=$(realpath "$1") arm64=$(realpath "$2") model=$(realpath "$3")
cd "$(dirname "$0")/../.."
work=$PWD/target/image
mkdir -p "$work"
PORT=${PORT:-18082} MAX_BYTES=45000000
if [ -n "${STRIP:-}" ]; then
  MAX_BYTES=55000000
fi

run=$(mktemp -d)
. deploy/image/running.sh
for tool in buildah debootstrap qemu-aarch64-static; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install buildah debootstrap qemu-user-static"
done
[ "$(id -u)" = 0 ] || fail "chroot, mounts and other users need root"
make_base || fail "the base cannot be made: see target/image/debootstrap.log"
# Where the libraries for the other CPU are, as beside a cross compiler.
make_base -arm64 libc6-arm64-cross,libgcc-s1-arm64-cross || fail "the base cannot be made: see target/image/debootstrap.log"

make_context
cp deploy/Dockerfile "$context/deploy/"
for arch in amd64 arm64; do
  mkdir -p "$context/deploy/image/prebuilt/$arch"
  cp "${!arch}" "$context/deploy/image/prebuilt/$arch/text2vec-sidecar"
done
if [ -n "${STRIP:-}" ]; then
  strip "$context/deploy/image/prebuilt/amd64/text2vec-sidecar"
  aarch64-linux-gnu-strip "$context/deploy/image/prebuilt/arm64/text2vec-sidecar"
fi

list=localhost/sidecar:list
buildah manifest rm $list >/dev/null 2>&1 || true
buildah manifest create $list >/dev/null
for arch in amd64 arm64; do
  builder=localhost/builder
  [ $arch = amd64 ] || builder=localhost/builder-arm64
  build -f "$context/deploy/Dockerfile" --platform linux/$arch --build-arg BUILDPLATFORM=linux/amd64 \
    --build-arg BUILDARCH=amd64 --build-arg BUILDER=$builder --target bare -t localhost/sidecar:$arch
  buildah manifest add $list localhost/sidecar:$arch >/dev/null
  container=$(buildah from --pull-never --platform linux/$arch localhost/sidecar:$arch)
  files=$(du -sb --apparent-size "$(buildah mount "$container")" | cut -f1)
  buildah rm "$container" >/dev/null
  rm -rf "$run/pushed"
  buildah push -q localhost/sidecar:$arch "dir:$run/pushed" >/dev/null
  echo "$arch: $((files / 1000)) kB of files, $(($(du -sb "$run/pushed" | cut -f1) / 1000)) kB as a registry sends it"
  [ "$files" -le $MAX_BYTES ] || fail "the image for $arch is over $((MAX_BYTES / 1000)) kB"
done
platforms=$(buildah manifest inspect $list |
  python3 -c 'import json, sys; print(*sorted(m["platform"]["os"] + "/" + m["platform"]["architecture"] for m in json.load(sys.stdin)["manifests"]))')
[ "$platforms" = "linux/amd64 linux/arm64" ] || fail "the manifest list has: $platforms"
echo "one manifest list: $platforms"

MODEL=$model EMULATOR=$(command -v qemu-aarch64-static)
open_image localhost/sidecar:arm64 --platform linux/arm64
serve_and_stop
echo "arm64, emulated: first answer $milliseconds ms after the start, as user 65532 with a read-only root"
grep -o 'engine="neon"' "$run/server.log" || fail "not on the kernels for ARM"
buildah rm "$container" >/dev/null

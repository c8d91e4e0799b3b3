#!/usr/bin/env bash
# The images of a release as OCI archives in target/dist, each for amd64 and arm64 in one: without a model, and with MODEL_DIR.
# `images.sh MODEL_DIR`, or `make dist-images`, after `make dist`, whose binaries they hold.
# With PUSH=<registry>/<name> they go there too, as <version> and <version>-<model>: with HEALTHCHECK, which OCI has no place
# for. `skopeo copy --all oci-archive:FILE docker://<registry>/<name>:<tag>` sends an archive.
# Needs root on Debian or Ubuntu, buildah and debootstrap.
set -euo pipefail
model=$(realpath "${1:?a directory with a model}")
cd "$(dirname "$0")/../.."
. deploy/dist/names.sh
work=$PWD/target/image
mkdir -p "$work"
run=$(mktemp -d)
. deploy/image/running.sh
for tool in buildah debootstrap; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install buildah debootstrap"
done
[ "$(id -u)" = 0 ] || fail "chroot and mounts need root"
make_base || fail "the base cannot be made: see target/image/debootstrap.log"
make_base -arm64 libc6-arm64-cross,libgcc-s1-arm64-cross || fail "the base cannot be made: see target/image/debootstrap.log"

make_context
cp deploy/Dockerfile "$context/deploy/"
for cpu in x86_64 aarch64; do
  archive=$dist/$name-$version-$cpu-unknown-linux-gnu.tar.gz
  [ -f "$archive" ] || fail "$archive is missing: make dist"
  folder=$context/deploy/image/prebuilt/$(debian_cpu "$cpu")
  mkdir -p "$folder"
  tar -xzf "$archive" -C "$folder" --strip-components=1 "$name-$version-$cpu-unknown-linux-gnu/$name"
done

# The same files as the Dockerfile's stage `baked`, without running the program of another CPU.
bake() { # image, new image
  local container
  container=$(buildah from --pull-never --platform "linux/$arch" "$1")
  buildah add -q --chown 0:0 "$container" "$run/model" /app/models/model >/dev/null
  buildah config --env HF_HUB_OFFLINE=1 "$container"
  buildah commit -q --rm --format docker --timestamp "$when" "$container" "$2" >/dev/null
}
cp -rL "$model" "$run/model"
chmod -R a+rX "$run/model"
when=$(git log -1 --format=%ct 2>/dev/null || date +%s)

for kind in bare baked; do
  buildah manifest rm "localhost/dist:$kind" >/dev/null 2>&1 || true
  buildah manifest create "localhost/dist:$kind" >/dev/null
done
for arch in amd64 arm64; do
  builder=localhost/builder
  [ $arch = amd64 ] || builder=localhost/builder-arm64
  build -f "$context/deploy/Dockerfile" --platform linux/$arch --build-arg BUILDPLATFORM=linux/amd64 --timestamp "$when" \
    --build-arg BUILDARCH=amd64 --build-arg BUILDER=$builder --target bare -t localhost/dist-bare:$arch
  bake localhost/dist-bare:$arch localhost/dist-baked:$arch
  for kind in bare baked; do buildah manifest add "localhost/dist:$kind" "localhost/dist-$kind:$arch" >/dev/null; done
done
put() { # kind, end of names
  local file=$dist/$name-$version-image$2.oci.tar
  rm -f "$file"
  buildah manifest push -q --all --format oci "localhost/dist:$1" "oci-archive:$file:$version" >/dev/null
  if [ -n "${PUSH:-}" ]; then
    buildah manifest push -q --all --format v2s2 "localhost/dist:$1" "docker://$PUSH:$version$2"
  fi
  echo "$(basename "$file"): $(stat -c %s "$file") bytes, linux/amd64 and linux/arm64"
}
put bare ''
put baked "-$(basename "$model")"
write_sums

# The images as a cluster would run them, that without a model with one mounted; those for the other CPU under an emulator where
# there is one.
PORT=${PORT:-18086} EMULATOR=''
for arch in amd64 arm64; do
  if [ $arch = arm64 ]; then EMULATOR=$(command -v qemu-aarch64-static) || break; fi
  for kind in bare baked; do
    MODEL=''
    [ $kind = baked ] || MODEL=$run/model
    open_image localhost/dist-$kind:$arch --platform linux/$arch
    serve_and_stop
    echo "$kind, $arch: $milliseconds ms from the start to the first answer${EMULATOR:+ (emulated)}, as user 65532 with a read-only root"
    buildah rm "$container" >/dev/null
  done
done

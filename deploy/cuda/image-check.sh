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
buildah() { command buildah --root "$work/store" --runroot "$run/buildah" "$@"; }
fail() { echo "error: $*" >&2; exit 1; }
server=''
clean_up() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
  buildah umount --all >/dev/null 2>&1 || true
  rm -rf "$run"
}
trap clean_up EXIT

release=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
if [ ! -f "$work/base.complete" ]; then
  rm -rf "$work/base"
  debootstrap --variant=minbase --include=ca-certificates "$release" "$work/base" >"$work/debootstrap.log" 2>&1
  touch "$work/base.complete"
fi
if ! buildah inspect --type image localhost/builder >/dev/null 2>&1; then
  container=$(buildah from scratch)
  buildah add -q "$container" "$work/base" / >/dev/null
  buildah commit -q --rm "$container" localhost/builder >/dev/null
fi

context=$run/context prebuilt=$run/context/deploy/image/prebuilt/amd64-cuda
mkdir -p "$prebuilt"
cp -r Cargo.toml Cargo.lock build.rs LICENSE NOTICE proto benches src .dockerignore "$context/"
cp -r deploy/cuda "$context/deploy/"
cp deploy/image/*.sh "$context/deploy/image/"
cp "$binary" "$prebuilt/text2vec-sidecar"
cp -r "$libraries" "$prebuilt/libraries"
buildah bud -q --isolation chroot --network host --pull-never --format docker --build-arg BUILDER=localhost/builder \
  --build-arg RUNTIME=localhost/builder --target bare -f "$context/deploy/cuda/Dockerfile" -t $image "$context" \
  >"$run/build.log" 2>&1 || { cat "$run/build.log" >&2; exit 1; }
rm -rf "$context"

container=$(buildah from --pull-never $image)
root=$(buildah mount "$container")
config() { buildah inspect --format "{{.Docker.Config.$1}}" "$container"; }
[ "$(config User)" = 65532:65532 ] || fail "the image runs as $(config User)"
[ "$(config Healthcheck.Test)" = "[CMD /text2vec-sidecar healthcheck]" ] || fail "HEALTHCHECK is $(config Healthcheck.Test)"
[ "$(config Entrypoint)" = "[/text2vec-sidecar]" ] || fail "ENTRYPOINT is $(config Entrypoint)"
variables=$(config Env | tr -d '[]')
size() { echo "$(($(du -sb --apparent-size "$1" | cut -f1) / 1000000)) MB"; }
echo "$image: $(size "$root") of files; the libraries of CUDA $(size "$root/usr/local/cuda/lib64"), the binary" \
  "$(size "$root/text2vec-sidecar"), the base $(size "$work/base")"

# As a container engine would, with a model mounted: /proc and /dev, nothing writable.
cat >"$run/enter.sh" <<'ENTER'
root=$1
shift
mount --make-rprivate /
mkdir -p "$MOUNT"
mount --bind "$root" "$MOUNT"
mount -t tmpfs -o size=64k,mode=755 tmpfs "$MOUNT/app/models"
mkdir -p "$MOUNT/app/models/model"
mount --bind "$MODEL" "$MOUNT/app/models/model"
mount -o remount,bind,ro "$MOUNT/app/models"
mount -o remount,bind,ro "$MOUNT"
mount -t proc -o ro proc "$MOUNT/proc"
mount -t tmpfs -o size=64k tmpfs "$MOUNT/dev"
for device in null zero urandom; do touch "$MOUNT/dev/$device"; mount --bind "/dev/$device" "$MOUNT/dev/$device"; done
mount -o remount,bind,ro "$MOUNT/dev"
exec chroot --userspec=65532:65532 --groups= "$MOUNT" "$@"
ENTER
inside() { # variables --, command
  local more=()
  while [ "$1" != -- ]; do more+=("$1"); shift; done
  shift
  # shellcheck disable=SC2086
  exec unshare --mount env -i PATH="$PATH" MOUNT="$run/root" MODEL="$model" $variables T2V_LISTEN="127.0.0.1:$PORT" \
    "${more[@]}" bash "$run/enter.sh" "$root" "$@"
}
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

started=$(date +%s%N)
(inside T2V_DEVICE=cpu -- /text2vec-sidecar) 2>"$run/server.log" &
server=$!
answer=''
for _ in $(seq 600); do
  if answer=$(curl -sf --max-time 5 -H 'Content-Type: application/json' -d '{"text":"The London Eye"}' \
    "http://127.0.0.1:$PORT/vectors"); then
    break
  fi
  kill -0 "$server" 2>/dev/null || { cat "$run/server.log" >&2; exit 1; }
  sleep 0.05
done
echo "with T2V_DEVICE=cpu: first answer $((($(date +%s%N) - started) / 1000000)) ms after the start"
python3 - "$answer" <<'PY'
import json, math, sys
vector = json.loads(sys.argv[1])["vector"]
# The reference container's first values for this text and model.
wanted = [0.41677576, -0.10556714, 0.122406945]
assert len(vector) == 384, len(vector)
assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(vector, wanted)), vector[:3]
PY
(inside -- /text2vec-sidecar healthcheck)
status=$(awk '/^Uid:/ { print $2 }' "/proc/$server/status")
[ "$status" = 65532 ] || fail "the server runs as $status"
if (inside -- /text2vec-sidecar download org/other --dir /new) 2>"$run/write.log"; then
  fail "the root filesystem can be written"
fi
kill -TERM "$server"
code=0
wait "$server" || code=$?
server=''
[ "$code" = 0 ] || { cat "$run/server.log" >&2; fail "SIGTERM ended the server with $code"; }
buildah rm "$container" >/dev/null
echo "the image for GPUs runs as user 65532 with a read-only root"

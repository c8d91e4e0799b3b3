#!/usr/bin/env bash
# Builds the images of deploy/Dockerfile with buildah, no engine needed, and runs them as a cluster would: user 65532, root
# filesystem read-only. `check.sh BINARY MODEL_DIR`; with STRIP=1 without the binary's symbols. What it proves:
# - the image without a model is at most 45 MB, that with MODEL_DIR at most 140 MB;
# - with the model it answers at most 2 seconds after its start, and HEALTHCHECK's command agrees; SIGTERM ends it with 0;
# - a model copied to /app/models/model is served under the reference's profile;
# - the model stage downloads with a token that is in no layer, from a Hub made here.
# Needs root on Debian; buildah and debootstrap are installed if CI is set. Skipped, loudly, where they cannot be had.
set -euo pipefail
binary=$(realpath "$1") model=$(realpath "$2")
cd "$(dirname "$0")/../.."
work=$PWD/target/image
mkdir -p "$work"

skip() {
  printf '\n*** IMAGES NOT CHECKED: %s ***\n\n' "$1" >&2
  exit 0
}
[ "$(uname -sm)" = "Linux x86_64" ] || skip "this check is for Linux on amd64"
[ "$(id -u)" = 0 ] || skip "chroot, mounts and other users need root"
if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
  [ -n "${CI:-}" ] || skip "buildah and debootstrap are missing: apt-get install buildah debootstrap"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends buildah debootstrap; } \
    >"$work/apt.log" 2>&1 || skip "buildah and debootstrap cannot be installed: see target/image/apt.log"
fi

# What an image weighs is told twice: as files on the node, and as a registry stores and sends it.
MAX_BARE=45000000 MAX_BAKED=140000000 MAX_SECONDS=2
PORT=${PORT:-18080}

# A store of our own, so that nobody's images are touched.
run=$(mktemp -d)
buildah() { command buildah --root "$work/store" --runroot "$run/buildah" "$@"; }
server='' hub=''
clean_up() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
  if [ -n "$hub" ]; then kill "$hub" 2>/dev/null || true; fi
  buildah umount --all >/dev/null 2>&1 || true
  rm -rf "$run"
}
trap clean_up EXIT

# The builder is a bare Debian: a base that needs no registry. The binary is there already, so it compiles nothing.
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
if [ ! -f "$work/base.complete" ]; then
  rm -rf "$work/base"
  debootstrap --variant=minbase --include=ca-certificates "$release" "$work/base" >"$work/debootstrap.log" 2>&1 ||
    skip "debootstrap failed: see target/image/debootstrap.log"
  touch "$work/base.complete"
fi
if ! buildah inspect --type image localhost/builder >/dev/null 2>&1; then
  container=$(buildah from scratch)
  buildah add -q "$container" "$work/base" / >/dev/null
  buildah commit -q --rm "$container" localhost/builder >/dev/null
fi

context=$run/context
mkdir -p "$context/deploy/image/prebuilt/amd64"
cp -r Cargo.toml Cargo.lock build.rs LICENSE NOTICE proto benches src .dockerignore "$context/"
cp -r deploy/Dockerfile "$context/deploy/"
cp deploy/image/*.sh "$context/deploy/image/"
cp "$binary" "$context/deploy/image/prebuilt/amd64/text2vec-sidecar"
if [ -n "${STRIP:-}" ]; then
  strip "$context/deploy/image/prebuilt/amd64/text2vec-sidecar"
fi

# A Hub with one model, for those who know the token.
id=sentence-transformers/all-MiniLM-L6-v2
token=hf_$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
python3 deploy/image/hub.py "$model" "$id" "$token" "$run/hub.port" &
hub=$!
for _ in $(seq 100); do
  [ -s "$run/hub.port" ] && break
  sleep 0.1
done
printf '%s' "$token" >"$run/token"

build() { # image, arguments
  local image=$1
  shift
  buildah bud -q --isolation chroot --network host --pull-never --format docker --build-arg BUILDER=localhost/builder \
    -f "$context/deploy/Dockerfile" -t "$image" "$@" "$context" >"$run/build.log" 2>&1 ||
    { cat "$run/build.log" >&2; exit 1; }
}
build localhost/sidecar:bare --target bare
build localhost/sidecar:baked --build-arg "MODEL=$id" --build-arg "HF_ENDPOINT=http://127.0.0.1:$(cat "$run/hub.port")" \
  --secret "id=hf_token,src=$run/token"

weigh() { # image, limit
  local container root files sent
  container=$(buildah from --pull-never "$1")
  root=$(buildah mount "$container")
  files=$(du -sb --apparent-size "$root" | cut -f1)
  rm -rf "$run/pushed"
  buildah push -q "$1" "dir:$run/pushed" >/dev/null
  sent=$(du -sb "$run/pushed" | cut -f1)
  if grep -rqa "$token" "$run/pushed" || grep -rqa "$token" "$root" --exclude=model.safetensors; then
    echo "error: the Hub token is in $1" >&2
    exit 1
  fi
  echo "$1: $((files / 1000)) kB of files, $((sent / 1000)) kB as a registry sends it (limit $(($2 / 1000)) kB)"
  if [ "$files" -gt "$2" ]; then
    echo "error: $1 is over its limit" >&2
    exit 1
  fi
  buildah rm "$container" >/dev/null
}
weigh localhost/sidecar:bare $MAX_BARE
weigh localhost/sidecar:baked $MAX_BAKED

# As a container engine would: what the image says is run, with its user, its variables, /proc and /dev, nothing writable.
container=$(buildah from --pull-never localhost/sidecar:baked)
root=$(buildah mount "$container")
config() { buildah inspect --format "{{.Docker.Config.$1}}" "$container"; }
[ "$(config User)" = 65532:65532 ] || { echo "error: the image runs as $(config User)" >&2; exit 1; }
[ "$(config Healthcheck.Test)" = "[CMD /text2vec-sidecar healthcheck]" ] ||
  { echo "error: HEALTHCHECK is $(config Healthcheck.Test)" >&2; exit 1; }
[ "$(config Entrypoint)" = "[/text2vec-sidecar]" ] || { echo "error: ENTRYPOINT is $(config Entrypoint)" >&2; exit 1; }
variables=$(config Env | tr -d '[]')
cat >"$run/enter.sh" <<'ENTER'
root=$1
shift
mount --make-rprivate /
mkdir -p "$MOUNT"
mount --bind "$root" "$MOUNT"
mkdir -p "$MOUNT/proc" "$MOUNT/dev"
mount -o remount,bind,ro "$MOUNT"
mount -t proc -o ro proc "$MOUNT/proc"
mount -t tmpfs -o size=64k tmpfs "$MOUNT/dev"
for device in null zero urandom; do touch "$MOUNT/dev/$device"; mount --bind "/dev/$device" "$MOUNT/dev/$device"; done
mount -o remount,bind,ro "$MOUNT/dev"
exec chroot --userspec=65532:65532 --groups= "$MOUNT" "$@"
ENTER
inside() {
  # shellcheck disable=SC2086
  exec unshare --mount env -i PATH="$PATH" MOUNT="$run/root" $variables T2V_LISTEN="127.0.0.1:$PORT" \
    bash "$run/enter.sh" "$root" "$@"
}
started=$(date +%s%N)
(inside /text2vec-sidecar) 2>"$run/server.log" &
server=$!
answer=''
for _ in $(seq 600); do
  if answer=$(curl -sf --max-time 5 -H 'Content-Type: application/json' -d '{"text":"The London Eye"}' \
    "http://127.0.0.1:$PORT/vectors"); then
    break
  fi
  kill -0 "$server" 2>/dev/null || { cat "$run/server.log" >&2; exit 1; }
  sleep 0.02
done
milliseconds=$((($(date +%s%N) - started) / 1000000))
python3 - "$answer" <<'PY'
import json, math, sys
vector = json.loads(sys.argv[1])["vector"]
# The reference container's first values for this text and model.
wanted = [0.41677576, -0.10556714, 0.122406945]
assert len(vector) == 384, len(vector)
assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(vector, wanted)), vector[:3]
PY
(inside /text2vec-sidecar healthcheck)
status=$(awk '/^Uid:/ { print $2 }' "/proc/$server/status")
[ "$status" = 65532 ] || { echo "error: the server runs as $status" >&2; exit 1; }
if (inside /text2vec-sidecar download org/other --dir /new) 2>"$run/write.log"; then
  echo "error: the root filesystem can be written" >&2
  exit 1
fi
kill -TERM "$server"
code=0
wait "$server" || code=$?
server=''
[ "$code" = 0 ] || { echo "error: SIGTERM ended the server with $code" >&2; cat "$run/server.log" >&2; exit 1; }
echo "first answer $milliseconds ms after the start, as user 65532 with a read-only root"
if [ "$milliseconds" -gt $((MAX_SECONDS * 1000)) ]; then
  echo "error: that is over $MAX_SECONDS s" >&2
  exit 1
fi
buildah rm "$container" >/dev/null

# A model of one's own where the reference's recipe for custom images puts it: without marker files it is served as the
# reference does, whatever its modules.json says.
container=$(buildah from --pull-never localhost/sidecar:bare)
root=$(buildah mount "$container")
mkdir -p "$root/app/models"
cp -rL "$model" "$root/app/models/model"
rm -f "$root/app/models/model/text2vec-sidecar.json"
[ -f "$root/app/models/model/modules.json" ] || { echo "error: $model has no modules.json" >&2; exit 1; }
told=$(inside /text2vec-sidecar --check 2>"$run/check.log") || { cat "$run/check.log" >&2; exit 1; }
case $told in
  *"profile transformers (chosen by: no marker file"*) echo "a model copied to /app/models/model: $told" ;;
  *) echo "error: a model copied to /app/models/model: $told" >&2; exit 1 ;;
esac
buildah rm "$container" >/dev/null

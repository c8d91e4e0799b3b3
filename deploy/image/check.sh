#!/usr/bin/env bash
# Builds the images of deploy/Dockerfile with buildah, no engine needed, and runs them as a cluster would: user 65532, root
# filesystem read-only. `check.sh BINARY MODEL_DIR`; with STRIP=1 without the binary's symbols. What it proves:
# - the image without a model is at most 45 MB, that with MODEL_DIR at most 140 MB; 10 more with STRIP=1, which is for builds for
#   tests, much of which is not optimised;
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
if [ -n "${STRIP:-}" ]; then
  MAX_BARE=55000000 MAX_BAKED=150000000
fi
PORT=${PORT:-18080}

run=$(mktemp -d)
hub=''
. deploy/image/running.sh
trap 'if [ -n "$hub" ]; then kill "$hub" 2>/dev/null || true; fi; clean_up' EXIT
# The builder compiles nothing: the binary is there already.
make_base || skip "the base cannot be made: see target/image/debootstrap.log"

make_context
cp deploy/Dockerfile "$context/deploy/"
mkdir -p "$context/deploy/image/prebuilt/amd64"
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

image() { # name, arguments
  local name=$1
  shift
  build -f "$context/deploy/Dockerfile" -t "$name" "$@"
}
image localhost/sidecar:bare --target bare
image localhost/sidecar:baked --build-arg "MODEL=$id" --build-arg "HF_ENDPOINT=http://127.0.0.1:$(cat "$run/hub.port")" \
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

open_image localhost/sidecar:baked
serve_and_stop
echo "first answer $milliseconds ms after the start, as user 65532 with a read-only root"
if [ "$milliseconds" -gt $((MAX_SECONDS * 1000)) ]; then
  echo "error: that is over $MAX_SECONDS s" >&2
  exit 1
fi
buildah rm "$container" >/dev/null

# A model of one's own where the reference's recipe for custom images puts it: without marker files it is served as the
# reference does, whatever its modules.json says.
open_image localhost/sidecar:bare
mkdir -p "$root/app/models"
cp -rL "$model" "$root/app/models/model"
rm -f "$root/app/models/model/text2vec-sidecar.json"
[ -f "$root/app/models/model/modules.json" ] || fail "$model has no modules.json"
told=$(inside -- /text2vec-sidecar --check 2>"$run/check.log") || { cat "$run/check.log" >&2; exit 1; }
case $told in
  *"profile transformers (chosen by: no marker file"*) echo "a model copied to /app/models/model: $told" ;;
  *) fail "a model copied to /app/models/model: $told" ;;
esac
buildah rm "$container" >/dev/null

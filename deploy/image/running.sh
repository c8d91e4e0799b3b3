# Sourced by the checks of images, in the root of the repository, with `run` (a folder of this run) and `work` (a folder that is
# kept): a store of images of its own, a base that needs no registry, and an image run as a container engine would.
fail() { echo "error: $*" >&2; exit 1; }

# A store of our own, so that nobody's images are touched.
buildah() { command buildah --root "$work/store" --runroot "$run/buildah" "$@"; }

server=''
clean_up() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
  buildah umount --all >/dev/null 2>&1 || true
  rm -rf "$run"
}
trap clean_up EXIT

# A bare Debian as the image localhost/builder, made once; its files stay in $work/base. It is of this machine's release, or of
# T2V_BASE_RELEASE. With a suffix and a list of packages another one, that has those too.
make_base() { # suffix, packages
  local release container base=$work/base${1:-} builder=localhost/builder${1:-}
  release=${T2V_BASE_RELEASE:-$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")}
  if [ ! -f "$base.complete" ]; then
    rm -rf "$base"
    debootstrap --variant=minbase --include="ca-certificates${2:+,$2}" "$release" "$base" >"$work/debootstrap.log" 2>&1 ||
      return 1
    touch "$base.complete"
  fi
  if ! buildah inspect --type image "$builder" >/dev/null 2>&1; then
    # In one, as `set -e` does not hold where a function's failure is looked at.
    container=$(buildah from scratch) && buildah add -q "$container" "$base" / >/dev/null &&
      buildah commit -q --rm "$container" "$builder" >/dev/null
  fi
}

# What a build is sent, in $context: the sources and the scripts.
make_context() {
  context=$run/context
  mkdir -p "$context/deploy/image/prebuilt"
  cp -r Cargo.toml Cargo.lock build.rs LICENSE NOTICE proto benches crates src .dockerignore "$context/"
  cp deploy/image/*.sh "$context/deploy/image/"
}

build() { # arguments
  buildah bud -q --isolation chroot --network host --pull-never --format docker --build-arg BUILDER=localhost/builder "$@" \
    "$context" >"$run/build.log" 2>&1 || { cat "$run/build.log" >&2; exit 1; }
}

# Takes an image to be run by `inside`, as it says: with its user, its variables, /proc and /dev, nothing writable.
open_image() { # image, arguments of buildah from
  container=$(buildah from --pull-never "${@:2}" "$1")
  root=$(buildah mount "$container")
  config() { buildah inspect --format "{{.Docker.Config.$1}}" "$container"; }
  [ "$(config User)" = 65532:65532 ] || fail "the image runs as $(config User)"
  [ "$(config Healthcheck.Test)" = "[CMD /text2vec-sidecar healthcheck]" ] || fail "HEALTHCHECK is $(config Healthcheck.Test)"
  [ "$(config Entrypoint)" = "[/text2vec-sidecar]" ] || fail "ENTRYPOINT is $(config Entrypoint)"
  variables=$(config Env | tr -d '[]')
}

# A model to mount, where the image has none; and an emulator, a static program, where the image is for another CPU.
MODEL='' EMULATOR=''
cat >"$run/enter.sh" <<'ENTER'
root=$1
shift
mount --make-rprivate /
mkdir -p "$MOUNT"
mount --bind "$root" "$MOUNT"
mkdir -p "$MOUNT/proc" "$MOUNT/dev"
if [ -n "$MODEL" ]; then
  mount -t tmpfs -o size=64k,mode=755 tmpfs "$MOUNT/app/models"
  mkdir -p "$MOUNT/app/models/model"
  mount --bind "$MODEL" "$MOUNT/app/models/model"
  mount -o remount,bind,ro "$MOUNT/app/models"
fi
mount -o remount,bind,ro "$MOUNT"
mount -t proc -o ro proc "$MOUNT/proc"
mount -t tmpfs -o size=64k tmpfs "$MOUNT/dev"
for device in null zero urandom; do touch "$MOUNT/dev/$device"; mount --bind "/dev/$device" "$MOUNT/dev/$device"; done
if [ -n "$EMULATOR" ]; then
  touch "$MOUNT/dev/emulator"
  mount --bind "$EMULATOR" "$MOUNT/dev/emulator"
  set -- /dev/emulator "$@"
fi
mount -o remount,bind,ro "$MOUNT/dev"
exec chroot --userspec=65532:65532 --groups= "$MOUNT" "$@"
ENTER
inside() { # variables --, command
  local more=()
  while [ "$1" != -- ]; do more+=("$1"); shift; done
  shift
  # shellcheck disable=SC2086
  exec unshare --mount env -i PATH="$PATH" MOUNT="$run/root" MODEL="$MODEL" EMULATOR="$EMULATOR" $variables T2V_LISTEN="127.0.0.1:$PORT" \
    "${more[@]}" bash "$run/enter.sh" "$root" "$@"
}

# Starts the server, has a text embedded and ends it; `milliseconds` is the time from its start to the answer.
serve_and_stop() { # variables
  local started answer='' status code=0
  started=$(date +%s%N)
  (inside "$@" -- /text2vec-sidecar) 2>"$run/server.log" &
  server=$!
  for _ in $(seq $([ -n "$EMULATOR" ] && echo 6000 || echo 600)); do
    if answer=$(curl -sf --max-time 5 -H 'Content-Type: application/json' -d '{"text":"The London Eye"}' \
      "http://127.0.0.1:$PORT/vectors"); then
      break
    fi
    kill -0 "$server" 2>/dev/null || { cat "$run/server.log" >&2; exit 1; }
    sleep 0.02
  done
  [ -n "$answer" ] || { cat "$run/server.log" >&2; fail "no answer"; }
  milliseconds=$((($(date +%s%N) - started) / 1000000))
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
  wait "$server" || code=$?
  server=''
  [ "$code" = 0 ] || { cat "$run/server.log" >&2; fail "SIGTERM ended the server with $code"; }
}

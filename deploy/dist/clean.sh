# Run by check.sh in namespaces of its own: installs one CPU's archive, package and wheel in a bare Debian and starts each.
set -euo pipefail
name=text2vec-sidecar
fail() { echo "error: $*" >&2; exit 1; }
mount --make-rprivate /
root=$RUN/root
mkdir -p "$root"

# What is installed is forgotten: the Debian below stays as it was.
open_root() {
  mount -t tmpfs tmpfs "$root"
  mkdir -p "$root/upper" "$root/work" "$root/files"
  mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$root/upper,workdir=$root/work" "$root/files"
  files=$root/files
  mount -t proc proc "$files/proc"
  mkdir -p "$files/srv/model" "$files/srv/dist" "$files/srv/emulator"
  mount -o bind,ro "$MODEL" "$files/srv/model"
  mount -o bind,ro "$(dirname "$ARCHIVE")" "$files/srv/dist"
  # The first stage of debootstrap makes no devices.
  for device in null zero urandom; do
    [ -e "$files/dev/$device" ] || touch "$files/dev/$device"
    mount --bind "/dev/$device" "$files/dev/$device"
  done
  if [ -n "$EMULATOR" ]; then
    cp "$EMULATOR" "$files/srv/emulator/qemu"
  fi
}
close_root() { umount -R "$root"; }
inside() { chroot "$files" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
# The installed program, with what it is started by.
become_program() { exec chroot "$files" ${EMULATOR:+/srv/emulator/qemu} "$@"; }
program() { (become_program "$@"); }

serve() { # what was installed, path of the program
  local what=$1 path=$2 answer='' started milliseconds code=0 server
  [ "$(program "$path" --version)" = "$name $VERSION" ] || fail "$what: $(program "$path" --version)"
  started=$(date +%s%N)
  become_program "$path" serve --model /srv/model --listen "127.0.0.1:$PORT" 2>"$RUN/server.log" &
  server=$!
  for _ in $(seq 6000); do
    if answer=$(curl -sf --max-time 20 -H 'Content-Type: application/json' -d '{"text":"The London Eye"}' \
      "http://127.0.0.1:$PORT/vectors"); then
      break
    fi
    kill -0 "$server" 2>/dev/null || { cat "$RUN/server.log" >&2; fail "$what: the server ended"; }
    sleep 0.02
  done
  milliseconds=$((($(date +%s%N) - started) / 1000000))
  [ -n "$answer" ] || { cat "$RUN/server.log" >&2; fail "$what: no answer"; }
  python3 - "$answer" <<'PY' || fail "$what: another vector: $answer"
import json, math, sys
vector = json.loads(sys.argv[1])["vector"]
# The reference container's first values for this text and model.
wanted = [0.41677576, -0.10556714, 0.122406945]
sys.exit(len(vector) != 384 or not all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(vector, wanted)))
PY
  T2V_LISTEN=127.0.0.1:$PORT program "$path" healthcheck || fail "$what: healthcheck"
  kill -TERM "$server"
  wait "$server" || code=$?
  [ "$code" = 0 ] || { cat "$RUN/server.log" >&2; fail "$what: SIGTERM ended the server with $code"; }
  echo "$what: $milliseconds ms from the start to the first answer${EMULATOR:+ (emulated)}"
  if [ -z "$EMULATOR" ] && [ "$milliseconds" -gt 2000 ]; then fail "$what: that is over 2 s"; fi
}

open_root
mkdir -p "$files/opt/$name"
tar -xzf "$ARCHIVE" -C "$files/opt/$name" --strip-components=1
serve "$(basename "$ARCHIVE")" "/opt/$name/$name"
close_root

open_root
package=/srv/dist/$(basename "$PACKAGE")
if [ -z "$EMULATOR" ]; then
  inside dpkg -i "$package" >"$RUN/dpkg.log" 2>&1 || { cat "$RUN/dpkg.log" >&2; fail "dpkg -i $package"; }
  [ -z "$(find "$files/etc/systemd" -name "$name.service")" ] || fail "the service is enabled"
else
  dpkg-deb -x "$PACKAGE" "$files"
fi
serve "$(basename "$PACKAGE")" "/usr/bin/$name"
grep -qx "ExecStart=/usr/bin/$name" "$files/usr/lib/systemd/system/$name.service" || fail "the unit starts another program"
if [ -z "$EMULATOR" ]; then
  inside dpkg -P $name >"$RUN/dpkg.log" 2>&1 || { cat "$RUN/dpkg.log" >&2; fail "dpkg -P"; }
  left=$(find "$files/usr" "$files/etc" -path "*$name*" -print)
  [ -z "$left" ] || fail "left behind: $left"
fi
close_root

open_root
if [ -z "$EMULATOR" ]; then
  inside python3 -m venv /opt/venv
  inside /opt/venv/bin/pip install -q --no-index "/srv/dist/$(basename "$WHEEL")" 2>"$RUN/pip.log" ||
    { cat "$RUN/pip.log" >&2; fail "pip install"; }
  serve "$(basename "$WHEEL")" "/opt/venv/bin/$name"
else
  "$PIP" install -q --no-index --no-deps --platform "manylinux_2_28_$(basename "$EMULATOR" | cut -d- -f2)" --only-binary :all: \
    --target "$files/opt/wheel" "$WHEEL"
  serve "$(basename "$WHEEL")" "/opt/wheel/bin/$name"
fi
close_root

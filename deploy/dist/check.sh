#!/usr/bin/env bash
# Installs what `make dist` has made where there is no Rust and no compiler, and starts it: `check.sh MODEL_DIR [x86_64] [aarch64]`,
# or `make dist-check`. What it proves of each archive, Debian package and wheel, in a bare Debian 11 (glibc 2.31, the oldest that
# Debian's mirrors have; that 2.28 is enough, the binary's list of symbols says):
# - it is what SHA256SUMS says, and has the files that docs/install.md names;
# - installed from the file alone, `--version` answers, and `serve` gives the reference's vector for a known text; on this
#   machine's CPU at most 2 seconds after its start; `healthcheck` agrees, SIGTERM ends it with 0;
# - the service is neither enabled nor started; the package goes away without a trace.
# The other CPU's binaries run under an emulator: its time says nothing. There its Debian package and wheel are unpacked by this
# machine's tools. Needs root on Debian, debootstrap, binutils, Python 3.11, and qemu-user-static for the other CPU.
set -euo pipefail
model=$(realpath "${1:?a directory with a model}")
shift
cd "$(dirname "$0")/../.."
. deploy/dist/names.sh
work=$PWD/target/dist-check
mkdir -p "$work"
read -ra cpus <<<"${*:-x86_64 aarch64}"
fail() { echo "error: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "chroot and mounts need root"
for tool in debootstrap objdump unshare; do command -v $tool >/dev/null || fail "$tool is missing"; done

run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
(cd "$dist" && sha256sum -c --quiet SHA256SUMS) || fail "target/dist has other files than SHA256SUMS says: make dist"

# What the index of packages would refuse, and what is odd in a wheel; W007, that it has no Python in it, is meant so.
if ! cmp -s deploy/dist/check.txt "$work/check.txt"; then
  rm -rf "$work/venv"
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q -r deploy/dist/check.txt
  cp deploy/dist/check.txt "$work/check.txt"
fi
wheels=("$dist/${name//-/_}-$version"-*.whl)
"$work/venv/bin/twine" check --strict "${wheels[@]}" >"$run/twine.log" 2>&1 || { cat "$run/twine.log" >&2; exit 1; }
"$work/venv/bin/check-wheel-contents" --ignore W007 "${wheels[@]}"
for wheel in "${wheels[@]}"; do
  "$work/venv/bin/auditwheel" show "$wheel" | tr '\n' ' ' | grep -q "consistent with the following platform tag: \"manylinux_2_28_" ||
    fail "$wheel has another tag than its symbols allow"
done

has() { # list of files, files
  local list=$1 file
  shift
  for file in "$@"; do
    grep -qxF -- "$file" "$list" || { cat "$list" >&2; fail "$file is missing"; }
  done
}

for cpu in "${cpus[@]}"; do
  known_cpu "$cpu"
  target=$cpu-unknown-linux-gnu
  debian=$(debian_cpu "$cpu")
  archive=$dist/$name-$version-$target.tar.gz
  package=$dist/${name}_${version}-1_$debian.deb
  wheel=$dist/${name//-/_}-$version-py3-none-manylinux_2_28_$cpu.whl
  emulator=''
  if [ "$cpu" != "$(uname -m)" ]; then
    emulator=$(command -v "qemu-$cpu-static") || fail "qemu-user-static is missing"
  fi

  tar -tzf "$archive" | sed "s|^$name-$version-$target/||" >"$run/list"
  has "$run/list" $name LICENSE NOTICE THIRD-PARTY-LICENSES README.md man/$name.1 man/$name-serve.1 completions/$name \
    completions/_$name completions/$name.fish systemd/$name.service systemd/environment
  dpkg-deb -c "$package" | awk '{ print $6 }' >"$run/list"
  has "$run/list" ./usr/bin/$name ./usr/share/man/man1/$name.1.gz ./usr/share/bash-completion/completions/$name \
    ./usr/share/zsh/vendor-completions/_$name ./usr/share/fish/vendor_completions.d/$name.fish \
    ./usr/lib/systemd/system/$name.service ./etc/$name/environment ./usr/share/doc/$name/copyright
  [ "$(dpkg-deb -f "$package" Architecture)" = "$debian" ] || fail "$package is for another CPU"
  [ "$(dpkg-deb -f "$package" Depends)" = "libc6 (>= $glibc)" ] || fail "$package depends on something else"
  [ "$(dpkg-deb -f "$package" Version)" = "$version-1" ] || fail "$package has another version"
  [ "$(dpkg-deb -I "$package" conffiles)" = "/etc/$name/environment" ] || fail "$package has other settings' files"

  for script in postinst prerm postrm; do
    dpkg-deb -I "$package" $script | grep -q "systemd.* '\?$name.service" || fail "$package has no $script for the service"
  done

  tar -xzf "$archive" -C "$run" --strip-components=1 "$name-$version-$target/$name"
  symbols=$(objdump -T "$run/$name" 2>/dev/null || "$cpu-linux-gnu-objdump" -T "$run/$name")
  newest=$(grep -o 'GLIBC_[0-9.]*' <<<"$symbols" | sed 's/GLIBC_//' | sort -uV | tail -n 1)
  [ "$(printf '%s\n' "$newest" $glibc | sort -V | tail -n 1)" = $glibc ] || fail "$target needs glibc $newest"
  libraries=$(objdump -p "$run/$name" 2>/dev/null | awk '$1 == "NEEDED" { print $2 }' | xargs)
  echo "$target: $(stat -c %s "$run/$name") bytes, needs glibc $newest or newer, of: ${libraries:-what objdump does not tell}"

  if [ ! -e "$work/root-$debian.complete" ]; then
    rm -rf "$work/root-$debian"
    more=(--include=python3-venv)
    # Another CPU's Debian is unpacked and not configured: nothing of it runs but the program.
    [ -z "$emulator" ] || more=(--foreign)
    debootstrap --variant=minbase --arch="$debian" "${more[@]}" bullseye "$work/root-$debian" \
      >"$work/debootstrap.log" 2>&1 || fail "Debian cannot be had: see target/dist-check/debootstrap.log"
    touch "$work/root-$debian.complete"
  fi
  [ -x "$work/venv/bin/pip" ] || fail "target/dist-check/venv is broken: remove it"
  unshare --mount --pid --fork --kill-child env ROOT="$work/root-$debian" RUN="$run" EMULATOR="$emulator" MODEL="$model" \
    ARCHIVE="$archive" PACKAGE="$package" WHEEL="$wheel" VERSION="$version" PIP="$work/venv/bin/pip" PORT="${PORT:-18084}" \
    bash deploy/dist/clean.sh
done
if compgen -G "$dist/*.oci.tar" >/dev/null; then
  for image in "$dist"/*.oci.tar; do
    mkdir "$run/image"
    tar -xf "$image" -C "$run/image"
    python3 deploy/dist/platforms.py "$run/image"
    rm -rf "$run/image"
  done
fi
(cd "$dist" && stat -c '%s bytes  %n' -- *)

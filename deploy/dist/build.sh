#!/usr/bin/env bash
# What a release consists of, in target/dist: `build.sh [x86_64] [aarch64]`, or `make dist` for both. For each CPU
# - a binary that needs glibc 2.28 or newer and nothing else, in a .tar.gz with licences, man pages, completions and the unit;
# - a Debian package and a Python wheel with the same binary, a list of its crates as CycloneDX (SBOM);
# and the Helm's chart as a package, and SHA256SUMS of all. Images: deploy/dist/images.sh, or `make dist-images`.
# Needs Rust, Python 3.11, Go, and for the other CPU the standard library: `rustup target add aarch64-unknown-linux-gnu`, or
# Debian's rustc-web with libstd-rust-web-dev:arm64. zig, which is compiler and linker for both, and cargo-zigbuild come as
# Python packages (checksummed), cargo-deb and cargo-cyclonedx are compiled once. The first time takes half an hour on two cores,
# compiling for both CPUs 20 minutes of it.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dist/names.sh
tools=$PWD/target/dist-tools
# A folder of its own: what another linker has made may not get among it.
export CARGO_TARGET_DIR=${T2V_DIST_TARGET_DIR:-$PWD/target/dist-build}
# Times in archives are that of the commit: the same commit and tools in the same place make the same files, but for the chart.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
read -ra cpus <<<"${*:-x86_64 aarch64}"
fail() { echo "error: $*" >&2; exit 1; }
for cpu in "${cpus[@]}"; do known_cpu "$cpu"; done

mkdir -p "$tools" "$dist"
rm -rf "${dist:?}"/*-unknown-linux-gnu* "$dist"/*.deb "$dist"/*.whl "$dist"/*.tgz "$dist"/*.oci.tar "$stage"
if ! cmp -s deploy/dist/tools.txt "$tools/tools.txt"; then
  python3 -m venv "$tools/zig"
  "$tools/zig/bin/pip" install -q --no-deps --only-binary :all: --require-hashes -r deploy/dist/tools.txt
  cp deploy/dist/tools.txt "$tools/tools.txt"
fi
for tool in cargo-deb@3.8.0 cargo-cyclonedx@0.5.9; do
  if [ "$("$tools/bin/${tool%@*}" "$(subcommand "${tool%@*}")" --version 2>/dev/null | grep -o '[0-9.]*$')" != "${tool#*@}" ]; then
    # Without optimisation: compiling it takes longer than what it does.
    CARGO_TARGET_DIR=$tools/build cargo install -q --debug --locked --root "$tools" "$tool"
  fi
done
export PATH=$tools/zig/bin:$tools/bin:$PATH

# The compiler in use where it has the standard library for the target, else Debian's.
compiler_for() { # target
  local rustc
  for rustc in "$(rustup which rustc 2>/dev/null || command -v rustc || true)" /usr/bin/rustc; do
    if [ -x "$rustc" ] && compgen -G "$("$rustc" --print sysroot)/lib/rustlib/$1/lib/libstd-*.rlib" >/dev/null; then
      echo "$rustc"
      return
    fi
  done
  fail "Rust's standard library for $1 is missing: rustup target add $1"
}

for cpu in "${cpus[@]}"; do
  target=$cpu-unknown-linux-gnu
  started=$SECONDS
  RUSTC=$(compiler_for "$target")
  RUSTC=$RUSTC cargo zigbuild -q --release --locked --bin "$name" --target "$target.$glibc"
  echo "$target: compiled in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
done

# Pages and completions are the same for every CPU: any of the binaries that runs here writes them.
for cpu in "${cpus[@]}"; do
  writer=("$CARGO_TARGET_DIR/$cpu-unknown-linux-gnu/release/$name")
  if [ "$cpu" = "$(uname -m)" ]; then break; fi
  writer=("qemu-$cpu-static" "${writer[@]}")
done
mkdir -p "$stage/man" "$stage/completions" "$stage/unit"
"${writer[@]}" man --dir "$stage/man"
"${writer[@]}" completions bash >"$stage/completions/$name"
"${writer[@]}" completions zsh >"$stage/completions/_$name"
"${writer[@]}" completions fish >"$stage/completions/$name.fish"
# A package's programs are in /usr/bin.
sed 's|^ExecStart=/usr/local/bin/|ExecStart=/usr/bin/|' deploy/systemd/$name.service >"$stage/unit/$name.service"
# What Debian asks for beside CHANGELOG.md and LICENSE.
cat >"$stage/changelog" <<CHANGES
$name ($version-1) unstable; urgency=medium

  * Release $version: see CHANGELOG.md.

 -- $(sed -n 's/^maintainer = "\(.*\)"$/\1/p' Cargo.toml)  $(date -Ru -d "@$SOURCE_DATE_EPOCH")
CHANGES
echo 'The text of the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.' >"$stage/license"

pack() { # file, folder: the same bytes for the same files
  tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' \
    -C "$(dirname "$2")" -c "$(basename "$2")" | gzip -9n >"$1"
}
for cpu in "${cpus[@]}"; do
  target=$cpu-unknown-linux-gnu
  binary=$CARGO_TARGET_DIR/$target/release/$name
  python3 deploy/dist/licenses.py "$target" >"$stage/THIRD-PARTY-LICENSES"
  folder=$stage/$name-$version-$target
  mkdir -p "$folder"
  cp -r "$binary" LICENSE NOTICE README.md CHANGELOG.md "$stage/THIRD-PARTY-LICENSES" "$stage/man" "$stage/completions" \
    deploy/systemd "$folder/"
  rm "$folder/systemd/check.sh"
  pack "$dist/$name-$version-$target.tar.gz" "$folder"

  cargo deb -q --no-build --no-strip --target "$target" -o "$dist/${name}_${version}-1_$(debian_cpu "$cpu").deb" >/dev/null
  python3 deploy/dist/wheel.py "$binary" "$cpu" "$version" "$dist"
  python3 deploy/dist/sbom.py "$target" "$dist/$name-$version-$target.cdx.json"
done

(cd deploy/check && go run ./package ../helm/$name "$dist")
write_sums
(cd "$dist" && du -b --apparent-size -- * | sort -k2)

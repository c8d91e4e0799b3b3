#!/usr/bin/env bash
# Does it compile for systems that nothing is run on? Types only: `elsewhere.sh aarch64-apple-darwin`, `elsewhere.sh
# x86_64-pc-windows-msvc`. Needs the sources of the standard library in the compiler's sysroot: Debian's rustc-web and
# rust-web-src, or rustup's rust-src with T2V_ELSEWHERE_RUSTC=$(rustup which rustc). C compilers stand in that do nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?a target such as aarch64-apple-darwin}
fake=$(mktemp -d)
trap 'rm -rf "$fake"' EXIT
# What build scripts look for afterwards is made, empty.
cat > "$fake/nothing" << 'NOTHING'
#!/bin/sh
for argument in "$@"; do
  case $argument in
    -Fo*) : > "${argument#-Fo}" ;;
    [-/]out:* | [-/]OUT:*) : > "${argument#*:}" ;;
    *.a | *.lib) : > "$argument" ;;
  esac
done
NOTHING
chmod +x "$fake/nothing"
variable=${target//-/_}
export "CC_$variable=$fake/nothing" "CXX_$variable=$fake/nothing" "AR_$variable=$fake/nothing"
export RUSTC=${T2V_ELSEWHERE_RUSTC:-/usr/bin/rustc} RUSTC_BOOTSTRAP=1 AWS_LC_SYS_PREBUILT_NASM=1
cargo check -Zbuild-std=std,panic_unwind --target "$target" --target-dir target/elsewhere --bins --lib

#!/usr/bin/env bash
# The kernels' tests on 64-bit ARM, under an emulator: on the newest CPU it knows, and on one without products of bytes.
# Needs on Debian: dpkg --add-architecture arm64 && apt-get install rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu
# libc6-dev-arm64-cross qemu-user-static. Time under an emulator says nothing about a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
missing() {
  echo "$1 is missing: the first lines of .ci/arm.sh say how to get it" >&2
  exit 1
}
for tool in aarch64-linux-gnu-gcc qemu-aarch64-static; do
  command -v "$tool" > /dev/null || missing "$tool"
done
# A compiler whose standard library is there for the target: the one that is set, else Debian's.
export RUSTC=${T2V_ARM_RUSTC:-/usr/bin/rustc}
[ -d "$("$RUSTC" --print sysroot)/lib/rustlib/$target/lib" ] || missing "Rust's standard library for $target"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
for cpu in max cortex-a72; do
  # The C library is that of libc6:arm64, found as on ARM itself; another one beside its loader does not work.
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $cpu"
  echo "on $cpu:"
  cargo test --target "$target" --target-dir target/arm -p text2vec-kernel --lib -- "$@"
done

#!/usr/bin/env bash
# 64-bit ARM on an amd64 machine, without Docker:
#   arm.sh test [FILTER…]   the tests of the kernels and of the engine, under an emulator: on the newest CPU it knows, and on one
#                           without products of bytes and of bf16. Time under an emulator says nothing about a CPU.
#   arm.sh build            the release binary, target/aarch64-unknown-linux-gnu/release/text2vec-sidecar
#   arm.sh loops            what llvm-mca says of the kernels' innermost loops (llvm-22)
# Needs on Debian: dpkg --add-architecture arm64 && apt-get update && apt-get install --no-install-recommends rustc-web
# libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross, for tests also
# qemu-user-static libc6:arm64 libstdc++6:arm64. A compiler of rustup with the target does too: T2V_ARM_RUSTC=$(rustup which rustc).
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
missing() {
  echo "$1 is missing: the first lines of .ci/arm.sh say how to get it" >&2
  exit 1
}
need() {
  for tool in "$@"; do
    command -v "$tool" > /dev/null || missing "$tool"
  done
}
# A compiler whose standard library is there for the target: the one that is set, else Debian's.
export RUSTC=${T2V_ARM_RUSTC:-/usr/bin/rustc}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
command=${1:-}
shift || true
case $command in
  test | build | loops)
    need aarch64-linux-gnu-gcc aarch64-linux-gnu-g++ "$RUSTC"
    [ -d "$("$RUSTC" --print sysroot)/lib/rustlib/$target/lib" ] || missing "Rust's standard library for $target"
    ;;
esac
case $command in
  test)
    need qemu-aarch64-static
    for cpu in max cortex-a72; do
      export T2V_TEST_EMULATED="qemu-aarch64-static -cpu $cpu"
      # The C library is that of libc6:arm64, found as on ARM itself; another one beside its loader does not work.
      export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $cpu"
      echo "on $cpu:"
      cargo test --target "$target" --target-dir target/arm -p text2vec-kernel --lib -- "$@"
      cargo test --target "$target" --target-dir target/arm --test engine -- "$@"
    done
    ;;
  build)
    cargo build --release --locked --target "$target"
    ;;
  loops)
    need llvm-objdump-22 llvm-mca-22
    # In one piece, so that the loops are those of the binary, and without LTO, so that there is machine code in the library.
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
      cargo build --release --target "$target" --target-dir target/arm -p text2vec-kernel
    python3 .ci/arm_loops.py target/arm/"$target"/release/libtext2vec_kernel.rlib
    ;;
  *)
    sed -n '2,9s/^# //p' "$0" >&2
    exit 2
    ;;
esac

#!/bin/sh
# Steps of deploy/Dockerfile, run in its builder: `build.sh toolchain`, `build.sh binary`.
# TARGETARCH and BUILDARCH: amd64 or arm64, as docker names them. A binary in deploy/image/prebuilt/<arch>/ is taken as it is.
set -eu
arch=${TARGETARCH:?}
prebuilt=deploy/image/prebuilt/$arch/text2vec-sidecar
case $arch in
  amd64) cpu=x86_64 machine=3e ;;
  arm64) cpu=aarch64 machine=b7 ;;
  *) echo "there are kernels for amd64 and arm64, not for $arch" >&2; exit 1 ;;
esac
target=$cpu-unknown-linux-gnu

case ${1:?} in
  toolchain)
    if [ "$arch" != "${BUILDARCH:-$arch}" ] && command -v rustup >/dev/null; then
      rustup target add "$target"
      apt-get update
      apt-get install -y --no-install-recommends "gcc-$(echo $cpu | tr _ -)-linux-gnu" "libc6-dev-$arch-cross"
      rm -rf /var/lib/apt/lists/*
    fi
    ;;
  binary)
    if [ -f "$prebuilt" ]; then
      cp "$prebuilt" text2vec-sidecar
    else
      if [ "$arch" != "${BUILDARCH:-$arch}" ]; then
        variable=$(echo "$target" | tr a-z- A-Z_)
        export "CARGO_TARGET_${variable}_LINKER=$cpu-linux-gnu-gcc" "CC_$(echo "$target" | tr - _)=$cpu-linux-gnu-gcc"
      fi
      # The registry's copy of crates is shared with the next build; the toolchain stays where it is.
      CARGO_HOME=/cache/cargo CARGO_TARGET_DIR=/cache/target cargo build --release --locked --target "$target"
      cp "/cache/target/$target/release/text2vec-sidecar" text2vec-sidecar
    fi
    chmod 755 text2vec-sidecar
    # Byte 18 of an ELF file is the machine it is for.
    if [ "$(od -An -tx1 -j18 -N1 text2vec-sidecar | tr -d ' ')" != $machine ]; then
      echo "text2vec-sidecar is not a program for $arch" >&2
      exit 1
    fi
    ;;
  *) echo "unknown step: $1" >&2; exit 1 ;;
esac

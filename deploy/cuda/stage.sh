#!/bin/sh
# Steps of deploy/cuda/Dockerfile, run in its builder: `stage.sh tools`, `stage.sh binary`. They leave /libraries and
# /text2vec-sidecar, which are taken from deploy/image/prebuilt/amd64-cuda where they are there already.
set -eu
prebuilt=deploy/image/prebuilt/amd64-cuda
case ${1:?} in
  tools)
    if [ ! -f "$prebuilt/text2vec-sidecar" ]; then
      apt-get update
      apt-get install -y --no-install-recommends ca-certificates g++ python3 python3-pip
      rm -rf /var/lib/apt/lists/*
      python3 deploy/cuda/toolkit.py
    fi
    if [ -d "$prebuilt/libraries" ]; then
      cp -r "$prebuilt/libraries" /libraries
    else
      python3 deploy/cuda/toolkit.py --libraries /libraries
    fi
    ;;
  binary)
    if [ -f "$prebuilt/text2vec-sidecar" ]; then
      cp "$prebuilt/text2vec-sidecar" /text2vec-sidecar
    else
      sh deploy/cuda/build.sh /text2vec-sidecar
    fi
    chmod 755 /text2vec-sidecar
    ;;
  *) echo "unknown step: $1" >&2; exit 1 ;;
esac

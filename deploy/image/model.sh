#!/bin/sh
# Downloads a model in the builder of deploy/Dockerfile: `model.sh MODEL REVISION DIR`.
set -eu
if [ -f /run/secrets/hf_token ]; then
  export HF_TOKEN_PATH=/run/secrets/hf_token
fi
# An empty build argument is no endpoint.
[ -n "${HF_ENDPOINT:-}" ] || unset HF_ENDPOINT
export SSL_CERT_FILE=/sidecar/etc/ssl/certs/ca-certificates.crt HF_HUB_CACHE=/hub
/sidecar/text2vec-sidecar download "$1" --revision "$2" --dir "$3"
chmod -R a+rX "$3"

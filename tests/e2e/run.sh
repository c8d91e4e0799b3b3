#!/usr/bin/env bash
# End to end: an unmodified Weaviate with its public Python client, grpcurl, and Python's grpcio, against the real binary
# and a real model. Needs Go (once, to build Weaviate and grpcurl), Python 3.11 or newer, Node 20 or newer with npm, curl, and for
# the page Chromium, which root gets from apt where it is missing.
#
# With the argument `bench` it runs benches/import_rates.py between the same servers instead.
#
# T2V_BIN          the sidecar [target/debug/text2vec-sidecar]
# T2V_TEST_MODEL   its model [models/all-MiniLM-L6-v2]
# T2V_PROMETHEUS   folder of prometheus and promtool [Debian's, unpacked into the cache; elsewhere built, which takes minutes]
# T2V_E2E_CACHE    what is built or installed once [${XDG_CACHE_HOME:-~/.cache}/text2vec-sidecar/e2e]
# T2V_E2E_CHROMIUM the browser [chromium, chromium-browser or google-chrome on the PATH]
#
# The last line is "N passed, N failed"; the exit code is 0 only if nothing failed. All servers listen on loopback, but
# for Weaviate's gRPC and cluster data ports, which it binds to every address and has no setting for.
set -euo pipefail

WEAVIATE_MODULE=github.com/weaviate/weaviate/cmd/weaviate-server
WEAVIATE_VERSION=v1.38.2
GRPCURL_MODULE=github.com/fullstorydev/grpcurl/cmd/grpcurl
GRPCURL_VERSION=v1.9.4
PROMETHEUS_MODULE=github.com/prometheus/prometheus/cmd/prometheus
PROMTOOL_MODULE=github.com/prometheus/prometheus/cmd/promtool
PROMETHEUS_VERSION=v0.316.0

ROOT=$(cd "$(dirname "$0")/../.." && pwd)
HERE=$ROOT/tests/e2e
cd "$ROOT"
BIN=${T2V_BIN:-target/debug/text2vec-sidecar}
MODEL=${T2V_TEST_MODEL:-models/all-MiniLM-L6-v2}
CACHE=${T2V_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/text2vec-sidecar/e2e}

die() {
  echo "e2e: $*" >&2
  exit 1
}

# ---- clean up, whatever happens --------------------------------------------------------------------------------------

WORK=$(mktemp -d "${TMPDIR:-/tmp}/t2v-e2e.XXXXXX")
SIDECAR_PID=
QUERY_SIDECAR_PID=
NEIGHBOURS_PID=
WEAVIATE_PID=
PYTEST_PID=
LOGS_SHOWN=

# stop PID: asks, waits at most 10 s, insists.
stop() {
  local pid=$1
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

show_logs() {
  for log in sidecar weaviate; do
    if [[ -s $WORK/$log.log ]]; then
      echo "---- last lines of $log's log ----"
      tail -n 25 "$WORK/$log.log" | cut -c1-300
    fi
  done >&2
}

leave() {
  local code=$?
  trap - EXIT INT TERM
  set +e
  [[ $code == 0 || -n $LOGS_SHOWN ]] || show_logs
  for pid in $PYTEST_PID $WEAVIATE_PID $SIDECAR_PID $QUERY_SIDECAR_PID $NEIGHBOURS_PID; do
    stop "$pid"
  done
  rm -rf "$WORK"
  exit "$code"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the count and the clock -----------------------------------------------------------------------------------------

export T2V_E2E_TALLY=$WORK/tally
: >"$T2V_E2E_TALLY"

# part NAME COMMAND…: runs it and says how long it took.
part() {
  local name=$1 started=$SECONDS
  shift
  "$@"
  echo "part '$name': $((SECONDS - started)) s"
}

# check NAME EXPECTED COMMAND…: passes if the command succeeds and prints the extended regular expression.
check() {
  local name=$1 expected=$2 output
  shift 2
  if output=$("$@" 2>&1) && grep -qE -- "$expected" <<<"$output"; then
    echo "ok      $name"
    echo "1 0" >>"$T2V_E2E_TALLY"
  else
    printf 'FAILED  %s\nexpected to match: %s\n%s\n' "$name" "$expected" "$(head -c 2000 <<<"$output")"
    echo "0 1" >>"$T2V_E2E_TALLY"
  fi
}

# python_tests FILE ARGUMENT…: pytest, which adds to the tally itself unless it could not even start.
python_tests() {
  local before code=0
  before=$(wc -l <"$T2V_E2E_TALLY")
  # In the background and waited for, so that a signal to this script is heard at once.
  PYTHONDONTWRITEBYTECODE=1 "$PYTHON" -m pytest -c "$HERE/pytest.ini" --rootdir "$HERE" "$HERE/$1" "${@:2}" &
  PYTEST_PID=$!
  wait "$PYTEST_PID" || code=$?
  PYTEST_PID=
  if [[ $code -gt 1 || $(wc -l <"$T2V_E2E_TALLY") == "$before" ]]; then
    echo "FAILED  pytest $* ended with code $code"
    echo "0 1" >>"$T2V_E2E_TALLY"
  fi
}

# ---- tools, each made once -------------------------------------------------------------------------------------------

# go_tool MODULE VERSION: sets TOOL to the program, in a folder named after its version.
go_tool() {
  local name=${1##*/} folder
  folder=$CACHE/${1##*/}-$2
  TOOL=$folder/$name
  [[ ! -x $TOOL ]] || return 0
  command -v go >/dev/null || die "Go is missing: install Go 1.26 or newer, it builds $name $2 once (Weaviate takes some minutes)"
  echo "building $name $2 into $folder"
  mkdir -p "$folder"
  # Built aside and moved, so that an interrupted build leaves nothing that looks finished.
  GOBIN=$WORK/bin go install "$1@$2" || die "go install $1@$2 failed"
  mv "$WORK/bin/$name" "$TOOL.new.$$"
  mv "$TOOL.new.$$" "$TOOL"
}

tools() {
  go_tool $WEAVIATE_MODULE $WEAVIATE_VERSION
  WEAVIATE=$TOOL
  go_tool $GRPCURL_MODULE $GRPCURL_VERSION
  GRPCURL=$TOOL
}

# Debian's package is unpacked, not installed: that would start a Prometheus.
prometheus_tools() {
  [[ -z ${T2V_PROMETHEUS:-} ]] || return 0
  T2V_PROMETHEUS=$CACHE/prometheus/usr/bin
  [[ ! -x $T2V_PROMETHEUS/promtool ]] || return 0
  local folder=$WORK/prometheus
  mkdir "$folder"
  if command -v apt-get >/dev/null && debian_prometheus "$folder" >"$folder/log" 2>&1; then
    rm -rf "$CACHE/prometheus"
    mv "$folder/unpacked" "$CACHE/prometheus"
    return 0
  fi
  go_tool $PROMETHEUS_MODULE $PROMETHEUS_VERSION
  ln -sf "$TOOL" "$folder/prometheus"
  go_tool $PROMTOOL_MODULE $PROMETHEUS_VERSION
  ln -sf "$TOOL" "$folder/promtool"
  T2V_PROMETHEUS=$folder
}

# debian_prometheus FOLDER: the lists of a fresh machine are empty.
debian_prometheus() (
  cd "$1" || exit 1
  apt-get download prometheus || { apt-get update -q && apt-get download prometheus; } || exit 1
  dpkg-deb -x prometheus_*.deb unpacked
)

# What docs/clients.md imports in JavaScript, in a folder named after the lock file.
node_environment() {
  local major key
  command -v node >/dev/null && command -v npm >/dev/null || die "Node or npm is missing: install Node 20 or newer with npm"
  major=$(node -p 'process.versions.node.split(".")[0]')
  [[ $major -ge 20 ]] || die "Node $major is too old: install Node 20 or newer"
  key=$(cat "$HERE"/node/package*.json | python3 -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
  NODE_FOLDER=$CACHE/node-$key
  [[ ! -e $NODE_FOLDER/complete ]] || return 0
  echo "installing the JavaScript clients into $NODE_FOLDER"
  rm -rf "$NODE_FOLDER"
  mkdir -p "$NODE_FOLDER"
  cp "$HERE"/node/package*.json "$NODE_FOLDER"
  npm ci --prefix "$NODE_FOLDER" --no-audit --no-fund --ignore-scripts --loglevel error || die "npm ci failed"
  touch "$NODE_FOLDER/complete"
}

# python_environment FILE: sets PYTHON_FOUND to the interpreter of a virtual environment with what FILE lists, in a folder named
# after it; its stamp is written last.
python_environment() {
  command -v python3 >/dev/null || die "python3 is missing: install Python 3.11 or newer"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$(python3 -V) is too old: install Python 3.11 or newer"
  local key folder
  key=$({ python3 -VV && cat "$1"; } | python3 -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
  folder=$CACHE/python-$key
  PYTHON_FOUND=$folder/bin/python
  [[ ! -e $folder/complete ]] || return 0
  echo "installing what ${1##*/} lists into $folder"
  rm -rf "$folder"
  python3 -m venv "$folder" || die "python3 -m venv failed: install Python's venv package"
  "$PYTHON_FOUND" -m pip install --quiet --disable-pip-version-check -r "$1" || die "pip install failed"
  touch "$folder/complete"
}

PYTHON_OLDER= # of packages that want older clients than the others
NODE_FOLDER=

# clients [bench]: which needs but the first.
clients() {
  python_environment "$HERE/requirements.txt"
  PYTHON=$PYTHON_FOUND
  [[ ${1:-} != bench ]] || return 0
  python_environment "$HERE/requirements-older.txt"
  PYTHON_OLDER=$PYTHON_FOUND
  node_environment
}

# The page in a browser; one that is there, else Debian's.
page_tests() {
  local missing="chromium is missing: apt-get install chromium, or set T2V_E2E_CHROMIUM" log=$CACHE/apt.log
  T2V_E2E_CHROMIUM=${T2V_E2E_CHROMIUM:-$(command -v chromium chromium-browser google-chrome | head -n 1 || true)}
  if [[ -z $T2V_E2E_CHROMIUM && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "installing chromium"
    { apt-get update -q &&
      DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends chromium fonts-liberation; } \
      >"$log" 2>&1 || missing="chromium cannot be installed: see $log, or set T2V_E2E_CHROMIUM"
    T2V_E2E_CHROMIUM=$(command -v chromium || true)
  fi
  if [[ -z $T2V_E2E_CHROMIUM ]]; then
    echo "FAILED  the page in a browser: $missing"
    echo "0 1" >>"$T2V_E2E_TALLY"
    return
  fi
  export T2V_E2E_CHROMIUM
  python_tests test_page.py
}

# ---- servers ---------------------------------------------------------------------------------------------------------

# Nine ports in a row: on one host Weaviate takes a node's RPC port to be the one after its Raft port. Below the range that
# outgoing connections take theirs from, for the sidecar has to get its port a second time.
free_ports() {
  python3 - <<'PYTHON'
import contextlib, random, socket
while True:
    ports = range(first := random.randrange(20000, 32000), first + 9)
    with contextlib.ExitStack() as held:
        try:
            for port in ports:
                held.enter_context(socket.socket()).bind(("", port))
        except OSError:
            continue
    print(*ports)
    break
PYTHON
}

# ready URL SECONDS NAME: waits until URL answers 2xx, while the servers started so far live.
ready() {
  local deadline=$((SECONDS + $2))
  until curl --noproxy '*' -sf -o /dev/null --max-time 2 "$1"; do
    [[ -z $SIDECAR_PID ]] || kill -0 "$SIDECAR_PID" 2>/dev/null || die "the sidecar ended while $3 was starting"
    [[ -z $WEAVIATE_PID ]] || kill -0 "$WEAVIATE_PID" 2>/dev/null || die "Weaviate ended while $3 was starting"
    [[ $SECONDS -lt $deadline ]] || die "$3 was not ready after $2 s"
    sleep 0.2
  done
}

# Both servers get a fresh environment, so that nobody's settings leak in.
start_sidecar() {
  env -i PATH="$PATH" HOME="$HOME" RUST_LOG="${RUST_LOG:-info}" ${CACHE_BYTES:+T2V_CACHE_BYTES=$CACHE_BYTES} \
    "$BIN" --model "$MODEL" --listen "127.0.0.1:$SIDECAR_PORT" >>"$WORK/sidecar.log" 2>&1 &
  SIDECAR_PID=$!
  ready "http://127.0.0.1:$SIDECAR_PORT/.well-known/ready" 60 "the sidecar"
}

stop_sidecar() {
  stop "$SIDECAR_PID"
  SIDECAR_PID=
}

# text2vec-openai counts tokens with OpenAI's vocabulary, which it downloads unless it is in this folder. Ours has a token for
# each byte: it counts too many, and needs no download.
token_vocabulary() {
  mkdir -p "$WORK/tiktoken"
  python3 - "$WORK/tiktoken" <<'PYTHON'
import base64, hashlib, pathlib, sys
url = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)]
(pathlib.Path(sys.argv[1]) / hashlib.sha1(url.encode()).hexdigest()).write_text("".join(lines))
PYTHON
}

# start_weaviate VARIABLE=URL…: with the addresses its module is to use.
start_weaviate() {
  token_vocabulary
  env -i PATH="$PATH" HOME="$HOME" TIKTOKEN_CACHE_DIR="$WORK/tiktoken" \
    PERSISTENCE_DATA_PATH="$WORK/data" AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED=true \
    ENABLE_MODULES=text2vec-transformers,text2vec-openai,text2vec-ollama,text2vec-model2vec,reranker-transformers,reranker-cohere \
    MODEL2VEC_INFERENCE_API="http://127.0.0.1:$NEIGHBOURS_PORT/models/m2v" RERANKER_INFERENCE_API="http://127.0.0.1:$NEIGHBOURS_PORT/models/rank" \
    DEFAULT_VECTORIZER_MODULE=text2vec-transformers OPENAI_APIKEY=unused COHERE_APIKEY=unused \
    "$@" API_BASED_MODULES_DISABLED=true \
    LOG_FORMAT=text DISABLE_TELEMETRY=true GO_PROFILING_DISABLE=true DISK_USE_READONLY_PERCENTAGE=100 \
    CLUSTER_HOSTNAME=node1 CLUSTER_IN_LOCALHOST=true CLUSTER_BIND_ADDR=127.0.0.1 CLUSTER_ADVERTISE_ADDR=127.0.0.1 \
    CLUSTER_GOSSIP_BIND_PORT="$GOSSIP_PORT" CLUSTER_DATA_BIND_PORT="$DATA_PORT" \
    RAFT_PORT="$RAFT_PORT" RAFT_INTERNAL_RPC_PORT="$RAFT_RPC_PORT" RAFT_BOOTSTRAP_EXPECT=1 RAFT_TIMEOUTS_MULTIPLIER=1 \
    GRPC_PORT="$WEAVIATE_GRPC_PORT" \
    "$WEAVIATE" --scheme http --host 127.0.0.1 --port "$WEAVIATE_PORT" >>"$WORK/weaviate.log" 2>&1 &
  WEAVIATE_PID=$!
}

# An embedder, a model2vec model and a reranker in one process, each by its name.
start_neighbours() {
  env -i PATH="$PATH" HOME="$HOME" RUST_LOG=warn "$BIN" --model "$MODEL" --model m2v=tests/fixtures/model2vec/wordlevel \
    --model rank=tests/fixtures/rerankers/bert-1 --profile m2v=model2vec --max-text-bytes 5000 \
    --listen "127.0.0.1:$NEIGHBOURS_PORT" >>"$WORK/sidecar.log" 2>&1 &
  NEIGHBOURS_PID=$!
  ready "http://127.0.0.1:$NEIGHBOURS_PORT/.well-known/ready" 60 "the sidecar of three models"
}

weaviate_ready() {
  ready "$WEAVIATE_URL/v1/.well-known/ready" 120 "Weaviate"
}

# Weaviate first: its module waits for ours, so the order in which a pod's containers start does not matter.
start_servers() {
  start_neighbours
  start_weaviate "$ONE_SIDECAR"
  check "Weaviate waits while there is no sidecar" 'inference service not ready' weaviate_waits
  start_sidecar
  weaviate_ready
  check "Weaviate starts once the sidecar is there" 'Serving weaviate' cat "$WORK/weaviate.log"
}

# Weaviate again, on the same data, with another sidecar for queries, whose profile makes other vectors.
start_pair() {
  stop "$WEAVIATE_PID"
  WEAVIATE_PID=
  env -i PATH="$PATH" HOME="$HOME" RUST_LOG=warn "$BIN" --model "$MODEL" --profile sentence-transformers \
    --listen "127.0.0.1:$QUERY_SIDECAR_PORT" >>"$WORK/sidecar.log" 2>&1 &
  QUERY_SIDECAR_PID=$!
  ready "http://127.0.0.1:$QUERY_SIDECAR_PORT/.well-known/ready" 60 "the sidecar for queries"
  start_weaviate TRANSFORMERS_PASSAGE_INFERENCE_API="http://127.0.0.1:$SIDECAR_PORT" \
    TRANSFORMERS_QUERY_INFERENCE_API="http://127.0.0.1:$QUERY_SIDECAR_PORT"
  weaviate_ready
}

# What Weaviate's log says about us, as soon as it says it.
weaviate_waits() {
  for _ in $(seq 150); do
    grep -m 1 "127.0.0.1:$SIDECAR_PORT/.well-known/ready" "$WORK/weaviate.log" && return 0
    sleep 0.2
  done
  return 1
}

# ---- Prometheus' own word on the alerts, and on what the sidecar tells ------------------------------------------------

promtool_checks() {
  local rules=$ROOT/deploy/helm/text2vec-sidecar/monitoring
  check "promtool reads the alerts" '[0-9]+ rules found' "$T2V_PROMETHEUS/promtool" check rules "$rules/rules.yaml" "$rules/rules-kubernetes.yaml"
  check "promtool tests the alerts" 'SUCCESS' "$T2V_PROMETHEUS/promtool" test rules "$ROOT/deploy/monitoring/tests.yaml"
  check "promtool finds nothing wrong with /metrics" '^all is well$' promtool_metrics
}

# It says nothing of a good page.
promtool_metrics() {
  curl --noproxy '*' -sf "http://127.0.0.1:$SIDECAR_PORT/metrics" | "$T2V_PROMETHEUS/promtool" check metrics && echo "all is well"
}

# ---- grpcurl, without a .proto file ----------------------------------------------------------------------------------

grpcurl_checks() {
  local at=127.0.0.1:$SIDECAR_PORT
  local call=("$GRPCURL" -plaintext -max-time 60)
  check "grpcurl lists Vectorizer" '^text2vec\.v1\.Vectorizer$' "${call[@]}" "$at" list
  check "grpcurl lists Module" '^text2vec\.v1\.Module$' "${call[@]}" "$at" list
  check "grpcurl lists Reranker" '^text2vec\.v1\.Reranker$' "${call[@]}" "$at" list
  check "grpcurl reranks two documents" '^1 1$' grpcurl_scores "127.0.0.1:$NEIGHBOURS_PORT"
  check "grpcurl lists the health service" '^grpc\.health\.v1\.Health$' "${call[@]}" "$at" list
  check "grpcurl describes Vectorizer" 'rpc VectorizeStream \( stream ' "${call[@]}" "$at" describe text2vec.v1.Vectorizer
  check "grpcurl describes a message" 'repeated string texts = 1;' "${call[@]}" "$at" describe text2vec.v1.VectorizeRequest
  check "grpcurl vectorizes two texts, 384 numbers each" '^384 384$' grpcurl_dimensions "$at"
  check "grpcurl reads MetaInfo" '"hidden_size": *384' "${call[@]}" "$at" text2vec.v1.Module/MetaInfo
  for service in '' text2vec.v1.Vectorizer text2vec.v1.Module; do
    check "grpcurl health '$service'" '"SERVING"' \
      "${call[@]}" -d "{\"service\": \"$service\"}" "$at" grpc.health.v1.Health/Check
  done
}

grpcurl_dimensions() {
  "$GRPCURL" -plaintext -max-time 60 -d '{"texts": ["The ship sails at dawn.", "Rain fell all night."]}' \
    "$1" text2vec.v1.Vectorizer/Vectorize |
    python3 -c 'import json, sys; print(*[len(r["vector"]["values"]) for r in json.load(sys.stdin)["results"]])'
}

grpcurl_scores() {
  "$GRPCURL" -plaintext -max-time 60 -d '{"query": "Which ship?", "documents": ["The ship sails at dawn.", "Rain fell."]}' \
    "$1" text2vec.v1.Reranker/Rerank |
    python3 -c 'import json, sys; print(*[len(r["scores"]["values"]) for r in json.load(sys.stdin)["results"]])'
}

# ---- the run ---------------------------------------------------------------------------------------------------------

[[ -x $BIN ]] || die "no sidecar at $BIN: run \`make e2e\`, or set T2V_BIN"
[[ -e $MODEL/config.json ]] || die "no model in $MODEL: run \`make model\`, or set T2V_TEST_MODEL"
mkdir -p "$CACHE"

part "Weaviate and grpcurl" tools
part "clients in Python and JavaScript" clients "${1:-}"

read -r SIDECAR_PORT WEAVIATE_PORT WEAVIATE_GRPC_PORT GOSSIP_PORT DATA_PORT RAFT_PORT RAFT_RPC_PORT QUERY_SIDECAR_PORT NEIGHBOURS_PORT <<<"$(free_ports)"
WEAVIATE_URL=http://127.0.0.1:$WEAVIATE_PORT
ONE_SIDECAR=TRANSFORMERS_INFERENCE_API=http://127.0.0.1:$SIDECAR_PORT
export T2V_E2E_SIDECAR=127.0.0.1:$SIDECAR_PORT T2V_E2E_WEAVIATE_PORT=$WEAVIATE_PORT
export T2V_E2E_WEAVIATE_GRPC_PORT=$WEAVIATE_GRPC_PORT T2V_BIN=$BIN T2V_TEST_MODEL=$MODEL T2V_PROMETHEUS
export T2V_E2E_WEAVIATE_BIN=$WEAVIATE T2V_E2E_QUERY_SIDECAR=127.0.0.1:$QUERY_SIDECAR_PORT T2V_E2E_NEIGHBOURS=127.0.0.1:$NEIGHBOURS_PORT
export T2V_E2E_PYTHON_OLDER=$PYTHON_OLDER T2V_E2E_NODE=$NODE_FOLDER HAYSTACK_TELEMETRY_ENABLED=False
export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost

if [[ ${1:-} == bench ]]; then
  # The same texts come several ways.
  start_neighbours
  CACHE_BYTES=0 start_sidecar
  start_weaviate "$ONE_SIDECAR"
  weaviate_ready
  export T2V_E2E_PIDS="$SIDECAR_PID $WEAVIATE_PID"
  "$PYTHON" "$ROOT/benches/import_rates.py" "${@:2}"
  exit
fi
part "Prometheus" prometheus_tools
part "start" start_servers
part "grpcurl" grpcurl_checks
part "grpcio through reflection" python_tests test_grpc.py
part "Weaviate" python_tests test_weaviate.py -m "not sidecar_stopped and not sidecar_restarted"
part "bulk loader" python_tests test_loader.py
part "contract equality" python_tests test_contract.py
part "import of a corpus" python_tests test_import.py
part "clients of other APIs" python_tests test_clients.py
part "frameworks" python_tests test_frameworks.py
part "the page of clients" python_tests test_clients_page.py
part "description of the API" python_tests test_openapi.py
part "families" python_tests test_families.py
part "Weaviate's other modules" python_tests test_weaviate_modules.py
part "model2vec and reranker" python_tests test_neighbours.py
part "updates" python_tests test_updates.py
part "overload" python_tests test_overload.py
part "tokens" python_tests test_tokens.py
part "promtool" promtool_checks
part "alerts and dashboard" python_tests test_monitoring.py
part "the page in a browser" page_tests
part "sidecars that are replaced" python_tests test_replacement.py
part "one for passages, one for queries" python_tests test_pair.py -m "not weaviate_pair"
stop_sidecar
part "Weaviate while the sidecar is down" python_tests test_weaviate.py -m sidecar_stopped
start_sidecar
part "Weaviate after it came back" python_tests test_weaviate.py -m sidecar_restarted
part "Weaviate with a pair" start_pair
part "Weaviate's variables for a pair" python_tests test_pair.py -m weaviate_pair

echo "all parts: $SECONDS s"
read -r passed failed <<<"$(awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }' "$T2V_E2E_TALLY")"
[[ $failed == 0 ]] || show_logs
LOGS_SHOWN=yes # the count stays the last line
echo "$passed passed, $failed failed"
[[ $failed == 0 && $passed -gt 0 ]]

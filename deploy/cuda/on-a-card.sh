#!/usr/bin/env bash
# All that needs a card, in less than nine minutes: `bash DIR/run.sh [PART…]` in the repository, with what bundle.sh has put into
# DIR. Each part has a limit of time, runs whatever came of those before it, and writes into DIR/out; the end is a line for each,
# and the exit code that of the worst. With OUT, a folder, all that is written is also packed into OUT/results.tar.gz after each
# part: a run that is cut off leaves what it had.
#
#   test-gpu test-cuda   the kernels' own tests, and all families' vectors beside the CPU's
#   bench                benches/gpu/run.py: ours, sentence-transformers, torch on packed rows, the server
#   cpu                  the encoder on the CPU, by threads: f32, bf16x3, bf16, int8
#   memcheck racecheck   passes of our kernels under compute-sanitizer: that of the machine, else the one that came along
#   host                 the host's side alone, by cores
#
# PYTHON (else python3) measures what it can: without torch and sentence-transformers these are left out. WEIGHTS (else DIR) is
# the folder of the model's weights, where they were taken along in pieces.
set -uo pipefail

# A part ends with 77 where it cannot be shown here, and says why in its last line.
skip() { echo "$*"; exit 77; }

tests() { # program, filter…
  local program=$programs/$1
  shift
  [ -x "$program" ] || skip "the bundle has no $(basename "$program")"
  local one code=0 ran=0 log
  for one in "$program" "$program"-[0-9]*; do
    [ -x "$one" ] || continue
    log=$(mktemp -p "$work")
    CARGO_MANIFEST_DIR=$PWD "$one" --nocapture --test-threads 1 "$@" 2>&1 | tee "$log" || code=1
    grep -qE '^running [1-9]' "$log" && ran=1
    # Behind the test's name.
    if grep -q 'NO GPU HERE' "$log"; then code=1; fi
  done
  if [ "$ran$code" = 00 ]; then skip "there is no such test"; fi
  return "$code"
}

# The kernels' own tests under a tool: every kernel, in every precision, and no search for a budget. What CUDA's libraries do is
# not looked at.
sanitizer() { # tool
  local sanitizer code=0 log=$work/$1.log
  sanitizer=$(command -v compute-sanitizer || ls "$here/sanitizer/bin/compute-sanitizer" /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null |
    head -n 1)
  [ -n "$sanitizer" ] || skip "there is no compute-sanitizer here, and none came along (SANITIZER=1 bundle.sh)"
  local tests=("$programs/test-engine" --test-threads 1 --nocapture on_a_card::every_kernel_is_run)
  "${tests[@]}" 2>&1 | tee "$log" || return 1
  if grep -q 'NO GPU HERE' "$log"; then return 1; fi
  "$sanitizer" --tool "$1" --error-exitcode 9 --print-limit 20 --report-api-errors no "${tests[@]}" 2>&1 | tee "$log" || code=1
  if grep -qiE 'device not supported|not supported on' "$log"; then skip "compute-sanitizer does not work on this machine"; fi
  return "$code"
}

bench() {
  local more=()
  read -ra more <<<"${BENCH:-}"
  # What is stopped at its limit is this itself, which then prints what it has.
  exec "$python" benches/gpu/run.py --model "$model" --ours "$programs/gpu" --load "$programs/load" \
    --binary "$programs/text2vec-sidecar" --limit 180 --save "$out/bench.json" --logs "$out" "${more[@]}"
}
cpu() {
  echo "matrix units that the CPU names: $(grep -m1 -oE 'amx_[a-z0-9]+' /proc/cpuinfo | sort -u | tr '\n' ' ')"
  echo "instruction set, with the matrix unit if it is amx (the encoder says which it takes):"
  "$programs/encoder" encoders f32 bf16x3 bf16 int8
  echo "f32 without a matrix unit:"
  "$programs/encoder" encoders avx512 f32
}

# One of them, as this script starts itself for each.
if [ "${1:-}" = --part ]; then
  : "${here:?}" "${out:?}" "${python:?}" "${work:?}" "${programs:?}" "${model:?}"
  case $2 in
    test-cuda)
      code=0
      T2V_BIN=$programs/text2vec-sidecar tests test-cuda || code=$?
      tests test-engine on_a_card || code=$?
      exit "$code"
      ;;
    # All but those of the crate's own that need no card.
    test-gpu) tests test-gpu --skip emulated:: --skip layout:: ;;
    memcheck | racecheck) sanitizer "$2" ;;
    bench) bench ;;
    host) exec "$programs/host" --model "$model" --corpus benches/corpus.jsonl ;;
    cpu) cpu ;;
    *) echo "there is no such part"; exit 1 ;;
  esac
  exit
fi

here=$(cd "$(dirname "$0")" && pwd)
out=$here/out
python=${PYTHON:-python3}
whole=${LIMIT:-530}
[ -f benches/gpu/run.py ] || { echo "run this in the repository: benches/gpu/run.py is not here" >&2; exit 2; }
work=$(mktemp -d) dmon=
trap 'rm -rf "$work"; if [ -n "$dmon" ]; then kill "$dmon"; fi' EXIT
rm -rf "$out"
mkdir -p "$out"
pack() {
  if [ -n "${OUT:-}" ]; then tar -czf "$work/results" -C "$here" out && cp "$work/results" "$OUT/results.new" && mv "$OUT/results.new" "$OUT/results.tar.gz"; fi
}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

programs=$work/programs
mkdir "$programs"
tar -x -J -f "$here/programs.tar.xz" -C "$programs" 2>/dev/null ||
  "$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$here/programs.tar.xz" "$programs" ||
  { echo "$here/programs.tar.xz cannot be unpacked: neither tar with xz nor $python can" >&2; exit 2; }

# Where the libraries of CUDA may be that the binary loads; torch brings them too.
places() {
  tr ':' '\n' <<<"$here/libraries:${LD_LIBRARY_PATH:-}"
  "$python" -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("nvidia")
for base in (spec.submodule_search_locations if spec else []):
    for lib in sorted(pathlib.Path(base).glob("*/lib")):
        print(lib)' 2>/dev/null
  ls -d /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib /usr/lib/x86_64-linux-gnu /usr/lib64 2>/dev/null
}
for library in libcublasLt.so.13 libcublas.so.13 libcurand.so.10; do
  place=$(places | while read -r folder; do
    if [ -n "$folder" ] && [ -e "$folder/$library" ]; then echo "$folder"; break; fi
  done)
  if [ -n "$place" ]; then
    echo "$library: $place"
  else
    echo "MISSING: $library, in none of: $(places | sort -u | tr '\n' ' '); what is computed on the card will fail"
  fi
done | tee "$out/libraries.txt"
while read -r library place; do
  if [ "$library" != MISSING: ]; then LD_LIBRARY_PATH=$place${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; fi
done <"$out/libraries.txt"
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
{
  date -u
  nvidia-smi 2>&1
  uname -a
  lscpu 2>&1
  "$python" -c 'import sys; print(sys.version)
for name in ("torch", "sentence_transformers", "transformers", "flash_attn"):
    try: print(name, __import__(name).__version__)
    except Exception as error: print(name, "cannot be used:", error)' 2>&1
} >"$out/machine.txt" & # beside the first part: these imports take half a minute the first time
# The clock and the power of the card, a line a second; it also keeps the driver awake between the parts.
if command -v nvidia-smi >/dev/null; then
  nvidia-smi dmon -s pucm -o T >"$out/dmon.txt" 2>&1 &
  dmon=$!
fi

# The real weights, also put together from pieces, else a model of the same sizes. tests/cuda.rs looks for them in the repository.
model=$here/model
pieces=("${WEIGHTS:-$here}"/weights-*)
if [ -f models/all-MiniLM-L6-v2/model.safetensors ]; then
  model=models/all-MiniLM-L6-v2
elif [ -f "${pieces[0]}" ]; then
  cat "${pieces[@]}" >"$model/model.safetensors"
  mkdir -p models
  ln -sfn "$model" models/all-MiniLM-L6-v2
  model=models/all-MiniLM-L6-v2
elif [ ! -f "$model/model.safetensors" ]; then
  echo "no weights of all-MiniLM-L6-v2 here: its sizes with random weights are measured" | tee -a "$out/machine.txt"
  model=$work/random-MiniLM-L6
  "$python" benches/gpu/random_models.py minilm "$here/model" "$model"
fi
export here out python work programs model
names=("$@")
if [ ${#names[@]} = 0 ]; then names=(test-gpu test-cuda bench cpu memcheck racecheck host); fi
summary=() worst=0
for name in "${names[@]}"; do
  case $name in
    test-gpu) limit=50 ;;
    test-cuda) limit=110 ;;
    bench) limit=230 ;;
    cpu) limit=110 ;;
    *) limit=40 ;;
  esac
  left=$((whole - SECONDS)) cut=
  if [ "$left" -lt "$limit" ]; then limit=$left cut=", which were left of all"; fi
  if [ "$limit" -lt 5 ]; then
    summary+=("FAIL  $name: no time was left")
    worst=1
    continue
  fi
  began=$SECONDS
  timeout -k 10 "$limit" bash "$0" --part "$name" >"$out/$name.log" 2>&1
  code=$?
  took="$((SECONDS - began)) s"
  case $code in
    0) summary+=("PASS  $name ($took)") ;;
    77) summary+=("SKIP  $name: $(tail -n 1 "$out/$name.log")") ;;
    124 | 137) summary+=("FAIL  $name: stopped after $limit s$cut; see $name.log") worst=1 ;;
    *) summary+=("FAIL  $name: exit code $code ($took); see $name.log") worst=1 ;;
  esac
  echo "${summary[-1]}"
  grep -hE 'cosine at least|COMPARED ON A CARD|ERROR SUMMARY|RACECHECK SUMMARY' "$out/$name.log"
  pack
done
if [ -f "$out/bench.log" ]; then
  echo
  grep -aE '^(Machine:|\*\*No card|\||- )' "$out/bench.log"
fi
echo
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
pack
exit "$worst"

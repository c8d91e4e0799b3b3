#!/usr/bin/env bash
# All that needs a card, in less than nine minutes: `bash DIR/run.sh [PART…]` in the repository, with what bundle.sh has put into
# DIR. Each part has a limit of time, runs whatever came of those before it, and writes into OUT (else DIR/out); the end is a line
# for each, and the exit code that of the worst.
#
#   test-cuda test-engine test-gpu   vectors of the card beside the CPU's, and the kernels' own tests
#   memcheck racecheck               one pass under compute-sanitizer: that of PATH, else the one that came along
#   bench                            benches/gpu/run.py: ours, sentence-transformers, torch on packed rows, the server
#   bench-gpu                        the kernels alone
#   host                             the host's side alone, by cores
#   cpu                              the encoder on the CPU, by threads: f32, bf16x3, bf16, int8
#
# PYTHON (else python3) measures what it can: without torch and sentence-transformers these are left out.
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
    if grep -q '^NO GPU HERE' "$log"; then code=1; fi
  done
  [ "$ran" = 1 ] || skip "there is no such test"
  return "$code"
}

sanitizer() { # tool
  local sanitizer
  sanitizer=$(command -v compute-sanitizer || ls "$here/sanitizer/bin/compute-sanitizer" 2>/dev/null) ||
    skip "there is no compute-sanitizer on PATH, and none came along (SANITIZER=1 bundle.sh)"
  local pass=("$programs/text2vec-sidecar" embed --model tests/fixtures/families/bert --device cuda --precision f16 "a text of some words" "another")
  "${pass[@]}" >"$work/pass.log" 2>&1 || { cat "$work/pass.log"; return 1; }
  "$sanitizer" --tool "$1" --error-exitcode 9 --print-limit 20 "${pass[@]}" >"$work/$1.log" 2>&1
  local code=$?
  cat "$work/$1.log"
  if grep -qiE 'device not supported|not supported on' "$work/$1.log"; then skip "compute-sanitizer does not work on this machine"; fi
  return "$code"
}

bench() {
  local more=()
  read -ra more <<<"${BENCH:-}"
  "$python" benches/gpu/run.py --model "$model" --ours "$programs/gpu" --load "$programs/load" \
    --binary "$programs/text2vec-sidecar" --limit 230 --save "$out/bench.json" "${more[@]}"
}
bench_kernels() {
  [ -x "$programs/bench-gpu" ] || skip "the bundle has no benchmark of the kernels"
  local one code=0
  for one in "$programs/bench-gpu" "$programs"/bench-gpu-[0-9]*; do
    if [ -x "$one" ]; then "$one" --bench || code=1; fi
  done
  return "$code"
}
cpu() {
  echo "matrix units that the CPU names: $(grep -m1 -oE 'amx_[a-z0-9]+' /proc/cpuinfo | sort -u | tr '\n' ' ')"
  echo "instruction set, with the matrix unit if it is amx (the encoder says which it takes):"
  "$programs/encoder" encoders f32 bf16x3 bf16 int8
}

# One of them, as this script starts itself for each.
if [ "${1:-}" = --part ]; then
  : "${here:?}" "${out:?}" "${python:?}" "${work:?}" "${programs:?}" "${model:?}"
  case $2 in
    test-cuda) T2V_BIN=$programs/text2vec-sidecar tests test-cuda ;;
    test-engine) tests test-engine gpu ;;
    test-gpu) tests test-gpu cuda on_a_card ;;
    memcheck | racecheck) sanitizer "$2" ;;
    bench) bench ;;
    bench-gpu) bench_kernels ;;
    host) "$programs/host" --model "$model" --corpus benches/corpus.jsonl ;;
    cpu) cpu ;;
    *) echo "there is no such part"; exit 1 ;;
  esac
  exit
fi

here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
python=${PYTHON:-python3}
whole=${LIMIT:-530}
[ -f benches/gpu/run.py ] || { echo "run this in the repository: benches/gpu/run.py is not here" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
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
} >"$out/machine.txt"

# The real weights, else a model of the same sizes.
model=$here/model
if [ -f models/all-MiniLM-L6-v2/model.safetensors ]; then
  model=models/all-MiniLM-L6-v2
elif [ ! -f "$model/model.safetensors" ]; then
  echo "no weights of all-MiniLM-L6-v2 here: its sizes with random weights are measured" | tee -a "$out/machine.txt"
  model=$work/random-MiniLM-L6
  "$python" benches/gpu/random_models.py minilm "$here/model" "$model"
fi
export here out python work programs model
names=("$@")
if [ ${#names[@]} = 0 ]; then names=(test-cuda test-engine test-gpu memcheck racecheck bench bench-gpu host cpu); fi
summary=() worst=0
for name in "${names[@]}"; do
  case $name in
    test-cuda) limit=100 ;;
    test-engine | bench-gpu) limit=50 ;;
    test-gpu) limit=70 ;;
    memcheck | racecheck) limit=45 ;;
    bench) limit=280 ;;
    host) limit=60 ;;
    *) limit=130 ;;
  esac
  left=$((whole - SECONDS))
  if [ "$left" -lt "$limit" ]; then limit=$left; fi
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
    124 | 137) summary+=("FAIL  $name: stopped after $limit s; see $name.log") worst=1 ;;
    *) summary+=("FAIL  $name: exit code $code ($took); see $name.log") worst=1 ;;
  esac
  echo "${summary[-1]}"
done
if [ -f "$out/bench.log" ]; then
  echo
  grep -E '^(Machine:|\*\*No card|\||- )' "$out/bench.log"
fi
echo
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
exit "$worst"

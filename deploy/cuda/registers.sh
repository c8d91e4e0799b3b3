#!/usr/bin/env bash
# Prints a Markdown table of the GPU kernels (crates/gpu/kernels): what each takes of a multiprocessor, for each generation of
# cards that there is machine code for. Ends with 1 where registers do not suffice. Needs a C++ compiler (g++), neither a GPU
# nor Rust.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/cuda/env.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
generations=(80 89 90)
for generation in "${generations[@]}"; do
  log=$folder/$generation.log
  nvcc -cubin -std=c++17 -O3 -Xptxas -v "-arch=sm_$generation" -o "$folder/cubin" crates/gpu/kernels/all.cu >"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
  }
done
python3 - "$folder" "${generations[@]}" <<'END'
import pathlib, re, sys

folder, generations = pathlib.Path(sys.argv[1]), sys.argv[2:]
kernels = {}
for generation in generations:
    spilled = 0
    for line in (folder / f"{generation}.log").read_text().splitlines():
        if found := re.search(r"Function properties for (\S+)", line):
            name = found[1]
        elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(found[1]) + int(found[2])
            if spilled:
                kernels.setdefault(name, {})[generation] = ("?", "?", spilled)
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.setdefault(name, {})[generation] = (int(found[1]), int(shared[1]) if shared else 0, spilled)

print("Registers of a thread, bytes of a block's shared memory beside what a launch asks for, bytes spilled.\n")
print("| kernel | " + " | ".join(f"sm_{generation}" for generation in generations) + " |")
print("|---|" + "---:|" * len(generations))
for name, parts in sorted(kernels.items()):
    cells = (" / ".join(map(str, parts[generation])) if generation in parts else "" for generation in generations)
    print(f"| {name} | " + " | ".join(cells) + " |")
bad = sorted(name for name, parts in kernels.items() if any(part[2] for part in parts.values()))
if bad or not kernels:
    sys.exit("too few registers, so memory takes their place: " + ", ".join(bad) if bad else "no kernels were compiled")
END

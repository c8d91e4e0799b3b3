#!/usr/bin/env python3
"""Gets the peers ready: two virtual environments (two releases of ONNX Runtime cannot share one) and the model as ONNX.

Everything lies in a cache directory and is made once:

    export/    torch, transformers, optimum, ONNX Runtime 1.22: exports the model, and runs as a peer
    newest/    the newest ONNX Runtime of the package index, OpenVINO if it installs
    onnx/      plain.onnx, fused.onnx (optimum's O2), int8.onnx (optimum's avx512_vnni preset)
    base/      with --base: a model of BERT-base's sizes with random weights, and onnx-base/

Delete the directory to start afresh, or newest/ alone to get a newer ONNX Runtime. Large: about 8 GB, most of it what the
package of torch brings along.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def default_cache() -> Path:
    """Where the peers live unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "text2vec-sidecar" / "bench-peers"


def environment(directory: Path, requirements: Path, wanted: tuple[str, ...] = ()) -> Path:
    """A virtual environment with these requirements; its Python. Packages of `wanted` may fail to install."""
    python = directory / "bin" / "python"
    done = directory / "installed.txt"
    asked = requirements.read_text() + "".join(f"{name}\n" for name in wanted)
    if done.exists() and done.read_text() == asked:
        return python
    print(f"installing {requirements.name} into {directory}", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-r", str(requirements)], check=True)
    for name in wanted:
        if subprocess.run([*install, name]).returncode != 0:
            print(f"{name} does not install here: it will be missing in the tables", file=sys.stderr)
    done.write_text(asked)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory of the model")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--base", action="store_true", help="also a model of BERT-base's sizes")
    args = parser.parse_args()
    export = environment(args.cache / "export", HERE / "requirements-export.txt")
    environment(args.cache / "newest", HERE / "requirements-newest.txt", wanted=("openvino",))
    models = {args.model: args.cache / "onnx"}
    if args.base:
        base = args.cache / "base"
        if not (base / "tokenizer.json").exists():
            subprocess.run([str(export), str(HERE / "random_base.py"), str(args.model), str(base)], check=True)
        models[base] = args.cache / "onnx-base"
    for model, onnx in models.items():
        if not (onnx / "complete").exists():
            print(f"exporting {model} to {onnx}", flush=True)
            subprocess.run([str(export), str(HERE / "export.py"), str(model), str(onnx)], check=True)
            (onnx / "complete").touch()


if __name__ == "__main__":
    main()

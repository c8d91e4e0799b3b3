#!/usr/bin/env python3
"""The bits of vectors, to compare two builds on one CPU: `bits.py BINARY > before`, the same of the other, `cmp before after`.

200 texts of the fixtures, by every precision, profile and engine that this CPU has, and those of the fixtures' families
by every executor. A line for each way and text: a digest of the vector, or what was said in its place."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures"


def lines(binary, model, texts, *options):
    way = " ".join([Path(model).name, *options])
    command = [binary, "embed", "--model", str(model), *options]
    done = subprocess.run(command, input="\n".join(texts) + "\n", capture_output=True, text=True)
    vectors = done.stdout.splitlines()
    if done.returncode or len(vectors) != len(texts):
        reason = [line for line in done.stderr.splitlines() if line.startswith("error")]
        return [f"{way}: {reason[:1]} {len(vectors)} vectors"]
    return [f"{way} {number}: {hashlib.sha256(vector.encode()).hexdigest()[:24]}" for number, vector in enumerate(vectors)]


def main():
    binary = sys.argv[1]
    texts = json.loads((FIXTURES / "tokenizers/ids.json").read_text())["texts"]
    texts = [" ".join(text.split()) for text in texts]
    texts = [text for text in texts if text][:200]
    assert len(texts) == 200
    # Not `auto`, which measures what is faster.
    engines = ["amx", "avx512", "avx2", "neon", "portable"]
    for precision in ["f32", "bf16x3", "bf16", "int8"]:
        for engine in engines:
            # The order of its sums is the same under every profile.
            profiles = ["transformers", "sentence-transformers"] if engine in ["avx512", "amx"] else ["transformers"]
            for profile in profiles:
                some = texts if engine != "portable" else texts[:20]
                options = ["--precision", precision, "--engine", engine, "--profile", profile]
                print(*lines(binary, ROOT / "models/all-MiniLM-L6-v2", some, *options), sep="\n", flush=True)
    texts = [" ".join(entry["text"].split()) or "." for entry in json.loads((FIXTURES / "families/texts.json").read_text())]
    folders = [FIXTURES / "families", FIXTURES / "onnx", FIXTURES / "sentence_transformers"]
    for model in sorted(path for folder in folders for path in folder.iterdir() if (path / "config.json").is_file()):
        for engine in [*engines, "candle", "candle-packed"]:
            print(*lines(binary, model, texts, "--engine", engine), sep="\n", flush=True)


main()

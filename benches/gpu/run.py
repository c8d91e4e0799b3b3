#!/usr/bin/env python3
"""Texts per second of our backend beside sentence-transformers, in one run and taking turns: tables in Markdown.

Both embed the whole corpus (benches/corpus.jsonl, again and again), tokenizing included, on the same card and in f16:
sentence-transformers sorted by length as it sorts by itself, with the batch size that turns out best; ours as it serves. Then
tokens per second as a share of what the card reaches in a large product of bf16 matrices, measured here too.

Needs a Python with torch and sentence-transformers, and our benchmark: built here, or named with --ours.
`--device cpu --texts 50 --batches 8,32` shows that everything works, on a machine without a card; its figures say nothing
about one.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CORPUS = ROOT / "benches" / "corpus.jsonl"
sys.path.insert(0, str(ROOT / "benches" / "peers"))

from processes import Process  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "all-MiniLM-L6-v2")
    parser.add_argument("--no-base", action="store_true", help="without the model of bge-base's sizes (random weights)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the script [%(default)s]")
    parser.add_argument("--precision", default="f16", choices=["f16", "bf16", "f32"])
    parser.add_argument("--texts", type=int, default=20_000, help="texts of a turn [%(default)s]")
    parser.add_argument("--batches", default="32,64,128,256,512,1024,2048", help="sentence-transformers' [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ours", help="binary of benches/gpu.rs, else built", default=os.environ.get("T2V_GPU_BENCH"))
    parser.add_argument("--save", type=Path, help="also write all figures to this file, as JSON")
    return parser.parse_args()


def build(device):
    """Builds our benchmark as it is served; the executable."""
    command = ["cargo", "bench", "--no-run", "--bench", "gpu", "--message-format", "json"]
    if device != "cpu":
        command += ["--features", "cuda"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [message for message in map(json.loads, lines) if message.get("executable")]
    return next(message["executable"] for message in built if message["target"]["name"] == "gpu")


def corpus(count):
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    return [texts[place % len(texts)] for place in range(count)]


class Peer:
    """sentence-transformers on the same device."""

    def __init__(self, model, device, precision):
        import sentence_transformers
        import torch
        import transformers

        self.torch = torch
        self.device = device
        dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[precision]
        # The older name was given up in transformers 5.
        name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
        self.model = sentence_transformers.SentenceTransformer(str(model), device=device, model_kwargs={name: dtype})
        versions = f"{sentence_transformers.__version__}, torch {torch.__version__.split('+')[0]}"
        self.name = f"sentence-transformers {versions}, {precision}"

    def run(self, texts, batch):
        """Seconds for all texts; vectors come back to the host, as a server needs them."""
        began = time.perf_counter()
        self.model.encode(texts, batch_size=batch, convert_to_numpy=True, show_progress_bar=False)
        return time.perf_counter() - began

    def vector(self, text):
        return self.model.encode([text], convert_to_numpy=True)[0].astype("float64").tolist()

    def best_batch(self, texts, sizes):
        """The batch size with the shortest time, and all times. One that does not fit is left out."""
        times = {}
        self.run(texts[: max(sizes)], min(sizes))
        for batch in sizes:
            try:
                times[batch] = min(self.run(texts, batch) for _ in range(2))
            except self.torch.OutOfMemoryError:
                break
        return min(times, key=times.get), times


def peak(device):
    """TFLOP/s of a large product of bf16 matrices: the best of several."""
    import torch

    size, passes = (8192, 20) if device != "cpu" else (1024, 3)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(passes):
        if device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e12


def flops_of_a_token(model, mean_length):
    """Multiplications and additions of the matrix products for one token of a text of average length."""
    config = json.loads((model / "config.json").read_text())
    hidden, layers, inner = (config[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    return layers * (2 * (4 * hidden * hidden + 2 * hidden * inner) + 4 * mean_length * hidden)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def spread(values, digits=0):
    """Minimum–median–maximum."""
    return "–".join(f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def compare(name, model, args, texts, tflops):
    """One model: who is how fast."""
    command = [args.ours, "--model", model, "--device", args.device, "--precision", args.precision]
    # The binary may have been built elsewhere.
    command += ["--corpus", str(CORPUS)]
    # On a CPU what runs on cards is to be tried, not the CPU's own kernels.
    command += ["--texts", str(args.texts), *(["--engine", "candle-packed"] if args.device == "cpu" else [])]
    ours, peer = Process(command), Peer(model, args.device, args.precision)
    closest = min(cosine([float(v) for v in ours.ask(f"vector {n}").split()], peer.vector(texts[n])) for n in range(8))
    batch, times = peer.best_batch(texts, [int(size) for size in args.batches.split(",")])
    ours.ask("run")
    own, theirs, tokens = [], [], 0
    for round_number in range(args.rounds):
        seconds, count, tokens = ours.ask("run").split()
        own.append(float(count) / float(seconds))
        theirs.append(len(texts) / peer.run(texts, batch))
        print(f"{name}: round {round_number + 1}/{args.rounds}", file=sys.stderr, flush=True)
    ours.close()
    mean_length = int(tokens) / len(texts)
    flops = flops_of_a_token(model, mean_length)
    print(f"{name}: {len(texts)} texts of {mean_length:.0f} tokens on average; worst cosine of 8 vectors {closest:.6f}\n")
    print("| | passages/s | tokens/s | of the peak in bf16 products |\n|---|---|---|---|")
    for who, rates in ((f"ours: {ours.version}", own), (f"{peer.name}, batches of {batch}", theirs)):
        token_rates = [rate * mean_length for rate in rates]
        share = statistics.median(token_rates) * flops / 1e12 / tflops
        print(f"| {who} | {spread(rates)} | {spread(token_rates)} | {share:.1%} |")
    ratios = [a / b for a, b in zip(own, theirs)]
    print(f"\nOurs / sentence-transformers, per round: {spread(ratios, 2)}\n", flush=True)
    return {"ours": own, "peer": theirs, "batch": batch, "by batch": times, "tokens": int(tokens), "cosine": closest}


def random_base(model, folder):
    """A model of bge-base's sizes (those of BERT-base) with random weights, and the tokenizer of the other."""
    script = ROOT / "benches" / "peers" / "random_base.py"
    subprocess.run([sys.executable, str(script), str(model), str(folder)], check=True)
    return folder


def main():
    args = parse_args()
    try:
        import sentence_transformers  # noqa: F401
        import torch
    except ImportError as error:
        sys.exit(f"{error}: install torch and sentence-transformers into {sys.executable}, or run this with a Python that has them")
    if args.device != "cpu" and not torch.cuda.is_available():
        sys.exit(
            "torch sees no NVIDIA GPU here: passages/s, tokens/s, the ratio to sentence-transformers and the share of the "
            "card's peak cannot be measured. --device cpu --texts 50 --batches 8,32 tries the script without a card"
        )
    args.ours = args.ours or build(args.device)
    card = torch.cuda.get_device_name(args.device) if args.device != "cpu" else platform.processor() or "CPU"
    tflops = peak(args.device)
    print(f"Machine: {card}, {os.cpu_count()} cores, {datetime.date.today()}. {args.precision}, {args.rounds} rounds, ", end="")
    print(f"peak {tflops:.1f} TFLOP/s in bf16 products.\n")
    if args.device == "cpu":
        print("**No card: all of these are figures of a CPU, and none of a GPU is known from this run.**\n")
    texts = corpus(args.texts)
    saved = {"card": card, "tflops": tflops, args.model.name: compare(args.model.name, args.model, args, texts, tflops)}
    if not args.no_base:
        with tempfile.TemporaryDirectory() as folder:
            base = random_base(args.model, Path(folder) / "base")
            saved["base"] = compare("bge-base's sizes, random weights", base, args, texts, tflops)
    if args.save:
        args.save.write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Our backend on a card beside sentence-transformers, beside what torch reaches on packed rows, and the whole server under
load: one table in Markdown, in one run of about eight minutes.

Texts (benches/corpus.jsonl, again and again) are embedded by both in turns, tokenizing included: sentence-transformers sorted by
length as it sorts by itself, with the batch size that turns out best; ours as it serves, several times a turn, as once is over
too soon to be measured. The models: the one that is named, and
two with random weights of BERT-base's and Qwen3-0.6B's sizes (random_models.py). bound.py: packed rows and attention over
sequences of different lengths in torch, tokens on the card already. server.py: HTTP and gRPC, with benches/load.rs. The share
of the peak is of what the card reaches in a large product of bf16 matrices, measured here too.

Needs our benchmarks and binary: built here, or named. A Python with torch and sentence-transformers measures those too; whatever
cannot be measured says why. `--device cpu --texts 50 --batches 8,32` shows that everything works, on a machine without a card; its
figures say nothing about one.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("model", "base", "decoder", "bound", "server")
ROOT = Path(__file__).resolve().parent.parent.parent
CORPUS = ROOT / "benches" / "corpus.jsonl"
# How often ours embeds the texts in a turn.
OURS_A_TURN = 5
sys.path.insert(0, str(ROOT / "benches" / "peers"))

import bound  # noqa: E402
import random_models  # noqa: E402
import server  # noqa: E402
from processes import Process  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "all-MiniLM-L6-v2")
    parser.add_argument("--parts", default=",".join(PARTS), help="which to measure [%(default)s]")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the script [%(default)s]")
    parser.add_argument("--precision", default="f16", choices=["f16", "bf16", "f32"])
    help_texts = "texts of a turn; of the larger models a half and a quarter [%(default)s]"
    parser.add_argument("--texts", type=int, default=20_000, help=help_texts)
    parser.add_argument("--batches", default="32,64,128,256,512,1024,2048", help="sentence-transformers' [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement of the server [%(default)s]")
    limit = "after so many seconds no further part is begun [%(default)s]"
    parser.add_argument("--limit", type=int, default=480, help=limit)
    built = "else built"
    parser.add_argument("--ours", help=f"binary of benches/gpu.rs, {built}", default=os.environ.get("T2V_GPU_BENCH"))
    parser.add_argument("--load", help=f"binary of benches/load.rs, {built}", default=os.environ.get("T2V_LOAD_BENCH"))
    parser.add_argument("--binary", help=f"the sidecar, {built}", default=os.environ.get("T2V_BIN"))
    parser.add_argument("--save", type=Path, help="also write all figures to this file, as JSON")
    parser.add_argument("--logs", type=Path, help="the folder for what ours and the server log [none is kept]")
    args = parser.parse_args()
    args.parts = args.parts.split(",")
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: use {','.join(PARTS)}")
    return args


def build(device, *wanted):
    """Builds a part of ours as it is served; the executable. `wanted` as cargo is asked, its name last."""
    command = ["cargo", *wanted[:-1], *([] if wanted[0] == "build" else ["--bench", wanted[-1]])]
    command += ["--message-format", "json"]
    if device != "cpu":
        command += ["--features", "cuda"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [message for message in map(json.loads, lines) if message.get("executable")]
    return next(message["executable"] for message in built if message["target"]["name"] == wanted[-1])


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


def flops_of_a_token(config, mean_length):
    """Multiplications and additions of the matrix products for one token of a text of average length."""
    hidden, layers, inner = (config[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    keys = config.get("num_key_value_heads", heads)
    projections = 2 * hidden * heads * head + 2 * hidden * keys * head
    decoder = config.get("hidden_act") == "silu"
    # A gated feed-forward has three matrices; a token of a decoder sees half of the others.
    feed_forward, attention = (3, 2) if decoder else (2, 4)
    return layers * (2 * (projections + feed_forward * hidden * inner) + attention * mean_length * heads * head)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def spread(values, digits=0):
    """Minimum–median–maximum."""
    return "–".join(f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def config_of(model):
    return json.loads((model / "config.json").read_text())


def start_ours(model, args, texts):
    command = [args.ours, "--model", model, "--device", args.device, "--precision", args.precision]
    # The binary may have been built elsewhere.
    command += ["--corpus", str(CORPUS)]
    # On a CPU what runs on cards is to be tried, not the CPU's own kernels.
    command += ["--texts", str(len(texts)), *(["--engine", "candle-packed"] if args.device == "cpu" else [])]
    return Process(command, log=args.logs and args.logs / f"gpu-{Path(model).name}.log")


def compare(name, model, args, texts, without_peer):
    """One model: who is how fast."""
    ours, peer = start_ours(model, args, texts), None
    found = {"name": name, "texts": len(texts), "ours": [], "ours is": ours.version, "notes": []}
    try:
        if without_peer:
            raise RuntimeError(without_peer)
        peer = Peer(model, args.device, args.precision)
        pairs = [([float(v) for v in ours.ask(f"vector {n}").split()], peer.vector(texts[n])) for n in range(8)]
        found["cosine"] = min(cosine(*pair) for pair in pairs)
        few = texts[: max(len(texts) // 4, 50)]
        found["batch"], found["by batch"] = peer.best_batch(few, [int(size) for size in args.batches.split(",")])
        found["peer is"] = peer.name
    except Exception as error:  # ours can be measured without it
        peer = None
        found["notes"].append(f"sentence-transformers is not measured: {one_line(error)}")
    ours.ask("run")
    theirs = []
    for round_number in range(args.rounds):
        runs = [ours.ask("run").split() for _ in range(OURS_A_TURN if args.device != "cpu" else 1)]
        _, count, tokens = runs[0]
        found["ours"].append(len(runs) * float(count) / sum(float(run[0]) for run in runs))
        if peer:
            theirs.append(len(texts) / peer.run(texts, found["batch"]))
        print(f"{name}: round {round_number + 1}/{args.rounds}", file=sys.stderr, flush=True)
    ours.close()
    found["mean length"] = int(tokens) / len(texts)
    found["flops"] = flops_of_a_token(config_of(model), found["mean length"])
    if peer:
        found["peer"] = theirs
        found["ratios"] = [a / b for a, b in zip(found["ours"], theirs)]
    return found


def one_line(error):
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__


def figure(value, digits=0):
    return "–" if value is None else f"{value:,.{digits}f}"


def table(saved):
    """All that was measured, as rows of one table."""
    tflops = saved.get("tflops")
    rows = []

    def share(tokens, flops):
        return f"{tokens * flops / 1e12 / tflops:.1%}" if tflops else "–"

    for key in ("model", "base", "decoder"):
        model = saved.get(key)
        bounds = [row for row in saved.get("bound", {}).get(key, []) if "tokens/s" in row]
        best = max((row["tokens/s"] for row in bounds), default=None)
        if model:
            length, flops = model["mean length"], model["flops"]
            ours = statistics.median(model["ours"]) * length
            to_peer = spread(model["ratios"], 2) if "ratios" in model else "–"
            to_bound = figure(ours / best if best else None, 2)
            rate = spread(model["ours"])
            rows.append((f"{model['name']}: **ours**", rate, figure(ours), "", to_peer, to_bound, share(ours, flops)))
        if model and "peer" in model:
            who = f"{model['name']}: sentence-transformers, batches of {model['batch']}"
            tokens = statistics.median(model["peer"]) * length
            to = figure(tokens / best if best else None, 2)
            rows.append((who, spread(model["peer"]), figure(tokens), "", "", to, share(tokens, flops)))
        for row in bounds:
            who = f"{row['name']}: torch, packed, {row['how']}, {row['tokens']} tokens"
            tokens = row["tokens/s"]
            rows.append((who, figure(row["passages/s"]), figure(tokens), "", "", "", share(tokens, row["flops"])))
    for row in saved.get("server", []):
        failed = f", **{row['failed']} failed**" if row["failed"] else ""
        who = f"server: {row['what']}, connections: {row['connections']}{failed}"
        # Where nothing was answered there is no latency.
        times = f"{row['p50']:.2f} / {row['p99']:.2f}" if row["passages/s"] else "–"
        rows.append((who, figure(row["passages/s"]), "", times, "", "", ""))
    heads = ("", "passages/s", "tokens/s", "p50 / p99, ms", "ours ÷ sentence-transformers", "÷ bound", "of the bf16 peak")
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def torch_on(device):
    """Why torch measures nothing on this device, else nothing."""
    try:
        import sentence_transformers  # noqa: F401
        import torch
    except Exception as error:  # a library of its own may be missing too
        return f"{one_line(error)}, in {sys.executable}"
    if device != "cpu" and not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    return None


class Stopped(BaseException):
    """SIGTERM came: whoever limits the time gets what was measured before."""


def stop(*_):
    raise Stopped("the time was over")


def main():
    started = time.monotonic()
    args = parse_args()
    signal.signal(signal.SIGTERM, stop)
    without_torch = torch_on(args.device)
    saved, notes, failed = {}, [], []
    on_cpu = args.device == "cpu"

    def part(name, work):
        """What a part gives; it may fail, and the others go on."""
        began = time.monotonic()
        if began - started > args.limit:
            notes.append(f"{name}: not measured: " + (f"--limit {args.limit}" if args.limit >= 0 else "the time was over"))
            return None
        try:
            return work()
        except (Exception, Stopped) as error:
            notes.append(f"{name}: not measured: {one_line(error)}")
            # What torch does not have is nobody's failure.
            failed.extend([] if isinstance(error, LookupError) else [name])
            # What was asked to end does not begin another part, but prints what it has.
            args.limit = -1 if isinstance(error, Stopped) else args.limit
            return None
        finally:
            # What is known is kept, should a later part be cut off.
            if args.save:
                args.save.write_text(json.dumps({**saved, "notes": notes}, indent=1))
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    machine = platform.processor() or platform.machine()
    if without_torch:
        notes.append(f"sentence-transformers, the bound and the peak: not measured: {without_torch}")
    else:
        if not on_cpu:
            import torch

            machine = torch.cuda.get_device_name(args.device)
        saved["tflops"] = part("peak", lambda: peak(args.device))
    saved["card"] = machine
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"base": "base", "decoder": "decoder-2" if on_cpu else "decoder"}
        names = {"model": args.model.name, "base": "BERT-base's sizes", "decoder": "Qwen3-0.6B's sizes"}
        if on_cpu:
            names["decoder"] += ", 2 layers"
        models = {"model": args.model}
        for key, kind in kinds.items():
            if key in args.parts:
                models[key] = Path(folder) / key
                part(f"making {names[key]}", lambda: random_models.write(kind, args.model, models[key]))
        measured = [key for key in ("model", "base", "decoder") if key in args.parts]
        if measured:
            args.ours = args.ours or part("building", lambda: build(args.device, "bench", "--no-run", "gpu"))
        for key, fewer in (("model", 1), ("base", 2), ("decoder", 4)):
            if key in measured and args.ours:
                texts = corpus(max(args.texts // fewer, 8))
                saved[key] = part(names[key], lambda: compare(names[key], models[key], args, texts, without_torch))
                notes += [f"{names[key]}: {note}" for note in (saved[key] or {}).get("notes", [])]
        if "server" in args.parts:
            args.load = args.load or part("building", lambda: build(args.device, "bench", "--no-run", "load"))
            args.binary = args.binary or part("building", lambda: build(args.device, "build", "--release", "text2vec-sidecar"))
            if args.load and args.binary:
                saved["server"] = []
                part("server", lambda: serve(args, saved["server"]))
        if "bound" in args.parts and not without_torch:
            saved["bound"] = {}
            for key in ("model", "base"):
                if key in models:
                    rows = part(f"bound of {names[key]}", lambda: bound_of(names[key], models[key], args))
                    saved["bound"][key] = rows or []
                    notes += [
                        f"bound of {names[key]}: {row['how']}, {row['tokens']} tokens: not measured: {row['failed']}"
                        for row in saved["bound"][key]
                        if "failed" in row
                    ]
    saved["notes"] = notes
    report(args, saved)
    if args.save:
        args.save.write_text(json.dumps(saved, indent=1))
    # Something must have been measured, and nothing may have failed.
    if failed or not any(saved.get(key) for key in ("model", "base", "decoder", "bound", "server")):
        sys.exit(f"not measured: {', '.join(failed) or 'anything'}")


def bound_of(name, model, args):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    every = [len(one.ids) for one in tokenizer.encode_batch(corpus(1000))]
    dtype = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}[args.precision]
    sizes, seconds = ((16384, 32768, 65536), 1.0) if args.device != "cpu" else ((512,), 0.2)
    config = config_of(model)
    flops = flops_of_a_token(config, statistics.mean(every))
    rows = bound.measure(config, every, dtype, args.device, sizes, seconds)
    return [{**row, "name": name, "flops": flops} for row in rows]


def serve(args, rows):
    """Fills in the rows of the server, as they are measured."""
    flags = ["--device", args.device, "--precision", args.precision, "--profile", "sentence-transformers"]
    if args.device == "cpu":
        flags += ["--engine", "candle-packed"]
    log = args.logs and args.logs / "server.log"
    for row in server.measure(args.binary, args.load, args.model, flags, CORPUS, args.seconds, log):
        rows.append(row)


def report(args, saved):
    print(f"Machine: {saved['card']}, {os.cpu_count()} cores, {datetime.date.today()}. {args.precision}, {args.rounds} rounds", end="")
    print(f", peak {saved['tflops']:.1f} TFLOP/s in bf16 products.\n" if saved.get("tflops") else ", no peak measured.\n")
    if args.device == "cpu":
        print("**No card: all of these are figures of a CPU, and none of a GPU is known from this run.**\n")
    print(table(saved))
    print()
    for key in ("model", "base", "decoder"):
        if model := saved.get(key):
            closest = f"; worst cosine of 8 vectors {model['cosine']:.6f}" if "cosine" in model else ""
            print(f"- {model['name']}: {model['texts']} texts of {model['mean length']:.0f} tokens on average{closest}.")
            print(f"  Ours: {model['ours is']}." + (f" {model['peer is']}." if "peer is" in model else ""))
    attention = {row["attention"] for rows in saved.get("bound", {}).values() for row in rows}
    for name in sorted(attention):
        print(f"- Attention of the bound: {name}; ÷ bound is against the best of its rows.")
    for note in saved["notes"]:
        print(f"- {note}")


if __name__ == "__main__":
    main()

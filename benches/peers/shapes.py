#!/usr/bin/env python3
"""The sizes people run of today's families, with random weights: ours (`benches/shapes.rs`) beside torch and ONNX Runtime, taking
turns.

    python3 benches/peers/shapes.py BINARY [NAME...] [--rounds 3] [--threads 2]

BINARY is what `cargo bench --bench shapes --no-run` built; this Python needs torch and transformers 5, and for ONNX Runtime
onnxruntime, onnx and onnxscript: the graph is what torch exports. Prints a Markdown table: milliseconds for 32 and 256 tokens, the
median of the rounds, and the best peer's over ours at the same precision.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTHS = (32, 256)


def models():
    import transformers as hf

    def llama(kind, vocabulary, hidden, heads, kv, size, layers, between, **more):
        return kind(vocab_size=vocabulary, hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv, head_dim=size,
                    num_hidden_layers=layers, intermediate_size=between, **more)

    return {
        "eurobert-210m": lambda: llama(hf.EuroBertConfig, 128256, 768, 12, 12, 64, 12, 3072),
        "qwen3-embedding-0.6b": lambda: llama(hf.Qwen3Config, 151669, 1024, 16, 8, 128, 28, 3072, use_cache=False),
        "embeddinggemma-300m": lambda: llama(hf.Gemma3TextConfig, 262144, 768, 3, 1, 256, 24, 1152, sliding_window=512,
                                             use_bidirectional_attention=True, use_cache=False),
        "mmbert-small": lambda: hf.ModernBertConfig(
            vocab_size=256000, hidden_size=384, num_attention_heads=6, num_hidden_layers=22, intermediate_size=1152),
        "gte-multilingual-base": lambda: hf.GteConfig(
            vocab_size=250048, hidden_size=768, num_attention_heads=12, num_hidden_layers=12, intermediate_size=3072),
        "nomic-embed-v1.5": lambda: hf.NomicBertConfig(
            vocab_size=30528, hidden_size=768, num_attention_heads=12, num_hidden_layers=12, intermediate_size=3072),
    }


def clock(compute):
    """Milliseconds by length, each the median of some. `compute` takes a row of ids."""
    import torch

    times = []
    for length in LENGTHS:
        ids = torch.arange(length)[None] * 911 % 30000 + 2
        one = []
        for _ in range(9):
            start = time.perf_counter()
            compute(ids)
            one.append((time.perf_counter() - start) * 1e3)
        times.append(statistics.median(one[1:]))
    print(json.dumps(times))


def torch_model(name, threads):
    import torch
    import transformers as hf

    torch.set_num_threads(threads)
    return hf.AutoModel.from_config(models()[name]()).eval()


# Each of these runs in a process of its own.

def torch_times(name, precision, threads):
    import torch

    model = torch_model(name, threads).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    with torch.inference_mode():
        clock(lambda ids: model(input_ids=ids, attention_mask=torch.ones_like(ids)))


def export(name, path, threads):
    import torch

    class States(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    ids = torch.arange(40)[None] + 2
    tokens = {1: torch.export.Dim("tokens", min=2, max=512)}
    states = States(torch_model(name, threads))
    with torch.inference_mode():
        program = torch.onnx.export(states, (ids, torch.ones_like(ids)), dynamo=True, verbose=False,
                                    dynamic_shapes={"ids": tokens, "mask": tokens}, input_names=["ids", "mask"])
    program.save(path, external_data=True)


def onnx_times(path, threads):
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    clock(lambda ids: session.run(None, {"ids": ids.numpy(), "mask": numpy.ones_like(ids.numpy())}))


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr[-2000:])
    return (done.stdout.strip().splitlines() or [""])[-1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    for_itself = parser.add_argument_group("for itself")
    for_itself.add_argument("--torch", help="the precision to time torch with")
    for_itself.add_argument("--export", help="where to write a graph")
    for_itself.add_argument("--onnx", help="the graph to time ONNX Runtime with")
    given = parser.parse_args()
    if given.torch:
        return torch_times(given.names[0], given.torch, given.threads)
    if given.export:
        return export(given.names[0], given.export, given.threads)
    if given.onnx:
        return onnx_times(given.onnx, given.threads)
    kinds = [("ours", "f32"), ("torch", "f32"), ("onnx", "f32"), ("ours", "bf16"), ("torch", "bf16"), ("ours", "int8")]
    print("| shape | tokens | f32: ours | torch | ONNX Runtime | ratio | bf16: ours | torch | ratio | int8: ours | s to load | "
          "resident MB, f32 |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in given.names or list(models()):
        with tempfile.TemporaryDirectory() as work:
            measure(given, name, kinds, str(Path(work) / "model.onnx"))


def measure(given, name, kinds, graph):
    def itself(*more):
        return run([sys.executable, __file__, given.binary, name, "--threads", str(given.threads), *more])

    times = {kind: [] for kind in kinds}
    load = memory = None
    itself("--export", graph)
    for _ in range(given.rounds):
        for kind in kinds:
            match kind:
                case ("ours", precision):
                    fields = run([given.binary, "--one-shape", name, precision]).split()
                    times[kind].append([float(fields[3]), float(fields[4])])
                    if precision == "f32":
                        load, memory = fields[2], fields[5]
                case ("torch", precision):
                    times[kind].append(json.loads(itself("--torch", precision)))
                case _:
                    times[kind].append(json.loads(itself("--onnx", graph)))
    for place, length in enumerate(LENGTHS):
        middle = {kind: statistics.median(each[place] for each in rounds) for kind, rounds in times.items()}
        ours = [middle["ours", precision] for precision in ("f32", "bf16", "int8")]
        torch, torch_bf16, onnx = middle["torch", "f32"], middle["torch", "bf16"], middle["onnx", "f32"]
        print(f"| {name} | {length} | {ours[0]:.1f} | {torch:.1f} | {onnx:.1f} | {min(torch, onnx) / ours[0]:.2f} | {ours[1]:.1f} | "
              f"{torch_bf16:.1f} | {torch_bf16 / ours[1]:.2f} | {ours[2]:.1f} | {load} | {memory} |", flush=True)


if __name__ == "__main__":
    main()

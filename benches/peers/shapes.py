#!/usr/bin/env python3
"""The sizes people run of today's families, with random weights: ours (`benches/shapes.rs`) beside torch, taking turns.

    python3 benches/peers/shapes.py BINARY [NAME...] [--rounds 3] [--threads 2]

BINARY is what `cargo bench --bench shapes --no-run` built; this Python needs torch and transformers 5. Prints a Markdown table:
milliseconds for 32 and 256 tokens, the median of the rounds, and the best of torch over ours at the same precision.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

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


def torch_times(name, precision, threads):
    """Run in a process of its own."""
    import torch
    import transformers as hf

    torch.set_num_threads(threads)
    model = hf.AutoModel.from_config(models()[name]())
    model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32).eval()
    times = []
    with torch.inference_mode():
        for length in LENGTHS:
            ids = torch.arange(length)[None] * 911 % 30000 + 2
            one = []
            for _ in range(9):
                start = time.perf_counter()
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
                one.append((time.perf_counter() - start) * 1e3)
            times.append(statistics.median(one[1:]))
    print(json.dumps(times))


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr[-2000:])
    return done.stdout.strip().splitlines()[-1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch", help="(for itself) the precision to time torch with")
    given = parser.parse_args()
    if given.torch:
        return torch_times(given.names[0], given.torch, given.threads)
    kinds = [("ours", "f32"), ("torch", "f32"), ("ours", "bf16"), ("torch", "bf16"), ("ours", "int8")]
    print("| shape | tokens | ours f32 | torch f32 | ratio | ours bf16 | torch bf16 | ratio | ours int8 | load s, f32 | MB, f32 |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in given.names or list(models()):
        times = {kind: [] for kind in kinds}
        load = memory = None
        for _ in range(given.rounds):
            for kind in kinds:
                if kind[0] == "ours":
                    fields = run([given.binary, "--one-shape", name, kind[1]]).split()
                    times[kind].append([float(fields[3]), float(fields[4])])
                    if kind[1] == "f32":
                        load, memory = fields[2], fields[5]
                else:
                    line = run([sys.executable, __file__, given.binary, name, "--torch", kind[1], "--threads", str(given.threads)])
                    times[kind].append(json.loads(line))
        for place, length in enumerate(LENGTHS):
            middle = {kind: statistics.median(each[place] for each in rounds) for kind, rounds in times.items()}
            ours = [middle["ours", precision] for precision in ("f32", "bf16", "int8")]
            theirs = [middle["torch", precision] for precision in ("f32", "bf16")]
            print(f"| {name} | {length} | {ours[0]:.1f} | {theirs[0]:.1f} | {theirs[0] / ours[0]:.2f} | {ours[1]:.1f} | {theirs[1]:.1f} "
                  f"| {theirs[1] / ours[1]:.2f} | {ours[2]:.1f} | {load} | {memory} |", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Our engine beside its peers, in one run, taking turns: tables in Markdown.

    run.py latency        milliseconds of one forward pass by tokens and threads, against the best peer
    run.py contention     the same for 32 tokens beside two busy processes, and under a CPU quota of 1.5 cores
    run.py throughput     texts per second of the whole server over HTTP, against ONNX Runtime without a server
    run.py start          start to first vector, and memory, by precision

Each variant is a process of its own that waits without using the CPU while another is measured. A round visits all of
them, so that a machine that drifts drifts for all; ratios are taken within a round and given as minimum-median-maximum.
`prepare.py` makes what the peers need; `make bench-peers` runs both.
"""

import argparse
import datetime
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from prepare import default_cache
from processes import ENGINES, HERE, Burners, Process, Quota, Variant, memory

ROOT = HERE.parent.parent
CORPUS = ROOT / "benches" / "corpus.jsonl"
# Between two turns: threads of the last one that still spin go to sleep.
PAUSE = 0.05


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "contention", "throughput", "start"])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--onnx", help="directory of the exports below the cache", default="onnx")
    parser.add_argument("--peer", help="binary of benches/peer.rs, else built", default=os.environ.get("T2V_PEER"))
    parser.add_argument("--load", help="binary of benches/load.rs, else built", default=os.environ.get("T2V_LOAD"))
    parser.add_argument("--binary", help="our server, else built", default=os.environ.get("T2V_BIN"))
    parser.add_argument("--precisions", default="f32,bf16x3,f16,bf16,int8", help="ours, separated by commas [%(default)s]")
    parser.add_argument("--flags", action="append", default=[], help="throughput: further flags of a server; repeatable")
    parser.add_argument("--only", default="", help="regular expression: only variants whose name it finds")
    parser.add_argument("--tokens", default="8,32,128,384")
    parser.add_argument("--threads", default="2,1", help="0 is each engine's own choice")
    parser.add_argument("--connections", default="1,8,32")
    parser.add_argument("--texts", type=int, default=1000, help="throughput: texts of the corpus per turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn", type=float, default=0.2, help="seconds of passes per turn [%(default)s]")
    parser.add_argument("--save", type=Path, help="also write all figures to this file, as JSON")
    args = parser.parse_args()
    needed = {"throughput": ("load", "binary"), "start": ("binary",)}.get(args.what, ("peer",))
    missing = [name for name in needed if getattr(args, name) is None]
    if missing:
        built = build()
        for name in missing:
            setattr(args, name, built["text2vec-sidecar" if name == "binary" else name])
    return args


def build():
    """Builds the benchmarks and the server, as users get them; the executables by name."""
    command = ["cargo", "bench", "--no-run", "--bench", "peer", "--bench", "load", "--message-format", "json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [message for message in map(json.loads, lines) if message.get("executable")]
    return {message["target"]["name"]: message["executable"] for message in built}


def variants(args):
    """Everything there is to compare; environments that are not there are left out."""
    export, newest = (args.cache / name / "bin" / "python" for name in ("export", "newest"))
    found = []
    for precision in args.precisions.split(","):
        command = (args.peer, "--model", args.model, "--threads", "THREADS", "--precision", precision)
        found.append(Variant(f"ours {precision}", precision, True, command))
    files = [("plain", "f32", args.cache / args.onnx / "plain.onnx"), ("fused", "f32", args.cache / args.onnx / "fused.onnx")]
    files.append(("avx512_vnni", "int8", args.cache / args.onnx / "int8.onnx"))
    if given := os.environ.get("T2V_BENCH_ONNX_INT8"):
        # Our replay of the graph competes with what else runs that very file.
        command = (args.peer, "--model", given, "--threads", "THREADS")
        found.append(Variant(f"ours {Path(given).name}", "graph", True, command))
        files.append((Path(given).name, "int8", Path(given) / "model_quantized.onnx"))
    for name, python in (("ORT newest", newest), ("ORT 1.22", export)):
        for kind, precision, path in files:
            if path.exists():
                command = (python, ENGINES / "onnxruntime_peer.py", path, "THREADS")
                found.append(Variant(f"{name} {precision} {kind}", precision, False, command))
    has_openvino = list((args.cache / "newest").glob("lib/python*/site-packages/openvino"))
    for precision in ("f32", "bf16"):
        command = (export, ENGINES / "torch_peer.py", args.model, "THREADS", precision)
        found.append(Variant(f"torch sdpa {precision}", precision, False, command))
        if has_openvino:
            command = (newest, ENGINES / "openvino_peer.py", files[0][2], "THREADS", precision)
            found.append(Variant(f"OpenVINO {precision}", precision, False, command))
    return [variant for variant in found if re.search(args.only, variant.name)]


def start(variant, threads, cgroup=None):
    """A process of a variant, or none with the reason on standard error: a peer that does not run is left out."""
    command = [str(threads) if part == "THREADS" else part for part in variant.command]
    if variant.ours and threads == 0:
        at = command.index("--threads")
        del command[at : at + 2]
    try:
        return Process(command, cgroup)
    except (RuntimeError, OSError) as error:
        if variant.ours:
            raise
        print(f"{variant.name} does not run: {error}", file=sys.stderr)
        return None


def token_ids(args, lengths):
    """The same ids for everyone, by length."""
    command = [args.cache / "newest/bin/python", ENGINES / "token_ids.py", args.model / "tokenizer.json", CORPUS]
    found = json.loads(subprocess.check_output([*command, *map(str, lengths)]))
    assert [len(ids) for ids in found] == lengths, "the corpus is too short"
    return dict(zip(lengths, found))


def machine():
    """What the figures were made on, and when."""
    name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "CPU")
    cores = os.cpu_count()
    return f"{name}, {cores} cores, Linux {platform.release().split('-')[0]}, {datetime.date.today()}"


def spread(values, digits=2):
    """Minimum-median-maximum."""
    return "–".join(f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def percentile(values, share):
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(head, rows):
    """Prints a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def turn(process, ids, seconds, alone=True):
    """Milliseconds of the passes of one turn, some `seconds` long; again if others used the machine meanwhile."""
    process.ask("ids " + " ".join(map(str, ids)))
    estimate = min(process.times(2))
    count = max(4, min(2000, int(seconds * 1e3 / estimate)))
    for _ in range(100):
        times, others = process.others_cpu(lambda: process.times(count))
        if not alone or others < 0.1:
            return times
        print(f"  disturbed: others use {others:.1f} cores", file=sys.stderr, flush=True)
        time.sleep(2)
    raise SystemExit("the machine is busy with other things: measure when it is idle")


def check(processes, ids):
    """Prints how far each variant's mean hidden state is from torch's or our f32 one: they must run the same model."""
    vectors = {}
    for variant, process in processes.items():
        process.ask("ids " + " ".join(map(str, ids)))
        vectors[variant.name] = [float(value) for value in process.ask("vector").split()]
    oracle = next(name for name in ("torch sdpa f32", "ours f32", next(iter(vectors))) if name in vectors)

    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b))
        return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5

    for name, vector in vectors.items():
        print(f"  {name}: cosine to {oracle} {cosine(vector, vectors[oracle]):.7f}", file=sys.stderr)


def rounds_of(args, processes, ids, alone=True):
    """All turns: `{(variant, tokens): [times of round 1, times of round 2, …]}`."""
    figures = {}
    order = list(processes)
    for round_number in range(args.rounds):
        for tokens, sequence in ids.items():
            for variant in order:
                time.sleep(PAUSE)
                figures.setdefault((variant, tokens), []).append(turn(processes[variant], sequence, args.turn, alone))
        # Nobody always follows the same neighbour.
        order = order[1:] + order[:1]
        print(f"round {round_number + 1}/{args.rounds}", file=sys.stderr, flush=True)
    return figures


def best_peer(figures, tokens, ours, score):
    """The peer with the lowest score (a function of all its rounds): of the same precision in bf16 and int8, else of f32;
    for a graph what runs the same file."""
    rivals = [v for v, t in figures if t == tokens and not v.ours]
    if ours.precision == "graph":
        rivals = [v for v in rivals if v.name.endswith(ours.name.removeprefix("ours"))]
    else:
        wanted = ours.precision if ours.precision in ("bf16", "int8") else "f32"
        rivals = [v for v in rivals if v.precision == wanted]
    return min(rivals, key=lambda variant: score(figures[variant, tokens]), default=None)


def latency(args):
    lengths = [int(tokens) for tokens in args.tokens.split(",")]
    ids = token_ids(args, lengths)
    saved = {"machine": machine()}
    print(f"Machine: {machine()}. Model {args.model.name}, batch 1, {args.rounds} rounds.\n")
    for threads in map(int, args.threads.split(",")):
        processes = {variant: start(variant, threads) for variant in variants(args)}
        processes = {variant: process for variant, process in processes.items() if process}
        check(processes, ids[lengths[min(1, len(lengths) - 1)]])
        figures = rounds_of(args, processes, ids)
        medians = {key: [statistics.median(times) for times in rounds] for key, rounds in figures.items()}
        print(f"{threads} threads, ms (median of the rounds' medians):\n")
        head = ["", *(f"{tokens} tokens" for tokens in lengths)]
        rows = []
        for variant, process in processes.items():
            name = variant.name if variant.ours else f"{variant.name} ({process.version})"
            rows.append([name, *(f"{statistics.median(medians[variant, tokens]):.2f}" for tokens in lengths)])
        table(head, rows)
        print(f"{threads} threads, the best peer's time / ours, per round (minimum–median–maximum):\n")
        rows = []
        for variant in filter(lambda variant: variant.ours, processes):
            row = [variant.name]
            for tokens in lengths:
                rival = best_peer(medians, tokens, variant, statistics.median)
                if rival:
                    ratios = [b / a for a, b in zip(medians[variant, tokens], medians[rival, tokens])]
                    row.append(f"{spread(ratios)} ({rival.name.removeprefix('ORT ')})")
                else:
                    row.append("")
            rows.append(row)
        table(head, rows)
        saved[threads] = {f"{v.name} {t}": values for (v, t), values in medians.items()}
        for process in processes.values():
            process.close()
    return saved


def contention(args):
    """p50 and p99 of one length beside busy processes and under a quota, as engines behave by default and by threads."""
    length = int(args.tokens.split(",")[0]) if args.tokens != "8,32,128,384" else 32
    ids = token_ids(args, [length])
    saved = {"machine": machine()}
    print(f"Machine: {machine()}. Model {args.model.name}, {length} tokens, {args.rounds} rounds.\n")
    for situation in ("alone", "beside 2 busy processes", "quota of 1.5 cores"):
        rows = []
        for threads in map(int, args.threads.split(",")):
            try:
                quota = Quota(1.5) if situation.startswith("quota") else None
            except OSError as error:
                print(f"No quota can be set here: {error}\n")
                continue
            processes = {variant: start(variant, threads, quota and quota.path) for variant in variants(args)}
            processes = {variant: process for variant, process in processes.items() if process}
            burners = Burners(2) if situation.startswith("beside") else None
            figures = rounds_of(args, processes, ids, alone=burners is None)
            if burners:
                burners.close()
            for variant, process in processes.items():
                times = [value for turn_times in figures[variant, length] for value in turn_times]
                p50, p99 = ([percentile(turn_times, share) for turn_times in figures[variant, length]] for share in (0.5, 0.99))
                own = process.version if variant.ours and threads == 0 else ""
                rows.append([f"{variant.name} {own}".strip(), str(threads or "default"), spread(p50), spread(p99), str(len(times))])
                saved[f"{situation} {threads} {variant.name}"] = [p50, p99]
                process.close()
            if quota:
                print(f"throttled {quota.throttled()} times", file=sys.stderr)
                quota.close()
        print(f"{situation.capitalize()}, ms:\n")
        table(["", "threads", "p50 of the rounds", "p99 of the rounds", "passes"], rows)
    return saved


class Server:
    """Our server, with flags."""

    def __init__(self, args, flags):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [args.binary, "--listen", f"127.0.0.1:{self.port}", "--model", str(args.model), "--cache-bytes", "0"]
        self.started = time.perf_counter()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.child = subprocess.Popen([*command, *flags], **quiet)

    def first_vector(self):
        """Seconds from the start of the process to its first vector over HTTP."""
        body = json.dumps({"text": "The London Eye"}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/vectors", body, {"Content-Type": "application/json"}
        )
        while self.child.poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert len(json.load(answer)["vector"]) > 0
                    return time.perf_counter() - self.started
            except OSError:
                time.sleep(0.002)
        raise RuntimeError(f"{' '.join(map(str, self.child.args))} ended: {self.child.returncode}")

    def close(self):
        """Ends it."""
        self.child.terminate()
        try:
            self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def throughput(args):
    newest = args.cache / "newest" / "bin" / "python"
    files = {"f32": args.cache / args.onnx / "plain.onnx", "int8": args.cache / args.onnx / "int8.onnx"}
    connections = [int(count) for count in args.connections.split(",")]
    precisions = args.precisions.split(",")
    flags = [f"--profile {profile} --precision {p}" for p in precisions for profile in ("onnx", "transformers")]
    servers = {text: Server(args, text.split()) for text in flags + args.flags}
    for server in servers.values():
        server.first_vector()
    workers = {}
    for kind in ("f32", "int8") if "int8" in precisions else ("f32",):
        command = [newest, ENGINES / "onnxruntime_workers.py", files[kind], args.model / "tokenizer.json", CORPUS, "2"]
        workers[f"ORT {kind}, 2 workers × 1 thread"] = Process(command)
    rates = {}
    for round_number in range(args.rounds):
        for name, process in workers.items():
            time.sleep(PAUSE)
            rates.setdefault((name, None), []).append(args.texts / float(process.ask(f"texts {args.texts}")))
        for count in connections:
            for name, server in servers.items():
                time.sleep(PAUSE)
                command = [args.load, "--url", f"http://127.0.0.1:{server.port}", "--protocol", "http", "--rounds", "1"]
                command += ["--connections", str(count), "--texts", str(args.texts), "--corpus", str(CORPUS)]
                run = subprocess.run(command, capture_output=True, text=True, check=True)
                (rate,) = re.findall(r"([\d.]+) texts/s, 0 errors", run.stdout + run.stderr)
                rates.setdefault((name, count), []).append(float(rate))
        print(f"round {round_number + 1}/{args.rounds}", file=sys.stderr, flush=True)
    for process in (*workers.values(), *servers.values()):
        process.close()
    print(f"Machine: {machine()}. Model {args.model.name}, {args.rounds} rounds of {args.texts} texts.\n")
    rows = [[name, spread(rates[name, None], 0), *[""] * len(connections)] for name in workers]
    rows += [[name, "", *(spread(rates[name, count], 0) for count in connections)] for name in servers]
    head = [f"{count} connections" for count in connections]
    table(["texts/s", "in-process", *head], rows)
    rows = []
    for name in servers:
        rival = next((w for w in workers if ("int8" in w) == ("int8" in name)), None)
        pairs = [list(zip(rates[name, count], rates[rival, None])) for count in connections]
        rows.append([name, *(spread([a / b for a, b in pair]) for pair in pairs)])
    print("Server's rate / that of ONNX Runtime's workers of the round, in-process:\n")
    table(["", *head], rows)
    return {f"{name} {count}": values for (name, count), values in rates.items()}


def starts(args):
    rows, saved = [], {}
    for precision in args.precisions.split(","):
        seconds, loaded, peaks, embeds = [], [], [], []
        for _ in range(args.rounds):
            server = Server(args, ["--precision", precision])
            seconds.append(server.first_vector())
            now, most = memory(server.child.pid)
            loaded.append(now)
            peaks.append(most)
            server.close()
            began = time.perf_counter()
            command = [args.binary, "embed", "--model", args.model, "--precision", precision, "a text"]
            subprocess.run(command, check=True, capture_output=True)
            embeds.append(time.perf_counter() - began)
        rows.append([precision, spread(seconds), spread(embeds), spread(loaded, 0), spread(peaks, 0)])
        saved[precision] = [seconds, embeds, loaded, peaks]
    print(f"Machine: {machine()}. Model {args.model.name}, {args.rounds} rounds.\n")
    head = ["precision", "server: s to first vector", "`embed`: s", "MiB resident", "MiB at most"]
    table(head, rows)
    return saved


def main():
    args = parse_args()
    saved = {"latency": latency, "contention": contention, "throughput": throughput, "start": starts}[args.what](args)
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        args.save.write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()

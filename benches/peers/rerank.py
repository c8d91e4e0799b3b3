#!/usr/bin/env python3
"""Pairs a second of rerankers, taking turns in one run: ours, the whole server over HTTP, beside sentence-transformers'
CrossEncoder and the newest ONNX Runtime in their own processes. A table in Markdown.

The model has the shape of ms-marco-MiniLM-L-6: the body of all-MiniLM-L6-v2 with a random head. A request is a query and 32
documents of about 100 tokens, each of which comes once. `make bench-rerank` builds what is needed.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import time
from pathlib import Path

from prepare import default_cache, environment
from run import CORPUS, PAUSE, ROOT, build, machine, spread

HERE = Path(__file__).resolve().parent
PEER = HERE / "engines" / "rerank_peer.py"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--python", type=Path, help="with what requirements-rerank.txt names, else installed")
    parser.add_argument("--binary", help="our server, else built", default=os.environ.get("T2V_BIN"))
    parser.add_argument("--precisions", default="f32,bf16,int8", help="ours, separated by commas [%(default)s]")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--words", type=int, default=78, help="of a document: 100 tokens [%(default)s]")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


class Peer:
    """A process that scores what it is sent."""

    def __init__(self, command):
        self.child = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL, text=True)
        if self.child.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{command} does not run")

    def score(self, query, documents):
        self.child.stdin.write(json.dumps({"query": query, "documents": documents}) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def end(self):
        self.child.kill()


class Ours:
    """The server, asked as Weaviate asks it."""

    def __init__(self, binary, folder, precision, threads):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.child = subprocess.Popen(
            [str(binary), "--model", str(folder), "--precision", precision, "--threads", str(threads), "--cache-bytes", "0",
             "--listen", f"127.0.0.1:{self.port}"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
                self.connection.request("GET", "/.well-known/ready")
                answer = self.connection.getresponse()
                answer.read()
                if answer.status == 204:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError("the server does not start")
            time.sleep(0.05)

    def score(self, query, documents):
        started = time.perf_counter()
        body = json.dumps({"query": query, "documents": documents, "property": ""})
        self.connection.request("POST", "/rerank", body, {"Content-Type": "application/json"})
        answer = json.loads(self.connection.getresponse().read())
        taken = time.perf_counter() - started
        return taken, [score["score"] for score in answer["scores"]]

    def end(self):
        self.child.kill()


def requests(args):
    """Each with documents of its own."""
    words = " ".join(json.loads(line)["text"] for line in CORPUS.read_text().splitlines()).split()
    needed = args.words * args.documents
    for start in range(0, len(words) * 1000, needed):
        documents = [[words[(start + at * args.words + i) % len(words)] for i in range(args.words)] for at in range(args.documents)]
        yield " ".join(words[start % len(words):][:8]), [f"{start} " + " ".join(document) for document in documents]


def main():
    args = parse_args()
    python = args.python or environment(args.cache / "rerank", HERE / "requirements-rerank.txt")
    folder = args.cache / "reranker"
    if not (folder / "fused.onnx").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(python), str(PEER), "make", str(args.model), str(folder)], check=True)
    binary = args.binary or build()["text2vec-sidecar"]
    contenders = {f"ours {precision}": Ours(binary, folder, precision, args.threads) for precision in args.precisions.split(",")}
    contenders["sentence-transformers"] = Peer([python, PEER, "torch", folder, args.threads])
    contenders["ONNX Runtime, fused"] = Peer([python, PEER, "onnx", folder, args.threads])
    rates = {name: [] for name in contenders}
    try:
        asked = requests(args)
        for round in range(args.rounds + 1):
            query, documents = next(asked)
            scores = {}
            for name, contender in contenders.items():
                time.sleep(PAUSE)
                seconds, scores[name] = contender.score(query, documents)
                # The first round warms up.
                if round > 0:
                    rates[name].append(args.documents / seconds)
            exact = [name for name in scores if not name.startswith("ours") or name == "ours f32"]
            apart = max(abs(a - b) for name in exact for a, b in zip(scores[exact[0]], scores[name]))
            assert apart < 1e-4, f"the scores are {apart} apart"
    finally:
        for contender in contenders.values():
            contender.end()
    print(f"{args.documents} documents of about 100 tokens a request, {args.threads} threads; {machine()}\n")
    print("| | pairs a second | against sentence-transformers | against ONNX Runtime |")
    print("|---|---|---|---|")
    for name, mine in rates.items():
        ratios = (
            spread([one / other for one, other in zip(mine, rates[peer])])
            for peer in ("sentence-transformers", "ONNX Runtime, fused"))
        print(f"| {name} | {statistics.median(mine):.0f} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()

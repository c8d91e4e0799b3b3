"""The whole server on a card, by the load client of benches/load.rs: over HTTP one text a request, over gRPC in batches."""

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

# Each is one token of BERT's vocabulary: 30 of them and the two at the ends are 32 tokens.
WORDS = (
    "time people year way day man thing woman life child world school state family student group country problem hand part "
    "place case week company system program question work government number"
)


class Server:
    """A sidecar of its own, without a cache, ready."""

    def __init__(self, binary, model, flags, log=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [str(binary), "--listen", self.address, "--model", str(model), *flags]
        self.log = open(log, "w+") if log else tempfile.TemporaryFile("w+")
        environment = {**os.environ, "T2V_CACHE_BYTES": "0"}
        self.child = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)

    def __enter__(self):
        began = time.monotonic()
        while True:
            try:
                with urllib.request.urlopen(f"http://{self.address}/.well-known/ready", timeout=5):
                    return self
            except OSError:
                pass
            if self.child.poll() is not None or time.monotonic() - began > 120:
                self.__exit__()
                raise RuntimeError(f"the server is not ready: {self.said()}")
            time.sleep(0.2)

    def said(self):
        """The last line of its log."""
        self.log.seek(0)
        return (self.log.read().strip().splitlines() or ["it said nothing"])[-1]

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def figures(output):
    """Of the load client's table: texts a second, p50 and p99 in ms (not a number where nothing was answered in time), errors."""
    for line in output.splitlines():
        fields = line.split()
        if len(fields) == 12 and fields[0] in ("http", "grpc", "grpc-batch"):
            rate, p50, _, p99 = (float("nan" if value == "–" else value) for value in fields[3:7])
            return rate, p50, p99, int(fields[7])
    raise RuntimeError(f"the load client said: {output.strip()[-300:]}")


def load(binary, url, corpus, protocol, connections, seconds, batch, clients):
    """One measurement by several clients at once, as each has one thread. Texts a second of all, p50, p99, errors."""
    command = [str(binary), "--url", url, "--corpus", str(corpus), "--protocol", protocol, "--rounds", "1"]
    command += ["--seconds", str(seconds), "--batch", str(batch), "--connections", str(max(1, connections // clients))]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(clients)
    ]
    measured = []
    for child in children:
        output, errors = child.communicate(timeout=seconds + 120)
        # 1: requests failed; they are counted in the table.
        if child.returncode not in (0, 1):
            raise RuntimeError(f"the load client ended with {child.returncode}: {errors.strip()[-300:]}")
        measured.append(figures(output))
    rates, p50s, p99s, failed = zip(*measured)
    return sum(rates), sorted(p50s)[len(p50s) // 2], max(p99s), sum(failed)


def measure(binary, client, model, flags, corpus, seconds, log=None):
    """Gives a row each: what was asked, at how many connections, and what came of it. `log`: the file for what the server logs."""
    with tempfile.TemporaryDirectory() as folder, Server(binary, model, flags, log) as server:
        words = WORDS.split()
        short = Path(folder) / "short.jsonl"
        texts = (" ".join(words[at:] + words[:at]) for at in range(len(words)))
        short.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        plan = [("HTTP, a text of 32 tokens a request", "http", 1, short, 1, 1)]
        plan += [("HTTP, a passage a request", "http", count, corpus, 1, min(4, count)) for count in (1, 8, 32, 128)]
        plan += [("gRPC, 256 passages a request", "grpc-batch", 8, corpus, 256, 4)]
        for what, protocol, connections, texts, batch, clients in plan:
            url = f"http://{server.address}"
            rate, p50, p99, failed = load(client, url, texts, protocol, connections, seconds, batch, clients)
            row = {"what": what, "connections": connections, "passages/s": rate, "p50": p50, "p99": p99}
            yield {**row, "failed": failed}

"""Objects per second into a real Weaviate, by five ways, taking turns: `make bench-weaviate`.

The texts are those of benches/corpus.jsonl, the same for each way, each in a collection of its own that adds nothing to
the text. The sidecar runs without its cache, or the later ways would find the vectors of the earlier ones. Beside the
ways stands what the sidecar does alone with the same texts: one text a request (benches/load.rs), and
`VectorizeBatchStream`. Every second round goes backwards, so that a machine that drifts drifts for all.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time
import urllib.request

import weaviate

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIDECAR = os.environ["T2V_E2E_SIDECAR"]
SIDECAR_PID, WEAVIATE_PID = os.environ["T2V_E2E_PIDS"].split()
WEAVIATE_PORT = int(os.environ["T2V_E2E_WEAVIATE_PORT"])
WEAVIATE_GRPC = int(os.environ["T2V_E2E_WEAVIATE_GRPC_PORT"])
WEAVIATE = f"http://127.0.0.1:{WEAVIATE_PORT}"
# What `text2vec-sidecar import` sends: rows in a stream, streams at once.
CHUNK, STREAMS = 500, 3
# What the client's batch sends to Weaviate: objects in a request, requests at once.
BATCH = {"batch_size": 200, "concurrent_requests": 2}

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from reflected import Reflected  # noqa: E402

def call(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def create(client, name, module, settings):
    """An empty collection, and the class as Weaviate tells it."""
    client.collections.delete(name)
    definition = {"class": name, "vectorizer": module, "properties": [{"name": "body", "dataType": ["text"]}]}
    if module != "none":
        definition["moduleConfig"] = {module: {"vectorizeClassName": False, **settings}}
    call("POST", f"{WEAVIATE}/v1/schema", definition)
    return call("GET", f"{WEAVIATE}/v1/schema/{name}")


def insert(client, name, rows):
    """Rows of (properties, vector or None) through the client's batch."""
    with client.batch.fixed_size(**BATCH) as batch:
        for properties, vector in rows:
            batch.add_object(collection=name, properties=properties, vector=vector)
    failed = client.batch.failed_objects
    assert not failed, f"{len(failed)} failed: {failed[0].message}"


def cpu_seconds(pid):
    """Of a process and its threads, so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_all():
    """Seconds of the sidecar, of Weaviate, and of this client."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return [cpu_seconds(SIDECAR_PID), cpu_seconds(WEAVIATE_PID), sum(own.ru_utime + own.ru_stime for own in used)]


def machine():
    """Seconds that anything kept the machine's cores busy, and those that were ours."""
    user, nice, system, _, _, irq, soft_irq, steal, *_ = map(int, pathlib.Path("/proc/stat").read_text().split()[1:11])
    busy = (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")
    return busy, sum(cpu_of_all())


def one_text_a_request(count, connections):
    """Texts per second as benches/load.rs measures them, and the cores that sidecar, Weaviate and client kept busy."""
    command = f"cargo bench --quiet --bench load -- --url http://{SIDECAR} --protocol http --rounds 1".split()
    command += ["--connections", str(connections), "--texts", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    # Of the table: protocol, connections, server, texts/s, p50, p95, p99, errors, CPU ms/text, RSS MiB, client in %, …
    found = re.search(r"^http +\d+ +A +(.+)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and found, done.stderr
    rate, *_, cpu, _, client, _ = found[1].split()
    return float(rate), [float(rate) * float(cpu) / 1e3, 0.0, os.cpu_count() * float(client) / 100]


class Bench:
    """The ways: each prepares what is not timed and returns what is."""

    def __init__(self, client, server, texts):
        self.client, self.server, self.texts = client, server, texts
        self.model = call("GET", f"http://{SIDECAR}/meta")["sidecar"]["models"][0]
        self.vectors = None

    def through(self, name, module, **settings):
        create(self.client, name, module, settings)
        return lambda: insert(self.client, name, [({"body": text}, None) for text in self.texts])

    def transformers(self):
        return self.through("BenchTransformers", "text2vec-transformers")

    def openai(self):
        return self.through("BenchOpenai", "text2vec-openai", baseURL=f"http://{SIDECAR}", model=self.model)

    def ollama(self):
        return self.through("BenchOllama", "text2vec-ollama", apiEndpoint=f"http://{SIDECAR}", model=self.model)

    def chunk(self, definition, texts):
        """The vectors of one stream."""
        header = {"header": {"config": {"class_json": json.dumps(definition)}}}
        objects = [{"object": {"json": json.dumps({"body": text})}} for text in texts]
        vectors = [None] * len(texts)
        for answer in self.server.call("text2vec.v1.Module", "VectorizeBatchStream", [header, *objects]):
            assert answer.result.WhichOneof("result") == "vector", answer.result.error.message
            vectors[answer.index] = answer.result.vector.values
        return vectors

    def stream(self):
        """The sidecar alone, its vectors thrown away; those of the first time are kept for `given`."""
        definition = create(self.client, "BenchLoader", "text2vec-transformers", {})
        # The server's descriptors are read once, before several threads want them.
        self.chunk(definition, self.texts[:1])
        chunks = [self.texts[start : start + CHUNK] for start in range(0, len(self.texts), CHUNK)]

        def work():
            with concurrent.futures.ThreadPoolExecutor(STREAMS) as ahead:
                made = list(ahead.map(lambda texts: self.chunk(definition, texts), chunks))
            self.vectors = self.vectors or [list(vector) for vectors in made for vector in vectors]

        return work

    def loader(self):
        create(self.client, "BenchLoader", "text2vec-transformers", {})
        lines = "".join(json.dumps({"body": text}) + "\n" for text in self.texts)
        command = [os.environ["T2V_BIN"], "import", "-", "--format", "jsonl", "--collection", "BenchLoader"]
        command += ["--weaviate", WEAVIATE, "--weaviate-grpc", f"127.0.0.1:{WEAVIATE_GRPC}", "--sidecar", SIDECAR]

        def work():
            done = subprocess.run(command, input=lines, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

        return work

    def given(self):
        create(self.client, "BenchGiven", "none", {})
        if self.vectors is None:
            self.stream()()
        rows = [({"body": text}, vector) for text, vector in zip(self.texts, self.vectors)]
        return lambda: insert(self.client, "BenchGiven", rows)

    def timed(self, name, prepare):
        """Objects per second and how many cores each process kept busy."""
        work = prepare(self)
        before, started = cpu_of_all(), time.monotonic()
        work()
        seconds = time.monotonic() - started
        cores = [(after - earlier) / seconds for after, earlier in zip(cpu_of_all(), before)]
        if name is not None:
            count = self.client.collections.use(name).aggregate.over_all(total_count=True).total_count
            assert count == len(self.texts), (name, count)
        return len(self.texts) / seconds, cores


# The key, the collection, how it is done, and the words of the table.
WAYS = [
    ("one", None, 1, "the sidecar alone, one text a request, 1 connection"),
    ("a", "BenchTransformers", Bench.transformers, "(a) `text2vec-transformers`"),
    ("b", "BenchOpenai", Bench.openai, "(b) `text2vec-openai`"),
    ("c", "BenchOllama", Bench.ollama, "(c) `text2vec-ollama`"),
    ("many", None, 32, "the sidecar alone, one text a request, 32 connections"),
    ("stream", None, Bench.stream, "the sidecar alone, `VectorizeBatchStream`"),
    ("d", "BenchLoader", Bench.loader, "(d) `text2vec-sidecar import`"),
    ("e", "BenchGiven", Bench.given, "(e) vectors given, nothing to embed"),
]


def spread(values, form):
    values = sorted(values)
    middle = form.format(statistics.median(values))
    return middle if len(values) == 1 else f"{form.format(values[0])}–{middle}–{form.format(values[-1])}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=2000, help="of the corpus (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--ways", help="only these, separated by commas: " + ",".join(key for key, *_ in WAYS))
    args = parser.parse_args()
    wanted = args.ways.split(",") if args.ways else [key for key, *_ in WAYS]
    lines = (ROOT / "benches" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[: args.texts]]
    rates, busy = {}, {}
    connected = weaviate.connect_to_local(
        host="127.0.0.1", port=WEAVIATE_PORT, grpc_port=WEAVIATE_GRPC, skip_init_checks=True
    )
    with connected as client:
        server = Reflected(SIDECAR)
        bench = Bench(client, server, texts)
        ways = [way for way in WAYS if way[0] in wanted]
        # Weaviate's and the client's first steps are slower.
        warm = Bench(client, server, texts[:100])
        for _, name, prepare, _ in ways:
            if name is not None and prepare is not Bench.given:
                warm.timed(name, prepare)
        for round in range(args.rounds):
            for key, name, prepare, what in ways if round % 2 == 0 else reversed(ways):
                (busy_before, ours_before), started = machine(), time.monotonic()
                if isinstance(prepare, int):
                    rate, cores = one_text_a_request(len(texts), prepare)
                else:
                    rate, cores = bench.timed(name, prepare)
                (busy_after, ours_after), seconds = machine(), time.monotonic() - started
                # Those of programs that have no part in this: where they are many, the figure says little.
                cores.append(max(busy_after - busy_before - (ours_after - ours_before), 0) / seconds)
                rates.setdefault(key, []).append(rate)
                busy.setdefault(key, []).append(cores)
                shown = "cores of sidecar, Weaviate, client, others: {:.2f} {:.2f} {:.2f} {:.2f}".format(*cores)
                print(f"round {round + 1}: {rate:8.1f} /s  {what}  {shown}", flush=True)
    print(f"\n{len(texts)} objects, {args.rounds} rounds, {os.cpu_count()} cores; lowest–median–highest\n")
    print("| way | objects/s | cores of the sidecar | of Weaviate | of the client | of others |\n|---|---|---|---|---|---|")
    for key, _, _, what in ways:
        cores = [f"{statistics.median(each):.2f}" for each in zip(*busy[key])]
        print(f"| {what} | {spread(rates[key], '{:.0f}')} | {' | '.join(cores)} |")
    print()
    for way, alone in [("a", "one"), ("d", "stream"), ("d", "many")]:
        if way in rates and alone in rates:
            ratios = [mine / other for mine, other in zip(rates[way], rates[alone])]
            print(f"({way}) / {dict((key, what) for key, *_, what in WAYS)[alone]}: {spread(ratios, '{:.0%}')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

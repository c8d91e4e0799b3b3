"""Objects per second into a real Weaviate, by five ways, in one run: `make bench-weaviate`.

The texts are those of benches/corpus.jsonl, the same for each way, each in a collection of its own that adds nothing to
the text. The sidecar runs without its cache, or the later ways would find the vectors of the earlier ones.
"""

import argparse
import http.client
import importlib.util
import json
import os
import pathlib
import sys
import time
import urllib.parse
import urllib.request

import grpc
import weaviate

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIDECAR = os.environ["T2V_E2E_SIDECAR"]
WEAVIATE = "http://127.0.0.1:" + os.environ["T2V_E2E_WEAVIATE_PORT"]
WEAVIATE_GRPC = int(os.environ["T2V_E2E_WEAVIATE_GRPC_PORT"])

spec = importlib.util.spec_from_file_location("load", ROOT / "deploy" / "loader" / "load.py")
load = importlib.util.module_from_spec(spec)
spec.loader.exec_module(load)


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
    with client.batch.fixed_size(batch_size=200, concurrent_requests=2) as batch:
        for properties, vector in rows:
            batch.add_object(collection=name, properties=properties, vector=vector)
    failed = client.batch.failed_objects
    assert not failed, f"{len(failed)} failed: {failed[0].message}"


def timed(client, name, texts, work):
    started = time.monotonic()
    work()
    seconds = time.monotonic() - started
    count = client.collections.use(name).aggregate.over_all(total_count=True).total_count
    assert count == len(texts), (name, count)
    return len(texts) / seconds


def one_connection(texts):
    """Texts per second of the sidecar alone, one text a request, one request at a time."""
    connection = http.client.HTTPConnection(SIDECAR)
    started = time.monotonic()
    for text in texts:
        body = {"text": text, "config": {"pooling_strategy": "masked_mean", "task_type": "passage"}}
        connection.request("POST", "/vectors", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
    connection.close()
    return len(texts) / (time.monotonic() - started)


def streamed(channel, definition, texts):
    """The vectors, and texts per second of the sidecar alone through VectorizeBatchStream."""
    vectorizer = load.Vectorizer(channel, definition, [""])
    started = time.monotonic()
    rows = list(vectorizer.run(((None, {"body": text}) for text in texts), 1000))
    seconds = time.monotonic() - started
    assert all(error is None for *_, error in rows)
    return [vectors[""] for _, _, vectors, _ in rows], len(texts) / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=2000, help="of the corpus (default: %(default)s)")
    limit = parser.parse_args().texts
    lines = (ROOT / "benches" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[:limit]]
    model = call("GET", f"http://{SIDECAR}/meta")["sidecar"]["models"][0]
    host = urllib.parse.urlparse(WEAVIATE)
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    rates = []

    def report(what, rate):
        rates.append((what, rate))
        print(f"{rate:8.0f} /s  {what}", flush=True)

    connected = weaviate.connect_to_local(
        host=host.hostname, port=host.port, grpc_port=WEAVIATE_GRPC, skip_init_checks=True
    )
    with connected as client, grpc.insecure_channel(SIDECAR, options=options) as channel:
        plain = [({"body": text}, None) for text in texts]
        ways = [
            ("BenchTransformers", "text2vec-transformers", {}, "(a) text2vec-transformers"),
            ("BenchOpenai", "text2vec-openai", {"baseURL": f"http://{SIDECAR}", "model": model}, "(b) text2vec-openai"),
            ("BenchOllama", "text2vec-ollama", {"apiEndpoint": f"http://{SIDECAR}", "model": model}, "(c) text2vec-ollama"),
        ]
        report("the sidecar alone: one text a request, one connection", one_connection(texts))
        for name, module, settings, what in ways:
            create(client, name, module, settings)
            report(what, timed(client, name, texts, lambda: insert(client, name, plain)))
        definition = create(client, "BenchLoader", "text2vec-transformers", {})
        vectors, rate = streamed(channel, definition, texts)
        report("the sidecar alone: VectorizeBatchStream", rate)

        def load_all():
            rows = load.Vectorizer(channel, definition, [""]).run(((None, properties) for properties, _ in plain), 1000)
            where = argparse.Namespace(
                weaviate_url=WEAVIATE, weaviate_grpc_port=WEAVIATE_GRPC, collection="BenchLoader"
            )
            errors = [error for error in load.insert_into_weaviate(where, rows) if error is not None]
            assert not errors, errors[0]

        report("(d) VectorizeBatchStream, inserted with vectors", timed(client, "BenchLoader", texts, load_all))
        create(client, "BenchGiven", "none", {})
        given = [(properties, vector) for (properties, _), vector in zip(plain, vectors)]
        report("(e) vectors given", timed(client, "BenchGiven", texts, lambda: insert(client, "BenchGiven", given)))
    rate = {what.split(")")[0].lstrip("("): rate for what, rate in rates if what.startswith("(")}
    alone, stream = (rate for what, rate in rates if not what.startswith("("))
    print(f"(a) is {rate['a'] / alone:.0%} of one connection; (d) is {rate['d'] / stream:.0%} of the stream alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Loads objects into an existing Weaviate collection, with vectors made by text2vec-sidecar in bulk.

The collection keeps `text2vec-transformers` for its queries; objects that arrive with a vector are not vectorized again, so
this is the fast way in. Vectors are what Weaviate itself would have stored: the sidecar applies the class's settings.

    python deploy/loader/load.py --collection Article --objects articles.jsonl

Each line of the JSONL file is an object: its properties, or {"id": "<uuid>", "properties": {...}}. Without --weaviate-url,
--class-file names the class's JSON (as GET /v1/schema/<name> answers it) and the vectors are written to standard output.
"""

import argparse
import collections
import concurrent.futures
import itertools
import json
import pathlib
import sys
import urllib.parse
import urllib.request

import grpc
from tqdm import tqdm

MODULE = "text2vec-transformers"
# Small, because the insertion of the last ones has nothing to overlap with.
CHUNK = 500


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", required=True, help="JSONL file, one object a line")
    parser.add_argument("--collection", help="collection in the running Weaviate")
    parser.add_argument("--class-file", help="JSON file with the class, instead of asking Weaviate")
    parser.add_argument("--weaviate-url", default="http://localhost:8080", help="REST address (default: %(default)s)")
    parser.add_argument("--weaviate-grpc-port", type=int, default=50051, help="(default: %(default)s)")
    parser.add_argument("--sidecar", default="localhost:8081", help="host:port of the sidecar (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="objects of one stream (default: %(default)s)")
    args = parser.parse_args()
    if bool(args.collection) == bool(args.class_file):
        parser.error("give either --collection or --class-file")
    return args


def stubs():
    """Python code for our proto, made by grpcio-tools as it is imported."""
    proto = pathlib.Path(__file__).resolve().parents[2] / "proto"
    sys.path.insert(0, str(proto))
    return grpc.protos_and_services("text2vec/v1/text2vec.proto")


def read_class(args):
    if args.class_file:
        return json.loads(pathlib.Path(args.class_file).read_text(encoding="utf-8"))
    url = f"{args.weaviate_url}/v1/schema/{urllib.parse.quote(args.collection)}"
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def target_vectors(collection):
    """Names of the vectors this module makes; "" is the class-level one."""
    named = collection.get("vectorConfig") or {}
    targets = [name for name, config in named.items() if MODULE in (config.get("vectorizer") or {})]
    if collection.get("vectorizer") == MODULE:
        targets.append("")
    if not targets:
        sys.exit(f"error: no vector of {collection.get('class')} is made by {MODULE}")
    return targets


def read_objects(path):
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                sys.exit(f"error: {path}, line {number}: {error}")
            if isinstance(entry.get("properties"), dict):
                yield entry.get("id"), entry["properties"]
            else:
                yield None, entry


class Vectorizer:
    """Turns chunks of objects into chunks of vectors, one VectorizeBatchStream per chunk and target vector."""

    def __init__(self, channel, collection, targets):
        self.protos, services = stubs()
        self.module = services.ModuleStub(channel)
        self.class_json = json.dumps(collection)
        self.targets = targets

    def run(self, objects, size):
        """Yields (id, properties, {target: vector}, error) for each object, in order.

        Two chunks are under way, so that the sidecar has work at the end of a stream and while rows are inserted.
        """
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as ahead:
            pending = collections.deque()
            for chunk in iter(lambda: list(itertools.islice(objects, size)), []):
                pending.append(ahead.submit(self._chunk, chunk))
                if len(pending) > 2:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()

    def _chunk(self, chunk):
        vectors, errors = [{} for _ in chunk], [None for _ in chunk]
        for target in self.targets:
            # Answers come in any order; their index says which object they belong to.
            for answer in self.module.VectorizeBatchStream(self._messages(chunk, target)):
                kind = answer.result.WhichOneof("result")
                if kind == "vector":
                    vectors[answer.index][target] = list(answer.result.vector.values)
                elif kind == "error":
                    errors[answer.index] = answer.result.error.message
        return [(uuid, properties, *rest) for (uuid, properties), *rest in zip(chunk, vectors, errors)]

    def _messages(self, chunk, target):
        protos = self.protos
        config = protos.ClassConfig(class_json=self.class_json, target_vector=target)
        yield protos.VectorizeBatchStreamRequest(header=protos.VectorizeBatchHeader(config=config))
        for uuid, properties in chunk:
            entry = protos.Object(id=uuid or "", json=json.dumps(properties))
            yield protos.VectorizeBatchStreamRequest(object=entry)


def insert_into_weaviate(args, rows):
    """Writes objects and vectors through Weaviate's own client; yields an error or None per object."""
    import weaviate

    address = urllib.parse.urlparse(args.weaviate_url)
    client = weaviate.connect_to_local(
        host=address.hostname, port=address.port or 80, grpc_port=args.weaviate_grpc_port, skip_init_checks=True
    )
    with client, client.batch.fixed_size(batch_size=200, concurrent_requests=2) as batch:
        for uuid, properties, vectors, error in rows:
            if error is None:
                # A vector that was skipped (nothing to embed) is left out, as Weaviate leaves it out.
                vector = vectors.get("") if set(vectors) <= {""} else {name: v for name, v in vectors.items() if name}
                batch.add_object(collection=args.collection, properties=properties, uuid=uuid, vector=vector)
            yield error
    for failed in client.batch.failed_objects:
        yield failed.message


def main():
    args = arguments()
    collection = read_class(args)
    options = [("grpc.max_receive_message_length", -1)]
    failures = 0
    with grpc.insecure_channel(args.sidecar, options=options) as channel:
        vectorizer = Vectorizer(channel, collection, target_vectors(collection))
        rows = vectorizer.run(read_objects(args.objects), args.chunk)
        if args.class_file:
            errors = write_lines(rows)
        else:
            errors = insert_into_weaviate(args, rows)
        try:
            for error in tqdm(errors, unit=" objects", disable=not sys.stderr.isatty()):
                if error is not None:
                    failures += 1
                    print(f"error: {error}", file=sys.stderr)
        except grpc.RpcError as error:
            sys.exit(f"error: the sidecar at {args.sidecar} says: {error.details()}")
    if failures:
        sys.exit(f"{failures} objects were not loaded")


def write_lines(rows):
    for uuid, properties, vectors, error in rows:
        if error is None:
            print(json.dumps({"id": uuid, "properties": properties, "vectors": vectors}))
        yield error


if __name__ == "__main__":
    main()

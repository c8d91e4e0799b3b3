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
import urllib.error
import urllib.parse
import urllib.request

try:
    import grpc
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"error: {error}: pip install -r {pathlib.Path(__file__).with_name('requirements.txt')}")

MODULE = "text2vec-transformers"
# How long Weaviate may take to answer about a class, and the sidecar to be reached.
PATIENCE_SECONDS = 10
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
    if args.chunk < 1:
        parser.error(f"--chunk is {args.chunk}: use 1 or more")
    if not args.weaviate_url.startswith(("http://", "https://")):
        parser.error(f"--weaviate-url is {args.weaviate_url!r}: use a URL such as http://localhost:8080")
    if "://" in args.sidecar or ":" not in args.sidecar:
        parser.error(f"--sidecar is {args.sidecar!r}: use host:port, such as localhost:8081")
    return args


def give_up(message):
    """Ends the program with one line that says what is wrong and what to do."""
    sys.exit(f"error: {message}")


def stubs():
    """Python code for our proto, made by grpcio-tools as it is imported."""
    proto = pathlib.Path(__file__).resolve().parents[2] / "proto"
    if not (proto / "text2vec/v1/text2vec.proto").is_file():
        give_up(f"{proto}/text2vec/v1/text2vec.proto is not there: run the loader in a copy of the repository")
    sys.path.insert(0, str(proto))
    return grpc.protos_and_services("text2vec/v1/text2vec.proto")


def read_class(args):
    if args.class_file:
        try:
            collection = json.loads(pathlib.Path(args.class_file).read_text(encoding="utf-8"))
        except OSError as error:
            give_up(f"--class-file {args.class_file} cannot be read: {error.strerror}")
        except ValueError as error:
            give_up(f"--class-file {args.class_file} is not JSON: {error}")
        source = args.class_file
    else:
        source = f"{args.weaviate_url}/v1/schema/{urllib.parse.quote(args.collection, safe='')}"
        try:
            with urllib.request.urlopen(source, timeout=PATIENCE_SECONDS) as answer:
                collection = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                give_up(f"Weaviate at {args.weaviate_url} has no collection {args.collection!r}: create it first (or is that Weaviate's REST address?)")
            give_up(f"Weaviate answers {source} with {error.code} {error.reason}")
        except ValueError as error:
            give_up(f"{source} does not answer with JSON: is that Weaviate's REST address? ({error})")
        except OSError as error:
            reason = getattr(error, "reason", error)
            give_up(f"Weaviate cannot be reached at {args.weaviate_url}: {reason}; see --weaviate-url")
    if not isinstance(collection, dict) or "class" not in collection:
        give_up(f"{source} is no class: it is to be what GET /v1/schema/<name> answers")
    return collection


def target_vectors(collection):
    """Names of the vectors this module makes; "" is the class-level one."""
    named = collection.get("vectorConfig") or {}
    targets = [name for name, config in named.items() if MODULE in (config.get("vectorizer") or {})]
    if collection.get("vectorizer") == MODULE:
        targets.append("")
    if not targets:
        give_up(f"no vector of {collection.get('class')} is made by {MODULE}")
    return targets


def read_objects(path):
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield read_object(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        give_up(f"{path} is not UTF-8 text: {error}")
    except OSError as error:
        give_up(f"--objects {path} cannot be read: {error.strerror}")


def read_object(line, place):
    try:
        entry = json.loads(line)
    except ValueError as error:
        give_up(f"{place}: {error}")
    if not isinstance(entry, dict):
        give_up(f"{place}: an object of JSON is to be there, and not {line.strip()[:40]!r}")
    if not isinstance(entry.get("properties"), dict):
        return None, entry
    uuid = entry.get("id")
    if uuid is not None and not isinstance(uuid, str):
        give_up(f"{place}: the id is to be a UUID as text, and not {uuid!r}")
    return uuid, entry["properties"]


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
    try:
        import weaviate
    except ImportError as error:
        give_up(f"{error}: pip install -r {pathlib.Path(__file__).with_name('requirements.txt')}")
    address = urllib.parse.urlparse(args.weaviate_url)
    try:
        client = weaviate.connect_to_local(
            host=address.hostname, port=address.port or 80, grpc_port=args.weaviate_grpc_port, skip_init_checks=True
        )
    except weaviate.exceptions.WeaviateBaseError as error:
        give_up(f"Weaviate cannot be reached at {args.weaviate_url} and gRPC port {args.weaviate_grpc_port}: {error}")
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
            grpc.channel_ready_future(channel).result(timeout=PATIENCE_SECONDS)
        except grpc.FutureTimeoutError:
            give_up(f"no sidecar answers over gRPC at {args.sidecar}: is it running there? See --sidecar")
        try:
            for error in tqdm(errors, unit=" objects", disable=not sys.stderr.isatty()):
                if error is not None:
                    failures += 1
                    print(f"error: {error}", file=sys.stderr)
        except grpc.RpcError as error:
            give_up(f"the sidecar at {args.sidecar} says: {error.details()}")
    if failures:
        sys.exit(f"{failures} objects were not loaded")


def write_lines(rows):
    for uuid, properties, vectors, error in rows:
        if error is None:
            print(json.dumps({"id": uuid, "properties": properties, "vectors": vectors}))
        yield error


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped: what was inserted so far is there")
    except BrokenPipeError:
        # Whoever read the lines has seen enough; Python would complain once more as it flushes.
        sys.stdout = None
        sys.exit(1)

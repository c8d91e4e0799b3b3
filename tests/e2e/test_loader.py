"""deploy/loader/load.py as its users run it: objects get the very vectors Weaviate makes for them itself.

Each collection is filled twice under one name (the name is part of the text): by the loader, and by Weaviate's own batch.
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import uuid

import pytest
from sidecar import http_json, max_difference
from topics import FACTS

LOADER = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "loader" / "load.py"
MODULE = "text2vec-transformers"
# Weaviate's own vectors went through JSON text, ours through protobuf: both are the same float32.
SAME_VECTOR = 0.0


def properties(index, fact):
    return {
        "subject": fact.subject,
        "body": fact.body,
        "tags": [fact.topic, f"tag{index % 7}"],
        "rank": index * 1000,
        "share": index / 7,
        "checked": index % 2 == 0,
        "seenAt": datetime.datetime(2024, 1, 1 + index % 28, tzinfo=datetime.timezone.utc).isoformat(),
        "noteOnly": "" if index % 5 == 0 else f"NOTE {index}",
    }


TYPES = {
    "subject": "text",
    "body": "text",
    "tags": "text[]",
    "rank": "int",
    "share": "number",
    "checked": "boolean",
    "seenAt": "date",
    "noteOnly": "text",
}


def schema(name, **more):
    listed = [{"name": key, "dataType": [kind]} for key, kind in TYPES.items()]
    listed[0]["moduleConfig"] = {MODULE: {"vectorizePropertyName": True}}
    listed[-1]["moduleConfig"] = {MODULE: {"skip": True}}
    return {"class": name, "properties": listed, **more}


SCHEMAS = {
    "class level": schema("LoaderPage", vectorizer=MODULE),
    "cls, no class name": schema(
        "LoaderCls", vectorizer=MODULE, moduleConfig={MODULE: {"poolingStrategy": "cls", "vectorizeClassName": False}}
    ),
    "named vectors": schema(
        "LoaderNamed",
        vectorConfig={
            "whole": {"vectorizer": {MODULE: {}}, "vectorIndexType": "hnsw"},
            "some": {
                "vectorizer": {MODULE: {"properties": ["rank", "share", "checked", "seenAt", "tags"]}},
                "vectorIndexType": "hnsw",
            },
        },
    ),
}


def stored(client, name):
    collection = client.collections.use(name)
    return {str(entry.uuid): entry.vector for entry in collection.iterator(include_vector=True)}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_loaded_vectors_are_weaviates_own(client, weaviate_url, kind, tmp_path, figure):
    wanted = SCHEMAS[kind]
    name = wanted["class"]
    objects = [(str(uuid.UUID(int=index + 1)), properties(index, fact)) for index, fact in enumerate(FACTS)]
    lines = tmp_path / "objects.jsonl"
    lines.write_text("".join(json.dumps({"id": i, "properties": p}) + "\n" for i, p in objects), encoding="utf-8")

    def create():
        client.collections.delete(name)
        status, answer = http_json("POST", f"{weaviate_url}/v1/schema", wanted)
        assert status == 200, answer

    create()
    loader = subprocess.run(
        [
            sys.executable,
            str(LOADER),
            "--collection",
            name,
            "--objects",
            str(lines),
            "--weaviate-url",
            weaviate_url,
            "--weaviate-grpc-port",
            os.environ["T2V_E2E_WEAVIATE_GRPC_PORT"],
            "--sidecar",
            os.environ["T2V_E2E_SIDECAR"],
            "--chunk",
            "100",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert loader.returncode == 0, loader.stderr
    loaded = stored(client, name)

    create()
    with client.batch.fixed_size(batch_size=60) as batch:
        for uuid_, values in objects:
            batch.add_object(collection=name, properties=values, uuid=uuid_)
    assert not client.batch.failed_objects, client.batch.failed_objects[0].message
    own = stored(client, name)

    assert len(loaded) == len(own) == len(objects)
    differences = [
        max_difference(loaded[key][vector], own[key][vector]) for key in own for vector in own[key]
    ]
    figure(f"loader, {kind}: {len(differences)} vectors, largest difference to Weaviate's own {max(differences):.1e}")
    assert max(differences) <= SAME_VECTOR


def test_objects_that_do_not_fit_are_told_and_the_others_loaded(client, weaviate_url, tmp_path):
    client.collections.delete("LoaderPage")
    assert http_json("POST", f"{weaviate_url}/v1/schema", SCHEMAS["class level"])[0] == 200
    lines = tmp_path / "objects.jsonl"
    lines.write_text('{"subject": "fits"}\n{"subject": 5}\n\n{"nobody": "x"}\n{"subject": "too"}\n', encoding="utf-8")
    arguments = ["--weaviate-grpc-port", os.environ["T2V_E2E_WEAVIATE_GRPC_PORT"], "--weaviate-url", weaviate_url]
    arguments += ["--sidecar", os.environ["T2V_E2E_SIDECAR"], "--collection", "LoaderPage", "--objects", str(lines)]
    loader = subprocess.run([sys.executable, str(LOADER), *arguments], capture_output=True, text=True, timeout=120)
    assert loader.returncode == 1
    assert "2 objects were not loaded" in loader.stderr, loader.stderr
    assert "no such prop with name 'nobody'" in loader.stderr, loader.stderr
    assert len(stored(client, "LoaderPage")) == 2


def refused(*arguments):
    """What the loader says that cannot begin: one line, for a person."""
    loader = subprocess.run([sys.executable, str(LOADER), *arguments], capture_output=True, text=True, timeout=60)
    assert loader.returncode != 0 and not loader.stdout, (loader.stdout, loader.stderr)
    assert "Traceback" not in loader.stderr, loader.stderr
    return loader.stderr.strip().splitlines()[-1]


def test_what_cannot_begin_is_said_in_a_line(weaviate_url, tmp_path):
    def file(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    class_file, objects = file("class.json", json.dumps(SCHEMAS["class level"])), file("objects.jsonl", '{"subject": "x"}\n')
    sidecar = ("--sidecar", os.environ["T2V_E2E_SIDECAR"])
    from_file = ("--class-file", class_file, "--objects", objects, *sidecar)
    nobody = "127.0.0.1:9"
    for arguments, words in [
        (("--collection", "NoSuch", "--objects", objects, "--weaviate-url", weaviate_url), "has no collection 'NoSuch'"),
        (("--collection", "A", "--objects", objects, "--weaviate-url", f"http://{nobody}"), "Weaviate cannot be reached"),
        (("--collection", "A", "--objects", objects, "--weaviate-url", "localhost:8080"), "use a URL such as"),
        (("--collection", "A", "--objects", objects, "--weaviate-url", f"http://{sidecar[1]}"), "is that Weaviate's"),
        (("--class-file", "no/such/file", "--objects", objects), "--class-file no/such/file cannot be read"),
        (("--class-file", file("half.json", '{"class": '), "--objects", objects), "is not JSON"),
        (("--class-file", file("list.json", "[]"), "--objects", objects), "is no class"),
        (("--class-file", file("other.json", '{"class": "A"}'), "--objects", objects), "no vector of A is made by"),
        ((*from_file[:2], "--objects", "no/such/file", *sidecar), "--objects no/such/file cannot be read"),
        ((*from_file[:2], "--objects", file("a.jsonl", "[1, 2]\n"), *sidecar), "line 1: an object of JSON is to be there"),
        ((*from_file[:2], "--objects", file("b.jsonl", '{"properties": {}, "id": 7}'), *sidecar), "line 1: the id is to be"),
        ((*from_file[:2], "--objects", file("c.jsonl", "{}\n{"), *sidecar), "line 2: "),
        ((*from_file[:2], "--objects", file("d.jsonl", b"\xff\xfe{"), *sidecar), "is not UTF-8 text"),
        ((*from_file, "--chunk", "0"), "--chunk is 0: use 1 or more"),
        ((*from_file[:4], "--sidecar", f"http://{nobody}"), "use host:port"),
        ((*from_file[:4], "--sidecar", nobody), "no sidecar answers over gRPC at 127.0.0.1:9"),
    ]:
        said = refused(*arguments)
        assert "error: " in said and words in said, (arguments, said)

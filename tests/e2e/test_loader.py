"""`text2vec-sidecar import` as its users run it: objects get the very vectors Weaviate makes for them itself.

Each collection is filled twice under one name (the name is part of the text): by the import, and by Weaviate's own batch.
"""

import contextlib
import datetime
import gzip
import json
import os
import pathlib
import signal
import subprocess
import time
import uuid

import pyarrow
import pyarrow.parquet
import pytest
from own_weaviate import KEY, Weaviate
from sidecar import http_json, max_difference
from topics import FACTS

MODULE = "text2vec-transformers"
# Weaviate's own vectors went through JSON text, ours through protobuf: both are the same float32.
SAME_VECTOR = 0.0


def properties(index, fact):
    return {
        "subject": fact.subject,
        "body": fact.body,
        "tags": [fact.topic, f"tag{index % 7}"],
        "rank": index * 1000,
        # Of many digits: one that is read a little wrong makes another text.
        "share": (index + 12.088995980580641) / 7,
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


def at(weaviate_url):
    return {
        "T2V_WEAVIATE": weaviate_url,
        "T2V_WEAVIATE_GRPC": "127.0.0.1:" + os.environ["T2V_E2E_WEAVIATE_GRPC_PORT"],
        "T2V_SIDECAR": os.environ["T2V_E2E_SIDECAR"],
    }


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Checkpoints of a test are its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "text2vec-sidecar" / "import"


def command(objects, *arguments):
    return [os.environ["T2V_BIN"], "import", str(objects), *arguments]


def run_import(objects, *arguments, stdin=None, **environment):
    return subprocess.run(
        command(objects, *arguments),
        env=os.environ | environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


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
    done = run_import(lines, "--collection", name, "--chunk-rows", "100", **at(weaviate_url))
    assert done.returncode == 0, done.stderr
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
    figure(f"import, {kind}: {len(differences)} vectors, largest difference to Weaviate's own {max(differences):.1e}")
    assert max(differences) <= SAME_VECTOR



def test_rows_that_do_not_fit_are_told_and_the_others_imported(client, weaviate_url, tmp_path):
    client.collections.delete("LoaderPage")
    assert http_json("POST", f"{weaviate_url}/v1/schema", SCHEMAS["class level"])[0] == 200
    lines, failed = tmp_path / "objects.jsonl", tmp_path / "failed.jsonl"
    rows = ['{"subject": "fits"}', '{"subject": 5}', "", '{"nobody": "x"}', "{", '{"subject": "too", "seenAt": "soon"}', '{"subject": "also"}']
    lines.write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = run_import(lines, "--collection", "LoaderPage", "--failed", str(failed), **at(weaviate_url))
    assert done.returncode == 1
    for words in [
        "row 2: 'subject' is to be a text, and is 5",
        "row 4: the class has no property 'nobody'",
        "row 5: it is not JSON",
        "row 6: ",
        "error: 4 rows could not be imported: see the lines above",
    ]:
        assert words in done.stderr, (words, done.stderr)
    assert len(stored(client, "LoaderPage")) == 2
    written = failed.read_text(encoding="utf-8").splitlines()
    assert written.pop(2) == rows[4], "as it was"
    written = [json.loads(line) for line in written]
    assert [entry["properties"] for entry in written] == [json.loads(rows[i]) for i in (1, 3, 5)]
    # What was mended goes in, by the same id where it had one.
    written[2]["properties"]["seenAt"] = "2024-01-01T00:00:00Z"
    failed.write_text(json.dumps(written[2]) + "\n", encoding="utf-8")
    done = run_import(failed, "--collection", "LoaderPage", "--failed", str(failed), **at(weaviate_url))
    assert done.returncode == 1 and "--failed is the file that is read" in done.stderr, done.stderr
    assert run_import(failed, "--collection", "LoaderPage", **at(weaviate_url)).returncode == 0
    assert len(stored(client, "LoaderPage")) == 3


def test_new_properties_are_added_where_that_is_allowed(client, weaviate_url, tmp_path):
    """The class gets them with their data types, and the vectors are those of Weaviate's own auto schema."""
    name, lines = "LoaderPage", tmp_path / "objects.jsonl"
    extra = [{"extra": "a new text"}, {"count": 5, "words": ["x", "y"]}, {"extra": "again", "open": True, "empty": []}, {}]
    objects = [{"subject": f"subject {i}", **values} for i, values in enumerate(extra)]
    ids = [str(uuid.UUID(int=index + 1)) for index in range(len(objects))]
    rows = [{"id": i, "properties": values} for i, values in zip(ids, objects, strict=True)]
    refused = [{"no name": "x"}, {"deep": {"a": 1}}, {"count": "five"}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows + refused), encoding="utf-8")

    def create():
        client.collections.delete(name)
        assert http_json("POST", f"{weaviate_url}/v1/schema", SCHEMAS["class level"])[0] == 200

    create()
    arguments = (lines, "--collection", name, "--chunk-rows", "2", "--allow-new-properties")
    tried = run_import(*arguments, "--dry-run", **at(weaviate_url))
    assert "'deep' is an object" in tried.stderr, tried.stderr
    assert {entry["name"] for entry in http_json("GET", f"{weaviate_url}/v1/schema/{name}")[1]["properties"]} == set(TYPES)
    done = run_import(*arguments, **at(weaviate_url))
    assert done.returncode == 1 and "3 rows could not be imported" in done.stderr, done.stderr
    for words in ["row 5: the property 'no name' cannot be added: ", "row 6: 'deep' is an object", "row 7: "]:
        assert words in done.stderr, (words, done.stderr)
    listed = http_json("GET", f"{weaviate_url}/v1/schema/{name}")[1]["properties"]
    types = {entry["name"]: entry["dataType"] for entry in listed if entry["name"] not in TYPES}
    expected = {"extra": ["text"], "count": ["number"], "words": ["text[]"], "open": ["boolean"], "empty": ["text[]"]}
    assert types == expected
    loaded = stored(client, name)
    values = client.collections.use(name).query.fetch_object_by_id(ids[1]).properties
    assert (values["count"], values["words"]) == (5, ["x", "y"])

    create()
    with client.batch.fixed_size(batch_size=10) as batch:
        for uuid_, values in zip(ids, objects, strict=True):
            batch.add_object(collection=name, properties=values, uuid=uuid_)
    own = stored(client, name)
    assert sorted(loaded) == sorted(own) == ids
    assert max(max_difference(loaded[key]["default"], own[key]["default"]) for key in ids) <= SAME_VECTOR

    page = tmp_path / "class.json"
    page.write_text(json.dumps(SCHEMAS["class level"]), encoding="utf-8")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = (lines, "--class-file", str(page), "--output", "-", "--allow-new-properties")
    done = run_import(*arguments, T2V_SIDECAR=os.environ["T2V_E2E_SIDECAR"])
    assert done.returncode == 0, done.stderr
    written = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["properties"] for entry in written] == objects
    assert max(max_difference(entry["vectors"][""], own[entry["id"]]["default"]) for entry in written) <= 1e-6


def test_every_format_makes_the_same_objects(client, weaviate_url, tmp_path):
    """JSON lines, plain, compressed and from a pipe, CSV and Parquet: equal ids by a property, equal properties and vectors."""
    rows = [properties(index, fact) | {"subject": f"{fact.subject} {index}"} for index, fact in enumerate(FACTS[:40])]
    for row in rows:
        row["seenAt"] = row["seenAt"].replace("+00:00", "Z")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    import csv

    with (tmp_path / "a.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(TYPES), delimiter="\t")
        # Weaviate writes a property's first letter small, whoever wrote it how.
        file.write("\t".join(key[0].upper() + key[1:] for key in TYPES) + "\r\n")
        table.writerows([row | {"tags": json.dumps(row["tags"])} for row in rows])
    columns = {key: [row[key] for row in rows] for key in TYPES}
    columns["seenAt"] = [datetime.datetime.fromisoformat(value) for value in columns["seenAt"]]
    for codec in ("snappy", "zstd", "gzip", "none"):
        table = pyarrow.table(columns)
        if codec == "zstd":
            # As pandas has them: moments in nanoseconds, whole numbers beside gaps as floats.
            for key, kind in (("seenAt", pyarrow.timestamp("ns", "UTC")), ("rank", pyarrow.float64())):
                place = table.column_names.index(key)
                table = table.set_column(place, key, table[key].cast(kind))
        pyarrow.parquet.write_table(table, tmp_path / f"{codec}.parquet", compression=codec)
    seen = {}
    for name in ("a.jsonl", "a.jsonl.gz", "-", "a.tsv", *(f"{codec}.parquet" for codec in ("snappy", "zstd", "gzip", "none"))):
        client.collections.delete("LoaderPage")
        assert http_json("POST", f"{weaviate_url}/v1/schema", SCHEMAS["class level"])[0] == 200
        source, stdin = (tmp_path / name, None) if name != "-" else ("-", text)
        more = ["--format", "jsonl"] if name == "-" else []
        arguments = ["--collection", "LoaderPage", "--id-property", "subject", *more]
        done = run_import(source, *arguments, stdin=stdin, **at(weaviate_url))
        assert done.returncode == 0, (name, done.stderr)
        collection = client.collections.use("LoaderPage")
        seen[name] = {str(o.uuid): (o.properties, o.vector) for o in collection.iterator(include_vector=True)}
        assert len(seen[name]) == len(rows)
        for key, (values, vector) in seen[name].items():
            wanted = seen["a.jsonl"][key]
            # An empty cell of a CSV says nothing; it is neither stored nor part of the text.
            strip = lambda these: {k: v for k, v in these.items() if v not in (None, "")}
            assert strip(values) == strip(wanted[0]), name
            assert max_difference(vector["default"], wanted[1]["default"]) == 0, name


def objects_file(path, count):
    """Short texts of three tenants, each another one."""
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            fact = FACTS[index % len(FACTS)]
            row = {"body": f"{fact.subject} {index}", "rank": index, "tenant": f"tenant{index % 3}"}
            file.write(json.dumps(row) + "\n")


def resident(pid):
    """MiB; of a process that is ending, nothing."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next((int(line.split()[1]) for line in status if line.startswith("VmRSS")), 0) / 1024


def test_an_import_that_is_killed_goes_on_and_loses_and_doubles_nothing(sidecar, tmp_path, state, figure):
    """With an API key and tenants, killed twice in the middle. T2V_E2E_IMPORT_OBJECTS asks for more objects."""
    count = int(os.environ.get("T2V_E2E_IMPORT_OBJECTS", "4000"))
    lines = tmp_path / "objects.jsonl"
    objects_file(lines, count)
    listed = [{"name": "body", "dataType": ["text"]}, {"name": "rank", "dataType": ["int"]}]
    definition = {
        "class": "Killed",
        "vectorizer": MODULE,
        "moduleConfig": {MODULE: {"vectorizeClassName": False}},
        "multiTenancyConfig": {"enabled": True},
        "properties": listed,
    }
    with Weaviate(sidecar.url) as weaviate:
        assert weaviate.call("POST", "/v1/schema", definition)[0] == 200
        environment = {
            "T2V_WEAVIATE": weaviate.url,
            "T2V_WEAVIATE_GRPC": weaviate.grpc_url,
            "T2V_SIDECAR": os.environ["T2V_E2E_SIDECAR"],
        }
        arguments = ["--collection", "Killed", "--create-tenants"]
        said = run_import(lines, *arguments, **environment)
        assert said.returncode == 1 and "401" in said.stderr and "--weaviate-api-key" in said.stderr, said.stderr
        environment["T2V_WEAVIATE_API_KEY"] = KEY
        said = run_import(lines, "--collection", "Killed", "--max-errors", "1", **environment)
        assert said.returncode == 1 and "--create-tenants makes those that are missing" in said.stderr, said.stderr

        memory, done, started = [], 0, time.monotonic()
        for wanted in (count // 4, count // 2, None):
            of_this_run = []
            log = (tmp_path / "log").open("w+", encoding="utf-8")
            child = subprocess.Popen(command(lines, *arguments), env=os.environ | environment, stderr=log)
            while child.poll() is None:
                of_this_run += [now for now in [resident(child.pid)] if now > 0]
                # Its checkpoint is gone at its end.
                with contextlib.suppress(FileNotFoundError):
                    notes = [json.loads(path.read_text()) for path in state.glob("*.json")]
                    done = max([done, *(note["done"] for note in notes)])
                if wanted is not None and done >= wanted:
                    child.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.05)
            code = child.wait()
            memory += of_this_run
            log.seek(0)
            said = log.read()
            assert code == (0 if wanted is None else -signal.SIGKILL), said
        assert "going on behind row" in said, said
        seconds = time.monotonic() - started
        assert not list(state.glob("*.json")), "an import that is done leaves no checkpoint"

        with weaviate.client() as client:
            collection = client.collections.use("Killed")
            ranks, probed, found, worst = set(), 0, 0, 0.0
            for tenant in range(3):
                of_it = collection.with_tenant(f"tenant{tenant}")
                there = of_it.aggregate.over_all(total_count=True).total_count
                assert there == len(range(tenant, count, 3)), (tenant, there)
                probes = []
                for entry in of_it.iterator(include_vector=True):
                    ranks.add(entry.properties["rank"])
                    if entry.properties["rank"] % max(count // 100, 1) == tenant:
                        probes.append((entry.properties["body"], entry.vector["default"], entry.uuid))
                probed += len(probes)
                for (text, vector, key), own in zip(probes, sidecar.passages([text for text, *_ in probes])):
                    worst = max(worst, max_difference(vector, own))
                # Each is in the vector index too, not only in the store.
                for _, vector, key in probes:
                    hits = of_it.query.near_vector(vector, limit=3).objects
                    found += any(hit.uuid == key for hit in hits)
            assert ranks == set(range(count)), "each once"
    half = len(of_this_run) // 2
    early, late = max(of_this_run[:half]), max(of_this_run[half:])
    figure(
        f"import of {count} objects into three tenants, killed twice: {count} there, {found} of {probed} probes found by their vectors, "
        f"largest difference to the module's {worst:.1e}; {count / seconds:.0f} objects/s; memory at most {max(memory):.0f} MiB, in the last run {early:.0f} in its first half, {late:.0f} in its second"
    )
    # One of the two went through JSON text.
    assert worst <= 1e-7
    assert found == probed
    assert max(memory) < 200 and late < early + 20, (max(memory), early, late)


def test_an_outage_is_waited_for_and_a_lasting_one_is_said(client, weaviate_url, tmp_path, processes):
    """The sidecar goes and comes back under an import; another import finds nobody."""
    from own_sidecar import Process, create, free_port

    port = free_port()
    first = Process(port)
    processes.append(first)
    collection = create(client, weaviate_url, "LoaderOutage")
    lines = tmp_path / "objects.jsonl"
    lines.write_text("".join(json.dumps({"body": f"{FACTS[i % 50].body} {i}"}) + "\n" for i in range(1500)), encoding="utf-8")
    environment = at(weaviate_url) | {"T2V_SIDECAR": f"127.0.0.1:{port}"}
    child = subprocess.Popen(
        command(lines, "--collection", "LoaderOutage", "--chunk-rows", "50"), env=os.environ | environment, stderr=subprocess.PIPE
    )
    while not collection.aggregate.over_all(total_count=True).total_count:
        assert child.poll() is None
        time.sleep(0.05)
    first.child.kill()
    first.child.wait()
    processes.append(Process(port))
    _, said = child.communicate(timeout=120)
    assert child.returncode == 0, said
    assert collection.aggregate.over_all(total_count=True).total_count == 1500
    said = run_import(lines, "--collection", "LoaderOutage", "--max-outage", "1", **environment | {"T2V_SIDECAR": "127.0.0.1:9"})
    assert said.returncode == 1 and "the sidecar has not answered well" in said.stderr, said.stderr


def test_silence_is_an_outage_and_idle_input_holds_nothing_up(client, weaviate_url, tmp_path):
    """A sidecar that takes connections and says nothing; a pipe that stays open behind an import that has ended."""
    import socket

    from own_sidecar import create

    create(client, weaviate_url, "LoaderOutage")
    lines = tmp_path / "objects.jsonl"
    lines.write_text('{"body": "a"}\n', encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        environment = at(weaviate_url) | {"T2V_SIDECAR": address}
        said = run_import(lines, "--collection", "LoaderOutage", "--max-outage", "0", **environment)
        assert said.returncode == 1 and "nothing came within 10 s" in said.stderr, said.stderr
    arguments = ["--collection", "LoaderOutage", "--format", "jsonl", "--max-errors", "1"]
    child = subprocess.Popen(
        command("-", *arguments), env=os.environ | at(weaviate_url), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdin.write('{"nobody": 1}\n' * 500)
    child.stdin.flush()
    assert child.wait(timeout=20) == 1
    assert "--max-errors" in child.stderr.read()
    child.stdin.close()


def test_a_dry_run_writes_nothing(client, weaviate_url, tmp_path, state):
    client.collections.delete("LoaderPage")
    assert http_json("POST", f"{weaviate_url}/v1/schema", SCHEMAS["class level"])[0] == 200
    lines = tmp_path / "objects.jsonl"
    lines.write_text('{"subject": "a"}\n{"subject": [1]}\n{"rank": 2.5}\n', encoding="utf-8")
    done = run_import(lines, "--collection", "LoaderPage", "--dry-run", **at(weaviate_url))
    assert done.returncode == 1 and "1 rows would be imported, nothing was" in done.stderr and "2 rows could not" in done.stderr, done.stderr
    assert len(stored(client, "LoaderPage")) == 0 and not list(state.glob("*.json"))


def test_output_in_place_of_weaviate(sidecar, tmp_path):
    class_file, lines = tmp_path / "class.json", tmp_path / "objects.jsonl"
    class_file.write_text(json.dumps(SCHEMAS["class level"]), encoding="utf-8")
    lines.write_text(json.dumps({"body": FACTS[0].body}) + "\n", encoding="utf-8")
    environment = {"T2V_SIDECAR": os.environ["T2V_E2E_SIDECAR"]}
    done = run_import(lines, "--class-file", str(class_file), "--output", "-", **environment)
    assert done.returncode == 0, done.stderr
    [entry] = [json.loads(line) for line in done.stdout.splitlines()]
    [own] = sidecar.passages([f"loader page {FACTS[0].body.lower()}"])
    assert max_difference(entry["vectors"][""], own) <= 1e-6


def refused(*arguments):
    """What is said of an import that cannot begin: one line, for a person."""
    done = run_import(*arguments)
    assert done.returncode != 0 and not done.stdout and "panicked" not in done.stderr, (done.stdout, done.stderr)
    return done.stderr.strip().splitlines()[-1]


def test_what_cannot_begin_is_said_in_a_line(weaviate_url, tmp_path):
    def file(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    objects = file("objects.jsonl", '{"subject": "x"}\n')
    sidecar = os.environ["T2V_E2E_SIDECAR"]
    a = ("--collection", "A")
    output = ("--output", "-", "--sidecar", sidecar)
    page = file("class.json", json.dumps(SCHEMAS["class level"]))
    nobody = "127.0.0.1:9"
    for arguments, words in [
        ((objects, "--collection", "NoSuch", "--weaviate", weaviate_url), "has no collection 'NoSuch'"),
        ((objects, *a, "--weaviate", f"http://{nobody}"), "Weaviate cannot be reached"),
        ((objects, *a, "--weaviate", "localhost:8080"), "use one such as http://localhost:8080"),
        ((objects, *a, "--weaviate", f"http://{sidecar}"), "is that another server's address?"),
        ((objects, *a, "--weaviate", "http://a.example.com", "--weaviate-api-key", "k"), "readable by anybody: use https://"),
        ((objects, "--class-file", "no/such/file", *output), "--class-file no/such/file cannot be read"),
        ((objects, "--class-file", file("half.json", '{"class": '), *output), "is not JSON"),
        ((objects, "--class-file", file("list.json", "[]"), *output), "is no class"),
        ((objects, "--class-file", file("other.json", '{"class": "A"}'), *output), "no vector of A is made by"),
        (("no/such/file.jsonl", "--class-file", page, *output), "no/such/file.jsonl cannot be read"),
        ((file("list.jsonl", "[{}]"), "--class-file", page, *output), "is one JSON list"),
        ((objects, *a, "--weaviate", "http://user:secret@a"), "leave user and password out"),
        ((file("words.txt", "x"), "--class-file", page, *output), "add --format"),
        ((file("not.parquet", "x" * 100), "--class-file", page, *output), "cannot be read as Parquet"),
        ((file("not.jsonl.gz", "x" * 100), "--class-file", page, *output), "cannot be read"),
        ((objects, "--class-file", page, "--output", "-", "--sidecar", nobody, "--max-outage", "0"), "the sidecar has not answered"),
        ((objects, "--class-file", page, "--output", "-", "--sidecar", sidecar, "--sidecar-model", "other"), "no model 'other'"),
        ((objects, *a, "--chunk-rows", "0"), "use a number from 1 to 10000"),
    ]:
        said = refused(*arguments)
        assert words in said, (arguments, said)

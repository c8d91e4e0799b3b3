"""A larger import: the 2,000 passages of benches/corpus.jsonl through Weaviate's own batch, and searches among them."""

import json
import pathlib
import time

import brute_force
import pytest
from sidecar import http_json, max_difference
from weaviate.classes.query import Filter, MetadataQuery

CORPUS = pathlib.Path(__file__).resolve().parents[2] / "benches" / "corpus.jsonl"
NAME = "Passage"
SAME_VECTOR = 1e-6
SAME_DISTANCE = 1e-5
QUERIES = ["weather at sea", "how is it made?", "the king and his army", "music", "a disease and its treatment"]


def passages():
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    return [entry["text"] if isinstance(entry, dict) else entry for entry in map(json.loads, lines)]


@pytest.fixture(scope="module")
def imported(client, weaviate_url, figure):
    """The collection, and by id the text's number and the vector."""
    client.collections.delete(NAME)
    definition = {
        "class": NAME,
        "vectorizer": "text2vec-transformers",
        # Every vector is looked at.
        "vectorIndexType": "flat",
        "properties": [{"name": "body", "dataType": ["text"]}, {"name": "number", "dataType": ["int"]}],
    }
    status, answer = http_json("POST", f"{weaviate_url}/v1/schema", definition)
    assert status == 200, answer
    collection = client.collections.use(NAME)
    started = time.monotonic()
    with collection.batch.fixed_size(batch_size=100, concurrent_requests=2) as batch:
        for number, text in enumerate(passages()):
            batch.add_object({"body": text, "number": number})
    assert not collection.batch.failed_objects, collection.batch.failed_objects[0].message
    seconds = time.monotonic() - started
    stored = {entry.uuid: entry for entry in collection.iterator(include_vector=True)}
    figure(f"import: {len(stored)} passages in {seconds:.1f} s, {len(stored) / seconds:.0f} objects/s")
    numbers = {id: entry.properties["number"] for id, entry in stored.items()}
    return collection, numbers, {id: entry.vector["default"] for id, entry in stored.items()}


def test_every_passage_is_there_with_its_vector(imported, sidecar):
    _, numbers, vectors = imported
    texts = passages()
    assert len(texts) >= 2000 and sorted(numbers.values()) == list(range(len(texts)))
    ids = list(numbers)
    for start in range(0, len(ids), 500):
        chunk = ids[start : start + 500]
        for id, expected in zip(chunk, sidecar.passages([f"Passage {texts[numbers[id]]}" for id in chunk])):
            assert max_difference(vectors[id], expected) <= SAME_VECTOR, texts[numbers[id]]


@pytest.mark.parametrize("query", QUERIES)
def test_a_search_finds_what_a_look_at_every_vector_finds(imported, sidecar, query):
    collection, numbers, vectors = imported
    vector = sidecar.query(query)
    expected = brute_force.nearest(vector, vectors)[:50]
    metadata = MetadataQuery(distance=True)
    hits = collection.query.near_text(query, limit=50, return_metadata=metadata).objects
    assert len(hits) == 50
    for hit, (distance, _) in zip(hits, expected):
        assert abs(hit.metadata.distance - distance) <= SAME_DISTANCE
    half = {id: vectors[id] for id, number in numbers.items() if number >= len(numbers) // 2}
    filters = Filter.by_property("number").greater_or_equal(len(numbers) // 2)
    hits = collection.query.near_text(query, limit=10, filters=filters, return_metadata=metadata).objects
    for hit, (distance, _) in zip(hits, brute_force.nearest(vector, half)):
        assert hit.uuid in half and abs(hit.metadata.distance - distance) <= SAME_DISTANCE
    hybrid = collection.query.hybrid(query, alpha=1, limit=10).objects
    assert [hit.uuid for hit in hybrid] == [hit.uuid for hit in collection.query.near_text(query, limit=10).objects]

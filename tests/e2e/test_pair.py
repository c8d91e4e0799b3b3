"""One sidecar for passages and another for queries, by the class's settings and by Weaviate's variables; and `dimensions`."""

import math
import os

import brute_force
import pytest
from own_sidecar import Process, create, free_port
from sidecar import DIMENSIONS, Sidecar, max_difference
from topics import FACTS
from weaviate.classes.query import MetadataQuery, Move
from weaviate.exceptions import WeaviateQueryError

MODULE = "text2vec-transformers"
SAME_VECTOR = 1e-6
SAME_DISTANCE = 1e-5
# Two sentences: one profile takes them one by one, the other whole, so that the vectors tell who made them.
QUERY = "Something that moves fast. It hunts at night!"
TOWARDS = "Birds. Owls, above all!"


def import_facts(collection):
    """Vectors by id, and bodies by id."""
    with collection.batch.fixed_size(batch_size=20) as batch:
        for fact in FACTS[:40]:
            batch.add_object({"body": fact.body})
    assert not collection.batch.failed_objects, collection.batch.failed_objects[0].message
    stored = {entry.uuid: entry for entry in collection.iterator(include_vector=True)}
    assert len(stored) == 40
    return {id: entry.vector["default"] for id, entry in stored.items()}, {
        id: entry.properties["body"] for id, entry in stored.items()
    }


def assert_searches_are_by(collection, vectors, queries, passages):
    """The distances are those of `queries`' vectors, moves too, and not those of `passages`'."""
    assert max_difference(queries.query(QUERY), passages.query(QUERY)) > 1e-2
    moved = brute_force.moved_to(queries.query(QUERY), queries.query(TOWARDS), 0.6)
    for how, vector in (({}, queries.query(QUERY)), ({"move_to": Move(force=0.6, concepts=TOWARDS)}, moved)):
        hits = collection.query.near_text(QUERY, limit=10, return_metadata=MetadataQuery(distance=True), **how).objects
        assert len(hits) == 10
        for hit, (distance, _) in zip(hits, brute_force.nearest(vector, vectors)):
            assert abs(hit.metadata.distance - distance) <= SAME_DISTANCE


def test_a_class_with_a_pair(client, weaviate_url, processes):
    processes += [Process(free_port()), Process(free_port(), "--profile", "sentence-transformers")]
    for_passages, for_queries = processes
    pair = {"passageInferenceUrl": for_passages.url, "queryInferenceUrl": for_queries.url}
    collection = create(client, weaviate_url, "ClassPair", **pair)
    passages, queries = (Sidecar(process.url.removeprefix("http://")) for process in processes)
    vectors, bodies = import_facts(collection)
    for id, vector in vectors.items():
        assert max_difference(vector, passages.passage(bodies[id])) <= SAME_VECTOR
    assert_searches_are_by(collection, vectors, queries, passages)
    # Without the one for queries objects still come in, and the error names the one that is missing.
    assert for_queries.end() == 0
    collection.data.insert({"body": "Nobody answers queries."})
    with pytest.raises(WeaviateQueryError) as caught:
        collection.query.near_text(QUERY, limit=1)
    assert "connection refused" in str(caught.value) and f"{for_queries.url}/vectors" in str(caught.value)


@pytest.mark.weaviate_pair
def test_a_weaviate_with_a_pair(client, weaviate_url, sidecar):
    """TRANSFORMERS_PASSAGE_INFERENCE_API is the sidecar of all other tests, TRANSFORMERS_QUERY_INFERENCE_API another."""
    queries = Sidecar(os.environ["T2V_E2E_QUERY_SIDECAR"])
    shown = client.get_meta()["modules"][MODULE]
    for side, own in (("passage", sidecar), ("query", queries)):
        assert shown[side]["model_path"] == own.meta()["model_path"]
    collection = create(client, weaviate_url, "WeaviatePair")
    vectors, bodies = import_facts(collection)
    for id, vector in vectors.items():
        assert max_difference(vector, sidecar.passage(bodies[id])) <= SAME_VECTOR
    assert_searches_are_by(collection, vectors, queries, sidecar)


@pytest.mark.weaviate_pair
def test_what_was_imported_before_the_restart_is_searched_by_the_new_pair(client, sidecar):
    collection = client.collections.use("FactCard")
    vectors = {entry.uuid: entry.vector["default"] for entry in collection.iterator(include_vector=True)}
    assert len(vectors) >= len(FACTS)
    assert_searches_are_by(collection, vectors, Sidecar(os.environ["T2V_E2E_QUERY_SIDECAR"]), sidecar)


def test_dimensions_of_a_class(client, weaviate_url, sidecar, processes):
    """They have no effect under the default profile, as with the reference, unless the sidecar is told to apply them."""
    text = FACTS[0].body
    processes.append(Process(free_port(), "--apply-dimensions"))
    for url, length in ((sidecar.url, DIMENSIONS), (processes[0].url, 64)):
        collection = create(client, weaviate_url, "Shortened", url, dimensions=64)
        id = collection.data.insert({"body": text})
        stored = collection.query.fetch_object_by_id(id, include_vector=True).vector["default"]
        assert len(stored) == length
        own = Sidecar(url.removeprefix("http://")).embed(text, "passage", dimensions=64)
        assert max_difference(stored, own) <= SAME_VECTOR
        hit = collection.query.near_text(QUERY, limit=1, return_metadata=MetadataQuery(distance=True)).objects[0]
        query = Sidecar(url.removeprefix("http://")).embed(QUERY, "query", dimensions=64)
        assert len(query) == length
        assert abs(hit.metadata.distance - brute_force.cosine_distance(query, stored)) <= SAME_DISTANCE
    first = sidecar.passage(text)[:64]
    norm = math.sqrt(math.fsum(value * value for value in first))
    scale = math.sqrt(math.fsum(value * value for value in stored))
    assert max_difference([value / scale for value in stored], [value / norm for value in first]) <= SAME_VECTOR

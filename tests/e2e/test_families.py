"""Models with a language model's body behind a real Weaviate: tiny random ones, with their tokenizers and their prompts."""

import json
from pathlib import Path

import brute_force
import pytest
from own_sidecar import Process, create, free_port
from reflected import Reflected
from sidecar import Sidecar, max_difference
from topics import FACTS
from weaviate.classes.query import MetadataQuery

FAMILIES = Path(__file__).parent.parent / "fixtures" / "families"
MODULE = "text2vec.v1.Module"
SAME_VECTOR = 1e-6
SAME_DISTANCE = 1e-5
# The prompt of config_sentence_transformers.json that goes before a query.
PROMPTS = {
    "qwen3": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
    "gemma3": "task: search result | query: ",
}


@pytest.mark.parametrize("family", PROMPTS)
def test_a_class_over_the_family_has_its_vectors_and_its_queries_their_prompt(client, weaviate_url, processes, family):
    own = Process(free_port(), model=str(FAMILIES / family))
    processes.append(own)
    sidecar, server = Sidecar(f"127.0.0.1:{own.port}"), Reflected(f"127.0.0.1:{own.port}")
    name = f"Facts{family.capitalize()}"
    collection = create(client, weaviate_url, name, own.url)
    texts = [fact.body for fact in FACTS[:60]]
    with collection.batch.fixed_size(batch_size=20, concurrent_requests=2) as batch:
        for text in texts:
            batch.add_object({"body": text})
    assert not collection.batch.failed_objects, collection.batch.failed_objects[0].message

    stored = {object.uuid: object for object in collection.iterator(include_vector=True)}
    assert len(stored) == len(texts)
    module = "text2vec-transformers"
    definition = {"class": name, "vectorizer": module, "moduleConfig": {module: {"vectorizeClassName": False}},
                  "properties": [{"name": "body", "dataType": ["text"]}]}
    objects = [{"json": json.dumps({"body": stored[id].properties["body"]})} for id in stored]
    answer = server.call(MODULE, "VectorizeBatch", {"objects": objects, "config": {"classJson": json.dumps(definition)}})
    vectors = {}
    for id, result in zip(stored, answer.results):
        assert result.WhichOneof("result") == "vector", result
        vectors[id] = stored[id].vector["default"]
        assert max_difference(vectors[id], list(result.vector.values)) <= SAME_VECTOR

    for question in ["How far is the moon?", texts[7]]:
        query = sidecar.query(question)
        # The prompt is before a query, and before nothing else.
        prompted = sidecar.passage(PROMPTS[family] + question)
        if family == "qwen3":
            assert max_difference(query, prompted) <= SAME_VECTOR
        assert max_difference(query, sidecar.passage(question)) > 1e-3
        hits = collection.query.near_text(question, limit=10, return_metadata=MetadataQuery(distance=True)).objects
        expected = brute_force.nearest(query, vectors)[: len(hits)]
        assert len(hits) == 10
        for hit, (distance, _) in zip(hits, expected):
            assert abs(hit.metadata.distance - distance) <= SAME_DISTANCE
            assert abs(brute_force.cosine_distance(query, vectors[hit.uuid]) - hit.metadata.distance) <= SAME_DISTANCE
    client.collections.delete(name)
    assert own.end() == 0

"""Weaviate's other modules in front of the sidecar: text2vec-openai with `baseURL`, text2vec-ollama with `apiEndpoint`,
and a class whose `inferenceUrl` is one of several models. What is stored, and what is searched by, are the sidecar's own
vectors."""

import brute_force
import pytest
from sidecar import DIMENSIONS, http_json, max_difference, unit
from topics import FACTS
from weaviate.classes.query import MetadataQuery
from weaviate.exceptions import WeaviateQueryError

SAME_VECTOR = 1e-6
SAME_DISTANCE = 1e-5


def model(sidecar):
    return sidecar.meta()["sidecar"]["models"][0]


def create(client, weaviate_url, name, module, settings):
    client.collections.delete(name)
    definition = {
        "class": name,
        "vectorizer": module,
        "moduleConfig": {module: {"vectorizeClassName": False, **settings}},
        "properties": [{"name": "body", "dataType": ["text"]}],
    }
    status, answer = http_json("POST", f"{weaviate_url}/v1/schema", definition)
    assert status == 200, answer
    return client.collections.use(name)


def settings_of(module, sidecar, **more):
    if module == "text2vec-openai":
        return {"baseURL": sidecar.url, "model": model(sidecar), **more}
    return {"apiEndpoint": sidecar.url, "model": model(sidecar), **more}


MODULES = ["text2vec-openai", "text2vec-ollama"]


@pytest.mark.parametrize("module", MODULES)
def test_import_and_search_through_the_module(client, weaviate_url, sidecar, module):
    name = "Through" + module.rsplit("-", 1)[-1].title()
    collection = create(client, weaviate_url, name, module, settings_of(module, sidecar))
    with collection.batch.fixed_size(batch_size=100) as batch:
        for fact in FACTS:
            batch.add_object({"body": fact.body})
    assert not collection.batch.failed_objects, collection.batch.failed_objects[0].message
    stored = {entry.uuid: entry for entry in collection.iterator(include_vector=True)}
    assert len(stored) == len(FACTS)
    ids = list(stored)
    vectors = {id: stored[id].vector["default"] for id in ids}
    for id, expected in zip(ids, sidecar.passages([stored[id].properties["body"] for id in ids])):
        assert len(vectors[id]) == DIMENSIONS
        assert max_difference(vectors[id], unit(expected)) <= SAME_VECTOR
    query = "something that moves fast"
    hits = collection.query.near_text(query, limit=20, return_metadata=MetadataQuery(distance=True)).objects
    # A query gets the vector a passage has: the module says nothing of tasks.
    expected = brute_force.nearest(sidecar.passage(query), vectors)
    assert len(hits) == 20
    for hit, (distance, _) in zip(hits, expected):
        assert abs(hit.metadata.distance - distance) <= SAME_DISTANCE


@pytest.mark.parametrize("module", MODULES)
def test_errors_are_ours_to_read(client, weaviate_url, sidecar, module):
    collection = create(client, weaviate_url, "WrongModel", module, settings_of(module, sidecar, model="no-such-model"))
    with pytest.raises(WeaviateQueryError) as caught:
        collection.query.near_text("x", limit=1)
    assert "no model 'no-such-model' is served here: there is" in str(caught.value)
    with collection.batch.fixed_size(batch_size=2) as batch:
        batch.add_object({"body": "x"})
    [failed] = collection.batch.failed_objects
    assert "no model 'no-such-model' is served here: there is" in failed.message


def test_a_models_path_is_an_inference_url(client, weaviate_url, sidecar):
    name = model(sidecar).rsplit("/", 1)[-1]
    settings = {"inferenceUrl": f"{sidecar.url}/models/{name}", "poolingStrategy": "cls"}
    collection = create(client, weaviate_url, "ByPath", "text2vec-transformers", settings)
    id = collection.data.insert({"body": "hello"})
    stored = collection.query.fetch_object_by_id(id, include_vector=True).vector["default"]
    assert max_difference(stored, sidecar.passage("hello", pooling="cls")) <= SAME_VECTOR
    collection = create(
        client, weaviate_url, "ByWrongPath", "text2vec-transformers", {"inferenceUrl": f"{sidecar.url}/models/other"}
    )
    with pytest.raises(WeaviateQueryError) as caught:
        collection.query.near_text("x", limit=1)
    assert "no model 'other' is served here: there is" in str(caught.value)

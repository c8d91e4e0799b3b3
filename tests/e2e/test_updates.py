"""Updates: Weaviate makes a new vector when, and only when, the text of an object has changed."""

import pytest
from sidecar import max_difference
from weaviate.classes.config import Configure, DataType, Property

NAME = "Note"
SAME_VECTOR = 1e-6


@pytest.fixture(scope="module")
def notes(client):
    client.collections.delete(NAME)
    return client.collections.create(
        NAME,
        vectorizer_config=Configure.Vectorizer.text2vec_transformers(vectorize_collection_name=False),
        properties=[
            Property(name="body", data_type=DataType.TEXT, vectorize_property_name=False),
            Property(name="remark", data_type=DataType.TEXT, skip_vectorization=True),
            Property(name="count", data_type=DataType.INT),
        ],
    )


def stored(notes, id):
    return notes.query.fetch_object_by_id(id, include_vector=True).vector["default"]


def asked(sidecar):
    """Texts the sidecar was asked for since its start."""
    cache = sidecar.meta()["sidecar"]["cache"]
    return cache["hits"] + cache["misses"] + cache["coalesced"]


def test_only_a_changed_text_makes_a_new_vector(notes, sidecar):
    id = notes.data.insert({"body": "The ferry leaves at noon.", "remark": "a", "count": 1})
    first = stored(notes, id)
    before = asked(sidecar)
    notes.data.update(id, {"remark": "b", "count": 2})
    notes.data.update(id, {"body": "The ferry leaves at noon."})
    notes.data.replace(id, {"body": "The ferry leaves at noon.", "remark": "c", "count": 3})
    assert asked(sidecar) == before and stored(notes, id) == first
    notes.data.update(id, {"body": "The ferry leaves at one."})
    assert asked(sidecar) == before + 1
    assert max_difference(stored(notes, id), sidecar.passage("The ferry leaves at one.")) <= SAME_VECTOR
    notes.data.replace(id, {"body": "There is no ferry."})
    assert max_difference(stored(notes, id), sidecar.passage("There is no ferry.")) <= SAME_VECTOR


def test_a_given_vector_is_kept(notes, sidecar):
    given = sidecar.passage("Something else.")
    before = asked(sidecar)
    id = notes.data.insert({"body": "The ferry leaves at noon."}, vector=given)
    assert asked(sidecar) == before and max_difference(stored(notes, id), given) <= SAME_VECTOR

"""Weaviate's `text2vec-model2vec` and `reranker-transformers` before one sidecar that serves an embedder, a model2vec model and
a reranker: what is stored and searched by are its vectors, and what ranks are its scores."""

import os

import brute_force
import pytest
from own_sidecar import create
from sidecar import Sidecar, http_json, max_difference
from topics import FACTS
from weaviate.classes.query import MetadataQuery, Rerank
from weaviate.exceptions import WeaviateQueryError

SAME_VECTOR = 1e-6
SAME_SCORE = 1e-6
QUERY = "something that moves fast"


@pytest.fixture(scope="module")
def neighbours():
    return Sidecar(os.environ["T2V_E2E_NEIGHBOURS"])


def of_model2vec(neighbours, texts):
    status, answer = http_json("POST", f"{neighbours.url}/models/m2v/vectors", {"texts": texts})
    assert status == 200, answer
    return answer["vectors"]


def scores_of(neighbours, query, documents):
    body = {"query": query, "documents": documents, "property": ""}
    status, answer = http_json("POST", f"{neighbours.url}/rerank", body)
    assert status == 200, answer
    return [score["score"] for score in answer["scores"]]


@pytest.fixture(scope="module")
def collection(client, weaviate_url):
    """All facts, embedded by the module text2vec-model2vec, with the reranker beside it."""
    client.collections.delete("Neighbours")
    definition = {
        "class": "Neighbours",
        "vectorizer": "text2vec-model2vec",
        "moduleConfig": {"text2vec-model2vec": {}, "reranker-transformers": {}},
        "properties": [{"name": "body", "dataType": ["text"]}],
    }
    status, stored = http_json("POST", f"{weaviate_url}/v1/schema", definition)
    assert status == 200, stored
    # What our module service answers for a class that leaves it out.
    assert stored["moduleConfig"]["text2vec-model2vec"]["vectorizeClassName"] is False
    collection = client.collections.use("Neighbours")
    with collection.batch.fixed_size(batch_size=100) as batch:
        for fact in FACTS:
            batch.add_object({"body": fact.body})
    assert not collection.batch.failed_objects, collection.batch.failed_objects[0].message
    return collection


def test_objects_and_queries_have_model2vec_s_vectors(collection, neighbours):
    stored = {entry.uuid: entry for entry in collection.iterator(include_vector=True)}
    assert len(stored) == len(FACTS)
    ids = list(stored)
    vectors = {id: stored[id].vector["default"] for id in ids}
    for id, expected in zip(ids, of_model2vec(neighbours, [stored[id].properties["body"] for id in ids])):
        assert max_difference(vectors[id], expected) <= SAME_VECTOR
    hits = collection.query.near_text(QUERY, limit=20, return_metadata=MetadataQuery(distance=True)).objects
    expected = brute_force.nearest(of_model2vec(neighbours, [QUERY])[0], vectors)
    assert len(hits) == 20
    for hit, (distance, _) in zip(hits, expected):
        assert abs(hit.metadata.distance - distance) <= 1e-5


def test_hits_are_reranked(collection, neighbours):
    rerank = Rerank(prop="body", query="Which animal is the fastest?")
    found = collection.query.near_text(QUERY, limit=50, rerank=rerank, return_metadata=MetadataQuery(score=True)).objects
    # More than one request of the module: it sends 32 documents at once.
    assert len(found) == 50
    scores = [hit.metadata.rerank_score for hit in found]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 40
    expected = scores_of(neighbours, rerank.query, [hit.properties["body"] for hit in found])
    assert max_difference(scores, expected) <= SAME_SCORE
    plain = collection.query.near_text(QUERY, limit=50).objects
    assert {hit.uuid for hit in plain} == {hit.uuid for hit in found}
    assert [hit.uuid for hit in plain] != [hit.uuid for hit in found]


def test_weaviate_s_reranker_cohere_asks_us_by_its_base_url(client, weaviate_url, neighbours):
    bodies = [fact.body for fact in FACTS[:40]]
    for model in ["rank", "none"]:
        client.collections.delete("ByCohere")
        definition = {
            "class": "ByCohere",
            "vectorizer": "none",
            "moduleConfig": {"reranker-cohere": {"baseURL": neighbours.url, "model": model}},
            "properties": [{"name": "body", "dataType": ["text"]}],
        }
        status, answer = http_json("POST", f"{weaviate_url}/v1/schema", definition)
        assert status == 200, answer
        collection = client.collections.use("ByCohere")
        collection.data.insert_many([{"body": body} for body in bodies])
        rerank = Rerank(prop="body", query="Which animal is the fastest?")
        if model == "none":
            with pytest.raises(WeaviateQueryError) as caught:
                collection.query.bm25(bodies[0], limit=5, rerank=rerank)
            assert "no model 'none' is served here: there are" in str(caught.value)
            continue
        # Words of many of them.
        words = " ".join(bodies[:12])
        found = collection.query.bm25(words, limit=40, rerank=rerank, return_metadata=MetadataQuery(score=True)).objects
        scores = [hit.metadata.rerank_score for hit in found]
        assert len(scores) > 10 and scores == sorted(scores, reverse=True)
        expected = scores_of(neighbours, rerank.query, [hit.properties["body"] for hit in found])
        assert max_difference(scores, expected) <= SAME_SCORE


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_cohere_s_own_client(neighbours, version):
    import cohere

    client = getattr(cohere, version)(api_key="unused", base_url=neighbours.url)
    documents = [fact.body for fact in FACTS[:10]]
    ranked = client.rerank(model="rank", query=QUERY, documents=documents, top_n=4).results
    scores = scores_of(neighbours, QUERY, documents)
    order = sorted(range(len(documents)), key=lambda at: -scores[at])
    assert [result.index for result in ranked] == order[:4]
    assert max_difference([result.relevance_score for result in ranked], [scores[at] for at in order[:4]]) <= SAME_SCORE
    with pytest.raises(cohere.errors.NotFoundError) as caught:
        client.rerank(model="none", query="a", documents=["b"])
    assert "no model 'none' is served here" in str(caught.value)


def test_the_embedder_beside_them_serves_text2vec_transformers(client, weaviate_url, neighbours):
    collection = create(client, weaviate_url, "BesideThem", neighbours.url)
    id = collection.data.insert({"body": "hello"})
    stored = collection.query.fetch_object_by_id(id, include_vector=True).vector["default"]
    assert max_difference(stored, neighbours.passage("hello")) <= SAME_VECTOR


def test_weaviate_shows_what_each_module_serves(weaviate_url):
    status, meta = http_json("GET", f"{weaviate_url}/v1/meta")
    assert status == 200
    assert meta["modules"]["text2vec-model2vec"]["sidecar"]["profile"] == "model2vec"
    reranker = meta["modules"]["reranker-transformers"]
    assert reranker["sidecar"]["profile"] == "cross-encoder"
    assert reranker["sidecar"]["labels"] == ["LABEL_0"]


def test_errors_are_readable(client, weaviate_url, collection, neighbours):
    too_long = "river " * 1000
    with collection.batch.fixed_size(batch_size=2) as batch:
        batch.add_object({"body": too_long})
    [failed] = collection.batch.failed_objects
    assert "a text of 6000 bytes, 5000 are allowed" in failed.message
    # With a vector of its own it is stored, and only the reranker sees its text.
    id = collection.data.insert({"body": too_long}, vector=of_model2vec(neighbours, ["river"])[0])
    with pytest.raises(WeaviateQueryError) as caught:
        collection.query.bm25("river", limit=5, rerank=Rerank(prop="body", query="rivers"))
    assert "a text of 6000 bytes, 5000 are allowed" in str(caught.value)
    collection.data.delete_by_id(id)

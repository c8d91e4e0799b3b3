"""gRPC as a stranger finds it: Python's grpcio and server reflection, no generated code and no .proto file."""

import random

import grpc
import pytest
from google.protobuf import json_format
from reflected import Reflected
from sidecar import DIMENSIONS, max_difference
from topics import FACTS

VECTORIZER, MODULE, HEALTH = "text2vec.v1.Vectorizer", "text2vec.v1.Module", "grpc.health.v1.Health"
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]
TEXTS = [fact.body for fact in FACTS[::8]]


@pytest.fixture(scope="module")
def server(sidecar):
    reflected = Reflected(sidecar.address)
    yield reflected
    reflected.channel.close()


@pytest.fixture(scope="module")
def expected(sidecar):
    """The same texts over HTTP, one request each."""
    return [sidecar.passage(text) for text in TEXTS]


def test_reflection_lists_our_services(server):
    services = server.database.get_services()
    assert {VECTORIZER, MODULE, HEALTH} <= set(services), services


def test_reflection_describes_every_method(server):
    methods = {method.name for method in server.pool.FindServiceByName(VECTORIZER).methods}
    assert methods == {"Vectorize", "VectorizeStream"}
    methods = {method.name for method in server.pool.FindServiceByName(MODULE).methods}
    assert {"MetaInfo", "ValidateClass", "VectorizeObject", "VectorizeBatch", "VectorForParams"} <= methods, methods


@pytest.mark.parametrize("service", ["", VECTORIZER, MODULE])
def test_health_serves(server, service):
    answer = server.call(HEALTH, "Check", {"service": service})
    assert json_format.MessageToDict(answer) == {"status": "SERVING"}


def test_health_of_an_unknown_service_is_not_found(server):
    with pytest.raises(grpc.RpcError) as caught:
        server.call(HEALTH, "Check", {"service": "no.such.Service"})
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_vectorize_equals_http(server, expected):
    answer = server.call(VECTORIZER, "Vectorize", {"texts": TEXTS, "options": {"task": "TASK_PASSAGE"}})
    assert len(answer.results) == len(TEXTS)
    assert answer.model and answer.fingerprint
    for text, result, vector in zip(TEXTS, answer.results, expected):
        assert result.WhichOneof("result") == "vector", (text, result)
        assert len(result.vector.values) == DIMENSIONS
        assert result.tokens > 2 and not result.truncated
        assert max_difference(result.vector.values, vector) <= 1e-6, text


def test_one_bad_text_does_not_fail_its_neighbours(server, expected):
    answer = server.call(VECTORIZER, "Vectorize", {"texts": [TEXTS[0], " ", TEXTS[1]]})
    assert [result.WhichOneof("result") for result in answer.results] == ["vector", "error", "vector"]
    assert answer.results[1].error.code == INVALID_ARGUMENT
    assert "empty" in answer.results[1].error.message
    assert max_difference(answer.results[2].vector.values, expected[1]) <= 1e-6


def test_pooling_strategy_is_honoured(server, sidecar, expected):
    answer = server.call(VECTORIZER, "Vectorize", {"texts": TEXTS[:1], "options": {"poolingStrategy": "cls"}})
    vector = answer.results[0].vector.values
    assert max_difference(vector, sidecar.passage(TEXTS[0], pooling="cls")) <= 1e-6
    assert max_difference(vector, expected[0]) > 1e-2


def test_stream_answers_every_id(server, expected):
    requests = [{"id": f"fact-{i}", "text": text} for i, text in enumerate(TEXTS)]
    requests.append({"id": "blank", "text": ""})
    random.Random(1).shuffle(requests)
    answers = {answer.id: answer.result for answer in server.call(VECTORIZER, "VectorizeStream", requests)}
    assert sorted(answers) == sorted(request["id"] for request in requests)
    assert answers["blank"].error.code == INVALID_ARGUMENT
    for i, vector in enumerate(expected):
        assert max_difference(answers[f"fact-{i}"].vector.values, vector) <= 1e-6, TEXTS[i]


def test_module_meta_info_is_http_meta(server, sidecar):
    meta = json_format.MessageToDict(server.call(MODULE, "MetaInfo", {}))["meta"]
    http = sidecar.meta()
    assert meta["model"]["hidden_size"] == DIMENSIONS
    assert meta["model"] == http["model"]
    assert meta["model_path"] == http["model_path"]

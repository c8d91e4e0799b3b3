"""The public Python clients of the APIs the sidecar speaks beside its own: `openai`, `ollama`, `huggingface_hub`.

They check what they are answered, each in its own way; a field that changed its name or kind fails here.
"""

import base64
import struct

import huggingface_hub
import ollama
import openai
import pytest
from huggingface_hub.errors import HfHubHTTPError
from sidecar import DIMENSIONS, http_json, max_difference, unit
from topics import FACTS

TEXTS = [fact.body for fact in FACTS[:5]]
# float32 written as JSON numbers and read as doubles, or sent as they are.
SAME_VECTOR = 1e-7


@pytest.fixture(scope="module")
def raw(sidecar):
    """As the profile makes them."""
    return sidecar.passages(TEXTS)


@pytest.fixture(scope="module")
def expected(raw):
    """Of length 1, as these clients' own servers make them."""
    return [unit(vector) for vector in raw]


@pytest.fixture(scope="module")
def model(sidecar):
    return sidecar.meta()["sidecar"]["models"][0]


def assert_same(vectors, expected):
    assert len(vectors) == len(expected)
    for vector, other in zip(vectors, expected):
        assert len(vector) == DIMENSIONS
        assert max_difference(list(vector), other) <= SAME_VECTOR


# ---- openai ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openai_client(sidecar):
    with openai.OpenAI(base_url=f"{sidecar.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openai_embeddings(openai_client, model, expected, encoding):
    """Without an encoding the client asks for base64 and decodes it itself."""
    format = {"encoding_format": encoding} if encoding else {}
    answer = openai_client.embeddings.create(model=model, input=TEXTS, **format)
    assert (answer.object, answer.model) == ("list", model)
    assert [(entry.object, entry.index) for entry in answer.data] == [("embedding", i) for i in range(len(TEXTS))]
    vectors = [entry.embedding for entry in answer.data]
    if encoding == "base64":
        raw = [base64.b64decode(vector) for vector in vectors]
        vectors = [struct.unpack(f"<{len(bytes) // 4}f", bytes) for bytes in raw]
    assert_same(vectors, expected)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 5 * len(TEXTS)


def test_openai_one_text_with_fewer_dimensions(openai_client, model, expected):
    answer = openai_client.embeddings.create(model=model, input=TEXTS[0], dimensions=100)
    [vector] = [entry.embedding for entry in answer.data]
    length = sum(value * value for value in expected[0][:100]) ** 0.5
    assert max_difference(vector, [value / length for value in expected[0][:100]]) <= 1e-6


def test_openai_models(openai_client, model):
    listed = openai_client.models.list()
    assert listed.object == "list"
    entries = list(listed)
    assert [entry.id for entry in entries] == list(dict.fromkeys([model, model.rsplit("/", 1)[-1]]))
    for found in (*entries, openai_client.models.retrieve(model)):
        assert (found.object, found.owned_by) == ("model", "text2vec-sidecar")
        assert isinstance(found.created, int)
        assert openai_client.models.retrieve(found.id).id == found.id


def test_openai_errors_are_its_own_exceptions(openai_client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.embeddings.create(model=model, input=[[1, 2, 3]])
    assert "token ids" in caught.value.body["message"]
    assert (caught.value.type, caught.value.param, caught.value.code) == ("invalid_request_error", "input", None)
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client.embeddings.create(model="text-embedding-9", input="x")
    assert caught.value.code == "model_not_found" and model in caught.value.body["message"]
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("text-embedding-9")


# ---- ollama ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ollama_client(sidecar):
    return ollama.Client(host=sidecar.url, trust_env=False)


def test_ollama_embed(ollama_client, model, expected):
    answer = ollama_client.embed(model=model, input=TEXTS)
    assert answer.model == model
    assert_same(answer.embeddings, expected)
    assert answer.prompt_eval_count > 5 * len(TEXTS) and answer.total_duration > 0 and answer.load_duration == 0
    assert_same(ollama_client.embed(model=f"{model}:latest", input=TEXTS[0]).embeddings, expected[:1])
    assert len(ollama_client.embed(model=model, input=TEXTS[0], dimensions=100).embeddings[0]) == 100


def test_ollama_embeddings_as_it_was(ollama_client, model, expected):
    assert_same([ollama_client.embeddings(model=model, prompt=TEXTS[0]).embedding], expected[:1])


def test_ollama_list(ollama_client, model):
    entry, *others = ollama_client.list().models
    assert [other.model for other in others] == [f"{model.rsplit('/', 1)[-1]}:latest"][: "/" in model]
    assert entry.model == f"{model}:latest" and entry.digest and entry.size == 0 and entry.modified_at.year == 1970
    details = entry.details
    assert (details.format, details.family, details.families) == ("safetensors", "bert", ["bert"])
    assert (details.quantization_level, details.parameter_size, details.parent_model) == ("F32", "", "")


def test_ollama_show_and_ps(ollama_client, model):
    for name in (model, f"{model}:latest"):
        shown = ollama_client.show(name)
        assert shown.capabilities == ["embedding"] and shown.details.family == "bert"
        assert shown.modelinfo["bert.embedding_length"] == DIMENSIONS and shown.modelinfo["bert.context_length"] > 100
    [running] = ollama_client.ps().models
    assert running.model == f"{model}:latest" and running.expires_at.year > 2100 and running.context_length > 100


def test_ollama_errors_are_its_own_exceptions(ollama_client):
    with pytest.raises(ollama.ResponseError) as caught:
        ollama_client.embed(model="nomic-embed-text", input="x")
    assert caught.value.status_code == 404
    assert caught.value.error.startswith("no model 'nomic-embed-text' is served here")
    with pytest.raises(ollama.ResponseError) as caught:
        ollama_client.show("nomic-embed-text")
    assert caught.value.status_code == 404


# ---- text-embeddings-inference ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tei_client(sidecar):
    return huggingface_hub.InferenceClient(f"{sidecar.url}/embed")


def test_tei_feature_extraction(tei_client, raw, expected):
    for text, vector in zip(TEXTS, expected):
        answer = tei_client.feature_extraction(text)
        assert answer.shape == (1, DIMENSIONS)
        assert_same(answer.tolist(), [vector])
    assert_same(tei_client.feature_extraction(TEXTS, truncate=True).tolist(), expected)
    assert_same(tei_client.feature_extraction(TEXTS[0], normalize=True).tolist(), expected[:1])
    assert_same(tei_client.feature_extraction(TEXTS[0], normalize=False).tolist(), raw[:1])


def test_tei_below_a_models_path(sidecar, model, expected):
    name = model.rsplit("/", 1)[-1]
    client = huggingface_hub.InferenceClient(f"{sidecar.url}/models/{name}/embed")
    assert_same(client.feature_extraction(TEXTS[0]).tolist(), expected[:1])


def test_tei_errors_are_its_own_exceptions(tei_client):
    with pytest.raises(HfHubHTTPError) as caught:
        tei_client.feature_extraction("x", truncation_direction="left")
    assert caught.value.response.status_code == 422
    answer = caught.value.response.json()
    assert set(answer) == {"error", "error_type"} and answer["error_type"] == "Validation"
    assert "truncation_direction" in answer["error"]


def test_tei_health_and_info(sidecar, model):
    assert http_json("GET", f"{sidecar.url}/health") == (200, None)
    status, info = http_json("GET", f"{sidecar.url}/info")
    assert (status, info["model_id"], info["model_type"]) == (200, model, {"embedding": {"pooling": "mean"}})
    assert info["model_dtype"] == "float32" and info["auto_truncate"] is True and info["version"]
    for limit in "max_input_length max_client_batch_size max_concurrent_requests max_batch_tokens".split():
        assert info[limit] > 100, limit
    assert info["tokenization_workers"] > 0
    unknown = "model_sha max_batch_requests sha docker_label".split()
    assert [info[key] for key in unknown] == [None] * len(unknown)

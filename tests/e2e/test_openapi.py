"""The description of the API: valid OpenAPI 3.1 by a validator's own judgement, and enough for a generator to make a client of
it that gets the vectors which the other ways bring."""

import importlib
import json
import subprocess
import sys

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from own_sidecar import Process, free_port
from sidecar import http_json, max_difference, unit

TEXT = "The ship sails at dawn."


@pytest.fixture(scope="module")
def document(sidecar):
    status, document = http_json("GET", f"{sidecar.url}/openapi.json")
    assert status == 200
    return document


@pytest.fixture(scope="module")
def generated(document, tmp_path_factory):
    """The package that openapi-python-client makes of the document, without one complaint."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    # It would tidy up with a formatter otherwise.
    (folder / "config.yml").write_text("post_hooks: []\n", encoding="ascii")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"]
    command += ["--output-path", "described", "--config", "config.yml", "--fail-on-warning"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and "WARNING" not in run.stdout, run.stdout + run.stderr
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"described.{name}")
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def client(generated, sidecar):
    with generated("client").Client(base_url=sidecar.url, raise_on_unexpected_status=True) as client:
        yield client


def test_the_document_is_valid(document, figure):
    faults = [str(fault) for fault in OpenAPIV31SpecValidator(document).iter_errors()]
    assert not faults, faults
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert document["openapi"].startswith("3.1.") and len(operations) > 40
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    figure(f"OpenAPI: {len(document['paths'])} paths, {len(operations)} operations")


def test_a_generated_client_gets_the_vector_of_a_text(generated, client, sidecar):
    body = generated("models.one_text").OneText(text=TEXT)
    answer = generated("api.weaviate.vectors").sync(client=client, body=body)
    assert type(answer).__name__ == "TextVector" and answer.text == TEXT
    assert answer.vector == sidecar.passage(TEXT) and answer.dim == answer.dims == len(answer.vector)
    several = generated("models.many_texts").ManyTexts(texts=[TEXT, "Rain fell all night."])
    answer = generated("api.weaviate.vectors").sync(client=client, body=several)
    assert answer.vectors == sidecar.passages(several.texts)


def test_a_generated_client_gets_the_same_by_the_other_apis(generated, client, sidecar):
    expected = unit(sidecar.passage(TEXT))
    request = generated("models.open_ai_request").OpenAiRequest(input_=TEXT)
    openai = generated("api.open_ai.openai_embeddings").sync(client=client, body=request)
    request = generated("models.ollama_embed_request").OllamaEmbedRequest(input_=[TEXT])
    ollama = generated("api.ollama.ollama_embed").sync(client=client, body=request)
    request = generated("models.tei_request").TeiRequest(inputs=TEXT)
    tei = generated("api.text_embeddings_inference.embed").sync(client=client, body=request)
    for vector in (openai.data[0].embedding, ollama.embeddings[0], tei[0]):
        assert max_difference(vector, expected) < 1e-6
    name = generated("api.open_ai.models").sync(client=client).data[0].id
    of_model = generated("api.text_embeddings_inference.embed_of_model").sync(name, client=client, body=request)
    assert of_model[0] == tei[0]


def test_a_generated_client_reads_errors_and_what_the_server_says_of_itself(generated, client, sidecar):
    request = generated("models.open_ai_request").OpenAiRequest(input_=[])
    refused = generated("api.open_ai.openai_embeddings").sync_detailed(client=client, body=request)
    assert refused.status_code == 400 and refused.parsed.error.param == "input"
    unknown = generated("api.open_ai.model").sync_detailed("org/none", client=client)
    assert unknown.status_code == 404 and "org/none" in unknown.parsed.error.message
    meta = generated("api.weaviate.meta").sync(client=client)
    assert meta.sidecar.to_dict() | {"cache": None} == sidecar.meta()["sidecar"] | {"cache": None}
    tokens = generated("api.text_embeddings_inference.tokenize")
    request = generated("models.tokenize_request").TokenizeRequest(inputs="ships")
    assert [token.text for token in tokens.sync(client=client, body=request)[0]] == ["[CLS]", "ships", "[SEP]"]


def test_the_description_is_open_and_a_token_opens_the_rest(generated, processes):
    processes.append(process := Process(free_port(), environment={"AUTHENTICATION_ALLOWED_TOKENS": "secret"}))
    for path in ("/openapi.json", "/docs", "/docs/page.css", "/docs/page.js"):
        run = subprocess.run(["curl", "-s", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}", process.url + path],
                             capture_output=True, text=True, timeout=60)
        assert run.stdout == "200", path
    vectors, body = generated("api.weaviate.vectors"), generated("models.one_text").OneText(text=TEXT)
    with generated("client").Client(base_url=process.url) as anonymous:
        refused = vectors.sync_detailed(client=anonymous, body=body)
        assert refused.status_code == 401 and "Unauthorized" in refused.parsed.error
    with generated("client").AuthenticatedClient(base_url=process.url, token="secret") as known:
        assert vectors.sync(client=known, body=body).text == TEXT

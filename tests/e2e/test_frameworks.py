"""Frameworks that people put in front of an embedding server: Haystack, LangChain, and `huggingface_hub` given no path."""

import os

import huggingface_hub
import openai
import pytest
import tiktoken
from haystack import Document
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings
from own_sidecar import Process, free_port
from sidecar import http_json, max_difference
from topics import FACTS

TEXTS = [fact.body for fact in FACTS[:5]]
SAME_VECTOR = 1e-7


@pytest.fixture(scope="module")
def model(sidecar):
    return sidecar.meta()["sidecar"]["models"][0]


def answered(sidecar, path, body):
    """What the surface itself answers: a framework must hand on the very same vectors."""
    status, answer = http_json("POST", f"{sidecar.url}{path}", body)
    assert status == 200, answer
    return answer


@pytest.fixture(scope="module")
def of_tei(sidecar):
    return answered(sidecar, "/embed", {"inputs": TEXTS})


@pytest.fixture(scope="module")
def of_openai(sidecar):
    return [entry["embedding"] for entry in answered(sidecar, "/v1/embeddings", {"input": TEXTS})["data"]]


@pytest.fixture(scope="module")
def of_ollama(sidecar):
    return answered(sidecar, "/api/embed", {"input": TEXTS})["embeddings"]


def assert_same(vectors, expected):
    assert len(vectors) == len(expected)
    assert max(max_difference(list(vector), other) for vector, other in zip(vectors, expected)) <= SAME_VECTOR


# ---- huggingface_hub and Haystack, by TEI's API --------------------------------------------------------------------


@pytest.mark.parametrize("slash", ["", "/"])
def test_hub_client_with_a_servers_url(sidecar, model, of_tei, slash):
    for base in (sidecar.url, f"{sidecar.url}/models/{model}", f"{sidecar.url}/models/{model.rsplit('/')[-1]}"):
        client = huggingface_hub.InferenceClient(base + slash)
        assert_same([client.feature_extraction(text)[0] for text in TEXTS], of_tei)


def test_haystack(sidecar, of_tei):
    # Haystack says whether to normalise, by default not.
    settings = {
        "api_type": "text_embeddings_inference",
        "api_params": {"url": sidecar.url},
        "token": None,
        "normalize": True,
    }
    query = HuggingFaceAPITextEmbedder(**settings)
    assert_same([query.run(text=text)["embedding"] for text in TEXTS], of_tei)
    documents = HuggingFaceAPIDocumentEmbedder(**settings, batch_size=2, progress_bar=False)
    answer = documents.run(documents=[Document(content=text) for text in TEXTS])
    assert_same([document.embedding for document in answer["documents"]], of_tei)


def test_tei_tokens(sidecar, of_tei):
    lists = answered(sidecar, "/tokenize", {"inputs": TEXTS})
    for text, tokens in zip(TEXTS, lists):
        raw = text.encode()
        assert [tokens[0]["special"], tokens[-1]["special"]] == [True, True]
        assert all(raw[token["start"] : token["stop"]].decode() == token["text"] for token in tokens[1:-1])
    ids = [[token["id"] for token in tokens] for tokens in lists]
    texts = answered(sidecar, "/decode", {"ids": ids})
    assert answered(sidecar, "/embed", {"inputs": ids}) == answered(sidecar, "/embed", {"inputs": texts})


# ---- LangChain -----------------------------------------------------------------------------------------------------


def test_langchain_openai(sidecar, model, of_openai):
    client = OpenAIEmbeddings(
        model=model, base_url=f"{sidecar.url}/v1", api_key="unused", check_embedding_ctx_length=False, max_retries=0
    )
    assert_same(client.embed_documents(TEXTS), of_openai)
    assert_same([client.embed_query(TEXTS[0])], of_openai[:1])


@pytest.mark.parametrize("path", ["/v1", ""])
def test_langchain_openai_left_to_itself_is_told_what_to_set(sidecar, model, monkeypatch, path):
    """It sends the token ids of OpenAI's tokenizers, whose vocabularies it would download; one of bytes is as wrong."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    bytewise = tiktoken.Encoding(name="bytes", pat_str=r"(?s:.)", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: bytewise)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: bytewise)
    client = OpenAIEmbeddings(model=model, base_url=f"{sidecar.url}{path}", api_key="unused", max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embed_documents(TEXTS)
    assert "OpenAIEmbeddings(check_embedding_ctx_length=False)" in caught.value.body["message"]


def test_langchain_ollama_with_validation(sidecar, model, of_ollama):
    for name in (model, model.rsplit("/", 1)[-1], f"{model}:latest"):
        client = OllamaEmbeddings(model=name, base_url=sidecar.url, validate_model_on_init=True)
        assert_same(client.embed_documents(TEXTS), of_ollama)
        assert_same([client.embed_query(TEXTS[0])], of_ollama[:1])
    with pytest.raises(ValueError, match="not found"):
        OllamaEmbeddings(model="nomic-embed-text", base_url=sidecar.url, validate_model_on_init=True)


# ---- names that these clients insist on ----------------------------------------------------------------------------


def test_names_with_a_slash_and_with_a_tag(processes, of_tei):
    """One model by the names of others, as somebody does whose configuration is to stay."""
    names = ["nomic-embed-text:v1.5", "BAAI/bge-small-en-v1.5"]
    flags = [flag for name in names for flag in ("--model", f"{name}={os.environ['T2V_TEST_MODEL']}")]
    process = Process(free_port(), *flags, model=None)
    processes.append(process)
    tagged = OllamaEmbeddings(model=names[0], base_url=process.url, validate_model_on_init=True)
    openai_client = OpenAIEmbeddings(
        model=names[1], base_url=f"{process.url}/v1", api_key="unused", check_embedding_ctx_length=False
    )
    assert max_difference(tagged.embed_query(TEXTS[0]), openai_client.embed_query(TEXTS[0])) <= SAME_VECTOR
    for name in names:
        client = huggingface_hub.InferenceClient(f"{process.url}/models/{name}")
        assert_same([client.feature_extraction(text)[0] for text in TEXTS], of_tei)

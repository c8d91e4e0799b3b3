"""A sidecar that asks for a token: Weaviate brings one in the URL, its OpenAI module as the API key; what users read if not."""

import pytest
from own_sidecar import Process, create, free_port
from sidecar import DIMENSIONS, http_json, max_difference, unit
from weaviate.exceptions import UnexpectedStatusCodeError, WeaviateQueryError

TOKEN = "correct-horse"
BODY = "The ferry leaves at noon."
SAME_VECTOR = 1e-6


@pytest.fixture(scope="module")
def guarded():
    processes = [Process(free_port(), environment={"AUTHENTICATION_ALLOWED_TOKENS": f"another,{TOKEN}"})]
    yield processes[0]
    processes[0].child.kill()
    processes[0].child.wait()


def with_token(process, token):
    return process.url.replace("http://", f"http://any:{token}@")


def test_a_token_in_the_url_opens(client, weaviate_url, sidecar, guarded):
    collection = create(client, weaviate_url, "WithToken", with_token(guarded, TOKEN))
    id = collection.data.insert({"body": BODY})
    stored = collection.query.fetch_object_by_id(id, include_vector=True).vector["default"]
    assert max_difference(stored, sidecar.passage(BODY)) <= SAME_VECTOR
    assert collection.query.near_text("a boat", limit=1).objects[0].uuid == id


@pytest.mark.parametrize("token, words", [("wrong", "the token is not one"), (None, "no token came with the request")])
def test_without_the_token_the_error_says_what_to_do(client, weaviate_url, guarded, token, words):
    url = with_token(guarded, token) if token else guarded.url
    collection = create(client, weaviate_url, "WithoutToken", url)
    with pytest.raises(UnexpectedStatusCodeError) as of_insert:
        collection.data.insert({"body": BODY})
    with pytest.raises(WeaviateQueryError) as of_query:
        collection.query.near_text("a boat", limit=1)
    with collection.batch.fixed_size(batch_size=2) as batch:
        batch.add_object({"body": BODY})
    [failed] = collection.batch.failed_objects
    for message in (str(of_insert.value), str(of_query.value), failed.message):
        assert "401" in message and words in message and "http://any:<token>@host:port" in message, message
        assert TOKEN not in message


def test_the_api_key_of_text2vec_openai_is_the_token(client, weaviate_url, sidecar, guarded):
    module, name = "text2vec-openai", "WithApiKey"
    client.collections.delete(name)
    settings = {"baseURL": guarded.url, "model": sidecar.meta()["sidecar"]["models"][0], "vectorizeClassName": False}
    definition = {
        "class": name,
        "vectorizer": module,
        "moduleConfig": {module: settings},
        "properties": [{"name": "body", "dataType": ["text"]}],
    }
    status, answer = http_json("POST", f"{weaviate_url}/v1/schema", definition)
    assert status == 200, answer
    entry = {"class": name, "properties": {"body": BODY}}
    status, answer = http_json("POST", f"{weaviate_url}/v1/objects", entry, {"X-OpenAI-Api-Key": TOKEN})
    assert status == 200 and len(answer["vector"]) == DIMENSIONS, answer
    assert max_difference(answer["vector"], unit(sidecar.passage(BODY))) <= SAME_VECTOR
    status, answer = http_json("POST", f"{weaviate_url}/v1/objects", entry, {"X-OpenAI-Api-Key": "wrong"})
    assert status >= 400
    message = answer["error"][0]["message"]
    assert "401" in message and "the token is not one of this server's" in message, message

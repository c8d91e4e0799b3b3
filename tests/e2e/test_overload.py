"""A sidecar with more work than room: what a user of Weaviate reads, and that what failed can be sent again."""

import pytest
from own_sidecar import Process, create, free_port
from topics import FACTS
from weaviate.exceptions import WeaviateQueryError


def test_overload_is_told_and_passes(client, weaviate_url, processes):
    # Room for about one passage, and no patience.
    processes.append(Process(free_port(), "--max-waiting-tokens", "40", "--max-wait", "0", "--threads", "1"))
    collection = create(client, weaviate_url, "Crowded", processes[0].url)
    missing = [" ".join(fact.body for fact in FACTS[start : start + 8]) for start in range(0, len(FACTS), 2)]
    messages = []
    for _ in range(200):
        with collection.batch.fixed_size(batch_size=60, concurrent_requests=2) as batch:
            for text in missing:
                batch.add_object({"body": text})
        failed = collection.batch.failed_objects
        messages += [entry.message for entry in failed]
        missing = [entry.object_.properties["body"] for entry in failed]
        if not missing:
            break
    assert messages, "nothing was refused: this tests nothing"
    for message in messages:
        assert "too much work is waiting" in message and "429" in message, message
        assert "--max-waiting-tokens" in message or "--max-wait" in message, message
    assert not missing, f"{len(missing)} objects were refused to the end"


def test_a_text_over_its_limit_is_told(client, weaviate_url, processes):
    processes.append(Process(free_port(), "--max-text-bytes", "200"))
    collection = create(client, weaviate_url, "TooLong", processes[0].url)
    with pytest.raises(WeaviateQueryError) as caught:
        collection.query.near_text("x" * 201, limit=1)
    assert "a text of 201 bytes, 200 are allowed: split it or raise --max-text-bytes" in str(caught.value)
    with collection.batch.fixed_size(batch_size=10) as batch:
        for body in ["short", "y" * 300, "short too"]:
            batch.add_object({"body": body})
    [failed] = collection.batch.failed_objects
    assert "300 bytes, 200 are allowed" in failed.message

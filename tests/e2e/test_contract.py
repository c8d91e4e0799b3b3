"""Contract equality: what Weaviate stores and searches by is what service Module answers for the same class and object."""

import datetime
import json
import random
import uuid

import brute_force
import pytest
from reflected import Reflected
from sidecar import http_json, max_difference
from topics import FACTS
from weaviate.classes.query import MetadataQuery, Move

MODULE = "text2vec-transformers"
SERVICE = "text2vec.v1.Module"
OBJECTS = 70
SAME_DISTANCE = 1e-5

TYPES = {
    "headLine": "text",
    "body": "text",
    "keyWords": "text[]",
    "rank": "int",
    "ranks": "int[]",
    "share": "number",
    "isOpen": "boolean",
    "flags": "boolean[]",
    "seenAt": "date",
    "reference": "uuid",
    "noteOnly": "text",
}


def schema(name, settings=None, **more):
    """`headLine` with its name, `noteOnly` skipped; every collection of its own settings."""
    properties = [{"name": key, "dataType": [kind]} for key, kind in TYPES.items()]
    properties[0]["moduleConfig"] = {MODULE: {"vectorizePropertyName": True}}
    properties[-1]["moduleConfig"] = {MODULE: {"skip": True}}
    if settings is not None:
        more |= {"vectorizer": MODULE, "moduleConfig": {MODULE: settings}}
    # Every vector is looked at, so that searches can be compared one by one.
    more.setdefault("vectorIndexType", "flat")
    return {"class": name, "properties": properties, **more}


def named(settings):
    return {"vectorizer": {MODULE: settings}, "vectorIndexType": "flat"}


NAMED = schema(
    "ContractNamed",
    vectorConfig={
        "whole": named({}),
        "first": named({"poolingStrategy": "cls", "vectorizeClassName": False}),
        "numbers": named({"properties": ["rank", "ranks", "share", "isOpen", "flags", "seenAt"]}),
        "short": named({"properties": ["headLine"], "dimensions": 64}),
    },
)
del NAMED["vectorIndexType"]

SCHEMAS = {
    "defaults": schema("ContractPage", {}),
    "cls, no class name": schema("ContractCls", {"poolingStrategy": "cls", "vectorizeClassName": False}),
    "chosen properties": schema("ContractChosen", {"properties": ["keyWords", "body", "share"]}),
    "named vectors": NAMED,
}


def varied(number, fact, chance):
    """An object with about half of its properties, some of them odd."""
    moment = datetime.datetime(1990 + number % 50, 1 + number % 12, 1 + number % 28, number % 24, number % 60, number % 60)
    values = {
        "headLine": chance.choice([fact.subject, fact.subject.upper(), f" {fact.subject}\n", "Größe 世界 🚲", ""]),
        "body": fact.body,
        "keyWords": chance.choice([[fact.topic], [fact.topic, "", "Zwei Worte"], []]),
        "rank": chance.choice([0, -7, number, 10**15]),
        "ranks": [number, -number, 3],
        "share": chance.choice([0.1, -2.5, 1e21, 1e-7, 3.0, number / 7]),
        "isOpen": number % 2 == 0,
        "flags": [True, False, number % 3 == 0],
        "seenAt": moment.isoformat() + chance.choice(["Z", "+02:00", ".5Z"]),
        "reference": str(uuid.UUID(int=number)),
        "noteOnly": "never seen by the model",
    }
    return {key: value for key, value in values.items() if key == "body" or chance.random() < 0.5}


@pytest.fixture(scope="module")
def module(sidecar):
    reflected = Reflected(sidecar.address)
    yield reflected
    reflected.channel.close()


@pytest.fixture(scope="module", params=SCHEMAS)
def filled(request, client, weaviate_url):
    """The collection, its class as Weaviate tells it, and the objects by id as they were sent."""
    wanted = SCHEMAS[request.param]
    name = wanted["class"]
    client.collections.delete(name)
    status, answer = http_json("POST", f"{weaviate_url}/v1/schema", wanted)
    assert status == 200, answer
    chance = random.Random(name)
    objects = {
        str(uuid.UUID(int=number + 1)): varied(number, fact, chance)
        for number, fact in enumerate(chance.sample(FACTS, OBJECTS))
    }
    with client.batch.fixed_size(batch_size=35) as batch:
        for id, properties in objects.items():
            batch.add_object(collection=name, properties=properties, uuid=id)
    assert not client.batch.failed_objects, client.batch.failed_objects[0].message
    status, definition = http_json("GET", f"{weaviate_url}/v1/schema/{name}")
    assert status == 200
    return client.collections.use(name), definition, objects


def targets(definition):
    """(Weaviate's name, the module's name) of each vector."""
    return [(name, name) for name in definition.get("vectorConfig") or {}] or [("default", "")]


def test_stored_vectors_are_vectorize_batchs(module, filled, figure):
    collection, definition, objects = filled
    stored = {str(entry.uuid): entry.vector for entry in collection.iterator(include_vector=True)}
    assert len(stored) == len(objects)
    compared = 0
    for weaviates, target in targets(definition):
        answer = module.call(
            SERVICE,
            "VectorizeBatch",
            {
                "objects": [{"id": id, "json": json.dumps(properties)} for id, properties in objects.items()],
                "config": {"classJson": json.dumps(definition), "targetVector": target},
            },
        )
        assert len(answer.results) == len(objects)
        for id, result in zip(objects, answer.results):
            if result.WhichOneof("result") == "skipped":
                assert weaviates not in stored[id], objects[id]
                continue
            assert result.WhichOneof("result") == "vector", (objects[id], result)
            # Both are the same float32: one came as JSON, the other as protobuf.
            assert max_difference(stored[id][weaviates], result.vector.values) == 0.0, objects[id]
            compared += 1
    assert compared >= len(objects) - 5
    figure(f"contract, {definition['class']}: {compared} stored vectors equal Module.VectorizeBatch's, bit by bit")


def test_searches_are_by_vector_for_params(module, filled):
    """Seen through the distances: what comes back is nearest to the vector the module names, at its distance."""
    collection, definition, objects = filled
    stored = {entry.uuid: entry.vector for entry in collection.iterator(include_vector=True)}
    some = sorted(stored, key=str)[:2]
    searches = [
        ({"concepts": ["planets"]}, ["planets"], {}),
        ({"concepts": ["a long journey", "by train"]}, ["a long journey", "by train"], {}),
        (
            {
                "concepts": ["animals"],
                "moveTo": {"concepts": {"values": ["hunting"]}, "force": 0.7},
                "moveAwayFrom": {"concepts": {"values": ["dogs", "houses"]}, "force": 0.4},
            },
            ["animals"],
            {
                "move_to": Move(force=0.7, concepts="hunting"),
                "move_away": Move(force=0.4, concepts=["dogs", "houses"]),
            },
        ),
    ]
    for weaviates, target in targets(definition):
        vectors = {id: vector[weaviates] for id, vector in stored.items() if weaviates in vector}
        moved = [id for id in some if id in vectors]
        # With objects in the move, which come with their vectors.
        with_objects = (
            {
                "concepts": ["light"],
                "moveTo": {
                    "objects": [{"id": str(id), "vector": {"values": vectors[id]}} for id in moved],
                    "force": 0.5,
                },
            },
            ["light"],
            {"move_to": Move(force=0.5, objects=moved)},
        )
        # Weaviate finds the objects of a move by their class-level vector alone.
        for near_text, query, moves in searches + ([with_objects] if moved and not target else []):
            config = {"classJson": json.dumps(definition), "targetVector": target}
            answer = module.call(SERVICE, "VectorForParams", {"nearText": near_text, "config": config})
            expected = brute_force.nearest(list(answer.vector.values), vectors)[:20]
            hits = collection.query.near_text(
                query,
                limit=20,
                target_vector=target or None,
                return_metadata=MetadataQuery(distance=True),
                **moves,
            ).objects
            assert len(hits) == min(20, len(vectors))
            for hit, (distance, _) in zip(hits, expected):
                assert abs(hit.metadata.distance - distance) <= SAME_DISTANCE, (definition["class"], target, query)

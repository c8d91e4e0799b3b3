"""First contact with an unmodified Weaviate: its text2vec-transformers module speaks to the sidecar, we to Weaviate.

What an object's text is, is written out in full here, not computed: camel case split, properties in byte order of their
names. The Python client (4.23) sends a property's `skip_vectorization` and `vectorize_property_name` (default true) only
for collections made with `vectorizer_config`; with the newer `vector_config` both are lost without a word and Weaviate's
own default holds: no names before the values. Both ways are here.
"""

import math
import random
import time
from collections import namedtuple

import brute_force
import pytest
from sidecar import DIMENSIONS, http_json, max_difference
from topics import FACTS, TOPICS
from weaviate.classes.config import Configure, DataType, Property, Tokenization
from weaviate.classes.query import Filter, HybridVector, MetadataQuery, Move
from weaviate.exceptions import UnexpectedStatusCodeError, WeaviateQueryError

MODULE = "text2vec-transformers"
SAME_VECTOR = 1e-6
# Weaviate adds up float32, brute_force doubles.
SAME_DISTANCE = 1e-5


# ---- the collection of facts -----------------------------------------------------------------------------------------

FACT_CARDS = "FactCard"


def card_text(body, subject):
    """The text Weaviate sends for a FactCard: `topic` and `bodyLength` are no source properties."""
    return f"Fact Card {body} {subject}"


# ids: topic → the ids of its facts. facts, vectors: by id.
Cards = namedtuple("Cards", "collection facts vectors ids")


def create_fact_cards(client):
    return client.collections.create(
        FACT_CARDS,
        vector_config=Configure.Vectors.text2vec_transformers(source_properties=["subject", "body"]),
        properties=[
            Property(name="subject", data_type=DataType.TEXT),
            Property(name="body", data_type=DataType.TEXT),
            Property(name="topic", data_type=DataType.TEXT, tokenization=Tokenization.FIELD),
            Property(name="bodyLength", data_type=DataType.INT),
        ],
    )


def import_facts(collection):
    shuffled = random.Random(7).sample(FACTS, len(FACTS))
    with collection.batch.fixed_size(batch_size=40, concurrent_requests=2) as batch:
        for fact in shuffled:
            batch.add_object(
                {"subject": fact.subject, "body": fact.body, "topic": fact.topic, "bodyLength": len(fact.body)}
            )
    assert not collection.batch.failed_objects, collection.batch.failed_objects[0].message


@pytest.fixture(scope="module")
def cards(client, figure):
    """Imported by whoever comes first, read by everyone."""
    if client.collections.exists(FACT_CARDS):
        collection = client.collections.use(FACT_CARDS)
    else:
        collection = create_fact_cards(client)
        started = time.monotonic()
        import_facts(collection)
        figure(f"import: {len(FACTS)} objects through the client's batch in {time.monotonic() - started:.1f} s")
    facts, vectors, ids = {}, {}, {}
    for stored in collection.iterator(include_vector=True):
        facts[stored.uuid] = stored.properties
        vectors[stored.uuid] = stored.vector.get("default")
        ids.setdefault(stored.properties["topic"], set()).add(stored.uuid)
    return Cards(collection, facts, vectors, ids)


def assert_nearest(response, query_vector, vectors):
    """The hits are what a look at every vector gives, in order; objects at the same distance may change places."""
    assert response.objects
    expected = brute_force.nearest(query_vector, vectors)[: len(response.objects)]
    for hit, (distance, _) in zip(response.objects, expected):
        assert abs(hit.metadata.distance - distance) <= SAME_DISTANCE
        own = brute_force.cosine_distance(query_vector, vectors[hit.uuid])
        assert abs(hit.metadata.distance - own) <= SAME_DISTANCE
    assert len({hit.uuid for hit in response.objects}) == len(response.objects)


def topics_of(response):
    return [hit.properties["topic"] for hit in response.objects]


def near(cards, query, **how):
    return cards.collection.query.near_text(query, return_metadata=MetadataQuery(distance=True), **how)


# ---- meta ------------------------------------------------------------------------------------------------------------


def assert_meta_is_ours(client, sidecar):
    shown, own = client.get_meta()["modules"][MODULE], sidecar.meta()
    assert shown["model"]["hidden_size"] == DIMENSIONS
    assert shown["model"] == own["model"]
    assert shown["model_path"] == own["model_path"]


def test_weaviate_shows_our_meta(client, sidecar):
    assert_meta_is_ours(client, sidecar)


# ---- storing ---------------------------------------------------------------------------------------------------------


def test_every_object_has_the_vector_of_its_text(cards, sidecar, figure):
    assert len(cards.facts) == len(FACTS) >= 200
    ids = list(cards.facts)
    texts = [card_text(cards.facts[id]["body"], cards.facts[id]["subject"]) for id in ids]
    largest = 0.0
    for id, text, vector in zip(ids, texts, sidecar.passages(texts)):
        assert len(cards.vectors[id]) == DIMENSIONS, text
        difference = max_difference(cards.vectors[id], vector)
        assert difference <= SAME_VECTOR, text
        largest = max(largest, difference)
    figure(f"vectors: {len(ids)} stored, largest difference from the sidecar's own answers {largest:.1e}")
    # The comparison can tell: the same object without its class name has another vector.
    assert max_difference(cards.vectors[ids[0]], sidecar.passage(texts[0].removeprefix("Fact Card "))) > 1e-3


def test_the_default_profile_does_not_normalise(cards):
    lengths = [math.sqrt(math.fsum(x * x for x in vector)) for vector in cards.vectors.values()]
    assert min(lengths) > 1.5, (min(lengths), max(lengths))


def test_object_text(client, sidecar):
    """The class-level vectorizer: names, lists, absent and empty values, and settings of a property."""
    collection = client.collections.create(
        "PDFLoaderPage",
        vectorizer_config=Configure.Vectorizer.text2vec_transformers(),
        properties=[
            Property(name="pageTitle", data_type=DataType.TEXT),
            Property(name="keyWords", data_type=DataType.TEXT_ARRAY),
            Property(name="summary", data_type=DataType.TEXT, vectorize_property_name=False),
            Property(name="note", data_type=DataType.TEXT, skip_vectorization=True),
            Property(name="pages", data_type=DataType.INT),
        ],
    )
    cases = [
        (
            {"summary": "How ice moves.", "pageTitle": "Glaciers", "keyWords": ["ice", "Valley"], "note": "x", "pages": 3},
            "PDF Loader Page key Words ice key Words Valley page Title Glaciers How ice moves.",
        ),
        ({"pageTitle": "Grüße, 世界 <b>&</b> \"q\"\n"}, "PDF Loader Page page Title Grüße, 世界 <b>&</b> \"q\"\n"),
        ({"summary": "", "note": "not seen"}, "PDF Loader Page "),
        ({"keyWords": [], "pages": 12}, "PDF Loader Page"),
    ]
    for properties, text in cases:
        id = collection.data.insert(properties)
        stored = collection.query.fetch_object_by_id(id, include_vector=True).vector["default"]
        assert max_difference(stored, sidecar.passage(text)) <= SAME_VECTOR, text


def test_a_changed_text_gets_a_new_vector(client, sidecar):
    collection = client.collections.create(
        "Memo",
        vector_config=Configure.Vectors.text2vec_transformers(vectorize_collection_name=False, pooling_strategy="cls"),
        properties=[Property(name="body", data_type=DataType.TEXT)],
    )
    id = collection.data.insert({"body": "The kettle is on."})
    for text in ("The kettle is on.", "The ferry leaves at noon."):
        collection.data.update(id, {"body": text})
        stored = collection.query.fetch_object_by_id(id, include_vector=True).vector["default"]
        assert max_difference(stored, sidecar.passage(text, pooling="cls")) <= SAME_VECTOR, text


# ---- nearText --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_near_text_finds_the_topic(cards, sidecar, topic):
    """The first three hits are of the topic, of the first five at least four: transistors have currents too."""
    response = near(cards, topic.question, limit=5)
    assert topics_of(response)[:3] == [topic.name] * 3
    assert topics_of(response).count(topic.name) >= 4, topics_of(response)
    assert_nearest(response, sidecar.query(topic.question), cards.vectors)


def test_near_text_over_all_topics(cards, figure):
    hits = [topic.name == found for topic in TOPICS for found in topics_of(near(cards, topic.question, limit=5))]
    figure(f"near_text: {sum(hits)} of {len(hits)} hits (5 for each of {len(TOPICS)} questions) are of the topic asked for")
    assert sum(hits) >= 0.95 * len(hits)


def test_near_text_of_a_whole_object_finds_it_first(cards):
    for fact in FACTS[::12]:
        response = near(cards, card_text(fact.body, fact.subject), limit=1)
        assert response.objects[0].properties["body"] == fact.body
        assert response.objects[0].metadata.distance < 1e-4


def test_near_text_is_exact_far_down_the_list(cards, sidecar):
    query = "something that moves fast"
    response = near(cards, query, limit=50)
    assert len(response.objects) == 50
    assert_nearest(response, sidecar.query(query), cards.vectors)


def test_near_text_of_several_concepts_is_their_mean(cards, sidecar):
    concepts = ["volcano", "painting in oil", "volcano"]
    response = near(cards, concepts, limit=10)
    assert_nearest(response, brute_force.mean([sidecar.query(concept) for concept in concepts]), cards.vectors)


def test_near_text_with_a_distance_limit(cards, sidecar):
    query = "baking a loaf of bread"
    ranked = brute_force.nearest(sidecar.query(query), cards.vectors)
    limit = (ranked[6][0] + ranked[7][0]) / 2
    response = near(cards, query, distance=limit)
    assert len(response.objects) == 7
    assert_nearest(response, sidecar.query(query), cards.vectors)


# ---- filters ---------------------------------------------------------------------------------------------------------


def test_near_text_with_a_topic_filter(cards, sidecar):
    query = "an animal that hunts at night"
    response = near(cards, query, limit=6, filters=Filter.by_property("topic").equal("oceans"))
    assert topics_of(response) == ["oceans"] * 6
    assert_nearest(response, sidecar.query(query), {id: cards.vectors[id] for id in cards.ids["oceans"]})


def test_near_text_with_filters_combined(cards, sidecar):
    query = "the oldest of its kind"
    filters = Filter.by_property("bodyLength").greater_than(70) & (
        Filter.by_property("topic").equal("railways") | Filter.by_property("topic").equal("languages")
    )
    allowed = {
        id: cards.vectors[id]
        for id, fact in cards.facts.items()
        if fact["bodyLength"] > 70 and fact["topic"] in ("railways", "languages")
    }
    assert 3 < len(allowed) < 20
    response = near(cards, query, limit=100, filters=filters)
    assert {hit.uuid for hit in response.objects} == set(allowed)
    assert_nearest(response, sidecar.query(query), allowed)


# ---- moves -----------------------------------------------------------------------------------------------------------


def test_move_to_concepts(cards, sidecar):
    start, concepts = "great achievements", ["music", "composers and symphonies"]
    response = near(cards, start, limit=8, move_to=Move(force=0.9, concepts=concepts))
    moved = brute_force.moved_to(
        sidecar.query(start), brute_force.target([sidecar.query(concept) for concept in concepts]), 0.9
    )
    assert_nearest(response, moved, cards.vectors)
    before = topics_of(near(cards, start, limit=8)).count("music")
    assert topics_of(response).count("music") > before


def test_move_away_from_concepts(cards, sidecar):
    start, concept = "animals", "dogs"
    response = near(cards, start, limit=8, move_away=Move(force=0.8, concepts=concept))
    moved = brute_force.moved_away(sidecar.query(start), sidecar.query(concept), 0.8)
    assert_nearest(response, moved, cards.vectors)
    before = topics_of(near(cards, start, limit=8)).count("dogs")
    assert topics_of(response).count("dogs") < before


def test_move_to_concepts_and_objects_and_away(cards, sidecar):
    start = "light"
    objects = sorted(cards.ids["painting"])[:2]
    response = near(
        cards,
        start,
        limit=10,
        move_to=Move(force=0.7, concepts="colours on canvas", objects=objects),
        move_away=Move(force=0.4, concepts="electric lamps"),
    )
    target = brute_force.target([sidecar.query("colours on canvas")], [cards.vectors[id] for id in objects])
    moved = brute_force.moved_to(sidecar.query(start), target, 0.7)
    moved = brute_force.moved_away(moved, sidecar.query("electric lamps"), 0.4)
    assert_nearest(response, moved, cards.vectors)


# ---- hybrid ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS[::2], ids=lambda topic: topic.name)
def test_hybrid_finds_the_topic(cards, topic):
    response = cards.collection.query.hybrid(topic.question, alpha=0.75, limit=3)
    assert topics_of(response) == [topic.name] * 3


def test_hybrid_of_vectors_alone_is_near_text(cards):
    query = "why do leaves and vegetables need water?"
    by_vector = near(cards, query, limit=10)
    hybrid = cards.collection.query.hybrid(query, alpha=1, limit=10)
    assert [hit.uuid for hit in hybrid.objects] == [hit.uuid for hit in by_vector.objects]


def test_hybrid_finds_a_rare_word(cards):
    response = cards.collection.query.hybrid("Brunelleschi", alpha=0.5, limit=1)
    assert response.objects[0].properties["subject"] == "Domes"


def test_hybrid_with_near_text_and_a_filter(cards):
    response = cards.collection.query.hybrid(
        "king",
        alpha=0.7,
        limit=5,
        vector=HybridVector.near_text("the king is in danger", move_to=Move(force=0.5, concepts="chess")),
        filters=Filter.by_property("topic").equal("chess"),
    )
    assert topics_of(response) == ["chess"] * 5
    assert "king" in response.objects[0].properties["body"].lower()


# ---- errors a user of Weaviate reads ---------------------------------------------------------------------------------


def create_by_rest(weaviate_url, name, settings):
    """A class the Python client would refuse to describe."""
    status, answer = http_json(
        "POST",
        f"{weaviate_url}/v1/schema",
        {
            "class": name,
            "vectorizer": MODULE,
            "moduleConfig": {MODULE: settings},
            "properties": [{"name": "body", "dataType": ["text"]}],
        },
    )
    assert status == 200, (status, answer)


def insert_by_rest(weaviate_url, name, body):
    """The error text of an object that cannot be vectorized."""
    status, answer = http_json("POST", f"{weaviate_url}/v1/objects", {"class": name, "properties": {"body": body}})
    assert status >= 400, (status, answer)
    return answer["error"][0]["message"]


def query_error(collection, query):
    with pytest.raises(WeaviateQueryError) as caught:
        collection.query.near_text(query, limit=1)
    return str(caught.value)


def test_an_unknown_pooling_strategy_is_named(client, weaviate_url):
    create_by_rest(weaviate_url, "WrongPooling", {"poolingStrategy": "middle_out"})
    collection = client.collections.use("WrongPooling")
    advice = "invalid pooling method 'middle_out': use masked_mean or cls"
    assert advice in insert_by_rest(weaviate_url, "WrongPooling", "hello")
    assert advice in query_error(collection, "hello")
    with collection.batch.fixed_size(batch_size=2) as batch:
        for body in ("one", "two", "three"):
            batch.add_object({"body": body})
    assert len(collection.batch.failed_objects) == 3
    for failed in collection.batch.failed_objects:
        assert advice in failed.message


def test_an_empty_query_is_explained(cards):
    assert "the text is empty" in query_error(cards.collection, " ")


def test_a_wrong_path_in_a_class_is_explained(client, sidecar, weaviate_url):
    create_by_rest(weaviate_url, "WrongPath", {"inferenceUrl": f"{sidecar.url}/v2"})
    for message in (
        insert_by_rest(weaviate_url, "WrongPath", "hello"),
        query_error(client.collections.use("WrongPath"), "hello"),
    ):
        assert "404" in message and "no such path: /v2/vectors" in message and "There are /vectors" in message


def test_a_trailing_slash_in_a_class_is_fine(client, sidecar, weaviate_url):
    create_by_rest(weaviate_url, "TrailingSlash", {"inferenceUrl": f"{sidecar.url}/"})
    collection = client.collections.use("TrailingSlash")
    id = collection.data.insert({"body": "hello"})
    stored = collection.query.fetch_object_by_id(id, include_vector=True).vector["default"]
    assert max_difference(stored, sidecar.passage("Trailing Slash hello")) <= SAME_VECTOR


# ---- while the sidecar is down, and after --------------------------------------------------------------------------


@pytest.mark.sidecar_stopped
def test_down_a_query_says_who_does_not_answer(client, sidecar):
    message = query_error(client.collections.use(FACT_CARDS), "planets")
    assert "connection refused" in message and f"{sidecar.url}/vectors" in message


@pytest.mark.sidecar_stopped
def test_down_an_insert_says_who_does_not_answer(client, sidecar):
    with pytest.raises(UnexpectedStatusCodeError) as caught:
        client.collections.use(FACT_CARDS).data.insert({"body": "Nobody is listening.", "subject": "Silence"})
    assert "connection refused" in str(caught.value) and f"{sidecar.url}/vectors" in str(caught.value)


@pytest.mark.sidecar_stopped
def test_down_meta_says_who_does_not_answer(client, sidecar):
    message = client.get_meta()["modules"][MODULE]["error"]
    assert "connection refused" in message and f"{sidecar.url}/meta" in message


@pytest.mark.sidecar_stopped
def test_down_what_needs_no_vector_works(cards):
    assert len(cards.facts) == len(FACTS)
    response = cards.collection.query.bm25("Brunelleschi", limit=1)
    assert response.objects[0].properties["subject"] == "Domes"
    id, vector = next(iter(cards.vectors.items()))
    assert cards.collection.query.near_vector(vector, limit=1).objects[0].uuid == id


@pytest.mark.sidecar_restarted
def test_back_again_everything_is_as_before(client, cards, sidecar):
    """Weaviate's pooled connections broke meanwhile; the vectors in the index still fit."""
    assert_meta_is_ours(client, sidecar)
    for topic in TOPICS[:3]:
        response = near(cards, topic.question, limit=5)
        assert topics_of(response)[:3] == [topic.name] * 3
        assert_nearest(response, sidecar.query(topic.question), cards.vectors)
    fact = {"body": "The sidecar came back.", "subject": "Return", "topic": "", "bodyLength": 22}
    id = cards.collection.data.insert(fact)
    stored = cards.collection.query.fetch_object_by_id(id, include_vector=True).vector["default"]
    assert max_difference(stored, sidecar.passage(card_text(fact["body"], fact["subject"]))) <= SAME_VECTOR

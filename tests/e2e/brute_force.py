"""What a vector search must answer, by looking at every vector; and nearText's arithmetic, as Weaviate's module has it."""

import math


def cosine_distance(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b))
    return 1.0 - dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def nearest(query, vectors):
    """All (distance, id), nearest first. `vectors`: id → vector."""
    return sorted((cosine_distance(query, vector), id) for id, vector in vectors.items())


def mean(vectors):
    return [math.fsum(column) / len(vectors) for column in zip(*vectors)]


def moved_to(start, target, force):
    weight = force * 0.5
    return [s * (1.0 - weight) + t * weight for s, t in zip(start, target)]


def moved_away(start, target, force):
    weight = force * 0.5
    return [s + weight * (s - t) for s, t in zip(start, target)]


def target(concepts, objects=()):
    """Where a move goes: the mean of its concepts counts as one, each object as one more."""
    return mean(([mean(concepts)] if concepts else []) + list(objects))

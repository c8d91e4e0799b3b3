"""The peers' side of the line protocol that benches/peer.rs describes.

A peer gives `serve` its name and a function from token ids `[1, tokens]` (int64) to a function that runs one forward pass
and gives the hidden states `[1, tokens, width]`. What depends on the ids alone happens outside the timed passes.
"""

import sys
import time

import numpy as np


def times_of(forward, count):
    """Milliseconds of `count` passes, after a tenth as many to warm up."""
    for _ in range(-(-count // 10)):
        forward()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        forward()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def serve(name, prepare):
    """Answers orders until there are no more."""

    def answer(text):
        print(text, flush=True)

    answer(f"ready {name}")
    forward = None
    for order in iter(sys.stdin.readline, ""):
        verb, _, rest = order.strip().partition(" ")
        if verb == "ids":
            forward = prepare(np.array([rest.split()], dtype=np.int64))
            answer("ok")
        elif verb == "time":
            answer(" ".join(f"{value:.6f}" for value in times_of(forward, int(rest))))
        elif verb == "vector":
            answer(" ".join(f"{value:.6f}" for value in np.asarray(forward())[0].mean(axis=0)))
        else:
            sys.exit(f"unknown order '{order}'")

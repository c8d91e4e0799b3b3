"""ONNX Runtime as fast as it embeds texts one by one without a server: processes with one thread each, nothing padded.

`onnxruntime_workers.py MODEL.onnx TOKENIZER.json CORPUS.jsonl WORKERS`. The order `texts N` embeds the first N texts of
the corpus, taken by whoever is free (tokens, forward pass, masked mean, length 1), and is answered with the seconds.
"""

import json
import multiprocessing
import sys
import time

import numpy as np
import onnxruntime as ort
from onnxruntime_peer import feeds, session
from tokenizers import Tokenizer


def work(model, tokenizer_file, texts, following, orders, answers):
    """One worker: embeds texts up to the number ordered, claiming them through a counter."""
    runtime = session(model, 1)
    tokenizer = Tokenizer.from_file(tokenizer_file)
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    answers.put("ready")
    while (count := orders.get()) is not None:
        while True:
            with following.get_lock():
                index = following.value
                following.value += 1
            if index >= count:
                break
            ids = np.array([tokenizer.encode(texts[index]).ids], dtype=np.int64)
            (hidden,) = runtime.run(None, feeds(runtime, ids))
            vector = hidden[0].mean(axis=0)
            vector /= np.linalg.norm(vector)
        answers.put("done")


def main():
    model, tokenizer_file, corpus, workers = *sys.argv[1:4], int(sys.argv[4])
    with open(corpus, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    context = multiprocessing.get_context("spawn")
    following, answers = context.Value("q", 0), context.Queue()
    orders = [context.Queue() for _ in range(workers)]
    for order in orders:
        arguments = (model, tokenizer_file, texts, following, order, answers)
        context.Process(target=work, args=arguments, daemon=True).start()
    for _ in range(workers):
        answers.get()
    print(f"ready ONNX Runtime {ort.__version__}", flush=True)
    for order in iter(sys.stdin.readline, ""):
        verb, _, rest = order.strip().partition(" ")
        if verb != "texts":
            sys.exit(f"unknown order '{order}'")
        following.value = 0
        start = time.perf_counter()
        for queue in orders:
            queue.put(min(int(rest), len(texts)))
        for _ in range(workers):
            answers.get()
        print(f"{time.perf_counter() - start:.6f}", flush=True)


if __name__ == "__main__":
    main()

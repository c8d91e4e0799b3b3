"""Rerankers as users run them: `rerank_peer.py make MODEL DIR` writes a cross-encoder of that model's body and a random head, and
its graph; `rerank_peer.py (torch|onnx) DIR THREADS` scores, for each line of JSON `{"query", "documents"}`, the documents, and
answers with the seconds that took and the scores."""

import json
import sys
import time
from pathlib import Path


def make(model, folder):
    import torch
    from onnxruntime.transformers import optimizer
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(7)
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pair = tokenizer([["a query", "a document"]] * 2, return_tensors="pt")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "tokens"} for name in names} | {"logits": {0: "batch"}}
    torch.onnx.export(
        classifier, tuple(pair[name] for name in names), str(folder / "plain.onnx"), input_names=names,
        output_names=["logits"], dynamic_axes=axes, opset_version=17, dynamo=False)
    config = classifier.config
    fused = optimizer.optimize_model(
        str(folder / "plain.onnx"), model_type="bert", num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size, opt_level=1)
    fused.save_model_to_file(str(folder / "fused.onnx"))


def with_torch(folder, threads):
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    model = CrossEncoder(str(folder), device="cpu")
    return lambda query, documents: model.predict([[query, it] for it in documents], show_progress_bar=False).tolist()


def with_onnx(folder, threads):
    import numpy as np
    import onnxruntime as ort
    from tokenizers import Tokenizer

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    runtime = ort.InferenceSession(str(folder / "fused.onnx"), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()

    def score(query, documents):
        encoded = tokenizer.encode_batch([(query, it) for it in documents])
        column = lambda of: np.array([of(one) for one in encoded], dtype=np.int64)
        feeds = {
            "input_ids": column(lambda it: it.ids),
            "attention_mask": column(lambda it: it.attention_mask),
            "token_type_ids": column(lambda it: it.type_ids),
        }
        logits = runtime.run(None, {value.name: feeds[value.name] for value in runtime.get_inputs()})[0]
        return (1 / (1 + np.exp(-logits[:, 0]))).tolist()

    return score


def main():
    what, *rest = sys.argv[1:]
    if what == "make":
        make(rest[0], Path(rest[1]))
        return
    score = {"torch": with_torch, "onnx": with_onnx}[what](Path(rest[0]), int(rest[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        scores = score(asked["query"], asked["documents"])
        print(json.dumps([time.perf_counter() - started, scores]), flush=True)


if __name__ == "__main__":
    main()

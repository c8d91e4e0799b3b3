"""Writes a model of BERT-base's sizes with random weights: `random_base.py TOKENIZER_DIR OUT`. Runs in the export
environment. For times only; its vectors mean nothing."""

import shutil
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel


def main() -> None:
    tokenizer, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(tokenizer / name, out / name)


if __name__ == "__main__":
    main()

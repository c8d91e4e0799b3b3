"""Token ids of sequences with so many tokens each, cut from a corpus: `token_ids.py TOKENIZER.json CORPUS.jsonl 8 32 …`."""

import json
import sys

from tokenizers import Tokenizer


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with open(sys.argv[2], encoding="utf-8") as lines:
        text = " ".join(json.loads(next(lines))["text"] for _ in range(40))
    ids = tokenizer.encode(text).ids
    # The tokens that open and close a sequence stay.
    print(json.dumps([ids[: int(length) - 1] + ids[-1:] for length in sys.argv[3:]]))


if __name__ == "__main__":
    main()

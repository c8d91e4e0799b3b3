"""torch with scaled_dot_product_attention: `torch_peer.py MODEL_DIR THREADS` (0: its own default)."""

import sys

import torch
from protocol import serve
from transformers import AutoModel


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    if threads:
        torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(path, attn_implementation="sdpa", dtype=torch.float32).eval()

    def prepare(ids):
        ids = torch.from_numpy(ids)

        # Without a mask: all tokens are real, and transformers then passes none to the attention.
        def forward():
            with torch.inference_mode():
                return model(input_ids=ids).last_hidden_state

        return forward

    serve(f"torch {torch.__version__.split('+')[0]}", prepare)


if __name__ == "__main__":
    main()

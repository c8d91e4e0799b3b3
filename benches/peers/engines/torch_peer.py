"""torch with scaled_dot_product_attention: `torch_peer.py MODEL_DIR THREADS [f32|bf16]` (0: its own default)."""

import sys

import torch
from protocol import serve
from transformers import AutoModel


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[sys.argv[3] if len(sys.argv) > 3 else "f32"]
    if threads:
        torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(path, attn_implementation="sdpa", dtype=dtype).eval()

    def prepare(ids):
        ids = torch.from_numpy(ids)

        # Without a mask: all tokens are real, and transformers then passes none to the attention.
        def forward():
            with torch.inference_mode():
                # numpy has no bf16.
                return model(input_ids=ids).last_hidden_state.float()

        return forward

    serve(f"torch {torch.__version__.split('+')[0]}", prepare)


if __name__ == "__main__":
    main()

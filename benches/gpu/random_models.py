#!/usr/bin/env python3
"""Models of known sizes with weights made up, for times only: their vectors mean nothing. Needs nothing but Python.

`random_models.py base TOKENIZER_DIR OUT` writes one of BERT-base's sizes, `decoder` one of Qwen3-0.6B's (both with the
tokenizer of the other directory, and so its vocabulary), `minilm` one of all-MiniLM-L6-v2's, `tiny` one of two small layers to
try scripts with."""

import array
import json
import random
import shutil
import struct
import sys
from pathlib import Path

# Values that are made; all weights are these, again and again. A prime: no two rows of a matrix are equal.
BLOCK = 1_000_003


def bert(layers, hidden, heads, inner, vocabulary):
    """BERT: its config.json and its tensors by name."""
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner, "vocab_size": vocabulary,
        "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "position_embedding_type": "absolute", "torch_dtype": "bfloat16",
    }  # fmt: skip
    tensors = {
        "embeddings.word_embeddings.weight": (vocabulary, hidden),
        "embeddings.position_embeddings.weight": (512, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        for name, outputs, inputs in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ):
            tensors[f"{at}{name}.weight"] = (outputs, inputs)
            tensors[f"{at}{name}.bias"] = (outputs,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{at}{name}.weight"] = tensors[f"{at}{name}.bias"] = (hidden,)
    return config, tensors, "mean"


def qwen3(layers, hidden, heads, key_heads, head, inner, vocabulary):
    """Qwen3, pooled by the last token as its embedding models are."""
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": head,
        "intermediate_size": inner, "vocab_size": vocabulary, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000, "rope_scaling": None, "attention_bias": False, "attention_dropout": 0.0,
        "tie_word_embeddings": True, "sliding_window": None, "use_sliding_window": False, "max_window_layers": layers,
        "use_cache": False, "torch_dtype": "bfloat16", "bos_token_id": 101, "eos_token_id": 102,
    }  # fmt: skip
    tensors = {"embed_tokens.weight": (vocabulary, hidden), "norm.weight": (hidden,)}
    for layer in range(layers):
        at = f"layers.{layer}."
        tensors |= {
            f"{at}self_attn.q_proj.weight": (heads * head, hidden),
            f"{at}self_attn.k_proj.weight": (key_heads * head, hidden),
            f"{at}self_attn.v_proj.weight": (key_heads * head, hidden),
            f"{at}self_attn.o_proj.weight": (hidden, heads * head),
            f"{at}self_attn.q_norm.weight": (head,),
            f"{at}self_attn.k_norm.weight": (head,),
            f"{at}mlp.gate_proj.weight": (inner, hidden),
            f"{at}mlp.up_proj.weight": (inner, hidden),
            f"{at}mlp.down_proj.weight": (hidden, inner),
            f"{at}input_layernorm.weight": (hidden,),
            f"{at}post_attention_layernorm.weight": (hidden,),
        }
    return config, tensors, "lasttoken"


def shape(kind, vocabulary):
    """One of the kinds that the head of this file names."""
    if kind == "base":
        return bert(12, 768, 12, 3072, vocabulary)
    if kind == "minilm":
        return bert(6, 384, 12, 1536, vocabulary)
    if kind == "tiny":
        return bert(2, 64, 4, 128, vocabulary)
    if kind.startswith("decoder"):
        # `decoder-2`: with so many layers, to try scripts with.
        layers = int(kind.partition("-")[2] or 28)
        return qwen3(layers, 1024, 16, 8, 128, 3072, vocabulary)
    sys.exit(f"unknown kind '{kind}': use base, decoder, minilm or tiny")


def bf16(value):
    """The upper half of an f32, rounded towards zero."""
    return struct.unpack("<I", struct.pack("<f", value))[0] >> 16


def write_weights(path, tensors):
    """A safetensors file in bf16."""
    header, end = {}, 0
    for name, dimensions in tensors.items():
        count = 1
        for dimension in dimensions:
            count *= dimension
        header[name] = {"dtype": "BF16", "shape": list(dimensions), "data_offsets": [end, end + 2 * count]}
        end += 2 * count
    chance = random.Random(0)
    block = array.array("H", (bf16(chance.gauss(0, 0.02)) for _ in range(BLOCK))).tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        at = 0
        for name, dimensions in tensors.items():
            left = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
            if len(dimensions) == 1:
                is_scale = name.endswith("orm.weight")
                out.write(struct.pack("<H", bf16(1.0 if is_scale else 0.0)) * (left // 2))
                continue
            while left > 0:
                part = block[at : at + left]
                out.write(part)
                left -= len(part)
                at = (at + len(part)) % len(block)


def write(kind, tokenizer, out):
    """The whole model, unless it is there already."""
    out.mkdir(parents=True, exist_ok=True)
    done = out / "modules.json"
    if done.exists():
        return out
    vocabulary = len(json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    config, tensors, pooling = shape(kind, vocabulary)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, out / name)
    (out / "config.json").write_text(json.dumps(config, indent=1))
    (out / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256, "do_lower_case": False}))
    (out / "1_Pooling").mkdir(exist_ok=True)
    modes = {mode: mode == pooling for mode in ("mean", "lasttoken")}
    modes = {f"pooling_mode_{'mean_tokens' if mode == 'mean' else mode}": on for mode, on in modes.items()}
    pooled = {"word_embedding_dimension": config["hidden_size"], "pooling_mode_cls_token": False, **modes}
    (out / "1_Pooling" / "config.json").write_text(json.dumps(pooled))
    write_weights(out / "model.safetensors", tensors)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    done.write_text(
        json.dumps(
            [
                {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
                for at, (path, name) in enumerate(modules)
            ]
        )
    )
    return out


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    write(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

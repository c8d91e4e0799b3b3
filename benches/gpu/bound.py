"""What torch reaches on the same shapes where nothing but the encoder is counted: packed rows, attention over sequences of
different lengths in one kernel, tokens already on the card. A server cannot be faster by much; this is what ours is held against.

No tokenizing, no copying back, no padding: linear layers in the card's libraries, everything else by torch, eager and compiled.
"""

import statistics
import time


def attention_of(torch, device):
    """A function (queries, keys, values, bounds, longest) of rows by heads by head size, and its name; or why there is none."""
    if device == "cpu":

        def by_sequence(query, key, value, bounds, longest):
            parts = []
            for begin, end in zip(bounds.tolist(), bounds.tolist()[1:]):
                one = [rows[begin:end].transpose(0, 1)[None] for rows in (query, key, value)]
                parts.append(torch.nn.functional.scaled_dot_product_attention(*one)[0].transpose(0, 1))
            return torch.cat(parts)

        return by_sequence, "attention sequence by sequence, only to try this"
    try:
        from torch.nn.attention.varlen import varlen_attn

        return lambda q, k, v, bounds, longest: varlen_attn(q, k, v, bounds, bounds, longest, longest), "varlen_attn"
    except ImportError:
        pass
    try:
        from flash_attn import flash_attn_varlen_func

        return (
            lambda q, k, v, bounds, longest: flash_attn_varlen_func(q, k, v, bounds, bounds, longest, longest),
            "flash_attn_varlen_func",
        )
    except ImportError:
        return None, f"torch {torch.__version__} has no torch.nn.attention.varlen (2.10), and there is no flash_attn"


class Bert:
    """A BERT encoder with random weights on packed rows."""

    def __init__(self, torch, config, dtype, device, attend):
        self.torch, self.device, self.attend = torch, device, attend
        self.hidden, self.heads = config["hidden_size"], config["num_attention_heads"]
        inner, self.layers = config["intermediate_size"], config["num_hidden_layers"]
        self.vocabulary = config["vocab_size"]

        def made(*shape):
            return torch.randn(*shape, dtype=torch.float32, device=device).mul_(0.02).to(dtype)

        def zeros(size):
            return torch.zeros(size, dtype=dtype, device=device)

        def norm():
            return torch.ones(self.hidden, dtype=dtype, device=device), zeros(self.hidden)

        self.words, self.positions = made(self.vocabulary, self.hidden), made(512, self.hidden)
        self.norm = norm()
        self.blocks = [
            (
                (made(3 * self.hidden, self.hidden), zeros(3 * self.hidden)),
                (made(self.hidden, self.hidden), zeros(self.hidden)),
                norm(),
                (made(inner, self.hidden), zeros(inner)),
                (made(self.hidden, inner), zeros(self.hidden)),
                norm(),
            )
            for _ in range(self.layers)
        ]

    def block(self, rows, bounds, longest, weights):
        nn = self.torch.nn.functional
        fused, output, first, up, down, second = weights
        heads = nn.linear(rows, *fused).view(-1, 3, self.heads, self.hidden // self.heads)
        attended = self.attend(heads[:, 0], heads[:, 1], heads[:, 2], bounds, longest)
        attended = nn.linear(attended.reshape(-1, self.hidden), *output)
        rows = nn.layer_norm(rows + attended, (self.hidden,), *first, 1e-12)
        inner = nn.linear(nn.gelu(nn.linear(rows, *up)), *down)
        return nn.layer_norm(rows + inner, (self.hidden,), *second, 1e-12)

    def run(self, block, batch):
        """Vectors of a batch, left on the card."""
        torch, (ids, positions, of_sequence, bounds, longest) = self.torch, batch
        rows = torch.nn.functional.embedding(ids, self.words) + torch.nn.functional.embedding(positions, self.positions)
        rows = torch.nn.functional.layer_norm(rows, (self.hidden,), *self.norm, 1e-12)
        for weights in self.blocks:
            rows = block(rows, bounds, longest, weights)
        sums = torch.zeros(len(bounds) - 1, self.hidden, dtype=torch.float32, device=self.device)
        return torch.nn.functional.normalize(sums.index_add_(0, of_sequence, rows.float()))

    def batch(self, lengths):
        torch = self.torch
        bounds = [0]
        for length in lengths:
            bounds.append(bounds[-1] + length)
        ids = torch.randint(0, self.vocabulary, (bounds[-1],), device=self.device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        of_sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(self.device)
        return ids, positions, of_sequence, torch.tensor(bounds, dtype=torch.int32, device=self.device), max(lengths)


def lengths_of(tokens, every):
    """Lengths of sequences, as the texts have them, of so many tokens together at most."""
    lengths, total = [], 0
    while True:
        length = every[len(lengths) % len(every)]
        if total + length > tokens:
            return lengths or [min(tokens, every[0])]
        lengths.append(length)
        total += length


def measure(config, every, dtype, device, sizes, seconds=1.5):
    """Tokens and passages a second, by how it is run and tokens of a batch: a list of rows. Raises LookupError where torch has
    no such attention. `every` has the lengths of texts, in tokens."""
    import torch

    attend, name = attention_of(torch, device)
    if attend is None:
        raise LookupError(name)
    model = Bert(torch, config, getattr(torch, dtype), device, attend)

    def wait():
        if device != "cpu":
            torch.cuda.synchronize(device)

    measured = []
    with torch.inference_mode():
        for how in ("eager", "compiled"):
            block = model.block
            if how == "compiled":
                torch._dynamo.reset()
                block = torch.compile(model.block, dynamic=False)
            # The compiler takes half a minute for each size.
            for tokens in sizes if how == "eager" else sizes[-1:]:
                # The shorter ones first or last makes no difference to packed rows.
                lengths = lengths_of(tokens, every)
                try:
                    batch = model.batch(lengths)
                    for _ in range(3):
                        model.run(block, batch)
                    wait()
                except Exception as error:  # the compiler, or the card's memory: the rest is still worth knowing
                    reason = str(error).strip().splitlines() or [type(error).__name__]
                    measured.append({"how": how, "tokens": tokens, "failed": reason[0][:120], "attention": name})
                    continue
                times, began = [], time.perf_counter()
                while len(times) < 5 or time.perf_counter() - began < seconds:
                    start = time.perf_counter()
                    model.run(block, batch)
                    wait()
                    times.append(time.perf_counter() - start)
                took = statistics.median(times)
                measured.append(
                    {
                        "how": how,
                        "tokens": tokens,
                        "attention": name,
                        "tokens/s": sum(lengths) / took,
                        "passages/s": len(lengths) / took,
                    }
                )
    return measured

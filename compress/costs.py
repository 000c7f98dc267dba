"""What each block of a compact model costs by the units it keeps, in FLOPs or bytes. Pure numbers.

A multiply-add is 2 FLOPs; only products are counted, as torch's FlopCounterMode does on the model that ships. A compact model
computes no more than its answer reads: behind the last layer with heads, and for that layer's queries, one token alone.
So what a unit costs depends on which layer is the last with heads. Letters: L layers, U units in a block, N tokens, D width,
E of the embeddings, d of a head, K classes, V vocabulary.
"""

import numpy as np

NF4_BYTES = 4 / 8 + 1 / 64 + 4 / (64 * 256)  # a weight on the grid, with its share of the scales
FORBIDDEN = np.inf


def total(prices, heads: list[int], neurons: list[int]) -> float:
    """What a model costs by `prices` (one of the classes below) whose L layers keep so many heads and neurons."""
    last = max((i for i, n in enumerate(heads) if n), default=-1)
    return prices.other + sum(block[-1] for block in prices.blocks(heads, neurons, last))


class Flops:
    """FLOPs at N = `tokens` of models of the shape that a compact model's configuration describes."""

    def __init__(self, tokens: int, shape):
        self.tokens, self.width, self.head_dim = tokens, shape.dim, shape.head_dim
        self.other = 2 * shape.dim * (shape.dim + shape.num_labels)  # the head's two maps of one token: no pruning saves them
        if shape.embedding_size:
            self.other += 2 * tokens * shape.embedding_dim * shape.dim

    def head(self, of_last: bool) -> int:
        """A head: rows of Q, K, V, columns of the output map, and two products of queries × N × d."""
        queries = 1 if of_last else self.tokens
        return 4 * self.width * self.head_dim * (self.tokens + queries) + 4 * queries * self.tokens * self.head_dim

    def neuron(self, behind: bool) -> int:
        """An FFN neuron: a row of lin1 and a column of lin2."""
        return 4 * (1 if behind else self.tokens) * self.width

    def blocks(self, heads: list[int], neurons: list[int], last: int) -> list[np.ndarray]:
        """For each attention, then each FFN: the cost of 0…U units, where `last` is the last layer that may keep heads."""
        attention = [np.arange(n + 1) * float(self.head(i == last)) for i, n in enumerate(heads)]
        for i in range(last + 1, len(heads)):
            attention[i][1:] = FORBIDDEN
        return attention + [np.arange(n + 1) * float(self.neuron(i >= last)) for i, n in enumerate(neurons)]


class Bytes:
    """Bytes of a checkpoint's weights in 4 bits, with a vocabulary of V = `word_pieces`."""

    def __init__(self, shape, word_pieces: int):
        self.width, self.head_dim = shape.dim, shape.head_dim
        wide = shape.embedding_dim
        tables = (word_pieces * (shape.embedding_rank or wide) + shape.max_position_embeddings * wide) * NF4_BYTES
        maps = (shape.embedding_rank * NF4_BYTES + 4) * wide if shape.embedding_rank else 0
        if shape.embedding_size:
            maps += (wide * NF4_BYTES + 4) * shape.dim
        head = 4 * (shape.dim + 1) * (shape.dim + shape.num_labels)
        norms_and_biases = 4 * ((2 + shape.type_vocab_size) * wide + 6 * shape.n_layers * shape.dim)
        self.other = tables + maps + head + norms_and_biases

    def blocks(self, heads: list[int], neurons: list[int], last: int) -> list[np.ndarray]:
        """As `Flops.blocks`; the bytes of a unit are the same wherever it stands."""
        head = 4 * self.width * self.head_dim * NF4_BYTES + 3 * 4 * self.head_dim
        neuron = 2 * self.width * NF4_BYTES + 4
        attention = [np.arange(n + 1) * head for n in heads]
        for i in range(last + 1, len(heads)):
            attention[i][1:] = FORBIDDEN
        return attention + [np.arange(n + 1) * neuron for n in neurons]


class Latency:
    """Milliseconds at one batch size, from a table of `deploy.latency_table` (its entry for the batch)."""

    def __init__(self, table: dict):
        self.table, self.other = table, table["base"]

    def blocks(self, heads: list[int], neurons: list[int], last: int) -> list[np.ndarray]:
        """As `Flops.blocks`; between two sizes that were measured time is a straight line."""
        def line(kind: str, units: int) -> np.ndarray:
            return np.interp(np.arange(units + 1), self.table[kind]["units"], self.table[kind]["ms"])

        attention = [line("attention_last" if i == last else "attention", n) for i, n in enumerate(heads)]
        for i in range(last + 1, len(heads)):
            attention[i][1:] = FORBIDDEN
        return attention + [line("ffn_behind" if i >= last else "ffn", n) for i, n in enumerate(neurons)]

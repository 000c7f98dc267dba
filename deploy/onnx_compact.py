"""A compact model as it is traced for ONNX: its logits, of real tokens alone, in as few operators as there are.

Launching them is much of what a small model's answer takes. So what the mask says is worked out once for all layers, maps that read the
same tokens are one, and attention is ONNX's own operator where the opset has it.
Shapes: B batch, N tokens, K classes, T real tokens of all sentences, D width, H heads of width d.
"""

from collections.abc import Sequence

import torch

from compact.modeling_compact import CompactForSequenceClassification, EmptyAttention, EmptyFFN, MappedEmbeddings

ATTENTION = 23  # the first opset that has Attention


class Compact(torch.nn.Module):
    """(input_ids, attention_mask, token_type_ids or not) -> logits of a compact model in full precision, whose weights it may change.

    What `CompactForSequenceClassification.logits` gives, for tracing only: it asks for operators that torch doesn't have.
    """

    def __init__(self, model: CompactForSequenceClassification, opset: int):
        super().__init__()
        self.model, self.opset = model, opset
        self.last = max(i for i, heads in enumerate(model.config.heads) if heads)  # behind it the first tokens alone are read
        for i, layer in enumerate(model.layers()):
            attention = layer.attention
            if not isinstance(attention, EmptyAttention):
                read = [attention.k_lin, attention.v_lin]
                attention.joined = side_by_side(read if i == self.last else [attention.q_lin, *read])
        constants_into_norms(model)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        at = attention_mask.nonzero()  # (T, 2): sentence and column of each token
        place = places(attention_mask)
        x = self.embedded(input_ids, attention_mask, token_type_ids, at)
        attended_to = self.attended_to(attention_mask)
        for i, layer in enumerate(self.model.layers()):
            if isinstance(layer.attention, EmptyAttention):
                x = layer.sa_layer_norm(x)
            else:
                attended, x = self.attend(layer.attention, x, at, place, attended_to, first_only=i == self.last)
                x = layer.sa_layer_norm(attended + x)
            x = layer.output_layer_norm(x if isinstance(layer.ffn, EmptyFFN) else layer.ffn(x) + x)
        return self.model.head(x)

    def embedded(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None, at: torch.Tensor) -> torch.Tensor:
        """What the layers begin with: (T, D)."""
        embeddings = self.model.distilbert.embeddings
        x = self.model.words(rows(input_ids, at), None if types is None else rows(types, at))
        x = embeddings.LayerNorm(x + embeddings.position_embeddings(rows(columns(mask), at)))
        return embeddings.map(x) if isinstance(embeddings, MappedEmbeddings) else x

    def attended_to(self, mask: torch.Tensor) -> torch.Tensor:
        """(B, 1, 1, N): by ONNX's Attention, which tokens are real; by plain operators, what is added to the scores."""
        real = mask.bool()
        return real[:, None, None] if self.opset >= ATTENTION else self.model.attended_to(real, torch.float32)

    def attend(self, attention, x: torch.Tensor, at: torch.Tensor, place: torch.Tensor, attended_to: torch.Tensor,
               first_only: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention adds to each of x (T, D), and x; `first_only` asks for the first tokens, both (B, D), alone."""
        asking = torch.nn.functional.embedding(place[:, 0], x) if first_only else x
        *query, key, value = torch.nn.functional.embedding(place, attention.joined(x)).split(attention.q_lin.out_features, dim=-1)
        query = attention.q_lin(asking)[:, None] if first_only else query[0]  # (B, 1 or N, H·d); key and value (B, N, H·d)
        mix = mixed_by_one_operator if self.opset >= ATTENTION else mixed_by_operators
        mixed = mix(attention, query, key, value, attended_to)
        return attention.out_lin(mixed.flatten(0, 1) if first_only else rows(mixed, at)), asking


def constants_into_norms(model: CompactForSequenceClassification) -> None:
    """Of an empty block, which adds the same to every token, the constant goes into the norm before: norm(x) + c has another bias.

    What is behind that norm reads it with the constant, and nothing else does.
    """
    before = model.distilbert.embeddings.LayerNorm
    for i, layer in enumerate(model.layers()):
        for block, norm in ((layer.attention, layer.sa_layer_norm), (layer.ffn, layer.output_layer_norm)):
            mapped = i == 0 and block is layer.attention and isinstance(model.distilbert.embeddings, MappedEmbeddings)
            if isinstance(block, (EmptyAttention, EmptyFFN)):
                written = model.distilbert.embeddings.map if mapped else before
                written.bias.data += block.bias.data
            before = norm


def rows(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Of values (B, N, …) those of the real tokens `at` (T, 2): (T, …)."""
    return _operator("GatherND", (values, at), values.dtype, (at.shape[0], *values.shape[2:]))


def places(mask: torch.Tensor) -> torch.Tensor:
    """(B, N): which of T stands where, counted from their end, -T to -1, as Gather reads it; where padding does, the next one that comes
    (behind the last, the first), since nobody attends to it.
    """
    flat = mask.reshape(-1)
    from_here = _operator("CumSum", (flat, torch.tensor(0)), mask.dtype, flat.shape, reverse=1)  # tokens from here to the end
    shape = _operator("Shape", (mask,), torch.int64, (2,))  # torch would ask for each axis of it by itself
    return _operator("Reshape", (-from_here, shape), mask.dtype, mask.shape)


def columns(mask: torch.Tensor) -> torch.Tensor:
    """(B, N): how many columns each stands behind its sentence's first token."""
    begun = mask.cumsum(1).clamp(max=1)
    return _operator("CumSum", (begun, torch.tensor(1)), mask.dtype, mask.shape, exclusive=1)


def mixed_by_one_operator(attention, query, key, value, real: torch.Tensor) -> torch.Tensor:
    """Attention of n queries to the real tokens (B, 1, 1, N): (B, n, H·d) of query (B, n, H·d), key and value (B, N, H·d)."""
    by_query = real if query.shape[1] == 1 else real.expand(-1, -1, key.shape[1], -1)  # the runtime asks for one row a query
    return torch.onnx.ops.attention(query, key, value, by_query, q_num_heads=attention.n_heads, kv_num_heads=attention.n_heads,
                                    scale=attention.scaling)[0]


def mixed_by_operators(attention, query, key, value, added: torch.Tensor) -> torch.Tensor:
    """The same by plain operators, of what is added to the scores (B, 1, 1, N)."""
    query, key, value = (part.unflatten(-1, (attention.n_heads, -1)).transpose(1, 2) for part in (query, key, value))
    weights = (torch.matmul(query * attention.scaling, key.transpose(2, 3)) + added).softmax(-1)  # (B, H, n, N)
    return torch.matmul(weights, value).transpose(1, 2).flatten(2)


@torch.no_grad()
def side_by_side(maps: list[torch.nn.Linear]) -> torch.nn.Linear:
    """One linear map whose outputs are those of all, one behind the other."""
    joined = torch.nn.Linear(maps[0].in_features, sum(part.out_features for part in maps))
    joined.weight.copy_(torch.cat([part.weight for part in maps]))
    joined.bias.copy_(torch.cat([part.bias for part in maps]))
    return joined


def _operator(name: str, inputs: Sequence[torch.Tensor], dtype: torch.dtype, shape: Sequence, **attributes: int) -> torch.Tensor:
    """What one of ONNX's own operators gives."""
    return torch.onnx.ops.symbolic(f"::{name}", inputs, attributes, dtype=dtype, shape=shape)

"""The uneven DistilBERT: its own number of heads and FFN neurons in each layer, its weights in 32 or 4 bits.

This file and `nf4.py` are copied beside every checkpoint, so it opens with
`AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True)` where nothing of this project is installed.
Shapes: B batch, N tokens, D width, H heads, F neurons, V vocabulary.
"""

import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from .nf4 import Packed, pack, unpack, unpack_rows


class CompactConfig(DistilBertConfig):
    """DistilBERT's, with a list of heads and of FFN neurons, one number a layer; a head is always `dim // n_heads` wide."""

    model_type = "compact_distilbert"

    heads: list[int] | None = None
    ffn: list[int] | None = None
    weight_bits: int = 32

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.heads = list(self.heads) if self.heads is not None else [self.n_heads] * self.n_layers
        self.ffn = list(self.ffn) if self.ffn is not None else [self.hidden_dim] * self.n_layers
        if len(self.heads) != self.n_layers or len(self.ffn) != self.n_layers:
            raise ValueError(f"heads {self.heads} and ffn {self.ffn} need one number for each of {self.n_layers} layers")
        if self.weight_bits not in (4, 32):
            raise ValueError(f"weight_bits is 4 or 32, not {self.weight_bits}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads


class _Packed4bit(nn.Module):
    """Buffers of a packed (out, in) or (V, D) weight."""

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.shape = shape
        empty = pack(torch.zeros(shape))
        for name, value in empty._asdict().items():
            self.register_buffer(name, value)

    @property
    def packed(self) -> Packed:
        return Packed(self.codes, self.scale_codes, self.scale_scales, self.scale_offset)

    def store(self, packed: Packed) -> None:
        """Takes over codes and scales, whoever rounded them."""
        for name, value in packed._asdict().items():
            getattr(self, name).copy_(value.view(getattr(self, name).shape))

    def unpacked(self) -> torch.Tensor:
        """The weight in float32, on the grid."""
        return unpack(self.packed, self.shape)


class NF4Linear(_Packed4bit):
    """A linear layer whose weight is kept in 4 bits: (…, in) -> (…, out).

    On CPU the weight is unpacked once, at the first answer, since multiplying costs less than unpacking anew; on CUDA it is
    unpacked in every call, so that memory stays small. What is saved is the packed form in both cases.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__((out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self._dense: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.codes.is_cuda:
            return nn.functional.linear(x, self.unpacked().to(x.dtype), self.bias)
        if self._dense is None:
            self._dense = self.unpacked()
        return nn.functional.linear(x, self._dense, self.bias)

    def store(self, packed: Packed) -> None:
        super().store(packed)
        self._dense = None

    def _apply(self, fn, recurse=True):
        self._dense = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs):
        self._dense = None
        super()._load_from_state_dict(*args, **kwargs)


class NF4Embedding(_Packed4bit):
    """An embedding table kept in 4 bits; only the rows looked up are unpacked: int (B, N) -> (B, N, D)."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return unpack_rows(self.packed, self.shape[1], ids)


class CompactForSequenceClassification(DistilBertForSequenceClassification):
    """DistilBERT for classification with uneven layers. `config.weight_bits == 4`: linear layers and tables are packed, the head is not."""

    config_class = CompactConfig

    def __init__(self, config: CompactConfig):
        super().__init__(config)
        for layer, heads, neurons in zip(self.distilbert.transformer.layer, config.heads, config.ffn, strict=True):
            inner = heads * config.head_dim
            for name in ("q_lin", "k_lin", "v_lin"):
                setattr(layer.attention, name, nn.Linear(config.dim, inner))
            layer.attention.out_lin = nn.Linear(inner, config.dim)
            layer.attention.n_heads = heads
            layer.ffn.lin1 = nn.Linear(config.dim, neurons)
            layer.ffn.lin2 = nn.Linear(neurons, config.dim)
        if config.weight_bits == 4:
            for parent, name, dense in list(self.quantisable()):
                setattr(parent, name, NF4Embedding(tuple(dense.weight.shape)) if isinstance(dense, nn.Embedding)
                        else NF4Linear(dense.in_features, dense.out_features))
        self.post_init()

    def layers(self):
        """The transformer's layers, first to last."""
        return self.distilbert.transformer.layer

    def quantisable(self):
        """Yields (parent, name, module) of all that is packed at 4 bits: both tables and the layers' linear maps, not the head."""
        yield self.distilbert.embeddings, "word_embeddings", self.distilbert.embeddings.word_embeddings
        yield self.distilbert.embeddings, "position_embeddings", self.distilbert.embeddings.position_embeddings
        for layer in self.layers():
            for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
                yield layer.attention, name, getattr(layer.attention, name)
            for name in ("lin1", "lin2"):
                yield layer.ffn, name, getattr(layer.ffn, name)

    @torch.no_grad()
    def full_precision_twin(self) -> "CompactForSequenceClassification":
        """The same structure with dense float32 weights of the same values."""
        config = CompactConfig(**self.config.to_dict() | {"weight_bits": 32})
        config._attn_implementation = self.config._attn_implementation
        twin = CompactForSequenceClassification(config)
        state = {k: v for k, v in self.state_dict().items() if k in twin.state_dict()}
        theirs = {id(module): name for name, module in self.named_modules()}
        for _, _, module in self.quantisable():
            if isinstance(module, _Packed4bit):
                state[f"{theirs[id(module)]}.weight"] = module.unpacked()
        twin.load_state_dict(state, strict=True)
        return twin.eval()

    @torch.no_grad()
    def packed_twin(self, pack_weight=pack) -> "CompactForSequenceClassification":
        """The same structure with every quantisable weight packed by `pack_weight`: (weight) -> Packed."""
        config = CompactConfig(**self.config.to_dict() | {"weight_bits": 4})
        twin = CompactForSequenceClassification(config)
        missing, _ = twin.load_state_dict(self.state_dict(), strict=False)
        for (_, _, dense), (_, _, packed) in zip(self.quantisable(), twin.quantisable(), strict=True):
            packed.store(pack_weight(dense.weight))
        return twin.eval()

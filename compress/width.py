"""The hidden width: channels that the answer hardly feels leave every layer, and what is kept of a budget goes to heads and neurons.

A residual stream hands each channel through all layers, so one choice is made for all, as by CoFi's mask on hidden dimensions (Xia et
al. 2022, section 3.1). A channel is worth the squared gradient of the logits to a gate on it behind every layer norm: the distillation
loss has none where a student begins as its teacher, and this is its curvature there (Gauss-Newton). The head's inner channels are chosen
alike, as many. Norms then average over fewer numbers: unlike heads and neurons, channels don't leave without the logits moving, and
training mends that. D width before, C channels kept, K classes.
"""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from compact.modeling_compact import INPUTS, MappedEmbeddings
from compress.importance import squared_gradients

READS = ("q_lin", "k_lin", "v_lin", "lin1")  # maps from the residual stream
WRITES = ("out_lin", "lin2", "map", "attention", "ffn")  # maps onto it, a factorised table's among them, and what empty blocks are
TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
EMBEDDINGS, MAP = "distilbert.embeddings.", "distilbert.embeddings.map."


def shape_of(config, width: int):
    """The configuration of a model `width` channels wide, a multiple of a head's width, which stays."""
    shape = copy.deepcopy(config)
    shape.dim, shape.n_heads = width, width // config.head_dim
    return shape


def scores(model, batches: Iterable[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the channels of the residual stream and the inner ones of the head are worth, (D,) each, by batches of sentences.

    One backward pass a batch: see `importance.squared_gradients`.
    """
    stream, inner = (torch.ones(model.config.dim, requires_grad=True) for _ in range(2))
    signs = torch.Generator().manual_seed(0)
    embeddings = model.distilbert.embeddings
    writers = [embeddings.map if isinstance(embeddings, MappedEmbeddings) else embeddings.LayerNorm,
               *(module for module in model.layers().modules() if isinstance(module, nn.LayerNorm))]
    hooks = [writer.register_forward_hook(lambda module, given, out: out * stream) for writer in writers]
    hooks.append(model.classifier.register_forward_pre_hook(lambda module, given: (given[0] * inner,)))  # behind the activation
    model.eval()
    worth = torch.zeros(2, model.config.dim)
    for batch in batches:
        logits = model(**{name: batch[name] for name in INPUTS if name in batch}).logits  # (B, K)
        worth += torch.stack(squared_gradients(logits, (stream, inner), signs))
    for hook in hooks:
        hook.remove()
    return worth[0], worth[1]


@torch.no_grad()
def narrowed(model, width: int, worth: tuple[torch.Tensor, torch.Tensor]):
    """A new compact model of the `width` channels that are worth most, and as many inner ones of the head; `worth` is of `scores`."""
    stream, inner = (score.topk(width).indices.sort().values for score in worth)  # (C,) each
    weights = {}
    own_width = isinstance(model.distilbert.embeddings, MappedEmbeddings)
    for name, value in model.state_dict().items():
        module, kind = name.split(".")[-2:]
        if own_width and name.startswith(EMBEDDINGS):
            value = value[stream] if name.startswith(MAP) else value
        elif module in TABLES or (module in READS and kind == "weight"):
            value = value[:, stream]
        elif module in WRITES or "norm" in module.lower():
            value = value[stream]
        elif module == "pre_classifier":
            value = value[inner][:, stream] if kind == "weight" else value[inner]
        elif module == "classifier" and kind == "weight":
            value = value[:, inner]
        weights[name] = value
    small = type(model)(shape_of(model.config, width))
    small.load_state_dict(weights, strict=True)
    return small

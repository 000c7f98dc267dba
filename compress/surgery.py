"""Masks -> a smaller dense model: what was zeroed is cut out, the logits stay the masked model's."""

import copy

import torch
from torch import nn

from compact.modeling_compact import INPUTS, EmptyAttention, EmptyFFN, MappedEmbeddings


def _rows(linear: nn.Linear, keep: torch.Tensor) -> nn.Linear:
    """The outputs kept of a linear map; keep: index (k,)."""
    small = nn.Linear(linear.in_features, len(keep))
    small.weight.copy_(linear.weight[keep])
    small.bias.copy_(linear.bias[keep])
    return small


def _columns(linear: nn.Linear, keep: torch.Tensor) -> nn.Linear:
    """The inputs kept of a linear map; keep: index (k,)."""
    small = nn.Linear(len(keep), linear.out_features)
    small.weight.copy_(linear.weight[:, keep])
    small.bias.copy_(linear.bias)
    return small


def _built(config, model):
    """A model built from the new configuration, so that what is saved is what it says, with `model`'s weights; frozen ones stay frozen."""
    built = type(model)(config)
    built.load_state_dict(model.state_dict(), strict=True)
    for parameter, known in zip(built.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(known.requires_grad)
    return built


@torch.no_grad()
def cut(model, masks: list[torch.Tensor]):
    """A new compact model without the heads and neurons whose mask is 0.

    masks: L tensors (H,) of heads, then L tensors (F,) of neurons, each of 0 and 1. A block without any leaves its bias behind.
    """
    config, depth = copy.deepcopy(model.config), len(masks) // 2
    head_masks, neuron_masks = masks[:depth], masks[depth:]
    config.heads = [int(m.sum()) for m in head_masks]
    config.ffn = [int(m.sum()) for m in neuron_masks]
    small = copy.deepcopy(model)
    for layer, head_mask, neuron_mask in zip(small.layers(), head_masks, neuron_masks, strict=True):
        features = head_mask.bool().repeat_interleave(config.head_dim).nonzero().view(-1)  # (h·d,)
        neurons = neuron_mask.bool().nonzero().view(-1)  # (f,)
        attention, ffn = layer.attention, layer.ffn
        if len(features):
            for name in ("q_lin", "k_lin", "v_lin"):
                setattr(attention, name, _rows(getattr(attention, name), features))
            attention.out_lin = _columns(attention.out_lin, features)
        elif not isinstance(attention, EmptyAttention):
            layer.attention = EmptyAttention(config.dim)
            layer.attention.bias.copy_(attention.out_lin.bias)
        if len(neurons):
            ffn.lin1 = _rows(ffn.lin1, neurons)
            ffn.lin2 = _columns(ffn.lin2, neurons)
        elif not isinstance(ffn, EmptyFFN):
            layer.ffn = EmptyFFN(config.dim)
            layer.ffn.bias.copy_(ffn.lin2.bias)
    return _built(config, small)


@torch.no_grad()
def without_empty_layers(model, batch: dict[str, torch.Tensor]) -> tuple:
    """(the model without layers that keep neither heads nor neurons, indices of those that stay); changed in place.

    Such a layer only normalises twice. Nearly the same is done by the gain and bias of the normalisation before it, or of the map
    behind that, channel by channel, fitted by least squares to what the layer did on `batch`; the logits change a little.
    """
    layers = model.layers()
    heads, neurons = model.config.heads, model.config.ffn
    model.eval()
    given = {name: batch[name] for name in INPUTS if name in batch}
    states = model(**given, output_hidden_states=True).hidden_states  # before, and after each
    real = batch["attention_mask"].bool()
    embeddings = model.distilbert.embeddings
    before, start = embeddings.map if isinstance(embeddings, MappedEmbeddings) else embeddings.LayerNorm, 0
    kept = [i for i in range(len(layers)) if heads[i] or neurons[i]]
    for i in [*kept, len(layers)]:
        if i > start:  # layers start … i − 1 are empty
            x, y = states[start][real], states[i][real]  # (tokens, D)
            slope = ((x - x.mean(0)) * (y - y.mean(0))).mean(0) / x.var(0, unbiased=False).clamp(min=1e-12)
            before.bias.copy_(slope * before.bias + y.mean(0) - slope * x.mean(0))
            before.weight.mul_(slope if before.weight.dim() == 1 else slope[:, None])
        if i < len(layers):
            before, start = layers[i].output_layer_norm, i + 1
    return of_layers(model, kept), kept


def of_layers(model, kept: list[int]):
    """A new compact model of the layers `kept` alone, whose head reads what the last of them says; the old one is taken apart."""
    config, layers = copy.deepcopy(model.config), model.layers()
    config.n_layers, config.heads, config.ffn = len(kept), [config.heads[i] for i in kept], [config.ffn[i] for i in kept]
    model.distilbert.transformer.layer = nn.ModuleList(layers[i] for i in kept)
    return _built(config, model)

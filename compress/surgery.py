"""Masks -> a smaller dense model: what was zeroed is cut out, the logits stay the masked model's."""

import copy

import torch
from torch import nn


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


@torch.no_grad()
def cut(model, head_masks: list[torch.Tensor], neuron_masks: list[torch.Tensor]):
    """A new compact model without the heads and neurons whose mask is 0.

    head_masks: L tensors (H,); neuron_masks: L tensors (F,), each of 0 and 1 with at least one 1.
    Raises ValueError where a layer would lose all its heads or neurons.
    """
    config = copy.deepcopy(model.config)
    config.heads = [int(m.sum()) for m in head_masks]
    config.ffn = [int(m.sum()) for m in neuron_masks]
    if min(config.heads + config.ffn) < 1:
        raise ValueError(f"a layer would be left without heads or neurons: heads {config.heads}, neurons {config.ffn}")
    small = copy.deepcopy(model)
    for layer, head_mask, neuron_mask in zip(small.layers(), head_masks, neuron_masks, strict=True):
        features = head_mask.bool().repeat_interleave(config.head_dim).nonzero().view(-1)  # (h·d,)
        neurons = neuron_mask.bool().nonzero().view(-1)  # (f,)
        attention, ffn = layer.attention, layer.ffn
        for name in ("q_lin", "k_lin", "v_lin"):
            setattr(attention, name, _rows(getattr(attention, name), features))
        attention.out_lin = _columns(attention.out_lin, features)
        ffn.lin1 = _rows(ffn.lin1, neurons)
        ffn.lin2 = _columns(ffn.lin2, neurons)
    # A model built from the new configuration, so that what is saved is what the configuration says.
    built = type(model)(config)
    built.load_state_dict(small.state_dict(), strict=True)
    return built

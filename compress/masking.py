"""Gates on heads and FFN neurons while training: a mask that zeroes a unit, and the gradient of the loss to it.

Letters: B batch, N tokens, H heads, d head width, F neurons.
"""

import torch
from torch import nn

from compress.importance import update_running_mean

MEMORY = 200  # batches that the running mean looks back on: as units close, the others' worth changes


class Gate(nn.Module):
    """One layer's gates of one kind. Buffers, so that a step checkpoint carries them and a resumed run goes on with them."""

    def __init__(self, units: int, width: int):
        super().__init__()
        self.width = width  # how many features belong to a unit: d for a head, 1 for a neuron
        self.register_buffer("mask", torch.ones(units))
        self.register_buffer("sensitivity", torch.zeros(units))  # running mean of (∂L/∂g)²
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self._open: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, N, units·width)
        gate = self.mask.clone()
        if self.training and torch.is_grad_enabled():
            gate.requires_grad_()
            self._open = gate
        return x * gate.repeat_interleave(self.width)

    def accumulate(self) -> None:
        """Takes the gates' gradient of the last backward pass into the running mean."""
        if self._open is None or self._open.grad is None:
            raise RuntimeError("no backward pass since the last call: nothing to accumulate")
        self.sensitivity = update_running_mean(self.sensitivity, self._open.grad, min(int(self.seen), MEMORY))
        self.seen += 1
        self._open = None


def attach(model) -> tuple[list[Gate], list[Gate]]:
    """Puts open gates before every output map and second FFN map of a compact model: (head gates, neuron gates), one a layer."""
    head_gates, neuron_gates = [], []
    for layer in model.layers():
        attention = layer.attention
        heads, neurons = Gate(attention.n_heads, attention.attention_head_size), Gate(layer.ffn.lin1.out_features, 1)
        for linear, gate in ((attention.out_lin, heads), (layer.ffn.lin2, neurons)):
            linear.gate = gate
            linear.register_forward_pre_hook(lambda module, inputs: (module.gate(inputs[0]),))
        head_gates.append(heads)
        neuron_gates.append(neurons)
    return head_gates, neuron_gates


def weights_of_heads(attention) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's heads by their two sides: rows of V (H, d·D) and columns of the output map (H, D·d)."""
    heads, width = attention.n_heads, attention.attention_head_size
    value = attention.v_lin.weight.detach().view(heads, -1)
    out = attention.out_lin.weight.detach().T.reshape(heads, width, -1).reshape(heads, -1)
    return value, out


def weights_of_neurons(ffn) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's neurons by their two sides: rows of lin1 (F, D) and columns of lin2 (F, D)."""
    return ffn.lin1.weight.detach(), ffn.lin2.weight.detach().T

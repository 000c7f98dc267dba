"""Gates on heads and FFN neurons while training: a mask that zeroes a unit, and the gradient of the loss to it.

Letters: B batch, N tokens, H heads, d head width, F neurons.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from compact.modeling_compact import EmptyFFN
from compress.importance import update_running_mean

MEMORY = 200  # batches that the running mean looks back on: as units close, the others' worth changes


class Gate(nn.Module):
    """One layer's gates of one kind. Buffers, so that a step checkpoint carries them and a resumed run goes on with them."""

    mask: torch.Tensor
    sensitivity: torch.Tensor
    seen: torch.Tensor

    def __init__(self, units: int, width: int):
        super().__init__()
        self.width = width  # how many features belong to a unit: d for a head, 1 for a neuron
        self.register_buffer("mask", torch.ones(units))
        self.register_buffer("sensitivity", torch.zeros(units))  # running mean of (∂L/∂g)²
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self._asked: tuple[torch.Tensor, torch.Tensor] | None = None  # the gates of the last forward pass, and whose

    def computed(self) -> torch.Tensor:
        """Indices (u,) of the units that are computed: those that are open, or the first one, since attention wants a head."""
        units = self.mask.nonzero().view(-1)
        return units if len(units) else units.new_zeros(1)

    def features(self) -> torch.Tensor:
        """Indices (u·width,) of what belongs to these units."""
        return (self.computed()[:, None] * self.width + torch.arange(self.width, device=self.mask.device)).view(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, u·width), the features of the computed units, times their gates."""
        units = self.computed()
        gate = self.mask[units]
        if self.training and torch.is_grad_enabled():
            gate.requires_grad_()
            self._asked = gate, units
        return x * gate.repeat_interleave(self.width)

    def accumulate(self, over_processes: Callable[[torch.Tensor], torch.Tensor] = lambda gradient: gradient) -> None:
        """Takes the gates' gradient of the last backward pass into the running mean; a unit that wasn't computed keeps its own.

        Where several processes share a batch, `over_processes` gives the mean of their gradients.
        """
        if not len(self.mask):
            return  # the block was emptied before
        gate, units = self._asked or (None, None)
        if gate is None or gate.grad is None:
            raise RuntimeError("no backward pass since the last call: nothing to accumulate")
        self.sensitivity[units] = update_running_mean(self.sensitivity[units], over_processes(gate.grad), min(int(self.seen), MEMORY))
        self.seen += 1
        self._asked = None


def attach(model) -> tuple[list[Gate], list[Gate]]:
    """Puts open gates before every output map and second FFN map of a compact model: (head gates, neuron gates), one a layer.

    Units whose gate is closed are not computed, so an epoch gets cheaper while its model is pruned. A block that an earlier cut
    emptied has a gate of no units.
    """
    head_gates, neuron_gates = [], []
    for layer in model.layers():
        attention, ffn = layer.attention, layer.ffn
        heads, neurons = Gate(attention.n_heads, model.config.head_dim), Gate(0 if isinstance(ffn, EmptyFFN) else ffn.lin1.out_features, 1)
        if attention.n_heads:
            for name in ("q_lin", "k_lin", "v_lin"):
                setattr(attention, name, _OpenRows(getattr(attention, name), heads.features))
            attention.out_lin = _OpenColumns(attention.out_lin, heads)
        if len(neurons.mask):
            ffn.lin1, ffn.lin2 = _OpenRows(ffn.lin1, neurons.features), _OpenColumns(ffn.lin2, neurons)
        head_gates.append(heads)
        neuron_gates.append(neurons)
    return head_gates, neuron_gates


class _OpenRows(nn.Linear):
    """A linear layer of which open units' features alone are computed: (…, in) -> (…, u·width). The parameters are `whole`'s own."""

    def __init__(self, whole: nn.Linear, open_features: Callable[[], torch.Tensor]):
        super().__init__(whole.in_features, whole.out_features, device="meta")
        self.weight, self.bias = whole.weight, whole.bias
        self.open_features = open_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.open_features()
        return F.linear(x, _these(self.weight, 0, rows), _these(self.bias, 0, rows))


class _OpenColumns(nn.Linear):
    """A linear layer behind a gate, of open units' features alone: (…, u·width) -> (…, out). The parameters are `whole`'s own."""

    def __init__(self, whole: nn.Linear, gate: Gate):
        super().__init__(whole.in_features, whole.out_features, device="meta")
        self.weight, self.bias = whole.weight, whole.bias
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.gate(x), _these(self.weight, 1, self.gate.features()), self.bias)


def _these(weights: torch.Tensor, dim: int, which: torch.Tensor) -> torch.Tensor:
    """Rows (dim 0) or columns (dim 1) of weights: themselves where all are asked for, since gathering and scattering cost time."""
    return weights if len(which) == weights.shape[dim] else weights.index_select(dim, which)


def weights_of_heads(attention) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's heads by their two sides: rows of V (H, d·D) and columns of the output map (H, D·d)."""
    heads = attention.n_heads
    if not heads:
        return torch.empty(0, 1), torch.empty(0, 1)
    width = attention.attention_head_size
    value = attention.v_lin.weight.detach().view(heads, -1)
    out = attention.out_lin.weight.detach().T.reshape(heads, width, -1).reshape(heads, -1)
    return value, out


def weights_of_neurons(ffn) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's neurons by their two sides: rows of lin1 (F, D) and columns of lin2 (F, D)."""
    if isinstance(ffn, EmptyFFN):
        return torch.empty(0, 1), torch.empty(0, 1)
    return ffn.lin1.weight.detach(), ffn.lin2.weight.detach().T

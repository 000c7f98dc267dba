"""Gates on heads and FFN neurons while training: a mask that zeroes a unit, and what the loss and the logits feel of it.

A block is one layer's attention, whose units are heads, or its FFN, whose units are neurons. Everything here, like all that ranks and
cuts, goes through the attention blocks of all layers first, then through their FFNs: lists of 2L.
Letters: L layers, U units of a block, B batch, N tokens, H heads, d head width, F neurons, K classes.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from compact.modeling_compact import INPUTS, EmptyFFN
from compress import importance

OBSERVED = 4  # of a batch every fourth sentence shows what the logits feel: random signs blur a sum over few as they do one over many
MEMORY = 200  # batches that the running mean looks back on: as units close, the others' worth changes


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class Gate(nn.Module):
    """One block's gates. Buffers, so that a step checkpoint carries them and a resumed run goes on with them."""

    mask: torch.Tensor
    sensitivity: torch.Tensor
    seen: torch.Tensor
    curvature: torch.Tensor
    curvature_seen: torch.Tensor

    def __init__(self, units: int, width: int):
        super().__init__()
        self.width = width  # how many features belong to a unit: d for a head, 1 for a neuron
        self.register_buffer("mask", torch.ones(units))
        self.register_buffer("sensitivity", torch.zeros(units))  # running mean of (∂L/∂g)²
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("curvature", torch.zeros(units))  # running mean of a sentence's sum over classes of (∂logit/∂g)²
        self.register_buffer("curvature_seen", torch.zeros((), dtype=torch.long))
        self.last: tuple[torch.Tensor, torch.Tensor] | None = None  # the gates of the last forward pass, and whose

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
        if torch.is_grad_enabled():
            gate.requires_grad_()
            self.last = gate, units
        return x * gate.repeat_interleave(self.width)

    def accumulate(self, over_processes: Callable[[torch.Tensor], torch.Tensor] = _as_it_is) -> None:
        """Takes the gates' gradient of the last backward pass into the running mean; a unit that wasn't computed keeps its own."""
        if not len(self.mask):
            return  # the block was emptied before
        gate, units = self.last or (None, None)
        if gate is None or gate.grad is None:
            raise RuntimeError("no backward pass since the last call: nothing to accumulate")
        squared = over_processes(gate.grad).square()
        self.sensitivity[units] = importance.update_running_mean(self.sensitivity[units], squared, min(int(self.seen), MEMORY))
        self.seen += 1
        self.last = None

    def accumulate_curvature(self, squared: torch.Tensor) -> None:
        """Takes the computed units' curvature by one batch, (u,), into its running mean."""
        _, units = self.last or (None, self.computed())
        self.curvature[units] = importance.update_running_mean(self.curvature[units], squared, min(int(self.curvature_seen), MEMORY))
        self.curvature_seen += 1
        self.last = None


class Gates:
    """All gates of a compact model: a block's Gate each, attention blocks first, then FFNs. An empty block's has no units."""

    def __init__(self, blocks: list[Gate]):
        self.blocks = blocks

    @classmethod
    def attach(cls, model) -> "Gates":
        """Puts open gates before every output map and second FFN map of a compact model, among whose buffers theirs are from then on.

        Units whose gate is closed are not computed, so an epoch gets cheaper while its model is pruned. A block that an earlier cut
        emptied has a gate of no units.
        """
        heads, neurons = [], []
        for layer in model.layers():
            attention, ffn = layer.attention, layer.ffn
            of_heads = Gate(attention.n_heads, model.config.head_dim)
            of_neurons = Gate(0 if isinstance(ffn, EmptyFFN) else ffn.lin1.out_features, 1)
            if len(of_heads.mask):
                for name in ("q_lin", "k_lin", "v_lin"):
                    setattr(attention, name, _OpenRows(getattr(attention, name), of_heads.features))
                attention.out_lin = _OpenColumns(attention.out_lin, of_heads)
            if len(of_neurons.mask):
                ffn.lin1, ffn.lin2 = _OpenRows(ffn.lin1, of_neurons.features), _OpenColumns(ffn.lin2, of_neurons)
            heads.append(of_heads)
            neurons.append(of_neurons)
        return cls(heads + neurons)

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Gate]:
        return iter(self.blocks)

    def __getitem__(self, block: int) -> Gate:
        return self.blocks[block]

    @property
    def masks(self) -> list[torch.Tensor]:
        """1 for each open gate, 0 for each closed one: 2L tensors (U,), copies on the CPU."""
        return [gate.mask.detach().to("cpu", copy=True) for gate in self.blocks]

    @torch.no_grad()
    def close(self, masks: list[torch.Tensor]) -> None:
        """Opens the gates whose mask is 1 and closes the others."""
        for gate, mask in zip(self.blocks, masks, strict=True):
            gate.mask.copy_(mask)

    def observe(self, over_processes: Callable[[torch.Tensor], torch.Tensor] = _as_it_is) -> None:
        """After a backward pass: takes the loss's gradient to the gates, squared, into the running means that "kd_grad" scores by.

        Where several processes share a batch, `over_processes` gives the mean of their tensors.
        """
        for gate in self.blocks:
            gate.accumulate(over_processes)

    def observe_curvature(self, model, batch: dict[str, torch.Tensor], seed: int = 0,
                          over_processes: Callable[[torch.Tensor], torch.Tensor] = _as_it_is) -> None:
        """Takes what the logits feel of each gate on a batch into the running means that "curvature" scores by.

        A student that begins as its teacher has no distillation loss, and so no gradient of it: what a gate's closing will cost is the
        loss's curvature, of which the Gauss-Newton part is a sentence's sum over classes of (∂logit/∂g)². One forward and one backward
        pass over every OBSERVED-th sentence, without dropout; no parameter's gradient changes. The signs follow from the seed and how many
        batches went before, so a resumed run goes on with the same.
        """
        seen = max(int(gate.curvature_seen) for gate in self.blocks)
        generator = torch.Generator().manual_seed(1_000_000 * seed + seen)
        training = model.training
        model.eval()
        with torch.enable_grad():
            logits = model(**{name: batch[name][::OBSERVED] for name in INPUTS if name in batch}).logits  # (B / OBSERVED, K)
        model.train(training)
        asked = [gate for gate in self.blocks if len(gate.mask)]
        squares = importance.squared_gradients(logits, [gate.last[0] for gate in asked if gate.last is not None], generator)
        with torch.no_grad():
            for gate, squared in zip(asked, squares, strict=True):
                gate.accumulate_curvature(over_processes(squared / len(logits)))

    def scores(self, kind: str, model, generator: torch.Generator) -> list[torch.Tensor]:
        """What each unit of `model` is worth by one of `importance.KINDS`: 2L tensors (U,) on the CPU.

        Kinds that are COMPARABLE rank heads and neurons in one list; the others only heads among heads, neurons among neurons.
        """
        layers = model.layers()
        sides = [weights_of_heads(layer.attention) for layer in layers] + [weights_of_neurons(layer.ffn) for layer in layers]
        magnitudes = [importance.magnitude(*both).cpu() for both in sides]
        means = [(gate.curvature if kind == "curvature" else gate.sensitivity).cpu() for gate in self.blocks]
        if kind in importance.COMPARABLE:
            return importance.joint_scores(kind, magnitudes, means, generator)
        depth = len(self) // 2
        return [score for part in (slice(depth), slice(depth, None))
                for score in importance.joint_scores(kind, magnitudes[part], means[part], generator)]


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

"""QKD-4bit's training half: the forward pass sees weights rounded to the grid that ships, all full-precision weights train.

Jacob et al. 2018 (training through simulated rounding) and Bengio et al. 2013 (the straight-through gradient), on the NF4 grid.
"""

import torch
from torch import nn

from compact.nf4 import fake_quantise, fake_quantise_rows, pack, unpack


class FakeQuantLinear(nn.Linear):
    """A linear layer that multiplies by its rounded weight: (…, in) -> (…, out)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, fake_quantise(self.weight), self.bias)


class FakeQuantEmbedding(nn.Embedding):
    """An embedding that looks up rounded rows; of the table only the batch's rows are rounded: int (B, N) -> (B, N, D)."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return fake_quantise_rows(self.weight, ids)


@torch.no_grad()
def freeze_tables(model) -> None:
    """Rounds a compact model's embedding tables and freezes them: what trains behind them learns with the tables that will ship."""
    for _, _, module in model.quantisable():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(unpack(pack(module.weight), tuple(module.weight.shape)))
            module.weight.requires_grad_(False)


def fake_quantised(model):
    """Turns a compact model's quantisable layers into their rounding kin, in place; parameters and their names stay the same."""
    for _, _, module in model.quantisable():
        module.__class__ = FakeQuantEmbedding if isinstance(module, nn.Embedding) else FakeQuantLinear
    return model

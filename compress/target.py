"""How much to prune: two sparsities, a given structure, or budgets. Each turns scores into masks and says what these spend.

All three go by blocks in the order of `compress.gates`: the attention of L layers, then their FFNs; U units in a block. Each has
`check`, which refuses in the first second what can't be had of a model; `masks`, for any share of the way to the target; and `spent`.
"""

import math
from typing import NamedTuple, Protocol

import torch

from compress import importance
from compress.budget import Budget, keep_worthiest, smallest, spent

NEURONS = 8  # that sparsities leave in each layer, whatever they score; one head stays too


class Spent(NamedTuple):
    """What a model has of something that was asked for, in people's units: .0998 of .1 "of the teacher's FLOPs"."""

    name: str
    asked: float
    spent: float


class Target(Protocol):
    """How much to prune."""

    def check(self, heads: list[int], neurons: list[int], kind: str) -> None:
        """Raises ValueError where a model of so many heads and neurons a layer, ranked by importance of this kind, can't get there."""

    def masks(self, scores: list[torch.Tensor], alive: list[torch.Tensor], share: float) -> list[torch.Tensor]:
        """Masks (U,), 1 keep, 0 prune, once `share` (0…1) of the way from the whole model is gone; scores, alive: 2L tensors (U,)."""

    def spent(self, masks: list[torch.Tensor]) -> list[Spent]:
        """What a model of these masks has of each thing that was asked for."""


class Sparsities(NamedTuple):
    """Shares of all heads and of all FFN neurons to prune. Each kind is ranked over all layers, and what is pruned stays pruned."""

    heads: float
    neurons: float

    def check(self, heads: list[int], neurons: list[int], kind: str) -> None:
        for what, sparsity, counts, least in (("heads", self.heads, heads, 1), ("neurons", self.neurons, neurons, NEURONS)):
            most = sum(max(0, count - least) for count in counts)
            if to_prune(sparsity, sum(counts)) > most:
                raise ValueError(f"a sparsity of {sparsity:g} can't be had of {what} {counts}, since each layer keeps {least}: the "
                                 f"greatest that can be had is {math.floor(1000 * most / sum(counts)) / 1000:g}")
        _has_a_head(heads)

    def masks(self, scores: list[torch.Tensor], alive: list[torch.Tensor], share: float) -> list[torch.Tensor]:
        depth = len(scores) // 2
        return (keep_best(scores[:depth], alive[:depth], self.heads * share, 1)
                + keep_best(scores[depth:], alive[depth:], self.neurons * share, NEURONS))

    def spent(self, masks: list[torch.Tensor]) -> list[Spent]:
        depth = len(masks) // 2
        heads, neurons = (float((part == 0).sum()) / max(1, len(part)) for part in (torch.cat(masks[:depth]), torch.cat(masks[depth:])))
        return [Spent("of the heads pruned", self.heads, heads), Spent("of the neurons pruned", self.neurons, neurons)]


class Structure(NamedTuple):
    """The very numbers of heads and neurons that each layer keeps, first to last; 0 empties a block."""

    heads: list[int]
    neurons: list[int]

    @classmethod
    def of(cls, masks: list[torch.Tensor]) -> "Structure":
        """What masks (U,) of L attention blocks, then L FFNs, keep."""
        kept = [int(mask.sum()) for mask in masks]
        return cls(kept[:len(kept) // 2], kept[len(kept) // 2:])

    def __str__(self) -> str:
        return f"heads {self.heads}, neurons {self.neurons}"

    def check(self, heads: list[int], neurons: list[int], kind: str) -> None:
        for what, wanted, counts in (("heads", self.heads, heads), ("neurons", self.neurons, neurons)):
            if len(wanted) != len(counts):
                raise ValueError(f"the structure is of {len(wanted)} layers ({what} {wanted}), the model has {len(counts)}")
            if any(n > most for n, most in zip(wanted, counts, strict=True)):
                raise ValueError(f"the structure keeps {what} {wanted}, the model has {counts}: take a structure of a model like this one")
        _has_a_head(self.heads)

    def masks(self, scores: list[torch.Tensor], alive: list[torch.Tensor], share: float) -> list[torch.Tensor]:
        return keep_counts(scores, alive, self.heads + self.neurons, share)

    def spent(self, masks: list[torch.Tensor]) -> list[Spent]:
        depth, kept = len(masks) // 2, [int(mask.sum()) for mask in masks]
        return [Spent("heads kept", sum(self.heads), sum(kept[:depth])), Spent("neurons kept", sum(self.neurons), sum(kept[depth:]))]


class Budgets(NamedTuple):
    """What a model may cost in all, by one measure or several that all hold: heads, neurons and whole blocks compete for it."""

    budgets: list[Budget]

    def check(self, heads: list[int], neurons: list[int], kind: str) -> None:
        if kind not in importance.COMPARABLE:
            raise ValueError(f"importance '{kind}' doesn't compare heads with neurons, as a budget for both has to: take "
                             f"{' or '.join(importance.COMPARABLE)}, or sparsities")
        _has_a_head(heads)
        for budget in self.budgets:
            least = smallest(heads, budget.prices)
            if budget.total < least * (1 + 1e-5):
                raise ValueError(f"{budget.asked:.4g} {budget.name} can't be had: the smallest that can be had is "
                                 f"{_rounded_up(1.0001 * least / budget.unit)}, with a single head")

    def masks(self, scores: list[torch.Tensor], alive: list[torch.Tensor], share: float) -> list[torch.Tensor]:
        return keep_worthiest(scores, alive, self.budgets, share)

    def spent(self, masks: list[torch.Tensor]) -> list[Spent]:
        return [Spent(budget.name, budget.asked, spent(masks, budget.prices) / budget.unit) for budget in self.budgets]


def _has_a_head(heads: list[int]) -> None:
    if not any(heads):
        raise ValueError(f"one head at least has to stay, of heads {heads}: a model without any reads no text")


def _rounded_up(number: float) -> str:
    """A number in three digits, none of which makes it smaller."""
    step = 10.0 ** (math.floor(math.log10(number)) - 2)
    return f"{math.ceil(number / step) * step:.3g}"


def to_prune(sparsity: float, units: int) -> int:
    """How many of so many units a sparsity prunes."""
    return int(sparsity * units + 1e-6)


def keep_best(scores: list[torch.Tensor], alive: list[torch.Tensor], sparsity: float, at_least: int) -> list[torch.Tensor]:
    """Masks (1 keep, 0 prune) at `sparsity` of all units of a kind, ranked over all layers; what is pruned stays pruned.

    scores, alive: L tensors (U,). At least `at_least` units stay in each layer, whatever they score.
    """
    total = sum(s.numel() for s in scores)
    to_keep = total - to_prune(sparsity, total)
    ranked = []
    masks = [torch.zeros_like(s) for s in scores]
    for layer, (score, live) in enumerate(zip(scores, alive, strict=True)):
        units = live.nonzero().view(-1)
        order = units[torch.argsort(score[units], descending=True, stable=True)].tolist()
        masks[layer][order[:at_least]] = 1
        ranked += [(float(score[u]), layer, u) for u in order[at_least:]]
    free = max(0, to_keep - int(sum(m.sum() for m in masks)))
    for _, layer, unit in sorted(ranked, key=lambda r: -r[0])[:free]:
        masks[layer][unit] = 1
    return masks


def keep_counts(scores: list[torch.Tensor], alive: list[torch.Tensor], counts: list[int], share: float) -> list[torch.Tensor]:
    """Masks (U,) of the worthiest of each block's live units, once `share` of the way from all units to the block's count is gone."""
    masks = []
    for score, live, count in zip(scores, alive, counts, strict=True):
        keep = math.ceil(len(live) - share * (len(live) - count) - 1e-9)
        worth = torch.where(live > 0, score.double(), -torch.inf)
        mask = torch.zeros(len(live))
        mask[torch.argsort(worth, descending=True, stable=True)[:keep]] = 1
        masks.append(mask)
    return masks

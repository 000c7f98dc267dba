"""Which structure of a budget is best: candidates from the knapsack, then ever longer trainings, of which the better half goes on.

Neither the scores nor the loss when cut say which structure recovers best, and structures of one cost differ by a tenth in that; a
short recovery of each does. L layers, U units in a block.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from compress.budget import Budget, keep_worthiest, spent
from compress.gates import Gates
from compress.target import Structure

PRICES = (0, 1 / 32, 1 / 8, 1 / 2, 2)  # of a block beside its units, as a share of what the budgets have for blocks
NEAR = 0.02  # of a budget: what stays further below isn't a structure of this budget
ELSEWHERE = 0.03  # of a budget: structures that spend less of it in other blocks count as one


class Tried(NamedTuple):
    """A structure, and the held-out KL that it reached in each round in which it was trained."""

    structure: Structure
    kl: list[float]


def felt(model, batches: list[dict[str, torch.Tensor]], seed: int) -> list[torch.Tensor]:
    """Importance scores (U,) of all blocks before anything is learnt: how much the logits of these batches feel each gate's closing."""
    gates = Gates.attach(judged := copy.deepcopy(model))
    for batch in batches:
        gates.observe_curvature(judged, batch, seed)
    return gates.scores("curvature", judged, torch.Generator())


def candidates(scores: list[torch.Tensor], budgets: list[Budget], count: int) -> list[Structure]:
    """Up to `count` structures of these budgets that really differ, by importance scores (U,) of L attention blocks, then L FFNs.

    The knapsack is solved with blocks at several prices: freely, with each layer as the last that has heads, and with nothing left
    behind the first layers. Each structure keeps all budgets and comes within NEAR of one of them, or is the knapsack's own answer. The
    first is that of the least loss; the others are those of the least loss of their numbers of blocks, which are spread from many to
    few, as far as they spend the first budget elsewhere than those before. Raises ValueError where no model costs so little.
    """
    depth = len(scores) // 2
    by_blocks: dict[int, list[tuple[float, Structure]]] = {}
    for last, layers in [(None, None), *((last, None) for last in range(depth)), *((None, layers) for layers in range(1, depth))]:
        for loss, structure in _at_prices(scores, budgets, last, layers):
            by_blocks.setdefault(sum(n > 0 for n in structure.heads + structure.neurons), []).append((loss, structure))
    groups = sorted(sorted(group) for group in by_blocks.values())
    spread = [groups[i] for i in sorted({round(place) for place in np.linspace(0, len(groups) - 1, count)})]
    chosen = list[Structure]()
    for group in [*spread, *(group for _ in range(count) for group in groups)]:
        chosen += [structure for _, structure in group if all(_elsewhere(structure, other, budgets[0]) > ELSEWHERE for other in chosen)][:1]
    return chosen[:count]


def _at_prices(scores: list[torch.Tensor], budgets: list[Budget], last: int | None, layers: int | None) -> list[tuple[float, Structure]]:
    """(loss, structure) of this last layer with heads and these first layers, for as long as dearer blocks leave the budget used."""
    whole, found = [torch.ones_like(score) for score in scores], list[tuple[float, Structure]]()
    depth = len(scores) // 2
    for price in PRICES:
        try:
            masks = keep_worthiest(scores, whole, budgets, block_price=price, last=last, layers=layers)
        except ValueError:
            if last is None and layers is None:
                raise
            break  # these layers have no heads
        used = max(spent(masks, budget.prices) / min(budget.total, spent(whole, budget.prices)) for budget in budgets)
        if used < 1 - NEAR and (price or last is not None or layers is not None):
            break  # the knapsack's own answer stays: a small model may have no structure nearer to the budget
        kept = [int(mask.sum()) for mask in masks]
        loss = sum(float((score.double() ** 2)[mask == 0].sum()) for score, mask in zip(scores, masks, strict=True))
        found.append((loss, Structure(kept[:depth], kept[depth:])))
    return found


def _elsewhere(one: Structure, other: Structure, budget: Budget) -> float:
    """The share of what two structures spend on blocks that they spend in different ones: 0 for the same, 1 for disjoint ones."""
    ours, theirs = (np.array([cost[-1] for cost in budget.prices.blocks(*kept, max(i for i, n in enumerate(kept.heads) if n))])
                    for kept in (one, other))
    return float(np.abs(ours - theirs).sum() / (ours.sum() + theirs.sum()))


def halve(structures: list[Structure], train: Callable[[Structure, int], float], rounds: int) -> tuple[Structure, list[Tried]]:
    """(the best structure, all of them with what they reached) by successive halving (Jamieson & Talwalkar 2016).

    `train(structure, round)` trains one and says its held-out KL; each round is to be longer than the one before, and the better half
    goes on into it. A search that was cut short asks `train` for all of it again: whoever keeps what that answered, goes on. A
    structure whose KL is no number is the worst.
    """
    if not structures:
        raise ValueError("no structure to choose from")
    tried = [Tried(structure, []) for structure in structures]
    left = tried
    for number in range(rounds):
        for one in left:
            one.kl.append(train(one.structure, number))
        left = sorted(left, key=lambda one: (math.isnan(one.kl[-1]), one.kl[-1]))
        left = left[:math.ceil(len(left) / 2)]
        if len(left) == 1:
            break
    return left[0].structure, tried

"""A budget or two for heads, neurons and whole blocks: which units may stay so that the model costs what was asked. Pure numbers.

A block is one layer's attention (its units are heads) or FFN (its units are neurons). L layers, U units in a block, C cost levels.
"""

from typing import NamedTuple

import numpy as np
import torch

from compress.costs import Bytes, Flops, Latency, total

LEVELS = 4000  # that a budget is divided into: costs are rounded up to one of them
STEP, MANY = 8, 64  # a block of many units keeps them in such steps: kernels like it, and there are fewer choices
DECADES, BISECTIONS = 10, 10  # in which the price of a second budget is looked for
REVIVED = 1e-6  # what a pruned unit's worth counts: it comes back only to use up what nothing alive fits into


def allocate(losses: list[np.ndarray], costs: list[np.ndarray], budget: float) -> list[int]:
    """How many units each block keeps: the least sum of losses whose costs stay within `budget`.

    losses[b][n]: what is lost if block b keeps its best n units, n = 0…U; costs[b][n]: what those cost. Costs needn't be
    proportional to n, so a block whose first unit is dear (a whole layer's latency) is emptied before a cheap one. Solved as the
    multiple-choice knapsack it is, by dynamic programming over blocks (as SPDY and ZipLM do; Kurtic et al. 2023, section 3.2).
    Raises ValueError where even the cheapest choice costs more than the budget. Costs are rounded up to budget / LEVELS.
    """
    if sum(min(cost) for cost in costs) > budget:
        raise ValueError(f"the cheapest model costs {sum(min(cost) for cost in costs):g}, the budget is {budget:g}")
    unit = max(budget, 1e-9) / LEVELS
    best = np.zeros(LEVELS + 1)  # (C,): the least loss of the blocks so far within each cost
    choices = []
    for loss, cost in zip(losses, costs, strict=True):
        weight = np.ceil(np.minimum(np.asarray(cost) / unit - 1e-9, LEVELS + 1)).astype(int)  # (U + 1,)
        after, choice = np.full(LEVELS + 1, np.inf), np.full(LEVELS + 1, -1)
        for n in np.flatnonzero(weight <= LEVELS):
            total = best[:LEVELS + 1 - weight[n]] + loss[n]
            better = total < after[weight[n]:]
            after[weight[n]:][better] = total[better]
            choice[weight[n]:][better] = n
        best = after
        choices.append((choice, weight))
    if not np.isfinite(best[-1]):  # rounded up, even the cheapest choices are too dear
        raise ValueError(f"the budget of {budget:g} is within rounding of the cheapest model's cost")
    left, kept = LEVELS, list[int]()
    for choice, weight in reversed(choices):
        kept.append(int(choice[left]))
        left -= weight[kept[-1]]
    return kept[::-1]


def sum_of(blocks: list[np.ndarray], chosen: list[int]) -> float:
    """The sum over blocks of what stands at each block's choice."""
    return sum(float(block[n]) for block, n in zip(blocks, chosen, strict=True))


def allocate_both(losses: list[np.ndarray], costs: list[np.ndarray], budget: float, beside: list[np.ndarray],
                  second: float) -> list[int] | None:
    """As `allocate`, where what units cost by another measure, `beside`, must stay within `second` too; None where it can't.

    That cost is added to the losses at the least rate at which the second budget holds: a Lagrange multiplier, found by bisection.
    """
    chosen = allocate(losses, costs, budget)
    finite = [np.where(np.isfinite(cost), cost, 0.0) for cost in beside]  # what is forbidden, `costs` forbid
    if sum_of(finite, chosen) <= second:
        return chosen
    if second <= 0:
        return None

    def at_rate(power: float) -> list[int]:
        return allocate([loss + 10.0**power * cost for loss, cost in zip(losses, finite, strict=True)], costs, budget)

    scale = float(np.log10(max(sum(loss[0] for loss in losses), 1e-300) / second))
    low, high = scale - DECADES, scale + 2
    chosen = at_rate(high)
    if sum_of(finite, chosen) > second:
        return None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fewer = at_rate(middle)
        if sum_of(finite, fewer) <= second:
            chosen, high = fewer, middle
        else:
            low = middle
    return chosen


class Budget(NamedTuple):
    """What a model may cost in all: `asked`, as people say it, times a unit of `prices`.

    A block that stays counts `per_block` more while it is decided what stays: what no product of its own shows (launching its
    operators, its normalisation). The total is of products alone.
    """

    prices: Flops | Bytes | Latency
    asked: float
    unit: float
    name: str
    per_block: float = 0.0

    @property
    def total(self) -> float:
        return self.asked * self.unit

    def allows(self, share: float, whole: float) -> float:
        """What blocks may cost once `share` of the way down from a model that costs `whole` is gone."""
        return whole - share * max(0.0, whole - self.total) - self.prices.other


def spent(masks: list[torch.Tensor], prices) -> float:
    """What a model costs whose L attention blocks, then L FFNs, keep the units of these masks (U,)."""
    kept, depth = [int(mask.sum()) for mask in masks], len(masks) // 2
    return total(prices, kept[:depth], kept[depth:])


class _Choices:
    """What each of the L attention blocks, then L FFNs, loses by the number of units it is tried with, the worthiest staying."""

    def __init__(self, scores: list[torch.Tensor], alive: list[torch.Tensor]):
        self.units, self.depth = [len(score) for score in scores], len(scores) // 2
        self.orders, self.losses, self.counts = list[torch.Tensor](), list[np.ndarray](), list[np.ndarray]()
        for score, live in zip(scores, alive, strict=True):
            worth = score.double() ** 2 * torch.where(live > 0, 1.0, REVIVED)
            order = torch.argsort(worth, descending=True, stable=True)
            loss = torch.cat([worth[order].flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.double)])  # (U + 1,)
            count = np.unique(np.append(np.arange(0, len(score), STEP if len(score) >= MANY else 1), len(score)))
            self.orders.append(order)
            self.losses.append(loss.numpy()[count])
            self.counts.append(count)

    def costs(self, prices, last: int) -> list[np.ndarray]:
        """What each block costs by these numbers of units, where `last` is the last layer that may keep heads."""
        blocks = prices.blocks(self.units[:self.depth], self.units[self.depth:], last)
        return [cost[count] for cost, count in zip(blocks, self.counts, strict=True)]

    def masks(self, chosen: list[int]) -> list[torch.Tensor]:
        """1 for each unit that stays where each block takes the choice of this index."""
        masks = [torch.zeros(units) for units in self.units]
        for mask, order, count, n in zip(masks, self.orders, self.counts, chosen, strict=True):
            mask[order[:count[n]]] = 1
        return masks


def keep_worthiest(scores: list[torch.Tensor], alive: list[torch.Tensor], budgets: list[Budget], share: float = 1.0) -> list[torch.Tensor]:
    """Masks (1 keep, 0 prune) of L attention blocks, then L FFNs, once `share` of the way from the whole model to the budgets is gone.

    scores, alive: a tensor (U,) for each block. What a block loses is the sum of the score² of the units it gives up:
    first-order changes of the loss have random signs, so they add in squares. Each layer is tried as the last with heads.
    One budget or two, which then both hold. A head stays: a model without any reads no text, and gives one answer to all. Raises
    ValueError where no choice costs so little.
    """
    choices, whole = _Choices(scores, alive), [torch.ones_like(score) for score in scores]
    allowed = [budget.allows(share, spent(whole, budget.prices)) for budget in budgets]
    first, second = budgets[0], budgets[-1]

    def least_loss(may_stay: np.ndarray, per_block: float = 0.0, paid: int = 0) -> list[int]:
        """The choice of least loss where a block that stays costs `per_block` more, and the first budget pays that for `paid` of them."""
        found, why = [], ValueError(f"no model costs so little: {second.total / second.unit:g} {second.name}")
        for last in range(choices.depth):
            if not choices.units[last]:
                continue  # emptied before
            costs = [np.where((count > 0) & ~may, np.inf, cost + per_block * (count > 0))
                     for cost, count, may in zip(choices.costs(first.prices, last), choices.counts, may_stay, strict=True)]
            costs[last][0] = np.inf  # where `last` keeps none, another one is the last
            room = allowed[0] + per_block * paid
            try:
                chosen = allocate(choices.losses, costs, room) if len(budgets) == 1 else allocate_both(
                    choices.losses, costs, room, choices.costs(second.prices, last), allowed[1])
            except ValueError as dear:
                why = dear
                continue
            if chosen is not None:
                found.append((sum_of(choices.losses, chosen), last, chosen))
        if not found:
            raise why
        return min(found)[-1]

    may_stay = np.full(len(scores), True)
    if first.per_block:
        # The fewer blocks stay, the fewer are paid for, until as many stay as were; then units alone share the whole budget.
        paid, chosen = len(scores), least_loss(may_stay, first.per_block, len(scores))
        while (staying := sum(n > 0 for n in chosen)) < paid:
            paid, chosen = staying, least_loss(may_stay, first.per_block, staying)
        may_stay = np.array(chosen) > 0
    return choices.masks(least_loss(may_stay))

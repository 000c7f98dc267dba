"""A budget or more for heads, neurons and whole blocks: which units may stay so that the model costs what was asked. Pure numbers.

A block is one layer's attention (its units are heads) or FFN (its units are neurons). What a unit costs depends on which layer is the
last with heads: behind it one token alone is computed. L layers, U units in a block, M budgets, C choices of all blocks.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from compress.costs import Bytes, Flops, Latency, total

STEP, MANY, MOST = 8, 64, 96  # a block of many units keeps them in such steps, or in so many: kernels like it, and there are fewer choices
REVIVED = 1e-6  # what a pruned unit's worth counts: it comes back only to use up what nothing alive fits into
GAP = 1e-3  # what the solver may lose at most, of the least loss there is: a proof of the last bit takes it minutes at times
SLACK = 1e-6  # of a budget, that stays free: the solver's own tolerance, else what it returns may be over by as much
SCALE = 1e3  # what the loss of everything is in the solver's numbers, so that its absolute tolerances are far below GAP


class Budget(NamedTuple):
    """What a model may cost in all: `asked`, as people say it, times a unit of `prices`."""

    prices: Flops | Bytes | Latency
    asked: float
    unit: float
    name: str

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


def smallest(heads: list[int], prices) -> float:
    """What the cheapest model costs of L layers of so many heads: a single one stays. Infinite where there are none."""
    single = [[int(i == only) for i in range(len(heads))] for only in range(len(heads)) if heads[only]]
    return min((total(prices, one, [0] * len(heads)) for one in single), default=float("inf"))


def _step(units: int) -> int:
    """In how many units at once a block of so many is tried."""
    return max(STEP, units // MOST // STEP * STEP) if units >= MANY else 1


class _Choice(NamedTuple):
    """A block that keeps its `kept` best units: what is lost, what it costs by each budget, and whether this is so where the last layer
    with heads is `last` (L,).
    """

    block: int
    kept: int
    loss: float
    costs: tuple[float, ...]
    last: np.ndarray


def _choices(losses: list[np.ndarray], counts: list[np.ndarray], budgets: list[Budget], layers: int) -> list[_Choice]:
    """What each block may keep, in front of the last layer with heads, in it and behind; `losses` (U + 1,) are by units kept."""
    depth, units = len(losses) // 2, [len(loss) - 1 for loss in losses]
    inner, behind = ([budget.prices.blocks(units[:depth], units[depth:], last) for budget in budgets] for last in (depth, -1))
    final = [[budget.prices.blocks(units[:depth], units[depth:], i)[i] for i in range(depth)] for budget in budgets]
    lasts, found = np.arange(depth), []
    for block, (loss, count) in enumerate(zip(losses, counts, strict=True)):
        layer = block % depth
        ways = [(inner, lasts > layer), (behind, lasts <= layer)] if block >= depth else \
               [(inner, lasts > layer), (final, lasts == layer), (behind, lasts < layer)]
        for prices, so in ways:
            for n in count if layer < layers else [0]:
                costs = tuple(float(blocks[block][n]) for blocks in prices)
                if np.isfinite(costs).all() and (n or prices is not final):  # where the last keeps none, another one is the last
                    found.append(_Choice(block, int(n), float(loss[n]), costs, so))
    return found


def _solved(choices: list[_Choice], rooms: list[float], lasts: list[int]) -> list[_Choice]:
    """The choices of least loss, one for each block and all of one last layer, whose costs stay within each of M rooms.

    The multiple-choice knapsack of SPDY and ZipLM (Kurtic et al. 2023, section 3.2), by branch and cut. Empty where nothing fits.
    """
    loss = np.array([choice.loss for choice in choices])
    costs = np.array([choice.costs for choice in choices]).T / np.array(rooms)[:, None]  # (M, C)
    ways = {(choice.block, choice.last.tobytes()): choice.last for choice in choices}
    way_of = {way: row for row, way in enumerate(ways)}
    taken = sparse.csr_array((np.ones(len(choices)), ([way_of[c.block, c.last.tobytes()] for c in choices], np.arange(len(choices)))))
    wanted = sparse.csr_array(np.array(list(ways.values()), dtype=float)[:, lasts])  # which last layers want a choice of each way
    nothing = np.zeros((len(rooms), len(lasts)))
    found = milp(np.append(SCALE * loss / max(loss.max(), 1e-300), np.zeros(len(lasts))), integrality=1, bounds=Bounds(0, 1),
                 constraints=[LinearConstraint(np.hstack([costs, nothing]), -np.inf, 1 - SLACK),
                              LinearConstraint(sparse.hstack([taken, -wanted]), 0, 0),
                              LinearConstraint(np.append(np.zeros(len(choices)), np.ones(len(lasts)))[None], 1, 1)],
                 options={"mip_rel_gap": GAP})
    return [choice for choice, x in zip(choices, found.x, strict=False) if x > 0.5] if found.x is not None else []


def keep_worthiest(scores: list[torch.Tensor], alive: list[torch.Tensor], budgets: list[Budget], share: float = 1.0, *,
                   block_price: float = 0.0, last: int | None = None, layers: int | None = None) -> list[torch.Tensor]:
    """Masks (1 keep, 0 prune) of L attention blocks, then L FFNs, once `share` of the way from the whole model to the budgets is gone.

    scores, alive: a tensor (U,) for each block. What a block loses is the sum of the score² of the units it gives up: first-order
    changes of the loss have random signs, so they add in squares. All budgets hold. A head stays: a model without any reads no text, and
    gives one answer to all; `last`, if given, is the last layer with heads, and from layer `layers` on nothing stays. With a
    `block_price` each block that stays costs that share of each room more while it is decided which do, as launching its operators
    does. Raises ValueError where no choice costs so little.
    """
    whole, depth = [torch.ones_like(score) for score in scores], len(scores) // 2
    costs = [spent(whole, budget.prices) for budget in budgets]
    if last is None and layers is None and all(share * (cost - budget.total) <= 0 for budget, cost in zip(budgets, costs, strict=True)):
        return whole
    worth = [score.double() ** 2 * torch.where(live > 0, 1.0, REVIVED) for score, live in zip(scores, alive, strict=True)]
    orders = [torch.argsort(of_units, descending=True, stable=True) for of_units in worth]
    losses = [torch.cat([of_units[order].flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.double)]).numpy()
              for of_units, order in zip(worth, orders, strict=True)]  # (U + 1,)
    counts = [np.unique(np.append(np.arange(0, len(score), _step(len(score))), len(score))) for score in scores]
    rooms = [budget.allows(share, cost) for budget, cost in zip(budgets, costs, strict=True)]
    lasts = [i for i in range(depth) if len(scores[i]) and last in (None, i) and (layers is None or i < layers)]
    possible = lasts and min(rooms) > 0
    choices = _choices(losses, counts, budgets, depth if layers is None else layers)
    chosen = _solved(choices, rooms, lasts) if possible else []
    if block_price and chosen:
        # Of the blocks that stay without a price those go that aren't worth theirs; the others then share all that there is again.
        paid = 1 + block_price * sum(choice.kept > 0 for choice in chosen)
        dearer = [choice._replace(costs=tuple(cost + block_price * room * (choice.kept > 0)
                                              for cost, room in zip(choice.costs, rooms, strict=True))) for choice in choices]
        stay = {choice.block for choice in _solved(dearer, [paid * room for room in rooms], lasts) if choice.kept}
        left = [choice for choice in choices if not choice.kept or choice.block in stay]
        chosen = _solved(left, rooms, [i for i in lasts if i in stay])
    if not chosen:
        raise ValueError("even a model of a single head costs more: the budget is " +
                         " and ".join(f"{budget.asked:g} {budget.name}" for budget in budgets))
    masks = [torch.zeros(len(score)) for score in scores]
    for choice in chosen:
        masks[choice.block][orders[choice.block][:choice.kept]] = 1
    return masks

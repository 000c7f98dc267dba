"""A budget or more for heads, neurons and whole blocks: which units may stay so that the model costs what was asked. Pure numbers.

A block is one layer's attention (its units are heads) or FFN (its units are neurons). L layers, U units in a block, M budgets.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from compress.costs import Bytes, Flops, Latency, total

STEP, MANY = 8, 64  # a block of many units keeps them in such steps: kernels like it, and there are fewer choices
REVIVED = 1e-6  # what a pruned unit's worth counts: it comes back only to use up what nothing alive fits into
GAP = 1e-3  # what the solver may lose at most, of the least loss there is: a proof of the last bit takes it minutes at times
SLACK = 1e-6  # of a budget, that stays free: the solver's own tolerance, else what it returns may be over by as much
SCALE = 1e3  # what a budget and the loss are in the solver's numbers, so that its absolute tolerances are far below GAP


class _Knapsack:
    """One choice from each block, so that losses add up to the least and costs stay within M rooms (multiple choice, M dimensions).

    losses[b][n]: what is lost by block b's choice n; costs[m][b][n]: what it costs by measure m, infinite where it is forbidden.
    """

    def __init__(self, losses: list[np.ndarray], costs: list[list[np.ndarray]], rooms: list[float]):
        self.block = np.repeat(np.arange(len(losses)), [len(loss) for loss in losses])  # (C,): of all choices of all blocks
        self.first = np.searchsorted(self.block, np.arange(len(losses)))  # (B,): the index of each block's first
        self.loss = np.concatenate(losses)
        self.cost = np.stack([np.concatenate(cost) / max(room, 1e-300) for cost, room in zip(costs, rooms, strict=True)])  # (M, C)
        self.choices = self._undominated(np.flatnonzero((self.cost <= 1 - SLACK).all(0)))
        self.possible = min(rooms) > 0 and len(np.unique(self.block[self.choices])) == len(losses)  # else a block fits with no choice

    def _undominated(self, choices: np.ndarray) -> np.ndarray:
        """`choices` without those of which a neighbour in the block loses no more and costs no more."""
        one, next_one = choices[:-1], choices[1:]
        together = self.block[one] == self.block[next_one]
        dearer = (self.cost[:, next_one] >= self.cost[:, one]).all(0) & (self.loss[next_one] >= self.loss[one])
        worse = (self.cost[:, next_one] <= self.cost[:, one]).all(0) & (self.loss[next_one] < self.loss[one])
        dropped = np.append(False, together & dearer) | np.append(together & worse, False)
        return choices[~dropped]

    def _one_each(self) -> sparse.csr_array:
        """(B, C): which choices are of which block."""
        return sparse.csr_array((np.ones(len(self.choices)), (self.block[self.choices], np.arange(len(self.choices)))))

    def _of_each(self, choices: np.ndarray) -> np.ndarray:
        """(B,): the first, and so the cheapest, that each block has among `choices`."""
        return choices[np.searchsorted(self.block[choices], np.arange(len(self.first)))]

    def _priced(self, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(loss and cost of each open choice (C,), the least of each block (B,)) where costs are paid at `rates`."""
        priced = self.loss[self.choices] + rates @ self.cost[:, self.choices]
        return priced, np.minimum.reduceat(priced, np.searchsorted(self.block[self.choices], np.arange(len(self.first))))

    def bound(self, rates: np.ndarray) -> float:
        """A loss that no solution is below: the Lagrangian at these rates (M,), which say what a whole room is worth in loss."""
        return float(self._priced(rates)[1].sum() - rates.sum())

    def _good_enough(self, rates: np.ndarray, loss: float) -> bool:
        """Whether a loss is within GAP of the least there is, as far as the bound at these rates tells."""
        return loss <= 0 or self.bound(rates) >= (1 - GAP) * loss

    def _close(self, rates: np.ndarray, loss: float) -> bool:
        """Closes all choices whose Lagrangian is above `loss`: no better solution has one of them. Some hundred of thousands stay open.

        Whether each block has one left: else there is no better solution.
        """
        priced, least = self._priced(rates)
        left = self.choices[self.bound(rates) + priced - least[self.block[self.choices]] <= loss * (1 + SLACK)]
        whole = len(np.unique(self.block[left])) == len(self.first)
        self.choices = left if whole else self.choices
        return whole

    def relaxed(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(rates (M,), a solution (B,)) by the linear problem, which may mix choices: of these the solution takes the cheapest.

        None where nothing fits.
        """
        scale, taken, rates = float(self.loss[self.choices].max()), self._of_each(self.choices), np.zeros(len(self.cost))
        while scale > 0:
            found = linprog(SCALE * self.loss[self.choices] / scale, A_ub=SCALE * self.cost[:, self.choices],
                            b_ub=np.full(len(self.cost), SCALE * (1 - SLACK)), A_eq=self._one_each(), b_eq=np.ones(len(self.first)),
                            method="highs")
            if found.status == 2:  # infeasible
                return None
            if found.status != 0:
                raise RuntimeError(f"the linear problem of a budget wasn't solved: {found.message}")
            rates, before = -found.ineqlin.marginals * scale, scale
            taken = self._of_each(self.choices[found.x > 1e-9])
            scale = float(self.loss[taken].sum())
            self.choices = self.choices[self.loss[self.choices] <= scale]
            if scale > before / SCALE:
                break  # else once more in units of this loss, which was hardly more than the solver's tolerance
        return rates, taken

    def rounded(self, rates: np.ndarray) -> np.ndarray | None:
        """A solution (B,): the choices of least Lagrangian, at rates that rise until they fit; None where these don't get there."""
        for rise in 1.02 ** np.arange(200):
            priced, least = self._priced(rise * rates)
            taken = self._of_each(self.choices[priced <= least[self.block[self.choices]]])
            if (self.cost[:, taken].sum(1) <= 1 - SLACK).all():
                return taken
        return None

    def solved(self, rates: np.ndarray | None = None, below: float = np.inf) -> tuple[float, list[int]] | None:
        """(the least loss, within GAP, each block's choice); None where nothing fits, or nothing loses less than `below`.

        `rates` of a problem that is nearly this one save most of the work.
        """
        best, solution = below, None

        def found(taken: np.ndarray | None) -> None:
            """Takes a solution that is better than the best until now."""
            nonlocal best, solution
            if taken is not None and self.loss[taken].sum() < best and (self.cost[:, taken].sum(1) <= 1).all():
                best, solution = float(self.loss[taken].sum()), (taken - self.first).tolist()

        def result() -> tuple[float, list[int]] | None:
            return None if solution is None else (best, solution)

        if rates is not None:
            found(self.rounded(rates))
            if self._good_enough(rates, best) or not self._close(rates, best):
                return result()
        relaxed = self.relaxed()
        if relaxed is None:
            return result()
        found(relaxed[1])
        if self._good_enough(relaxed[0], best) or not self._close(relaxed[0], best):
            return result()
        mixed = milp(SCALE * self.loss[self.choices] / best, integrality=np.ones(len(self.choices)), bounds=Bounds(0, 1),
                     constraints=[LinearConstraint(SCALE * self.cost[:, self.choices], -np.inf, SCALE * (1 - SLACK)),
                                  LinearConstraint(self._one_each(), 1, 1)], options={"mip_rel_gap": GAP})
        found(None if mixed.x is None else self.choices[mixed.x > 0.5])
        return result()


def allocate(losses: list[np.ndarray], costs: list[list[np.ndarray]], rooms: list[float]) -> list[int]:
    """How many units each block keeps: the least sum of losses, within GAP, whose costs stay within each of M `rooms`.

    losses[b][n]: what is lost if block b keeps its best n units, n = 0…U; costs[m][b][n]: what those cost by measure m. Costs needn't
    be proportional to n, so a block whose first unit is dear (a whole layer's latency) is emptied before a cheap one. This is the
    multiple-choice knapsack of SPDY and ZipLM (Kurtic et al. 2023, section 3.2), with as many dimensions as budgets: a relaxation
    closes most choices, branch and cut decides on the rest. Raises ValueError where nothing fits.
    """
    knapsack = _Knapsack(losses, costs, rooms)
    found = knapsack.solved() if knapsack.possible else None
    if found is None:
        raise ValueError("even the cheapest choices cost more than there is room for")
    return found[1]


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


def smallest(heads: list[int], prices) -> float:
    """What the cheapest model costs of L layers of so many heads: a single one stays. Infinite where there are none."""
    single = [[int(i == only) for i in range(len(heads))] for only in range(len(heads)) if heads[only]]
    return min((total(prices, one, [0] * len(heads)) for one in single), default=float("inf"))


class _Choices:
    """What each of the L attention blocks, then L FFNs, loses by the number of units it is tried with, the worthiest staying."""

    def __init__(self, scores: list[torch.Tensor], alive: list[torch.Tensor], layers: int | None):
        self.units, self.depth = [len(score) for score in scores], len(scores) // 2
        self.orders, self.losses, self.counts = list[torch.Tensor](), list[np.ndarray](), list[np.ndarray]()
        for i, (score, live) in enumerate(zip(scores, alive, strict=True)):
            worth = score.double() ** 2 * torch.where(live > 0, 1.0, REVIVED)
            order = torch.argsort(worth, descending=True, stable=True)
            loss = torch.cat([worth[order].flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.double)])  # (U + 1,)
            count = np.unique(np.append(np.arange(0, len(score), STEP if len(score) >= MANY else 1), len(score)))
            if layers is not None and i % self.depth >= layers:
                count = count[:1]
            self.orders.append(order)
            self.losses.append(loss.numpy()[count])
            self.counts.append(count)

    def knapsack(self, budgets: list[Budget], rooms: list[float], last: int, price: float) -> _Knapsack:
        """The problem where `last` is the last layer with heads, and a block that stays loses `price`."""
        costs = []
        for budget in budgets:
            blocks = budget.prices.blocks(self.units[:self.depth], self.units[self.depth:], last)
            costs.append([cost[count] for cost, count in zip(blocks, self.counts, strict=True)])
            costs[-1][last][0] = np.inf  # where `last` keeps none, another one is the last
        return _Knapsack([loss + price * (count > 0) for loss, count in zip(self.losses, self.counts, strict=True)], costs, rooms)

    def masks(self, chosen: list[int]) -> list[torch.Tensor]:
        """1 for each unit that stays where each block takes the choice of this index."""
        masks = [torch.zeros(units) for units in self.units]
        for mask, order, count, n in zip(masks, self.orders, self.counts, chosen, strict=True):
            mask[order[:count[n]]] = 1
        return masks


def keep_worthiest(scores: list[torch.Tensor], alive: list[torch.Tensor], budgets: list[Budget], share: float = 1.0,
                   last: int | None = None, layers: int | None = None) -> list[torch.Tensor]:
    """Masks (1 keep, 0 prune) of L attention blocks, then L FFNs, once `share` of the way from the whole model to the budgets is gone.

    scores, alive: a tensor (U,) for each block. What a block loses is the sum of the score² of the units it gives up:
    first-order changes of the loss have random signs, so they add in squares. Each layer is tried as the last with heads, or `last`
    alone; from layer `layers` on, if given, nothing stays. All budgets hold. A block that stays loses what the first budget's
    `per_block` is worth to the others, at the rate at which units are traded for room. A head stays: a model without any reads no
    text, and gives one answer to all. Raises ValueError where no choice costs so little.
    """
    whole = [torch.ones_like(score) for score in scores]
    costs = [spent(whole, budget.prices) for budget in budgets]
    if last is None and layers is None and all(share * (cost - budget.total) <= 0 for budget, cost in zip(budgets, costs, strict=True)):
        return whole
    rooms = [budget.allows(share, cost) for budget, cost in zip(budgets, costs, strict=True)]
    choices = _Choices(scores, alive, layers)
    lasts = [i for i in range(choices.depth) if len(choices.counts[i]) > 1 and last in (None, i)]
    general = choices.knapsack(budgets, rooms, lasts[-1], 0.0) if lasts else None
    relaxed = general.relaxed() if general is not None and general.possible else None
    refusal = "even a model of a single head costs more: the budget is " + " and ".join(f"{one.asked:g} {one.name}" for one in budgets)
    if relaxed is None:
        raise ValueError(refusal)
    rates = relaxed[0]
    price = float(rates[0]) * budgets[0].per_block / rooms[0]
    tried = {i: choices.knapsack(budgets, rooms, i, price) for i in lasts}
    bounds = {i: knapsack.bound(rates) for i, knapsack in tried.items() if knapsack.possible}
    best, chosen = float("inf"), list[int]()
    for i in sorted(bounds, key=lambda i: (bounds[i], i)):
        found = tried[i].solved(rates, best) if bounds[i] < best * (1 - GAP) else None
        if found is not None:
            best, chosen = found
    if not chosen:
        raise ValueError(refusal)
    return choices.masks(chosen)

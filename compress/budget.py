"""One budget for heads and neurons: what a model costs in FLOPs, and the units that are worth theirs. Pure tensors and numbers.

A multiply-add is 2 FLOPs; only products are counted, as torch's FlopCounterMode does on the model that ships.
Letters: L layers, U units of one kind in a layer, N tokens, D width, d width of a head, K classes.
"""

import torch


def head_flops(tokens: int, width: int, head_dim: int) -> int:
    """A head at `tokens`: its rows of Q, K, V and its columns of the output map, 4·2·N·D·d, and two products of N × N × d."""
    return 8 * tokens * width * head_dim + 4 * tokens**2 * head_dim


def neuron_flops(tokens: int, width: int) -> int:
    """An FFN neuron at `tokens`: a row of lin1 and a column of lin2, 2·2·N·D."""
    return 4 * tokens * width


def other_flops(width: int, classes: int) -> int:
    """What no pruning of heads and neurons saves: the head's two maps of one token, 2·(D·D + D·K)."""
    return 2 * width * (width + classes)


def keep_worthiest(scores: list[torch.Tensor], alive: list[torch.Tensor], costs: list[int], at_least: list[int],
                   budget: float) -> list[torch.Tensor]:
    """Masks (1 keep, 0 prune) of groups of units that together cost no more than `budget`.

    scores, alive: a tensor (U,) for each layer and kind; costs, at_least: for each of these, the cost of one unit and how many stay
    whatever they score. Units are taken in the order of score² per cost: first-order changes of the loss have random signs,
    so they add in squares. What is pruned stays pruned, unless nothing alive fits into what is left: a head is dear, and
    where one had to go the best of the closed neurons come back. Raises ValueError where those that must stay cost more than the budget.
    """
    smallest = sum(cost * least for cost, least in zip(costs, at_least, strict=True))
    if smallest > budget:
        raise ValueError(f"the units that must stay cost {smallest}, the budget is {budget}")
    masks = [torch.zeros_like(score) for score in scores]
    ranked = []
    for group, (score, live) in enumerate(zip(scores, alive, strict=True)):
        worth = [(bool(live[u]), float(score[u]) ** 2 / costs[group], group, u) for u in range(len(score))]
        worth.sort(key=lambda unit: unit[:2], reverse=True)
        masks[group][[u for *_, u in worth[:at_least[group]]]] = 1
        ranked += worth[at_least[group]:]
    left = budget - smallest
    for _, _, group, unit in sorted(ranked, key=lambda unit: unit[:2], reverse=True):
        if costs[group] <= left:  # a head that no longer fits leaves room for neurons that do
            masks[group][unit] = 1
            left -= costs[group]
    return masks

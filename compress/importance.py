"""KGSP, knowledge-guided structured pruning: what a head or an FFN neuron is worth. Pure tensors.

Letters: L layers, U units of one kind in a layer (heads or neurons).
"""

import math

import torch

KINDS = ("random", "l2", "kd_grad", "l2+kd_grad")


def magnitude(incoming: torch.Tensor, outgoing: torch.Tensor) -> torch.Tensor:
    """‖w_in‖·‖w_out‖ of each unit: (U, a), (U, b) -> (U,). A bound on what it can add; zero where either side is dead.

    A neuron's sides are its row of lin1 and its column of lin2; a head's, its rows of V and its columns of the output map.
    """
    return incoming.norm(dim=1) * outgoing.norm(dim=1)


def update_running_mean(mean: torch.Tensor, gate_gradient: torch.Tensor, seen: int) -> torch.Tensor:
    """The running mean of (∂L_KD/∂g)² after one more batch; (U,), `seen` batches so far.

    The gate g = 1 scales a unit, so |∂L/∂g| is to first order what removing it costs (Michel et al. 2019, equation 2;
    Molchanov et al. 2019, equation 8, squared as there).
    """
    return mean + (gate_gradient**2 - mean) / (seen + 1)


def joint_scores(kind: str, l2: list[torch.Tensor], sensitivity: list[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """Scores of one kind of unit, comparable across layers: lists of L tensors (U,) -> the same.

    `l2` are magnitudes, divided by their layer's mean, since layers differ in scale without differing in worth.
    `sensitivity` are running means of squared gate gradients; their root is in units of the loss, the same for every layer,
    so one mean over all layers divides it. "l2+kd_grad" adds the two: sensitivity leads, magnitude steadies it.
    """
    if kind == "random":
        return [torch.rand(s.shape, generator=generator) for s in sensitivity]
    steady = [m / m.mean().clamp(min=1e-12) for m in l2]
    roots = [s.sqrt() for s in sensitivity]
    overall = torch.cat(roots).mean().clamp(min=1e-12)
    taylor = [r / overall for r in roots]
    if kind == "l2":
        return steady
    if kind == "kd_grad":
        return taylor
    if kind == "l2+kd_grad":
        # A dead unit is worth nothing, however large the weights on its live side: both terms vanish for it.
        return [t + 0.25 * s for t, s in zip(taylor, steady, strict=True)]
    raise ValueError(f"importance is one of {KINDS}, not {kind!r}")


def keep_best(scores: list[torch.Tensor], alive: list[torch.Tensor], sparsity: float, at_least: int) -> list[torch.Tensor]:
    """Masks (1 keep, 0 prune) at `sparsity` of all units of a kind, ranked over all layers; what is pruned stays pruned.

    scores, alive: L tensors (U,). At least `at_least` units stay in each layer, whatever they score.
    """
    total = sum(s.numel() for s in scores)
    to_keep = total - int(sparsity * total + 1e-6)
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

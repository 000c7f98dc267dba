"""KGSP, knowledge-guided structured pruning: what a head or an FFN neuron is worth. Pure tensors.

Letters: L layers, U units of one kind in a layer (heads or neurons).
"""

from collections.abc import Sequence

import torch

KINDS = ("random", "l2", "kd_grad", "l2+kd_grad", "curvature")
COMPARABLE = ("kd_grad", "curvature")  # a head's score against a neuron's: both are what the same loss, or the same logits, feel


def magnitude(incoming: torch.Tensor, outgoing: torch.Tensor) -> torch.Tensor:
    """‖w_in‖·‖w_out‖ of each unit: (U, a), (U, b) -> (U,). A bound on what it can add; zero where either side is dead.

    A neuron's sides are its row of lin1 and its column of lin2; a head's, its rows of V and its columns of the output map.
    """
    return incoming.norm(dim=1) * outgoing.norm(dim=1)


def update_running_mean(mean: torch.Tensor, squared: torch.Tensor, seen: int) -> torch.Tensor:
    """The running mean of (∂L_KD/∂g)² after one more batch's; (U,), `seen` batches so far.

    The gate g = 1 scales a unit, so |∂L/∂g| is to first order what removing it costs (Michel et al. 2019, equation 2;
    Molchanov et al. 2019, equation 8, squared as there).
    """
    return mean + (squared - mean) / (seen + 1)


def squared_gradients(logits: torch.Tensor, gates: Sequence[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """(∂(s·logits)/∂g)² for random signs s, of each of the gates: (B, K), tensors (U,) -> tensors (U,).

    Its mean over signs is the sum over sentences and classes of (∂logit/∂g)², the diagonal of the Gauss-Newton matrix, since products
    of different signs cancel (Hutchinson 1990): one backward pass in place of B·K.
    """
    signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
    return [gradient.square() for gradient in torch.autograd.grad((signs * logits).sum(), tuple(gates))]


def joint_scores(kind: str, l2: list[torch.Tensor], sensitivity: list[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """Scores of one kind of unit, comparable across layers: lists of L tensors (U,) -> the same.

    `l2` are magnitudes, divided by their layer's mean, since layers differ in scale without differing in worth.
    `sensitivity` are running means of squared gate gradients; their root is in units of the loss, the same for every layer,
    so one mean over all layers divides it. "l2+kd_grad" adds the two: sensitivity leads, magnitude steadies it. For "curvature" they
    are running means of what `squared_gradients` gives, in units of the logits.
    """
    if kind == "random":
        return [torch.rand(s.shape, generator=generator) for s in sensitivity]
    steady = [m / m.mean().clamp(min=1e-12) for m in l2]
    roots = [s.sqrt() for s in sensitivity]
    overall = torch.cat(roots).mean().clamp(min=1e-12)
    taylor = [r / overall for r in roots]
    if kind == "l2":
        return steady
    if kind in ("kd_grad", "curvature"):
        return taylor
    if kind == "l2+kd_grad":
        # A dead unit is worth nothing, however large the weights on its live side: both terms vanish for it.
        return [t + 0.25 * s for t, s in zip(taylor, steady, strict=True)]
    raise ValueError(f"importance is one of {KINDS}, not {kind!r}")

"""What a student without attention starts as: a larger model's word table, projected to few channels, and everything else new.

Shapes: V word pieces, E width of the table, C channels.
"""

import torch

SPREAD = 0.5  # standard deviation of the projected table: filters start from words that differ


@torch.no_grad()
def projected(table: torch.Tensor, channels: int) -> torch.Tensor:
    """A word table (V, E) on the directions in which its rows differ most (V, C), its principal components, the first with the largest."""
    centred = table.float() - table.float().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)  # (E, E)
    found = centred @ directions[:channels].T
    return found * (SPREAD / found.std())

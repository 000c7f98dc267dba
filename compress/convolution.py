"""What a student without attention starts as: a larger model's word table, projected to few channels, and everything else new.

Shapes: V word pieces, E width of the table, C channels.
"""

import torch

CHANNELS = 128  # of the table, where a larger model's is as wide
SPREAD = 0.5  # standard deviation of the projected table: filters start from words that differ


@torch.no_grad()
def projected(table: torch.Tensor, channels: int = CHANNELS) -> torch.Tensor:
    """A word table (V, E) on its first principal components (V, C): the directions in which its rows differ most. C is E at most."""
    centred = table.float() - table.float().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)  # (E, E)
    found = centred @ directions[:channels].T
    return found * (SPREAD / found.std())

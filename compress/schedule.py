"""How sparsity, temperature and the weight of the soft targets move through pruning. Pure numbers."""


def progress(step: int, start: int, end: int) -> float:
    """0 until `start`, 1 from `end` on, linear between."""
    if end <= start:
        return float(step >= end)
    return min(1.0, max(0.0, (step - start) / (end - start)))


def cubic_sparsity(final: float, at: float) -> float:
    """s = s_f·(1 − (1 − t)³) for t in [0, 1]: fast while there is much to spare, slow at the end (Zhu & Gupta 2017, equation 1)."""
    return final * (1.0 - (1.0 - at) ** 3)


def linear(start: float, end: float, at: float) -> float:
    """From `start` at t = 0 to `end` at t = 1."""
    return start + (end - start) * at

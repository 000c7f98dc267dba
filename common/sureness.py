"""How sure a model may be of its answers, and what is known of those that it is sure of: so that another is asked for the rest alone.

A temperature makes probabilities honest (Guo et al. 2017): that at which held-out labels surprise a model least. It is one number, and
changes no answer. How often the answers above a level are the teacher's is then counted on texts that chose neither model nor temperature.
S texts, K outputs.
"""

import math

import numpy as np

from common import tasks
from common.tasks import Task

LEVELS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # of sureness, among which a user may choose
ALPHA = 0.05  # with what probability one of the bounds or more may be wrong
FURTHEST = 20.0  # that a temperature is from 1, as a factor: beyond it probabilities are all alike, or all 0 and 1


def temperature(task: Task, logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature by which logits (S, K) of held-out texts are to be divided; None of a task without probabilities."""
    from scipy.optimize import minimize_scalar

    known = tasks.known(labels)
    if not task.has_probabilities or not known.any():
        return None
    logits, labels = logits[known].astype(np.float64), labels[known]
    found = minimize_scalar(lambda log: task.surprise(logits / math.exp(log), labels), method="bounded",
                            bounds=(-math.log(FURTHEST), math.log(FURTHEST)))
    return math.exp(found.x)


def levels(sure: np.ndarray, same: np.ndarray) -> list[dict]:
    """[{sure, answered, sentences, agreement, agreement_lower}] for each of LEVELS, of the `sure`ness (S,) of answers and whether they are
    the teacher's (S,): `answered` is the share of texts that reach the level, `agreement` that of these which the teacher answers alike.

    The lower bounds are Clopper & Pearson's (1934), each at ALPHA / len(LEVELS) (Bonferroni): all hold at once with 95 % certainty, so
    that whichever level one chooses by this table its bound holds. None where no text reaches the level.
    """
    from scipy.stats import binomtest

    found = []
    for level in LEVELS:
        alike = same[sure >= level]
        row: dict = {"sure": level, "answered": len(alike) / len(sure), "sentences": len(alike), "agreement": None, "agreement_lower": None}
        if len(alike):
            bound = binomtest(int(alike.sum()), len(alike), alternative="greater").proportion_ci(1 - ALPHA / len(LEVELS), method="exact")
            row |= {"agreement": float(alike.mean()), "agreement_lower": float(bound.low)}
        found.append(row)
    return found

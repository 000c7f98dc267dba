"""Beyond accuracy: F1, each class's recall, calibration, and which sentences a model answers otherwise than the baseline.

A compressed model may be as often right and yet another model: over-sure, blind to the rarer class, or worse where a sentence is
long or negated. S sentences, K classes.
"""

import re

import numpy as np

BINS = 15
NEGATED = re.compile(r"\b(not|never|no|without|cannot)\b|n['’]t\b", re.IGNORECASE)
LENGTHS = ((1, 9), (10, 19), (20, 29), (30, None))  # words


def f1(predictions, labels) -> float:
    """The mean over classes of F1 (van Rijsbergen 1979): a class that is neither there nor ever said doesn't count."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    scores = []
    for label in np.union1d(predictions, labels):
        said, true = predictions == label, labels == label
        scores.append(2 * (said & true).sum() / (said.sum() + true.sum()))
    return float(np.mean(scores))


def recall(predictions, labels, names: list[str]) -> dict[str, float | None]:
    """{class: share of its sentences that are answered so}; None of a class without sentences."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    return {name: float((predictions[labels == i] == i).mean()) if (labels == i).any() else None for i, name in enumerate(names)}


def calibration_error(probabilities, labels, bins: int = BINS) -> float:
    """Expected calibration error of probabilities (S, K): how far a model's certainty is from the share that it gets right.

    The mean over sentences of the gap in their bin, of `bins` of equal width by the probability of the answer (Guo et al. 2017).
    """
    sure, right = probabilities.max(-1), probabilities.argmax(-1) == np.asarray(labels)
    bin_of = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=right - sure, minlength=bins)  # sums, so each bin counts by its sentences
    return float(np.abs(gaps).sum() / len(sure))


def groups(texts: list[str]) -> dict[str, np.ndarray]:
    """{name: (S,) whether a sentence belongs} by words and by negation; groups without a sentence are left out."""
    words = np.array([len(text.split()) for text in texts])
    negated = np.array([bool(NEGATED.search(text)) for text in texts])
    found = {f"{low}–{high} words" if high else f"{low} words and more": (words >= low) & (words <= (high or words.max()))
             for low, high in LENGTHS}
    found |= {"negated": negated, "not negated": ~negated}
    return {name: inside for name, inside in found.items() if inside.any()}


def changed(texts: list[str], predictions, baseline, labels) -> dict[str, dict]:
    """{group: {sentences, gained, lost}}: how many of a group this model alone gets right, and how many the baseline alone."""
    right, before = (np.asarray(said) == np.asarray(labels) for said in (predictions, baseline))
    gained, lost = right & ~before, before & ~right
    return {name: {"sentences": int(inside.sum()), "gained": int((gained & inside).sum()), "lost": int((lost & inside).sum())}
            for name, inside in groups(texts).items()}

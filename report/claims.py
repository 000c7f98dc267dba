"""Is nothing lost? A claim that is tested: one-sided, on the same sentences, against a margin that was chosen beforehand.

That a difference isn't significant says little: a small dev set finds hardly any. So the null hypothesis is that `MARGIN` or more is
lost, and "no loss" is said only where it falls (non-inferiority; Tango 1998 for paired shares).
"""

import math

import numpy as np

from common.tasks import SingleLabel, Task

MARGIN, ALPHA, POWER = 0.01, 0.05, 0.8


def _variance_at_the_margin(gained: np.ndarray, margin: float) -> float:
    """What the variance of `gained` (S,) is if `margin` is lost: from the sample itself it comes out too small where few sentences differ.

    Tango's restricted maximum-likelihood estimate for gains and losses of whole sentences. With several seeds they are of parts of
    a sentence: then smaller in proportion, as the sample's own variance is.
    """
    n, won, lost = len(gained), float(gained.clip(min=0).sum()), float(-gained.clip(max=0).sum())
    linear = won + lost - margin * (2 * n + won - lost)
    winning = (linear + math.sqrt(linear**2 + 8 * n * won * margin * (1 - margin))) / (4 * n)  # the share of gains, restricted
    whole = (won + lost) / n - gained.mean()**2
    parts = float(gained.var() / whole) if whole else 1.0
    return parts * (2 * winning + margin * (1 - margin))


def of_task(task: Task, ours: list[np.ndarray], baseline: list[np.ndarray], labels, margin: float = MARGIN) -> dict:
    """{mean, half_width, margin, p, holds, needed} of decisive logits (S, K), a list over seeds, against a baseline's.

    Tango's test of right answers where each text has one class; else a normal one, by a paired bootstrap's standard error.
    """
    if isinstance(task, SingleLabel):
        said, before = (np.stack([task.answers(logits) for logits in seeds]) for seeds in (ours, baseline))
        return no_loss(said, before, labels, margin)
    mean, error = task.difference(ours, baseline, labels)
    return _claim(mean, error, error, margin, len(labels))


def _claim(mean: float, expected: float, error: float, margin: float, n: int) -> dict:
    """What standard errors of a mean over n texts allow to be said: `expected` if the margin is lost, `error` as it was seen."""
    from scipy.special import ndtr, ndtri  # the normal distribution and its quantiles, a hundred times as fast as scipy.stats.norm

    p = float(ndtr(-(mean + margin) / expected)) if expected else float(mean <= -margin)
    needed = None
    if mean > -margin:
        spread = ndtri(1 - ALPHA) * expected + ndtri(POWER) * error
        needed = math.ceil(n * (spread / (mean + margin)) ** 2)
    return {"mean": mean, "half_width": float(ndtri(0.975)) * error, "margin": margin, "p": p, "holds": p < ALPHA, "needed": needed,
            "sentences": n}


def no_loss(ours, baseline, labels, margin: float = MARGIN) -> dict:
    """{mean, half_width, margin, p, holds, needed} of label ids (S,), or (seeds, S), against a baseline's of either form.

    A sentence counts as the mean over seeds of (ours right − baseline right); `mean` ± `half_width` is the 95 % interval of what is
    gained, a share. `p` is that of Tango's score test of mean > −margin. `needed` is how many sentences would show it with a power
    of 80 % if the truth is what was seen; None where that is the margin or worse.
    """
    ours, baseline, labels = np.atleast_2d(ours), np.atleast_2d(baseline), np.asarray(labels)
    gained = (ours == labels).mean(0) - (baseline == labels).mean(0)  # (S,)
    expected, error = (math.sqrt(variance / len(gained)) for variance in (_variance_at_the_margin(gained, margin), gained.var()))
    return _claim(float(gained.mean()), expected, error, margin, len(gained))


def holm(ps: list[float]) -> list[float]:
    """The p values of one report, corrected for their number: the level at which those no larger hold all at once (Holm 1979)."""
    corrected, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = least
    return corrected


def surely_lost(claim: dict) -> bool:
    """Whether more than the margin is surely lost: the same test, of the other side."""
    return claim["p"] > 1 - ALPHA


def said(claim: dict) -> str:
    """What may be said of it, in one sentence."""
    margin = f"{100 * claim['margin']:g} point{'s' * (claim['margin'] != 0.01)}"
    seen = f"{100 * claim['mean']:+.1f} ± {100 * claim['half_width']:.1f} points"
    if claim["holds"]:
        return f"no loss of {margin} or more ({seen}; p {'= {:.3f}'.format(claim['p']) if claim['p'] >= 0.001 else '< .001'})"
    if claim["needed"] is None:
        return f"{seen}: a loss of {margin} or more is likelier than not"
    about = float(f"{claim['needed']:.2g}")
    return f"{seen}: {claim['sentences']:,} sentences can't decide a margin of {margin}; it would take about {about:,.0f}"


def verdict(claim: dict, judged: str) -> str:
    """One sentence: whether no more than the margin was lost, and how sure that is; `judged` names the sentences."""
    margin = f"{100 * claim['margin']:g} point{'s' * (claim['margin'] != 0.01)}"
    seen = f"{100 * claim['mean']:+.1f} ± {100 * claim['half_width']:.1f} points on {claim['sentences']:,} {judged}"
    allowed = f"The loss allowed ({margin})"
    if claim["holds"]:
        return f"{allowed} was kept, surely: {seen} (p = {claim['p']:.3f})."
    if surely_lost(claim):
        return f"{allowed} was exceeded, surely: {seen} (p = {1 - claim['p']:.3f})."
    if claim["needed"] is None:
        return f"{allowed} was probably exceeded, but so few texts can't show it: {seen}."
    about = float(f"{claim['needed']:.2g}")
    return f"{allowed} was probably kept, but so few texts can't show it: {seen}; about {about:,.0f} would."

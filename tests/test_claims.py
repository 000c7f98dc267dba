"""What is said of accuracy holds as often as it claims to: intervals cover, "no loss" is seldom said in error, and said where it can be."""

import numpy as np
import pytest

from common import measure
from report import claims

DEV = 872


def answers(rng, n: int, lost: float, won: float, seeds: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ours (seeds, n), a baseline's (n,) and the labels (n,): each seed loses and wins such shares, on sentences that overlap."""
    hard = rng.random(n) < 0.3  # seeds differ from the baseline on the same third of the sentences
    baseline, ours = np.ones(n, int), np.ones((seeds, n), int)
    drawn = rng.random((seeds, n)) * np.where(hard, 0.3, np.inf)
    winnable = rng.random(n) < 0.5
    baseline[winnable & hard] = 0
    ours[:] = baseline
    ours[(drawn < 2 * won) & winnable] = 1
    ours[(drawn < 2 * lost) & ~winnable] = 0
    return ours, baseline, np.ones(n, int)


@pytest.mark.parametrize(("won", "seeds"), [(0.0, 1), (0.005, 1), (0.02, 1), (0.04, 1), (0.02, 3)])
def test_no_loss_is_said_in_error_at_most_as_often_as_its_level(won, seeds):
    rng, tries = np.random.default_rng(1), 1000
    wrong = sum(claims.no_loss(*answers(rng, DEV, won + claims.MARGIN, won, seeds))["holds"] for _ in range(tries))
    assert wrong / tries <= claims.ALPHA + 3 * (claims.ALPHA * (1 - claims.ALPHA) / tries)**0.5


def test_as_many_sentences_as_it_asks_for_show_it():
    ours, baseline = np.zeros((2, DEV), int)
    baseline[:26], ours[26:52] = 1, 1  # 3 % won, 3 % lost
    claim = claims.no_loss(ours, baseline, np.zeros(DEV, int))
    assert not claim["holds"] and claim["needed"] > DEV
    rng, tries = np.random.default_rng(3), 400
    each = [claims.no_loss(*answers(rng, claim["needed"], 26 / DEV, 26 / DEV))["holds"] for _ in range(tries)]
    assert np.mean(each) == pytest.approx(claims.POWER, abs=0.07)


@pytest.mark.parametrize("seeds", [1, 3])
def test_interval_of_a_difference_covers_it(seeds):
    rng, tries, inside = np.random.default_rng(4), 2000, 0
    for _ in range(tries):
        claim = claims.no_loss(*answers(rng, DEV, 0.03, 0.02, seeds))
        inside += abs(claim["mean"] + 0.01) <= claim["half_width"]
    assert 0.93 <= inside / tries <= 0.97


@pytest.mark.slow
def test_interval_of_an_accuracy_covers_it():
    rng, tries, truth = np.random.default_rng(5), 2000, 0.9
    found = [measure.accuracy(rng.random(DEV) < truth, [True] * DEV)["ci95"] for _ in range(tries)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in found]) <= 0.97


def test_what_is_said():
    labels = np.zeros(DEV, int)
    same = claims.no_loss(labels, labels, labels)
    assert claims.said(same) == "no loss of 1 point or more (+0.0 ± 0.0 points; p = 0.001)" and same["holds"]
    worse = labels.copy()
    worse[:40] = 1
    assert claims.said(claims.no_loss(worse, labels, labels)) == "-4.6 ± 1.4 points: a loss of 1 point or more is likelier than not"
    unclear = labels.copy()
    unclear[:7] = 1
    claim = claims.no_loss(unclear, labels, labels)
    assert claim["needed"] > DEV and claims.said(claim).startswith(
        "-0.8 ± 0.6 points: 872 sentences can't decide a margin of 1 point; it would take about ")


def test_seeds_are_averaged_sentence_by_sentence():
    labels, baseline = np.zeros(4, int), np.array([0, 0, 1, 1])
    claim = claims.no_loss([[0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1]], baseline, labels)
    assert claim["mean"] == pytest.approx((0 - 2 / 3 + 1 / 3 + 0) / 4)


def test_p_values_of_one_report_are_corrected_for_their_number():
    assert claims.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert claims.holm([0.5, 0.6]) == [1.0, 1.0] and claims.holm([0.02]) == [0.02] and claims.holm([]) == []
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(2000):  # nothing is true of ten rows: one in twenty reports may say otherwise
        wrong += min(claims.holm(list(rng.random(10)))) < 0.05
    assert 60 < wrong < 140

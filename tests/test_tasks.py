"""Tasks against plain mathematics and the libraries that others score by."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import f1_score
from torch.nn import functional

from common import tasks
from report import claims

NAMES = ("calm", "joy", "fear")
MANY, SCORE, ONE = tasks.MultiLabel(NAMES), tasks.Regression(("score",)), tasks.SingleLabel(NAMES)


def drawn(seed: int, texts: int = 400, noise: float = 1.0):
    """(labels (S, 3) of 0 and 1, logits (S, 3) that know something of them)."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((texts, 3)) < (0.5, 0.2, 0.05)).astype(np.float32)
    return labels, (2 * labels - 1 + noise * rng.normal(size=labels.shape)).astype(np.float32)


def test_many_labels_at_once_are_learnt_by_binary_cross_entropy_of_those_that_somebody_gave():
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [math.nan] * 3, [math.nan] * 3])
    expected = functional.binary_cross_entropy_with_logits(logits[:2], labels[:2])
    assert float(MANY.loss(logits, labels)) == pytest.approx(float(expected) / 2)
    assert tasks.known(labels.numpy()).tolist() == [True, True, False, False] and tasks.known([3, -100]).tolist() == [True, False]
    assert float(MANY.loss(logits[2:], labels[2:])) == 0


def test_a_students_labels_come_near_its_teachers_by_the_divergence_of_each():
    student, teacher, temperature = torch.randn(5, 3), torch.randn(5, 3), 2.0
    p, q = (teacher / temperature).sigmoid(), (student / temperature).sigmoid()
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * temperature**2
    assert float(MANY.soft_loss(student, teacher, temperature)) == pytest.approx(float(by_hand), rel=1e-4)
    assert float(MANY.soft_loss(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-6)
    assert float(SCORE.soft_loss(student[:, :1], teacher[:, :1])) == pytest.approx(float((student - teacher)[:, 0].square().mean()))


def test_thresholds_are_those_of_the_best_f1_of_each_label():
    labels, logits = drawn(1, 60)
    found = MANY.thresholds(logits, labels)
    for k in range(3):
        best = max(f1_score(labels[:, k], logits[:, k] > cut) for cut in np.concatenate([[-99], logits[:, k] - 1e-6, logits[:, k] + 1e-6]))
        assert f1_score(labels[:, k], logits[:, k] > found[k]) == pytest.approx(best)
    decided = tasks.decisive(logits, found)
    assert MANY.scores(decided, labels)["macro_f1"] >= MANY.scores(logits, labels)["macro_f1"]
    assert MANY.thresholds(logits, np.zeros_like(labels)).tolist() == [0, 0, 0], "a label that no text has"


def test_scores_are_those_of_the_libraries_and_what_the_bootstrap_adds_up_is_the_same():
    labels, logits = drawn(2)
    micro = f1_score(labels, logits > 0, average="micro")
    assert MANY.scores(logits, labels)["micro_f1"] == pytest.approx(micro) == pytest.approx(MANY._score(MANY._parts(logits, labels)))
    said, true = logits[:, :1], labels[:, 0] + 0.3 * logits[:, 1]
    r = pearsonr(said[:, 0], true).statistic
    assert SCORE.scores(said, true)["pearson"] == pytest.approx(r) == pytest.approx(SCORE._score(SCORE._parts(said, true)))
    assert SCORE.scores(np.ones((5, 1)), np.arange(5.0)) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("task", [MANY, SCORE], ids=["labels", "score"])
def test_an_interval_holds_the_truth_as_often_as_it_says(task):
    """Drawn anew, the metric's own value in 20,000 texts lies in the 95 % interval of 300 of them in 85 of 100 draws at least."""
    def sample(seed, texts):
        labels, logits = drawn(seed, texts)
        return (logits, labels) if task is MANY else (logits[:, :1], labels[:, 0] + 0.3 * logits[:, 1])

    truth = task.scores(*sample(99, 20_000))[task.metric]
    bounds = [task.interval(*sample(seed, 300)) for seed in range(40)]
    assert sum(low <= truth <= high for low, high in bounds) >= 34


def test_a_loss_is_shown_where_there_is_one_and_denied_where_both_are_the_same():
    labels, teacher = drawn(3, 3000)
    worse = teacher + np.random.default_rng(0).normal(size=teacher.shape).astype(np.float32)
    claim = claims.of_task(MANY, [worse, worse], [teacher], labels, 0.01)
    assert claims.surely_lost(claim) and claim["mean"] == pytest.approx(
        MANY.scores(worse, labels)["micro_f1"] - MANY.scores(teacher, labels)["micro_f1"])
    near = claims.of_task(MANY, [teacher + 0.001], [teacher], labels, 0.01)
    assert near["holds"] and abs(near["mean"]) < 0.002
    assert claims.of_task(MANY, [teacher], [teacher], labels)["holds"], "the very same, of no spread at all"
    one, labels = teacher.argmax(-1), labels.argmax(-1)
    assert claims.of_task(ONE, [teacher], [worse], labels) == claims.no_loss([one], [worse.argmax(-1)], labels)


def test_what_is_said_in_words():
    logits, cut = np.array([2.0, -1.0, 0.5]), np.array([0.0, -2.0, 1.0])
    assert ONE.said(logits)["label"] == "calm" and ONE.said(None) == {"label": "", "probability": None}
    assert MANY.said(logits)["labels"] == ["calm", "fear"] and MANY.said(logits, cut)["labels"] == ["calm", "joy"]
    assert MANY.said(logits)["probabilities"][0] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-6)
    assert SCORE.said(np.array([3.25])) == {"score": 3.25} and SCORE.said(None) == {"score": None}


def test_a_configuration_names_the_task():
    assert tasks.of_config(None, ["a", "b"]) == tasks.SingleLabel(("a", "b")) and tasks.of_config(None, ["s"]) == tasks.Regression(("s",))
    assert tasks.of_config("multi_label_classification", ["a", "b"]) == tasks.MultiLabel(("a", "b"))
    with pytest.raises(KeyError):
        tasks.of_config("token_classification", ["a", "b"])

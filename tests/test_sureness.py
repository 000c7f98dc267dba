"""common/sureness.py: a temperature that is found again, and bounds that hold, whichever level is chosen."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import beta

from common import sureness
from common.tasks import UNKNOWN, MultiLabel, Regression, SingleLabel

ONE, MANY, SCORE = SingleLabel(("a", "b", "c")), MultiLabel(("a", "b", "c")), Regression(("s",))


def honest(seed: int, texts: int, task=ONE) -> tuple[np.ndarray, np.ndarray]:
    """Logits (S, 3) that are as sure as they should be, and labels drawn by them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(texts, 3))
    if task is MANY:
        return logits, (rng.random((texts, 3)) < expit(logits)).astype(np.float32)
    return logits, np.array([rng.choice(3, p=p) for p in softmax(logits, axis=-1)])


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one", "many"])
@pytest.mark.parametrize("too_sure", [0.4, 1.0, 3.0])
def test_the_temperature_by_which_a_model_is_too_sure_is_found(task, too_sure):
    logits, labels = honest(1, 6000, task)
    assert sureness.temperature(task, too_sure * logits, labels) == pytest.approx(too_sure, rel=0.08)


def test_the_sure_are_right_as_often_as_they_say():
    logits, labels = honest(2, 6000)
    found = 4 * logits / sureness.temperature(ONE, 4 * logits, labels)
    others, true = honest(3, 6000)
    sure = ONE.sureness(4 * others * (found / logits / 4)[0, 0])
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        within = (sure >= low) & (sure < high)
        assert (others.argmax(-1) == true)[within].mean() == pytest.approx(sure[within].mean(), abs=0.04)


def test_no_answer_of_several_labels_is_surer_than_all_of_its_labels_are_right():
    logits, labels = honest(4, 200_000, MANY)
    cut = np.array([0.5, -0.5, 0.0])
    right = ((logits > cut) == labels).all(-1)
    sure = MANY.sureness(logits, cut)
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        within = (sure >= low) & (sure < high)
        assert right[within].mean() == pytest.approx(sure[within].mean(), abs=0.02)


def test_a_model_without_a_fault_is_not_told_to_be_infinitely_sure():
    labels = np.arange(30) % 3
    logits = 5 * np.eye(3)[labels]
    certain = ONE.sureness(logits / sureness.temperature(ONE, logits, labels))
    assert certain == pytest.approx((30 + 1 / 3) / 31, abs=1e-3), "one text more, of all three classes alike"


def test_texts_that_nobody_labelled_do_not_count_and_a_score_has_no_temperature():
    logits, labels = honest(5, 500)
    more = np.concatenate([logits, np.full((50, 3), 9.0)]), np.concatenate([labels, np.full(50, UNKNOWN)])
    assert sureness.temperature(ONE, *more) == pytest.approx(sureness.temperature(ONE, logits, labels))
    assert sureness.temperature(SCORE, logits[:, :1], logits[:, 0]) is None


def test_bounds_are_clopper_and_pearsons_at_a_share_of_five_per_cent_each():
    sure = np.repeat([0.5, 0.75, 0.992], [20, 50, 130])
    same = np.ones(200, dtype=bool)
    same[[21, 30, 100]] = False
    rows = {row["sure"]: row for row in sureness.levels(sure, same)}
    assert list(rows) == list(sureness.LEVELS) and rows[0.7]["answered"] == 0.9 and rows[0.99]["sentences"] == 130
    assert rows[0.7]["agreement_lower"] == pytest.approx(beta.ppf(0.05 / len(rows), 177, 4))
    assert rows[0.99]["agreement_lower"] == pytest.approx(beta.ppf(0.05 / len(rows), 129, 2))
    assert sureness.levels(sure / 2, same)[0] == {"sure": 0.7, "answered": 0.0, "sentences": 0, "agreement": None, "agreement_lower": None}


def test_all_bounds_of_a_table_hold_at_once_in_95_draws_of_100():
    """The share that agrees rises with sureness s as s itself does: above a level it is (1 + level) / 2 for s drawn evenly."""
    def holds(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        sure = rng.random(400)
        rows = sureness.levels(sure, rng.random(400) < sure)
        return all(row["agreement_lower"] is None or row["agreement_lower"] <= (1 + row["sure"]) / 2 for row in rows)

    assert sum(holds(seed) for seed in range(200)) >= 190

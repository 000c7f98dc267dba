"""F1, calibration and changed sentences, against known values and another library."""

import numpy as np
import pytest

from report import behaviour


@pytest.mark.parametrize("classes", [2, 3])
def test_f1_is_scikit_learns(classes):
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 200)
    said = np.where(rng.random(200) < 0.7, labels, rng.integers(0, classes, 200))
    assert behaviour.f1(said, labels) == pytest.approx(f1_score(labels, said, average="macro"))


def test_calibration_error_of_known_certainty():
    sure = np.array([0.9] * 10 + [0.6] * 10)
    probabilities = np.stack([sure, 1 - sure], 1)
    labels = [0] * 9 + [1] + [0] * 2 + [1] * 8  # 90 % right where it is .9 sure, 20 % where it is .6 sure
    assert behaviour.calibration_error(probabilities, labels) == pytest.approx((0 * 10 + 0.4 * 10) / 20)
    assert behaviour.calibration_error(np.eye(2)[[0, 1, 1]], [0, 1, 1]) == 0.0, "certain and right"
    assert behaviour.calibration_error(np.eye(2)[[0, 1, 1]], [1, 0, 0]) == 1.0, "certain and wrong"


def test_changed_sentences_are_counted_by_length_and_negation():
    texts = ["a gem", "it is n't good", "not once " + "very " * 10 + "dull", "don't", "a notable knot"]
    labels, ours, baseline = [1, 0, 0, 0, 1], [1, 0, 1, 1, 1], [1, 1, 0, 1, 0]
    assert behaviour.changed(texts, ours, baseline, labels) == {
        "1–9 words": {"sentences": 4, "gained": 2, "lost": 0},
        "10–19 words": {"sentences": 1, "gained": 0, "lost": 1},
        "negated": {"sentences": 3, "gained": 1, "lost": 1},
        "not negated": {"sentences": 2, "gained": 1, "lost": 0},
    }

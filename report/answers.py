"""What a report's row says of a model's answers: its score, over seeds, against the baseline, and of one class a text what changed."""

import statistics

import numpy as np

from common import measure, sureness
from common.data import Corpus
from common.inference import Classifier
from common.tasks import SingleLabel
from common.texts.labels import listed
from common.texts.splits import as_text
from report import behaviour, claims

SURE = "sure"
OF_CLASSES = ("accuracy", "mcnemar_p", "f1", "recall", "ece", "changed")  # of one class a text alone
COMPARED = ("delta", "agreement", "mcnemar_p", "no_loss", "changed")
FIELDS = ("score", "ci95", *COMPARED, *(name for name in OF_CLASSES if name not in COMPARED), SURE)


def fields(corpus: Corpus, ours: dict[int, np.ndarray], baseline: dict[int, np.ndarray] | None, classifier: Classifier,
           teacher: dict[int, np.ndarray] | None) -> tuple[dict, dict]:
    """({field: figure}, {field: why it is null}) of decisive logits (S, K) for the dev texts, by seed; the row's own, which `classifier`
    gave, come first.
    """
    task, texts, labels = corpus.task, list(map(as_text, corpus.dev.rows)), np.array(corpus.dev.labels)
    logits, notes = next(iter(ours.values())), dict[str, str]()
    row: dict = dict.fromkeys(FIELDS) | measure.score(task, logits, labels) | {"scores": task.scores(logits, labels)}
    by_seed = {seed: measure.score(task, found, labels) for seed, found in sorted(ours.items())}
    row["seeds"] = [{"seed": seed} | {name: value for name, value in found.items() if name != "ci95"} for seed, found in by_seed.items()]
    if len(by_seed) > 1:
        found = [seed["score"] for seed in row["seeds"]]
        row |= {"score_mean": statistics.mean(found), "score_sd": statistics.stdev(found)}
    if baseline:
        before = next(iter(baseline.values()))
        row |= {"delta": row["score"] - measure.score(task, before, labels)["score"], "agreement": task.agreement(logits, before),
                "no_loss": claims.of_task(task, list(ours.values()), list(baseline.values()), labels)}
    else:
        notes |= dict.fromkeys(COMPARED, "no row to compare with")
    row[SURE], why = sure(classifier, logits, next(iter(teacher.values())) if teacher else None)
    notes |= why
    if not isinstance(task, SingleLabel):
        return row, notes | dict.fromkeys(OF_CLASSES, f"the task is {task.kind}: figures of one class a text don't apply")
    said = task.answers(logits)
    row |= {"f1": behaviour.f1(said, labels), "recall": behaviour.recall(said, labels, corpus.label_names),
            "ece": behaviour.calibration_error(task.probabilities(classifier.calibrated(logits)[0]), labels)}
    if unseen := [name for i, name in enumerate(corpus.label_names) if not (labels == i).any()]:
        notes["recall"] = f"no dev sentence of {listed(unseen)}"
    if baseline:
        row |= measure.against_baseline(said, task.answers(before), labels)
        row["changed"] = behaviour.changed(texts, said, task.answers(before), labels)
    return row, notes


def sure(classifier: Classifier, ours: np.ndarray, teacher: np.ndarray | None) -> tuple[dict | None, dict]:
    """({temperature, levels}, {}) of decisive logits (S, K) for the dev texts beside the teacher's, or (None, {"sure": why})."""
    task = classifier.task
    if not task.has_probabilities:
        return None, {SURE: "a score has no probability"}
    if classifier.temperature is None:
        return None, {SURE: "its probabilities aren't calibrated: those of exported files are"}
    if teacher is None:
        return None, {SURE: "no teacher row to compare with"}
    found = classifier.sureness(ours if classifier.thresholds is None else ours + classifier.thresholds)
    return {"temperature": classifier.temperature, "levels": sureness.levels(found, task.same(ours, teacher))}, {}

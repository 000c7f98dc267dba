"""A task: what a label is, what a model's outputs are trained by and scored by, and how two models are compared on the same texts.

Three of them, by the `problem_type` of `transformers`: one class of several, any number of labels at once, a score. Letters: S texts,
B batch, K outputs. Labels are int (S,), shares 0 or 1 (S, K), and numbers (S, 1); where nobody labelled a text, UNKNOWN or NaN.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

UNKNOWN = -100  # the class of a text that nobody labelled
RESAMPLES = 1_000  # of a bootstrap (Efron & Tibshirani 1993)
SEED = 0  # of these: an interval is a function of answers and labels


@dataclass(frozen=True)
class Task:
    """What all three share; `names` are those of the outputs, in their order."""

    names: tuple[str, ...]

    kind: ClassVar[str]
    problem_type: ClassVar[str]  # as transformers' configurations call it
    metric: ClassVar[str]  # the first figure of `scores`: higher is better, 1 the best
    unknown: ClassVar[float]

    @property
    def outputs(self) -> int:
        return len(self.names)

    # --- training; torch tensors

    def targets(self, labels):
        """Labels of a batch as a tensor."""
        import torch

        return torch.as_tensor(np.asarray(labels, dtype=np.float32))

    def loss(self, logits, targets):
        """The mean over labelled texts of what the labels say of logits (B, K); 0 where there are none."""
        raise NotImplementedError

    def soft_loss(self, student_logits, teacher_logits, temperature: float = 1.0):
        """How far a student's logits (B, K) are from its teacher's, a mean over the batch: what distillation makes small."""
        raise NotImplementedError

    # --- scoring; numpy arrays

    def answers(self, logits: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """What logits (S, K) say, in the form of labels."""
        raise NotImplementedError

    def thresholds(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """What an answer depends on beside logits, chosen on held-out texts; None where it depends on nothing."""
        return None

    def scores(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None) -> dict[str, float]:
        """{figure: value}, `metric` first."""
        raise NotImplementedError

    def interval(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None) -> tuple[float, float]:
        """The 95 % interval of `metric`."""
        found = self._resampled(self._parts(logits, labels, thresholds))
        low, high = np.percentile(found, [2.5, 97.5])
        return float(low), float(high)

    def difference(self, ours: np.ndarray, baseline: np.ndarray, labels: np.ndarray, thresholds: tuple = (None, None)) -> tuple[float, float]:
        """(`metric` of ours less the baseline's, its standard error) by a paired bootstrap: both on the same resampled texts."""
        both = [self._parts(logits, labels, own) for logits, own in zip((ours, baseline), thresholds, strict=True)]
        whole = [float(self._score(parts[None])[0]) for parts in both]
        found = self._resampled(both[0]) - self._resampled(both[1])
        return whole[0] - whole[1], float(found.std(ddof=1))

    def _parts(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """(S, P): of each text what `_score` adds up."""
        raise NotImplementedError

    @staticmethod
    def _score(parts: np.ndarray) -> np.ndarray:
        """`metric` of each resample: (R, S, P) -> (R,)."""
        raise NotImplementedError

    def _resampled(self, parts: np.ndarray) -> np.ndarray:
        """`metric` of RESAMPLES draws with replacement, the same draws for whoever asks."""
        rng, size = np.random.default_rng(SEED), len(parts)
        return np.concatenate([self._score(parts[rng.integers(size, size=(1, size))]) for _ in range(RESAMPLES)])


class SingleLabel(Task):
    """One class of K."""

    kind, problem_type, metric, unknown = "single_label", "single_label_classification", "accuracy", UNKNOWN

    def targets(self, labels):
        import torch

        return torch.as_tensor(np.asarray(labels, dtype=np.int64))

    def loss(self, logits, targets):
        from torch.nn import functional

        return functional.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="sum") / len(targets)

    def soft_loss(self, student_logits, teacher_logits, temperature: float = 1.0):
        """T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)); T² keeps the gradient's scale (Hinton et al. 2015)."""
        from torch.nn import functional

        student, teacher = (functional.log_softmax(logits / temperature, dim=-1) for logits in (student_logits, teacher_logits))
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2

    def answers(self, logits: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        return logits.argmax(-1)

    def scores(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None) -> dict[str, float]:
        """{accuracy, macro_f1}."""
        from sklearn.metrics import f1_score

        said = self.answers(logits)
        return {"accuracy": float((said == labels).mean()), "macro_f1": float(f1_score(labels, said, average="macro", zero_division=0))}

    def interval(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None) -> tuple[float, float]:
        """Wilson's (1927), of a share."""
        from scipy.stats import binomtest

        found = binomtest(int((self.answers(logits) == labels).sum()), len(labels)).proportion_ci(confidence_level=0.95, method="wilson")
        return float(found.low), float(found.high)

    def _parts(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        return (self.answers(logits) == labels)[:, None].astype(float)

    @staticmethod
    def _score(parts: np.ndarray) -> np.ndarray:
        return parts[..., 0].mean(-1)


class MultiLabel(Task):
    """Any number of K labels at once, each with a logit of its own."""

    kind, problem_type, metric, unknown = "multi_label", "multi_label_classification", "micro_f1", math.nan

    def loss(self, logits, targets):
        from torch.nn import functional

        known = ~targets.isnan().any(-1)
        found = functional.binary_cross_entropy_with_logits(logits[known], targets[known], reduction="sum")
        return found / targets.numel()

    def soft_loss(self, student_logits, teacher_logits, temperature: float = 1.0):
        """T²·KL of each label's Bernoulli, the mean over labels and batch."""
        from torch.nn import functional

        student, teacher = student_logits / temperature, teacher_logits / temperature
        chance = teacher.sigmoid()
        entropy = functional.binary_cross_entropy_with_logits(teacher, chance)
        return (functional.binary_cross_entropy_with_logits(student, chance) - entropy) * temperature**2

    def answers(self, logits: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """The labels whose logit is above its threshold, or 0: a probability of one half."""
        return (logits > (0.0 if thresholds is None else thresholds)).astype(np.float32)

    def thresholds(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Of each label the logit above which it is said: where its F1 is highest on these texts (K,); 0 of a label without any."""
        from sklearn.metrics import precision_recall_curve

        found = np.zeros(logits.shape[1], dtype=np.float32)
        for k in range(logits.shape[1]):
            if labels[:, k].any():
                precision, recall, cuts = precision_recall_curve(labels[:, k], logits[:, k])
                best = int(np.argmax(2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)))
                below = logits[:, k][logits[:, k] < cuts[best]]
                found[k] = (cuts[best] + below.max()) / 2 if len(below) else cuts[best] - 1
        return found

    def scores(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None) -> dict[str, float]:
        """{micro_f1, macro_f1, map}: the last is the mean over labels of average precision, for which no threshold counts."""
        from sklearn.metrics import average_precision_score, f1_score

        said, there = self.answers(logits, thresholds), labels.any(0)
        return {"micro_f1": float(f1_score(labels, said, average="micro", zero_division=0)),
                "macro_f1": float(f1_score(labels, said, average="macro", zero_division=0)),
                "map": float(average_precision_score(labels[:, there], logits[:, there], average="macro"))}

    def _parts(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        said = self.answers(logits, thresholds)
        return np.stack([(said * labels).sum(-1), said.sum(-1) + labels.sum(-1)], -1).astype(float)

    @staticmethod
    def _score(parts: np.ndarray) -> np.ndarray:
        right, total = parts.sum(-2).T
        return 2 * right / np.maximum(total, 1)


class Regression(Task):
    """A score: one number."""

    kind, problem_type, metric, unknown = "regression", "regression", "pearson", math.nan

    def loss(self, logits, targets):
        """Squared error."""
        known = ~targets.isnan()
        return ((logits - targets)[known] ** 2).sum() / targets.numel()

    def soft_loss(self, student_logits, teacher_logits, temperature: float = 1.0):
        """Squared error; a temperature has no meaning here."""
        from torch.nn import functional

        return functional.mse_loss(student_logits, teacher_logits)

    def answers(self, logits: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        return logits

    def scores(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None) -> dict[str, float]:
        """{pearson, spearman}: correlations; 0 where all answers are the same."""
        from scipy.stats import pearsonr, spearmanr

        said, true = logits[:, 0], np.asarray(labels)[:, 0]
        if np.ptp(said) == 0 or np.ptp(true) == 0:
            return {"pearson": 0.0, "spearman": 0.0}
        return {"pearson": float(pearsonr(said, true).statistic), "spearman": float(spearmanr(said, true).statistic)}

    def _parts(self, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        return np.stack([logits[:, 0], labels[:, 0]], -1).astype(float)

    @staticmethod
    def _score(parts: np.ndarray) -> np.ndarray:
        said, true = np.moveaxis(parts - parts.mean(-2, keepdims=True), -1, 0)
        spread = np.sqrt((said**2).sum(-1) * (true**2).sum(-1))
        return np.divide((said * true).sum(-1), spread, out=np.zeros_like(spread), where=spread > 0)


TASKS: dict[str, type[Task]] = {task.kind: task for task in (SingleLabel, MultiLabel, Regression)}


def of_problem_type(problem_type: str, names: list[str]) -> Task:
    """The task that a configuration of transformers names. Raises KeyError for another."""
    return {task.problem_type: task for task in TASKS.values()}[problem_type](tuple(names))

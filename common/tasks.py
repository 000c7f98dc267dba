"""A task: what a label is, what a model is trained by and scored by, and how two models are compared on the same texts.

Three of them, by the `problem_type` of `transformers`: one class of several, any number of labels at once, a score. Letters: S texts,
B batch, K outputs. Labels are int (S,), 0 or 1 for each of K (S, K), or numbers (S,); of a text that nobody labelled UNKNOWN or NaN.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

UNKNOWN = -100  # the class of a text that nobody labelled
TEMPERATURE = "calibration_temperature"  # its key in a configuration; `temperature` is one of transformers' own
SAME = 1e-3  # two scores that differ by less are one
RESAMPLES = 1_000  # of a bootstrap (Efron & Tibshirani 1993)
SEED = 0  # of these: an interval is a function of answers and labels


@dataclass(frozen=True)
class Task:
    """What all three share; `names` are those of the outputs, in their order."""

    names: tuple[str, ...]

    kind: ClassVar[str]
    problem_type: ClassVar[str]  # as transformers' configurations call it
    metric: ClassVar[str]  # the first figure of `scores`: higher is better, 1 the best
    metric_name: ClassVar[str]  # as people call it
    has_probabilities: ClassVar[bool] = True

    @property
    def unknown(self):
        """The label of a text that nobody labelled."""
        return math.nan

    @property
    def in_config(self) -> str | None:
        """The problem_type that a configuration names; None of one class a text, which is what none means."""
        return self.problem_type

    # --- training; torch tensors

    def loss(self, logits, labels):
        """What the labels of a batch say of logits (B, K): a sum over labelled texts, divided by B."""
        raise NotImplementedError

    def soft_loss(self, student_logits, teacher_logits, temperature: float = 1.0):
        """How far a student's logits (B, K) are from its teacher's, a mean over the batch: what distillation makes small."""
        raise NotImplementedError

    # --- answering and scoring; numpy arrays. Logits are those behind `decisive`.

    def thresholds(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """What is to be taken off a model's logits (S, K) before they decide (K,), chosen on held-out texts; None where nothing is."""
        return None

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """What logits (S, K) say, in the form of labels."""
        raise NotImplementedError

    def said(self, logits: np.ndarray | None, thresholds: np.ndarray | None = None) -> dict:
        """An answer in words, by a model's own logits (K,) for a text; that of an empty text where None."""
        raise NotImplementedError

    def every_score(self, logits: np.ndarray) -> dict[str, float]:
        """{name: what a model's own logits (K,) say of it}, the likeliest first."""
        scores = self.probabilities(logits[None])[0]
        return {self.names[k]: round(float(scores[k]), 6) for k in np.argsort(-logits, kind="stable")}

    # --- how sure; of a task that `has_probabilities`. Logits are a model's own, divided by its temperature.

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """What logits (S, K) say of each output: (S, K). A score says itself."""
        raise NotImplementedError

    def sureness(self, logits: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """The probability (S,) that the whole of each answer is right, by logits (S, K)."""
        raise NotImplementedError

    def surprise(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The mean of −log p of labels by logits (S, K): what the right temperature makes least.

        No label is taken for quite sure, but as if one text more was seen, of all classes alike (Perks 1947): else a model without a
        fault is told to be infinitely sure.
        """
        raise NotImplementedError

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """{figure: value}, `metric` first."""
        raise NotImplementedError

    # --- comparing

    def same(self, logits: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Which texts get the same answer by both of logits (S, K): bool (S,)."""
        return (self.answers(logits) == self.answers(others)).reshape(len(logits), -1).all(-1)

    def agreement(self, logits: np.ndarray, others: np.ndarray) -> float:
        """The share of texts that get the same answer by both of logits (S, K)."""
        return float(self.same(logits, others).mean())

    def interval(self, logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """The 95 % interval of `metric`, by percentiles of a bootstrap."""
        low, high = np.percentile(self._resampled(self._parts(logits, labels)), [2.5, 97.5])
        return float(low), float(high)

    def difference(self, ours: list[np.ndarray], baseline: list[np.ndarray], labels: np.ndarray) -> tuple[float, float]:
        """(`metric` of ours less the baseline's, each a mean over seeds; its standard error), by a bootstrap of the same texts for all."""
        both = [[self._parts(logits, labels) for logits in seeds] for seeds in (ours, baseline)]
        whole = [np.mean([self._score(parts) for parts in seeds]) for seeds in both]
        found = [np.mean([self._resampled(parts) for parts in seeds], axis=0) for seeds in both]
        return float(whole[0] - whole[1]), float((found[0] - found[1]).std(ddof=1))

    def _parts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(S, P): of each text what `_score` adds up."""
        raise NotImplementedError

    @staticmethod
    def _score(parts: np.ndarray) -> float:
        """`metric` of texts by their parts (S, P)."""
        raise NotImplementedError

    def _resampled(self, parts: np.ndarray) -> np.ndarray:
        """`metric` of RESAMPLES draws with replacement, the same draws for whoever asks: (R,)."""
        rng = np.random.default_rng(SEED)
        return np.array([self._score(parts[rng.integers(len(parts), size=len(parts))]) for _ in range(RESAMPLES)])


class SingleLabel(Task):
    """One class of K."""

    kind, problem_type, metric, metric_name = "single_label", "single_label_classification", "accuracy", "accuracy"

    @property
    def unknown(self):
        return UNKNOWN

    @property
    def in_config(self) -> str | None:
        return None

    def loss(self, logits, labels):
        """Cross-entropy."""
        from torch.nn import functional

        return functional.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum") / len(labels)

    def soft_loss(self, student_logits, teacher_logits, temperature: float = 1.0):
        """T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)); T² keeps the gradient's scale (Hinton et al. 2015)."""
        from torch.nn import functional

        student, teacher = (functional.log_softmax(logits / temperature, dim=-1) for logits in (student_logits, teacher_logits))
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2

    def answers(self, logits: np.ndarray) -> np.ndarray:
        return logits.argmax(-1)

    def said(self, logits: np.ndarray | None, thresholds: np.ndarray | None = None) -> dict:
        if logits is None:
            return {"label": "", "probability": None}
        probabilities = self.probabilities(logits[None])[0]
        best = int(probabilities.argmax())
        return {"label": self.names[best], "probability": round(float(probabilities[best]), 6)}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Their softmax."""
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        return exponentials / exponentials.sum(-1, keepdims=True)

    def sureness(self, logits: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        return self.probabilities(logits).max(-1)

    def surprise(self, logits: np.ndarray, labels: np.ndarray) -> float:
        from scipy.special import log_softmax

        found, seen = log_softmax(logits, axis=-1), len(labels)
        right = found[np.arange(seen), labels]
        return float(-(right + found.mean(-1) / seen).mean()) * seen / (seen + 1)

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """{accuracy, macro_f1}."""
        from sklearn.metrics import f1_score

        said = self.answers(logits)
        return {"accuracy": float((said == labels).mean()), "macro_f1": float(f1_score(labels, said, average="macro", zero_division=0))}

    def interval(self, logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Wilson's (1927), of a share."""
        from scipy.stats import binomtest

        found = binomtest(int((self.answers(logits) == labels).sum()), len(labels)).proportion_ci(confidence_level=0.95, method="wilson")
        return float(found.low), float(found.high)

    def _parts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (self.answers(logits) == labels)[:, None]

    @staticmethod
    def _score(parts: np.ndarray) -> float:
        return float(parts.mean())


class MultiLabel(Task):
    """Any number of K labels at once, each with a logit of its own."""

    kind, problem_type, metric, metric_name = "multi_label", "multi_label_classification", "micro_f1", "micro F1"

    def loss(self, logits, labels):
        """Binary cross-entropy, the mean over labels too."""
        from torch.nn import functional

        known = ~labels.isnan().any(-1)
        return functional.binary_cross_entropy_with_logits(logits[known], labels[known], reduction="sum") / labels.numel()

    def soft_loss(self, student_logits, teacher_logits, temperature: float = 1.0):
        """T²·KL of each label's Bernoulli distribution, the mean over labels too."""
        from torch.nn import functional

        student, teacher = student_logits / temperature, teacher_logits / temperature
        chance = teacher.sigmoid()
        entropy = functional.binary_cross_entropy_with_logits(teacher, chance)
        return (functional.binary_cross_entropy_with_logits(student, chance) - entropy) * temperature**2

    def thresholds(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Of each label the logit above which it is said: where its F1 is highest on these texts; 0, a half, of one that none has."""
        from sklearn.metrics import precision_recall_curve

        found = np.zeros(logits.shape[1], dtype=np.float32)
        for k in np.flatnonzero(labels.any(0)):
            precision, recall, cuts = precision_recall_curve(labels[:, k], logits[:, k])
            best = cuts[int(np.argmax(2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)))]
            below = logits[:, k][logits[:, k] < best]
            found[k] = (best + below.max()) / 2 if len(below) else best - 1
        return found

    def answers(self, logits: np.ndarray) -> np.ndarray:
        return (logits > 0).astype(np.float32)

    def said(self, logits: np.ndarray | None, thresholds: np.ndarray | None = None) -> dict:
        """The labels that are said, the likeliest first, each with its probability."""
        if logits is None:
            return {"labels": [], "probabilities": []}
        said, probabilities = self.answers(decisive(logits, thresholds)), self.probabilities(logits)
        order = [k for k in np.argsort(-logits, kind="stable") if said[k]]
        return {"labels": [self.names[k] for k in order], "probabilities": [round(float(probabilities[k]), 6) for k in order]}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Their sigmoid."""
        from scipy.special import expit

        return expit(logits)

    def sureness(self, logits: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """Of K labels that are said or not, each for itself, the product."""
        said, probabilities = self.answers(decisive(logits, thresholds)), self.probabilities(logits)
        return np.where(said, probabilities, 1 - probabilities).prod(-1)

    def surprise(self, logits: np.ndarray, labels: np.ndarray) -> float:
        from scipy.special import log_expit

        seen = len(labels)
        there = (labels * seen + 0.5) / (seen + 1)
        return float(-(there * log_expit(logits) + (1 - there) * log_expit(-logits)).mean())

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """{micro_f1, macro_f1, map}: the last is the mean of average precision over labels that some text has."""
        from sklearn.metrics import average_precision_score, f1_score

        said, there = self.answers(logits), labels.any(0)
        return {"micro_f1": float(f1_score(labels, said, average="micro", zero_division=0)),
                "macro_f1": float(f1_score(labels, said, average="macro", zero_division=0)),
                "map": float(average_precision_score(labels[:, there], logits[:, there], average="macro"))}

    def _parts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        said = self.answers(logits)
        return np.stack([(said * labels).sum(-1), said.sum(-1) + labels.sum(-1)], -1)

    @staticmethod
    def _score(parts: np.ndarray) -> float:
        right, total = parts.sum(0)
        return float(2 * right / max(total, 1))


class Regression(Task):
    """A score: one number."""

    kind, problem_type, metric, metric_name = "regression", "regression", "pearson", "Pearson's r"
    has_probabilities = False

    def loss(self, logits, labels):
        """Squared error."""
        known = ~labels.isnan()
        return ((logits[:, 0] - labels)[known] ** 2).sum() / len(labels)

    def soft_loss(self, student_logits, teacher_logits, temperature: float = 1.0):
        """Squared error; a temperature has no meaning here."""
        from torch.nn import functional

        return functional.mse_loss(student_logits, teacher_logits)

    def answers(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return logits

    def said(self, logits: np.ndarray | None, thresholds: np.ndarray | None = None) -> dict:
        return {"score": None if logits is None else round(float(logits[0]), 6)}

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """{pearson, spearman}: correlations; 0 where all are the same."""
        from scipy.stats import pearsonr, spearmanr

        said = self.answers(logits)
        if np.ptp(said) == 0 or np.ptp(labels) == 0:
            return {"pearson": 0.0, "spearman": 0.0}
        return {"pearson": float(pearsonr(said, labels).statistic), "spearman": float(spearmanr(said, labels).statistic)}

    def same(self, logits: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.isclose(self.answers(logits), self.answers(others), atol=SAME)

    def agreement(self, logits: np.ndarray, others: np.ndarray) -> float:
        """The correlation of both answers."""
        return self.scores(logits, self.answers(others))["pearson"]

    def _parts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.stack([self.answers(logits), labels], -1)

    @staticmethod
    def _score(parts: np.ndarray) -> float:
        said, true = (parts - parts.mean(0)).T.astype(float)
        spread = math.sqrt((said @ said) * (true @ true))
        return float(said @ true) / spread if spread else 0.0


TASKS: dict[str, type[Task]] = {task.kind: task for task in (SingleLabel, MultiLabel, Regression)}


def of_config(problem_type: str | None, names: list[str]) -> Task:
    """The task of a model whose outputs have these names, by its configuration, as transformers reads one: a single output without a
    problem_type is a score. Raises KeyError for another problem_type.
    """
    by_name: dict[str | None, type[Task]] = {task.problem_type: task for task in TASKS.values()}
    return (by_name | {None: Regression if len(names) == 1 else SingleLabel})[problem_type](tuple(names))


def decisive(logits: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
    """A model's logits (S, K) less its thresholds: what answers and scores go by."""
    return logits if thresholds is None else logits - thresholds


def known(labels) -> np.ndarray:
    """Which of the texts somebody labelled: bool (S,)."""
    found = np.asarray(labels)
    return found != UNKNOWN if found.dtype.kind == "i" else ~np.isnan(found.reshape(len(found), -1)).any(-1)

"""What a stage checks of its own work: a model's score on tokenised sentences, two models' logits on the same batch."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from common import tasks
from common.cli import warn
from common.data import inputs
from common.tasks import Task


@torch.no_grad()
def logits_gap(one, other, batch: dict[str, torch.Tensor]) -> float:
    """Largest difference of two models' logits on a batch of input_ids and attention_mask (B, N), both in evaluation mode."""
    answers = [model.eval()(**{name: value.to(model.device) for name, value in inputs(batch, model.config).items()}).logits.cpu()
               for model in (one, other)]
    return float((answers[0] - answers[1]).abs().max())


@torch.no_grad()
def answers(model, dataset, collate, batch_size: int = 128) -> torch.Tensor:
    """A model's logits on a tokenised data set, in its order: (S, K)."""
    model.eval()
    found = []
    for start in range(0, len(dataset), batch_size):
        batch = collate([dataset[i] for i in range(start, min(start + batch_size, len(dataset)))])
        asked = {name: value.to(model.device) for name, value in inputs(batch, model.config).items()}
        found.append(model(**asked).logits.float().cpu())
    return torch.cat(found)


def judged(task: Task, model, dataset, collate) -> dict[str, float]:
    """{"validation_" + the task's metric: a model's score on a tokenised data set}, for a manifest.

    Where answers depend on thresholds these are chosen here, and stand in the model's configuration from now on.
    """
    logits, labels = answers(model, dataset, collate).numpy(), np.array(dataset["labels"][:])
    thresholds = task.thresholds(logits, labels)
    if thresholds is not None:
        model.config.thresholds = thresholds.tolist()
    return {f"validation_{task.metric}": task.scores(tasks.decisive(logits, thresholds), labels)[task.metric]}


def confusion(model, dataset, collate) -> np.ndarray:
    """How often a tokenised data set's sentences of each label get each answer: int (K labels, K answers)."""
    counts = np.zeros((model.config.num_labels,) * 2, dtype=int)
    np.add.at(counts, (np.array(dataset["labels"][:]), answers(model, dataset, collate).argmax(-1).numpy()), 1)
    return counts


def warn_of_a_poor_teacher(model, dataset, collate, label_names: list[str], order: list[int]) -> None:
    """Says on standard error where a teacher that was taken as it is knows no more than which label is the commonest, or where it would
    answer much better if its classes stood in another order: whoever named them may have mixed them up.

    `order` are the places that its classes had in its own file, by which the better names are listed.
    """
    counts = confusion(model, dataset, collate)
    right, total, commonest = int(np.trace(counts)), int(counts.sum()), int(counts.sum(1).max())
    answers = linear_sum_assignment(-counts)[1]  # for each label the answer that would stand for it
    best = int(counts[np.arange(len(counts)), answers].sum())
    by_chance = 2 * total ** 0.5  # two standard errors of the difference, at most
    if right > commonest and best - right <= by_chance:
        return
    text = f"warning: this teacher answers {right} of {total} held-out sentences right"
    if right <= commonest:
        text += f", and the commonest label alone {commonest}: whatever learns from it can be no better"
    if best > max(right, commonest):
        names = [label_names[label] for label in np.argsort(np.array(order)[answers])]
        text += f"; it would answer {best} right if its classes in their order were {names}: look at the id2label of its config.json"
    warn(text)

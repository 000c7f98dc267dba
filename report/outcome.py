"""What a report comes to: a run's first model beside the one that ships, whether anything is lost, and texts that they answer otherwise."""

import numpy as np

from common.data import Corpus
from common.tasks import MultiLabel, SingleLabel, Task
from common.texts.splits import as_text
from report import behaviour, claims

EXAMPLES = 6  # texts of a kind that a page shows
LONGEST = 300  # characters of one
SHIPS = ("_onnx_int8", "_onnx", "")  # what is deployed first of all


def pair(rows: dict[str, dict], baseline: str, ships: str | None) -> tuple[str, str] | None:
    """(before, after): keys of the teacher's row, or where it has none the baseline's, and of the row that ships; None of one row alone.

    `ships` is a variant, of which the int8 file comes before others; without it that is the smallest int8 file of all.
    """
    before = "teacher" if "teacher" in rows else baseline
    others = {key: row for key, row in rows.items() if key != before and ships in (None, row["variant"])}
    for ending in SHIPS:
        found = [key for key, row in others.items() if row["stage"].endswith(ending)]
        if found and before in rows:
            return before, min(found, key=lambda key: rows[key]["size_mb"])
    return None


def of(corpus: Corpus, before: dict[int, np.ndarray], after: dict[int, np.ndarray], sentences: bool) -> dict:
    """{no_loss, changed, examples} of decisive logits (S, K) for the dev texts by seed; of the first of each come the last two.

    `changed` is {} where a text has more than one class, `examples` is [] where `sentences` are to be left out.
    """
    task, labels = corpus.task, np.array(corpus.dev.labels)
    ours, theirs = (next(iter(of_seeds.values())) for of_seeds in (after, before))
    texts = list(map(as_text, corpus.dev.rows))
    changed = behaviour.changed(texts, task.answers(ours), task.answers(theirs), labels) if isinstance(task, SingleLabel) else {}
    return {"no_loss": claims.of_task(task, list(after.values()), list(before.values()), labels), "changed": changed,
            "examples": examples(task, texts, ours, theirs, labels) if sentences else []}


def examples(task: Task, texts: list[str], ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> list[dict]:
    """[{kind, text, label, before, after, groups}] of texts that ours and theirs (S, K) answer otherwise.

    Of what was lost and gained up to EXAMPLES each: from group to group of length and negation, the one that ours is surest of first. Of
    several labels and of scores those whose answers differ most, "changed".
    """
    said, before = task.answers(ours), task.answers(theirs)
    groups = behaviour.groups(texts)

    def example(i: int, kind: str) -> dict:
        text = texts[i] if len(texts[i]) <= LONGEST else texts[i][:LONGEST] + "…"
        return {"kind": kind, "text": text, "label": in_words(task, labels[i]), "before": in_words(task, before[i]),
                "after": in_words(task, said[i]), "groups": [name for name, inside in groups.items() if inside[i]]}

    if not isinstance(task, SingleLabel):
        apart = np.abs(said - before).reshape(len(texts), -1).sum(-1)
        order = [i for i in np.argsort(-apart, kind="stable") if apart[i] > 0]
        return [example(i, "changed") for i in order[:EXAMPLES]]
    surest = list(np.argsort(-(ours.max(-1) - np.median(ours, axis=-1)), kind="stable"))
    right, was_right = said == labels, before == labels
    found: list[dict] = []
    for kind, of_kind in (("lost", was_right & ~right), ("gained", right & ~was_right)):
        left = [i for i in surest if of_kind[i]]
        while left and sum(one["kind"] == kind for one in found) < EXAMPLES:
            for inside in groups.values():
                at = next((i for i in left if inside[i]), None)
                if at is not None and sum(one["kind"] == kind for one in found) < EXAMPLES:
                    found.append(example(at, kind))
                    left.remove(at)
    return found


def in_words(task: Task, answer) -> str:
    """A label, or an answer in the form of one, as people read it."""
    if isinstance(task, SingleLabel):
        return task.names[int(answer)]
    if isinstance(task, MultiLabel):
        return ", ".join(name for name, there in zip(task.names, answer, strict=True) if there) or "none"
    return f"{float(answer):.2f}"

"""A model that answers what it is sure of, and a teacher that is asked for the rest: the one's accuracy at a share of its cost.

Sureness is the calibrated probability that the whole answer is right; see `sureness`.
"""

from collections.abc import Sequence

from common.cli import UserError, warn
from common.inference import Classifier
from common.texts import tsv
from common.texts.labels import alike
from common.texts.splits import Row

UNSURE, TEACHER = "unsure", "teacher"  # how an answer is marked that is below the level, or another's


class Cascade:
    """Rows -> answers in words. Without a level, `sure`, all are the model's own; without a teacher those below it are marked.

    Raises UserError where the model has no certainty, or the teacher answers with other labels.
    """

    def __init__(self, classifier: Classifier, sure: float | None = None, teacher: Classifier | None = None):
        self.classifier, self.sure, self.teacher = classifier, sure, teacher
        self.answered = self.below = 0  # so far, empty rows aside
        path, task = classifier.checkpoint.path, classifier.task
        if sure is not None and not task.has_probabilities:
            raise UserError(f"{path} gives a score, which is neither sure nor unsure: leave --sure out")
        if teacher and not (teacher.task.kind == task.kind and alike(teacher.label_names, classifier.label_names)):
            raise UserError(f"{teacher.checkpoint.path} answers with {teacher.label_names}, {path} with {classifier.label_names}: give "
                            "the teacher that it learnt from")
        if sure is not None and classifier.temperature is None:
            warn(f"{path} isn't calibrated, so it may be surer than it should be: exports of 11_export_onnx.py are (of earlier code "
                 "with --force)")

    def answers(self, rows: Sequence[Row], batch_size: int = 32, all_scores: bool = False) -> list[dict]:
        """Of each row what `Task.said` says; with `all_scores` "scores" too; with a level "mark": "", UNSURE or TEACHER.

        Blanks around a text are none of it, as in training.
        """
        full = [row.strip() if isinstance(row, str) else (row[0].strip(), row[1].strip()) for row in rows if not empty(row)]
        logits = self.classifier.classify(full, batch_size)
        found = [self._said(self.classifier, own, all_scores) for own in logits]
        if self.sure is not None:
            below = [i for i, sure in enumerate(self.classifier.sureness(logits)) if sure < self.sure]
            found = [answer | {"mark": ""} for answer in found]
            if self.teacher and below:
                theirs = self.teacher.classify([full[i] for i in below], batch_size)
                for i, own in zip(below, theirs, strict=True):
                    found[i] = self._said(self.teacher, own, all_scores)
            for i in below:
                found[i]["mark"] = TEACHER if self.teacher else UNSURE
            self.below += len(below)
        self.answered += len(full)
        nothing = self.classifier.task.said(None) | ({"scores": {}} if all_scores else {}) | ({} if self.sure is None else {"mark": ""})
        in_order = iter(found)
        return [dict(nothing) if empty(row) else next(in_order) for row in rows]

    def _said(self, classifier: Classifier, logits, all_scores: bool) -> dict:
        logits, thresholds = classifier.calibrated(logits)
        task = self.classifier.task  # which names the labels as this model does
        return task.said(logits, thresholds) | ({"scores": task.every_score(logits)} if all_scores else {})

    def summary(self) -> str | None:
        """What became of those that the model wasn't sure of, in a line; None without a level."""
        if self.sure is None:
            return None
        share = f"{self.below:,} of {self.answered:,} texts ({100 * self.below / max(self.answered, 1):.1f} %)"
        return f"sure {self.sure:g}: " + (f"the teacher was asked for {share}" if self.teacher else f"{share} are below, and marked")


def empty(row: Row) -> bool:
    """Whether a row has no text: nothing that could be seen."""
    return isinstance(row, str) and not tsv.visible(row)

"""A part of a data set: texts, or pairs of them, and their labels; cleaned of what other parts hold, and described."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from common.cli import say
from common.tasks import MultiLabel, Regression, SingleLabel, Task
from common.texts.labels import listed

CHARACTERS_A_WORD = 20  # more than any language's words have on average
Row = str | tuple[str, str]


@dataclass
class Split:
    """Texts and their labels, side by side: a class's number, a list of K shares 0 or 1, or a score. `seconds` are those of pairs."""

    texts: list[str] = field(default_factory=list)
    labels: list = field(default_factory=list)
    seconds: list[str] | None = None

    @property
    def rows(self) -> list[Row]:
        """What a model reads of each: a text, or two."""
        return list(self.texts) if self.seconds is None else list(zip(self.texts, self.seconds, strict=True))

    @classmethod
    def of(cls, rows: Iterable[Row], labels: list) -> "Split":
        """The split of these rows, all texts or all pairs."""
        rows = list(rows)
        pairs = [row for row in rows if not isinstance(row, str)]
        return cls([first for first, _ in pairs], labels, [second for _, second in pairs]) if pairs else \
            cls([row for row in rows if isinstance(row, str)], labels)

    @property
    def every_text(self) -> list[str]:
        """All texts, of pairs the second ones behind the first."""
        return self.texts + (self.seconds or [])

    def __len__(self) -> int:
        return len(self.texts)

    def empty(self) -> "Split":
        """A split of the same kind without rows."""
        return Split(seconds=None if self.seconds is None else [])

    def add(self, row: Row, label) -> None:
        """A text, or two, and what it is."""
        first, *second = [row] if isinstance(row, str) else row
        self.texts.append(first)
        if self.seconds is not None:
            self.seconds += second
        self.labels.append(label)

    def chosen(self, places: Iterable[int]) -> "Split":
        """The rows at these places, in this order."""
        places = list(places)
        seconds = None if self.seconds is None else [self.seconds[i] for i in places]
        return Split([self.texts[i] for i in places], [self.labels[i] for i in places], seconds)

    @property
    def called(self) -> str:
        """What a row is."""
        return "sentences" if self.seconds is None else "pairs"


# --- cleaning

def as_text(row: Row) -> str:
    """A row as one text, of a pair the second behind the first."""
    return row if isinstance(row, str) else " ".join(row)


def labels_of(split: Split) -> dict[Row, list]:
    """{row: its different labels}: more than one where they contradict each other."""
    found: dict[Row, list] = defaultdict(list)
    for row, label in zip(split.rows, split.labels, strict=True):
        if label not in found[row]:
            found[row].append(label)
    return found


def unordered(rows: Iterable[Row]) -> set[Row]:
    """Rows, pairs without their order: who has seen a pair the one way round knows the other."""
    return {row if isinstance(row, str) else (min(row), max(row)) for row in rows}


def clean(train: Split, others: dict[str, Split], kind: str = SingleLabel.kind, called: str = "train") -> Split:
    """Duplicates go; so do rows with contradictory labels, and those that stand in `others`, {name: part}. Counted and said.

    Of several scores for one row the mean is kept.
    """
    in_train, elsewhere = labels_of(train), unordered(row for part in others.values() for row in part.rows)
    kept, contradictory, leaked = train.empty(), 0, 0
    for row, labels in in_train.items():
        if not elsewhere.isdisjoint(unordered([row])):
            leaked += 1
            continue
        contradictory += len(labels) > 1
        if len(labels) == 1:
            kept.add(row, labels[0])
        elif kind == Regression.kind:
            kept.add(row, float(np.mean(labels)))
    where = " or ".join(others)
    every = f" (all of {where})" if leaked == len(elsewhere) > 0 else ""
    unlike = f"{contradictory} contradictory {train.called}"
    if kind == Regression.kind:
        unlike = f"{contradictory} {train.called} with several scores (their mean is kept)"
    say(f"{called}: {len(train) - len(in_train)} duplicates, {unlike}"
        + (f" and {leaked} that stand in {where}{every}" if others else "") + f" left out of {len(train)}")
    return kept


def doubt(train: Split, dev: Split) -> None:
    """Says what is odd about dev, which stays as it is: rows that stand there twice or contradict each other, texts that training has
    in other pairs, more rows than training.
    """
    in_dev = labels_of(dev)
    twice, unsure = len(dev) - len(in_dev), sum(len(labels) > 1 for labels in in_dev.values())
    if twice:
        say(f"dev: {twice} duplicates, {unsure} contradictory {dev.called}; none is left out")
    if train.seconds is not None and dev.seconds is not None:
        known = {*train.texts, *train.seconds}
        if shared := sum(one in known or other in known for one, other in zip(dev.texts, dev.seconds, strict=True)):
            say(f"dev: {shared} of {len(dev)} pairs hold a text that stands in other pairs of train: they are easier than new ones")
    if len(train) < len(dev):
        say(f"train has fewer {train.called} ({len(train):,}) than dev ({len(dev):,}): are they swapped?")


# --- what the data are like

def classes_of(split: Split, kind: str) -> list[tuple[int, ...]]:
    """Of each row the numbers of its classes: one, any number of labels (-1 for none of them), or of a score 0."""
    if kind == SingleLabel.kind:
        return [(label,) for label in split.labels]
    if kind == MultiLabel.kind:
        return [tuple(np.flatnonzero(label).tolist()) or (-1,) for label in split.labels]
    return [(0,)] * len(split)


def describe(task: Task, train: Split, held_out: Split, phrases: Split, dev: Split) -> None:
    """Says in a line or two how much there is of what, and which classes are missing where."""
    names = task.names
    counts = [Counter(i for classes in classes_of(split, task.kind) for i in classes) for split in (train, held_out, dev)]
    smallest = min(range(len(names)), key=lambda i: (counts[0][i], i))
    texts = list(map(as_text, train.rows + held_out.rows))
    sizes, unit = [len(text.split()) for text in texts], "words"
    if np.median(sizes) <= 1 or sum(map(len, texts)) > CHARACTERS_A_WORD * sum(sizes):  # single words, or a script without blanks
        sizes, unit = [len(text) for text in texts], "characters"
    what = f"{len(names)} classes, the smallest '{names[smallest]}' with {counts[0][smallest]:,}"
    if task.kind == MultiLabel.kind:
        a_row = np.mean([sum(label) for label in train.labels])
        none = f", none on {counts[0][-1]:,}" if counts[0][-1] else ""
        what = f"{len(names)} labels at once, {a_row:.2f} on average{none}, the rarest '{names[smallest]}' with {counts[0][smallest]:,}"
    elif task.kind == Regression.kind:
        what = f"scores from {min(train.labels):g} to {max(train.labels):g}, {np.mean(train.labels):.2f} on average"
    inside = f" (with {len(phrases):,} phrases inside them)" if train.seconds is None else ""
    say(f"data: {len(train):,} {train.called} to learn from, {len(held_out):,} held out{inside}, {len(dev):,} dev; {what}; "
        f"{unit}: median {np.median(sizes):.0f}, 95 % have {np.percentile(sizes, 95, method='higher'):.0f} or fewer")
    if task.kind == Regression.kind:
        return
    for where, count in zip(("to learn from", "held out", "in dev"), counts, strict=True):
        missing = [name for i, name in enumerate(names) if not count[i]]
        if missing:
            say(f"no {train.called.removesuffix('s')} {where} of {len(missing)} of {len(names)} "
                f"{'classes' if task.kind == SingleLabel.kind else 'labels'}: {listed(missing)}")

"""A teacher that is a file: answers that a language model, an ensemble or people gave to the texts in it, and to no others.

It is published as a teacher without weights: `answers.parquet` has a row a text, and of each what would have been a model's logits.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from common import checkpoints, publishing
from common.checkpoints import Checkpoint
from common.cli import UserError, say
from common.data import Corpus
from common.facts import sha256_file
from common.tasks import MultiLabel, Regression, SingleLabel, Task
from common.texts import columns, labels, lengths, tables, targets, unlabelled
from common.texts.columns import Wanted
from common.texts.splits import Row, Split
from common.texts.tables import Table
from common.texts.tsv import shown

FILE = "answers.parquet"
SUM = 0.01  # by which a row's probabilities may miss 1: they were rounded
LEAST = 1e-5  # as which a probability of 0 counts: its logarithm has no end


def read(path: Path, wanted: Wanted, task: Task, pairs: bool) -> tuple[list[Row], np.ndarray]:
    """(the texts, or pairs, of a table, each once; the logits (S, K) that its columns of answers amount to).

    Of one class a text the logarithms of its probabilities, of many labels at once the log-odds of each, of a score itself. Of a text that
    stands there several times the mean of its answers counts. Raises UserError, with the line, for what is none.
    """
    table = tables.read(path, wanted=[*wanted.names, *task.names], vectors=True)
    answers, used = _answers(table, wanted, task)
    text, pair = columns.of_texts(table, wanted, pairs, used)
    rows: list[Row] = list(columns.texts(table, text))
    if pair:
        rows = list(zip(columns.texts(table, text), columns.texts(table, pair), strict=True))
    if not rows:
        raise UserError(f"{path} holds no answers: a row a text")
    places = {row: i for i, row in enumerate(dict.fromkeys(rows))}
    if len(places) < len(rows):
        say(f"{path}: {len(rows) - len(places):,} texts stand there again: of each the mean of its answers counts")
    at = np.array([places[row] for row in rows])
    sums = np.zeros((len(places), answers.shape[1]))
    np.add.at(sums, at, answers)
    means = sums / np.bincount(at)[:, None]
    return list(places), _logits(means, task).astype(np.float32)


def _logits(answers: np.ndarray, task: Task) -> np.ndarray:
    if isinstance(task, Regression):
        return answers
    if isinstance(task, MultiLabel):
        chances = answers.clip(LEAST, 1 - LEAST)
        return np.log(chances) - np.log1p(-chances)
    return np.log((answers / answers.sum(-1, keepdims=True)).clip(LEAST))


def _answers(table: Table, wanted: Wanted, task: Task) -> tuple[np.ndarray, list[str]]:
    """(answers (S, K), the columns that they stand in): a column a class, called as the class is, or one that holds lists."""
    by_name = {labels.normal(name): name for name in table.names}
    own = [by_name.get(labels.normal(name)) for name in task.names]
    names = [name for name in own if name is not None]
    if isinstance(task, Regression) and not names and wanted.label is not None and wanted.label in table.names:
        names = [wanted.label]
    cells: list
    lists = [name for name, column in zip(table.names, table.columns, strict=True) if _holds_lists(column)]
    if len(names) < len(task.names) and len(lists) == 1:
        names, cells = lists, [_items(cell) for cell in table.column(lists[0])]
    elif len(names) == len(task.names):
        cells = list(zip(*(table.column(name) for name in names), strict=True))
    else:
        raise UserError(f"{table.path}: no column for {labels.listed(name for name in task.names if name not in by_name)}, found "
                        f"{table.listed()}: answers stand in a column a class, called as the class is, or in one that holds lists")
    found = np.array([_numbers(table.path, line, row, task) for line, row in zip(table.lines, cells, strict=True)])
    return found.reshape(len(cells), len(task.names)), names


def _holds_lists(column: list) -> bool:
    return bool(column) and all(_items(cell) is not None for cell in column)


def _items(cell) -> list | None:
    return cell if isinstance(cell, list) else targets.listed(cell.strip()) if isinstance(cell, str) else None


def _numbers(path: str, line: int, row, task: Task) -> list[float]:
    """A row's K answers. Raises UserError where they aren't probabilities, or finite scores."""
    if len(row) != len(task.names):
        raise UserError(f"{path}:{line}: {len(row)} answers, the data have {len(task.names)} classes ({labels.listed(task.names)}): give "
                        "one for each, in their order")
    found = []
    for name, cell in zip(task.names, row, strict=True):
        try:
            value = float(cell)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value) or not isinstance(task, Regression) and not 0 <= value <= 1:
            raise UserError(f"{path}:{line}: {shown(str(cell))} for {shown(name)} is no "
                            + ("score: write a number" if isinstance(task, Regression) else "probability: write a number from 0 to 1"))
        found.append(value)
    if isinstance(task, SingleLabel) and abs(sum(found) - 1) > SUM:
        raise UserError(f"{path}:{line}: the probabilities of all {len(found)} classes sum to {sum(found):.4g}, not to 1: divide them by "
                        "that")
    return found


# --- as a teacher

def register(args: argparse.Namespace, corpus: Corpus) -> Checkpoint:
    """The teacher that the file of --soft-labels is, published where it doesn't stand yet. Raises UserError for what is wrong in it."""
    path = args.soft_labels
    if not path.is_file():
        raise UserError(f"{path} is no file: --soft-labels takes a table of texts and of answers to them")
    rows, logits = read(path, Wanted.of(args), corpus.task, corpus.train.seconds is not None)
    asked = argparse.Namespace(run_dir=args.run_dir, mode=args.mode, force=args.force, seed=args.seed,
                               max_length=args.max_length or lengths.USUAL)
    stage = publishing.begin(asked, "teacher", "soft_labels", corpus.facts, [], link="teacher_model", decides={"start": identity(path)})
    if stage.done:
        return stage.done
    config = {"model_type": checkpoints.TABLE, "id2label": dict(enumerate(corpus.label_names)), "problem_type": corpus.task.in_config}
    (stage.dir / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    _write(rows, logits, stage.dir / FILE)
    stage.metrics |= {"texts": len(rows)}
    say(f"{path}: answers to {len(rows):,} texts; what learns them cuts longer ones at {asked.max_length} tokens (--max-length says where)")
    return checkpoints.read(stage.publish())


def identity(path: Path) -> str:
    """What a stage's key says of the file."""
    return sha256_file(path)[:16]


def _write(rows: list[Row], logits: np.ndarray, path: Path) -> None:
    import pyarrow.parquet

    texts = [[row] if isinstance(row, str) else list(row) for row in rows]
    table = pyarrow.table({"texts": pyarrow.array(texts), "logits": pyarrow.array(list(logits))})
    pyarrow.parquet.write_table(table, path, compression="zstd")


def answered(teacher: Checkpoint) -> dict[Row, np.ndarray]:
    """{text or pair: the logits (K,) of the file's answer} of all that it holds."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(teacher.path / FILE)
    rows: list[Row] = [texts[0] if len(texts) == 1 else (texts[0], texts[1]) for texts in table["texts"].to_pylist()]
    return dict(zip(rows, np.array(table["logits"].to_pylist(), dtype=np.float32), strict=True))


def answers(teacher: Checkpoint, rows: list[Row]) -> np.ndarray:
    """The logits (S, K) of the file's answers to `rows`. Raises UserError where it has none to one of them."""
    known = answered(teacher)
    missing = [row for row in rows if row not in known]
    if missing:
        raise UserError(f"{teacher.path} has no answer to {len(missing):,} of {len(rows):,} texts, first {str(missing[0])[:40]!r}: it is a "
                        "file, and no model that could be asked")
    return np.array([known[row] for row in rows], dtype=np.float32)


def with_answers(teacher: Checkpoint, sentences: Split, own: list[Row], corpus: Corpus) -> tuple[Split, list[Row]]:
    """Those of the training texts, and of one's own texts, that the file answers; its other texts are one's own too. Counted and said.

    Raises UserError where nothing is left.
    """
    known = answered(teacher)
    labelled = [i for i, row in enumerate(sentences.rows) if row in known]
    more = [row for row in unlabelled.new(list(known), corpus, "texts with answers") if row not in own]
    theirs = [row for row in own if row in known]
    left = len(own) - len(theirs)
    say(f"soft labels: {len(labelled):,} of {len(sentences):,} training {sentences.called} have answers, and so have "
        f"{len(theirs) + len(more):,} others" + (f"; {left:,} of --unlabelled have none, and are left out" if left else ""))
    if not labelled and not theirs and not more:
        raise UserError("the file of --soft-labels answers no text to learn from: its texts are to be those of the training set, letter by "
                        "letter, or new ones")
    return sentences.chosen(labelled), theirs + more

"""From tables whose columns are known to a task, and to texts with labels in its form."""

import os
from pathlib import Path

from common.cli import UserError
from common.tasks import MultiLabel, Regression, SingleLabel, Task
from common.texts import labels, targets
from common.texts.columns import Roles, texts
from common.texts.parts import Parts
from common.texts.splits import Split
from common.texts.tables import Table
from common.texts.targets import Cell


def names_of_classes(parts: Parts, roles: Roles, file: Path | None) -> list[str] | None:
    """The classes' names in labels.txt, or else in a typed column; None where the labels themselves are names."""
    if file is not None and os.path.lexists(file):
        return labels.in_file(file)
    first = next(iter(parts.values()))[0]
    return first.classes.get(roles.labels[0]) if len(roles.labels) == 1 else None


def parsed(parts: Parts, roles: Roles, asked: str | None, named: list[str] | None) -> tuple[Task, dict[str, Split]]:
    """(the task, {part: its texts and labels}); `asked` is the task that a flag names, `named` the names of the classes if known.

    Raises UserError, with file and line, for labels that are none of the task's.
    """
    first = next(iter(parts))
    if len(roles.labels) > 1:
        if asked not in (None, MultiLabel.kind):
            raise UserError(f"several columns of labels are the task {MultiLabel.kind}, not {asked}: name one with --label-column, or "
                            "leave --task out")
        flags = {part: [row for table in tables for row in targets.flags(table, roles)] for part, tables in parts.items()}
        return MultiLabel(roles.labels), {part: _split(parts[part], roles, rows) for part, rows in flags.items()}
    columns = {part: [(table, targets.cells(table, roles.labels[0])) for table in tables] for part, tables in parts.items()}
    kind = asked or targets.kind([cells for both in columns.values() for _, cells in both], named is not None)
    if kind == Regression.kind:
        scores = {part: [score for table, cells in both for score in targets.scores(table, cells)] for part, both in columns.items()}
        if len(set(scores[first])) == 1:
            raise UserError(f"{parts[first][0].path}: all scores are {scores[first][0]:g}: nothing can be learnt from them")
        name = roles.labels[0] if parts[first][0].header else "score"
        return Regression((name,)), {part: _split(parts[part], roles, rows) for part, rows in scores.items()}
    if kind == MultiLabel.kind:
        places = targets.places([cells for both in columns.values() for _, cells in both])
        named = named or [str(i) for i in range(places)] or None
        many = {part: [(table, targets.many(table, cells, places)) for table, cells in both] for part, both in columns.items()}
        names = named or _names([(table, line, item) for table, rows in many[first] for line, row in zip(table.lines, rows, strict=True)
                                 for item in row])
        shares = {part: [row for table, rows in both for row in targets.shares(table, rows, names, counts(named, part == first))]
                  for part, both in many.items()}
        return MultiLabel(tuple(names)), {part: _split(parts[part], roles, rows) for part, rows in shares.items()}
    checked = {part: [(table, _one(table, cells)) for table, cells in both] for part, both in columns.items()}
    names = named or _names([(table, line, name) for table, own in checked[first] for line, name in zip(table.lines, own, strict=True)])
    ids = {part: [i for table, own in both for i in labels.ids(table.path, own, table.lines, names, counts(named, part == first))]
           for part, both in checked.items()}
    return SingleLabel(tuple(names)), {part: _split(parts[part], roles, rows) for part, rows in ids.items()}


def counts(named: list[str] | None, first: bool) -> bool:
    """Whether numbers may stand for names in their order: not in a part whose names are those of another part's labels."""
    return named is not None or first


def _names(found: list[tuple[Table, int, str]]) -> list[str]:
    return labels.of_data(found[0][0].path, [name for _, _, name in found], [line for _, line, _ in found])


def _one(table: Table, cells: list[Cell]) -> list[str]:
    """The label of each row, in normal form."""
    for line, cell in zip(table.lines, cells, strict=True):
        if isinstance(cell, list):
            raise UserError(f"{table.path}:{line}: a list of labels where each text has one of several classes: leave --task out")
    return labels.checked(table.path, [(line, "", str(cell)) for line, cell in zip(table.lines, cells, strict=True)])


def _split(tables: list[Table], roles: Roles, rows: list) -> Split:
    seconds = None if roles.pair is None else [text for table in tables for text in texts(table, roles.pair)]
    return Split([text for table in tables for text in texts(table, roles.text)], rows, seconds)

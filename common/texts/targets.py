"""What a column of labels makes: the task, the names of what a model says, and each row's label as a number, shares or a score."""

import ast
import json
import math
import re
from collections.abc import Sequence

from common.cli import UserError
from common.tasks import MultiLabel, Regression, SingleLabel
from common.texts import labels
from common.texts.columns import Roles
from common.texts.headers import NUMBERS
from common.texts.tables import Table
from common.texts.tsv import shown, visible

SEPARATORS = "|;,"
TRUTHS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
Cell = str | list[str]


# --- cells

def cells(table: Table, name: str) -> list[Cell]:
    """A column's labels as they would stand in a text file: a name or number each, or a list of them; nothing of a row without any."""
    names = table.classes.get(name)
    return [[_word(item, names) for item in cell] if isinstance(cell, list) else _word(cell, names) for cell in table.column(name)]


def _word(cell, names: list[str] | None) -> str:
    if cell is None or names and cell == -1:
        return ""
    return names[cell] if names and isinstance(cell, int) and 0 <= cell < len(names) else str(cell)


def listed(cell: str) -> list[str] | None:
    """The items of a list that is written into a cell, as JSON or as Python shows one; None of anything else."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return [str(item) for item in found] if isinstance(found, list) else None


# --- which task

def kind(columns: Sequence[Sequence[Cell]], named: bool) -> str:
    """The task that all parts' label columns make together; `named` says whether the classes have names of their own."""
    every = [cell for column in columns for cell in column if cell != ""]
    if any(isinstance(cell, list) for cell in every) or every and all(listed(str(cell)) is not None for cell in every):
        return MultiLabel.kind
    words = {cell.strip() for cell in every if isinstance(cell, str)}
    if all(NUMBERS.fullmatch(word) for word in words):
        if any(re.search(f"[{SEPARATORS}]", word) for word in words):
            return MultiLabel.kind
        whole = all(labels.number(word) is not None and float(word).is_integer() for word in words)
        return SingleLabel.kind if whole or named or not _decimal(words) else Regression.kind
    return MultiLabel.kind if separator(words) else SingleLabel.kind


def _decimal(words: set[str]) -> bool:
    return any(math.isfinite(float(word)) and not float(word).is_integer() for word in words)


def separator(words: set[str]) -> str | None:
    """What parts the labels of a cell, where that can't be a class's own name: each part of each such cell is a cell of its own too."""
    for sign in SEPARATORS:
        parts = {part.strip() for word in words if sign in word for part in word.split(sign)}
        if parts and parts <= words:
            return sign
    return None


# --- many labels

def places(columns: Sequence[Sequence[Cell]]) -> int:
    """Of how many labels each cell is a list of 0 and 1; 0 where cells are lists of labels: of some length each, and none twice in one."""
    lists = [cell if isinstance(cell, list) else listed(cell.strip()) for column in columns for cell in column]
    if not lists or any(items is None for items in lists):
        return 0
    rows = [items for items in lists if items is not None]
    alike = len({len(items) for items in rows}) == 1 and all(item.casefold() in TRUTHS for items in rows for item in items)
    return len(rows[0]) if alike and any(len(set(items)) < len(items) for items in rows) else 0


def many(table: Table, column: Sequence[Cell], places: int = 0) -> list[list[str]]:
    """The labels of each row, in normal form, each once; where cells have so many `places`, the numbers of those that hold a 1.

    Raises UserError for one that can't be a name.
    """
    words = {cell.strip() for cell in column if isinstance(cell, str)}
    sign = separator(words) or next((sign for sign in SEPARATORS if any(sign in word for word in words)), None)
    found = []
    for cell in column:
        items = cell if isinstance(cell, list) else listed(cell.strip())
        if items is None:
            items = str(cell).split(sign) if sign else [str(cell)]
        if places:
            items = [str(i) for i, item in enumerate(items) if TRUTHS[item.casefold()]]
        found.append([item for item in items if visible(item)])
    rows = [(line, "", item) for line, items in zip(table.lines, found, strict=True) for item in items]
    flat = iter(labels.checked(table.path, rows))
    return [list(dict.fromkeys(next(flat) for _ in items)) for items in found]


def shares(table: Table, found: list[list[str]], names: list[str], count: bool) -> list[list[float]]:
    """Of each row K shares, 1 of its labels and 0 of the others. Raises UserError for a label that is none of `names`."""
    lines = [line for line, items in zip(table.lines, found, strict=True) for _ in items]
    ids = iter(labels.ids(table.path, [item for items in found for item in items], lines, names, count))
    rows = []
    for items in found:
        own = {next(ids) for _ in items}
        rows.append([float(i in own) for i in range(len(names))])
    return rows


def flags(table: Table, roles: Roles) -> list[list[float]]:
    """Of each row K shares, from a column of 0 and 1 a label. Raises UserError for another cell."""
    columns = []
    for name in roles.labels:
        column = cells(table, name)
        for line, cell in zip(table.lines, column, strict=True):
            if str(cell).strip().casefold() not in TRUTHS:
                raise UserError(f"{table.path}:{line}: {shown(str(cell))} in the column {shown(name)}: where each label has a column, 1 "
                                "says that a row has it, and 0 that it hasn't")
        columns.append([TRUTHS[str(cell).strip().casefold()] for cell in column])
    return [list(row) for row in zip(*columns, strict=True)]


# --- scores

def scores(table: Table, column: Sequence[Cell]) -> list[float]:
    """The numbers as they stand. Raises UserError with the line of what is none."""
    found = []
    for line, cell in zip(table.lines, column, strict=True):
        try:
            score = float(cell) if isinstance(cell, str) else math.nan
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise UserError(f"{table.path}:{line}: {shown(str(cell))} is no score: write a number, or delete the line")
        found.append(score)
    return found

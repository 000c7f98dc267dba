"""Which columns of a table hold the text, its partner of a pair, and the label: as flags say, or else by names and cells."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.cli import DATA_FLAGS, UserError, say
from common.texts import tsv
from common.texts.headers import LABEL_NAMES, NUMBERS, PAIR_NAMES, TEXT_NAMES, plain
from common.texts.tables import Table

CELLS = 5_000  # that are looked at
SENTENCE, LABEL = "sentence", "label"  # as GLUE's tables call them
CERTAIN = ("label", "labels")  # a column that is called so is the label whatever else there is
FEW = 30  # different texts at most that are labels, however long they are
WORDS = 3  # a label has no more, on average
FLAGS = 3  # columns of 0 and 1 from which on they are a label each
WORD = re.compile(r"[\w.:/+=-]+", re.ASCII)


@dataclass(frozen=True)
class Wanted:
    """What flags say of the columns, and of the task; None where they say nothing."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    task: str | None = None

    @classmethod
    def of(cls, args) -> "Wanted":
        return cls(*(getattr(args, name, None) for name in DATA_FLAGS.values()))

    @property
    def names(self) -> list[str]:
        """All columns that flags name."""
        return [name for name in (self.text, self.pair, *(self.label or "").split(",")) if name]


@dataclass(frozen=True)
class Roles:
    """Names of columns: the text, its partner or None, the label's or a label each."""

    text: str
    pair: str | None
    labels: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether this is GLUE's layout of one sentence and its label."""
        return (self.text, self.pair, self.labels) == (SENTENCE, None, (LABEL,))


def choose(table: Table, wanted: Wanted) -> Roles:
    """The roles of a table's columns; what was guessed is said. Raises UserError where there is more than one choice, or none."""
    given = {name for name in wanted.names if name in table.names}
    labels = _typed_labels(table, wanted)
    for name in (wanted.text, wanted.pair):
        if name is not None:
            table.column(name)
    if labels is None and wanted.text is wanted.pair is None and {SENTENCE, LABEL} <= set(table.names):
        for name in (SENTENCE, LABEL):
            table.column(name)
        partner = next((one for one, other in PAIR_NAMES if other == SENTENCE and table.names.count(one) == 1), None)
        if partner is None:
            return Roles(SENTENCE, None, (LABEL,))
    looks = {name: look(column) for name, column in zip(table.names, table.columns, strict=True)}
    if labels is None:
        labels = _labels(table, {name: kind for name, kind in looks.items() if name not in given})
    text, pair = _texts(table, {name: kind for name, kind in looks.items() if name not in labels}, wanted)
    if not {text, pair, *labels} - {None} <= given:
        a_label = f"the labels are {', '.join(map(called, labels))}" if len(labels) > 1 else f"the label is {called(labels[0])}"
        a_text = f"the text is {called(text)}" if pair is None else f"the two texts are {called(text)} and {called(pair)}"
        say(f"{table.path}: {a_text}, {a_label} (--text-column, --pair-column and --label-column choose others)")
    return Roles(text, pair, labels)


def called(name: str) -> str:
    """A column in a message."""
    return f"column {name}" if name.isdecimal() else tsv.shown(name)


# --- what a column looks like

def look(column: list) -> str:
    """"text", "label", "flag" (0 and 1), "score" (decimals), "id" (a key of its row), "constant" or "empty", by its cells."""
    cells = [cell for cell in column[:CELLS] if cell is not None and cell != ""]
    if not cells:
        return "empty"
    if any(isinstance(cell, (list, bool)) for cell in cells):
        return "label"
    different = set(map(str, cells))
    if all(not isinstance(cell, str) or NUMBERS.fullmatch(cell) for cell in cells):
        if different <= {"0", "1", "0.0", "1.0"}:
            return "flag"
        if any("." in cell for cell in different) and not all(float(cell).is_integer() for cell in different if _single(cell)):
            return "score"
        return "id" if len(different) > max(len(cells) / 2, FEW) and all(map(_single, different)) else "label"
    if len(different) == 1 < len(cells):
        return "constant"
    words = sum(len(str(cell).split()) for cell in cells) / len(cells)
    if len(different) > max(0.9 * len(cells), FEW) and all(WORD.fullmatch(cell) for cell in different):
        return "id"
    few = len(different) <= max(FEW, len(cells) / 10)
    return "label" if few and words <= WORDS or len(different) <= min(FEW, len(cells) / 10) else "text"


def _single(number: str) -> bool:
    """Whether a cell of numbers holds one."""
    return not re.search(r"[,;|]", number)


# --- labels

def _typed_labels(table: Table, wanted: Wanted) -> tuple[str, ...] | None:
    """The columns of --label-column: one, or several with commas between."""
    if wanted.label is None:
        return None
    names = [wanted.label] if wanted.label in table.names else [name.strip() for name in wanted.label.split(",")]
    for name in names:
        table.column(name)
    return tuple(names)


def _labels(table: Table, looks: dict[str, str]) -> tuple[str, ...]:
    certain = [name for name in looks if plain(name) in CERTAIN]
    known = [name for name, kind in looks.items() if plain(name) in LABEL_NAMES and kind not in ("text", "constant", "empty")]
    likely = [name for name, kind in looks.items() if kind in ("label", "flag", "score")]
    for names in (certain, known, likely):
        if len(names) == 1:
            return (names[0],)
        if names:
            break
    flags = [name for name in likely if looks[name] == "flag"]
    if not known and len(flags) >= FLAGS and flags == likely:
        return tuple(flags)
    raise UserError(f"{table.path}: {'which column is the label' if likely or known else 'no column looks like labels'}? It has "
                    f"{table.listed()}: name it with --label-column (several, with commas between, where each is a label of its own)")


def unlabelled(table: Table, roles: Roles) -> bool:
    """Whether a part has no labels, as published test sets haven't: no such column, nothing in it, or -1 throughout."""
    if not set(roles.labels) <= set(table.names):
        return roles.text in table.names and not set(roles.labels) & set(table.names)
    return len(table) > 0 and all(str(cell).strip() in ("", "None", "-1") for name in roles.labels for cell in table.column(name))


# --- texts

def _texts(table: Table, looks: dict[str, str], wanted: Wanted) -> tuple[str, str | None]:
    if wanted.text is not None:
        return wanted.text, wanted.pair
    found = [name for name, kind in looks.items() if kind == "text" and name != wanted.pair]
    if not found:
        rest = [name for name, kind in looks.items() if kind != "empty" and name != wanted.pair]
        found = [name for name in rest if plain(name) in TEXT_NAMES] or (rest if len(rest) == 1 else [])
    if wanted.pair is None:
        pairs = [(one, other) for one in found for other in found if _belong(plain(one), plain(other))]
        if not table.header and len(found) == 2:
            pairs = [(found[0], found[1])]
        pairs = [both for both in pairs if plain(both[0]) in TEXT_NAMES] or pairs
        if len(pairs) == 1:
            return pairs[0]
    if len(found) > 1:
        found = [name for name in found if plain(name) in TEXT_NAMES]
    if len(found) != 1:
        raise UserError(f"{table.path}: which column is the text? It has {table.listed()}: name it with --text-column, and with "
                        "--pair-column the second one where texts come in pairs")
    return found[0], wanted.pair


def of_texts(table: Table, wanted: Wanted, pairs: bool, but: Iterable[str] = (), reader: str = "the data have") -> tuple[str, str | None]:
    """The columns of the text and of its partner in a table that may have no labels: as flags say where it has such, or else by names and
    cells; none of `but`. Raises UserError where there is more than one choice, or none, and for one text where pairs are wanted or two
    (as `reader` does).
    """
    text, pair = (name if name in table.names else None for name in (wanted.text, wanted.pair))
    names = [name for name in table.names if name not in but]
    if text is None and not pairs and len(names) == 1:
        return names[0], None
    looks = {name: look(table.column(name)) for name in names}
    words = {name: "text" if kind in ("label", "constant") and any(isinstance(cell, str) for cell in table.column(name)) else kind
             for name, kind in looks.items()}  # of few rows texts look like labels
    text, pair = _texts(table, looks if "text" in looks.values() else words, Wanted(text, pair))
    if (pair is not None) != pairs:
        raise UserError(f"{table.path} has {'two texts' if pair else 'one text'} a row, {reader} {'pairs' if pairs else 'one'}: name "
                        f"the column{'s' if pairs else ''} with --text-column{' and --pair-column' if pairs else ''}")
    return text, pair


def _belong(one: str, other: str) -> bool:
    """Whether two names are those of a pair, in this order: text1 and text2, a_text and b_text, premise and hypothesis."""
    if (one, other) in PAIR_NAMES:
        return True
    differ = [(a, b) for a, b in zip(re.findall(r"\d+|[a-z]+|.", one), re.findall(r"\d+|[a-z]+|.", other), strict=False) if a != b]
    return one.count("_") == other.count("_") and len(one) == len(other) and differ in ([("1", "2")], [("a", "b")], [("0", "1")])


def texts(table: Table, name: str) -> list[str]:
    """A column's texts, without blanks around them. Raises UserError with the line of one that is empty."""
    found = []
    for line, cell in zip(table.lines, table.column(name), strict=True):
        text = "" if cell is None else str(cell).strip()
        if not tsv.visible(text):
            raise UserError(f"{table.path}:{line}: empty sentence: fill it in or delete the line")
        found.append(text)
    return found


def same(table: Table, roles: Roles) -> None:
    """Raises UserError where a part hasn't the columns that the roles name, or no rows."""
    if not len(table) and not table.names:
        raise UserError(f"{table.path} holds no sentences: fill it with sentence<TAB>label lines")
    for name in (roles.text, roles.pair, *roles.labels):
        if name is not None:
            table.column(name)
    if not len(table):
        raise UserError(f"{table.path} holds no sentences: fill it with sentence<TAB>label lines")

"""What classes are called: by labels.txt, or by the labels of the training set; and which of them a label means.

Names are compared in one Unicode normal form (NFC) and without blanks around them; they are otherwise the user's own words. Numbers are
names too, in numeric order, and count classes only where labels.txt gives these other names.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from common.cli import UserError, say
from common.texts.tsv import decoded, shown, visible

MOST_CLASSES = 1000
MOST_DIGITS = 100  # a float has 17, a database's key 20
NAMED = 10  # names in a message


def normal(label: str) -> str:
    """A label as it is compared: in NFC, without blanks and marks without width around it."""
    start, end = 0, len(label)
    while start < end and not visible(label[start]):
        start += 1
    while end > start and not visible(label[end - 1]):
        end -= 1
    return unicodedata.normalize("NFC", label[start:end])


def alike(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether two lists name the same classes in the same order."""
    return [normal(name) for name in some] == [normal(name) for name in others]


def listed(names: Iterable[str]) -> str:
    """Names in a message: the first ones, and how many more."""
    names = list(names)
    return ", ".join(shown(name) for name in names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def number(label: str) -> Decimal | None:
    """A label's value where it is a number (1, -1, 01, 1.0); None for a name, and for what has more digits than any number."""
    digits = label.removeprefix("-").removeprefix("+").replace(".", "", 1)
    return Decimal(label) if digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS and not label.startswith("-+") else None


def _look(label: str) -> str:
    """What is left of a label where case, blanks and the form of its letters don't count."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKC", label) if unicodedata.category(sign) != "Cf")
    return " ".join(plain.casefold().split())


def _unwritable(label: str) -> bool:
    return any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in label)


def in_file(path: Path) -> list[str]:
    """The names in labels.txt, a line each. Raises UserError where it names no class, or one class twice."""
    if not path.is_file():
        raise UserError(f"{path} is no file: it names the classes, a line each, or isn't there")
    names: list[str] = []
    lines: dict[str | Decimal, int] = {}
    for line, text in enumerate(decoded(path).split("\n"), 1):
        name = normal(text)
        if not name:
            continue
        if _unwritable(name):
            raise UserError(f"{path}:{line}: {shown(name)} holds a tab or another control character: one name a line")
        value = number(name)
        key = name if value is None else value
        if key in lines:
            raise UserError(f"{path}:{line}: {shown(name)} stands in line {lines[key]} already: name each class once")
        lines[key] = line
        names.append(name)
    if not names:
        raise UserError(f"{path} names no classes: fill it in or delete it")
    if len(names) == 1:
        raise UserError(f"{path} names the one class {shown(names[0])}: a classifier needs two or more")
    return names


def of_data(path: Path | str, labels: list[str], lines: list[int]) -> list[str]:
    """The names that a training set's labels (`normal`, and the lines that they stand in) give: numbers by value, names by alphabet.

    Raises UserError for numbers among names, for names that only look different, and for too many.
    """
    counts = Counter(labels)
    values = {label: number(label) for label in counts}
    first = dict(zip(reversed(labels), reversed(lines), strict=True))
    if None in values.values():
        numbers = [label for label, value in values.items() if value is not None]
        if numbers:
            names = [label for label in counts if label not in numbers]
            few, many = sorted((names, numbers), key=lambda some: sum(counts[label] for label in some))
            raise UserError(f"{path}:{first[few[0]]}: label {shown(few[0])} where others are {listed(many)}: numbers and names are mixed: "
                            "write one or the other, or name every class in labels.txt")
        _refuse_lookalikes(path, first)
        found = sorted(counts)
    else:
        found = _numbers(path, {label: value for label, value in values.items() if value is not None})
    if len(found) > MOST_CLASSES:
        scores = " Scores are --task regression;" if None not in values.values() else ""
        raise UserError(f"{path}: {len(found):,} classes by its labels, more than {MOST_CLASSES:,}: is this the column of labels?{scores} "
                        "so many classes are named in labels.txt")
    return found


def _refuse_lookalikes(path: Path | str, first: dict[str, int]) -> None:
    seen: dict[str, str] = {}
    for label in sorted(first, key=lambda label: first[label]):
        other = seen.setdefault(_look(label), label)
        if other != label:
            raise UserError(f"{path}:{first[label]}: label {shown(label)} beside {shown(other)} (line {first[other]}): they differ in "
                            "case, blanks or the form of letters alone: write one of them, or name both in labels.txt")


def _numbers(path: Path | str, values: dict[str, Decimal]) -> list[str]:
    """Names of classes that are numbers, by value: as they are written, but for 1.0 and what is written in two ways."""
    spellings: dict[Decimal, set[str]] = {}
    for label, value in values.items():
        spellings.setdefault(value, set()).add(label)
    whole = all(value == int(value) for value in spellings)
    names, changed = [], []
    for value in sorted(spellings):
        spelled = sorted(spellings[value])
        plain = str(int(value)) if value == int(value) else str(value)
        names.append(plain if len(spelled) > 1 or whole and not spelled[0].lstrip("-").isdecimal() else spelled[0])
        changed += [label for label in spelled if label != names[-1]]
    if changed:
        say(f"{path}: the labels {listed(changed)} are whole numbers: the classes are called {listed(names)}")
    return names


def ids(path: Path | str, labels: list[str], lines: list[int], names: list[str], count: bool) -> list[int]:
    """The class of each label; where `count`, and no name is a number, numbers from 0 mean the names in their order.

    Raises UserError for the first label that means none, with how many do.
    """
    by_name: dict[str | Decimal, int] = {name: i for i, name in enumerate(names)}
    values = [number(name) for name in names]
    by_name |= {value: i for i, value in enumerate(values) if value is not None}
    if count and not any(value is not None for value in values):
        by_name |= {Decimal(i): i for i in range(len(names))}
    id_of: dict[str, int | None] = {}
    for label in set(labels):
        value = number(label)
        id_of[label] = by_name.get(label, by_name.get(value) if value is not None else None)
    unknown = [(line, label) for label, line in zip(labels, lines, strict=True) if id_of[label] is None]
    if unknown:
        line, label = unknown[0]
        known = listed(names) + (f", or the numbers 0 to {len(names) - 1}" if Decimal(0) in by_name and count else "")
        near = next((f" ({shown(name)} differs in case, blanks or the form of letters alone)" for name in names
                     if _look(name) == _look(label)), "")
        more = f"; {len(unknown):,} lines have unknown labels, {len({label for _, label in unknown}):,} different ones"
        raise UserError(f"{path}:{line}: unknown label {shown(label)}: known are {known}{near}{more if len(unknown) > 1 else ''}")
    return [found for label in labels if (found := id_of[label]) is not None]


def checked(path: Path | str, rows: list[tuple[int, str, str]]) -> list[str]:
    """The labels of rows (line, sentence, label), `normal`: said where that makes two the same.

    Raises UserError where one is missing or can't be a name.
    """
    normals = {label: normal(label) for label in {label for _, _, label in rows}}
    spelled: dict[str, set[str]] = defaultdict(set)
    for label, name in normals.items():
        spelled[name].add(label)
    for line, _, label in rows:
        if not normals[label]:
            raise UserError(f"{path}:{line}: unknown label '': every sentence needs one")
        if _unwritable(normals[label]):
            raise UserError(f"{path}:{line}: label {shown(label)} holds a control character: is a line break wrong there?")
    if merged := [name for name, spellings in spelled.items() if len(spellings) > 1]:
        say(f"{path}: labels that differ in blanks around them or in their Unicode form alone are one class: {listed(sorted(merged))}")
    return [normals[label] for _, _, label in rows]

"""What a user wants labelled: lines of text, as they come, or the rows of a table. Chunks of rows; of a model of pairs each is two texts.

A row without a text is an empty string, so that answers stay beside what they answer.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common import streams
from common.cli import UserError, warn
from common.texts import columns, stream_lines, tables, tsv
from common.texts.columns import Wanted
from common.texts.splits import Row
from common.texts.tables import Table

HINTS = {
    "carriage returns stand inside a line, which ends with a line feed here: it is answered as one text (tr '\\r' '\\n' parts it)":
        lambda text, number: "\r" in text,
    "its lines look like JSON: each is answered as it stands, names and brackets too; hand over the texts alone, or a .jsonl file":
        lambda text, number: number == 1 and text.startswith(("{", "[{")) and _is_json(text),
    "its first line looks like a table's header: each line is answered as it stands, with all columns; a table ends in .csv or .tsv":
        lambda text, number: number == 1 and _is_header(text)}


# --- a table

def table(file: str | None, wanted: Wanted) -> Table | None:
    """The table in a file whose name ends as a table's does; None of any other. Raises UserError where it can't be read.

    What is said of it goes to standard error: standard output is for answers.
    """
    if file is None or Path(file).suffix.lower() not in tables.ENDS or not Path(file).is_file():
        if wanted.names and file not in (None, "-"):
            with _found(file):
                os.stat(file)
        if wanted.names:
            raise UserError(f"--text-column and --pair-column name columns of a table: give --file one ({', '.join(tables.ENDS)})")
        return None
    with contextlib.redirect_stdout(sys.stderr):
        return tables.read(Path(file), wanted=wanted.names)


def of_table(table: Table, wanted: Wanted, pairs: bool, most: int) -> Iterator[list[Row]]:
    """The texts, or pairs, of a table, in its order, up to `most` at once; which columns they stand in is said. Raises UserError where
    that can't be known.
    """
    for name in wanted.names:
        table.column(name)
    text, pair = columns.of_texts(table, wanted, pairs)
    warn(f"{table.path}: labelled by {columns.called(text)}" + (f" and {columns.called(pair)}" if pair else ""))
    texts = [["" if cell is None else str(cell) for cell in table.column(name)] for name in (text, pair) if name]
    found: list[Row] = [(one, other) if tsv.visible(one) and tsv.visible(other) else "" for one, other in zip(*texts, strict=True)] \
        if pair else list(texts[0])
    for start in range(0, len(found), most):
        yield found[start:start + most]


# --- lines

def lines(texts: Sequence[str], file: str | None, most: int) -> Iterable[list[bytes]]:
    """The texts of a command line, or else the chunks of lines of a file or of standard input. Raises UserError where nothing can be read.
    """
    # What the shell handed over as other bytes becomes bytes again, to be refused like a file's.
    return [[os.fsencode(text) for text in texts]] if texts else stream_lines.chunks(opened(file), most)


def opened(file: str | None):
    """A binary stream of a file or of standard input. Raises UserError where nothing can be read."""
    if file in (None, "-"):
        if "stdin" in streams.closed:
            raise UserError("no texts, and standard input is closed: give texts, or --file")
        return sys.stdin.buffer
    with _found(file):
        if os.path.isdir(file):
            raise UserError(f"{file} is a directory: --file needs a text file, one text a line")
        return open(file, "rb")  # a pipe too, named or of the shell's <(…)


@contextlib.contextmanager
def _found(file: str) -> Iterator[None]:
    """What is asked of a file; a UserError where it isn't there or can't be read."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{file} not found: --file needs a text file, one text a line, or a table") from None
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}): --file needs a text file, one text a line") from None


def of_lines(lines: Iterable[list[bytes]], name: str, pairs: bool, hints: bool = True) -> Iterator[list[Row]]:
    """Chunks of lines as rows, of `pairs` TEXT<TAB>TEXT; with `hints` a word about what looks like something else than a text a line.

    Raises UserError with name and line where one isn't UTF-8, isn't a pair or can't be read.
    """
    number, left = 0, dict(HINTS) if hints else {}
    try:
        for chunk in lines:
            found: list[Row] = []
            for line in chunk:
                number += 1
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                for hint in [hint for hint, fits in left.items() if fits(text, number)]:
                    warn(f"{name}:{number}: {hint}")
                    del left[hint]
                found.append(_pair(text, f"{name}:{number}") if pairs else text)
            yield found
    except UnicodeDecodeError:
        raise UserError(f"{name}:{number}: bytes that aren't UTF-8: save the text as UTF-8") from None
    except OSError as error:
        raise UserError(f"{name}:{number + 1}: can't be read ({error.strerror})") from None


def _pair(text: str, where: str) -> Row:
    if not tsv.visible(text):
        return ""
    both = text.split("\t")
    if len(both) != 2 or not all(map(tsv.visible, both)):
        raise UserError(f"{where}: this model reads pairs of texts: give TEXT<TAB>TEXT, one tab between them")
    return both[0], both[1]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_header(text: str) -> bool:
    cells = [cell.strip(' "').lower() for cell in re.split(r"[\t,;]", text)]
    names = all(cell.isidentifier() for cell in cells)
    return len(cells) > 1 and names and not {"sentence", "text", "label"}.isdisjoint(cells)

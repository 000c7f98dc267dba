"""A table of sentences as rows of cells: GLUE's bare TSV, or one in which pandas or a spreadsheet put cells in quotes.

GLUE's files know no quoting: a quote is a character of its text. A spreadsheet puts a cell that holds a tab, a line break or a quote
in quotes, and doubles its own. Which of the two a file is shows in its cells; where it doesn't, the file is refused.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from common.cli import UserError, say

CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^"\t\n]*))(\t|\r?\n|\Z)')  # in quotes, or without any; then what ends it
WRAPPED = re.compile(r'"[^"]*(?:""[^"]*)*"')
AS_TEXT = "text (CSV, or tabs between the columns)"
NO_TEXT = {b"PK\x03\x04": f"a workbook or a zip archive: export its sheet as {AS_TEXT}",
           b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"a workbook (.xls): export its sheet as {AS_TEXT}",
           b"\x1f\x8b": f"compressed (gzip): unpack it to {AS_TEXT}", b"\x28\xb5\x2f\xfd": f"compressed (zstd): unpack it to {AS_TEXT}",
           b"\xfd7zXZ\0": f"compressed (xz): unpack it to {AS_TEXT}", b"PAR1\x15": f"a Parquet file: write it as {AS_TEXT}",
           b"SQLite format 3\0": f"a database (SQLite): write its table as {AS_TEXT}"}
BEGINNING = 4096  # bytes that show what a file is
SHOWN = 60  # characters of a cell in a message
Row = tuple[int, list[str]]  # the line that it begins on, and its cells


def shown(text: str) -> str:
    """A cell in a message of one line: cut where it is long, with what can't be seen written out."""
    text = text if len(text) <= SHOWN else text[:SHOWN] + "…"
    return f"'{text}'" if text.isprintable() else ascii(text)


def visible(text: str) -> bool:
    """Whether there is anything to read: more than blanks, controls and marks without width."""
    return any(unicodedata.category(sign) not in ("Cc", "Cf", "Zs", "Zl", "Zp") for sign in text)


def decoded(path: Path) -> str:
    """A text file's content without its byte-order mark. Raises UserError where it isn't UTF-8 with line feeds."""
    content = path.read_bytes()
    refuse_other(path, content[:BEGINNING])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: bytes that aren't UTF-8: save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: a NUL byte: the file is damaged, or no text")
    refuse_returns(path, content)
    return text.lstrip("\ufeff")


def refuse_other(path: Path, begun: bytes) -> None:
    """Raises UserError where a file of text begins like one of another kind, by its first BEGINNING bytes."""
    for start, what in NO_TEXT.items():
        if begun.startswith(start):
            raise UserError(f"{path} is {what} in UTF-8")
    if begun.startswith((b"\xff\xfe", b"\xfe\xff")) or 0 in begun and _every_other_is_nul(begun):
        raise UserError(f"{path} is UTF-16 (a spreadsheet's 'Unicode text'): save the file as UTF-8")


def refuse_returns(path: Path, begun: bytes) -> None:
    """Raises UserError where the first line of a file, which begins so, isn't ended by a line feed."""
    end = begun.find(b"\n")
    if b"\r" in begun[:end if end >= 0 else None].rstrip(b"\r"):
        raise UserError(f"{path}: its lines end in a carriage return alone (an old Mac's): save it with line feeds "
                        r"(tr '\r' '\n' makes them)")


def _every_other_is_nul(content: bytes) -> bool:
    return any(content[start::2].count(0) > len(content) / 8 for start in (0, 1))


def read(path: Path) -> list[Row]:
    """The rows that hold anything, the header's too, where it has one. Raises UserError for what can't be read in one way only."""
    return _rows(path, decoded(path))


def header(cells: list[str]) -> list[str]:
    """The header's names; columns without one at its end, which a trailing tab makes, don't count."""
    names = [cell.strip().strip("\ufeff\u200b").strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def fits(cells: list[str], width: int) -> bool:
    """Whether a row has the header's columns, and at most empty ones behind them."""
    return len(cells) >= width and not any(visible(cell) for cell in cells[width:])


# --- quotes

class _Misquoted(Exception):
    """A line that can't be one of cells in quotes."""

    def __init__(self, line: int):
        super().__init__(line)
        self.line = line


def _rows(path: Path, text: str) -> list[Row]:
    """The rows that hold anything, in the one of two readings that the file allows. Raises UserError where it allows both or neither."""
    bare = _with_text((number, line.rstrip("\r").split("\t")) for number, line in enumerate(text.split("\n"), 1))
    if '"' not in text or not any(cell.startswith('"') for _, cells in bare for cell in cells):
        return bare
    wrapped = [(line, cell) for line, cells in bare for cell in cells if WRAPPED.fullmatch(cell.strip())]
    doubled = [line for line, cell in wrapped if '""' in cell.strip()[1:-1]]
    header_wrapped = any(WRAPPED.fullmatch(cell) for cell in bare[0][1])
    try:
        quoted = _with_text(_in_quotes(text))
        misfit = _misfit(quoted)
    except _Misquoted as error:
        misfit = error.line
    if misfit is None:
        spanning = next((line for line, cells in quoted if any("\n" in cell for cell in cells)), None)
        if spanning is not None and _misfit(bare) is None and not header_wrapped and not doubled:
            raise UserError(f"{path}:{spanning}: a quote begins a cell here and ends one in a later line: one text over several lines, or "
                            "texts of their own? Put quotes around all cells, the header's too, or take this one away")
        if header_wrapped or doubled or _misfit(bare) is not None or _needs_quotes(bare):
            say(f"{path}: read as a spreadsheet's or pandas' table: the quotes around cells are no part of them")
            return quoted
    elif (bare_misfit := _misfit(bare)) is not None or header_wrapped:
        line = misfit if header_wrapped or bare_misfit is None else bare_misfit
        other = f"; read with cells in quotes, line {misfit} is wrong" if line != misfit else ""
        raise UserError(f"{path}:{line}: its columns aren't the header's{other}: one tab between sentence and label; a text with a tab, "
                        "a line break or a quote in it stands in quotes, its own quotes doubled, or no cell does")
    elif doubled:
        raise UserError(f"{path}:{misfit}: a quote that is neither around its cell nor doubled, where line {doubled[0]} has quotes around "
                        "a cell and doubles its own: write all cells in the one way or the other")
    if wrapped:
        say(f"{path}: read as a bare table: the quotes around {len(wrapped)} cells are part of them")
    return bare


def _in_quotes(text: str) -> list[Row]:
    """The rows of a table whose cells stand in quotes where they need to. Raises _Misquoted where a quote can't be one of these."""
    rows: list[Row] = []
    cells: list[str] = []
    at, line, begun = 0, 1, 1
    while at < len(text):
        found = CELL.match(text, at)
        if not found:
            raise _Misquoted(line)
        inside, plain, end = found.groups()
        cells.append(inside.replace('""', '"') if plain is None else plain if end == "\t" else plain.removesuffix("\r"))
        at = found.end()
        line += found[0].count("\n")
        if end != "\t":
            rows.append((begun, cells))
            cells, begun = [], line
    if cells:
        rows.append((begun, [*cells, ""]))
    return rows


def _with_text(rows: Iterable[Row]) -> list[Row]:
    """The rows that hold anything: a blank line is none, nor are a spreadsheet's empty last ones."""
    return [(line, cells) for line, cells in rows if any(visible(cell) for cell in cells)]


def _misfit(rows: list[Row]) -> int | None:
    """The line of the first row that hasn't the header's columns; None where all have."""
    width = len(header(rows[0][1])) if rows else 0
    return next((line for line, cells in rows if not fits(cells, width)), None)


def _needs_quotes(bare: list[Row]) -> bool:
    """Whether the cells in quotes are all those of a column, or all those that hold a comma (Excel puts these in quotes in a TSV too)."""
    cells = [[cell.strip() for cell in column] for column in zip(*(row for _, row in bare[1:]), strict=False)]
    excels = all(("," in cell) == bool(WRAPPED.fullmatch(cell)) for column in cells for cell in column)
    return excels or any(all(map(WRAPPED.fullmatch, column)) for column in cells)

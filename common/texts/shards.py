"""Tables larger than memory: a file in shards of so many rows, and the rows of each in chunks, with those aside that can't be read.

Where a shard of text begins is known by one pass over the file; Parquet says itself how many rows it has. What columns there are, and of
what kind those of JSON lines, the first rows say. A row that doesn't fit them is a bad one; a quote that nothing ends makes a whole file
one, since nobody can say what its rows are.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from common.cli import UserError, warn
from common.texts import tables, tsv
from common.texts.columns import CELLS
from common.texts.headers import has_header
from common.texts.tables import Table

CHUNK = 4_096  # rows in memory at once
HEADER_AGAIN = "the header line again"


@dataclass(frozen=True)
class Shard:
    """So many `rows` of a file: its row `first`, counted from 0, and those behind it. Of text they begin at byte `at`, in line `line`."""

    index: int
    rows: int
    first: int = 0
    at: int = 0
    line: int = 1


@dataclass(frozen=True)
class Bad:
    """A row that can't be answered: its line, or of Parquet its row counted from 1, why, and what stands there."""

    place: int
    reason: str
    content: Any


@dataclass
class Chunk:
    """Rows as an Arrow table, the place of each (see `Bad`), and the bad ones among them."""

    table: Any
    places: list[int]
    bad: list[Bad]


@dataclass(frozen=True)
class Source:
    """A file of rows; `path` is where it stands, `name` what it is called below the directory that was named."""

    path: Path
    name: str

    place: ClassVar[str] = "line"  # what a row's number counts
    mend: ClassVar[str] = "save it as UTF-8, in rows of one kind"  # what helps where its rows can't be read

    def at(self, place: int) -> str:
        """A row in a message."""
        return f"{self.path}:{place}" if self.place == "line" else f"{self.path}, {self.place} {place}"

    def head(self, wanted: Iterable[str]) -> Table:
        """Its first rows. Raises UserError where the file can't be read."""
        raise NotImplementedError

    def names_of(self, head: Table) -> list[str]:
        """All of its columns, of which `head` are the first rows: those too that can't be a text."""
        return head.names

    def shards(self, rows: int) -> list[Shard]:
        """All of it, at most `rows` each; none where it has no rows. Raises UserError where rows can't be told apart."""
        raise NotImplementedError

    def has_rows(self) -> bool:
        """Whether there is a row in it, of whatever kind."""
        raise NotImplementedError

    def chunks(self, shard: Shard) -> Iterator[Chunk]:
        """The rows of a shard, in their order. Raises UserError where the file is damaged there."""
        raise NotImplementedError


# --- Parquet

class Parquet(Source):
    place = "row"
    mend = "write it again with a column of texts"

    def _file(self):
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path} can't be read as Parquet ({str(error).splitlines()[0]}): write it again")

    def _batches(self, rows: int, groups: list[int] | None = None):
        import pyarrow

        with self._file() as file:
            try:
                for batch in file.iter_batches(rows, row_groups=groups):
                    yield pyarrow.Table.from_batches([batch])
            except (pyarrow.ArrowException, OSError) as error:
                raise self._damaged(error) from None

    def head(self, wanted: Iterable[str]) -> Table:
        with self._file() as file:
            empty = file.schema_arrow.empty_table()
        first = next(self._batches(CELLS), empty)
        try:
            return tables.of_arrow(str(self.path), "parquet", first)
        except UnicodeDecodeError:
            return tables.of_arrow(str(self.path), "parquet", _legible(first))

    def names_of(self, head: Table) -> list[str]:
        with self._file() as file:
            return file.schema_arrow.names

    def has_rows(self) -> bool:
        with self._file() as file:
            return file.metadata.num_rows > 0

    def shards(self, rows: int) -> list[Shard]:
        with self._file() as file:
            count = file.metadata.num_rows
        return [Shard(index, min(rows, count - first), first) for index, first in enumerate(range(0, count, rows))]

    def chunks(self, shard: Shard) -> Iterator[Chunk]:
        with self._file() as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        begins = [0, *itertools.accumulate(sizes)]
        last = shard.first + shard.rows
        groups = [i for i, size in enumerate(sizes) if begins[i] < last and begins[i] + size > shard.first]
        at = begins[groups[0]]
        for table in self._batches(CHUNK, groups):
            begin, end = max(shard.first - at, 0), min(last - at, len(table))
            if begin < end:
                yield Chunk(table.slice(begin, end - begin), list(range(at + begin + 1, at + end + 1)), [])
            at += len(table)
            if at >= last:
                return


def _legible(table):
    """A table whose texts are UTF-8, with what is none written out."""
    import pyarrow

    for at, field in enumerate(table.schema):
        if pyarrow.types.is_string(field.type) or pyarrow.types.is_large_string(field.type):
            cells = table.column(at).cast(pyarrow.large_binary()).to_pylist()
            cells = [None if cell is None else cell.decode(errors="backslashreplace") for cell in cells]
            table = table.set_column(at, field, pyarrow.array(cells, field.type))
    return table


# --- text

class Lines:
    """The lines of a text file, opened in binary where one begins, which is number `number`. `at` is the byte behind the last one, and
    `broken` says of lines why they are no text.
    """

    def __init__(self, handle, number: int = 1):
        self.handle, self.number, self.at = handle, number, handle.tell()
        self.broken: dict[int, str] = {}

    def __iter__(self) -> Iterator[str]:
        for raw in self.handle:
            coding = "utf-8-sig" if self.at == 0 else "utf-8"
            try:
                line = raw.decode(coding)
            except UnicodeDecodeError:
                line = raw.decode(coding, "backslashreplace")
                self.broken[self.number] = "bytes that aren't UTF-8"
            if "\0" in line:
                self.broken[self.number] = "a NUL byte"
            self.at += len(raw)
            self.number += 1
            yield line

    def fault(self, line: int) -> str | None:
        """Why the row that begins in `line` and was just read is no text; None where it is."""
        return next((self.broken[number] for number in range(line, self.number) if number in self.broken), None) if self.broken else None


class TextSource(Source):
    """What files of lines share; a row is (line, what stands there)."""

    def rows(self, lines: Lines) -> Iterator[tuple[int, Any]]:
        """The rows that hold anything."""
        raise NotImplementedError

    def chunk(self, rows: list[tuple[int, Any]], bad: list[Bad]) -> Chunk:
        """Rows as a table, in which those that are no rows of it join the bad ones."""
        raise NotImplementedError

    def header_rows(self) -> int:
        """How many rows stand above the first."""
        return 0

    def beginning(self, most: int) -> Iterator[tuple[int, Any, str | None]]:
        """Its first rows, the header's too, each with why it is no text, or None where it is."""
        with self.path.open("rb") as handle:
            begun = handle.read(tsv.BEGINNING)
            tsv.refuse_other(self.path, begun)
            tsv.refuse_returns(self.path, begun)
            handle.seek(0)
            lines = Lines(handle)
            for line, row in itertools.islice(self.rows(lines), most):
                yield line, row, lines.fault(line)

    def begun(self, most: int) -> list[tuple[int, Any]]:
        """Those of its first rows that are text, the header's too."""
        return [(line, row) for line, row, fault in self.beginning(most) if fault is None]

    def has_rows(self) -> bool:
        above = self.header_rows()
        return sum(1 for _ in self.beginning(above + 1)) > above

    def shards(self, rows: int) -> list[Shard]:
        found: list[Shard] = []
        with self.path.open("rb") as handle:
            lines = Lines(handle)
            body = self.rows(lines)
            for _ in itertools.islice(body, self.header_rows()):
                pass
            while True:
                start = Shard(len(found), 0, len(found) * rows, lines.at, lines.number)
                count = sum(1 for _ in itertools.islice(body, rows))
                if not count:
                    return found
                found.append(replace(start, rows=count))

    def chunks(self, shard: Shard) -> Iterator[Chunk]:
        with self.path.open("rb") as handle:
            handle.seek(shard.at)
            lines = Lines(handle, shard.line)
            body, left = self.rows(lines), shard.rows
            while left:
                rows, bad, read = [], [], 0
                for line, row in itertools.islice(body, min(left, CHUNK)):
                    read += 1
                    if (reason := lines.fault(line)) is None:
                        rows.append((line, row))
                    else:
                        bad.append(Bad(line, reason, row))
                if not read:
                    raise UserError(f"{self.path} has become shorter: leave files alone while they are read")
                left -= read
                yield self.chunk(rows, bad)


@dataclass(frozen=True)
class Csv(TextSource):
    """A table of text: all cells are text, and stay it."""

    delimiter: str = ","
    names: tuple[str, ...] = ()
    header: bool = True

    @classmethod
    def of(cls, path: Path, name: str, wanted: Iterable[str]) -> "Csv":
        """The file with its delimiter and its columns. Raises UserError where there is nothing in it, or no rows can be told apart."""
        def lines() -> Iterator[str]:
            with path.open("rb") as handle:
                yield from Lines(handle)

        first = cls(path, name, tables.delimiter_of(path, lines))
        for line, _, fault in first.beginning(1):
            if fault is not None:
                raise UserError(f"{path}:{line}: {fault} in the first row, which may name the columns: save the file as UTF-8")
        rows = first.begun(tables.ROWS_BELOW)
        if not rows:
            return first
        header, names = has_header(rows, wanted), tsv.header(rows[0][1])
        if header and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}:{rows[0][0]}: {names.count(twice)} columns are called '{twice}': leave one")
        return replace(first, header=header, names=tuple(names if header else map(str, range(1, len(names) + 1))))

    def rows(self, lines: Lines) -> Iterator[tuple[int, Any]]:
        return tables.delimited(self.path, lines, self.delimiter, lines.number)

    def header_rows(self) -> int:
        return int(self.header)

    def head(self, wanted: Iterable[str]) -> Table:
        rows = [row for row in self.begun(CELLS) if self._misfit(row[1]) in (None, HEADER_AGAIN)]
        rows = rows[:1] + [row for row in rows[1:] if self._misfit(row[1]) is None]
        return tables.of_rows(self.path, rows, tables.between(self.delimiter), "csv", self.header, wanted)

    def _misfit(self, cells: list[str]) -> str | None:
        if self.header and len(cells) >= len(self.names) and tuple(tsv.header(cells)) == self.names:
            return HEADER_AGAIN
        if tsv.fits(cells, len(self.names)):
            return None
        return f"{len(cells)} columns where the {'header' if self.header else 'first line'} has {len(self.names)}"

    def chunk(self, rows: list[tuple[int, Any]], bad: list[Bad]) -> Chunk:
        import pyarrow

        good = []
        for line, cells in rows:
            if (reason := self._misfit(cells)) is None:
                good.append((line, cells))
            else:
                bad.append(Bad(line, reason, cells))
        columns = [pyarrow.array([cells[at] for _, cells in good], pyarrow.string()) for at in range(len(self.names))]
        return Chunk(pyarrow.Table.from_arrays(columns, list(self.names)), [line for line, _ in good], bad)


@dataclass(frozen=True)
class JsonLines(TextSource):
    """An object a line; `kinds` are what its columns hold, by `kinds_of`: a type of Arrow, or None of what stays JSON."""

    kinds: tuple[tuple[str, Any], ...] = ()

    def rows(self, lines: Lines) -> Iterator[tuple[int, Any]]:
        return ((lines.number - 1, line) for line in lines if line.strip())

    def objects(self) -> list[tuple[int, dict]]:
        """The first rows that are such. Raises UserError where the file is one list."""
        rows = self.begun(CELLS)
        if rows and rows[0][1].lstrip().startswith("["):
            raise UserError(f"{self.path}: a list of JSON objects: write one object a line")
        return [(line, row) for line, text in rows if isinstance(row := _parsed(text), dict)]

    def head(self, wanted: Iterable[str]) -> Table:
        return tables.of_objects(self.path, self.objects())

    def chunk(self, rows: list[tuple[int, Any]], bad: list[Bad]) -> Chunk:
        import pyarrow

        kinds = dict(self.kinds)
        good: list[tuple[int, str, dict]] = []
        for line, text in rows:
            row = _parsed(text)
            if not isinstance(row, dict):
                bad.append(Bad(line, "no JSON object", text.rstrip("\r\n")))
            elif unknown := row.keys() - kinds.keys():
                bad.append(Bad(line, f"a key that the first rows don't have: {tsv.shown(min(unknown))}", row))
            else:
                good.append((line, text, row))
        for name, kind in kinds.items():  # what fits none of its column's cells leaves with its row
            misfits = _misfits([row.get(name) for _, _, row in good], kind)
            bad += [Bad(good[at][0], f"column {tsv.shown(name)} holds no {kind or 'text'} here", good[at][2]) for at in misfits]
            good = [row for at, row in enumerate(good) if at not in misfits]
        columns = [_array([row.get(name) for _, _, row in good], kind) for name, kind in kinds.items()]
        return Chunk(pyarrow.Table.from_arrays(columns, list(kinds)), [line for line, _, _ in good], bad)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _array(cells: list, kind):
    """Cells as an Arrow array; without a kind what is no text is written as JSON."""
    import pyarrow

    if kind is None:
        cells = [cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in cells]
    return pyarrow.array(cells, kind or pyarrow.string())


def _misfits(cells: list, kind) -> set[int]:
    """Which cells are none of a kind."""
    return set() if _fit(cells, kind) else {at for at, cell in enumerate(cells) if not _fit([cell], kind)}


def _fit(cells: list, kind) -> bool:
    try:
        _array(cells, kind)
    except (ValueError, TypeError, OverflowError):  # Arrow's own errors are these too, and half a surrogate pair's
        return False
    return True


def kinds_of(heads: Iterable[list[dict]]) -> tuple[tuple[str, Any], ...]:
    """(column, its type or None) of the first rows of one or more files of JSON lines: that of all its cells, decimals where some are; None
    where they differ, where there are objects among them, or nothing at all.
    """
    import pyarrow

    cells: dict[str, list] = {}
    for rows in heads:
        for row in rows:
            for name, cell in row.items():
                cells.setdefault(name, []).append(cell)
    found: dict[str, Any] = {}
    for name, column in cells.items():
        kind = inferred(column)
        nested = kind is not None and (pyarrow.types.is_nested(kind) and (
            not pyarrow.types.is_list(kind) or pyarrow.types.is_nested(kind.value_type) or pyarrow.types.is_null(kind.value_type)))
        found[name] = None if kind is None or nested or pyarrow.types.is_null(kind) else kind
    return tuple(found.items())


def inferred(cells: list):
    """The type of Arrow that holds all of these, whole numbers above 2^63 too; None where none does. A text's broken characters are no
    reason to take it for anything else.
    """
    import pyarrow

    try:
        kind = pyarrow.infer_type(cells)
    except (ValueError, TypeError, OverflowError):
        return None
    if pyarrow.types.is_string(kind) or _fit(cells, kind):
        return kind
    return pyarrow.uint64() if pyarrow.types.is_integer(kind) and _fit(cells, pyarrow.uint64()) else None


# --- files

ENDS = {".parquet": Parquet, ".csv": Csv, ".jsonl": JsonLines, ".ndjson": JsonLines}
OTHER_ENDS = (*sorted(set(tables.ENDS) - set(ENDS)), ".gz")  # of tables that aren't read in shards


def files(path: Path) -> list[tuple[Path, str]]:
    """(file, its name below `path`) of a file, or of all tables below a directory but those whose names begin with '.' or '_', in order.

    Raises UserError where there is none.
    """
    if path.is_file():
        if path.suffix.lower() not in ENDS:
            raise UserError(f"{path}: give {', '.join(ENDS)}, or a directory of such")
        return [(path, path.name)]
    if not path.is_dir():
        raise UserError(f"{path} not found: give a table ({', '.join(ENDS)}) or a directory of such")
    names = [file.relative_to(path).as_posix() for file in sorted(path.rglob("*"))
             if file.suffix.lower() in (*ENDS, *OTHER_ENDS) and file.is_file()]
    names = [name for name in names if not any(part.startswith((".", "_")) for part in name.split("/"))]
    found = [name for name in names if name.lower().endswith(tuple(ENDS))]
    others = [name for name in names if name.lower().endswith(OTHER_ENDS)]
    if not found:
        raise UserError(f"{path} holds no table that is read here" + (f", but {others[0]}" if others else "") +
                        f": give {', '.join(ENDS)}, or a directory of such")
    if others:
        warn(f"{path}: left out: {len(others):,} that may be tables too, first {others[0]}; {', '.join(ENDS)} are read here")
    return [(path / name, name) for name in found]


def sources(path: Path, wanted: Iterable[str]) -> list[Source]:
    """What `files` finds, ready to be read; all files of JSON lines with the columns that the first rows of any have."""
    wanted, found = list(wanted), []
    for file, name in files(path):
        kind = ENDS[file.suffix.lower()]
        found.append(Csv.of(file, name, wanted) if kind is Csv else kind(file, name))
    lines = [source for source in found if isinstance(source, JsonLines)]
    kinds = kinds_of([row for _, row in source.objects()] for source in lines)
    return [replace(source, kinds=kinds) if isinstance(source, JsonLines) else source for source in found]

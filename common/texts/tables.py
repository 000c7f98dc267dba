"""A table of texts as columns of cells, whoever wrote it: TSV, CSV, JSON lines, Parquet, a `datasets` directory, a set of the hub."""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import UserError
from common.texts import tsv
from common.texts.headers import has_header, known
from common.texts.tsv import Row, shown

DELIMITERS = ",;\t|"
ROWS_BELOW = 1_000  # in which a first row's cells are looked for
SAMPLE = 200  # rows by which a CSV's delimiter is known
TEXT_ENDS = (".tsv", ".tab", ".csv", ".jsonl", ".ndjson", ".json")
ENDS = (*TEXT_ENDS, ".parquet")
csv.field_size_limit(2**31 - 1)  # a cell may be as long as any text


@dataclass
class Table:
    """Columns side by side, each of as many cells: strings, and of typed formats numbers, truths, lists of these, and None too.

    `lines` say where a row begins in its file; `classes` are the names of what a typed column holds numbers of.
    """

    path: str
    kind: str
    names: list[str]  # 1, 2, … where there is no header
    columns: list[list]
    lines: list[int]
    header: bool = True
    header_line: int = 1
    classes: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list:
        """Its cells. Raises UserError where no column is called so, or two are."""
        if self.names.count(name) == 1:
            return self.columns[self.names.index(name)]
        if name in self.names:
            raise UserError(f"{self.path}:{self.header_line}: {self.names.count(name)} columns are called '{name}': leave one")
        below = (column[:ROWS_BELOW] for column in self.columns)
        if self.header and not known(self.names) and any(own and own in cells for own, cells in zip(self.names, below, strict=True)):
            raise UserError(f"{self.path}:{self.header_line}: no header: the first line is a row of data: write the columns' names above "
                            f"it, '{name}' among them")
        hint = ": a tab must part the columns" if len(self.names) == 1 and re.search(r"[,;|]|\w {2,}\w", self.names[0]) else ""
        raise UserError(f"{self.path}:{self.header_line}: no column '{name}', found {self.listed()}{hint}")

    def listed(self) -> str:
        """The columns' names for a message; where there is no header also how each begins."""
        if self.header:
            return ", ".join(map(shown, self.names[:12])) + (" …" if len(self.names) > 12 else "")
        return ", ".join(f"{name} ({shown(str(column[0])[:20])}…)" for name, column in zip(self.names, self.columns, strict=True))


def read(path: Path, header: bool | None = None, wanted: Iterable[str] = (), vectors: bool = False) -> Table:
    """The table in a file, read by what its name ends in. Of text, `header` says whether the first row names the columns; where None its
    cells do, and those that are `wanted`. With `vectors` typed columns of lists of decimals, embeddings as a rule, aren't left out.
    Raises UserError, with the line, for what can't be read in one way only.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file: a table is one")
    end = path.suffix.lower()
    if end == ".parquet":
        return _parquet(path, vectors)
    if end in (".jsonl", ".ndjson", ".json"):
        return _json(path)
    rows, between, kind = (*_csv(path), "csv") if end == ".csv" else (tsv.read(path), "tab", "tsv")
    return of_rows(path, rows, between, kind, header, wanted)


# --- text

def of_rows(path: Path, rows: list[Row], between: str, kind: str, header: bool | None, wanted: Iterable[str]) -> Table:
    """The table that rows of text are; what is `between` two columns stands in its messages, for the rest see `read`."""
    if not rows:
        return Table(str(path), kind, [], [], [])
    line, first = rows[0]
    header = has_header(rows, wanted) if header is None else header
    names = tsv.header(first)
    where = "the header" if header else "the first line"
    for number, cells in rows:
        if not tsv.fits(cells, len(names)):
            cause = "a carriage return in it ends no line" if any("\r" in cell for cell in cells) and kind == "tsv" else \
                f"one {between} between two columns"
            raise UserError(f"{path}:{number}: {len(cells)} columns where {where} has {len(names)}: {cause} (a text with a {between} or a "
                            "line break in it stands in quotes, its own quotes doubled)")
    if header:
        again = next((number for number, cells in rows[1:] if tsv.header(cells) == names), None)
        if again is not None:
            raise UserError(f"{path}:{again}: the header line again: delete it")
    else:
        names = [str(i) for i in range(1, len(names) + 1)]
    body = rows[1:] if header else rows
    columns = [[cells[at] for _, cells in body] for at in range(len(names))]
    return Table(str(path), kind, names, columns, [number for number, _ in body], header, line)


def _csv(path: Path) -> tuple[list[Row], str]:
    """(rows that hold anything, what is between two columns)."""
    text = tsv.decoded(path)
    delimiter = delimiter_of(path, lambda: io.StringIO(text, newline=""))
    return list(delimited(path, io.StringIO(text, newline=""), delimiter)), between(delimiter)


def between(delimiter: str) -> str:
    """A delimiter in a message."""
    return "tab" if delimiter == "\t" else f"'{delimiter}'"


def delimiter_of(path: Path, lines: Callable[[], Iterable[str]]) -> str:
    """The delimiter by which a CSV's first row has names that are known, or else all rows are as wide as the first; `lines` begins anew."""
    first = next(iter(lines()), "")

    def fitness(delimiter: str) -> tuple:
        try:
            rows = list(itertools.islice(delimited(path, lines(), delimiter), SAMPLE))
        except UserError:
            return False, 0, first.count(delimiter)
        width = len(rows[0][1]) if rows else 0
        whole = width > 1 and all(tsv.fits(cells, width) for _, cells in rows)
        return width > 1 and known(rows[0][1]), width if whole else 0, first.count(delimiter)

    return max(DELIMITERS, key=fitness)


def delimited(path: Path, lines: Iterable[str], delimiter: str, line: int = 1) -> Iterator[Row]:
    """The rows that hold anything, of a CSV's lines, the first of which is number `line`. Nothing is read ahead of a row.

    Raises UserError where a quote is neither around its cell nor doubled.
    """
    reader, before = csv.reader(lines, delimiter=delimiter, strict=True), line
    try:
        for cells in reader:
            if any(tsv.visible(cell) for cell in cells):
                yield line, cells
            line = reader.line_num + before
    except csv.Error:
        raise UserError(f"{path}:{line}: a quote that is neither around its cell nor doubled, or that nothing ends: a text with a quote, a "
                        f"'{delimiter}' or a line break in it stands in quotes, its own quotes doubled") from None


def _json(path: Path) -> Table:
    """Objects, one a line, or in one list: a key is a column."""
    text = tsv.decoded(path)
    rows: list[tuple[int, dict]] = []
    if text.lstrip().startswith("["):
        try:
            rows = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: no list of JSON objects ({error}): write one object a line") from None
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    rows.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}:{number}: no JSON object ({error}): one a line, with the same keys in all") from None
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: no JSON object but {shown(json.dumps(row))}: one a line, with the same keys in all")
    return of_objects(path, rows)


def of_objects(path: Path, rows: list[tuple[int, dict]]) -> Table:
    """The table of JSON objects, each with its line: a key is a column."""
    names = dict.fromkeys(name for _, row in rows for name in row)
    return Table(str(path), "json", list(names), [[row.get(name) for _, row in rows] for name in names], [number for number, _ in rows])


# --- typed

def _parquet(path: Path, vectors: bool) -> Table:
    """Columns of texts, numbers, truths, and lists of texts or whole numbers, and with `vectors` of decimals; others are left out."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as Parquet ({str(error).splitlines()[0]}): write it again") from None
    features = None
    if b"huggingface" in (table.schema.metadata or {}):
        import datasets

        features = datasets.Features.from_arrow_schema(table.schema)
    return of_arrow(str(path), "parquet", table, features, vectors)


def of_dataset(name: str, kind: str, dataset) -> Table:
    """A split of a `datasets` directory or of a set of the hub."""
    return of_arrow(name, kind, dataset.with_format("arrow")[:], dataset.features)


def of_arrow(path: str, kind: str, table, features=None, vectors: bool = False) -> Table:
    """The table of an Arrow one, without columns that hold no texts or labels; `features` are what `datasets` knows of these."""
    import pyarrow

    def readable(of) -> bool:
        if pyarrow.types.is_dictionary(of):
            return readable(of.value_type)
        if pyarrow.types.is_list(of) or pyarrow.types.is_large_list(of):
            return readable(of.value_type) and (vectors or not pyarrow.types.is_floating(of.value_type))
        return any(is_a(of) for is_a in (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_integer,
                                         pyarrow.types.is_floating, pyarrow.types.is_boolean, pyarrow.types.is_null))

    names = [field.name for field in table.schema if readable(field.type)]
    own = {name: getattr(features[name], "feature", features[name]) for name in names} if features else {}
    classes = {name: list(feature.names) for name, feature in own.items() if hasattr(feature, "names")}
    return Table(path, kind, names, [table[name].to_pylist() for name in names], list(range(1, len(table) + 1)), classes=classes)

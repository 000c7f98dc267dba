"""Answers as they are handed over: a line each, or columns beside those of the table that was asked about."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from common import streams
from common.cli import UserError
from common.facts import replace
from common.texts import columns, shards
from common.texts.splits import Row
from common.texts.tables import Table

OUTPUT_ENDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
PREFIX = "predicted_"  # of the columns that are new in a table, which has a label of its own as often as not


# --- lines

def line(read: Row, said: dict, as_json: bool) -> str:
    """A line of output: an answer as `Cascade.answers` gives it, and what was read, a text or two."""
    texts = [read] if isinstance(read, str) else list(read)
    if as_json:
        return json.dumps(said | dict(zip(("text", "second"), texts, strict=False)), ensure_ascii=False)
    answer, *others = (cell(value) for name, value in said.items() if name not in ("scores", "mark"))
    more = [cell(said[name]) for name in ("scores", "mark") if name in said]
    return "\t".join([answer, *(others or [""]), *more, *(" ".join(text.splitlines()).replace("\t", " ") for text in texts)])


def cell(value: str | float | list | dict | None) -> str:
    """A value in a column; those of several labels parted by commas."""
    if isinstance(value, dict):
        return ",".join(f"{name}={cell(score)}" for name, score in value.items())
    if isinstance(value, list):
        return ",".join(map(cell, value))
    return value if isinstance(value, str) else "" if value is None else f"{value:.4f}"


# --- tables

def refuse(path: Path, table: Table | None) -> None:
    """Raises UserError for an output that couldn't be written, before any answer."""
    if path.suffix.lower() not in OUTPUT_ENDS:
        raise UserError(f"--output {path}: its ending says what is written: give one of {', '.join(OUTPUT_ENDS)}")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no directory {path.parent}: make it first")
    if path.is_dir():
        raise UserError(f"--output {path} is a directory: give a file")
    if table is None:
        return
    names = table.names
    if table.kind == "parquet":
        import pyarrow.parquet

        names = pyarrow.parquet.read_schema(table.path).names  # those too that no model reads
    elif path.suffix.lower() == ".parquet":
        _arrow([], table)
    refuse_taken(table.path, [name for name in names if name.startswith(PREFIX)])


def refuse_taken(path: str | Path, taken: Sequence[str]) -> None:
    """Raises UserError where a table has columns already that answers are to be called: nobody could read two of one name."""
    if taken:
        raise UserError(f"{path} has the column {columns.called(taken[0])} already, of an earlier answer: take it out, or rename it")


def write(path: Path, rows: Sequence[Row], said: list[dict], names: Sequence[str], table: Table | None) -> None:
    """The answers to `rows`, and beside them the columns of the `table` that these stand in, or else the texts themselves; `names` are
    the model's labels. A reader finds the whole file, or what stood there before. Raises UserError where columns don't fit the format.
    """
    added, end = _added(said, names), path.suffix.lower()
    if end == ".parquet":
        import pyarrow.parquet

        whole = _arrow(rows, table)
        for name, values in added.items():
            whole = whole.append_column(name, pyarrow.array(values))
        replace(path, lambda fresh: pyarrow.parquet.write_table(whole, fresh))
        return
    every = _plain(rows, table) | added
    parsed = zip(*every.values(), strict=True)
    if end in (".jsonl", ".ndjson"):
        text = "".join(json.dumps(dict(zip(every, row, strict=True)), ensure_ascii=False, default=str) + "\n" for row in parsed)
    else:
        out = io.StringIO()
        writer = csv.writer(out, delimiter="\t" if end == ".tsv" else ",", lineterminator="\n")
        writer.writerow(every)
        writer.writerows([_typed(value) for value in row] for row in parsed)
        text = out.getvalue()
    replace(path, lambda fresh: fresh.write_text(text, encoding="utf-8", errors=streams.LEGIBLE, newline=""))


def _plain(rows: Sequence[Row], table: Table | None) -> dict[str, list]:
    if table is not None and table.kind == "parquet":
        return _arrow(rows, table).to_pydict()
    if table is not None:
        return dict(zip(table.names, table.columns, strict=True))
    if all(isinstance(row, str) for row in rows):
        return {"text": list(rows)}
    pairs = [(row, "") if isinstance(row, str) else row for row in rows]
    return {"text": [one for one, _ in pairs], "second": [other for _, other in pairs]}


def _arrow(rows: Sequence[Row], table: Table | None):
    """The columns in their own types: of a Parquet file all of them, as they stand there."""
    import pyarrow
    import pyarrow.parquet

    if table is not None and table.kind == "parquet":
        return pyarrow.parquet.read_table(table.path)
    found = {}
    for name, cells in _plain(rows, table).items():
        try:
            found[name] = pyarrow.array(cells, shards.inferred(cells))
        except (ValueError, TypeError, OverflowError) as error:  # Arrow's own errors are these too, and half a surrogate pair's
            raise UserError(f"{table.path if table else 'the texts'}: {columns.called(name)} holds values of several types, or such as "
                            f"Parquet has none for ({str(error).splitlines()[0]}): write .jsonl or .csv") from None
    return pyarrow.table(found)


def _added(said: list[dict], names: Sequence[str]) -> dict[str, list]:
    """The columns of answers, {name: values}; of all scores one a label, empty where a row has no text."""
    found: dict[str, list] = {PREFIX + name: [answer[name] for answer in said] for name in (said[0] if said else ()) if name != "scores"}
    if said and "scores" in said[0]:
        found |= {f"{PREFIX}score_{name}": [answer["scores"].get(name) for answer in said] for name in names}
    return found


def _typed(value) -> str:
    """A cell of a text table: several labels parted by commas, numbers in full."""
    if isinstance(value, list) and all(isinstance(item, (str, float)) for item in value):
        return ",".join(map(str, value))
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)

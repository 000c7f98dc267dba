"""Answers to tables of any size. A shard of an input file is a file of the output, which is written whole or not at all.

What a run is to do stands in OUTPUT/_score.json before it begins; what it has done shows by which files are there. So whoever does a
shard twice, since a process died or a command was given again, writes the same file, and no row is lost or there twice. Rows that can't be
answered stand in OUTPUT/_bad_rows/, a file for each shard that has such, which is there before the shard's own. Tools that read a
directory of Parquet pass over names that begin with '_' or '.'.
"""

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from common import checkpoints, inference
from common.cascade import Cascade
from common.cli import UserError, say
from common.obstacles import obstacle
from common.texts import columns, outputs, shards, tsv
from common.texts.columns import Wanted
from common.texts.shards import Bad, Chunk, Shard, Source
from common.texts.splits import Row
from common.texts.tables import Table

PLAN, BAD_ROWS = "_score.json", "_bad_rows"
SCHEMA = 1
ENDS_READ = 1 << 16  # bytes at both ends of a file by which it is known again
GROUP_ROWS, GROUP_BYTES = 1 << 16, 1 << 26  # what a row group of the output holds at most, and the memory besides
NUMBERS, LISTS = ("score", "probability", "probabilities"), ("labels", "probabilities")  # of an answer's columns; see `common.tasks`


@dataclass(frozen=True)
class Job:
    """What all shards have in common: who answers, where, and what of a row is asked about."""

    checkpoint: Path
    output: Path
    text: str
    pair: str | None
    prefix: str
    stop_at_bad: bool


@dataclass(frozen=True)
class Task:
    """A shard of a file."""

    source: Source
    shard: Shard

    @property
    def name(self) -> str:
        """Its file below the output."""
        return f"{self.source.name}-{self.shard.index:05d}.parquet"


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: rows answered, bad ones, texts longer than the model reads; or the error that ended it, for the user."""

    rows: int = 0
    bad: int = 0
    cut: int = 0
    error: str | None = None


# --- the plan

def plan(data: Path, output: Path, checkpoint: Path, wanted: Wanted, rows: int, stop_at_bad: bool) -> tuple[Job, list[Task]]:
    """The job, and a task for each shard of `rows` rows that has no file yet. Raises UserError for input that can't be read in one way
    only, and where the output holds answers of another model, or to other texts.
    """
    if output.resolve() == data.resolve() or data.resolve() in output.resolve().parents:
        raise UserError(f"{output} is inside {data}, and would be read the next time: name a directory beside it")
    classifier = opened(checkpoint, 1)
    pairs = bool(classifier.checkpoint.manifest["dataset"].get("pairs"))
    sources = shards.sources(data, wanted.names)
    text, pair, names = _columns(sources, wanted, pairs)
    answers = answer_columns(classifier.task)
    job = Job(checkpoint.resolve(), output.resolve(), text, pair, outputs.PREFIX if names & set(answers) else "", stop_at_bad)
    if job.prefix:
        outputs.refuse_taken(data, sorted(names & {job.prefix + name for name in answers}))
        say(f"the input has a column {' and a column '.join(sorted(names & set(answers)))}: answers are called {job.prefix}…")
    # Absolute paths: who does a task may stand elsewhere.
    tasks = [Task(replace(source, path=source.path.absolute()), shard) for source in sources for shard in source.shards(rows)]
    _settle(output, {"schema": SCHEMA, "checkpoint": classifier.checkpoint.key, "text": text, "pair": pair, "prefix": job.prefix,
                     "rows_per_file": rows, "files": {source.name: identity(source.path) for source in sources}})
    clear(output)
    left = [task for task in tasks if not (output / task.name).is_file()]
    if len(left) < len(tasks):
        say(f"{len(tasks) - len(left):,} of {len(tasks):,} files of answers are there already")
    return job, left


def opened(checkpoint: Path, threads: int) -> inference.Classifier:
    """An exported model. Raises UserError for what is none."""
    if not str(checkpoints.read(checkpoint).stage).endswith(("_onnx", "_onnx_int8")):
        raise UserError(f"{checkpoint} is no exported model: python 11_export_onnx.py makes one, or name the compressed/ of shrink.py")
    return inference.open_classifier(checkpoint, threads)


def _columns(sources: list[Source], wanted: Wanted, pairs: bool) -> tuple[str, str | None, set[str]]:
    """The columns of the text and its partner, by the first file that has rows, and the names of all. Raises UserError where another
    file that has rows hasn't these.
    """
    heads = [source.head(wanted.names) for source in sources]
    full = [(source, head) for source, head in zip(sources, heads, strict=True) if len(head) or source.has_rows()]
    known = next((both for both in full if len(both[1]) and both[1].names), None)
    if full and known is None:
        raise UserError(f"{full[0][0].path}: no text can be read in its first rows: {full[0][0].mend}")
    if known is None:
        raise UserError(f"{sources[0].path} holds no rows" + (", nor does any other file there" if len(sources) > 1 else ""))
    source, first = known
    for name in wanted.names:
        _refuse_unread(source, first, name)
    text, pair = columns.of_texts(first, wanted, pairs, reader="this model reads")
    for source, head in full:
        for name in [text, *([pair] if pair else [])]:
            _refuse_unread(source, head, name)
    if set(wanted.names) < {text, pair} - {None}:
        found = f"the text is {tsv.shown(text)}" if pair is None else f"the two texts are {tsv.shown(text)} and {tsv.shown(pair)}"
        say(f"{first.path}: {found} (--text-column and --pair-column choose others)")
    return text, pair, {name for source, head in zip(sources, heads, strict=True) for name in source.names_of(head)}


def _refuse_unread(source: Source, head: Table, name: str) -> None:
    """Raises UserError where a file, of which `head` are the first rows, has no such column, or one that holds no texts."""
    if name not in head.names and (not head.names or name in source.names_of(head)):
        raise UserError(f"{source.path}: no column {tsv.shown(name)} can be read in it: {source.mend}")
    head.column(name)


def identity(path: Path) -> dict[str, int | str]:
    """{bytes, ends}: what a file of any size is known again by, its size and a hash over its beginning and end."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        digest = hashlib.sha256(handle.read(ENDS_READ))
        handle.seek(max(size - ENDS_READ, 0))
        digest.update(handle.read())
    return {"bytes": size, "ends": digest.hexdigest()}


def _settle(output: Path, asked: dict) -> None:
    """Writes the plan, or compares it with the one that is there, whose files may have become more. Raises UserError where they differ."""
    path = output / PLAN
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            files, rest = there["files"], {name: value for name, value in there.items() if name != "files"}
        except (ValueError, KeyError, AttributeError):
            raise UserError(f"{path} is damaged: name another directory, or delete {output}") from None
        differs = sorted(name for name in asked.keys() | rest.keys() if name != "files" and asked.get(name) != rest.get(name))
        changed = sorted(name for name, known in files.items() if asked["files"].get(name, known) != known)
        if differs or changed:
            what = ", ".join([f"another {name}" for name in differs] + [f"another {name} in the input" for name in changed[:3]])
            raise UserError(f"{output} holds answers of {what}: name another directory, or delete this one")
        asked = asked | {"files": files | asked["files"]}
    elif any(output.iterdir()):
        raise UserError(f"{output} isn't empty, and holds no {PLAN}: name a directory that is empty or not there yet")
    _write(path, lambda fresh: fresh.write_text(json.dumps(asked, indent=1, ensure_ascii=False) + "\n", encoding="utf-8",
                                                errors="backslashreplace"))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` write a file, flushes it, and gives it its name: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        write(fresh)
        with fresh.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def clear(output: Path) -> None:
    """Deletes what processes that were killed had begun to write."""
    for leftover in output.rglob(".*.partial"):
        leftover.unlink(missing_ok=True)


# --- a shard

class Scorer:
    """Answers shards with one session, opened at the first; `threads` are those of the session and of the tokenizer."""

    def __init__(self, job: Job, threads: int):
        os.environ |= {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}
        self.job, self.threads = job, threads

    @cached_property
    def classifier(self) -> inference.Classifier:
        return opened(self.job.checkpoint, self.threads)

    def __call__(self, task: Task) -> Outcome:
        """Writes a shard's file of answers, and before it that of its bad rows. What a user can mend is part of the outcome."""
        try:
            return self._score(task)
        except UserError as error:
            return Outcome(error=str(error))
        except FileNotFoundError as error:
            return Outcome(error=f"{error.filename} isn't there any more, or not on {platform.node()}: all machines need the same disk")
        except Exception as error:
            mendable = obstacle(error)
            if mendable is None:
                raise
            return Outcome(error=mendable)

    def _score(self, task: Task) -> Outcome:
        counts = {"rows": 0, "bad": 0}
        bad_rows: list[str] = []
        cut = self.classifier.cut_short

        def write(path: Path) -> None:
            import pyarrow.parquet

            writer, held = None, []
            with path.open("wb") as handle, ExitStack() as stack:
                for chunk in task.source.chunks(task.shard):
                    table, bad = self.answered(chunk)
                    if bad and self.job.stop_at_bad:
                        raise UserError(f"{task.source.at(bad[0].place)}: {bad[0].reason}: mend it, or let bad rows be put aside "
                                        "(--bad-rows aside)")
                    bad_rows.extend(_line(task.source, row) for row in bad)
                    counts["rows"] += len(table)
                    counts["bad"] += len(bad)
                    writer = writer or stack.enter_context(pyarrow.parquet.ParquetWriter(handle, table.schema))
                    held.append(table)
                    if sum(map(len, held)) >= GROUP_ROWS or sum(part.nbytes for part in held) >= GROUP_BYTES:
                        writer.write_table(pyarrow.concat_tables(held))
                        held.clear()
                if writer and held:
                    writer.write_table(pyarrow.concat_tables(held))
            aside = self.job.output / BAD_ROWS / f"{task.name.removesuffix('.parquet')}.jsonl"
            if bad_rows:
                _write(aside, lambda fresh: fresh.write_text("".join(bad_rows), encoding="utf-8", errors="backslashreplace"))

        _write(self.job.output / task.name, write)
        return Outcome(counts["rows"], counts["bad"], self.classifier.cut_short - cut)

    def answered(self, chunk: Chunk) -> tuple[Any, list[Bad]]:
        """(a chunk's rows that have a text, with their answers; all bad rows)."""
        import pyarrow

        faults: dict[int, str] = {}
        first = _texts(chunk.table, self.job.text, faults)
        second = None if self.job.pair is None else _texts(chunk.table, self.job.pair, faults)
        bad = [*chunk.bad, *(Bad(chunk.places[at], reason, _cells(chunk.table, at)) for at, reason in faults.items())]
        good = [at for at in range(len(first)) if at not in faults]
        texts: list[Row] = [first[at] if second is None else (first[at], second[at]) for at in good]
        said = Cascade(self.classifier).answers(texts)
        table = chunk.table if len(good) == len(first) else chunk.table.take(pyarrow.array(good, pyarrow.int64()))
        for name, kind in answer_columns(self.classifier.task).items():
            table = table.append_column(self.job.prefix + name, pyarrow.array([answer[name] for answer in said], kind))
        return table, sorted(bad, key=lambda row: row.place)


def answer_columns(task) -> dict[str, Any]:
    """{column: its Arrow type} of a task's answers: those of predict.py --json."""
    import pyarrow

    def kind(name: str):
        of = pyarrow.float64() if name in NUMBERS else pyarrow.string()
        return pyarrow.list_(of) if name in LISTS else of

    return {name: kind(name) for name in task.said(None)}


def _texts(table, name: str, faults: dict[int, str]) -> list[str]:
    """A column's texts without blanks around them; what is none gets an empty one, and a place among `faults` with the reason."""
    import pyarrow

    try:
        cells = table[name].to_pylist()
    except UnicodeDecodeError:
        cells = table[name].cast(pyarrow.large_binary()).to_pylist()
    texts = []
    for at, cell in enumerate(cells):
        try:
            text = "" if cell is None else cell.decode().strip() if isinstance(cell, bytes) else str(cell).strip()
        except UnicodeDecodeError:
            text = faults[at] = "bytes that aren't UTF-8"
        if not tsv.visible(text):
            faults[at] = "no text"
        texts.append(text)
    return texts


def _cells(table, at: int) -> dict:
    """A row as {column: cell}; a cell that is no UTF-8 as bytes."""
    import pyarrow

    def cell(value):
        try:
            return value.as_py()
        except UnicodeDecodeError:
            return value.cast(pyarrow.large_binary()).as_py()

    return {name: cell(table[name][at]) for name in table.column_names}


def _line(source: Source, bad: Bad) -> str:
    """A bad row as a line of JSON."""
    return json.dumps({"file": source.name, source.place: bad.place, "reason": bad.reason, "content": bad.content}, ensure_ascii=False,
                      default=str) + "\n"


# --- all of them

def tally(outcomes: Iterable[Outcome], rows: int) -> Outcome:
    """The sum of all outcomes, of `rows` rows in all, with a bar for people. Raises UserError at the first error; what is there stays."""
    from tqdm import tqdm

    total = Outcome()
    with tqdm(total=rows, unit=" rows", unit_scale=True, leave=False) as bar:
        for outcome in outcomes:
            if outcome.error is not None:
                raise UserError(outcome.error)
            total = Outcome(total.rows + outcome.rows, total.bad + outcome.bad, total.cut + outcome.cut)
            bar.update(outcome.rows + outcome.bad)
    return total

"""The report of a run: the form of its JSON, and the three files that it becomes."""

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from common import figures, tables
from common.cli import UserError, say
from common.facts import a_number, has_form, read_json

MAYBE = (a_number, None)
BATCHES = {batch: {"p50": MAYBE, "p90": MAYBE} for batch in ("1", "32")}
WORDS = ("key", "variant", "stage", "label", "path", "sha256", "runtime")
NUMBERS = ("accuracy", "delta", "agreement", "mcnemar_p", "respelled", "params", "size_mb", "total_mb", "load_ms", "peak_rss_mb",
           "gflops_128", "gflops_mean", "gmacs_16", "text_to_label_ms")
ROW = {name: str for name in WORDS} | {name: MAYBE for name in NUMBERS} | {
    "ci95": ([a_number], None), "structure": ({"heads": [int], "ffn": [int], "layers": int, "vocab": int}, None), "latency_ms": BATCHES,
    "speedup": {"1": MAYBE, "32": MAYBE}}
FORM = {"title": str, "baseline": str, "dataset": {"name": str, "sha256": str}, "models": [ROW]}  # what is read of a report


def now() -> str:
    return datetime.now().strftime("%Y-%m-%dT%H:%M:%S")


def read(path: Path) -> dict | None:
    """A report, or None where there is none that can be read."""
    report = read_json(path)
    return report if has_form(report, FORM) and report["models"] else None


def write(report: dict, folder: Path) -> list[Path]:
    """Writes final_report.json, then .md and .png drawn from what was written. Returns the three paths."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output-dir {folder}: a file stands there") from None
    paths = [folder / f"final_report.{ending}" for ending in ("json", "md", "png")]
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    written = json.loads(text)
    replace(paths[0], lambda temporary: temporary.write_text(text, encoding="utf-8"))
    replace(paths[1], lambda temporary: temporary.write_text(tables.markdown(written), encoding="utf-8"))
    replace(paths[2], lambda temporary: figures.figure(written, temporary))
    return paths


def replace(path: Path, writer: Callable[[Path], object]) -> None:
    """Lets `writer` fill a temporary file beside `path`, then renames it: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.stem}.new{path.suffix}")
    writer(temporary)
    os.replace(temporary, path)


def show(report: dict, paths: list[Path]) -> None:
    """Prints the title, the table, what is missing, and the paths."""
    say(f"\n{report['title']}\n\n{tables.table(report, 'simple')}\n")
    for line in [*tables.conditions(report), *tables.reasons(report)]:
        say(line)
    say("\n" + "\n".join(str(path) for path in paths))

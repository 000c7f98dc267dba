"""The report of a run: the form of its JSON, and the files that it becomes."""

import json
from datetime import UTC, datetime
from pathlib import Path

from common.cli import UserError, say
from common.facts import a_number, has_form, read_json, replace
from report import figures, page, tables

SCHEMA = 1
MAYBE = (a_number, None)
BATCHES = {batch: {"p50": MAYBE, "p90": MAYBE} for batch in ("1", "32")}
WORDS = ("key", "variant", "stage", "label", "path", "sha256", "runtime")
NUMBERS = ("accuracy", "delta", "agreement", "mcnemar_p", "respelled", "params", "size_mb", "total_mb", "load_ms", "peak_rss_mb",
           "gflops_128", "gflops_mean", "gmacs_16", "text_to_label_ms")
ROW = {name: str for name in WORDS} | {name: MAYBE for name in NUMBERS} | {
    "ci95": ([a_number], None), "structure": ({"heads": [int], "ffn": [int], "layers": int, "vocab": int}, None), "latency_ms": BATCHES,
    "speedup": {"1": MAYBE, "32": MAYBE}}
SEEDS = [{"seed": a_number, "score": a_number}]
SHARES = ("accuracy", "agreement", "mcnemar_p", "respelled")  # between 0 and 1
AMOUNTS = ("params", "size_mb", "total_mb", "load_ms", "peak_rss_mb", "gflops_128", "gflops_mean", "gmacs_16", "text_to_label_ms")
LEAST = 1e-9  # of an amount: less than this nothing takes, and no axis shows
FORM = {"title": str, "baseline": str, "dataset": {"name": str, "sha256": str}, "models": [ROW]}  # what is read of a report


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(path: Path) -> dict | None:
    """A report, or None where there is none that can be read."""
    report = read_json(path)
    return as_of_today(report) if has_form(report, FORM) and report["models"] else None


def as_of_today(report: dict) -> dict:
    """A report of earlier code, which knew no other score than accuracy, with the names of today."""
    report["dataset"].setdefault("metric", "accuracy")
    for row in report["models"]:
        row.setdefault("score", row["accuracy"])
        for seed in row.get("seeds", ()):
            if isinstance(seed, dict) and "accuracy" in seed:
                seed.setdefault("score", seed["accuracy"])
        for name in ("mean", "sd"):
            if f"accuracy_{name}" in row:
                row.setdefault(f"score_{name}", row[f"accuracy_{name}"])
    return report


def fault(report: dict) -> str | None:
    """What nothing measured gives in a report that has the form, or a form of later code, in some words; None where all is well."""
    schema = report.get("schema", SCHEMA)
    if not a_number(schema) or schema > SCHEMA:
        return f"its schema is {str(schema)[:20]!r}, this code reads {SCHEMA}: take newer code"
    keys = [row["key"] for row in report["models"]]
    if len(set(keys)) < len(keys):
        return "two of its rows have one key"
    for row in report["models"]:
        timed = {f"{name} {batch} {quantile}".strip(): value for name in ("latency_ms", "speedup") for batch in BATCHES
                 for quantile, value in (row[name][batch].items() if name == "latency_ms" else [("", row[name][batch])])}
        amounts = {name: row[name] for name in AMOUNTS} | timed
        correlates = report["dataset"].get("task") == "regression"  # scores are correlations there, and so is agreement
        shares = {name: row[name] for name in SHARES if not (correlates and name == "agreement")}
        least = -1 if correlates else 0
        wrong = [f"{name} is {value:g}, and must be above 0" for name, value in amounts.items() if a_number(value) and value < LEAST]
        wrong += [f"{name} is {value:g}, and must lie between 0 and 1" for name, value in shares.items()
                  if value is not None and not 0 <= value <= 1]
        if row["score"] is not None and not -1 <= row["score"] <= 1:
            wrong.append(f"score is {row['score']:g}, and must lie between -1 and 1")
        if row["delta"] is not None and not -1 <= row["delta"] <= 1:
            wrong.append(f"delta is {row['delta']:g}, and must lie between -1 and 1")
        bounds = row["ci95"]
        if bounds is not None and (len(bounds) != 2 or not least - LEAST <= bounds[0] <= bounds[1] <= 1 + LEAST):
            wrong.append(f"ci95 is no interval between {least} and 1")
        if not has_form(row.get("seeds", []), SEEDS):
            wrong.append("seeds is no list of seeds and their scores")
        if not has_form(row.get("padded"), ({"latency_ms": BATCHES}, None)):
            wrong.append("padded is no latency")
        if wrong:
            return f"{' '.join(row['key'].split())[:40]}: {wrong[0]}"
    return None


def write(report: dict, folder: Path) -> list[Path]:
    """Writes final_report.json, then .md, .html and .png drawn from what was written. Returns the paths."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output-dir {folder}: a file stands there") from None
    paths = [folder / f"final_report.{ending}" for ending in ("json", "md", "html", "png")]
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    written = as_of_today(json.loads(text))
    replace(paths[0], lambda temporary: temporary.write_text(text, encoding="utf-8"))
    replace(paths[1], lambda temporary: temporary.write_text(tables.markdown(written), encoding="utf-8"))
    replace(paths[2], lambda temporary: temporary.write_text(page.html(written), encoding="utf-8"))
    replace(paths[3], lambda temporary: figures.figure(written, temporary))
    return paths


def show(report: dict, paths: list[Path]) -> None:
    """Prints the title, the table, what is missing, and the paths."""
    say(f"\n{' '.join(report['title'].split())}\n\n{tables.table(report, 'simple')}\n")
    for line in [*tables.conditions(report), *tables.reasons(report)]:
        say(" ".join(line.split()))
    say("\n" + "\n".join(str(path) for path in paths))

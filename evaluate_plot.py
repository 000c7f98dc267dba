"""Compare any number of reports and checkpoints: one picture, one CSV.

    python evaluate_plot.py                                            RUN_DIR's report, and what its links point to
    python evaluate_plot.py runs/fast/final_report.json docs/results/sst2/final_report.json models/pruned_qkd4bit_full_<ts>

Reads final_report.json files (their rows as they were measured) and checkpoint directories (measured here: the score on the dev
set of --data-dir, and size). Paths that are missing are skipped, each with a line. Writes RUN_DIR/results/model_comparison.{png,csv}.
Seconds for reports; about ten seconds a small checkpoint on two cores.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms

MOST_ROWS = 1000  # each takes a third of an inch of the picture
FIELDS = (
    "report", "dataset", "key", "label", "variant", "stage", "runtime", "path", "sha256", "metric", "score", "ci95_low",
    "ci95_high", "delta", "agreement", "mcnemar_p", "params", "size_mb", "total_mb", "load_ms", "gflops_128", "gflops_mean", "gmacs_16",
    "latency_ms_1_p50", "latency_ms_1_p90", "latency_ms_32_p50", "latency_ms_32_p90", "speedup_1", "speedup_32",
    "text_to_label_ms", "peak_rss_mb", "layers", "vocab")


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    parser.add_argument("paths", nargs="*", type=forms.path, metavar="PATH",
                        help="final_report.json files and checkpoint directories; else RUN_DIR/final_report.json and the links "
                             "teacher_model, student_model, models/distilled_quantized_student")
    args = parser.parse(argv)
    parser.refuse_idle(("--fast --seed --max-length --force", True, "here, where nothing is trained and all is measured anew"))
    return args


def flat(row: dict) -> dict:
    """A report's row with its scalars only, nested ones under joined names: {latency_ms: {"1": {p50}}} -> latency_ms_1_p50."""
    low, high = row.get("ci95") or (None, None)
    shape = row.get("structure") or {}
    line = {name: row.get(name) for name in FIELDS} | {"ci95_low": low, "ci95_high": high}
    line |= {"layers": shape.get("layers"), "vocab": shape.get("vocab")}
    for batch in ("1", "32"):
        line[f"speedup_{batch}"] = (row.get("speedup") or {}).get(batch)
        for quantile in ("p50", "p90"):
            line[f"latency_ms_{batch}_{quantile}"] = ((row.get("latency_ms") or {}).get(batch) or {}).get(quantile)
    return line


def main(args):
    import csv

    import numpy as np

    from common import checkpoints, data, facts, measure
    from report import figures, files

    # --- 1. load: rows of reports, and checkpoints that no report has a row of
    defaults = [args.run_dir / name for name in
                ("final_report.json", "teacher_model", "student_model", "models/distilled_quantized_student")]
    reports: dict[str, dict] = {}  # each once, by what it says
    found = []
    for path in args.paths or defaults:
        if path.is_dir():
            try:
                found.append(checkpoints.verify(path.resolve()))
            except cli.UserError as error:
                cli.say(f"skipped: {str(error).replace(str(path.resolve()), str(path))}")
        elif not path.exists():
            cli.say(f"skipped: {path} is missing")
        elif (read := files.read(path)) is None:
            cli.say(f"skipped: {path} is no report: give a final_report.json")
        elif wrong := files.fault(read):
            cli.say(f"skipped: {path}: {wrong}")
        elif reports.setdefault(facts.sha256_json(read), read) is not read:
            cli.say(f"skipped: {path} is a report that was given before")
    rows = [row | {"report": read["title"], "dataset": read["dataset"]["name"], "data": read["dataset"]["sha256"],
                   "metric": read["dataset"]["metric"], "source": number}
            for number, read in enumerate(reports.values(), 1) for row in read["models"]]
    known = {row["sha256"] for row in rows}
    found = [c for c in found if measure.weights_sha256(c) not in known]

    # --- 2. measure what was given as a checkpoint
    corpus = None
    if found:
        from common import inference

        try:
            corpus = data.load(args)
        except cli.UserError as error:
            cli.say(f"scores left out: {error}")
    for checkpoint in {c.path: c for c in found}.values():
        theirs = checkpoint.manifest["dataset"]
        variant = "" if checkpoint.variant == "published" else f"@{checkpoint.variant}"
        row = {"key": f"{checkpoint.stage}{variant}#{checkpoint.path.name}", "variant": checkpoint.variant, "stage": checkpoint.stage,
               "label": checkpoint.path.name, "path": checkpoint.path.name, "sha256": measure.weights_sha256(checkpoint),
               "metric": None, "score": None, "ci95": None, "report": "measured here", "source": len(reports) + 1,
               "dataset": theirs["name"], "data": theirs["sha256"], **measure.size(checkpoint)}
        if corpus is not None:
            try:
                checkpoints.same_data(checkpoint, corpus.facts)
                classifier = inference.open_classifier(checkpoint.path)
                corpus.check_labels(dict(enumerate(classifier.label_names)), checkpoint.path)
                logits = classifier.decide(corpus.dev.rows)
            except cli.UserError as error:
                cli.say(f"score of {checkpoint.path.name} left out: {str(error).replace(str(checkpoint.path), checkpoint.path.name)}")
            else:
                row |= measure.score(corpus.task, logits, np.array(corpus.dev.labels)) | {"metric": corpus.task.metric_name}
                row |= {"runtime": classifier.runtime, "dataset": corpus.name, "data": corpus.facts["sha256"]}
        rows.append(row)
    if len(rows) > MOST_ROWS:
        raise cli.UserError(f"{len(rows):,} models: a picture has room for {MOST_ROWS}: give fewer reports")
    if not rows:
        raise cli.UserError("nothing left to compare: give final_report.json files or checkpoint directories, "
                            "or run python 7_evaluate_and_generate_report.py first")

    # --- 3. name the rows: where several reports meet, each row says whose it is
    titles = {row["source"]: " ".join(row["report"].split()) for row in rows}  # two runs may have one title
    for row in rows:
        name, number = row["stage"].split("_")[0], row["source"]
        row["label"] = " ".join(row["label"].split())
        row["family"] = name + ("" if row["variant"] == "published" else f"@{row['variant']}")
        if len(titles) > 1 and number <= len(reports):
            row |= {"key": f"{row['key']}#{number}", "family": row["family"] if number == 1 else f"{row['family']}#{number}",
                    "label": f"{row['label']} [{number}]"}
    legend = "; ".join(f"[{i}] {title}" for i, title in titles.items()) if len(titles) > 1 else titles[rows[0]["source"]]
    if len({row["data"] for row in rows}) > 1:
        legend += " (different data sets: their scores don't compare)"

    # --- 4. the picture and the table
    folder = args.run_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    picture, sheet = folder / "model_comparison.png", folder / "model_comparison.csv"

    def write_csv(path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, FIELDS)
            writer.writeheader()
            writer.writerows(flat(row) | {"key": row["key"].split("#")[0]} for row in rows)

    facts.replace(sheet, write_csv)
    facts.replace(picture, lambda path: figures.comparison(rows, legend, path))
    cli.say(f"{len(rows)} models of {len(titles)} source{'s' if len(titles) > 1 else ''}:\n{picture}\n{sheet}")


if __name__ == "__main__":
    cli.run(main, parse_args())

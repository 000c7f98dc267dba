"""Puts a run's report under docs/results/ with all that it takes to judge it; `make docs` then draws the pages that show it.

    python -m bench.publish . docs/results/sst2 --command "make full DATA_DIR=sst2"

Reads RUN_DIR/final_report.* and the manifests and training logs of its rows. Writes into the directory final_report.{json,md,html,png},
stages.json (arguments, versions, seconds, memory of each row's stage), training_curves.{json,png} and a README.md that is
drawn from these.
"""

import json
import shutil
from pathlib import Path

from common import checkpoints, cli
from report import files, tables

KEPT = ("stage", "variant", "created", "key", "args", "seed", "mode", "parents", "dataset", "versions", "code", "cpu", "gpu", "metrics",
        "wall_s", "peak_rss_mb")  # of a manifest; its list of files is in the checkpoint


def stages_of(final: dict, run_dir: Path) -> dict[str, dict]:
    """{row key: its manifest} in the report's order."""
    return {row["key"]: checkpoints.read(run_dir / row["path"]).manifest for row in final["models"]}


def has_accuracy(final: dict) -> bool:
    return any(row["accuracy"] is not None for row in final["models"])


def curves_of(final: dict, run_dir: Path) -> dict[str, dict]:
    """{row key: {training: its log}} of the rows that were trained; none where the report leaves accuracy out."""
    if not has_accuracy(final):
        return {}
    logs = {row["key"]: run_dir / row["path"] / "training_log.json" for row in final["models"]}
    return {key: json.loads(path.read_text(encoding="utf-8")) for key, path in logs.items() if path.is_file()}


def draw_curves(curves: dict[str, dict], path: Path) -> None:
    """A panel a training: each term of the loss over the steps, and accuracy on the held-out split beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(f"{key}: {name}", log) for key, trainings in curves.items() for name, log in trainings.items()]
    rows = -(-len(panels) // 3)
    drawing = Figure(figsize=(15, 3.4 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(rows, 3, squeeze=False).ravel()
    named: dict = {}  # one legend for all panels
    styles = {"loss": ("0.2", "-"), "loss_soft": ("#0072b2", "--"), "loss_hard": ("#d55e00", ":"), "loss_hidden": ("#009e73", "-.")}
    for axis, (title, log) in zip(axes, panels, strict=False):
        for term, (colour, line) in styles.items():
            points = [(entry["step"], entry[term]) for entry in log if term in entry]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, ls=line, lw=1.3, label=term.replace("_", ": "))
        axis.set(title=title, xlabel="step", ylabel="training loss")
        axis.set_ylim(bottom=0)
        right = axis.twinx()
        looks = [(entry["step"], 100 * entry["eval_accuracy"]) for entry in log if "eval_accuracy" in entry]
        right.plot(*zip(*looks, strict=True), color="black", marker="o", ms=4, lw=1, label="held-out accuracy, % (right)")
        named |= {line.get_label(): line for line in [*axis.get_lines(), *right.get_lines()]}
    for axis in axes[len(panels):]:
        axis.set_axis_off()
    drawing.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named))
    drawing.savefig(path)


def readme(final: dict, stages: dict[str, dict], command: str) -> str:
    """How the results were made: the command, the machine, and what each stage took."""
    from tabulate import tabulate

    lines = []
    for key, manifest in stages.items():
        trained = {name: manifest["args"].get(name) for name in ("prune_epochs", "epochs", "lr", "train_sentences")}
        lines.append({"row": key, "seed": manifest["seed"], "minutes": f"{manifest['wall_s'] / 60:.1f}",
                      "peak MB": f"{manifest['peak_rss_mb']:,.0f}",
                      **({"held-out accuracy %": tables.percent(manifest["metrics"].get("validation_accuracy"), 2)}
                         if has_accuracy(final) else {}),
                      "training": ", ".join(f"{name} {value:g}" for name, value in trained.items() if value) or "—"})
    minutes = sum(m["wall_s"] for m in stages.values()) / 60
    commits = sorted({m["code"]["commit"] or "outside git" for m in stages.values()})
    return "\n\n".join([
        f"# How `{final['title']}` was made",
        f"    {command}",
        f"{final['machine']['cpu']}, {final['machine']['cores']} cores; all stages together {minutes:.0f} minutes, the report not counted. "
        f"Stages were made at {', '.join(commits)}, measured at {final['code']['commit']} "
        f"(source hash {final['code']['sha256'][:16]}).",
        tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True),
        "Results: [final_report.md](final_report.md). Every argument, version and hash: [stages.json](stages.json).",
        *(["![training curves](training_curves.png)"] if has_accuracy(final) else []),
    ]) + "\n"


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="where final_report.json and models/ stand")
    parser.add_argument("target", type=Path, metavar="DIR", help="docs/results/NAME")
    parser.add_argument("--command", required=True, help="what a reader types to make the run again")
    args = parser.parse_args()
    final = files.read(args.run_dir / "final_report.json")
    if final is None:
        parser.error(f"no report at {args.run_dir / 'final_report.json'}")
    args.target.mkdir(parents=True, exist_ok=True)
    for ending in ("json", "md", "html", "png"):
        shutil.copyfile(args.run_dir / f"final_report.{ending}", args.target / f"final_report.{ending}")
    stages, curves = stages_of(final, args.run_dir), curves_of(final, args.run_dir)
    kept = {key: {name: manifest[name] for name in KEPT} for key, manifest in stages.items()}
    (args.target / "stages.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if curves:
        (args.target / "training_curves.json").write_text(json.dumps(curves) + "\n", encoding="utf-8")
        draw_curves(curves, args.target / "training_curves.png")
    (args.target / "README.md").write_text(readme(final, stages, args.command), encoding="utf-8")


if __name__ == "__main__":
    main()

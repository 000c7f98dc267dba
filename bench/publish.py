"""Puts a run's report under docs/results/ with all that it takes to judge it, and refreshes README's table from there.

    python -m bench.publish . docs/results/sst2 --command "make full DATA_DIR=sst2"
    python -m bench.publish                                       README's tables alone, from what stands in docs/results/

Reads RUN_DIR/final_report.* and the manifests and training logs of its rows. Writes into the directory final_report.{json,md,html,png},
stages.json (arguments, versions, seconds, memory of each row's stage), training_curves.{json,png} and a README.md that is
drawn from these. Between `<!-- results:NAME -->` and `<!-- /results -->` README.md gets the table of docs/results/NAME/, between
`<!-- presets:NAME -->` and `<!-- /presets -->` that of its presets.json.
"""

import json
import re
import shutil
from pathlib import Path

from bench import presets
from common import checkpoints, cli, provenance
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


def refresh(text: str) -> str:
    """README's text with each marked block replaced by the table of its report."""
    def block(found: re.Match) -> str:
        final = files.read(provenance.REPOSITORY / "docs/results" / found[1] / "final_report.json")
        table = f"{tables.table(final)}\n" if final else ""
        return f"<!-- results:{found[1]} -->\n{table}<!-- /results -->"

    def presets_block(found: re.Match) -> str:
        path = provenance.REPOSITORY / "docs/results" / found[1] / "presets.json"
        table = f"{presets.table(json.loads(path.read_text(encoding='utf-8')))}\n" if path.is_file() else ""
        return f"<!-- presets:{found[1]} -->\n{table}<!-- /presets -->"

    text = re.sub(r"<!-- results:(\w[\w-]*) -->\n.*?<!-- /results -->", block, text, flags=re.DOTALL)
    return re.sub(r"<!-- presets:(\w[\w-]*) -->\n.*?<!-- /presets -->", presets_block, text, flags=re.DOTALL)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("run_dir", type=Path, nargs="?", metavar="RUN_DIR", help="where final_report.json and models/ stand")
    parser.add_argument("target", type=Path, nargs="?", metavar="DIR", help="docs/results/NAME")
    parser.add_argument("--command", default=None, help="what a reader types to make the run again")
    args = parser.parse_args()
    if args.run_dir:
        if not (args.target and args.command):
            parser.error("RUN_DIR needs DIR and --command")
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
    page = provenance.REPOSITORY / "README.md"
    page.write_text(refresh(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

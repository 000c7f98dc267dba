"""What a preset is worth on other people's texts: teacher, presets and a linear model on real sets as their authors publish them.

    python -m bench.sets DATA_DIR RUNS OUTPUT_DIR [--sets banking77 trec6 …] [--presets near max] [--matmul-precision medium]

For each set below DATA_DIR one command, `python shrink.py --source package --preset near max --data DATA_DIR/SET --seed 1`, in a run of
its own, RUNS/SET; then OUTPUT_DIR/SET.json. `stages` says when each was made, by which commit, and its minutes. Stopped, it goes on where
it was. Hours: as long as the presets take on each set.
"""

import json
import os
from pathlib import Path

from bench import finished, tfidf
from common import cli, forms

# Several files of one part are laid out as shrink.py reads them: {part: which files}.
LAID_OUT = {"similarity": {"test": ("2014-images", "2013-headlines"), "train": ("2012", "2013-FNWN", "2014-deft", "2014-headlines",
                                                                                "2014-tweet")}}
SETS = ("banking77", "trec6", "emotion", "goemotions", "paraphrase", "similarity")


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="a directory a set")
    parser.add_argument("runs", type=Path, metavar="RUNS", help="a run a set goes there")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR", help="the JSON files and the table")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS, help="which")
    parser.add_argument("--presets", nargs="+", default=["near", "max"], help="operating points of recipes.toml")
    parser.add_argument("--seed", type=forms.seed, default=1, help="of everything")
    cli.precision_flag(parser)
    return parser.parse_args()


def laid_out(name: str, data_dir: Path, runs: Path) -> Path:
    """Where a set's files stand as shrink.py reads them: its own directory, or one of links to its files, by part."""
    source = data_dir / name
    if not source.is_dir():
        raise cli.UserError(f"no directory {source}: give --sets without it, or its data")
    if name not in LAID_OUT:
        return source
    folder = runs / f"{name}-data"
    for part, begins in LAID_OUT[name].items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.name.startswith(begins) and not (folder / part / file.name).exists():
                os.symlink(file.resolve(), folder / part / file.name)
    return folder


def figures(name: str, data: Path, run_dir: Path, args, command: list[str]) -> dict:
    """What SET.json holds, of a finished run."""
    from common import checkpoints, cores
    from report import before_after, files
    from report.judge import Judge

    judge = Judge(run_dir, data, "auto", args.seed, 0.01)
    corpus, final = judge.corpus, files.read(run_dir / "final_report.json")
    rows = {row["path"]: row for row in final["models"]}

    def of(checkpoint) -> dict:
        found = before_after.figures(checkpoint, corpus, run_dir, final)
        return {"held_out": found["held_out"]["score"], "test": found["dev"]["score"], "ci95": found["dev"]["ci95"],
                "mb": found["size_mb"], "latency_ms": found["latency_ms"]}

    teacher = of(judge.teacher)
    work = rows[judge.teacher.path.relative_to(run_dir).as_posix()]["gflops_128"]
    made = []
    for preset in args.presets:
        checkpoint = judge.shipped(preset)
        row, own = rows[checkpoint.path.relative_to(run_dir).as_posix()], of(checkpoint)
        made.append({"preset": preset, "command": " ".join(command), "minutes": judge.seconds([preset]) / 60, **own,
                     "loss": {part: teacher[part] - own[part] for part in ("held_out", "test")},
                     "flops_ratio": work / row["gflops_128"], "bytes_ratio": teacher["mb"] / own["mb"],
                     "latency_ratio": {batch: teacher["latency_ms"][batch] / own["latency_ms"][batch] for batch in ("1", "32")},
                     "structure": row["structure"]})
    stages = [{"stage": c.stage, "variant": c.variant, "created": c.manifest["created"], "commit": c.manifest["code"]["commit"],
               "minutes": c.manifest["wall_s"] / 60} for c in reversed(checkpoints.published(run_dir))]
    linear = tfidf.measured(corpus, corpus.train)
    return {"set": name, "task": corpus.task.kind, "metric": corpus.task.metric,
            "sentences": {"train": len(corpus.train), "held_out": len(corpus.held_out), "test": len(corpus.dev)},
            "seed": args.seed, **finished.conditions(corpus, cores.usable()), "stages": stages, "teacher": teacher, "rows": made,
            "tfidf": {"held_out": linear["held_out"]["score"], "test": linear["test"]["score"], "ci95": linear["test"]["ci95"]}}


def table(results: list[dict]) -> str:
    """All sets as Markdown, a line a model."""
    from tabulate import tabulate

    lines = []
    for found in results:
        def line(model: str, row: dict, loss: str = "", size: str = "", faster: str = "", minutes: str = "", found=found) -> list[str]:
            low, high = row["ci95"]
            return [found["set"], model, found["metric"], f"{100 * row['held_out']:.1f}", f"{100 * row['test']:.1f}",
                    f"{100 * low:.1f}–{100 * high:.1f}", loss, size, faster, minutes]

        lines.append(line("teacher", found["teacher"], size=f"{found['teacher']['mb']:.1f}"))
        for row in found["rows"]:
            lines.append(line(row["preset"], row, f"{100 * row['loss']['held_out']:+.1f}, {100 * row['loss']['test']:+.1f}",
                              f"{row['mb']:.1f} (÷ {row['bytes_ratio']:.1f})",
                              ", ".join(f"{times:.1f}" for times in row["latency_ratio"].values()), f"{row['minutes']:.0f}"))
        lines.append(line("TF-IDF, linear", found["tfidf"]))
    return tabulate(lines, headers=["set", "model", "metric", "held-out", "test", "95 %", "lost: held-out, test", "MB", "×: batch 1, 32",
                                    "minutes"], tablefmt="github", disable_numparse=True)


HEADERS = {"en": ["set", "task", "teacher: held-out, test", "near", "max", "MB: teacher, near, max", "faster, ×: near, max",
                  "in batches of 32, ×"],
           "zh": ["数据集", "任务", "教师：留出，测试", "near", "max", "MB：教师，near，max", "加速倍数：near，max", "批大小 32 时"]}


def verdict(results: list[dict], language: str = "en") -> str:
    """README's table, a line a set: what near and max lose, in points of the set's metric, and what they save."""
    from tabulate import tabulate

    lines = []
    for found in results:
        rows = [row for row in found["rows"] if row["preset"] in ("near", "max")]
        of_teacher = found["teacher"]
        changes = [", ".join(f"{0.0 - 100 * row['loss'][part]:+.1f}" for part in ("held_out", "test")) for row in rows]
        lines.append([found["set"], f"{found['task']}, {found['metric']}",
                      ", ".join(f"{100 * of_teacher[part]:.1f}" for part in ("held_out", "test")), *changes,
                      ", ".join(f"{row['mb']:.1f}" for row in (of_teacher, *rows)),
                      *(", ".join(f"{row['latency_ratio'][batch]:.0f}" for row in rows) for batch in ("1", "32"))])
    return tabulate(lines, headers=HEADERS[language], tablefmt="github", disable_numparse=True)


def draw(results: list[dict], path: Path) -> None:
    """README's picture: what each preset loses on each set, on test (filled) and held-out texts (hollow), and how much faster it is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 0.9 + 0.42 * len(results)), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    losses, speeds = drawing.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for shift, (preset, colour, marker) in zip((-0.15, 0.15), (("near", "#0072b2", "o"), ("max", "#d55e00", "s")), strict=True):
        for at, found in enumerate(results):
            row = next(row for row in found["rows"] if row["preset"] == preset)
            losses.plot(-100 * row["loss"]["held_out"], at + shift, marker, color=colour, mfc="white", ms=6)
            losses.plot(-100 * row["loss"]["test"], at + shift, marker, color=colour, ms=6, label=preset if at == 0 else None)
            speeds.barh(at + shift, row["latency_ratio"]["1"], 0.28, color=colour)
    losses.axvline(0, color="0.3", lw=1)
    losses.axvline(-1, color="0.3", lw=1, ls=":")
    losses.set(yticks=range(len(results)), yticklabels=[found["set"] for found in results], ylim=(len(results) - 0.5, -0.5),
               xlabel="points against the teacher: test (filled), held-out (hollow)")
    speeds.set(xlabel="times as fast as the teacher, one text at a time")
    losses.legend(loc="best", frameon=False)
    drawing.savefig(path, metadata={"Software": None})


def main() -> None:
    args = parse_args()
    for name in args.sets:
        data, run_dir = laid_out(name, args.data_dir, args.runs), args.runs / name
        flags = ["--source", "package", "--preset", *args.presets, "--data", str(data), "--seed", str(args.seed), "--run-dir", str(run_dir),
                 *(["--matmul-precision", args.matmul_precision] if args.matmul_precision != "highest" else [])]
        finished.run_stage("shrink.py", *flags)
        typed = ["python", "shrink.py", "--source", "package", "--preset", *args.presets, "--data", name, "--seed", str(args.seed)]
        finished.write(figures(name, data, run_dir, args, typed), args.output / f"{name}.json")
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(args.output.glob("*.json"))]
    print(table(found))


if __name__ == "__main__":
    main()

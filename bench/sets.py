"""What a preset is worth on other people's texts: teacher, presets and a linear model on real sets as their authors publish them.

    python -m bench.sets DATA_DIR RUNS OUTPUT_DIR [--sets banking77 trec6 …] [--presets near max] [--matmul-precision medium]

For each set below DATA_DIR one command, `python shrink.py --preset near max --data DATA_DIR/SET`, in a run of its own, RUNS/SET; then
OUTPUT_DIR/SET.json, and SETS.md, the table of all. Stopped, it goes on where it was. Hours: as long as the presets take on each set.
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
    from common import cores
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
    linear = tfidf.measured(corpus, corpus.train)
    return {"set": name, "task": corpus.task.kind, "metric": corpus.task.metric,
            "sentences": {"train": len(corpus.train), "held_out": len(corpus.held_out), "test": len(corpus.dev)},
            "seed": args.seed, **finished.conditions(corpus, cores.usable()), "teacher": teacher, "rows": made,
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


def main() -> None:
    args = parse_args()
    for name in args.sets:
        data, run_dir = laid_out(name, args.data_dir, args.runs), args.runs / name
        flags = ["--preset", *args.presets, "--data", str(data), "--seed", str(args.seed), "--run-dir", str(run_dir),
                 *(["--matmul-precision", args.matmul_precision] if args.matmul_precision != "highest" else [])]
        finished.run_stage("shrink.py", *flags)
        typed = ["python", "shrink.py", "--preset", *args.presets, "--data", name, "--seed", str(args.seed)]
        finished.write(figures(name, data, run_dir, args, typed), args.output / f"{name}.json")
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(args.output.glob("*.json"))]
    (args.output / "SETS.md").write_text(f"# Other sets\n\n{table(found)}\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()

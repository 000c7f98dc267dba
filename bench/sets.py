"""What a preset is worth on other people's texts: teacher, presets and a linear model on real sets as their authors publish them.

    python -m bench.sets DATA_DIR RUNS OUTPUT_DIR [--sets banking77 trec6 …] [--presets near max] [--seed 2] [--matmul-precision medium]

For each set below DATA_DIR one command, `python shrink.py --source package --preset near max --data DATA_DIR/SET --seed 1`, in a run of
its own, RUNS/SET; then OUTPUT_DIR/SET.json, of another seed SET.seed2.json: teacher, made-up texts, structure and order are then others.
`stages` says when each was made, by which commit, and its minutes. Stopped, it goes on where it was. Hours: as long as the presets take on
each set.
"""

import json
import os
import random
import tempfile
from pathlib import Path

from bench import finished, presets, set_tables, sittings, tfidf
from common import cli, forms

# Several files of one part are laid out as shrink.py reads them: {part: which files}.
LAID_OUT = {"similarity": {"test": ("2014-images", "2013-headlines"), "train": ("2012", "2013-FNWN", "2014-deft", "2014-headlines",
                                                                                "2014-tweet")}}
TIMED, REPEATS = 128, 3  # texts of each sitting, and how often each is answered
SETS = ("sst2", "banking77", "trec6", "emotion", "goemotions", "paraphrase", "similarity")


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
    from common import checkpoints, cores, measure
    from report import before_after, files
    from report.judge import Judge

    judge = Judge(run_dir, data, "auto", args.seed, 0.01)
    corpus, final = judge.corpus, files.read(run_dir / "final_report.json")
    rows = {row["path"]: row for row in final["models"]}

    def of(checkpoint) -> dict:
        found = before_after.figures(checkpoint, corpus, run_dir, final)
        return {"held_out": found["held_out"]["score"], "test": found["dev"]["score"], "ci95": found["dev"]["ci95"],
                "mb": found["size_mb"], "latency_ms": found["latency_ms"]}

    int8, texts = ["teacher_int8_dynamic", "teacher_int8_static"], measure.to_time(corpus.dev.rows, TIMED)
    with tempfile.TemporaryDirectory() as folder:
        calibration = random.Random(0).sample(corpus.train.rows, min(256, len(corpus.train)))
        models = {"teacher": judge.teacher, **{preset: judge.shipped(preset) for preset in args.presets},
                  **presets.int8_teachers(judge.teacher, Path(folder), calibration, corpus.train.seconds is not None)}
        held = sittings.held(models, texts, REPEATS, cores.usable())
    teacher = of(judge.teacher)
    work = rows[judge.teacher.path.relative_to(run_dir).as_posix()]["gflops_128"]
    made = []
    for preset in args.presets:
        checkpoint = judge.shipped(preset)
        row, own = rows[checkpoint.path.relative_to(run_dir).as_posix()], of(checkpoint)
        ratio, least_most = sittings.times_as_fast(held, preset, ["teacher"])
        ratio_vs_int8, least_most_vs_int8 = sittings.times_as_fast(held, preset, int8)
        made.append({"preset": preset, "command": " ".join(command), "minutes": judge.seconds([preset]) / 60, **own,
                     "loss": {part: teacher[part] - own[part] for part in ("held_out", "test")},
                     "flops_ratio": work / row["gflops_128"], "bytes_ratio": teacher["mb"] / own["mb"],
                     "latency_ratio": ratio, "latency_range": least_most, "latency_ratio_vs_int8": ratio_vs_int8,
                     "latency_range_vs_int8": least_most_vs_int8, "structure": row["structure"]})
    stages = [{"stage": c.stage, "variant": c.variant, "created": c.manifest["created"], "commit": c.manifest["code"]["commit"],
               "minutes": c.manifest["wall_s"] / 60} for c in reversed(checkpoints.published(run_dir))]
    linear = tfidf.measured(corpus, corpus.train)
    return {"set": name, "task": corpus.task.kind, "metric": corpus.task.metric,
            "sentences": {"train": len(corpus.train), "held_out": len(corpus.held_out), "test": len(corpus.dev)},
            "seed": args.seed, **finished.conditions(corpus, cores.usable()), "stages": stages, "teacher": teacher, "rows": made,
            "sittings": held,
            "tfidf": {"held_out": linear["held_out"]["score"], "test": linear["test"]["score"], "ci95": linear["test"]["ci95"]}}


def main() -> None:
    args = parse_args()
    for name in args.sets:
        of_seed = name if args.seed == 1 else f"{name}.seed{args.seed}"
        data, run_dir = laid_out(name, args.data_dir, args.runs), args.runs / of_seed
        flags = ["--source", "package", "--preset", *args.presets, "--data", str(data), "--seed", str(args.seed), "--run-dir", str(run_dir),
                 *(["--matmul-precision", args.matmul_precision] if args.matmul_precision != "highest" else [])]
        finished.run_stage("shrink.py", *flags)
        typed = ["python", "shrink.py", "--source", "package", "--preset", *args.presets, "--data", name, "--seed", str(args.seed)]
        finished.write(figures(name, data, run_dir, args, typed), args.output / f"{of_seed}.json")
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(args.output.glob("*.json"))]
    print(set_tables.rows(found))


if __name__ == "__main__":
    main()

"""The frontier: every model that was pruned from one teacher, smallest to largest, and beside it what else one might have picked.

    python -m bench.frontier RUN_DIR docs/results/frontier [--data-dir DIR] [--presets docs/results/sst2/presets.json]
        [--peers docs/results/bench/peers.json]

Measures all int8 exports of RUN_DIR as bench/presets.py does, presets and other budgets alike, and draws accuracy against FLOPs,
megabytes and latency. Speeds are ratios to the teacher in torch, each of its own run, so that peers.json may be another day's.
Writes frontier.json, frontier.md and frontier.png; what was there is measured again, in one run with what is new.
"""

import json
import statistics
from pathlib import Path

from bench import finished, presets
from common import cli
from report import figures

PANELS = (("FLOPs saved, ×", "flops_ratio"), ("smaller, ×", "bytes_ratio"), ("faster at batch 1, ×", "1"), ("faster at batch 32, ×", "32"))


def points(results: dict) -> list[dict]:
    """A point for each name, dearest first: {name, preset, accuracy, ci95, flops_ratio, bytes_ratio, "1", "32"}, ratios over the teacher.

    The interval of one seed is Wilson's for its dev sentences; of several, the mean of their bounds.
    """
    found = []
    for name, row in results["presets"].items():
        low, high = (statistics.mean(bound) for bound in zip(*(seed["ci95"] for seed in row["seeds"]), strict=True))
        found.append({"name": name, "preset": name in presets.PRESETS, "seeds": len(row["seeds"]), "accuracy": row["accuracy_mean"],
                      "ci95": [low, high], "flops_ratio": row["flops_ratio"], "bytes_ratio": row["bytes_ratio"], **row["latency_ratio"]})
    return sorted(found, key=lambda point: point["flops_ratio"])


def peers_of(bench: dict) -> list[dict]:
    """The peers of a peers.json as points; what they don't count (FLOPs) is absent."""
    alive = [row for row in bench["rows"] if row["error"] is None]
    teacher = next((row for row in alive if row["key"] == "torch_fp32"), None)
    if teacher is None:
        raise cli.UserError("among these peers there is no teacher in torch (torch_fp32), beside which they could be drawn")
    return [{"name": row["label"], "accuracy": row["accuracy"], "ci95": row["ci95"], "bytes_ratio": teacher["size_mb"] / row["size_mb"],
             **{batch: teacher["latency_ms"][batch] / row["latency_ms"][batch] for batch in ("1", "32")}}
            for row in alive if not row["ours"]]


def page(results: dict, ours: list[dict]) -> str:
    """frontier.md, all of it drawn from frontier.json."""
    return "\n\n".join([
        f"# {results['dataset']['name']}: the frontier",
        finished.how_measured(results),
        presets.table({**results, "presets": {p["name"]: results["presets"][p["name"]] for p in ours}}),
        "![accuracy against FLOPs, size and latency](frontier.png)"]) + "\n"


def draw(teacher: dict, ours: list[dict], peers: list[dict], path: Path) -> None:
    """Accuracy against each kind of saving: our models, their Pareto front, the presets marked on it, and the peers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(15, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    for axis, (title, key) in zip(drawing.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
        def show(points: list[dict], axis=axis, key: str = key, **how) -> None:
            whiskers = [[100 * (p["accuracy"] - p["ci95"][0]) for p in points], [100 * (p["ci95"][1] - p["accuracy"]) for p in points]]
            axis.errorbar([p[key] for p in points], [100 * p["accuracy"] for p in points], yerr=whiskers, capsize=2, lw=0.8, **how)

        axis.axhline(100 * teacher["accuracy"], color="0.6", lw=0.8, ls="--")
        front = figures.pareto([(-p[key], 100 * p["accuracy"]) for p in ours])  # who saves most costs least
        axis.plot([-cost for cost, _ in front], [accuracy for _, accuracy in front], color="black", lw=0.8)
        show(ours, color="black", marker="o", ms=5, ls="none", label="ours: one seed or the mean of several")
        marked = [p for p in ours if p["preset"]]
        show(marked, color="black", marker="*", ms=15, ls="none", label="ours: a preset")
        for number, p in enumerate(marked):  # near neighbours' names, one above and one below
            axis.annotate(p["name"], (p[key], 100 * p["accuracy"]), textcoords="offset points", xytext=(6, -16 if number % 2 else 8))
        for number, peer in enumerate(p for p in peers if key in p):
            show([peer], color=f"C{number}", marker="s^Dv"[number % 4], ms=6, ls="none", label=peer["name"])
        axis.set(xscale="log", xlabel=title)
        figures.plain_ticks(axis)
        axis.grid(alpha=0.3)
    drawing.axes[0].set_ylabel("dev accuracy, % (dashed: the teacher)")
    handles, names = drawing.axes[-1].get_legend_handles_labels()
    drawing.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    drawing.savefig(path)


def main(args) -> None:
    results = presets.measured(args)
    ours = points(results)
    peers = peers_of(json.loads(args.peers.read_text(encoding="utf-8"))) if args.peers else []
    finished.write({**results, "points": ours, "peers": peers}, args.output / "frontier.json")
    if args.presets:
        finished.write(presets.alone(results), args.presets)
    (args.output / "frontier.md").write_text(page(results, ours), encoding="utf-8")
    draw(results["teacher"], ours, peers, args.output / "frontier.png")
    print(presets.table(results))


if __name__ == "__main__":
    parser = presets.arguments(__doc__, "DIR", "where the results go")
    parser.add_argument("--peers", type=Path, metavar="FILE", default=None, help="a peers.json of bench/peers.py to draw beside")
    parser.add_argument("--presets", type=Path, metavar="FILE", default=None, help="write what bench/presets.py would, of this very run")
    cli.run(main, parser.parse_args())

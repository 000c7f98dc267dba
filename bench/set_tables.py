"""What bench/sets.py found, as a table for README, a longer one for the results, and a picture."""

import functools
import statistics
from pathlib import Path

HEADERS = {"en": ["set", "seeds", "task", "teacher: held-out (texts), test (texts)", "near", "max", "MB: teacher, near, max",
                  "speed, × int8 teacher: near, max", "speed, × torch teacher: near, max"],
           "zh": ["数据集", "种子数", "任务", "教师：留出集（条数），测试集（条数）", "near", "max", "MB：教师，near，max",
                  "速度，int8 教师的倍数：near，max", "速度，torch 教师的倍数：near，max"]}
TASKS = {"zh": {"single_label": "单标签", "multi_label": "多标签", "regression": "分数", "accuracy": "准确率"}}
SHOWN = ("near", "max")


def by_set(results: list[dict]) -> dict[str, list[dict]]:
    """{set: its results, a seed each}."""
    found: dict[str, list[dict]] = {}
    for result in results:
        found.setdefault(result["set"], []).append(result)
    return found


def of_seeds(seeds: list[dict], preset: str, *names: str) -> float:
    """The mean over seeds of a figure of a preset's row, which `names` lead to."""
    figures = [next(row for row in seed["rows"] if row["preset"] == preset) for seed in seeds]
    return statistics.mean(functools.reduce(dict.__getitem__, names, row) for row in figures)


def spread(row: dict, than: str) -> str:
    """For both batch sizes how many times as fast, the median over sittings and its range."""
    return ", ".join(f"{median:.1f} ({low:.1f}–{high:.1f})" for median, (low, high) in
                     ((row[f"latency_ratio{than}"][batch], row[f"latency_range{than}"][batch]) for batch in ("1", "32")))


def change(gained: list[float]) -> str:
    """What a preset gains, in points of the set's metric, on held-out and on test texts, of losses as shares."""
    return ", ".join(f"{0.0 - 100 * loss:+.1f}" for loss in gained)


def verdict(results: list[dict], language: str = "en") -> str:
    """README's table, a line a set: what near and max lose, in points of the set's metric, and what they save; means over seeds."""
    from tabulate import tabulate

    lines, words = [], TASKS.get(language, {})
    for name, seeds in by_set(results).items():
        first = seeds[0]
        scores = [statistics.mean(seed["teacher"][part] for seed in seeds) for part in ("held_out", "test")]
        lines.append([name, len(seeds), ", ".join(words.get(first[what], first[what].replace("_", " ")) for what in ("task", "metric")),
                      ", ".join(f"{100 * score:.1f} ({first['sentences'][part]:,})"
                                for score, part in zip(scores, ("held_out", "test"), strict=True)),
                      *(change([of_seeds(seeds, preset, "loss", part) for part in ("held_out", "test")]) for preset in SHOWN),
                      ", ".join(f"{mb:.1f}" for mb in (first["teacher"]["mb"], *(of_seeds(seeds, preset, "mb") for preset in SHOWN))),
                      *(", ".join(f"{of_seeds(seeds, preset, ratio, '1'):.1f}" for preset in SHOWN)
                        for ratio in ("latency_ratio_vs_int8", "latency_ratio"))])
    return tabulate(lines, headers=HEADERS[language], tablefmt="github", disable_numparse=True)


def rows(results: list[dict]) -> str:
    """All sets as Markdown, a line a model of a seed."""
    from tabulate import tabulate

    lines = []
    for found in results:
        def line(model: str, row: dict, gain="", size="", faster="", than_int8="", minutes="", found=found) -> list[str]:
            low, high = row["ci95"]
            return [found["set"], found["seed"], model, found["metric"], f"{100 * row['held_out']:.1f}", f"{100 * row['test']:.1f}",
                    f"{100 * low:.1f}–{100 * high:.1f}", gain, size, faster, than_int8, minutes]

        lines.append(line("teacher", found["teacher"], size=f"{found['teacher']['mb']:.1f}"))
        for row in found["rows"]:
            lines.append(line(row["preset"], row, change([row["loss"][part] for part in ("held_out", "test")]),
                              f"{row['mb']:.1f} (÷ {row['bytes_ratio']:.1f})",
                              spread(row, ""), spread(row, "_vs_int8"), f"{row['minutes']:.0f}"))
        lines.append(line("TF-IDF, linear", found["tfidf"]))
    return tabulate(lines, headers=["set", "seed", "model", "metric", "held-out", "test", "95 % (test)", "Δ: held-out, test", "MB",
                                    "× torch teacher: batch 1, 32", "× int8 teacher: batch 1, 32", "minutes"],
                    tablefmt="github", disable_numparse=True)


def draw(results: list[dict], path: Path) -> None:
    """README's picture: what each preset loses on each set, on test (filled) and held-out texts (hollow), and how much faster it is.

    The dotted line is at a loss of a point.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets = by_set(results)
    drawing = Figure(figsize=(9, 1.4 + 0.42 * len(sets)), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    losses, speeds = drawing.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for shift, (preset, colour, marker) in zip((-0.15, 0.15), zip(SHOWN, ("#0072b2", "#d55e00"), "os", strict=True), strict=True):
        for at, seeds in enumerate(sets.values()):
            held_out, test = (-100 * of_seeds(seeds, preset, "loss", part) for part in ("held_out", "test"))
            losses.plot(held_out, at + shift, marker, color=colour, mfc="white", ms=6)
            losses.plot(test, at + shift, marker, color=colour, ms=6, label=preset if at == 0 else None)
            speeds.barh(at + shift, of_seeds(seeds, preset, "latency_ratio", "1"), 0.28, color=colour, alpha=0.35)
            speeds.barh(at + shift, of_seeds(seeds, preset, "latency_ratio_vs_int8", "1"), 0.28, color=colour)
    losses.axvline(0, color="0.3", lw=1)
    losses.axvline(-1, color="0.3", lw=1, ls=":")
    losses.set(yticks=range(len(sets)), yticklabels=list(sets), ylim=(len(sets) - 0.5, -0.5),
               xlabel="points against the teacher (dotted: one point lost)\non test texts (filled), held-out texts (hollow)")
    speeds.set(xlabel="times as fast as the teacher\nin int8 (dark), in torch (light)")
    drawing.legend(loc="outside upper center", ncols=2, frameon=False)
    drawing.savefig(path, metadata={"Software": None})

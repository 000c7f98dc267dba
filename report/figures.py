"""A report's rows as figures: everything here is drawn from the JSON and from nothing else."""

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from report.tables import number, threads

# One look per structure, one hatch per form of the weights; shapes and hatches survive greyscale.
FAMILIES = [("#3b3b3b", "s"), ("#0072b2", "o"), ("#d55e00", "^"), ("#009e73", "D"), ("#cc79a7", "v"), ("#e6a700", "P"), ("#56b4e9", "X")]
HATCHES = {"": "", "ptq": "///", "qkd": "xxx", "onnx": "...", "int8": "ooo"}


def literally(draw: Callable) -> Callable:
    """Makes `draw` set every text as it stands: matplotlib would read what is between two dollar signs as mathematics."""
    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}):
            return draw(*args, **kwargs)

    return drawn


def interval(row: dict) -> tuple[float, float]:
    """The 95 % interval of a row's score, in %; of no width where the row has none."""
    low, high = row["ci95"] or (row["score"], row["score"])
    return 100 * low, 100 * high


def looks(rows: list[dict]) -> dict[str, tuple[str, str, str]]:
    """{key: (colour, marker, hatch)}: colour and marker say the structure, the hatch says the form of the weights."""
    families: dict[str, int] = {"teacher": 0, "distilled": 1}
    chosen = {}
    for row in rows:
        words = row["stage"].split("_")
        family = row.get("family") or words[0] + ("" if row["variant"] == "published" else f"@{row['variant']}")
        colour, marker = FAMILIES[families.setdefault(family, len(families)) % len(FAMILIES)]
        form = next((w for w in ("int8", "onnx", "qkd", "ptq") if w in words), "")
        both = form in ("int8", "onnx") and next((w for w in ("qkd", "ptq") if w in words), "")
        chosen[row["key"]] = colour, marker, HATCHES[form] + (HATCHES[both] if both else "")
    return chosen


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, value) points those that no other beats at a lower or equal cost, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def scatter(axis, rows: list[dict], field: str, x_label: str, metric: str, *, fronted: bool = True) -> None:
    """The score in %, which `metric` names, against `field`, best at the top left: intervals, area by megabytes, Pareto front, a label
    at every point.

    An ONNX file that answers as its torch parent does is the same point: it is drawn once, with both names.
    """
    look = looks(rows)
    names = {row["key"]: row["label"].replace(", 4-bit", "").replace(", ONNX int8", " int8").replace(", ONNX", " ONNX") for row in rows}
    points = {row["key"]: (row[field], 100 * row["score"]) for row in rows}
    for row in rows:
        parent = row["key"].replace("_onnx", "")
        if parent != row["key"] and points.get(parent) == points[row["key"]]:
            names[parent] += " = ONNX"
            del points[row["key"]]
    rows = [row for row in rows if row["key"] in points]
    biggest = max(row["size_mb"] for row in rows)
    values = [x for x, _ in points.values()]
    bounds = [bound for row in rows for bound in interval(row)]
    margin = 0.09 * (max(bounds) - min(bounds)) or 1.0
    axis.set_xscale("log")
    axis.set_xlim(min(values) / 2, max(values) * 2)
    axis.set_ylim(min(bounds) - margin, max(bounds) + 1.5 * margin)
    shown = side_by_side({key: x for key, (x, _) in points.items()}, axis.get_xlim())
    if fronted:
        # It goes through the points as they are shown, so that it meets their markers.
        front = [(shown[next(k for k, p in points.items() if p == point)], point[1]) for point in pareto(list(points.values()))]
        xs, ys = [x for x, _ in front], [y for _, y in front]
        axis.step([*xs, axis.get_xlim()[1]], [*ys, ys[-1]], where="post", color="0.55", lw=1.4, ls="--", zorder=1)
    markers, intervals, labels = [], [], []
    for row in sorted(rows, key=lambda r: -r["size_mb"]):
        key, (colour, marker, hatch) = row["key"], look[row["key"]]
        x, y = shown[key], points[key][1]
        low, high = interval(row)
        axis.errorbar(x, y, yerr=[[max(0.0, y - low)], [max(0.0, high - y)]], color=colour, alpha=0.5, lw=1.1, capsize=2.5, zorder=2)
        axis.plot([x] * len(row.get("seeds", ())), [100 * seed["score"] for seed in row.get("seeds", ())], "_", color=colour, ms=11,
                  mew=1.6, zorder=4)
        area = 60 + 340 * row["size_mb"] / biggest
        axis.scatter(x, y, s=area, marker=marker, facecolor="white" if hatch else colour, edgecolor=colour, linewidth=1.5,
                     hatch=2 * hatch, zorder=3)
        markers.append((x, y, area**0.5 / 2))
        intervals.append((x, low, high))
        labels.append((names[key], x, y, colour))
    axis.set_xlabel(x_label, fontsize=10.5)
    axis.set_ylabel(f"{metric} on the dev set, %", fontsize=10.5)
    axis.grid(True, color="0.93")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.annotate("better", xy=(0.012, 0.988), xytext=(0.06, 0.93), xycoords="axes fraction", textcoords="axes fraction", color="0.4",
                  arrowprops={"arrowstyle": "->", "color": "0.4"}, va="top", fontsize=10)
    place_labels(axis, labels, markers, intervals)
    plain_ticks(axis)


def side_by_side(costs: dict[str, float], limits: tuple[float, float]) -> dict[str, float]:
    """Sets models of equal cost 3.4 % of the (logarithmic) panel apart, or less, so that none passes a model of another cost."""
    crowd: dict[float, list[str]] = {}
    for key, x in costs.items():
        crowd.setdefault(round(x, 6), []).append(key)
    gap = 0.034 * math.log(limits[1] / limits[0])
    for (x, keys), (above, others) in pairwise(sorted(crowd.items())):
        gap = min(gap, 2 * math.log(above / x) / (len(keys) + len(others)))
    return {key: x * math.exp(gap * (i - (len(keys) - 1) / 2)) for x, keys in crowd.items() for i, key in enumerate(keys)}


def plain_ticks(axis) -> None:
    """1-2-5 ticks in plain numbers on a logarithmic x axis that is drawn; powers of ten alone where it spans many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def place_labels(axis, labels: list[tuple[str, float, float, str]], markers: list[tuple[float, float, float]],
                 intervals: list[tuple[float, float, float]]) -> None:
    """Sets each (text, x, y, colour) near its point where it hides no marker (x, y, radius in points) and no other label.

    Greedy: rings of growing distance, 24 directions each; the nearest free place wins, where hiding part of an interval
    (x, low, high) or leading across a marker counts as distance. A thin line leads to the point.
    """
    from matplotlib.transforms import Bbox

    renderer = axis.figure.canvas.get_renderer()
    point = axis.figure.dpi / 72  # pixels
    room = axis.get_window_extent(renderer)
    better = Bbox.from_bounds(room.x0, room.y1 - 0.13 * room.height, 0.16 * room.width, 0.13 * room.height)  # the word in the corner
    centres = [axis.transData.transform((x, y)) for x, y, _ in markers]
    dots = [Bbox([c - r * point, c + r * point]) for c, (_, _, r) in zip(centres, markers, strict=True)]
    bars = [Bbox(axis.transData.transform([(x, low), (x, high)])) for x, low, high in intervals]
    boxes: list = [better]
    leaders: list = []
    for text, x, y, colour in sorted(labels, key=lambda entry: -entry[2]):
        start = axis.transData.transform((x, y))
        probe = axis.text(0, 0, text, fontsize=9.5)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        half_x, half_y = extent.width / 2 + 3 * point, extent.height / 2 + 2 * point
        best = None  # (cost in pixels, box, leader)
        for ring in range(40):
            distance = (9 + 5 * ring) * point
            if best and best[0] <= distance:
                break
            for step in range(24):
                angle = 2 * math.pi * step / 24
                centre = start[0] + (distance + half_x) * math.cos(angle), start[1] + (distance + half_y) * math.sin(angle)
                box = Bbox([[centre[0] - half_x, centre[1] - half_y], [centre[0] + half_x, centre[1] + half_y]])
                leader = (start[0], start[1], *centre)
                if (not (room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1)
                        or box.count_overlaps([*boxes, *dots]) or any(_cross(leader, other) for other in leaders)
                        or any(_enters(other, box) for other in leaders) or any(_enters(leader, other) for other in boxes)):
                    continue
                over = sum(_enters(leader, dot) for dot in dots if not dot.contains(*start))
                cost = distance + 14 * point * box.count_overlaps(bars) + 25 * point * over
                if best is None or cost < best[0]:
                    best = cost, box, leader
        if best is None:
            continue  # nowhere left: the table and the bars still name it
        boxes.append(best[1])
        leaders.append(best[2])
        axis.annotate(text, xy=(x, y), xytext=axis.transData.inverted().transform(best[2][2:]), ha="center", va="center", fontsize=9.5,
                      zorder=5, bbox={"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.85},
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.9, "shrinkA": 0, "shrinkB": 4})


def _enters(line: tuple, box) -> bool:
    """Whether a segment (x0, y0, x1, y1) enters a box: sampled, which is fine enough for a drawing."""
    x0, y0, x1, y1 = line
    return any(box.x0 <= x0 + (x1 - x0) * i / 40 <= box.x1 and box.y0 <= y0 + (y1 - y0) * i / 40 <= box.y1 for i in range(41))


def _cross(one: tuple, other: tuple) -> bool:
    """Whether two segments cross."""
    def side(line, x, y):
        return (line[2] - line[0]) * (y - line[1]) - (line[3] - line[1]) * (x - line[0])

    return (side(one, *other[:2]) * side(one, *other[2:]) < 0) and (side(other, *one[:2]) * side(other, *one[2:]) < 0)


def bars(axis, rows: list[dict], values: list[float | None], texts: list[str], title: str, *, ends: list[float | None] | None = None,
         named: bool = True) -> None:
    """Horizontal bars, first row on top, a text behind each; `ends` draws a whisker from the value to there."""
    look = looks(rows)
    top = max([v for v in [*values, *(ends or [])] if v is not None], default=1.0)
    for i, row in enumerate(rows):
        colour, _, hatch = look[row["key"]]
        value = values[i] or 0.0
        axis.barh(i, value, height=0.66, facecolor="white" if hatch else colour, edgecolor=colour, hatch=hatch, linewidth=1.2)
        end = value
        if ends and (reached := ends[i]) is not None and values[i] is not None:
            end = reached
            axis.plot([value, end], [i, i], color="black", lw=1.2)
            axis.plot([end, end], [i - 0.16, i + 0.16], color="black", lw=1.2)
        axis.text(max(value, end) + 0.02 * top, i, texts[i], va="center", fontsize=9.5)
    axis.set_yticks(range(len(rows)), [row["label"] for row in rows] if named else [""] * len(rows), fontsize=10)
    axis.set_ylim(max(len(rows), 4) - 0.4, -0.6)
    axis.set_xlim(0, 1.42 * top)
    axis.set_title(title, fontsize=11, loc="left")
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, axis="x", color="0.92")
    axis.set_axisbelow(True)


def _canvas(width: float, height: float, columns: list[float]):
    """A figure with one axis a column, on the non-interactive canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawing = Figure(figsize=(width, height), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(drawing)
    return drawing, list(drawing.subplots(1, len(columns), width_ratios=columns, squeeze=False)[0])


@literally
def figure(report: dict, path: Path) -> None:
    """Scores against GFLOPs, and latency and size as bars beside it; bars only where no row has a score."""
    rows, machine, data = report["models"], report["machine"], report["dataset"]
    plotted = [row for row in rows if None not in (row["score"], row["gflops_128"], row["size_mb"])]
    height = max(5.2, 1.7 + 0.42 * len(rows))
    drawing, axes = _canvas(16.5 if plotted else 10.5, height, [1.55, 1, 1] if plotted else [1, 1])
    drawing.suptitle(report["title"], fontsize=14, fontweight="bold", x=0.01, ha="left")
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    drawing.supxlabel(
        f"{data['name']} ({data['source']}), {data['dev']:,} dev sentences. {machine['cpu']}{gpu}, {threads(machine)}."
        + (" Left: 95 % intervals, area by MB, models of equal GFLOPs side by side, dashed the Pareto front." if plotted else "")
        + " Bars: p50, whiskers p90.", fontsize=9.5, color="0.3", x=0.01, ha="left")
    speed, weight = axes[-2:]
    p50, p90 = ([row["latency_ms"]["1"][p] for row in rows] for p in ("p50", "p90"))
    ratios = [row["speedup"]["1"] for row in rows]
    quicker = [number(ms, 2) + ("" if ratio is None else f"  (×{ratio:.2f})") for ms, ratio in zip(p50, ratios, strict=True)]
    bars(speed, rows, p50, quicker, "latency, ms (× baseline's speed)", ends=p90)
    baseline_mb = next((row["size_mb"] for row in rows if row["key"] == report["baseline"]), None)
    sizes = [row["size_mb"] for row in rows]
    lighter = [number(mb, 2) + (f"  (1/{baseline_mb / mb:.1f})" if mb and baseline_mb and mb < 0.95 * baseline_mb else "") for mb in sizes]
    bars(weight, rows, sizes, lighter, "weights, MB (part of baseline's)", named=False)
    if plotted:
        _settle(drawing)
        scatter(axes[0], plotted, "gflops_128", "GFLOPs a sentence of 128 tokens (counted)", data["metric"])
    drawing.savefig(path, format="png")


def _settle(drawing) -> None:
    """Runs the layout once and freezes it, so that label places in pixels stay true."""
    drawing.axes[0].set(xlabel="x", ylabel="y", ylim=(80, 90))
    drawing.canvas.draw()
    drawing.set_layout_engine("none")


@literally
def comparison(rows: list[dict], title: str, path: Path) -> None:
    """Rows of any reports: scores against megabytes, and sizes as bars; a row's `family`, where given, groups the colours.

    Latency of different machines is not comparable and not drawn; nor is a front through scores on different `data`.
    """
    from textwrap import wrap

    plotted = [row for row in rows if row["score"] is not None and row["size_mb"] is not None]
    drawing, axes = _canvas(14 if plotted else 9, max(5.2, 1.7 + 0.36 * len(rows)), [1.4, 1] if plotted else [1])
    drawing.suptitle("\n".join(wrap(title, 130 if plotted else 80)), fontsize=12, fontweight="bold", x=0.01, ha="left")
    sizes = [row["size_mb"] for row in rows]
    bars(axes[-1], rows, sizes, [number(mb, 2) for mb in sizes], "weights on disk, MB")
    if plotted:
        _settle(drawing)
        metrics = {row["metric"] for row in plotted}
        one_set = len({row["data"] for row in plotted}) == 1
        scatter(axes[0], plotted, "size_mb", "weights on disk, MB", metrics.pop() if len(metrics) == 1 else "score", fronted=one_set)
    drawing.savefig(path, format="png")

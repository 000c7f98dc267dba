"""A report as one page of HTML that needs nothing beside it: everything here is drawn from the JSON and from nothing else."""

import math
from functools import cache
from pathlib import Path

from report import claims, tables
from report.figures import interval, looks, pareto, side_by_side
from report.tables import metric, number, percent

TEMPLATE, UNIT = "page.html", "%"
COSTS = (("gflops_128", "GFLOPs", "GFLOPs a text of 128 tokens"), ("size_mb", "MB", "weights, MB"),
         ("ms", "ms", "milliseconds, one text at a time"))
WIDE, HIGH, LEFT, BELOW, RADIUS = 760, 400, 52, 44, 11  # of a frontier, in its own pixels


def html(report: dict) -> str:
    """The page of a report in the form of today. Whatever text is in it shows as it stands."""
    rows = {row["key"]: row for row in report["models"]}
    outcome = report.get("outcome") or {}
    pair = [rows[outcome[name]] for name in ("before", "after")] if outcome else None
    by_class, left_out = tables.recalls(report, "html")
    return _template().render(
        report=report, metric=metric(report), look=looks(report["models"]), outcome=outcome, pair=pair,
        baseline=rows.get(report["baseline"]), verdict=pair and verdict(report, *pair), tone=tone(outcome.get("no_loss")),
        said=outcome.get("no_loss") and sentence(claims.said(outcome["no_loss"])), tiles=tiles(report, *pair) if pair else [],
        frontiers=[found for cost in COSTS if (found := frontier(report, *cost))], bars=bars(report["models"]),
        groups=groups(outcome.get("changed") or {}), table=tables.table(report, "html"), details=tables.details(report, "html"),
        losses=tables.losses(report), recalls=by_class, left_out=left_out, certain=tables.sureness(report, "html"),
        conditions=tables.conditions(report), reasons=tables.reasons(report), lineage=tree(report.get("lineage") or []))


@cache
def _template():
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(TEMPLATE)


# --- the verdict

def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def tone(claim: dict | None) -> str:
    """good, unsure or bad: the colour of a claim of `claims`."""
    if claim is None:
        return "unsure"
    return "good" if claim["holds"] else "bad" if claims.surely_lost(claim) else "unsure"


def in_per_cent(report: dict) -> bool:
    """Whether a score is a share: a correlation, though shown times a hundred too, is none."""
    return report["dataset"].get("task") != "regression"


def on_one_device(report: dict, *rows: dict) -> bool:
    """Whether these rows were timed on the same kind of device."""
    devices = report["measuring"].get("devices") or {}
    return len({devices.get(row["key"]) for row in rows}) == 1


def verdict(report: dict, before: dict, after: dict) -> str:
    """What the model that ships is worth beside the first one, in a sentence."""
    parts = []
    if before["size_mb"] and after["size_mb"]:
        parts.append(f"is {ratio(before['size_mb'], after['size_mb'])} times smaller than {before['label']}")
    ms = [row["latency_ms"]["1"]["p50"] for row in (before, after)]
    if all(ms) and on_one_device(report, before, after):
        parts.append(f"answers a text {ratio(*ms)} times as fast")
    if None not in (before["score"], after["score"]):
        unit = f" {UNIT}" if in_per_cent(report) else ""
        parts.append(f"reaches {percent(after['score'])}{unit} {metric(report)} on {report['dataset']['dev']:,} dev texts, "
                     f"where {before['label']} has {percent(before['score'])}{unit}")
    return f"{after['label']} " + (" and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)) + "."


def ratio(before: float, after: float) -> str:
    """'18.5', or '120' where digits behind the point say nothing."""
    times = before / after
    return f"{times:.0f}" if times >= 100 else f"{times:.1f}"


def tiles(report: dict, before: dict, after: dict) -> list[dict]:
    """[{name, before, after, change, tone}] of what a reader asks first; what wasn't measured is left out."""
    found = []
    if None not in (before["score"], after["score"]):
        delta = 100 * (after["score"] - before["score"])
        name = metric(report) + (f", {UNIT}" if in_per_cent(report) else "")
        found.append({"name": name, "before": percent(before["score"]), "after": percent(after["score"]),
                      "change": f"{delta:+.1f} points", "tone": tone((report.get("outcome") or {}).get("no_loss"))})
    same = on_one_device(report, before, after)
    amounts = [("weights, MB", "size_mb", 2), ("GFLOPs, 128 tokens", "gflops_128", 3), ("memory, MB", "peak_rss_mb", 0)]
    values = [(name, [row[field] for row in (before, after)], digits) for name, field, digits in amounts]
    values[1:1] = [(f"ms, {name}", [row["latency_ms"][batch]["p50"] if same else None for row in (before, after)], 2)
                   for batch, name in (("1", "one text"), ("32", "32 at once"))]
    for name, (old, new), digits in values:
        if old and new:
            change, how = (f"÷ {ratio(old, new)}", "good") if old >= new else (f"× {ratio(new, old)}", "bad")
            found.append({"name": name, "before": number(old, digits), "after": number(new, digits), "change": change, "tone": how})
    return found


# --- the frontier

def frontier(report: dict, field: str, name: str, title: str) -> dict | None:
    """{name, title, points, front, x_ticks, y_ticks} in pixels of a score against a cost, on a logarithmic axis; None without two points.

    `ms` compares those rows alone that ran where the baseline did.
    """
    rows = {number: row for number, row in enumerate(report["models"], 1) if row["score"] is not None}
    if field == "ms":
        baseline = next((row for row in rows.values() if row["key"] == report["baseline"]), None)
        costs = {i: row["latency_ms"]["1"]["p50"] for i, row in rows.items() if baseline is None or on_one_device(report, row, baseline)}
    else:
        costs = {i: row[field] for i, row in rows.items()}
    costs = {i: cost for i, cost in costs.items() if cost}
    if len(costs) < 2:
        return None
    least, most = min(costs.values()) / 1.5, max(costs.values()) * 1.5
    bounds = [bound for i in costs for bound in interval(rows[i])] + [100 * rows[i]["score"] for i in costs]
    margin = 0.08 * (max(bounds) - min(bounds)) or 1.0
    low, high = min(bounds) - margin, max(bounds) + margin

    def x(cost: float) -> float:
        return round(LEFT + (WIDE - LEFT - 12) * math.log(cost / least) / math.log(most / least), 1)

    def y(score: float) -> float:
        return round(12 + (HIGH - BELOW - 12) * (high - score) / (high - low), 1)

    shown = side_by_side({str(i): cost for i, cost in costs.items()}, (least, most))
    colours = looks(report["models"])
    points = {}
    for i in costs:
        colour, _, hatch = colours[rows[i]["key"]]
        points[i] = {"row": i, "x": x(shown[str(i)]), "y": y(100 * rows[i]["score"]), "bar": list(map(y, interval(rows[i]))),
                     "colour": colour, "filled": not hatch, "tip": tip(report, i, rows[i])}
    at = {(costs[i], 100 * rows[i]["score"]): point for i, point in reversed(points.items())}
    front = [at[point] for point in pareto(list(at))]
    path = f"M{front[0]['x']},{front[0]['y']}" + "".join(f"H{p['x']}V{p['y']}" for p in front[1:]) + f"H{WIDE - 12}"
    return {"name": name, "title": title, "points": list(points.values()), "front": path, "wide": WIDE, "high": HIGH, "left": LEFT,
            "below": BELOW, "radius": RADIUS, "x_ticks": [(x(tick), f"{tick:g}") for tick in decades(least, most)],
            "y_ticks": [(y(tick), f"{tick:g}") for tick in even(low, high)]}


def tip(report: dict, number_of_row: int, row: dict) -> str:
    """A row in a few lines."""
    low, high = interval(row)
    lines = [f"{number_of_row} · {row['label']}", f"{metric(report)} {percent(row['score'])} ({low:.1f}–{high:.1f})",
             f"{number(row['size_mb'], 2)} MB · {number(row['gflops_128'], 3)} GFLOPs",
             f"{number(row['latency_ms']['1']['p50'], 2)} ms alone · {number(row['latency_ms']['32']['p50'], 1)} ms for 32"]
    return "\n".join(lines)


def decades(least: float, most: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two numbers; of many decades the powers alone."""
    steps = (1, 2, 5) if most / least < 200 else (1,)
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    return [step * 10.0**power for power in powers for step in steps if least <= step * 10.0**power <= most]


def even(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two."""
    raw = (high - low) / 8
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= raw)
    first = math.ceil(low / step)
    return [round(step * i, 6) for i in range(first, math.floor(high / step) + 1)]


# --- what else is drawn

def bars(rows: list[dict]) -> list[dict]:
    """[{row, label, of: [{text, share}]}]: latency of one text and megabytes of each row, as shares of the largest."""
    values = {"ms": [row["latency_ms"]["1"]["p50"] for row in rows], "MB": [row["size_mb"] for row in rows]}
    most = {unit: max(filter(None, found), default=1.0) for unit, found in values.items()}
    return [{"row": i, "label": row["label"], "key": row["key"],
             "of": [{"text": f"{number(values[unit][i - 1], 2)} {unit}", "share": round(100 * (values[unit][i - 1] or 0) / most[unit], 1)}
                    for unit in values]} for i, row in enumerate(rows, 1)]


def groups(changed: dict[str, dict]) -> list[dict]:
    """[{name, sentences, gained, lost, gained_share, lost_share}] of what `behaviour.changed` counts; shares of the largest, in %."""
    def of(group: dict, what: str) -> float:
        return group[what] / group["sentences"]

    most = max((of(group, what) for group in changed.values() for what in ("gained", "lost")), default=0) or 1.0
    return [{"name": name, **group, **{f"{what}_share": round(100 * of(group, what) / most, 1) for what in ("gained", "lost")}}
            for name, group in changed.items()]


def tree(lineage: list[dict]) -> list[dict]:
    """[{depth, stage…, also}] of a report's lineage, each model below the last made of its parents; `also` are the others."""
    by_key = {entry["key"]: entry for entry in lineage}
    below: dict[str | None, list[dict]] = {}
    for entry in lineage:
        parents = [by_key[key] for key in entry["parents"] if key in by_key]
        last = max(parents, key=lineage.index, default=None)
        also = [parent["path"] for parent in parents if parent is not last]
        below.setdefault(last["key"] if last else None, []).append(entry | {"also": also})

    def walk(key: str | None, depth: int) -> list[dict]:
        return [line for entry in below.get(key, []) for line in [entry | {"depth": depth}, *walk(entry["key"], depth + 1)]]

    return walk(None, 0)

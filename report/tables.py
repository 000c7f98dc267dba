"""A report's rows as tables and as Markdown: everything here is drawn from the JSON and from nothing else."""

import re

from report import claims

SINGLE = "single_label"  # the task of reports that name none
RECALLS = 10  # classes whose recall is shown: so many columns can be read


def escaped(text: str) -> str:
    """One line of Markdown that shows a text as it stands, whatever signs of Markdown, HTML or a table are in it."""
    text = re.sub(r"[\\`*\[\]~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("|", "&#124;").replace("$", "&#36;")


def number(value: float | None, digits: int = 1, sign: str = "") -> str:
    return "n/a" if value is None else f"{value:{sign},.{digits}f}"


def percent(value: float | None, digits: int = 1, sign: str = "") -> str:
    return number(None if value is None else 100 * value, digits, sign)


def over_seeds(row: dict) -> str:
    """'88.9 ± 0.4 (3)': mean, standard deviation and number of seeds."""
    if len(row.get("seeds", ())) < 2:
        return "—"
    return f"{percent(row['score_mean'])} ± {percent(row['score_sd'])} ({len(row['seeds'])})"


def metric(report: dict) -> str:
    """What the score of a report's rows is, as people call it."""
    return report["dataset"]["metric"]


def p_value(value: float | None) -> str:
    return "n/a" if value is None else "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def table(report: dict, style: str = "github") -> str:
    """The main table, a line a model; `style` is tabulate's: "github" for Markdown, "html", "simple" for a terminal."""
    from tabulate import tabulate

    lines, several = [], any(len(row.get("seeds", ())) > 1 for row in report["models"])
    tested = [row for row in report["models"] if row["key"] != report["baseline"] and row["mcnemar_p"] is not None]
    corrected = dict(zip((row["key"] for row in tested), claims.holm([row["mcnemar_p"] for row in tested]), strict=True))
    for row in report["models"]:
        compared = row["key"] != report["baseline"]
        low, high = row["ci95"] or (None, None)
        line = {
            "model": row["label"],
            f"{metric(report)} %": percent(row["score"]),
            "95 %": "n/a" if low is None else f"{percent(low)}–{percent(high)}",
            **({"over seeds": over_seeds(row)} if several else {}),
            "Δ points": percent(row["delta"], sign="+") if compared else "—",
            "p": p_value(corrected.get(row["key"])) if compared else "—",
            "params M": number(row["params"] and row["params"] / 1e6, 2),
            "MB": number(row["size_mb"], 2),
            "opens, ms": number(row["load_ms"], 0),
            "RSS MB": number(row["peak_rss_mb"], 0),
            "GFLOPs": number(row["gflops_128"], 3),
            "ms, 1": number(row["latency_ms"]["1"]["p50"], 2),
            "×, 1": number(row["speedup"]["1"], 2),
            "ms, 32": number(row["latency_ms"]["32"]["p50"], 1),
            "×, 32": number(row["speedup"]["32"], 2),
        }
        lines.append(line)
        if row.get("padded"):
            both = {batch: (ms["p50"], row["latency_ms"][batch]["p50"]) for batch, ms in row["padded"]["latency_ms"].items()}
            lines.append(line | {"model": f"{row['label']}, padded", "Δ points": "—"}
                         | {f"ms, {batch}": number(ms, 2 if batch == "1" else 1) for batch, (ms, _) in both.items()}
                         | {f"×, {batch}": number(base / ms if base and ms else None, 2) for batch, (ms, base) in both.items()})
    return _tabulate(tabulate, lines, style)


def details(report: dict, style: str = "github") -> str:
    """What the main table has no room for."""
    from tabulate import tabulate

    lines, on_gpu = [], any(row.get("half_precision") for row in report["models"])
    by_class = any("f1" in row for row in report["models"]) and report["dataset"].get("task", SINGLE) == SINGLE
    for row in report["models"]:
        shape = row["structure"]
        lines.append({
            "model": row["label"],
            "agreement %": percent(row["agreement"]) if row["key"] != report["baseline"] else "—",
            **({"F1 %": percent(row["f1"]), "ECE %": percent(row["ece"])} if by_class else {}),
            "heads": " ".join(map(str, shape["heads"])) if shape else "n/a",
            "neurons": " ".join(map(str, shape["ffn"])) if shape else "n/a",
            "vocabulary": number(shape["vocab"] if shape else None, 0),
            "respelled %": percent(row["respelled"]),
            "GFLOPs, mean": number(row["gflops_mean"], 3),
            "GMACs, 16": number(row["gmacs_16"], 4),
            "p90 ms, 1": number(row["latency_ms"]["1"]["p90"], 2),
            "p90 ms, 32": number(row["latency_ms"]["32"]["p90"], 1),
            "text to label ms": number(row["text_to_label_ms"], 2),
            **(in_half_precision(row["half_precision"]) if on_gpu else {}),
            "total MB": number(row["total_mb"], 2),
            "made by": row["path"],
        })
    return _tabulate(tabulate, lines, style)


def in_half_precision(found: dict | None) -> dict[str, str]:
    """The columns of what a row takes in float16; "n/a" where it was not timed so."""
    ms = found["latency_ms"] if found else {}
    return {f"half: ms, {batch}": number(ms[batch]["p50"] if ms else None, 2) for batch in ("1", "32")} | {
        "half: agreement %": percent(found["agreement"] if found else None)}


def differences(report: dict) -> str:
    """Where a row is right and the baseline wrong (+), and the other way round (−), by length and negation; "" where nothing differs."""
    from tabulate import tabulate

    lines = []
    for row in report["models"]:
        found = row.get("changed") or {}
        if any(group["gained"] + group["lost"] for group in found.values()):
            lines.append({"model": row["label"]} | {f"{name} ({group['sentences']})": f"+{group['gained']} −{group['lost']}"
                                                    for name, group in found.items()})
    return _tabulate(tabulate, lines, "github") if lines else ""


def sureness(report: dict, style: str = "github") -> str:
    """How many sentences each model answers by itself at each level of sureness, and how many of these as the teacher does at least."""
    from tabulate import tabulate

    lines = []
    for row in report["models"]:
        if row.get("sure"):
            lines.append({"model": row["label"]} | {
                f"sure {level['sure']:g}": f"{percent(level['answered'])}, ≥ {percent(level['agreement_lower'])}"
                for level in row["sure"]["levels"]})
    return _tabulate(tabulate, lines, style) if lines else ""


def recalls(report: dict, style: str = "github") -> tuple[str, int]:
    """(a table of each class's recall, a line a model; the classes that it leaves out): the RECALLS worst by the mean over rows.

    ("", 0) where there are two classes of about as many sentences, whose accuracy says as much, and in reports of earlier code.
    """
    from tabulate import tabulate

    support = {name: count for name, count in report["dataset"].get("support", {}).items() if count}
    rows = [row for row in report["models"] if row.get("recall")]
    if not rows or len(support) < 2 or len(support) == 2 and 2 * min(support.values()) >= max(support.values()):
        return "", 0
    worst = sorted(support, key=lambda name: sum(row["recall"].get(name) or 0 for row in rows))[:RECALLS]
    shown = {name: f"{name} ({count})" for name, count in support.items() if name in worst}
    lines = [{"model": row["label"]} | {title: percent(row["recall"].get(name)) for name, title in shown.items()} for row in rows]
    return _tabulate(tabulate, lines, style), len(support) - len(shown)


def _tabulate(tabulate, lines: list[dict], style: str) -> str:
    show = escaped if style == "github" else lambda text: " ".join(text.split())
    headers, rows = list(map(show, lines[0])), [list(map(show, line.values())) for line in lines]
    align = ["left" if name in ("model", "heads", "neurons", "made by") else "right" for name in lines[0]]
    return tabulate(rows, headers=headers, tablefmt=style, colalign=align, disable_numparse=True)


def conditions(report: dict) -> list[str]:
    """How the figures were taken: a sentence or two each."""
    data, machine, how = report["dataset"], report["machine"], report["measuring"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return [
        f"Data: {data['name']} ({data['source']}), {data['dev']:,} dev sentences "
        f"(train {data['train']:,}, held out {data['validation']:,}).",
        f"Machine: {machine['cpu']}, {machine['cores']} cores{gpu}; torch {machine['torch']}, transformers {machine['transformers']}, "
        f"onnxruntime {machine['onnxruntime']}.",
        f"95 %: Wilson interval. Δ and p: against '{_label(report, report['baseline'])}', exact McNemar test on the same sentences, "
        "corrected for the number of rows (Holm)."
        if metric(report) == "accuracy" else
        f"95 %: by a bootstrap over sentences. Δ: against '{_label(report, report['baseline'])}', on the same ones.",
        "MB: the weights file as shipped, 10^6 bytes. GFLOPs: counted on the model that ships, at 128 tokens, 2 per multiply-add "
        f"(mean: at {how['mean_tokens']} tokens, the dev set's mean length). GMACs: multiply-adds at 16 tokens.",
        f"ms, 1 and ms, 32: median latency of {how['sentences']} dev sentences, one by one and in batches of 32 padded to their "
        f"longest, each the median of {how['repeats']}, after a warm-up; {threads(machine)}, all models taking turns. "
        "×: the baseline's ms over this row's. RSS MB: peak memory of a process of its own that opens the model and answers.",
        *(["The student is timed in compact form, which computes no padding, as all that is made of it. 'Padded': as the library runs it."]
          if any(row.get("padded") for row in report["models"]) else []),
        "Respelled: dev sentences that the row's vocabulary spells in other word pieces than the baseline's. "
        "Opens, ms: from file (hashes checked, file cache warm) to the first answer, libraries already imported. "
        "Text to label: tokeniser included.",
        *([f"Over seeds: mean ± standard deviation of {metric(report)} (number of seeds); the row itself is the newest of them. "
           "In the figure each has a dash of its own."] if any(len(row.get("seeds", ())) > 1 for row in report["models"]) else []),
        *(["Half: the row's model in float16 on the GPU; agreement: dev sentences that it answers as the row does in float32."]
          if any(row.get("half_precision") for row in report["models"]) else []),
        *(["F1: the mean over classes. ECE: expected calibration error, 15 bins of certainty (Guo et al. 2017)."]
          if "f1" in report["models"][0] and data.get("task", SINGLE) == SINGLE else []),
        *(f"Pruned to be fast: {row['label']} is {row['achieved_speedup'][batch]:.1f} times as fast as the teacher at batch {batch}, "
          f"{times:.1f} were predicted by this machine's table of latencies."
          for row in report["models"] if "achieved_speedup" in row for batch, times in row["predicted_speedup"].items()),
    ]


def _label(report: dict, key: str) -> str:
    return next((row["label"] for row in report["models"] if row["key"] == key), key)


def threads(machine: dict) -> str:
    return f"{machine['threads']} thread" + ("s" if machine["threads"] > 1 else "")


def reasons(report: dict) -> list[str]:
    """What is missing, and why: fields that are null (or carry a note), and checkpoints that were skipped."""
    lines = []
    per_row: dict[str, list[str]] = {}  # what is said of a row -> the rows: the same of several is said once
    for row in report["models"]:
        fields: dict[str, list[str]] = {}
        for name, reason in row.get("notes", {}).items():
            fields.setdefault(reason, []).append(name)
        for reason, names in fields.items():
            per_row.setdefault(f"{', '.join(names)}: {reason}", []).append(row["key"])
    for text, keys in per_row.items():
        lines.append(text if len(keys) == len(report["models"]) else f"{', '.join(keys)}: {text}")
    return lines + [f"skipped {entry['key']}: {entry['reason']}" for entry in report["skipped"]]


def losses(report: dict) -> list[str]:
    """A line a row: what may be said of its loss against the baseline; none where accuracy was left out."""
    return [f"{row['label']}: {claims.said(row['no_loss'])}" for row in report["models"]
            if row.get("no_loss") and row["key"] != report["baseline"]]


def markdown(report: dict) -> str:
    bullets = [f"- {escaped(line)}" for line in conditions(report)]
    missing = [f"- {escaped(line)}" for line in reasons(report)]
    baseline, lost, changes = escaped(_label(report, report["baseline"])), losses(report), differences(report)
    parts = [f"# {escaped(report['title'])}", table(report), "\n".join(bullets),
             f"![{metric(report)}, FLOPs, latency and size](final_report.png)"]
    if lost:
        parts += [f"## Is {metric(report)} lost against '{baseline}'?", "\n".join(f"- {escaped(line)}" for line in lost)]
    if changes:
        parts += [f"## Where they differ from '{baseline}'", changes,
                  "Sentences that the row alone gets right (+), and that the baseline alone does (−), by length and by negation: "
                  "not, n't, never, no, cannot, without."]
    if certain := sureness(report):
        parts += ["## Sure or not sure", certain,
                  "At this certainty (`predict.py --sure`) the model answers so many of the dev sentences itself, in %, and agrees with "
                  "the teacher on at least so many of these: lower bounds by Clopper and Pearson that hold for all levels of a model at "
                  "once with 95 % certainty (Bonferroni), so a level may be chosen by this table. The teacher can be asked for the rest "
                  "(`--fall-back`). Probabilities are calibrated by a temperature, fitted on held-out sentences (Guo et al. 2017)."]
    parts += ["## Details", details(report)]
    by_class, left_out = recalls(report)
    if by_class:
        which = f"of the {RECALLS} classes that are lowest in the mean over models; {left_out} more classes aren't shown" if left_out \
            else "of each class"
        parts += ["### Recall by class", by_class,
                  f"Recall, in %, {which}: the share of a class's dev sentences (their number in brackets) that is answered with it."]
    return "\n\n".join([*parts, *(["## Notes", "\n".join(missing)] if missing else [])]) + "\n"

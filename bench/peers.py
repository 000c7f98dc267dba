"""Our presets beside everything else that one might have picked: the same teacher, the same sentences, taking turns on one machine.

    python -m bench.peers RUN_DIR docs/results/bench [--data-dir DIR] [--python KIND=VENV/bin/python …]

Each peer makes its model from the teacher in a process of its own (bench/peer.py), with its recommended settings, in the venv where it
was installed from its own package: `make bench` makes these. One that doesn't install or run is a row with its error. Writes
peers.json, peers.md and peers.png: accuracy with its Wilson interval, megabytes, latency at batch 1 and 32, text to label, minutes to
make (of the models made here; for ours, all of its stages behind the teacher, as their stage.json note them).
"""

import contextlib
import json
import random
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import finished
from bench.presets import PRESETS, seeds_of
from common import cli, cores, forms, lineage

LABELS = {"torch_fp32": "Teacher, torch", "torch_int8_dynamic": "torch dynamic int8", "torchao_int8_dynamic": "torchao int8",
          "onnxruntime_int8_dynamic": "onnxruntime int8, dynamic", "onnxruntime_int8_static": "onnxruntime int8, static",
          "openvino_nncf_int8": "OpenVINO + NNCF int8", "neural_compressor_int8": "Intel Neural Compressor int8",
          "torch_pruning": "Torch-Pruning, taught alike, int8",
          "tfidf_logistic": "TF-IDF, logistic regression", "half": "half-depth student, torch", "half_int8": "half-depth student, int8"}
PATIENCE = 300  # seconds for the dev set, or for a turn
TURN = 8  # groups that a model answers before the next model's turn


class Worker:
    """A peer's process: asked a line, it answers a line. `error` says why it can't, and is None while it can.

    It is stopped while others are asked, so that no thread of its own, spinning on, takes a core from them.
    """

    def __init__(self, key: str, python: str, arguments: list[str], log: Path):
        self.key, self.log = key, log
        self.process = subprocess.Popen([python, "-m", "bench.peer", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log.open("w", encoding="utf-8"), encoding="utf-8")
        self.error: str | None = None
        self.ready = self._line()
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, what: str, groups: list[list[str]]):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps({"what": what, "groups": groups}) + "\n")
        self.process.stdin.flush()
        if select.select([self.process.stdout], [], [], PATIENCE)[0]:
            said = self._line()
            self.process.send_signal(signal.SIGSTOP)
            return said
        self.process.kill()
        self.error = f"no answer within {PATIENCE} seconds"
        return None

    def _line(self):
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        named = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]  # after it some libraries give advice
        self.error = (named or said)[-1][:200] if said else f"it ended with code {self.process.wait()} and no word"
        return None

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def minutes_to_make(checkpoint, made: list) -> float:
    """What its stage and all those before it took, but for the teacher, which every peer begins with."""
    return sum(stage.manifest["wall_s"] for stage in lineage.line(checkpoint, made) if stage.stage != "teacher") / 60


def timed(workers: list[Worker], what: str, groups: list[list[str]], repeats: int) -> dict[str, float]:
    """{key: milliseconds}, the median over groups of the median over repeats; in turns, the order shuffled, a pass of warm-up first."""
    rng = random.Random(0)
    took: dict[str, list[list[float]]] = {worker.key: [[] for _ in groups] for worker in workers}
    for repeat in range(-1, repeats):
        for start in range(0, len(groups), TURN):
            for worker in rng.sample(workers, len(workers)):
                for i, ms in enumerate(worker.ask(what, groups[start:start + TURN]), start):
                    if repeat >= 0:
                        took[worker.key][i].append(ms)
    return {key: statistics.median(statistics.median(repeated) for repeated in times) for key, times in took.items()}


def versus(row: dict, rows: list[dict]) -> dict:
    """A row of ours against the best peer: {best_peer, as_accurate, speedup: {batch: times}, size: times}.

    It is the fastest at batch 1 whose accuracy is at least the row's; where there is none, the most accurate.
    """
    alive = [r for r in rows if not r["ours"] and r["error"] is None]
    equals = [r for r in alive if r["accuracy"] >= row["accuracy"]]
    best = min(equals, key=lambda r: r["latency_ms"]["1"]) if equals else max(alive, key=lambda r: r["accuracy"])
    return {"best_peer": best["key"], "as_accurate": bool(equals),
            "speedup": {b: best["latency_ms"][b] / row["latency_ms"][b] for b in ("1", "32")},
            "size": best["size_mb"] / row["size_mb"]}


def main(args) -> None:

    from common import checkpoints, measure

    corpus = finished.corpus(args)
    teacher = checkpoints.find(args.run_dir, "teacher")
    conditions = finished.conditions(corpus, args.threads or cores.usable())
    pythons = dict(text.split("=", 1) for text in args.python)
    made = checkpoints.published(args.run_dir)
    asked: dict[str, list[str]] = {}
    minutes: dict[str, float] = {}
    for preset in PRESETS:
        seeds = seeds_of(args.run_dir, preset, teacher)
        if seeds:  # of three seeds the one in the middle, by the held-out split
            order = sorted(seeds.values(), key=lambda pair: pair[1].manifest["metrics"]["validation_accuracy"])
            _, export = order[len(order) // 2]
            asked[preset] = ["ours", "--checkpoint", str(export.path)]
            minutes[preset] = minutes_to_make(export, made)
    for key, stage in (("half", "distilled"), ("half_int8", "distilled_onnx_int8")):
        found = next((c for c in made if c.stage == stage), None)
        if found:
            asked[key] = ["ours", "--checkpoint", str(found.path)]
            minutes[key] = minutes_to_make(found, made)
    kinds = [kind for kind in LABELS if kind not in ("half", "half_int8")]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stopped:
        place = Path(folder)
        sample = random.Random(0).sample(corpus.train.texts, min(256, len(corpus.train)))
        (place / "calibration.json").write_text(json.dumps(sample), encoding="utf-8")
        train, held_out = corpus.train, corpus.validation
        (place / "train.json").write_text(json.dumps({"texts": train.texts, "labels": train.labels, "held_out_texts": held_out.texts,
                                                      "held_out_labels": held_out.labels}), encoding="utf-8")
        for kind in kinds:
            (place / kind).mkdir()
            asked[kind] = [kind, "--teacher", str(teacher.path.resolve()), "--calibration", str(place / "calibration.json"),
                           "--train", str(place / "train.json"), "--trained", str(args.run_dir.resolve() / "runs" / "trained"),
                           "--work", str(place / kind)]
        made_before = args.run_dir / "runs" / "trained" / "torch_pruning" / "made.json"
        if made_before.is_file():
            minutes["torch_pruning"] = json.loads(made_before.read_text(encoding="utf-8"))["minutes"]
        workers = {}
        for key, arguments in asked.items():
            workers[key] = Worker(key, pythons.get(key, sys.executable), [*arguments, "--threads", str(args.threads or cores.usable())],
                                  place / f"{key}.log")
            stopped.callback(workers[key].close)
            cli.say(f"{key}: {workers[key].error or 'ready'}")
        alive = [w for w in workers.values() if w.error is None]
        dev = corpus.dev
        answers = {}
        for worker in alive:
            said = worker.ask("answer", [dev.texts[i:i + 32] for i in range(0, len(dev), 32)])
            if worker.error is None:
                answers[worker.key] = [label for group in said for label in group]
        alive = [w for w in alive if w.error is None]
        texts = measure.to_time(dev.texts, args.sentences)
        groups = {"1": [[text] for text in texts], "32": [texts[i:i + 32] for i in range(0, len(texts) - 31, 32)]}
        latency = {batch: timed(alive, "batch", groups[batch], args.repeats) for batch in ("1", "32")}
        whole = timed(alive, "text", groups["1"], args.repeats)
        rows = []
        for key, worker in workers.items():
            row = {"key": key, "label": LABELS.get(key, f"ours, {key}"), "ours": key in PRESETS, "accuracy": None, "ci95": None,
                   "size_mb": None, "latency_ms": None, "text_to_label_ms": None, "minutes_to_make": None, "error": worker.error}
            if worker.error is None:
                row |= measure.accuracy(answers[key], dev.labels)
                row |= {"size_mb": worker.ready["size_mb"], "latency_ms": {b: latency[b][key] for b in ("1", "32")},
                        "text_to_label_ms": whole[key], "minutes_to_make": minutes.get(key, worker.ready["minutes"]),
                        "versions": worker.ready["versions"]}
            rows.append(row)
    result = {**conditions, "sentences": len(texts), "repeats": args.repeats, "rows": rows,
              "versus": {row["key"]: versus(row, rows) for row in rows if row["ours"]}}
    finished.write(result, args.output / "peers.json")
    (args.output / "peers.md").write_text(page(result), encoding="utf-8")
    draw(rows, args.output / "peers.png")
    print(table(rows))


def table(rows: list[dict]) -> str:
    from tabulate import tabulate

    lines = []
    for row in sorted(rows, key=lambda r: r["latency_ms"]["1"] if r["error"] is None else float("inf")):
        if row["error"] is None:
            low, high = row["ci95"]
            lines.append([row["label"], f"{100 * row['accuracy']:.1f}", f"{100 * low:.1f}–{100 * high:.1f}", f"{row['size_mb']:.2f}",
                          f"{row['latency_ms']['1']:.2f}", f"{row['latency_ms']['32']:.1f}", f"{row['text_to_label_ms']:.2f}",
                          f"{row['minutes_to_make']:.1f}"])
        else:
            lines.append([row["label"], "error: " + row["error"].replace("|", "/"), *[""] * 6])
    return tabulate(lines, headers=["model", "accuracy %", "95 %", "MB", "ms, 1", "ms, 32", "text to label, ms", "minutes to make"],
                    tablefmt="github", disable_numparse=True)


def page(result: dict) -> str:
    """peers.md, all of it drawn from peers.json."""
    chosen_as = {True: "the fastest peer at least as accurate", False: "the most accurate peer, since none is as accurate"}
    lines = [f"{preset} against {found['best_peer']}, {chosen_as[found['as_accurate']]}: "
             f"{found['speedup']['1']:.1f}× at batch 1, {found['speedup']['32']:.1f}× at batch 32, {found['size']:.1f}× smaller."
             for preset, found in result["versus"].items()]
    return "\n\n".join([
        f"# {result['dataset']['name']}: presets beside peers",
        finished.how_measured(result),
        table(result["rows"]), *lines, "![accuracy against latency and size](peers.png)"]) + "\n"


def draw(rows: list[dict], path: Path) -> None:
    """Accuracy against latency at batch 1 and at 32, and against megabytes; ours and the peers'."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(15, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    panels = (("latency, batch 1 (ms)", lambda r: r["latency_ms"]["1"]), ("latency, batch 32 (ms)", lambda r: r["latency_ms"]["32"]),
              ("weights file (MB)", lambda r: r["size_mb"]))
    shown = [row for row in rows if row["error"] is None]
    for axis, (title, of) in zip(drawing.subplots(1, 3, sharey=True), panels, strict=True):
        for number, row in enumerate(shown):
            low, high = row["ci95"]
            axis.errorbar(of(row), 100 * row["accuracy"], yerr=[[100 * (row["accuracy"] - low)], [100 * (high - row["accuracy"])]],
                          marker="*" if row["ours"] else "os^Dv"[number % 5], markersize=13 if row["ours"] else 6, color=f"C{number}",
                          lw=0.7, capsize=2, ls="none", label=row["label"])
        axis.set(xscale="log", xlabel=title)
        axis.grid(alpha=0.3)
    handles, names = drawing.axes[0].get_legend_handles_labels()
    drawing.legend(handles, names, loc="outside right center", frameon=False)
    drawing.axes[0].set_ylabel("dev accuracy, %")
    drawing.savefig(path)


if __name__ == "__main__":
    parser = finished.parser(__doc__, "DIR", "where the results go")
    parser.add_argument("--python", nargs="*", default=[], metavar="KIND=PYTHON", help="the interpreter of a peer's own venv")
    parser.add_argument("--sentences", type=forms.count, default=160, help="dev sentences that are timed")
    parser.add_argument("--repeats", type=forms.count, default=3, help="times that each is")
    parser.add_argument("--threads", type=forms.count, default=None, help="threads that one answer may use; else the machine's cores")
    cli.run(main, parser.parse_args())

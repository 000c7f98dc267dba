"""Our presets beside everything else that one might have picked: the same teacher, the same sentences, taking turns on one machine.

    python -m bench.peers RUN_DIR docs/results/bench [--data-dir DIR] [--python PACKAGE=VENV/bin/python …] [--only KIND …]

Each peer makes its model from the teacher in a process of its own (bench/peer.py), set up as its maintainers document it (bench/rivals/),
in the venv where it was installed from its own package: `make bench` makes these. One that doesn't install, or dies, is a row with its
error. Each is timed with one thread and with all, and the better of the two counts. Whatever runs in onnxruntime is batched as ours is.
Writes peers.json, peers.md and peers.png: accuracy with its Wilson interval; megabytes of the weights, of what has no tokenizer.json with
its words; latency of one sentence and of 32 as they come, the tokenising left out but for model2vec and fastText, which do it in one call;
sentences a second in batches sorted by length; text to label; minutes to make (of the models made here, with the lessons where they learn
from them; of ours, all stages behind the teacher, as their stage.json note them).
"""

import contextlib
import json
import os
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

OWN = {"ours": "", "ours_plain": ", plain session"}  # what stands behind a preset's name
PATIENCE = 300  # seconds for the dev set, or for a turn
TURN = 8  # groups that a model answers before the next model's turn
CALIBRATION = 300  # sentences for those that need ranges
LEARN_FROM_LESSONS = ("tfidf_of_lessons", "model2vec_classifier", "fasttext_quantised", "torch_pruning")
MAKING = 3600  # seconds for a model
LEAST = 65  # sentences to time: more than two batches


class Worker:
    """A peer's process: asked a line, it answers a line. `error` says why it can't, and is None while it can.

    It is stopped while others are asked, so that no thread of its own, spinning on, takes a core from them.
    """

    def __init__(self, key: str, python: str, arguments: list[str], log: Path):
        self.key, self.log = key, log
        self.error: str | None = None
        own = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(log.with_suffix(".inductor"))}  # what was compiled before would cost no minutes
        try:
            self.process = subprocess.Popen([python, "-m", "bench.peer", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log.open("w", encoding="utf-8"), encoding="utf-8", env=own)
        except OSError as error:
            self.process, self.error = None, str(error)
            return
        self.ready = self._line(MAKING)
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, what: str, groups: list[list[str]], threads: int) -> list | None:
        """What it answers; None where it died of it."""
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"what": what, "groups": groups, "threads": threads}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead, and its end is read below
        said = self._line(PATIENCE)
        self.process.send_signal(signal.SIGSTOP)
        return said

    def _line(self, patience: float):
        if not select.select([self.process.stdout], [], [], patience)[0]:
            self.process.kill()
            self.error = f"no answer within {patience} seconds"
            return None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        named = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)] if code > 0 else []  # some libraries add advice
        self.error = named[-1][:200] if named else f"it ended with code {code}: {said[-1][:150] if said else 'no word'}"
        return None

    def close(self) -> None:
        if self.process:
            self.process.kill()  # a stopped one too; whatever it wrote goes with its directory
            self.process.wait()


def minutes_to_make(checkpoint, made: list) -> float:
    """What its stage and all those before it took, but for the teacher, which every peer begins with."""
    return sum(stage.manifest["wall_s"] for stage in lineage.line(checkpoint, made) if stage.stage != "teacher") / 60


def timed(workers: list[Worker], what: str, groups: list[list[str]], repeats: int,
          threads: list[int]) -> dict[str, dict[int, list[float]]]:
    """{key: {threads: milliseconds of each group}}, medians over repeats; in turns, the order shuffled, a pass of warm-up first.

    Who dies meanwhile is left out.
    """
    rng, turns = random.Random(0), [(worker, count) for worker in workers for count in threads]
    took: dict = {worker.key: {count: [[] for _ in groups] for count in threads} for worker in workers}
    for repeat in range(-1, repeats):
        for start in range(0, len(groups), TURN):
            for worker, count in rng.sample(turns, len(turns)):
                if worker.error is None:
                    for i, ms in enumerate(worker.ask(what, groups[start:start + TURN], count) or [], start):
                        if repeat >= 0:
                            took[worker.key][count][i].append(ms)
    return {worker.key: {count: [statistics.median(ms) for ms in times] for count, times in took[worker.key].items()}
            for worker in workers if worker.error is None}


def versus(row: dict, ours: list, rows: list[dict], answers: dict[str, list[int]], labels: list[int]) -> dict:
    """A row of ours, with the answers of all its seeds, against the peers: {as_accurate, "1" | "32" | "mb": {peer, times}}; none, {}.

    Against each time, and the size, stands the best of the peers that are as accurate: the paired test on the same sentences, over our
    seeds, doesn't show at 5 % that they are less often right. Where there is none, the most accurate one.
    """
    from report import claims

    alive = [r for r in rows if not r["ours"] and r["error"] is None]
    if not alive:
        return {}
    equals = [r for r in alive if not claims.no_loss(ours, answers[r["key"]], labels, margin=0.0)["holds"]]
    compared = equals or [max(alive, key=lambda r: r["accuracy"])]
    found: dict = {"as_accurate": [r["key"] for r in equals]}
    for name, of in (("1", lambda r: r["latency_ms"]["1"]), ("32", lambda r: r["latency_ms"]["32"]), ("mb", lambda r: r["size_mb"])):
        best = min(compared, key=of)
        found[name] = {"peer": best["key"], "times": of(best) / of(row)}
    return found


def lessons_of(teacher, made: list):
    """The newest lessons with made-up texts that this teacher answered; None where there are none."""
    return next((c for c in made if c.stage == "lessons" and c.variant == "augmented" and c.parent_key("teacher") == teacher.key), None)


def written(place: Path, args, corpus, found) -> Path:
    """The texts that peers calibrate on and learn from, with the lessons `found`, as a file."""
    from training import lessons

    split: dict = {name: {"texts": part.texts, "labels": part.labels}
                   for name, part in (("train", corpus.train), ("held_out", corpus.validation))}
    taught = lessons.read(args.run_dir, found, corpus.facts) if found else None
    split["lessons"] = {"texts": taught.sentences.texts if taught else [], "labels": taught.logits.argmax(-1).tolist() if taught else []}
    split["calibration"] = random.Random(0).sample(corpus.train.texts, min(CALIBRATION, len(corpus.train)))
    (place / "texts.json").write_text(json.dumps(split), encoding="utf-8")
    return place / "texts.json"


def own_models(args, teacher, corpus) -> tuple[dict[str, tuple[str, str, Path]], dict[str, float], dict[str, list]]:
    """Ours, of this teacher: ({key: (kind, label, checkpoint)}, {key: minutes}), and {preset: the answers of all seeds, (seeds, S)}."""
    from common import checkpoints, inference

    made = checkpoints.published(args.run_dir)
    asked: dict = {}
    minutes: dict = {}
    answers: dict = {}
    for preset in PRESETS:
        of_teacher = seeds_of(args.run_dir, preset, teacher)
        if of_teacher:
            _, export = next(iter(of_teacher.values()))
            answers[preset] = [inference.open_classifier(other.path).classify(corpus.dev.texts).argmax(-1)
                               for _, other in seeds_of(args.run_dir, preset).values()]
            for kind, behind in OWN.items():
                key = preset + kind.removeprefix("ours")
                asked[key], minutes[key] = (kind, f"ours, {preset}{behind}", export.path), minutes_to_make(export, made)
    for key, label, stage in (("half", "half-depth student, torch", "distilled"),
                              ("half_int8", "half-depth student, int8", "distilled_onnx_int8")):
        found = next((c for c in made if (c.stage, c.variant) == (stage, "published") and c.parent_key("teacher") == teacher.key), None)
        if found:
            asked[key], minutes[key] = ("ours", label, found.path), minutes_to_make(found, made)
    return asked, minutes, answers


def main(args) -> None:
    from bench.rivals import PEERS, onnxruntime
    from common import checkpoints, measure

    corpus = finished.corpus(args)
    if corpus.task.kind != "single_label" or corpus.dev.seconds is not None:
        raise cli.UserError("peers are compared on single texts of one class each, and these data are others")
    texts = measure.to_time(corpus.dev.texts, args.sentences)
    if len(texts) < LEAST:
        raise cli.UserError(f"{len(texts)} sentences are too few to time: give {LEAST} or more, more than two batches")
    teacher, made = checkpoints.find(args.run_dir, "teacher", seed=args.seed), checkpoints.published(args.run_dir)
    threads = args.threads or cores.usable()
    conditions = finished.conditions(corpus, threads)
    pythons = dict(text.split("=", 1) for text in args.python)
    asked, minutes, of_seeds = own_models(args, teacher, corpus)
    packages = {kind: package for package, kinds in PEERS.items() for kind in kinds}
    labels = {kind: label for kinds in PEERS.values() for kind, label in kinds.items()}
    asked |= {kind: (kind, labels[kind], None) for kind in packages if kind not in OWN}
    for names, known in ((args.only or [], packages), (pythons, PEERS)):
        if unknown := [name for name in names if name not in known]:
            raise cli.UserError(f"{unknown[0]} isn't known: give one of {', '.join(known)}")
    if args.only:
        asked = {key: found for key, found in asked.items() if found[0] in args.only}
    trained = args.run_dir.resolve() / "runs" / "trained"
    minutes["torch_pruning"] = onnxruntime.minutes_of_torch_pruning(trained)
    lessons = lessons_of(teacher, made)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stopped:
        place = Path(folder)
        file = written(place, args, corpus, lessons)
        workers = {}
        for key, (kind, _, checkpoint) in asked.items():
            (place / key).mkdir()
            words = [kind, "--teacher", str(teacher.path.resolve()), "--texts", str(file), "--work", str(place / key),
                     "--trained", str(trained), "--threads", str(threads), *(["--checkpoint", str(checkpoint)] if checkpoint else [])]
            workers[key] = Worker(key, pythons.get(packages[kind], sys.executable), words, place / f"{key}.log")
            stopped.callback(workers[key].close)
            cli.say(f"{key}: {workers[key].error or 'ready'}")
        answers = {}
        for worker in workers.values():
            whole_set = [corpus.dev.texts[i:i + 32] for i in range(0, len(corpus.dev), 32)]
            if worker.error is None and (said := worker.ask("answer", whole_set, threads)):
                answers[worker.key] = [label for group in said for label in group]

        def times(what: str, groups: list[list[str]]) -> dict[str, dict[int, list[float]]]:
            alive = [worker for worker in workers.values() if worker.error is None]
            return timed(alive, what, groups, args.repeats, sorted({1, threads}))

        alone, by_length = [[text] for text in texts], sorted(texts, key=len)
        single, whole = times("batch", alone), times("text", alone)
        batches = times("batch", [texts[i:i + 32] for i in range(0, len(texts) - 31, 32)])
        stream = times("batch", [by_length[i:i + 32] for i in range(0, len(by_length), 32)])
        rows = []
        for key, worker in workers.items():
            kind, label, _ = asked[key]
            row = {"key": key, "label": label, "ours": key.removesuffix("_plain") in PRESETS, "error": worker.error,
                   **dict.fromkeys(("accuracy", "ci95", "size_mb", "latency_ms", "threads", "texts_per_s", "text_to_label_ms",
                                    "minutes_to_make"))}
            if worker.error is None:
                by_batch = {"1": single[key], "32": batches[key]}
                medians = {b: {count: statistics.median(ms) for count, ms in found.items()} for b, found in by_batch.items()}
                row |= measure.accuracy(answers[key], corpus.dev.labels)
                row |= {"size_mb": worker.ready["size_mb"], "latency_ms": {b: min(found.values()) for b, found in medians.items()},
                        "threads": {b: min(found, key=found.get) for b, found in medians.items()},
                        "texts_per_s": 1e3 * len(texts) / min(map(sum, stream[key].values())),
                        "text_to_label_ms": min(map(statistics.median, whole[key].values())),
                        "minutes_to_make": (minutes.get(key) or worker.ready["minutes"])
                        + (lessons.manifest["wall_s"] / 60 if lessons and key in LEARN_FROM_LESSONS else 0),
                        "versions": worker.ready["versions"]}
            rows.append(row)
    against = {row["key"]: versus(row, of_seeds[row["key"]], rows, answers, corpus.dev.labels)
               for row in rows if row["key"] in PRESETS and row["error"] is None}
    result = {**conditions, "sentences": len(texts), "repeats": args.repeats, "rows": rows,
              "versus": {preset: found for preset, found in against.items() if found}}
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
                          f"{row['latency_ms']['1']:.2f}", f"{row['latency_ms']['32']:.1f}", f"{row['texts_per_s']:,.0f}",
                          f"{row['text_to_label_ms']:.2f}", f"{row['minutes_to_make']:.1f}"])
        else:
            lines.append([row["label"], "error: " + row["error"].replace("|", "/"), *[""] * 7])
    headers = ["model", "accuracy %", "95 %", "MB", "ms, 1", "ms, 32", "texts a second", "text to label, ms", "minutes to make"]
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def page(result: dict) -> str:
    """peers.md, all of it drawn from peers.json."""
    labels = {row["key"]: row["label"] for row in result["rows"]}
    lines = []
    for preset, found in result["versus"].items():
        beaten = [f"{found[name]['times']:.1f} times {what} {labels[found[name]['peer']]}"
                  for name, what in (("1", "as fast at batch 1 as"), ("32", "as fast at batch 32 as"), ("mb", "smaller than"))]
        against = "the best that the test doesn't show to be less accurate" if found["as_accurate"] else "the most accurate peer"
        lines.append(f"**{preset}** is {', '.join(beaten)} ({against}).")
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
    parser.add_argument("--python", nargs="*", default=[], metavar="PACKAGE=PYTHON",
                        help="the interpreter of the venv that has the peers of a file of bench/rivals/")
    parser.add_argument("--only", nargs="*", default=None, metavar="KIND", help="which; else all")
    parser.add_argument("--seed", type=forms.seed, default=1, help="of the teacher that all begin with")
    parser.add_argument("--sentences", type=forms.count, default=160, help="dev sentences that are timed")
    parser.add_argument("--repeats", type=forms.count, default=3, help="times that each is")
    parser.add_argument("--threads", type=forms.count, default=None, help="threads that one answer may use; else the machine's cores")
    cli.run(main, parser.parse_args())

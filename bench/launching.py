"""What an answer of an int8 file is made of: microseconds by operator, time to open, memory; beside the file that earlier code makes.

    python -m bench.launching RUN_DIR docs/results/bench/launching.json --before COMMIT [--variant max] [--data-dir DIR]

The newest pruned checkpoint of the variant is exported twice, by this code and by the code of COMMIT, each in a process of its own, and
today's session answers dev sentences with both files in turns. What opens a file is timed with the code that made it. Nothing is written
into RUN_DIR. Answers are of one thread, and timed by the processor time that it takes (`--clock wall` for what passes on the wall): on a
machine that others use too, what passes is mostly theirs. Three minutes on two cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from bench import finished
from common import cli, cores, forms
from common.provenance import REPOSITORY

CLOCKS = {"processor": time.thread_time, "wall": time.perf_counter}
PROFILED = 128  # answers of each size that say what an operator takes


def export(tree: Path, source: Path, variant: str, run_dir: Path, args) -> Path:
    """The int8 export that the code of `tree` makes of a pruned checkpoint, under `run_dir`. Raises UserError where it fails."""
    data = [f"--data-dir={args.data_dir.resolve()}"] if args.data_dir else []
    command = [sys.executable, tree / "11_export_onnx.py", "--run-dir", run_dir, "--checkpoint", source.resolve(), "--variant", variant,
               "--precision", "int8", "--table-bits", "4", *data, *cli.columns_typed(args)]
    done = subprocess.run(list(map(str, command)), cwd=tree, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise cli.UserError(f"{tree.name}/11_export_onnx.py ended with code {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return next((run_dir / "models").glob("onnx_int8_*"))


def opened(tree: Path, path: Path, texts: list, threads: int) -> dict:
    """{load_ms, peak_rss_mb} of a process that opens an export with the code of `tree`."""
    command = [sys.executable, "-m", "common.measure", str(path), "--threads", str(threads)]
    done = subprocess.run(command, cwd=tree, input=json.dumps(texts), capture_output=True, encoding="utf-8", check=True,
                          env=os.environ | {"PYTHONPATH": str(tree)})
    return json.loads(done.stdout.splitlines()[-1])


def by_operator(path: Path, batches: dict[str, list]) -> dict[str, dict]:
    """{operator: {count, us_1, us_32}} of what onnxruntime runs of a file, by its own profile: each node's median over all batches.

    The profile's own work is in these figures, a microsecond or more for each node: their sums are larger than the answer's time.
    """
    import onnxruntime

    found: dict[str, dict] = defaultdict(dict)
    for size, fed in batches.items():
        with tempfile.TemporaryDirectory() as work:
            options = onnxruntime.SessionOptions()
            options.enable_profiling, options.profile_file_prefix = True, f"{work}/profile"
            options.log_severity_level, options.intra_op_num_threads = 3, 1
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for batch in [fed[0], *fed * max(1, PROFILED // len(fed))]:
                session.run(["logits"], batch)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        took = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                took[event["args"]["op_name"], event["args"]["node_index"]].append(event["dur"])
        for operator, count in Counter(operator for operator, _ in took).items():
            nodes = [statistics.median(times[1:]) for (name, _), times in took.items() if name == operator]  # the first run allocates
            found[operator] |= {"count": count, f"us_{size}": sum(nodes)}
    return found


def main(args) -> None:
    from common import checkpoints, inference, measure
    from common.texts.splits import as_text

    threads = 1  # a small model answers a sentence on one
    corpus = finished.corpus(args)
    source = checkpoints.find(args.run_dir, "pruned", variant=args.variant)
    checkpoints.same_data(source, corpus.facts)
    conditions = finished.conditions(corpus, threads) | {"cores": cores.usable()}
    texts = measure.to_time(corpus.dev.texts, args.sentences)
    with tempfile.TemporaryDirectory() as work:
        before = Path(work) / "before"
        added = subprocess.run(["git", "worktree", "add", "--detach", before, args.before], cwd=REPOSITORY, capture_output=True,
                               encoding="utf-8", check=False)
        if added.returncode:
            raise cli.UserError(f"--before {args.before}: {added.stderr.strip().splitlines()[-1]}")
        try:
            trees = {"before": before, "max": REPOSITORY}
            files = {name: export(tree, source.path, args.variant, Path(work) / f"{name}_run", args) for name, tree in trees.items()}
            classifiers = {name: inference.open_classifier(path, threads=threads) for name, path in files.items()}
            rows = {name: opened(tree, files[name], texts[:64], threads) for name, tree in trees.items()}
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=REPOSITORY, capture_output=True, check=False)
        taken = measure.latency(classifiers, texts, args.repeats, CLOCKS[args.clock])
        encode = classifiers["max"].encode
        batches = {"1": [encode([text]) for text in texts], "32": [encode(texts[i:i + 32]) for i in range(0, len(texts) - 31, 32)]}
        operators = {name: by_operator(path / inference.ONNX_FILE, batches) for name, path in files.items()}
        answers = {name: classifier.classify(texts) for name, classifier in classifiers.items()}
        sizes = {name: (path / inference.ONNX_FILE).stat().st_size for name, path in files.items()}
    result = conditions | {"variant": args.variant, "sentences": len(texts), "repeats": args.repeats, "clock": args.clock,
                           "mean_tokens": statistics.mean(batch["input_ids"].shape[1] for batch in batches["1"]),
                           "longest": max(len(as_text(text)) for text in texts)}
    for name, row in rows.items():
        ms = taken[name]["latency_ms"]
        result[name] = {"us_1": round(1e3 * ms["1"]["p50"], 1), "us_32": round(1e3 * ms["32"]["p50"], 1), "load_ms": row["load_ms"],
                        "rss_mb": row["peak_rss_mb"], "operators": sum(part["count"] for part in operators[name].values()),
                        "text_to_label_ms": taken[name]["text_to_label_ms"], "bytes": sizes[name]}
    result["before"]["commit"] = args.before
    result["ratio"] = {size: round(result["before"][f"us_{size}"] / result["max"][f"us_{size}"], 3) for size in ("1", "32")}
    result["labels_alike"] = int(corpus.task.same(answers["before"], answers["max"]).sum())
    result["by_operator"] = [{"operator": operator, **{name: operators[name].get(operator) for name in trees}}
                             for operator in sorted(operators["before"] | operators["max"],
                                                    key=lambda operator: -operators["max"].get(operator, {}).get("us_1", 0))]
    finished.write(result, args.output)
    for name in trees:
        row = result[name]
        print(f"{name}: {row['us_1']:.0f} us a sentence, {row['us_32']:,.0f} us 32, {row['operators']} operators, opens in "
              f"{row['load_ms']:.0f} ms into {row['rss_mb']:.0f} MB")
    print(f"{result['ratio']['1']} times as fast at batch 1, {result['ratio']['32']} at 32")


if __name__ == "__main__":
    parser = finished.parser(__doc__, "FILE", "the JSON file to write")
    parser.add_argument("--before", required=True, metavar="COMMIT", help="whose code makes the other file")
    parser.add_argument("--variant", default="max", help="the operating point")
    parser.add_argument("--sentences", type=forms.count, default=128, help="dev sentences that are answered")
    parser.add_argument("--repeats", type=forms.count, default=15, help="times that each is answered")
    parser.add_argument("--clock", choices=list(CLOCKS), default="processor", help="what a microsecond is of")
    cli.run(main, parser.parse_args())

"""Rows a second of score.py on millions of made-up sentences, and whether a cluster that loses a worker loses a row.

    python -m bench.scale WORK docs/results/ship.json [--rows 10000000]

Sentences are words of the bundled model's own vocabulary, 3 to 36 of them (mean 19.5, as SST-2's dev has), in Parquet files of a million
rows. Beside score.py (processes of this machine) stand predict.py and the teacher's shape in torch (the packaged encoder with a fresh head:
speed doesn't depend on weights), on a sample of the same rows, and the machine's limit: the model's session alone, in a bare loop over
batches that are tokenised and sorted already. `rows_per_s` is by the clock, the whole command with its start; `rows_per_core_s` and
`share_of_limit` are by the processors' seconds, which other work on the machine moves less. Then two Ray nodes on loopback do the first
rows once more, and a worker is killed on the way. The result is the key `score` of the JSON file; `make docs` draws the page from it.
Hours on two cores.
"""

import importlib.util
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench import finished
from common import cli, cores, forms

BOX = Path(__file__).resolve().parent.parent / "pretrained/sst2-max/onnx"
SCRIPTS = BOX.parent.parent.parent
FILE_ROWS = 1_000_000
WORDS = (3, 36)
BATCH = 32
BILLION = 10**9
MACHINES = ((1, 2), (1, 16), (10, 16), (100, 16))  # (how many, of how many cores) for which a billion is reckoned


def sentences(count: int, seed: int) -> list[str]:
    """Made-up ones."""
    from tokenizers import Tokenizer

    rng = random.Random(seed)
    words = sorted(word for word in Tokenizer.from_file(str(BOX / "tokenizer.json")).get_vocab() if word.isalpha() and len(word) > 2)
    return [" ".join(rng.choices(words, k=rng.randint(*WORDS))) for _ in range(count)]


def write_rows(folder: Path, rows: int) -> None:
    """Parquet files of an id and a text a row; those that are there stay."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, rows, FILE_ROWS):
        path, count = folder / f"{start // FILE_ROWS:05d}.parquet", min(FILE_ROWS, rows - start)
        if not path.is_file() or pyarrow.parquet.ParquetFile(path).metadata.num_rows != count:
            table = pyarrow.table({"id": pyarrow.array(range(start, start + count)), "text": sentences(count, start)})
            pyarrow.parquet.write_table(table, path)


def cpu_s() -> float:
    """Seconds of processors that ended children, and theirs, took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(command: list, rows: int, **env: str) -> dict:
    """A command in a process of its own that answers so many rows: {rows, seconds, rows_per_s, rows_per_core_s}."""
    start, before = time.perf_counter(), cpu_s()
    subprocess.run([sys.executable, *map(str, command)], cwd=SCRIPTS, stdout=subprocess.DEVNULL, check=True, env=os.environ | env)
    seconds = time.perf_counter() - start
    return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds, "rows_per_core_s": rows / (cpu_s() - before)}


def bare(texts: list[str]) -> dict:
    """The model's session on one thread, over batches that are ready: rows a second of its core."""
    from common import inference

    classifier = inference.open_classifier(BOX, 1)
    encodings = sorted(classifier._encodings(texts), key=lambda encoding: len(encoding.ids))
    batches = [classifier._pad(encodings[start:start + BATCH]) for start in range(0, len(encodings), BATCH)]
    classifier.logits(batches[0])
    used = time.process_time()
    for batch in batches:
        classifier.logits(batch)
    return {"rows": len(texts), "rows_per_core_s": len(texts) / (time.process_time() - used)}


def teacher(texts: list[str], work: Path) -> dict:
    """The teacher's shape in torch on all cores, texts to logits, sorted by length and batched as ours are."""
    import torch
    import transformers

    from common import sources

    folder = work / "encoder"
    if not folder.is_dir():
        sources.model_from_package(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    used, start = time.process_time(), time.perf_counter()
    ids = sorted(tokenizer(texts, truncation=True, max_length=128)["input_ids"], key=len)
    with torch.inference_mode():
        for first in range(0, len(ids), BATCH):
            model(**tokenizer.pad({"input_ids": ids[first:first + BATCH]}, return_tensors="pt")).logits.numpy()
    seconds = time.perf_counter() - start
    return {"rows": len(texts), "seconds": seconds, "rows_per_s": len(texts) / seconds,
            "rows_per_core_s": len(texts) / (time.process_time() - used)}


def lost_and_double(output: Path, rows: int) -> dict[str, int]:
    """{rows, lost, double} of a directory of answers to rows 0 … rows − 1."""
    import pyarrow.compute
    import pyarrow.dataset

    ids = pyarrow.dataset.dataset(output, format="parquet").to_table(columns=["id"])["id"]
    different = pyarrow.compute.count_distinct(ids).as_py()
    return {"rows": len(ids), "lost": rows - different, "double": len(ids) - different}


def two_nodes():
    """(a Ray cluster on loopback, the second of its two nodes), of a core each, given time to start on a busy machine."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "include_log_monitor": False, "object_store_memory": 100 << 20}  # little beside the work
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False, "no_monitor": True})
    return cluster, cluster.add_node(**node)


def worker_killed(work: Path, rows: int) -> dict:
    """Two nodes of one core each on loopback; of one of them an actor is killed when the first answers are there."""
    if importlib.util.find_spec("ray") is None:
        return {"rows": None, "lost": None, "double": None, "reason": "ray isn't installed: pip install -r requirements-scale.txt"}
    import psutil

    data, output = work / "cluster-in", work / "cluster-out"
    for folder in (data, output):
        shutil.rmtree(folder, ignore_errors=True)
    write_rows(data, rows)
    cluster, _ = two_nodes()
    command = [sys.executable, "score.py", data, output, "--checkpoint", BOX, "--engine", "ray", "--rows-per-file", max(rows // 20, 1)]
    process = subprocess.Popen(list(map(str, command)), cwd=SCRIPTS, env=os.environ | {"RAY_ADDRESS": cluster.address})
    killed = 0
    while process.poll() is None:
        if not killed and len(list(output.glob("*.parquet"))) > 1:
            below = psutil.Process().children(recursive=True)
            next(child for child in below if "MapWorker" in " ".join(child.cmdline())).kill()
            killed += 1
        time.sleep(.1)
    cluster.shutdown()
    if process.returncode or not killed:
        raise cli.UserError(f"score.py ended with code {process.returncode}, {killed} workers killed: its own line above says why")
    return lost_and_double(output, rows) | {"asked": rows, "nodes": 2, "killed": killed}


def table(score: dict) -> str:
    """The page's: what was measured, and what a billion texts take by it."""
    from tabulate import tabulate

    peers = {"score.py": score, "predict.py": score["predict"], "the teacher's shape in torch": score["teacher"],
             "the model alone, in a bare loop": score["limit"]}
    lines = [[name, f"{row['rows']:,}", f"{row['rows_per_s']:,.0f}" if "rows_per_s" in row else "",
              f"{row['rows_per_core_s']:,.0f}", f"{BILLION / row['rows_per_core_s'] / 3600:,.0f}"] for name, row in peers.items()]
    measured = tabulate(lines, headers=["", "rows", "rows a second", "rows a second of one core", "core-hours a billion"],
                        tablefmt="github", disable_numparse=True)
    hours = [[count, own, f"{BILLION / score['rows_per_core_s'] / 3600 / (count * own):,.1f}"] for count, own in MACHINES]
    paper = tabulate(hours, headers=["machines", "cores each", "hours for a billion"], tablefmt="github", disable_numparse=True)
    killed = score["worker_killed"]
    fate = f"Two Ray nodes, one worker killed: {killed['rows']:,} of {killed['asked']:,} rows answered, {killed['lost']:,} lost, " \
           f"{killed['double']:,} double." if killed["rows"] is not None else f"No cluster was tried: {killed['reason']}."
    own = f"{score['cores']} {'core' if score['cores'] == 1 else 'cores'}"
    return (f"{own}, load average {score['load']:.1f} at the start. "
            f"{100 * score['share_of_limit']:.0f} % of the model's own throughput. {fate}\n\n{measured}\n\n{paper}")


def main(args) -> None:
    from common import provenance

    facts = {"cpu": provenance.cpu_name(), "cores": cores.usable(), "load": os.getloadavg()[0], "code": provenance.code_identity(),
             "versions": provenance.versions()}
    data, output, sample = args.work / "in", args.work / "out", args.work / "sample.txt"
    write_rows(data, args.rows)
    texts = sentences(args.sample, 0)
    sample.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)

    # --- the machine's limit, before and after: its pace drifts
    limits = [bare(texts)]
    score = timed(["score.py", data, output, "--checkpoint", BOX, "--engine", "local"], args.rows)
    limits.append(bare(texts))
    limit = {"rows": args.sample, "rows_per_core_s": sum(row["rows_per_core_s"] for row in limits) / 2}

    # --- others, on a sample
    predict = timed(["predict.py", "--file", sample, "--checkpoint", BOX], args.sample)
    slow = teacher(texts[:args.teacher_sample], args.work)
    found = {**score, "share_of_limit": score["rows_per_core_s"] / limit["rows_per_core_s"], "answered": lost_and_double(output, args.rows),
             "limit": limit, "predict": predict, "teacher": slow, "words": sum(WORDS) / 2,
             "worker_killed": {"rows": None, "lost": None, "double": None, "reason": "not reached"}, **facts}
    finished.write(finished.earlier(args.result) | {"score": found}, args.result)  # before what may yet fail
    found["worker_killed"] = worker_killed(args.work, args.cluster_rows)
    finished.write(finished.earlier(args.result) | {"score": found}, args.result)
    print(table(found))


if __name__ == "__main__":
    parser = cli.Parser(__doc__)
    parser.add_argument("work", type=forms.path, metavar="WORK", help="a directory for the rows and their answers: some GB")
    parser.add_argument("result", type=forms.path, metavar="FILE", help="the JSON file of which `score` is written")
    parser.add_argument("--rows", type=forms.count, default=10_000_000, help="rows for score.py")
    parser.add_argument("--sample", type=forms.count, default=100_000, metavar="ROWS", help="rows for predict.py and the bare loop")
    parser.add_argument("--teacher-sample", type=forms.count, default=5_000, metavar="ROWS", help="rows for the teacher's shape")
    parser.add_argument("--cluster-rows", type=forms.count, default=1_000_000, metavar="ROWS", help="rows for the cluster")
    cli.run(main, parser.parse_args())

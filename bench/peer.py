"""One peer in a process of its own: makes its model from the teacher, then answers as it is told, a JSON line each.

    PYTHON -m bench.peer KIND --teacher DIR --texts FILE --work DIR --threads T          run by bench/peers.py

PYTHON is that of the venv in which the peer is installed from its own package (bench/requirements-*.txt). First line out:
{size_mb, minutes, versions}. Then for each line in, {what: "answer" | "batch" | "text", threads, groups: [[text, …], …]}, one out: labels,
or milliseconds for each group, where "batch" times the model alone and "text" all from text to label.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

from bench import rivals

NAMED = ("torch", "transformers", "torchao", "onnxruntime", "openvino", "nncf", "neural-compressor-pt", "optimum-intel", "ctranslate2",
         "model2vec", "fasttext-numpy2", "scikit-learn")


def milliseconds(job) -> float:
    start = time.perf_counter()
    job()
    return (time.perf_counter() - start) * 1e3


def reply(model: rivals.Model, asked: dict) -> list:
    """What a line in is answered with."""
    groups, threads = asked["groups"], asked["threads"]
    if asked["what"] == "answer":
        return [model.answer(model.encode(group), threads).argmax(-1).tolist() for group in groups]
    if asked["what"] == "batch":
        batches = [model.encode(group) for group in groups]
        model.answer(batches[0], threads)  # untimed: the caches still hold another model
        return [milliseconds(lambda b=batch: model.answer(b, threads)) for batch in batches]
    model.answer(model.encode(groups[0]), threads)
    return [milliseconds(lambda g=group: model.answer(model.encode(g), threads).argmax(-1)) for group in groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[kind for kinds in rivals.PEERS.values() for kind in kinds])
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="of ours")
    parser.add_argument("--texts", type=Path, help="JSON: calibration, a list; train, held_out and lessons, texts and labels of each")
    parser.add_argument("--trained", type=Path, help="where peers that must be trained were put")
    parser.add_argument("--work", type=Path, help="a directory for its files")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="as many as it may use while its model is made")
    args = parser.parse_args()
    talk = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print what they like, those of C too
    started = time.perf_counter()
    model = rivals.make(args.kind, args)
    versions = {}
    for name in NAMED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    ready = {"size_mb": model.size_mb, "minutes": (time.perf_counter() - started) / 60, "versions": versions}
    print(json.dumps(ready), file=talk, flush=True)
    for line in sys.stdin:
        print(json.dumps(reply(model, json.loads(line))), file=talk, flush=True)


if __name__ == "__main__":
    main()

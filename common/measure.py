"""What a checkpoint is worth and what it costs: accuracy, FLOPs, bytes, latency, memory. Every figure is taken on the thing itself.

Letters: S sentences, B batch, N tokens, K classes. MB are 10^6 bytes, one multiply-add is 2 FLOPs.

`python -m common.measure PATH --threads T` is the small process that opens one checkpoint, answers the sentences on its standard
input (a JSON list) and prints {load_ms, peak_rss_mb}: memory and loading are only one model's own in a process of its own.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common import checkpoints, cli, opening, provenance
from common.facts import sha256_json
from common.tasks import Task
from common.texts import lengths
from common.texts.splits import Row, as_text

TURN = 8  # sentences or batches that a model answers before the next model's turn
REST_S = 0.02  # between turns: a runtime's threads spin on for a while after an answer, on cores that the next model needs
OPENINGS = 3  # times that a checkpoint is opened for load_ms
NOT_FOR_INFERENCE = {"training_log.json", "stage.json"}
TEXT_FILE = "text.onnx"  # an exported model with its tokenizer in it, beside the model alone
FOR_OTHERS = {TEXT_FILE, "config.pbtxt", "sentence_bert_config.json"}  # what other runtimes ask of a directory


# --- accuracy

def score(task: Task, logits, labels) -> dict:
    """{score, ci95: [lo, hi]} of decisive logits (S, K): the task's metric and its interval; with `accuracy` where that is the metric."""
    value = task.scores(logits, labels)[task.metric]
    found = {"score": value, "ci95": list(task.interval(logits, labels))}
    return found | ({"accuracy": value} if task.metric == "accuracy" else {})


def accuracy(predictions, labels) -> dict:
    """{accuracy, ci95: [lo, hi]} of label ids (S,) against (S,): a share, and its 95 % Wilson interval (Wilson 1927)."""
    from scipy.stats import binomtest

    right = sum(int(p == t) for p, t in zip(predictions, labels, strict=True))
    interval = binomtest(right, len(labels)).proportion_ci(confidence_level=0.95, method="wilson")
    return {"accuracy": right / len(labels), "ci95": [float(interval.low), float(interval.high)]}


def over_seeds(accuracies: list[float]) -> dict:
    """{accuracy_mean, accuracy_sd}: the sample's standard deviation, None of a single seed."""
    return {"accuracy_mean": statistics.mean(accuracies), "accuracy_sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None}


def against_baseline(predictions, baseline, labels) -> dict:
    """{delta, agreement, mcnemar_p} of label ids (S,) against a baseline's on the same sentences.

    `delta` is a difference of shares; `mcnemar_p` is the exact two-sided test on the sentences that just one of the two
    gets right (McNemar 1947): 1.0 where there are none.
    """
    from scipy.stats import binomtest

    triples = list(zip(predictions, baseline, labels, strict=True))
    won = sum(int(p == t != b) for p, b, t in triples)
    lost = sum(int(b == t != p) for p, b, t in triples)
    p_value = float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0
    return {"delta": (won - lost) / len(triples), "agreement": sum(int(p == b) for p, b, _ in triples) / len(triples), "mcnemar_p": p_value}


# --- structure, FLOPs, bytes

def countable_twin(path: Path):
    """A torch checkpoint with dense float32 weights and eager attention: what the FLOP counter can see, opened as for inference.

    It counts neither 4-bit layers nor, on CPU, fused attention.
    """
    model = opening.open_model(path, attn_implementation="eager")
    if hasattr(model, "full_precision_twin"):
        model = model.full_precision_twin()
        model.open_table()
    return model.eval().requires_grad_(False)  # of some architectures the counter trips over views of parameters that train


def flops(twin, n_tokens: int) -> int:
    """FLOPs of one forward pass at batch 1 × `n_tokens`, counted as it runs. Raises ValueError past the model's positions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    if n_tokens > (longest := lengths.positions(twin.config.to_dict())):
        raise ValueError(f"the model takes at most {longest} tokens")
    ids = torch.ones(1, n_tokens, dtype=torch.long)  # (B, N); which tokens they are doesn't matter
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(input_ids=ids, attention_mask=torch.ones_like(ids))
    return counter.get_total_flops()


def before_and_after(source: checkpoints.Checkpoint, made: checkpoints.Checkpoint, metric_name: str = "accuracy") -> str:
    """Parameters, FLOPs and held-out score of a torch checkpoint and of what was made of it, counted on both as they open."""
    twins = [countable_twin(checkpoint.path) for checkpoint in (source, made)]
    parameters = [f"{twin.num_parameters():,}" for twin in twins]
    gflops = [f"{flops(twin, min(128, lengths.positions(twin.config.to_dict()))) / 1e9:.3f}" for twin in twins]
    scores = [f"{checkpoint.validation:.4f}" for checkpoint in (source, made)]
    return (f"{' -> '.join(parameters)} parameters, {' -> '.join(gflops)} GFLOPs at 128 tokens, held-out {metric_name} "
            f"{' -> '.join(scores)}")


def structure(twin) -> dict:
    """{layers, heads: [per layer], ffn: [per layer], vocab}, counted on the weights and not read from the configuration.

    Raises ValueError for a model of none of the families, and neither compact.
    """
    from common.architectures import families

    if not families.has_known_layers(twin.config):
        raise ValueError(f"a '{twin.config.model_type}': of an architecture that can't be pruned heads and neurons aren't counted")
    layers = families.layers_of(twin)
    query, first = ("attention.q_lin", "ffn.lin1") if hasattr(twin.config, "n_layers") else ("attention.self.query", "intermediate.dense")
    head_dim = twin.config.hidden_size // twin.config.num_attention_heads

    def rows(layer, name: str) -> int:  # an empty block of a compact model has no such map
        weights = dict(layer.named_parameters())
        return len(weights.get(f"{name}.weight", ()))

    return {"layers": len(layers), "heads": [rows(layer, query) // head_dim for layer in layers],
            "ffn": [rows(layer, first) for layer in layers], "vocab": twin.get_input_embeddings().weight.shape[0]}


def work(path: Path, mean_tokens: int) -> tuple[dict, dict]:
    """({params, gflops_128, gflops_mean, gmacs_16, structure} of a torch checkpoint, {field: why it is null})."""
    twin = countable_twin(path)
    fields: dict = {"params": sum(p.numel() for p in twin.parameters()), "structure": None}
    notes = {}
    try:
        fields["structure"] = structure(twin)
    except ValueError as error:
        notes["structure"] = str(error)
    for name, n_tokens, unit in (("gflops_128", 128, 1e9), ("gflops_mean", mean_tokens, 1e9), ("gmacs_16", 16, 2e9)):
        try:
            fields[name] = flops(twin, n_tokens) / unit
        except ValueError as error:
            fields[name], notes[name] = None, str(error)
    return fields, notes


def weights(checkpoint: checkpoints.Checkpoint) -> dict[str, dict]:
    """The manifest's entries {name: {bytes, sha256}} of the files that hold weights."""
    ends = (".safetensors", ".onnx", ".onnx.data", ".onnx_data")
    return {name: facts for name, facts in sorted(checkpoint.manifest["files"].items()) if name.endswith(ends) and not _for_others(name)}


def _for_others(name: str) -> bool:
    """Whether a file stands there for other runtimes; in a subdirectory the same weights do, by another name."""
    return "/" in name or name in FOR_OTHERS


def weights_sha256(checkpoint: checkpoints.Checkpoint) -> str:
    """The hash of the weights file; of the list of hashes where there are several."""
    hashes = [facts["sha256"] for facts in weights(checkpoint).values()]
    return hashes[0] if len(hashes) == 1 else sha256_json(hashes)


def size(checkpoint: checkpoints.Checkpoint) -> dict:
    """{size_mb: the weights as shipped, total_mb: every file that inference needs}, in 10^6 bytes."""
    files = checkpoint.manifest["files"]
    return {"size_mb": sum(facts["bytes"] for facts in weights(checkpoint).values()) / 1e6,
            "total_mb": sum(facts["bytes"] for name, facts in files.items()
                            if name not in NOT_FOR_INFERENCE and not _for_others(name)) / 1e6}


# --- latency

def timed_ms(job: Callable[[], object], cuda: bool, clock: Callable[[], float] = time.perf_counter) -> float:
    """Milliseconds that `job` takes by a clock of seconds; on CUDA between two events, after a synchronise."""
    if not cuda:
        start = clock()
        job()
        return (clock() - start) * 1e3
    import torch

    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    job()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after)


def to_time(texts: Sequence[Row], n: int) -> list[Row]:
    """`n` of the texts (all, where there are no more), in random order: evenly from the shortest to the longest, as long as all are."""
    ordered = sorted(texts, key=lambda row: len(as_text(row)))
    chosen = [ordered[(2 * i + 1) * len(texts) // (2 * n)] for i in range(n)] if n < len(texts) else ordered
    return random.Random(0).sample(chosen, len(chosen))


def take_turns(jobs: dict[str, list[Callable]], repeats: int, cuda: set[str], bar=None,
               clock: Callable[[], float] = time.perf_counter) -> dict:
    """The one latency protocol: {model: jobs} -> {model: (jobs,) milliseconds, each the median of `repeats`}.

    Models take turns every few jobs, in shuffled order, so a drift of the machine hits all alike. Each turn begins with a rest, in
    which the threads of the model before go to sleep, and an untimed answer, because the processor's caches still hold that model:
    a small one then comes nearer to what it takes alone. A whole pass goes first, untimed, as warm-up.
    """
    import numpy as np

    n_jobs = len(next(iter(jobs.values())))
    times = {name: np.empty((repeats, n_jobs)) for name in jobs}
    order, rng = list(jobs), random.Random(0)
    for repeat in range(-1, repeats):
        for start in range(0, n_jobs, TURN):
            rng.shuffle(order)
            for name in order:
                turn = range(start, min(start + TURN, n_jobs))
                if repeat < 0:
                    for i in turn:
                        jobs[name][i]()
                else:
                    time.sleep(REST_S)
                    jobs[name][start]()
                    for i in turn:
                        times[name][repeat, i] = timed_ms(jobs[name][i], name in cuda, clock)
                if bar is not None:
                    bar.update(len(turn))
    return {name: np.median(t, axis=0) for name, t in times.items()}


def latency(classifiers: dict, texts: list[Row], repeats: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, dict]:
    """{model: {latency_ms: {"1": {p50, p90}, "32": {p50, p90}}, text_to_label_ms}} for {model: Classifier} on sentences (S,).

    p50 and p90 are over sentences or batches, each the median of `repeats`. Batches of 32 come as the sentences do, padded
    to their longest; where S is no multiple of 32 the last, short one is left out (or the sentences repeat, if S < 32).
    `text_to_label_ms` is the p50 over sentences of tokenising, answering and taking the label.
    """
    import numpy as np
    from tqdm import tqdm

    enough = (texts * (32 // len(texts) + 1))[:32] if len(texts) < 32 else texts
    groups = {"1": [[text] for text in texts], "32": [enough[i:i + 32] for i in range(0, len(enough) - 31, 32)]}
    cuda = {name for name, c in classifiers.items() if "cuda" in str(c.device)}
    total = len(classifiers) * (repeats + 1) * (2 * len(groups["1"]) + len(groups["32"]))
    results: dict[str, dict] = {name: {"latency_ms": {}} for name in classifiers}
    with tqdm(total=total, desc="latency", unit="answer", disable=None) as bar:
        for batch_size, batches in groups.items():
            encoded = {name: [c.encode(batch) for batch in batches] for name, c in classifiers.items()}
            jobs = {name: [lambda c=c, b=b: c.logits(b) for b in encoded[name]] for name, c in classifiers.items()}
            for name, ms in take_turns(jobs, repeats, cuda, bar, clock).items():
                p50, p90 = np.percentile(ms, [50, 90])
                results[name]["latency_ms"][batch_size] = {"p50": round(float(p50), 4), "p90": round(float(p90), 4)}
        jobs = {name: [lambda c=c, t=text: c.logits(c.encode([t])).argmax(-1) for text in texts] for name, c in classifiers.items()}
        for name, ms in take_turns(jobs, repeats, cuda, bar, clock).items():
            results[name]["text_to_label_ms"] = round(float(np.median(ms)), 4)
    return results


# --- loading and memory, in a process of its own

def process_of_its_own(path: Path, texts: list[Row], threads: int) -> tuple[dict, dict]:
    """({load_ms, peak_rss_mb}, {field: why it is null}) of a fresh process that opens `path` and answers `texts` (S,)."""
    command = [sys.executable, "-m", "common.measure", str(Path(path).resolve()), "--threads", str(threads)]
    # As PYTHONSAFEPATH leaves the working directory out.
    search_path = os.pathsep.join([str(provenance.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.run(command, cwd=provenance.REPOSITORY, input=json.dumps(texts), capture_output=True, encoding="utf-8",
                           errors="replace", check=False, env=os.environ | {"PYTHONPATH": search_path})
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1]), {}
    last = (child.stderr.strip().splitlines() or ["no message"])[-1].replace(str(Path(path).resolve()), Path(path).name)
    reason = f"the process that opens it ended with code {child.returncode}: {last}"
    return {"load_ms": None, "peak_rss_mb": None}, {"load_ms": reason, "peak_rss_mb": reason}


def main(argv: list[str] | None = None) -> None:
    """The process of its own: opens, answers, prints one JSON line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, default=None, help="threads that one answer may use")
    args = parser.parse_args(argv)
    texts: list[Row] = [row if isinstance(row, str) else tuple(row) for row in json.load(sys.stdin)]
    from common import inference

    classifier = inference.open_classifier(args.path, threads=args.threads)
    classifier.classify(texts, batch_size=32)
    peak = provenance.peak_rss_mb()  # before the openings below, which may overlap in memory
    opening_ms = []
    for _ in range(OPENINGS):  # the first opening, above, also imported the libraries: that is Python's time, not the file's
        del classifier
        start = time.perf_counter()
        classifier = inference.open_classifier(args.path, threads=args.threads)
        classifier.classify(texts[:1])
        opening_ms.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"load_ms": round(statistics.median(opening_ms), 1), "peak_rss_mb": peak}))


if __name__ == "__main__":
    main()

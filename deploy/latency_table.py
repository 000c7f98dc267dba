"""How long a compact model takes by what its layers keep, measured on this machine in the runtime that ships.

At batch 1 narrow layers save little and absent ones much, on some processors and not on others: no formula knows, so small models
of random weights are exported, quantised and timed, as ZipLM does (Kurtic et al. 2023, section 3.2), and a model's time is the sum of
its blocks'. What a layer costs besides is counted with its attention. The table stands in RUN_DIR/models/.latency_<key>.json; all times
are milliseconds.
"""

import json
from pathlib import Path

import numpy as np

from common import checkpoints, cli, cores, distributed, facts, provenance
from common.texts.splits import Row

HEADS, NEURONS = (0, 1, 2, 4, 8, 12, 16), (0, 8, 32, 128, 384, 768, 1536, 3072)  # kept by each of the layers that vary
SENTENCES = 256  # sentences that are timed: of fewer batches of 32 the longest sentences decide
REPEATS = 3
VARIED = 4  # layers of one size in a model that is timed
PIECES = 12_000  # word pieces of a model that is timed, at most: about what SST-2 uses of BERT's
OUTLIER = 8.0  # of one neuron in each FFN, as those of trained models have: quantising then evens them out, by one product more
METHOD = 8  # what is timed, and how: a table of another method isn't found


def machine(threads: int) -> dict:
    """What a table is good for: this processor, so many of its cores and threads, this runtime."""
    return {"cpu": provenance.cpu_name(), "cores": cores.usable(), "threads": threads, "onnxruntime": provenance.versions()["onnxruntime"],
            "torch": provenance.versions()["torch"]}


def read(path: Path, threads: int) -> dict:
    """A table from its file. Raises UserError where it is damaged, or was measured on another machine, or for something else."""
    table = facts.read_json(path)
    if not facts.is_sealed(table):
        raise cli.UserError(f"{path} is damaged: delete it, and it is measured anew")
    if table["machine"] != machine(threads):
        raise cli.UserError(f"{path} was measured on another machine or with another runtime ({table['machine']}): "
                            "delete it, and it is measured anew")
    return table


def _most_heads(shape) -> int:
    """Of a narrowed model a layer may have more heads than fit side by side into its width."""
    return max(shape.n_heads, *shape.heads)


def path_of(shape, teacher: checkpoints.Checkpoint, run_dir: Path) -> Path:
    """Where the table for such models and this teacher stands."""
    timed = [shape.dim, _most_heads(shape), shape.hidden_dim, teacher.key, HEADS, NEURONS, METHOD]
    key = facts.sha256_json(timed)[:8]
    return run_dir / "models" / f".latency_{key}.json"


def of(shape, teacher: checkpoints.Checkpoint, texts: list[Row], run_dir: Path, threads: int) -> dict:
    """The table for models of the `shape` of a compact configuration, beside the teacher; measured where there is none yet."""
    path = path_of(shape, teacher, run_dir)
    if distributed.is_first() and not path.is_file():
        table = _measure(shape, teacher, texts, threads)
        path.write_text(json.dumps(facts.sealed({"machine": machine(threads), **table}), indent=1) + "\n", encoding="utf-8")
        cli.say(f"latencies of layers kept in {path}")
    distributed.wait()
    return read(path, threads)


def _measure(shape, teacher, texts: list[Row], threads: int) -> dict:
    from common import inference, measure

    texts = measure.to_time(texts, SENTENCES)
    most = _most_heads(shape)
    heads = [n for n in HEADS if n < most] + [most]
    neurons = [n for n in NEURONS if n < shape.hidden_dim] + [shape.hidden_dim]
    # Layers that vary stand before a last one with one head: small differences show, and the last is another case.
    models = {"attention": {n: ([n] * VARIED + [1], [0] * (VARIED + 1)) for n in heads if n},
              "attention_last": {n: ([n], [0]) for n in heads if n},
              "ffn": {n: ([1] * (VARIED + 1), [n] * VARIED + [0]) for n in neurons if n},
              "ffn_behind": {n: ([1], [n]) for n in neurons if n}}
    opened = inference.open_classifier(teacher.path, threads)
    classifiers = {"teacher": opened}
    for kind, sizes in models.items():
        for n, structure in sizes.items():
            classifiers[f"{kind} {n}"] = _random_model(shape, *structure, opened, texts[:8], threads)
    took = measure.latency(classifiers, texts, REPEATS)
    table: dict = {"tokens": float(np.mean([opened.encode([text])["input_ids"].shape[1] for text in texts])), "batches": {}}
    for batch in ("1", "32"):
        ms = {name: figures["latency_ms"][batch]["p50"] for name, figures in took.items()}
        least = {"attention": ms["attention_last 1"], "attention_last": ms["attention_last 1"], "ffn": ms["attention 1"],
                 "ffn_behind": ms["attention_last 1"]}
        rows: dict = {"teacher": ms["teacher"], "base": ms["attention_last 1"]}  # a model of one head
        for kind, sizes in models.items():
            share = VARIED if kind in ("attention", "ffn") else 1
            values = np.array([0.0] + [(ms[f"{kind} {n}"] - least[kind]) / share for n in sizes])
            rows[kind] = {"units": [0, *sizes], "ms": np.maximum.accumulate(values).round(6).tolist()}  # more is never faster
        table["batches"][batch] = rows
    return table


def _random_model(shape, heads: list[int], neurons: list[int], teacher, texts: list[Row], threads: int):
    """A compact model of this structure in onnxruntime int8, as it ships but of random weights: an object with the teacher's `encode`."""
    import torch

    import compact
    from common import inference
    from deploy import onnx_export, onnx_int8

    torch.manual_seed(0)
    config = compact.CompactConfig(**shape.to_dict() | {"n_layers": len(heads), "heads": heads, "ffn": neurons, "weight_bits": 32,
                                                       "embedding_rank": None, "vocab_size": min(shape.vocab_size, PIECES)})
    model = compact.CompactForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros as biases would leave the graph: for maps without the runtime has another kernel
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        for layer, width in zip(model.layers(), neurons, strict=True):
            if width:
                layer.ffn.lin1.bias[0] = OUTLIER
    sentences = [_rows_within(teacher.encode([text]), config.vocab_size) for text in texts]
    proto = onnx_int8.quantise(onnx_export.export(model), sentences, table_bits=4)
    work = inference.multiply_adds_a_token(config.to_dict())
    return _Timed(inference.OnnxModel(proto.SerializeToString(), work, threads), teacher, config.vocab_size)


def _rows_within(batch: dict[str, np.ndarray], word_pieces: int) -> dict[str, np.ndarray]:
    """The batch for a table of `word_pieces` rows: which of them are read doesn't matter."""
    return batch | {"input_ids": batch["input_ids"] % word_pieces}


class _Timed:
    """What `measure.latency` needs of a classifier: `encode`, `logits` and `device`."""

    device = "cpu"

    def __init__(self, model, teacher, word_pieces: int):
        self.model, self.teacher, self.word_pieces = model, teacher, word_pieces

    def encode(self, texts: list[Row]) -> dict[str, np.ndarray]:
        return _rows_within(self.teacher.encode(texts), self.word_pieces)

    def logits(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        return self.model.logits(batch)

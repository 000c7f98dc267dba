"""Sentences a second on a long list, as predict.py answers one: text to label, sorted by length, batched, all cores.

    python -m bench.throughput RUN_DIR docs/results/bench/throughput.json [--variant max] [--data-dir DIR]

The newest int8 export of the variant and the teacher in torch answer the same training sentences in turns. Beside each stands the
limit of the machine: the FLOPs counted at every sentence's own length, divided by what a large product of matrices reaches in
that runtime (float32 in torch, int8 in onnxruntime), which no tokenizer, softmax or copy could ever reach. Two minutes on two cores.
"""

import random
import statistics
import time
from collections import Counter
from pathlib import Path

from bench import finished
from common import cli, cores, forms

SIDE = 2048  # of the square matrices whose product says what the machine can do


def seconds(job, repeats: int) -> float:
    """The least time of `repeats`, after one untimed: what the machine can do when nothing disturbs it."""
    job()
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        took.append(time.perf_counter() - start)
    return min(took)


def product(runtime: str, threads: int):
    """A job: the product of two square matrices of SIDE, 2·SIDE³ FLOPs, float32 in torch and int8 in onnxruntime."""
    if runtime == "torch":
        import torch

        one = torch.rand(SIDE, SIDE)
        return lambda: one @ one
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    from common import inference

    read, made = (helper.make_tensor_value_info(name, kind, [SIDE, SIDE])
                  for name, kind in (("a", TensorProto.UINT8), ("c", TensorProto.INT32)))
    weights = np.random.default_rng(0).integers(-100, 100, (SIDE, SIDE)).astype(np.int8)
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "product", [read], [made],
                              [onnx.numpy_helper.from_array(weights, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = inference.onnx_session(model.SerializeToString(), threads)
    left = np.ones((SIDE, SIDE), np.uint8)
    return lambda: session.run(["c"], {"a": left})


def flops_of(source: Path, classifier, texts: list[str]) -> int:
    """FLOPs of answering all of `texts`, each at its own length."""
    from common import measure

    twin = measure.countable_twin(source)
    lengths = Counter(len(pieces) for pieces in classifier.spell(texts))
    return sum(count * measure.flops(twin, tokens) for tokens, count in lengths.items())


def main(args) -> None:

    from common import checkpoints, inference

    threads = cores.usable()
    corpus = finished.corpus(args)
    teacher = checkpoints.find(args.run_dir, "teacher")
    checkpoints.same_data(teacher, corpus.facts)
    conditions = finished.conditions(corpus, threads)
    made = checkpoints.published(args.run_dir)
    export = next((c for c in made if c.stage.endswith("_onnx_int8") and c.variant == args.variant), None)
    if export is None:
        raise cli.UserError(f"no int8 export of '{args.variant}' under {args.run_dir / 'models'}: run 11_export_onnx.py on it first")
    source = next((c for c in made if c.key == export.parent_key(export.stage.removesuffix("_onnx_int8"))), None)
    if source is None:
        raise cli.UserError(f"the checkpoint that {export.path} was exported of isn't under models/ any more: its FLOPs can't be counted")
    texts = random.Random(0).sample(corpus.train.texts, min(args.sentences, len(corpus.train)))
    counted = {"ours": source.path, "teacher": teacher.path}
    classifiers = {"ours": inference.open_classifier(export.path), "teacher": inference.open_classifier(teacher.path, threads)}
    products = {name: product(classifier.runtime, threads) for name, classifier in classifiers.items()}
    took: dict[str, list[float]] = {name: [] for name in classifiers}
    alone: dict[str, list[float]] = {name: [] for name in classifiers}
    for _ in range(args.repeats):
        for name, classifier in classifiers.items():
            alone[name].append(seconds(products[name], 5))  # beside its turn, as a machine's pace drifts
            start = time.perf_counter()
            classifier.classify(texts)
            took[name].append(time.perf_counter() - start)
    rows = {}
    for name, classifier in classifiers.items():
        limit = 2 * SIDE**3 / min(alone[name]) / 1e9
        gflops = flops_of(counted[name], classifier, texts) / 1e9
        speed = len(texts) / statistics.median(took[name])
        rows[name] = {"sentences_per_s": speed, "seconds": took[name], "gflops": gflops, "matrix_gflops_per_s": limit,
                      "limit_sentences_per_s": len(texts) * limit / gflops, "share_of_limit": speed * gflops / len(texts) / limit}
    result = {**conditions, "sentences": len(texts), "repeats": args.repeats, "variant": args.variant, "path": export.path.name, **rows,
              "ratio": rows["ours"]["sentences_per_s"] / rows["teacher"]["sentences_per_s"]}
    finished.write(result, args.output)
    for name, row in rows.items():
        print(f"{name}: {row['sentences_per_s']:,.0f} sentences a second, {100 * row['share_of_limit']:.0f} % of what the machine's "
              f"products would allow ({row['limit_sentences_per_s']:,.0f})")


if __name__ == "__main__":
    parser = finished.parser(__doc__, "FILE", "the JSON file to write")
    parser.add_argument("--variant", default="max", help="the operating point")
    parser.add_argument("--sentences", type=forms.count, default=10_000, help="training sentences that are answered")
    parser.add_argument("--repeats", type=forms.count, default=3, help="times that each model answers all of them")
    cli.run(main, parser.parse_args())

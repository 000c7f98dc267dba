"""What each preset is worth over its seeds: accuracy, FLOPs, bytes and latency against the teacher, in one run.

    python -m bench.presets RUN_DIR docs/results/sst2/presets.json [--data-dir DIR]

Reads models/ of RUN_DIR: for each preset the newest int8 export of each seed, each beside its own teacher. A file has all of its
figures: the accuracy, bytes, load time and latency are those of the ONNX file, FLOPs those counted on the checkpoint that it holds.
Seeds differ in structure, so each is timed, in turns with the first seed's teacher (all are of one shape) in torch and in
onnxruntime's own int8, dynamic with a scale for each channel, and in our static one: the faster counts; ratios are of means. On the
held-out sentences and their phrases, by which was chosen, accuracy stands beside that on dev. Five minutes on two cores.
"""

import random
import statistics
import tempfile
from pathlib import Path

from bench import finished
from common import cli, cores, forms, lineage

PRESETS = ("near", "balanced", "max")


def arguments(doc: str, metavar: str, output: str) -> cli.Parser:
    """What is measured, and how often."""
    parser = finished.parser(doc, metavar, output)
    parser.add_argument("--sentences", type=forms.count, default=256, help="dev sentences that are timed")
    parser.add_argument("--repeats", type=forms.count, default=5, help="times that each is")
    parser.add_argument("--threads", type=forms.count, default=None, help="threads that one answer may use; else the machine's cores")
    return parser


def seeds_of(run_dir: Path, preset: str, teacher=None) -> dict[int, tuple]:
    """{seed: (pruned checkpoint, its int8 export)} of a preset, the newest of each seed; of one teacher, or of any."""
    from common import checkpoints

    made = checkpoints.published(run_dir)
    found: dict[int, tuple] = {}
    for export in made:
        if export.stage.endswith("_onnx_int8") and export.variant == preset:
            source = next((c for c in made if c.key == export.parent_key(export.stage.removesuffix("_onnx_int8"))), None)
            pruned = source and (source if source.stage == "pruned" else
                                 next((c for c in made if c.key == source.parent_key("pruned")), None))
            if pruned and (teacher is None or pruned.parent_key("teacher") == teacher.key):
                found.setdefault(pruned.manifest["seed"], (source, export))
    return dict(sorted(found.items()))


def int8_teachers(teacher, folder: Path, texts: list, pairs: bool = False) -> dict:
    """The teacher in int8, {name: checkpoint}: "dynamic" by onnxruntime's own tool after its own fusions, "static" as stage 11 does it."""
    import onnx

    from bench.rivals import onnxruntime
    from common import checkpoints, inference, opening
    from deploy import onnx_export, onnx_int8

    model = opening.load_model(teacher.path)
    fused = onnxruntime.fused(model, folder, pairs)
    made = {}
    for kind in ("dynamic", "static"):
        place = folder / kind
        place.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (place / name).write_bytes((teacher.path / name).read_bytes())
        known = checkpoints.Checkpoint(place, {"stage": f"teacher_int8_{kind}", "args": teacher.manifest["args"]})
        if kind == "dynamic":
            onnxruntime.dynamic_int8(fused, place / inference.ONNX_FILE)
        else:
            tokens = inference.Classifier(known)
            sentences = [tokens.encode([text]) for text in texts]
            onnx.save(onnx_int8.quantise(onnx_export.export(model, pairs=pairs), sentences), place / inference.ONNX_FILE)
        made[f"teacher_int8_{kind}"] = known
    return made


def predictions(corpus, teacher, run_dir: Path, threads: int):
    """A function: structure of a model -> {batch: how many times as fast as the teacher}, by the machine's table of latencies.

    It is the table that stage 8's --target-speedup goes by: of small models with random weights, none of them a preset's. It is
    measured in a process of its own: small models beside what this one has opened take longer, and so do those opened behind it.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from common import opening
    from common.architectures import layout
    from compress import costs
    from deploy import latency_table

    shape = layout.compact_of_teacher(opening.load_model(teacher.path), corpus.label_names).config
    with ProcessPoolExecutor(1, get_context("spawn")) as own:
        batches = own.submit(latency_table.of, shape, teacher, corpus.validation.texts, run_dir, threads).result()["batches"]
    return lambda kept: {batch: rows["teacher"] / costs.total(costs.Latency(rows), kept["heads"], kept["ffn"])
                         for batch, rows in batches.items()}


def mean(rows: list[dict], name: str) -> float:
    return statistics.mean(row[name] for row in rows)


def share_right(checkpoint, corpus, run_dir: Path) -> float:
    """The share of the held-out sentences and their phrases that it answers rightly."""
    from common import measure
    from report import before_after

    return measure.accuracy(before_after.answers(checkpoint, corpus, run_dir, "held_out").argmax(-1), corpus.held_out.labels)["accuracy"]


def of_seeds(accuracies: list[dict]) -> dict:
    """{accuracy, ci95} of several: means, of the bounds too."""
    low, high = (statistics.mean(bound) for bound in zip(*(each["ci95"] for each in accuracies), strict=True))
    return {"accuracy": mean(accuracies, "accuracy"), "ci95": [low, high]}


def faster_than(baseline: dict[str, float], rows: list[dict]) -> dict[str, float]:
    """{batch: baseline ms / mean ms of the rows}."""
    return {batch: ms / statistics.mean(row["latency_ms"][batch]["p50"] for row in rows) for batch, ms in baseline.items()}


def table(results: dict) -> str:
    """The presets and their teacher as a table for README."""
    from tabulate import tabulate

    def times(ratios: dict[str, float]) -> str:
        return f"{ratios['1']:.1f}, {ratios['32']:.1f}"

    teacher = results["teacher"]
    lines = [["Teacher", f"{100 * teacher['accuracy']:.1f}", "—", f"{teacher['size_mb']:.2f}", "—", "—", "1", "1", "1, 1", "—"]]
    for preset, row in results["presets"].items():
        spread = "" if row["accuracy_sd"] is None else f" ± {100 * row['accuracy_sd']:.1f}"
        lines.append([f"{preset} ({len(row['seeds'])} seed{'s'[:len(row['seeds']) > 1]})", f"{100 * row['accuracy_mean']:.1f}{spread}",
                      f"{100 * row['delta_vs_teacher']:+.1f}", f"{mean(row['seeds'], 'size_mb'):.2f}",
                      f"{mean(row['seeds'], 'load_ms'):.0f}", f"{mean(row['seeds'], 'peak_rss_mb'):.0f}",
                      f"{row['bytes_ratio']:.1f}", f"{row['flops_ratio']:.1f}",
                      times(row["latency_ratio"]), times(row["latency_ratio_vs_int8"])])
    return tabulate(lines, headers=["preset", "accuracy %", "Δ points", "MB", "opens in, ms", "RSS MB", "smaller, ×", "fewer FLOPs, ×",
                                    "faster, ×: batch 1, 32", "than int8 teacher, ×: batch 1, 32"],
                    tablefmt="github", disable_numparse=True)


def measured(args, names: list[str] | None = None) -> dict:
    """All figures of what is called `names`, of everything with an int8 export where None; as main writes them."""
    from common import checkpoints, inference, measure
    from report import claims

    threads = args.threads or cores.usable()
    corpus = finished.corpus(args)
    conditions, found = finished.conditions(corpus, threads), checkpoints.published(args.run_dir)
    if names is None:
        names = sorted({c.variant for c in found if c.stage.endswith("_onnx_int8")})
    made = {preset: seeds for preset in names if (seeds := seeds_of(args.run_dir, preset))}
    if not made:
        raise cli.UserError(f"no int8 export of a preset under {args.run_dir / 'models'}: run shrink.py --preset max with --run-dir "
                            f"{args.run_dir} first")
    own = {(preset, seed): next(c for c in lineage.line(export, found) if c.stage == "teacher")
           for preset, seeds in made.items() for seed, (_, export) in seeds.items()}
    of_all = list({teacher.key: checkpoints.verify(teacher.path) for teacher in own.values()}.values())
    teacher = of_all[0]
    checkpoints.same_data(teacher, corpus.facts)
    with tempfile.TemporaryDirectory() as folder:
        calibration = random.Random(0).sample(corpus.train.texts, min(256, len(corpus.train)))
        classifiers = {"teacher": inference.open_classifier(teacher.path, threads)}
        classifiers |= {name: inference.OnnxClassifier(made_of_it, threads)
                        for name, made_of_it in int8_teachers(teacher, Path(folder), calibration).items()}
        classifiers |= {f"{preset}/{seed}": inference.open_classifier(export.path, threads)
                        for preset, seeds in made.items() for seed, (_, export) in seeds.items()}
        answers = {name: c.classify(corpus.dev.texts).argmax(-1) for name, c in classifiers.items()}
        of_teachers = {c.key: inference.open_classifier(c.path, threads).classify(corpus.dev.texts).argmax(-1) for c in of_all[1:]}
        of_teachers[teacher.key] = answers["teacher"]
        accuracy = {name: measure.accuracy(answer, corpus.dev.labels) for name, answer in answers.items()}
        timed = measure.to_time(corpus.dev.texts, args.sentences)
        latency = measure.latency(classifiers, timed, args.repeats)

    def cost(path: Path) -> int:
        twin = measure.countable_twin(path)
        return measure.flops(twin, min(128, twin.config.max_position_embeddings))

    predicted = predictions(corpus, teacher, args.run_dir, threads)
    teachers = {name: {batch: latency[name]["latency_ms"][batch]["p50"] for batch in ("1", "32")}
                for name in classifiers if name.startswith("teacher")}
    int8 = {batch: min(ms[batch] for name, ms in teachers.items() if name != "teacher") for batch in ("1", "32")}  # the faster one
    whole = {"flops": cost(teacher.path), "mb": measure.size(teacher)["size_mb"]}
    results = {**conditions, "sentences": len(timed), "repeats": args.repeats,
               "teacher": {**of_seeds([measure.accuracy(answer, corpus.dev.labels) for answer in of_teachers.values()]),
                           "size_mb": whole["mb"], "gflops_128": whole["flops"] / 1e9, **latency["teacher"]},
               **{name: {**accuracy[name], **latency[name]} for name in teachers if name != "teacher"}, "presets": {}}
    for preset, seeds in made.items():
        rows = []
        for seed, (source, export) in seeds.items():
            opened, _ = measure.process_of_its_own(export.path, timed[:64], threads)
            beside = own[preset, seed]
            held_out = {who: share_right(of, corpus, args.run_dir) for who, of in (("teacher", beside), ("accuracy", export))}
            kept = measure.structure(measure.countable_twin(source.path))
            rows.append({"seed": seed, **accuracy[f"{preset}/{seed}"], **measure.size(export), "gflops_128": cost(source.path) / 1e9,
                         "structure": kept, "predicted_speedup": predicted(kept), **latency[f"{preset}/{seed}"], **opened,
                         "teacher_accuracy": measure.accuracy(of_teachers[beside.key], corpus.dev.labels)["accuracy"],
                         "held_out": held_out, "search": source.manifest["metrics"].get("structure"),
                         "minutes": sum(stage.manifest["wall_s"] for stage in lineage.line(export, found)) / 60,
                         "validation_accuracy": export.manifest["metrics"]["validation_accuracy"], "path": export.path.name})
        beside = mean(rows, "teacher_accuracy")
        looked = {who: [row["held_out"][who] for row in rows] for who in ("teacher", "accuracy")}
        results["presets"][preset] = {
            "command": f"python shrink.py --preset {preset}", "minutes": mean(rows, "minutes"),
            "held_out": {"sentences": len(corpus.held_out), "teacher": statistics.mean(looked["teacher"]),
                         **measure.over_seeds(looked["accuracy"]),
                         "delta": statistics.mean(looked["accuracy"]) - statistics.mean(looked["teacher"])},
            "structure": rows[0]["search"],
            "seeds": rows, **measure.over_seeds([row["accuracy"] for row in rows]),
            "teacher_accuracy": beside, "delta_vs_teacher": mean(rows, "accuracy") - beside,
            "no_loss": claims.no_loss([answers[f"{preset}/{seed}"] for seed in seeds],
                                      [of_teachers[own[preset, seed].key] for seed in seeds], corpus.dev.labels),
            "flops_ratio": whole["flops"] / 1e9 / mean(rows, "gflops_128"),
            "bytes_ratio": whole["mb"] / mean(rows, "size_mb"),
            "latency_ratio": faster_than(teachers["teacher"], rows),
            "latency_ratio_vs_int8": faster_than(int8, rows), "runtime": "onnxruntime",
            "predicted_speedup": {batch: statistics.harmonic_mean(row["predicted_speedup"][batch] for row in rows)
                                  for batch in ("1", "32")},  # of mean milliseconds, as those that were achieved
            "achieved_speedup": faster_than(teachers["teacher"], rows)}
    return results


def alone(results: dict) -> dict:
    """The results without what is no preset."""
    return results | {"presets": {name: row for name, row in results["presets"].items() if name in PRESETS}}


def main(args) -> None:
    from report import claims

    results = measured(args, list(PRESETS))
    finished.write(results, args.output)
    for preset, row in results["presets"].items():
        faster, than_int8 = row["latency_ratio"], row["latency_ratio_vs_int8"]
        print(f"{preset}: {100 * row['accuracy_mean']:.2f} % ({100 * row['delta_vs_teacher']:+.2f} points), "
              f"FLOPs ÷ {row['flops_ratio']:.1f}, bytes ÷ {row['bytes_ratio']:.1f}, latency ÷ {faster['1']:.1f} and ÷ {faster['32']:.1f}, "
              f"against int8 ÷ {than_int8['1']:.1f} and ÷ {than_int8['32']:.1f}; {claims.said(row['no_loss'])}")


if __name__ == "__main__":
    cli.run(main, arguments(__doc__, "FILE", "the JSON file to write").parse_args())

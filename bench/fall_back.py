"""The teacher's accuracy at a share of its cost: a small model answers what it is sure of, the run's teacher the rest.

    python -m bench.fall_back RUN_DIR docs/results/ship.json --set trec6 --variant max --data-dir DIR
    python -m bench.fall_back RUN_DIR docs/results/ship.json --set sst2 --checkpoint pretrained/sst2-max/onnx --data-dir DIR

For each level of sureness a row {set, sure, answered, agreement_lower, accuracy, cost_share, …} under `fall_back` of the JSON file, whose
other keys stay. Levels are counted on dev. The temperature of an export of earlier code is fitted on the held-out sentences, and the
level that is `chosen` is the lowest at which both together answer the held-out sentences as well as the teacher does; there may be none.
Cost is in FLOPs, each sentence at its own length: `cost_share` is all that small model and teacher do over what the teacher alone does for
all sentences.
"""

import statistics
import time
from pathlib import Path

import numpy as np

from bench import finished
from common import cli, cores, forms


def source_of(checkpoint, run_dir: Path) -> Path:
    """The torch checkpoint of which an export was made, or another that was, whose FLOPs can be counted. Raises UserError where there is
    none.
    """
    from common import checkpoints, lineage

    base, export = lineage.split_key(checkpoint.stage)
    if not export:
        return checkpoint.path
    beside = checkpoint.path.resolve().parent  # as the bundled model has it
    known = [*checkpoints.published(run_dir), *([checkpoints.read(beside)] if (beside / "stage.json").is_file() else [])]
    parent = checkpoint.parent_key(base)
    found = next((c for c in known if c.key == parent or not lineage.split_key(c.stage)[1] and c.parent_key(base) == parent), None)
    if found is None:
        raise cli.UserError(f"the checkpoint that {checkpoint.path} was exported of isn't there any more: its FLOPs can't be counted")
    return found.path


def costs(path: Path, classifier, rows: list) -> np.ndarray:
    """FLOPs of answering each of `rows` (S,)."""
    from common import measure

    twin = measure.countable_twin(path)
    lengths = [len(ids) for ids in classifier.spelt(rows)]
    counted = {length: measure.flops(twin, length) for length in set(lengths)}
    return np.array([counted[length] for length in lengths], dtype=float)


def seconds(job, repeats: int) -> float:
    """The median time of a job that was done once before."""
    took = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        job()
        took.append(time.perf_counter() - start)
    return statistics.median(took[1:])


def choose(rows: list[dict], least: float) -> None:
    """Says of each level whether it is `chosen`: the lowest with a `held_out_accuracy` of at least so much. None is where none has it."""
    enough = [row["sure"] for row in rows if row["held_out_accuracy"] >= least]
    for row in rows:
        row["chosen"] = bool(enough) and row["sure"] == min(enough)


def main(args) -> None:
    from common import checkpoints, inference, sureness, tasks
    from common.texts import labels

    # --- 1. the two models, and the texts
    corpus, threads = finished.corpus(args), cores.usable()
    conditions, task = finished.conditions(corpus, threads), corpus.task
    made = checkpoints.published(args.run_dir)
    chosen = checkpoints.read(args.checkpoint) if args.checkpoint else next(
        (c for c in made if c.stage.endswith("_onnx_int8") and c.variant == args.variant), None)
    if chosen is None:
        raise cli.UserError(f"no int8 export of '{args.variant}' under {args.run_dir / 'models'}: run 11_export_onnx.py first, or name "
                            "another with --variant or --checkpoint")
    taught = checkpoints.find(args.run_dir, "teacher")
    small, teacher = (inference.open_classifier(checkpoint.path, threads) for checkpoint in (chosen, taught))
    for checkpoint in (chosen, taught):
        checkpoints.same_data(checkpoint, corpus.facts)
    if not task.has_probabilities or not labels.alike(small.label_names, teacher.label_names):
        raise cli.UserError(f"{chosen.path} and {taught.path}: levels are of two models with the same labels, not of scores")
    parts = {"held_out": corpus.held_out, "dev": corpus.dev}
    logits = {part: [model.classify(split.rows) for model in (small, teacher)] for part, split in parts.items()}
    if small.temperature is None:  # of earlier code
        sentences = len(corpus.validation)  # come first, their phrases behind them
        small.temperature = sureness.temperature(task, logits["held_out"][0][:sentences], np.array(corpus.validation.labels))

    # --- 2. at each level: who answers, how well, what it costs
    def together(part: str, level: float) -> tuple[float, np.ndarray]:
        """(the task's score of both, which texts the teacher was asked for: bool (S,))."""
        ours, theirs = (tasks.decisive(found, model.thresholds) for found, model in zip(logits[part], (small, teacher), strict=True))
        below = small.sureness(logits[part][0]) < level
        both = np.where(below[:, None], theirs, ours)
        return task.scores(both, np.array(parts[part].labels))[task.metric], below

    alone = {part: together(part, 2.0)[0] for part in parts}  # nobody is as sure as that: the teacher answers all
    dev = parts["dev"].rows
    flops = [costs(path, model, dev) for path, model in ((source_of(chosen, args.run_dir), small), (taught.path, teacher))]
    for_all = seconds(lambda: teacher.classify(dev), args.repeats)
    ours, theirs = (tasks.decisive(found, model.thresholds) for found, model in zip(logits["dev"], (small, teacher), strict=True))
    rows = []
    for level in sureness.levels(small.sureness(logits["dev"][0]), task.same(ours, theirs)):
        score, below = together("dev", level["sure"])
        rest = [row for row, asked in zip(dev, below, strict=True) if asked]

        def both(rest=rest):
            small.classify(dev)
            if rest:
                teacher.classify(rest)

        rows.append({"set": args.set, **level, "accuracy": score, "cost_share": float((flops[0].sum() + flops[1][below].sum())
                                                                                      / flops[1].sum()),
                     "seconds_share": seconds(both, args.repeats) / for_all, "held_out_accuracy": together("held_out", level["sure"])[0]})
    choose(rows, alone["held_out"])

    # --- 3. beside what stands in the file already
    result = finished.earlier(args.output)
    others = [row for row in result.get("fall_back", []) if row["set"] != args.set]
    about = {"metric": task.metric, "model": chosen.variant, "teacher_accuracy": alone["dev"], "teacher_held_out": alone["held_out"],
             "small_accuracy": together("dev", 0.0)[0], "small_held_out": together("held_out", 0.0)[0], "temperature": small.temperature,
             "sentences": len(dev), **conditions}
    result |= {"fall_back": others + rows, "fall_back_of": result.get("fall_back_of", {}) | {args.set: about}}
    finished.write(result, args.output)
    print(f"{args.set}: {task.metric_name} {about['small_accuracy']:.4f} alone, the teacher's {alone['dev']:.4f}")
    for row in rows:
        bound = "n/a" if row["agreement_lower"] is None else f"{row['agreement_lower']:.3f}"
        print(f"sure {row['sure']:g}: answers {row['answered']:.3f}, agrees >= {bound}, both {row['accuracy']:.4f} at "
              f"{row['cost_share']:.3f} of the FLOPs, {row['seconds_share']:.3f} of the seconds" + (" (chosen)" if row["chosen"] else ""))
    if not any(row["chosen"] for row in rows):
        print("none is chosen: at no level do both answer the held-out sentences as well as the teacher does")


if __name__ == "__main__":
    parser = finished.parser(__doc__, "FILE", "the JSON file whose rows of this set are written")
    parser.add_argument("--set", type=forms.name, required=True, help="what the rows call the data set")
    parser.add_argument("--variant", default="max", help="the operating point whose newest int8 export is the small model")
    parser.add_argument("--checkpoint", type=forms.path, metavar="DIR", default=None, help="instead: the small model itself")
    parser.add_argument("--repeats", type=forms.count, default=3, help="times that each is timed; the median counts")
    cli.run(main, parser.parse_args())

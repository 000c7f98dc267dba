"""Stage 7: export checkpoints to ONNX, in 32 bits and in 8, for onnxruntime on a CPU.

The graph is traced once with free batch and length. For int8 the range of every activation is calibrated on training
sentences and then fixed (Jacob et al. 2018, section 3.1): a sentence's answer does not depend on what shares its batch.

    python 11_export_onnx.py                                the newest lineage's best checkpoint, and the distilled baseline
    python 11_export_onnx.py --checkpoint models/…  …       these

Reads checkpoints under models/ and the data. Writes models/onnx_fp32_<ts>/ and models/onnx_int8_<ts>/ for each.
Half a minute a checkpoint on two cores.
"""

import argparse
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms, upload
from deploy import demo

AGREEMENT = 0.98  # share of held-out sentences on which int8 should give torch's label


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("export")
    group.add_argument("--checkpoint", type=forms.path, nargs="+", metavar="DIR", default=None,
                       help="what to export; else the newest pruned_qkd (else pruned_ptq, pruned) of --variant "
                            "and the distilled student it came from")
    group.add_argument("--variant", default="published", help="the operating point whose newest lineage is exported")
    group.add_argument("--from-pruned", action="store_true", help="export the pruned model itself, though a 4-bit one was made of it")
    group.add_argument("--precision", choices=["fp32", "int8", "both"], default="both", help="of the weights in the file")
    group.add_argument("--calibration-sentences", type=forms.count, default=256, metavar="N",
                       help="training sentences that set the int8 ranges")
    group.add_argument("--table-bits", type=int, choices=[8, 4], default=8, help="of embedding tables in an int8 file; 4 is the NF4 grid")
    group.add_argument("--map-bits", type=int, choices=[8, 4], default=8,
                       help="of linear maps in an int8 file; 4 is the NF4 grid, from which they become int8 when the file is opened")
    group.add_argument("--opset", type=int, choices=[23, 20], default=23,
                       help="newest ONNX opset in the file; 23 has attention as one operator, 20 is for onnxruntime before 1.23")
    group.add_argument("--layout", choices=["transformers.js", "triton"], nargs="+", default=[],
                       help="files by the names that these look for, beside model.onnx, whose bytes they share")
    group.add_argument("--tokenizer-in-graph", action="store_true",
                       help="text.onnx too: text in, label out, with the operators of onnxruntime-extensions")
    group.add_argument("--demo", action="store_true", help=demo.FLAG.format("RUN_DIR/demo/index.html"))
    upload.flag(group)
    parser.seeds_flag(group)
    args = parser.parse(argv)
    if args.checkpoint and args.from_pruned:
        parser.error("give --checkpoint, or --from-pruned, which chooses of the newest lineage: not both")
    if args.push_to_hub and args.n_seeds > 1:
        parser.error("--push-to-hub puts one model there: leave --seeds out")
    if args.demo and args.n_seeds > 1:
        parser.error("--demo shows one model: leave --seeds out")
    parser.refuse_idle(("--calibration-sentences --table-bits --map-bits", args.precision == "fp32", "with --precision fp32"))
    return parser.inheriting(args, "--checkpoint")


def newest_lineage(run_dir: Path, variant: str, seed: int | None, from_pruned: bool) -> list:
    """The newest pruned checkpoint, of `seed` if there is one, or what was quantised of it, and the distilled baseline of its lineage."""
    from common import checkpoints

    made = checkpoints.published(run_dir)
    stages = {c.stage for c in made if c.variant == variant}
    if not from_pruned and "pruned" not in stages and (variant == "published" or "distilled" in stages):
        distilled = checkpoints.find(run_dir, "distilled", variant=variant, seed=seed)
        checkpoints.same_seed(distilled, seed)
        return [distilled]
    pruned = checkpoints.find(run_dir, "pruned", variant=variant, seed=seed)
    checkpoints.same_seed(pruned, seed)
    finished = [c for stage in ("pruned_qkd", "pruned_ptq") for c in made if c.stage == stage and c.parent_key("pruned") == pruned.key]
    baseline = [c for c in made if c.stage == "distilled" and c.key == pruned.parent_key("distilled")]
    chosen = [pruned] if from_pruned else [*finished, pruned][:1]
    return [checkpoints.verify(c.path) for c in chosen + baseline[:1]]  # no baseline where the teacher was pruned


def main(args):
    from common import checkpoints, data, lineage
    from common.texts import lengths
    from deploy import onnx_text

    upload.refuse(args.push_to_hub)
    if args.demo:
        demo.refuse_without_npm()

    # --- 1. load
    if args.checkpoint:
        chosen = [checkpoints.verify(path) for path in args.checkpoint]
        for source in chosen:
            checkpoints.same_seed(source, args.seed)
            checkpoints.same_variant(source, args.variant)
    else:
        chosen = newest_lineage(args.run_dir, args.variant, args.seed, args.from_pruned)
    for source in chosen:
        if source.stage not in lineage.LABELS:
            raise cli.UserError(f"{source.path} was made by the stage '{source.stage}', which this one doesn't export: "
                                f"give one of {', '.join(lineage.LABELS)}")
    corpus = data.load(args)
    for source in chosen:
        checkpoints.same_data(source, corpus.facts)
        lengths.kept(args.max_length, source)
        if args.tokenizer_in_graph:
            onnx_text.refuse_other_tokenizers(source.path, corpus)
    precisions = ("fp32", "int8") if args.precision == "both" else (args.precision,)
    flag = "--push-to-hub" if args.push_to_hub else "--demo" if args.demo else None
    if flag and len(chosen) * len(precisions) > 1:
        raise cli.UserError(f"{flag} is for one model, and these are {len(chosen) * len(precisions)}: give --precision int8 or fp32, and "
                            "one --checkpoint")
    for source in chosen:
        for precision in precisions:
            folder = export(args, source, precision, corpus)
            if args.demo:
                cli.say(str(demo.write(folder, args.run_dir / "demo", f"{corpus.name}: {folder.name}", demo.table(source, folder))))
            if args.push_to_hub:
                cli.say(upload.push(folder, args.push_to_hub))


@functools.lru_cache(maxsize=1)
def in_both_forms(path: Path, opset: int):
    """A checkpoint as a torch model and as an ONNX graph of it, with which either precision begins."""
    from common import opening
    from deploy import onnx_export

    model = opening.load_model(path)
    return model, onnx_export.export(model, opset, pairs=opening.gives_types(opening.load_tokenizer(path)))


def export(args, source, precision: str, corpus) -> Path:
    """Exports one checkpoint at one precision, proves the file on held-out sentences, and publishes it: where it stands."""
    from common import checkpoints, opening, publishing
    from common.texts import lengths

    # What decides this file: not which others are made beside it. What its source handed on it keeps.
    decides = {"seed": source.manifest["seed"], "max_length": lengths.read_by(source), "opset": args.opset}
    decides |= {"layout": sorted(args.layout), "tokenizer_in_graph": args.tokenizer_in_graph}
    if precision == "int8":
        decides |= {"calibration_sentences": args.calibration_sentences, "table_bits": args.table_bits, "map_bits": args.map_bits}
    asked = argparse.Namespace(**decides, run_dir=args.run_dir, mode=args.mode, force=args.force)
    name = f"{source.stage}_onnx" + ("_int8" if precision == "int8" else "")
    stage = publishing.begin(asked, name, f"onnx_{precision}", corpus.facts, [source], variant=source.variant)
    if stage.done:
        return stage.done.path

    import json
    import random

    import numpy as np
    import onnx

    from common import inference, sureness, tasks
    from deploy import card, layouts, onnx_export, onnx_int8, onnx_text

    # --- 2. export, and compare with torch
    config = onnx_export.configuration(json.loads((source.path / "config.json").read_text(encoding="utf-8")))
    (stage.dir / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    torch_model, model = in_both_forms(source.path, args.opset)
    opening.save_tokenizer(opening.load_tokenizer(source.path), stage.dir, asked.max_length)
    stage.metrics["onnxruntime"] = f">={onnx_export.oldest_runtime(model)}"
    corpus.check_labels(torch_model.config.id2label, source.path)
    onnx.save(model, stage.dir / inference.ONNX_FILE)
    at_work = checkpoints.Checkpoint(stage.dir, {"stage": name, "args": stage.asked})
    classifier = inference.OnnxClassifier(at_work)
    held_out = corpus.validation
    alone = [classifier.encode([row]) for row in held_out.rows[:32]]
    padded = [classifier.encode(held_out.rows[i:i + 16]) for i in range(0, min(64, len(held_out)), 16)]
    difference = onnx_export.largest_difference(classifier, torch_model, alone + padded)
    if not difference <= onnx_export.TOLERANCE:
        raise RuntimeError(f"internal error: logits of the exported {source.path} differ from torch's by {difference:.2g}")
    logits = classifier.classify(held_out.rows, progress=True)
    stage.metrics["fp32_largest_difference"] = difference

    # --- 3. calibrate and quantise; compare with full precision, and each answer with the one given alone
    if precision == "int8":
        rows = random.Random(asked.seed).sample(corpus.train.rows, min(args.calibration_sentences, len(corpus.train)))
        model = onnx_int8.quantise(model, [classifier.encode([row]) for row in rows], args.table_bits, args.map_bits)
        onnx.save(model, stage.dir / inference.ONNX_FILE)
        full = logits
        classifier = inference.OnnxClassifier(at_work)
        logits = classifier.classify(held_out.rows, progress=True)
        alone = classifier.classify(held_out.rows, batch_size=1, progress=True)
        # Not an error: where two classes tie, float noise of another batch shape may tip one rounding and so the label.
        stage.metrics["labels_changed_by_batch"] = int((~corpus.task.same(alone, logits)).sum())
        if stage.metrics["labels_changed_by_batch"]:
            cli.say(f"warning: {stage.metrics['labels_changed_by_batch']} held-out sentences get another label in a batch")
        stage.metrics["agreement"] = corpus.task.agreement(logits, full)
        if stage.metrics["agreement"] < AGREEMENT:
            cli.say(f"warning: int8 and full precision agree on {stage.metrics['agreement']:.1%} of the held-out sentences only")

    # --- 4. settle its answers, measure the file itself, publish
    labels = np.array(held_out.labels)
    thresholds = corpus.task.thresholds(logits, labels)
    config |= {} if thresholds is None else {"thresholds": thresholds.tolist()}
    temperature = sureness.temperature(corpus.task, logits, labels)
    config |= {} if temperature is None else {tasks.TEMPERATURE: temperature}
    (stage.dir / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    layouts.for_embeddings_inference(stage.dir, asked.max_length)
    for layout in args.layout:
        layouts.LAYOUTS[layout](stage.dir)
    if args.tokenizer_in_graph:
        stage.metrics["texts_spelt_alike"] = onnx_text.export(stage.dir, model, corpus, classifier, thresholds, temperature)
    score = corpus.task.scores(tasks.decisive(logits, thresholds), labels)[corpus.task.metric]
    stage.metrics[f"validation_{corpus.task.metric}"] = score
    size_mb = (stage.dir / inference.ONNX_FILE).stat().st_size / 1e6
    stage.usage = card.example_of('"."', corpus.facts)
    published = stage.publish()
    cli.say(f"{name}: {size_mb:.1f} MB, held-out {corpus.task.metric_name} {score:.4f} (torch: "
            f"{source.validation or float('nan'):.4f})")
    return published


if __name__ == "__main__":
    cli.run(main, parse_args())

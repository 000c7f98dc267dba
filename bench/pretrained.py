"""Puts a preset's model into the box: its 4-bit checkpoint and the int8 ONNX file made of it, with a model card.

    python -m bench.pretrained RUN_DIR pretrained/sst2-max [--variant max] [--data-dir DIR]

Of the preset's seeds it takes the one that answers the held-out split best as int8 (stages 9 and 11 must have run on it), copies both
directories as they were published, and answers the dev set with each once. The card's figures are those of these very files.
"""

import json
import shutil
from pathlib import Path

from bench import finished
from common import cli

LIMIT_MB = 12  # both files together: every clone carries them


def parse_args():
    parser = finished.parser(__doc__, "DIR", "where the model goes; what stands there is replaced")
    parser.add_argument("--variant", default="max", help="the preset")
    return parser.parse_args()


def best_pair(run_dir: Path, variant: str) -> tuple:
    """(4-bit checkpoint, int8 export of it) of the best held-out accuracy. Raises UserError where there is none."""
    from common import checkpoints

    made = [c for c in checkpoints.published(run_dir) if c.variant == variant]
    exports = [c for c in made if c.stage in ("pruned_ptq_onnx_int8", "pruned_qkd_onnx_int8")]
    for export in sorted(exports, key=lambda c: -c.manifest["metrics"]["validation_accuracy"]):
        kind = export.stage.removesuffix("_onnx_int8")
        source = next((c for c in made if c.stage == kind and c.key == export.parent_key(kind)), None)
        if source:
            return checkpoints.verify(source.path), checkpoints.verify(export.path)
    raise cli.UserError(f"no int8 export of a 4-bit '{variant}' under {run_dir / 'models'}: run 9_quantize_pruned_model.py and "
                        f"11_export_onnx.py --precision int8 --table-bits 4 --map-bits 4 with --variant {variant} first")


def card(variant: str, figures: dict) -> str:
    """The model card, all of it from `figures`."""
    from tabulate import tabulate

    files = {"checkpoint": "`model.safetensors`: 4 bits (NF4), opens with transformers", "onnx": "`onnx/model.onnx`: int8, for onnxruntime"}
    rows = [[title, f"{file['size_mb']:.2f}", f"{100 * file['validation_accuracy']:.1f}", f"{100 * file['accuracy']:.1f}",
             "–".join(f"{100 * end:.1f}" for end in file["ci95"])] for name, title in files.items() for file in [figures[name]]]
    made, data, structure, teacher = figures["made"], figures["dataset"], figures["structure"], figures["teacher"]
    shared = f"--seed {made['seed']}" + (f" --matmul-precision {made['precision']}" if made["precision"] != "highest" else "")
    steps = [(made["after"], ""), (variant, f" --after {made['after']}")] if made["after"] else [(variant, "")]
    pruned_by = ", ".join(f"`python 8_pruning_with_finetuning.py --preset {name}{after} {shared}`" for name, after in steps)
    return f"""# {data['name']}, preset *{variant}*

Says whether an English sentence about a film is positive or negative. Distilled from a fine-tuned BERT and pruned from it.

{tabulate(rows, headers=["file", "MB", "held-out %", "dev %", "95 %"], tablefmt="github", disable_numparse=True)}

The teacher: {100 * teacher['accuracy']:.1f} % of the same {data['dev']} dev sentences, {teacher['size_mb']:.1f} MB.
Kept: heads {structure['heads']}, FFN neurons {structure['ffn']}, {structure['vocab']:,} word pieces.

Use: `python predict.py "a gripping film"`, or, with this directory's path,
`AutoModelForSequenceClassification.from_pretrained(PATH, trust_remote_code=True)`.

Made by {pruned_by}, `9_quantize_pruned_model.py --variant {variant}` and
`11_export_onnx.py --variant {variant} --precision int8 --table-bits 4 --map-bits 4`, at commit {made['commit']},
from {data['train']:,} training sentences ({data['source']}, sha256 {data['sha256'][:16]}).
The teacher is a BERT of {made['layers']} layers, {made['width']} wide. This card,
its figures in `card.json`: `python -m bench.pretrained`, at commit {figures['code']['commit']}.

Limits: English, single sentences of reviews, two classes and no "neutral"; what is no review gets a label too. Its vocabulary is
that of the training sentences, so other text is spelled in more pieces. It repeats its teacher's mistakes and its training set's
leanings, and adds some of its own: it is no judge of people.
"""


def main(args) -> None:
    from common import checkpoints, inference, measure

    corpus = finished.corpus(args)
    source, export = best_pair(args.run_dir, args.variant)
    checkpoints.same_data(source, corpus.facts)
    pruned = checkpoints.parent(args.run_dir, source, "pruned")
    teacher = checkpoints.parent(args.run_dir, pruned, "teacher")
    before = checkpoints.parent(args.run_dir, pruned, "pruned") if pruned.parent_key("pruned") else None
    shape = json.loads((teacher.path / "config.json").read_text(encoding="utf-8"))
    parts = {"checkpoint": source, "onnx": export}
    total = sum(measure.size(part)["total_mb"] for part in parts.values())
    if total > LIMIT_MB:
        raise cli.UserError(f"{source.path.name} and {export.path.name} are {total:.1f} MB together: a clone may carry {LIMIT_MB}")

    def answered(checkpoint) -> dict:
        held_out = {"validation_accuracy": checkpoint.manifest["metrics"]["validation_accuracy"]}
        labels = inference.open_classifier(checkpoint.path).classify(corpus.dev.texts, progress=True).argmax(-1)
        return measure.accuracy(labels, corpus.dev.labels) | measure.size(checkpoint) | held_out

    figures = {name: answered(part) for name, part in parts.items()}
    figures |= {"teacher": answered(teacher), "dataset": corpus.facts, "code": checkpoints.code_identity(),
                "structure": measure.structure(measure.countable_twin(source.path)),
                "made": {"seed": pruned.manifest["seed"], "precision": pruned.manifest["args"].get("matmul_precision", "highest"),
                         "after": before.variant if before else None, "commit": pruned.manifest["code"]["commit"],
                         "layers": shape["num_hidden_layers"], "width": shape["hidden_size"]}}
    shutil.rmtree(args.output, ignore_errors=True)
    shutil.copytree(source.path, args.output)
    shutil.copytree(export.path, args.output / "onnx")
    (args.output / "card.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (args.output / "README.md").write_text(card(args.variant, figures), encoding="utf-8")
    print(f"{args.output}: {total:.1f} MB, dev accuracy {figures['checkpoint']['accuracy']:.4f} in 4 bits, "
          f"{figures['onnx']['accuracy']:.4f} as int8")


if __name__ == "__main__":
    cli.run(main, parse_args())

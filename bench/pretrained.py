"""Puts a preset's model into the box: its 4-bit checkpoint and the int8 ONNX file made of it, with a model card.

    python -m bench.pretrained RUN_DIR pretrained/sst2-max [--variant max] [--data-dir DIR]

Of the preset's seeds it takes the one that answers the held-out split best as int8 (stages 9 and 11 must have run on it), copies both
directories as they were published, and answers the dev set with each once. The card's figures are those of these very files.
"""

import json
import runpy
import shutil
from pathlib import Path

from bench import finished
from common import cli, recipes
from common.provenance import REPOSITORY

PRUNING = "8_pruning_with_finetuning.py"
LIMIT_MB = 12  # both files together: every clone carries them
MOVING = ("--temperature", "--alpha")  # from START to END
EXPORTED = ("table_bits", "map_bits", "opset")  # what the card says of an export's command


def parse_args():
    parser = finished.parser(__doc__, "DIR", "where the model goes; what stands there is replaced")
    parser.add_argument("--variant", default="max", help="the preset")
    return parser.parse_args()


def best_pair(run_dir: Path, variant: str) -> tuple:
    """(4-bit checkpoint, int8 export of it or of the pruned model that it was made of) of the best held-out accuracy.

    Raises UserError where there is none.
    """
    from common import checkpoints

    made = [c for c in checkpoints.published(run_dir) if c.variant == variant]
    exports = [c for c in made if c.stage in ("pruned_onnx_int8", "pruned_ptq_onnx_int8", "pruned_qkd_onnx_int8")]
    quantised = [c for c in made if c.stage in ("pruned_ptq", "pruned_qkd")]
    for export in sorted(exports, key=lambda c: -c.manifest["metrics"]["validation_accuracy"]):
        of_one = [c for c in quantised if c.key == export.parent_key(c.stage) or c.parent_key("pruned") == export.parent_key("pruned")]
        if of_one:
            return checkpoints.verify(of_one[0].path), checkpoints.verify(export.path)
    raise cli.UserError(f"no int8 export of '{variant}' with a 4-bit checkpoint beside it under {run_dir / 'models'}: run "
                        f"9_quantize_pruned_model.py and 11_export_onnx.py --precision int8 with --variant {variant} first")


def flag(name: str, value) -> list[str]:
    """An argument of a stage as it is typed: of numbers that move through a stage START:END."""
    name = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [name if value else f"--no-{name[2:]}"]
    values = [f"{one:.7g}" if isinstance(one, float) else str(one) for one in (value if isinstance(value, list) else [value])]
    return [name, ":".join(values)] if name in MOVING else [name, *values]


def beyond_its_preset(checkpoint, preset: str, structure_of: str | None = None) -> dict:
    """The arguments of stage 8 in which a pruned checkpoint differs from what its preset alone would have made."""
    parse_args, args = runpy.run_path(str(REPOSITORY / PRUNING))["parse_args"], checkpoint.manifest["args"]

    def usual(said: dict) -> dict:
        words = [word for pair in said.items() for word in flag(*pair)]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(parse_args(words)).items()}

    said = {"preset": preset} | ({"fast": True} if args.get("fast") else {})
    alone = usual(said)
    if structure_of:
        said["structure_of"] = structure_of
    elif args["prune_epochs"] == 0:
        said["prune_epochs"] = 0
    else:
        said |= {goal: args[goal] for goal in ("sparsity", "budget") if args.get(goal) and args[goal] != alone[goal]}
    beside = usual(said)  # what is to be left decides other flags' defaults
    differs = {name: value for name, value in args.items() if name not in ("seed", "variant") and value != beside.get(name, value)}
    return said | differs


def typed(checkpoint, start: str | None = None, structure_of: str | None = None) -> str:
    """The command that made a checkpoint, as far as it says more than its preset and where it ran.

    A pruned one was made of `start`, where that isn't what its preset begins with, and cut to the `structure_of` another, if any.
    """
    args, kind = checkpoint.manifest["args"], checkpoint.stage
    said = {"variant": checkpoint.variant}
    if kind == "pruned":
        preset = args.get("preset", checkpoint.variant)
        named = None if checkpoint.variant == preset else checkpoint.variant
        script, said = PRUNING, {**beyond_its_preset(checkpoint, preset, structure_of), "name": named, "start": start}
    elif kind.endswith("_onnx_int8"):
        script = "11_export_onnx.py" + (" --from-pruned" if kind == "pruned_onnx_int8" else "")
        said |= {"precision": "int8"} | {name: args[name] for name in EXPORTED if name in args}
    else:
        script = {"pruned_ptq": "9_quantize_pruned_model.py", "pruned_qkd": "10_qat_kd_4bit.py"}[kind]
    said["seed"] = checkpoint.manifest["seed"]
    return " ".join(["python", script, *(word for pair in said.items() if pair[1] is not None for word in flag(*pair))])


def beginnings(checkpoint, found: dict) -> tuple[str | None, str | None]:
    """What a pruned checkpoint of `found`, by key, was made of, where its preset begins with something else, and whose structure it has.

    As stage 8's --start and --structure-of name them.
    """
    parents = checkpoint.manifest["parents"]
    usual = recipes.read()[checkpoint.manifest["args"].get("preset", checkpoint.variant)].flags["prune"].get("start", "student")
    start = {"teacher": "teacher", "distilled": "student"}.get(parents[0]["stage"]) or found[parents[0]["key"]].variant
    given = checkpoint.manifest["metrics"].get("structure", {}).get("found_by") == "another's"
    giver = next((parent for parent in reversed(parents) if given and parent["stage"] == "pruned"), None)
    return None if start == usual else start, found[giver["key"]].variant if giver else None


def of_held_out(checkpoint, corpus) -> dict:
    """{"held_out_accuracy"}: the share of all held-out sentences, and of the phrases inside them, that a checkpoint answers rightly."""
    from common import inference, measure

    labels = inference.open_classifier(checkpoint.path).classify(corpus.held_out.texts, progress=True).argmax(-1)
    return {"held_out_accuracy": measure.accuracy(labels, corpus.held_out.labels)["accuracy"]}


def card(variant: str, figures: dict) -> str:
    """The model card, all of it from `figures`."""
    from tabulate import tabulate

    from deploy import card as parts

    def held_out() -> str:
        """What is known of the held-out sentences and their phrases: a teacher that is gone isn't asked again."""
        named = {"checkpoint": "4 bits", "onnx": "int8", "teacher": "the teacher"}
        said = [f"{title} {100 * figures[name]['held_out_accuracy']:.1f} %" for name, title in named.items()
                if "held_out_accuracy" in figures[name]]
        return f"\nOf {figures['held_out']:,} sentences and phrases held out from training: {', '.join(said)}." if said else ""

    files = {"checkpoint": "`model.safetensors`: 4 bits (NF4), opens with transformers", "onnx": "`onnx/model.onnx`: int8, for onnxruntime"}
    rows = [[title, f"{file['size_mb']:.2f}", f"{100 * file['validation_accuracy']:.1f}", f"{100 * file['accuracy']:.1f}",
             "–".join(f"{100 * end:.1f}" for end in file["ci95"])] for name, title in files.items() for file in [figures[name]]]
    made, data, structure, teacher = figures["made"], figures["dataset"], figures["structure"], figures["teacher"]
    steps = "\n".join(f"    {step['command']}    # at {step['commit'][:12]}" for step in made["steps"])
    typed_in = "\n\nIts structure was set by hand (`--heads`, `--neurons`): a person picked it for this data set, the tool didn't search." \
        if any(" --heads " in step["command"] for step in made["steps"]) else ""
    renewed = f"\nIts code and configuration files are those of commit {figures['renewed']['commit']}\n(`python -m bench.renew`); its " \
              "weights are as they were." if "renewed" in figures else ""
    return f"""# {data['name']}, preset *{variant}*

Says whether an English sentence about a film is positive or negative. Distilled from a fine-tuned BERT and pruned from it.

{tabulate(rows, headers=["file", "MB", "held-out %", "dev %", "95 %"], tablefmt="github", disable_numparse=True)}

The teacher: {100 * teacher['accuracy']:.1f} % of the same {data['dev']} dev sentences, {teacher['size_mb']:.1f} MB.{held_out()}
{parts.kept(structure)}

Use: `python predict.py "a gripping film"`, or, with this directory's path,
`AutoModelForSequenceClassification.from_pretrained(PATH, trust_remote_code=True)`.

{parts.made_from(data)}

{steps}{typed_in}

The teacher is a BERT of {made['layers']} layers, {made['width']} wide. This card,
its figures in `card.json`: `python -m bench.pretrained`, at commit {figures['code']['commit']}.{renewed}

Limits: the dev figures are optimistic, since dev was looked at often; how far three seeds of this preset are behind their teacher on
sentences held out from training stands in the project's README. English, single sentences of reviews, two classes and no "neutral";
what is no review gets a label too. Its vocabulary is that of the training sentences, so other text is spelled in more pieces.
{parts.LIMITS}
"""


def main(args) -> None:
    from common import checkpoints, inference, measure, provenance

    corpus = finished.corpus(args)
    source, export = best_pair(args.run_dir, args.variant)
    checkpoints.same_data(source, corpus.facts)
    pruned = [checkpoints.parent(args.run_dir, source, "pruned")]
    while pruned[0].manifest["parents"][0]["stage"] == "pruned":  # what it was made of comes first, and whose structure it has last
        pruned.insert(0, checkpoints.parent(args.run_dir, pruned[0], "pruned"))
    found = {checkpoint.key: checkpoint for checkpoint in checkpoints.published(args.run_dir)}
    teacher = checkpoints.parent(args.run_dir, pruned[0], "teacher")
    shape = json.loads((teacher.path / "config.json").read_text(encoding="utf-8"))
    parts = {"checkpoint": source, "onnx": export}
    total = sum(measure.size(part)["total_mb"] for part in parts.values())
    if total > LIMIT_MB:
        raise cli.UserError(f"{source.path.name} and {export.path.name} are {total:.1f} MB together: a clone may carry {LIMIT_MB}")

    def answered(checkpoint) -> dict:
        held_out = {"validation_accuracy": checkpoint.manifest["metrics"]["validation_accuracy"]} | of_held_out(checkpoint, corpus)
        labels = inference.open_classifier(checkpoint.path).classify(corpus.dev.texts, progress=True).argmax(-1)
        return measure.accuracy(labels, corpus.dev.labels) | measure.size(checkpoint) | held_out

    steps = [*((made, *beginnings(made, found)) for made in pruned), (source,), (export,)]
    figures = {name: answered(part) for name, part in parts.items()}
    figures |= {"teacher": answered(teacher), "dataset": corpus.facts, "held_out": len(corpus.held_out),
                "code": provenance.code_identity(),
                "structure": measure.structure(measure.countable_twin(source.path)),
                "made": {"steps": [{"command": typed(*step), "commit": step[0].manifest["code"]["commit"]} for step in steps],
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

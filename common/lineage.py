"""Which checkpoints belong together: what was made from what, and what differs by its seed alone."""

import os
from pathlib import Path

from common import measure
from common.checkpoints import SCRIPT_OF, Checkpoint, difference, is_a_table
from common.facts import sha256_json

LABELS = {"teacher": "Teacher", "distilled": "Distilled", "distilled_ptq": "Distilled, 4-bit PTQ", "pruned": "Pruned",
          "pruned_ptq": "Pruned, 4-bit PTQ", "pruned_qkd": "Pruned, 4-bit QKD"}


def split_key(stage: str) -> tuple[str, str]:
    """'pruned_onnx_int8' -> ('pruned', '_onnx_int8'): the torch stage, and what an export added behind it."""
    base = stage.removesuffix("_int8").removesuffix("_onnx")
    return base, stage[len(base):]


def row_key(checkpoint: Checkpoint) -> str:
    """What a report calls a checkpoint."""
    return checkpoint.stage + ("" if checkpoint.variant == "published" else f"@{checkpoint.variant}")


RUNTIMES = ("_onnx_int8", "_onnx", "")  # what a CPU runs fastest first


def smallest(found: list[Checkpoint]) -> Checkpoint | None:
    """Of `found` (newest first) the model of the fewest bytes, in the form that a CPU runs fastest; None where none is a model.

    A 4-bit checkpoint and its export are one model, which counts by the smaller of its files.
    """
    forms: dict[str, list[Checkpoint]] = {}  # of each model, by the key of its torch checkpoint
    for checkpoint in found:
        base, export = split_key(checkpoint.stage)
        if base in LABELS and not is_a_table(checkpoint.path):
            forms.setdefault(checkpoint.parent_key(base) or checkpoint.key if export else checkpoint.key, []).append(checkpoint)
    if not forms:
        return None
    least = min(forms.values(), key=lambda of_one: min(measure.size(form)["size_mb"] for form in of_one))
    return min(least, key=lambda form: RUNTIMES.index(split_key(form.stage)[1]))


def together(found: list[Checkpoint], run_dir: Path, dataset: dict) -> tuple[list[Checkpoint], dict[str, str]]:
    """Chooses a report's checkpoints from `found` (newest first) -> (in the table's order, {row or directory left out: why})."""
    ours: list[Checkpoint] = []
    skipped: dict[str, str] = {}
    for checkpoint in found:
        theirs = checkpoint.manifest["dataset"]
        if split_key(checkpoint.stage)[0] not in LABELS:
            continue  # lessons, which are no model
        if theirs["sha256"] in (None, dataset["sha256"]):
            ours.append(checkpoint)
        else:
            reason = (f"{checkpoint.path.name} was made from another data set: {theirs['name']} ({theirs['source']}): "
                      f"{difference(theirs, dataset)}")
            skipped.setdefault(row_key(checkpoint), reason)

    def newest(stage, variant="published"):
        return next((c for c in ours if c.stage == stage and c.variant == variant), None)

    def made_from(parent, stage):
        """The newest of each variant of `stage` that names `parent`."""
        newest_of: dict[str, Checkpoint] = {}
        for c in ours:
            if c.stage == stage and c.parent_key(parent.stage) == parent.key:
                newest_of.setdefault(c.variant, c)
        return list(newest_of.values())

    def parent(child, stage):
        """The checkpoint that `child` names, or None, said in `skipped`."""
        key = child.parent_key(stage)
        chosen = next((c for c in ours if c.key == key and c.stage == stage), None)
        if key and chosen is None:
            skipped.setdefault(stage, f"{child.path.name} was made from a {stage} checkpoint that isn't under models/ any more")
        return chosen

    variants = sorted({c.variant for c in ours if c.stage == "pruned"}, key=lambda v: (v != "published", v))
    first = newest("pruned", variants[0]) if variants else None
    distilled = parent(first, "distilled") if first else newest("distilled")
    children = [c for c in (first, distilled) if c]
    teacher = next(filter(None, (parent(c, "teacher") for c in children)), None) if children else newest("teacher")
    chosen = [c for c in (teacher, distilled) if c]
    chosen += made_from(distilled, "distilled_ptq") if distilled else []
    if first:
        for variant in variants:
            # One baseline for all rows: only what descends from the first variant's distilled checkpoint.
            candidates = [c for c in ours if c.stage == "pruned" and c.variant == variant]
            related = [c for c in candidates if c.parent_key("distilled") in (first.parent_key("distilled"), None)
                       and c.parent_key("teacher") == first.parent_key("teacher")]  # None: pruned from the teacher itself
            if not related:
                skipped[row_key(candidates[0])] = (f"{candidates[0].path.name} was made from another distilled checkpoint than "
                                                   f"{first.path.name}")
                continue
            chosen += [related[0], *made_from(related[0], "pruned_ptq"), *made_from(related[0], "pruned_qkd")]
    chosen += [c for c in made_from(teacher, "distilled") if c.variant != "published"] if teacher else []
    rows = []
    for checkpoint in chosen:
        rows += [checkpoint, *(c for kind in ("_onnx", "_onnx_int8") for c in made_from(checkpoint, checkpoint.stage + kind))]
    without_student = first is not None and first.parent_key("distilled") is None  # the teacher itself was pruned
    for stage in LABELS:
        if not any(c.stage == stage for c in rows) and not (without_student and stage.startswith("distilled")):
            skipped.setdefault(stage, f"no checkpoint of this lineage: run python {SCRIPT_OF[stage]}")
    for manifest in sorted((run_dir / "models").glob("[!.]*/stage.json")):
        if not manifest.parent.is_symlink() and manifest.parent not in {c.path for c in found}:
            skipped[manifest.parent.name] = "its stage.json is damaged: run the stage that made it again with --force"
    return rows, skipped


def recipe(checkpoint: Checkpoint, found: dict[str, Checkpoint]) -> str:
    """What made a checkpoint and its ancestors, but for their seeds: a hash. `found` are checkpoints by key."""
    parents = [recipe(found[p["key"]], found) if p["key"] in found else p["key"] for p in checkpoint.manifest["parents"]]
    asked = {name: value for name, value in checkpoint.manifest["args"].items() if name != "seed"}
    return sha256_json([checkpoint.stage, checkpoint.variant, asked, checkpoint.manifest["dataset"]["sha256"], parents])


def line(checkpoint: Checkpoint, found: list[Checkpoint]) -> list[Checkpoint]:
    """A checkpoint and all of `found` that it was made from, each once; what isn't there any more is left out."""
    by_key = {c.key: c for c in found}
    chain, waiting = {}, [checkpoint]
    while waiting:
        at = waiting.pop()
        chain[at.key] = at
        waiting += [by_key[p["key"]] for p in at.manifest["parents"] if p["key"] in by_key]
    return list(chain.values())


def told(checkpoints: list[Checkpoint], found: list[Checkpoint], run_dir: Path) -> list[dict]:
    """For a report: what these checkpoints and all that they were made from are, oldest first, and what from, by their keys."""
    whole = {c.key: c for checkpoint in checkpoints for c in line(checkpoint, found)}
    return [{"key": c.key, "stage": c.stage, "variant": c.variant, "path": Path(os.path.relpath(c.path, run_dir)).as_posix(),
             "seed": c.manifest["seed"], "created": c.created.isoformat(timespec="seconds"), "wall_s": c.manifest["wall_s"],
             "commit": c.manifest["code"].get("commit"), "parents": [parent["key"] for parent in c.manifest["parents"]]}
            for c in sorted(whole.values(), key=lambda c: (c.created, c.path.name))]


def of_other_seeds(checkpoint: Checkpoint, found: list[Checkpoint]) -> list[Checkpoint]:
    """Of `found` (newest first) the newest of each other seed that was made as `checkpoint` was, by seed."""
    by_key = {c.key: c for c in found}
    wanted = recipe(checkpoint, by_key)
    others: dict[int, Checkpoint] = {}
    for other in found:
        if other.stage == checkpoint.stage and other.manifest["seed"] != checkpoint.manifest["seed"] and recipe(other, by_key) == wanted:
            others.setdefault(other.manifest["seed"], other)
    return [others[seed] for seed in sorted(others)]

"""Checkpoints that stages have published: `stage.json` read, files verified, and the one found that a flag or a parent's key names.

`common/publishing.py` writes them, `common/opening.py` opens what is in them.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from common import provenance
from common.cli import UserError, warn
from common.facts import a_number, a_time, has_form, is_sealed, read_json, sha256_file
from common.texts.labels import listed

SCHEMA = 2  # since 2 a manifest holds its own hash; those of 1 are still read
IN_THE_BOX = provenance.REPOSITORY / "pretrained"  # models that came with the code: no stage on this machine made them
AHEAD = timedelta(minutes=5)  # that another machine's clock may be
MANIFEST = {  # the form of what is read of one
    "schema": a_number, "stage": str, "variant": str, "created": a_time, "key": str, "args": dict, "seed": a_number,
    "metrics": dict, "code": dict, "wall_s": a_number, "parents": [{"stage": str, "key": str}],
    "files": {str: {"bytes": a_number, "sha256": str}}, "dataset": {"name": str, "source": str, "sha256": (str, None)}}
SCRIPT_OF = {
    "teacher": "5_finetune_teacher.py",
    "lessons": "make_lessons.py",
    "distilled": "6_distill_student.py",
    "pruned": "8_pruning_with_finetuning.py",
    "distilled_ptq": "9_quantize_pruned_model.py",
    "pruned_ptq": "9_quantize_pruned_model.py",
    "pruned_qkd": "10_qat_kd_4bit.py",
}
TABLE = "soft_labels"  # the model_type of a teacher that is a file of answers
PRUNABLE = ("teacher", "distilled", "pruned")  # stages whose models are of full weights, and have heads and neurons to cut


@dataclass(frozen=True)
class Checkpoint:
    """A published directory and its manifest."""

    path: Path
    manifest: dict

    @property
    def stage(self) -> str:
        return self.manifest["stage"]

    @property
    def key(self) -> str:
        """`<hash of what was asked for>-<hash of what came of it>`."""
        return self.manifest["key"]

    @property
    def asked_key(self) -> str:
        return self.key.split("-")[0]

    @property
    def variant(self) -> str:
        return self.manifest["variant"]

    @property
    def created(self) -> datetime:
        """When it was published. Manifests of earlier code name no time zone: theirs is this machine's."""
        return datetime.fromisoformat(self.manifest["created"]).astimezone(UTC)

    @property
    def validation(self) -> float | None:
        """Its score on the held-out sentences, by its task's metric; None where it wasn't scored."""
        return validation(self.manifest["metrics"])

    def parent_key(self, stage: str) -> str | None:
        return next((p["key"] for p in self.manifest["parents"] if p["stage"] == stage), None)


def validation(metrics: dict) -> float | None:
    """The score on the held-out sentences in a manifest's metrics; None where there is none."""
    return next((score for name, score in metrics.items() if name.startswith("validation_")), None)


def read(path: Path) -> Checkpoint:
    """Reads `stage.json` under `path`. Raises UserError where it is missing or damaged."""
    path = Path(path)
    manifest_path = path / "stage.json"
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}: give a directory that a stage has published (models/…)")
    if not manifest_path.is_file():
        raise UserError(f"{path} holds no stage.json, so it is no published checkpoint: give one of models/…")
    manifest = read_json(manifest_path)
    if not (has_form(manifest, MANIFEST) and (manifest["schema"] == 1 or is_sealed(manifest))):
        raise UserError(f"{manifest_path} is damaged: {remedy(path)}")
    return Checkpoint(path, manifest)


def remedy(checkpoint: Path) -> str:
    """What to do about a published directory that isn't whole."""
    if checkpoint.resolve().is_relative_to(IN_THE_BOX):
        return f"delete {IN_THE_BOX.name}/ and fetch it again (git checkout -- {IN_THE_BOX.name})"
    return "run the stage that made it again with --force"


def verify(path: Path) -> Checkpoint:
    """Reads a checkpoint and compares every file's size and sha256 with its manifest."""
    checkpoint = read(path)
    for name, facts in checkpoint.manifest["files"].items():
        file = checkpoint.path / name
        if not file.is_file():
            raise UserError(f"{file} is missing: {remedy(checkpoint.path)}")
        if file.stat().st_size != facts["bytes"] or sha256_file(file) != facts["sha256"]:
            how = "its line ends were rewritten, as git does where core.autocrlf is set" if _with_other_line_ends(file, facts) \
                else "its hash is not the one in stage.json"
            raise UserError(f"{file} is damaged ({how}): {remedy(checkpoint.path)}")
    heads = read_json(checkpoint.path / "config.json").get("heads")
    if isinstance(heads, list) and not any(heads):  # as earlier code let it
        raise UserError(f"{checkpoint.path} has no head left, so it gives one answer to all texts: prune less")
    return checkpoint


def _with_other_line_ends(file: Path, facts: dict) -> bool:
    """Whether a text file is as its manifest says but for line ends of Windows."""
    if file.suffix not in (".json", ".txt", ".py"):
        return False
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest() == facts["sha256"]


def published(run_dir: Path) -> list[Checkpoint]:
    """Every readable checkpoint of a run, newest first; those dated in the future, which is said, behind all others."""
    found = []
    for manifest_path in (Path(run_dir) / "models").glob("[!.]*/stage.json"):
        if manifest_path.parent.is_symlink():
            continue
        try:
            found.append(read(manifest_path.parent))
        except UserError as error:
            warn(f"skipped: {error}")
    latest = datetime.now(UTC) + AHEAD
    for checkpoint in found:
        if checkpoint.created > latest:
            _warn_of_the_future(checkpoint.path, checkpoint.created)
    return sorted(found, key=lambda c: (c.created <= latest, c.created, c.path.name), reverse=True)


@cache  # once a process
def _warn_of_the_future(path: Path, created: datetime) -> None:
    warn(f"{path} is dated in the future ({created:%Y-%m-%d %H:%M} UTC): until then it counts as the oldest; look at this machine's "
         "clock and time zone, or run its stage again with --force")


def find(run_dir: Path, stage: str, named: Path | None = None, variant: str | None = None, seed: int | None = None) -> Checkpoint:
    """The checkpoint named by a flag, else the newest whole one of `stage` and of a variant; verified. Those of `seed` come first.

    Raises UserError where there is none (naming the script to run), or where the named one is of another stage or variant.
    """
    if named is not None:
        checkpoint = verify(named)
        if checkpoint.stage != stage:
            raise UserError(f"{named} was made by the stage '{checkpoint.stage}', not '{stage}': give one made by {SCRIPT_OF[stage]}")
        same_variant(checkpoint, variant)
        return checkpoint
    made = [c for c in published(run_dir) if c.stage == stage and variant in (None, c.variant)]
    if made:
        return verify(min(made, key=lambda c: c.manifest["seed"] != seed).path)  # of equals, the first: the newest
    wanted = f" of variant '{variant}'" if variant else ""
    raise UserError(f"no {stage} checkpoint{wanted} under {Path(run_dir) / 'models'}: run python {SCRIPT_OF[stage]} first")


def parent(run_dir: Path, child: Checkpoint, stage: str, named: Path | None = None, flag: str | None = None) -> Checkpoint:
    """The `stage` checkpoint that `child` was made from, or the one `named` by `flag`; verified. Raises UserError where it is gone."""
    if named is not None:
        return find(run_dir, stage, named)
    key = child.parent_key(stage)
    for checkpoint in published(run_dir):
        if checkpoint.key == key:
            return verify(checkpoint.path)
    for made_from in child.manifest["parents"]:  # of another run, where a flag named it: its path starts in the child's own
        path = child.path.resolve().parent.parent / str(made_from.get("path", ""))
        if made_from["stage"] == stage and (path / "stage.json").is_file() and read(path).key == key:
            return verify(path)
    raise UserError(f"the {stage} checkpoint that {child.path} was made from is not under {Path(run_dir) / 'models'}: put it back" +
                    (f", or name one with {flag}" if flag else ""))


def meant(run_dir: Path, text: str, seed: int) -> Checkpoint:
    """What people call "teacher", "student", by a directory, or by the name of a pruned model, which then is of this very seed; verified.

    Raises UserError where there is none, and for a directory of another stage.
    """
    if text in ("teacher", "student"):
        return find(run_dir, "teacher" if text == "teacher" else "distilled", variant="published", seed=seed)
    if Path(text).is_dir() or len(Path(text).parts) > 1:
        checkpoint = verify(Path(text))
        if checkpoint.stage not in PRUNABLE:
            raise UserError(f"{text} was made by the stage '{checkpoint.stage}': give one made by "
                            f"{', '.join(SCRIPT_OF[stage] for stage in PRUNABLE)}")
        return checkpoint
    names = sorted({c.variant for c in published(run_dir) if c.stage == "pruned"})
    if text not in names:
        known = f"those here are {', '.join(names)}" if names else "here is none yet"
        raise UserError(f"no '{text}' under {Path(run_dir) / 'models'}: give teacher, student, a checkpoint's directory or the name of a "
                        f"pruned model; {known}")
    checkpoint = find(run_dir, "pruned", variant=text, seed=seed)
    if checkpoint.manifest["seed"] != seed:
        raise UserError(f"no '{text}' of seed {seed} under {Path(run_dir) / 'models'}: make it first, or give --seed "
                        f"{checkpoint.manifest['seed']}")
    return checkpoint


def same_variant(checkpoint: Checkpoint, asked: str | None) -> None:
    """Refuses a checkpoint that a flag names for one of the variant that another flag names."""
    if asked not in (None, checkpoint.variant):
        raise UserError(f"{checkpoint.path} is of the variant '{checkpoint.variant}', not '{asked}': leave one of the two flags out")


def same_seed(checkpoint: Checkpoint, asked: int | None) -> None:
    """Refuses to take a checkpoint of another seed for one of the seed `asked` for: what is made of it without training is of its seed."""
    theirs = checkpoint.manifest["seed"]
    if asked not in (None, theirs):
        raise UserError(f"{checkpoint.path} is of seed {theirs}, not {asked}: make one of seed {asked} first, or give --seed {theirs}")


def same_data(checkpoint: Checkpoint, dataset: dict) -> None:
    """Refuses to mix data sets: a model made from one is not trained or judged on another."""
    theirs = checkpoint.manifest["dataset"]
    if theirs["sha256"] not in (None, dataset["sha256"]):
        raise UserError(
            f"{checkpoint.path} was made from {theirs['name']} ({theirs['source']}), the data here are {dataset['name']} "
            f"({dataset['source']}), and {difference(theirs, dataset)}: name the same data with --data or --source, or use another "
            "--run-dir")


def difference(theirs: dict, dataset: dict) -> str:
    """What differs between the data in a manifest and those here: label names, numbers of sentences, or the sentences themselves."""
    said = []
    names, ours = (list(facts.get("support") or ()) for facts in (theirs, dataset))  # older manifests have none, and no hashes of parts
    hashes, now_hashes = (facts.get("parts_sha256") or {} for facts in (theirs, dataset))
    if names and ours and names != ours:
        said.append(f"its labels were {listed(names)}, these are {listed(ours)}")
    for part, called in (("train", "training"), ("validation", "held-out"), ("dev", "dev")):
        before, now = theirs.get(part), dataset.get(part)
        if before != now:
            said.append(f"it had {before} {called} sentences, here are {now}")
        elif part in hashes and part in now_hashes and hashes[part] != now_hashes[part]:
            said.append(f"as many {called} sentences, but others or with other labels")
    return "; ".join(said) or "as many sentences, but others, or other labels or names of these"


def is_a_table(path: Path) -> bool:
    """Whether a teacher's directory holds the answers of a file, and no model."""
    return read_json(path / "config.json").get("model_type") == TABLE

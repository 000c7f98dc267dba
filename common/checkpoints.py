"""A stage's directory: begin, resume, publish, find the newest whole one, verify, read `stage.json`.

A stage writes under `models/.partial_<prefix>_<key>/`, flushes, and renames: a reader sees a whole checkpoint or none.
What was asked for, hashed over everything that decides the result, names both: the same command finds its own half-done or finished work
again. The published `key` holds what came of it too: what is made from a checkpoint is not taken for made from another try of the same.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from common import distributed, provenance
from common.cli import UserError, say, trusts_code, warn
from common.facts import a_number, a_time, has_form, is_sealed, read_json, sealed, sha256_file, sha256_json
from common.texts.labels import listed

SCHEMA = 2  # since 2 a manifest holds its own hash; those of 1 are still read
IN_THE_BOX = provenance.REPOSITORY / "pretrained"  # models that came with the code: no stage on this machine made them
AHEAD = timedelta(minutes=5)  # that another machine's clock may be
# Flags that aren't part of the key, each with why the result can't differ by it while the key stays the same.
NOT_IN_KEY = {
    "run_dir": "where the result is put",
    "force": "makes the same again",
    **dict.fromkeys(("data_dir", "source", "text_column", "pair_column", "label_column", "task"),
                    "the fingerprint of the data they lead to is"),
    "trust_remote_code": "the hash of the code that it lets run is",
    **dict.fromkeys(("teacher", "lessons", "student", "pruned", "checkpoint", "start", "structure_of", "from_pruned"),
                    "the keys of the parents they choose are"),
    **dict.fromkeys(("model", "init", "soft_labels", "unlabelled"), "the identity of the files they lead to is"),
    "recipe": "the values that it stands for and the keys of its lessons are",
    **dict.fromkeys(("variant", "name"), "the name that they give the result is"),
    "mode": "says --fast again, which is, with the values it stands for",
    "precision": "the name of the stage says it",
    "n_seeds": "each seed is a result of its own, and that is",
}
MODEL_INPUTS = ["input_ids", "attention_mask"]
TYPES = "token_type_ids"
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
# What a disk answers that hasn't a lock, or doesn't flush.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
_locks: dict[Path, Any] = {}  # of the directories that are this process's own


# --- reading

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
        return find(run_dir, "teacher" if text == "teacher" else "distilled", seed=seed)
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


def load_model(path: Path):
    """A verified checkpoint as a torch model in evaluation mode."""
    verify(path)
    return open_model(path)


def open_model(path: Path, **how):
    """A model's directory, published or not, as a torch model in evaluation mode; `how` goes to `from_pretrained`.

    Code that came with a teacher runs where a flag says so, and if it ran when the teacher was registered. Raises UserError where it is
    needed and no flag says so.
    """
    import compact

    brings_code = "code" in read_json(path / "stage.json").get("args", {})
    if brings_code and not trusts_code():
        raise UserError(f"{path} takes code that came with the model: give --trust-remote-code here too if you trust it")
    return compact.load(path, trust_remote_code=brings_code, **how).eval()


def load_tokenizer(path: Path):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    tokenizer.truncation_side = "right"  # as `inference` cuts; of earlier code some say otherwise
    return tokenizer


def give_inputs(tokenizer, types: bool) -> None:
    """Settles what a tokenizer gives here and wherever it is opened again; with `types` they tell the two texts of a pair apart.

    Of single texts all types are 0, which a model takes where it is given none.
    """
    tokenizer.model_input_names = [*MODEL_INPUTS, *([TYPES] if types else [])]


def gives_types(tokenizer) -> bool:
    """Whether a tokenizer was told to tell the texts of a pair apart."""
    return TYPES in tokenizer.model_input_names


def save_tokenizer(tokenizer, folder: Path, max_length: int) -> None:
    """Saves a fast tokenizer that cuts texts where training did, and gives what the models take, as `give_inputs` said."""
    tokenizer.model_max_length = max_length
    tokenizer.init_kwargs |= {"model_input_names": tokenizer.model_input_names, "max_length": max_length}  # what is saved
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(max_length)  # for who opens tokenizer.json alone
    tokenizer.save_pretrained(folder)


# --- writing

@dataclass
class Stage:
    """A stage at work: `dir` is its partial directory, unless `done` already stands."""

    name: str
    prefix: str
    variant: str
    run_dir: Path
    key: str
    asked: dict
    parents: list[Checkpoint]
    dataset: dict
    seed: int
    mode: str
    link: str | None
    done: Checkpoint | None = None
    metrics: dict = field(default_factory=dict)
    earlier_s: float = 0.0
    started: float = field(default_factory=time.monotonic)
    code: dict = field(default_factory=lambda: provenance.code_identity())  # as it stands at the start: files may be edited meanwhile

    @property
    def dir(self) -> Path:
        """Where this process writes what is published; of several each its own, of which the first one's counts."""
        return self.shared_dir if distributed.is_first() else self.shared_dir.with_name(f"{self.shared_dir.name}_{distributed.RANK}")

    @property
    def shared_dir(self) -> Path:
        return self.run_dir / "models" / f".partial_{self.prefix}_{self.key}"

    @property
    def validation(self) -> float | None:
        """The score that `metrics` note, on the held-out sentences."""
        return validation(self.metrics)

    def work(self, name: str) -> Path:
        """A directory for what resuming needs; it goes at publishing."""
        path = self.shared_dir / f"work_{name}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def wall_s(self) -> float:
        """Seconds spent on this stage, those of earlier tries included as far as their step checkpoints go."""
        return self.earlier_s + time.monotonic() - self.started

    def keep_time(self) -> None:
        fresh = self.dir / "work_wall_s.new"
        fresh.write_text(f"{self.wall_s():.1f}", encoding="utf-8")
        os.replace(fresh, self.dir / "work_wall_s")  # a kill in mid-write would leave an empty one

    def publish(self) -> Path:
        """Writes `stage.json`, flushes all files and renames the partial directory. Returns the published path.

        Of several processes the first does so. The lock is held until a reader sees the whole checkpoint.
        """
        target = distributed.by_the_first(self._publish)
        if distributed.is_first():
            _give_back(self.shared_dir)
        for copy in self.shared_dir.parent.glob(f"{self.shared_dir.name}_*"):
            shutil.rmtree(copy, ignore_errors=True)
        return target

    def _publish(self) -> Path:
        for leftover in self.dir.glob("work_*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        files = {p.relative_to(self.dir).as_posix(): p for p in sorted(self.dir.rglob("*")) if p.is_file() and p.name != "stage.json"}
        hashes = {name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for name, p in files.items()}
        now = datetime.now(UTC)
        manifest = {
            "schema": SCHEMA,
            "stage": self.name,
            "variant": self.variant,
            "created": now.isoformat(timespec="microseconds"),
            "key": f"{self.key}-{_contents(hashes)}",
            "args": self.asked,
            "seed": self.seed,
            "mode": self.mode,
            "parents": [{"stage": p.stage, "key": p.key, "path": os.path.relpath(p.path, self.run_dir)} for p in self.parents],
            "dataset": self.dataset,
            "versions": provenance.versions(),
            "code": self.code,
            "cpu": provenance.cpu_name(),
            "gpu": provenance.gpu_name(),
            "files": hashes,
            "metrics": self.metrics,
            "wall_s": round(self.wall_s(), 1),
            "peak_rss_mb": provenance.peak_rss_mb(),
        }
        text = json.dumps(sealed(manifest), indent=1, ensure_ascii=False) + "\n"
        # A directory's name may hold bytes that are no text: written as JSON escapes them.
        (self.dir / "stage.json").write_text(text, encoding="utf-8", errors="backslashreplace")
        for path in [*files.values(), self.dir / "stage.json", self.dir]:
            _flush(path)
        target = _unique(self.run_dir / "models", f"{self.prefix}_{now:%Y%m%d_%H%M%S}")
        os.rename(self.dir, target)
        _flush(target.parent)
        if self.link:
            point(self.run_dir / self.link, target)
        say(f"published {target}")
        return target


def begin(args, name: str, prefix: str, dataset: dict, parents: list[Checkpoint], *,
          variant: str = "published", link: str | None = None, decides: dict | None = None) -> Stage:
    """Opens a stage: finds its finished result (`stage.done`), or its half-done directory, or makes a new one.

    `args` are the resolved flags; those in NOT_IN_KEY place a run and don't decide its result. `decides` adds what
    the flags don't show (the hash of a foreign model, say).
    """
    distributed.join()
    asked = {k: str(v) if isinstance(v, Path) else v for k, v in sorted(vars(args).items()) if k not in NOT_IN_KEY}
    asked |= ({"variant": variant} if hasattr(args, "variant") else {}) | (decides or {})
    asked |= {"processes": distributed.WORLD} if distributed.WORLD > 1 else {}  # sums in another order
    key = sha256_json({"stage": name, "asked": asked, "parents": [p.key for p in parents], "data": dataset["sha256"]})[:16]
    stage = Stage(name, prefix, variant, args.run_dir, key, asked, parents, dataset, args.seed, args.mode, link)

    def finished() -> Checkpoint | None:
        return None if args.force else next((c for c in published(args.run_dir) if c.asked_key == key), None)

    def finished_or_claimed() -> Checkpoint | None:
        if done := finished():
            return done
        again = stage.dir.exists()
        _claim(stage.dir)
        if done := finished():  # another process has published it since we looked
            stage.dir.rmdir()
            _give_back(stage.dir)
        elif again:
            say(f"continuing {stage.dir}")
        return done

    stage.done = distributed.by_the_first(finished_or_claimed)
    if stage.done is None:
        if not distributed.is_first():
            shutil.rmtree(stage.dir, ignore_errors=True)
            stage.dir.mkdir(parents=True)
        distributed.wait()
    else:
        verify(stage.done.path)
        older = stage.done.manifest["code"]["sha256"] != provenance.code_identity()["sha256"]
        say(f"up to date: {stage.done.path}" + (" (made by older code; --force redoes it)" if older else ""))
        if link:
            point(args.run_dir / link, stage.done.path)
    if (stage.dir / "work_wall_s").is_file():
        stage.earlier_s = float((stage.dir / "work_wall_s").read_text(encoding="utf-8"))
    return stage


def _claim(folder: Path) -> None:
    """Makes a stage's directory this process's own until it publishes or ends, however it ends.

    The lock lies beside the directory, which is renamed under it. Raises UserError while another process works there.
    """
    import filelock

    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.absolute() not in _locks:  # else it is ours since an earlier try
        lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"), blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UserError(f"another process is at work in {folder}: wait for it, or stop it; the same command then goes on") from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            warn(f"{folder.parent} takes no locks ({error.strerror}): don't start this command there a second time before it ends")
        _locks[folder.absolute()] = lock
    folder.mkdir(exist_ok=True)


def _give_back(folder: Path) -> None:
    """Ends the claim to a directory, with its file: who waits for one that is gone looks again."""
    lock = _locks.pop(folder.absolute())
    with contextlib.suppress(OSError):  # Windows removes no file that is open, and it does no harm there
        Path(lock.lock_file).unlink()
    lock.release()


def point(link: Path, target: Path) -> None:
    """Moves a symbolic link to `target` atomically. A warning where there can be none: nothing but the name is missing then."""
    fresh = link.with_name(f".{link.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
        os.replace(fresh, link)
    except (OSError, NotImplementedError) as error:  # Windows without the right to, a disk of FAT, a directory of that name
        with contextlib.suppress(OSError):
            fresh.unlink()
        why = getattr(error, "strerror", None) or error
        warn(f"{link} can't be made a link to {target} ({why}): name that path itself where it is asked for")


def _contents(hashes: dict[str, dict]) -> str:
    """What a checkpoint is, in 8 hex digits: all of its files but the training curve, which holds times."""
    return sha256_json({name: facts["sha256"] for name, facts in hashes.items() if name != "training_log.json"})[:8]


def _unique(folder: Path, name: str) -> Path:
    path, n = folder / name, 2
    while path.exists():
        path, n = folder / f"{name}_{n}", n + 1
    return path


def _flush(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return  # opened there are files alone
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:  # of a directory on some network's disks
            raise
    finally:
        os.close(handle)

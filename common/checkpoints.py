"""A stage's directory: begin, resume, publish, find the newest whole one, verify, read `stage.json`.

A stage writes under `models/.partial_<prefix>_<key>/`, flushes, and renames: a reader sees a whole checkpoint or none.
What was asked for, hashed over everything that decides the result, names both: the same command finds its own half-done or finished work
again. The published `key` holds what came of it too: what is made from a checkpoint is not taken for made from another try of the same.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from common import distributed
from common.cli import UserError, say, warn
from common.facts import a_number, has_form, is_sealed, read_json, sealed, sha256_file, sha256_json
from common.labels import listed

SCHEMA = 2  # since 2 a manifest holds its own hash; those of 1 are still read
REPOSITORY = Path(__file__).resolve().parent.parent
# What places a run rather than decides its result: not part of the key.
NOT_IN_KEY = {"run_dir", "data_dir", "source", "force", "teacher", "student", "pruned", "checkpoint", "model", "init",
              "mode", "variant", "name", "after", "max_accuracy_drop", "n_seeds"}
MODEL_INPUTS = ["input_ids", "attention_mask"]
MANIFEST = {  # the form of what is read of one
    "schema": a_number, "stage": str, "variant": str, "created": str, "key": str, "args": dict, "seed": a_number,
    "metrics": dict, "code": dict, "wall_s": a_number, "parents": [{"stage": str, "key": str}],
    "files": {str: {"bytes": a_number, "sha256": str}}, "dataset": {"name": str, "source": str, "sha256": (str, None)}}
SCRIPT_OF = {
    "teacher": "5_finetune_teacher.py",
    "distilled": "6_distill_student.py",
    "pruned": "8_pruning_with_finetuning.py",
    "distilled_ptq": "9_quantize_pruned_model.py",
    "pruned_ptq": "9_quantize_pruned_model.py",
    "pruned_qkd": "10_qat_kd_4bit.py",
}


# --- facts about the code and this machine

def code_identity() -> dict[str, str | None]:
    """{commit, sha256}: the commit checked out (None outside git) and a hash over every Python file of the product."""
    digest = hashlib.sha256()
    files = [*REPOSITORY.glob("*.py"), *(p for name in ("common", "compress", "compact") for p in (REPOSITORY / name).glob("*.py"))]
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    commit = None
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        shown = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        commit = shown.stdout.strip() or None
    return {"commit": commit, "sha256": digest.hexdigest()}


def versions() -> dict[str, str]:
    names = ["torch", "transformers", "datasets", "bitsandbytes", "numpy", "onnx", "onnxruntime"]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def peak_rss_mb() -> float:
    """Largest resident memory of this program so far, in 10^6 bytes."""
    status = Path("/proc/self/status")  # on Linux ru_maxrss carries the parent's peak through fork and exec; VmHWM starts anew
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)  # macOS counts bytes


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

    def parent_key(self, stage: str) -> str | None:
        return next((p["key"] for p in self.manifest["parents"] if p["stage"] == stage), None)


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
        raise UserError(f"{manifest_path} is damaged: run the stage that made it again with --force")
    return Checkpoint(path, manifest)


def verify(path: Path) -> Checkpoint:
    """Reads a checkpoint and compares every file's size and sha256 with its manifest."""
    checkpoint = read(path)
    for name, facts in checkpoint.manifest["files"].items():
        file = checkpoint.path / name
        if not file.is_file():
            raise UserError(f"{file} is missing: run the stage that made it again with --force")
        if file.stat().st_size != facts["bytes"] or sha256_file(file) != facts["sha256"]:
            raise UserError(f"{file} is damaged (its hash is not the one in stage.json): run its stage again with --force")
    return checkpoint


def published(run_dir: Path) -> list[Checkpoint]:
    """Every readable checkpoint of a run, newest first."""
    found = []
    for manifest_path in (Path(run_dir) / "models").glob("[!.]*/stage.json"):
        if manifest_path.parent.is_symlink():
            continue
        try:
            found.append(read(manifest_path.parent))
        except UserError as error:
            warn(f"skipped: {error}")
    return sorted(found, key=lambda c: (c.manifest["created"], c.path.name), reverse=True)


def find(run_dir: Path, stage: str, named: Path | None = None, variant: str | None = None, seed: int | None = None) -> Checkpoint:
    """The checkpoint named by a flag, else the newest whole one of `stage` and of a variant; verified. Those of `seed` come first.

    Raises UserError where there is none (naming the script to run), or where the named one is of another stage.
    """
    if named is not None:
        checkpoint = verify(named)
        if checkpoint.stage != stage:
            raise UserError(f"{named} was made by the stage '{checkpoint.stage}', not '{stage}': give one made by {SCRIPT_OF[stage]}")
        return checkpoint
    made = [c for c in published(run_dir) if c.stage == stage and variant in (None, c.variant)]
    if made:
        return verify(min(made, key=lambda c: c.manifest["seed"] != seed).path)  # of equals, the first: the newest
    wanted = f" of variant '{variant}'" if variant else ""
    raise UserError(f"no {stage} checkpoint{wanted} under {Path(run_dir) / 'models'}: run python {SCRIPT_OF[stage]} first")


def parent(run_dir: Path, child: Checkpoint, stage: str, named: Path | None = None) -> Checkpoint:
    """The `stage` checkpoint that `child` was made from, or the one named by a flag; verified. Raises UserError where it is gone."""
    if named is not None:
        return find(run_dir, stage, named)
    key = child.parent_key(stage)
    for checkpoint in published(run_dir):
        if checkpoint.key == key:
            return verify(checkpoint.path)
    raise UserError(f"the {stage} that {child.path} was made from is not under {Path(run_dir) / 'models'}: name it with --{stage}")


def same_data(checkpoint: Checkpoint, dataset: dict) -> None:
    """Refuses to mix data sets: a model made from one is not trained or judged on another."""
    theirs = checkpoint.manifest["dataset"]
    if theirs["sha256"] not in (None, dataset["sha256"]):
        raise UserError(
            f"{checkpoint.path} was made from {theirs['name']} ({theirs['source']}), the data here are {dataset['name']} "
            f"({dataset['source']}), and {difference(theirs, dataset)}: name the same data with --data-dir or --source, or use another "
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


def load_model(path: Path):
    """A verified checkpoint as a torch model in evaluation mode."""
    import compact

    verify(path)
    return compact.load(path).eval()


def load_tokenizer(path: Path):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def save_tokenizer(tokenizer, folder: Path, max_length: int) -> None:
    """Saves a fast tokenizer that cuts texts where training did, and gives what the models take.

    Token types aren't among it, a BERT's neither: of single texts all are 0, which it takes where it is given none.
    """
    tokenizer.model_max_length = max_length
    tokenizer.model_input_names = MODEL_INPUTS
    tokenizer.init_kwargs |= {"model_input_names": MODEL_INPUTS, "max_length": max_length}  # what is saved
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
    code: dict = field(default_factory=lambda: code_identity())  # as it stands at the start: files may be edited meanwhile

    @property
    def dir(self) -> Path:
        """Where this process writes what is published; of several each its own, of which the first one's counts."""
        return self.shared_dir if distributed.is_first() else self.shared_dir.with_name(f"{self.shared_dir.name}_{distributed.RANK}")

    @property
    def shared_dir(self) -> Path:
        return self.run_dir / "models" / f".partial_{self.prefix}_{self.key}"

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
        fresh.write_text(f"{self.wall_s():.1f}")
        os.replace(fresh, self.dir / "work_wall_s")  # a kill in mid-write would leave an empty one

    def publish(self) -> Path:
        """Writes `stage.json`, flushes all files and renames the partial directory. Returns the published path.

        Of several processes the first does so.
        """
        target = distributed.by_the_first(self._publish)
        for copy in self.shared_dir.parent.glob(f"{self.shared_dir.name}_*"):
            shutil.rmtree(copy, ignore_errors=True)
        return target

    def _publish(self) -> Path:
        for leftover in self.dir.glob("work_*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        files = {p.relative_to(self.dir).as_posix(): p for p in sorted(self.dir.rglob("*")) if p.is_file() and p.name != "stage.json"}
        hashes = {name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for name, p in files.items()}
        now = datetime.now()
        manifest = {
            "schema": SCHEMA,
            "stage": self.name,
            "variant": self.variant,
            "created": now.strftime("%Y-%m-%dT%H:%M:%S.%f"),
            "key": f"{self.key}-{_contents(hashes)}",
            "args": self.asked,
            "seed": self.seed,
            "mode": self.mode,
            "parents": [{"stage": p.stage, "key": p.key, "path": os.path.relpath(p.path, self.run_dir)} for p in self.parents],
            "dataset": self.dataset,
            "versions": versions(),
            "code": self.code,
            "cpu": cpu_name(),
            "gpu": gpu_name(),
            "files": hashes,
            "metrics": self.metrics,
            "wall_s": round(self.wall_s(), 1),
            "peak_rss_mb": peak_rss_mb(),
        }
        (self.dir / "stage.json").write_text(json.dumps(sealed(manifest), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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
    if not args.force:
        stage.done = next((c for c in published(args.run_dir) if c.asked_key == key), None)
    if stage.done is None:
        if distributed.is_first():
            again = stage.dir.exists()
            _claim(stage.dir)
            if again:
                say(f"continuing {stage.dir}")
        else:
            shutil.rmtree(stage.dir, ignore_errors=True)
            stage.dir.mkdir(parents=True)
        distributed.wait()
    else:
        verify(stage.done.path)
        older = stage.done.manifest["code"]["sha256"] != code_identity()["sha256"]
        say(f"up to date: {stage.done.path}" + (" (made by older code; --force redoes it)" if older else ""))
        if link:
            point(args.run_dir / link, stage.done.path)
    if (stage.dir / "work_wall_s").is_file():
        stage.earlier_s = float((stage.dir / "work_wall_s").read_text())
    return stage


def _claim(folder: Path) -> None:
    """Makes a stage's directory this process's own until it ends, however it ends. Raises UserError while another works there."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "work_lock", os.O_WRONLY | os.O_CREAT)  # never closed: that would give it up
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UserError(f"another process is at work in {folder}: wait for it, or stop it; the same command then goes on") from None


def point(link: Path, target: Path) -> None:
    """Moves a symbolic link to `target` atomically."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    os.replace(fresh, link)


def _contents(hashes: dict[str, dict]) -> str:
    """What a checkpoint is, in 8 hex digits: all of its files but the training curve, which holds times."""
    return sha256_json({name: facts["sha256"] for name, facts in hashes.items() if name != "training_log.json"})[:8]


def _unique(folder: Path, name: str) -> Path:
    path, n = folder / name, 2
    while path.exists():
        path, n = folder / f"{name}_{n}", n + 1
    return path


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

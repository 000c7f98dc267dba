"""A stage at work: its directory, begun, resumed where it stopped, and published as one whole.

A stage writes under `models/.partial_<prefix>_<key>/`, flushes, and renames: a reader sees a whole checkpoint or none.
What was asked for, hashed over everything that decides the result, names both: the same command finds its own half-done or finished work
again. The published `key` holds what came of it too: what is made from a checkpoint is not taken for made from another try of the same.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import card, cores, distributed, provenance
from common.checkpoints import SCHEMA, TABLE, Checkpoint, published, validation, verify
from common.cli import UserError, say, warn
from common.facts import read_json, sealed, sha256_file, sha256_json

# Flags that aren't part of the key, each with why the result can't differ by it while the key stays the same.
NOT_IN_KEY = {
    "run_dir": "where the result is put",
    "force": "makes the same again",
    "report_to": "curves are looked at, and nothing goes by them",
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
    **dict.fromkeys(("demo", "push_to_hub"), "they are made of the result"),
    "n_seeds": "each seed is a result of its own, and that is",
}
# What a disk answers that hasn't a lock, or doesn't flush.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
_locks: dict[Path, Any] = {}  # of the directories that are this process's own


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
    origin: dict | None = None  # as `sources.origin` says it of what the stage, or the first of its parents, began with
    usage: str | None = None  # Python for the card, where the library's own pipeline doesn't open what is made
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
            give_back(self.shared_dir)
        for copy in self.shared_dir.parent.glob(f"{self.shared_dir.name}_*"):
            shutil.rmtree(copy, ignore_errors=True)
        return target

    def _publish(self) -> Path:
        for leftover in self.dir.glob("work_*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        # Anyone may write on in a card: it isn't what the manifest vouches for.
        files = {p.relative_to(self.dir).as_posix(): p for p in sorted(self.dir.rglob("*"))
                 if p.is_file() and p.name not in ("stage.json", card.NAME)}
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
            "origin": self.origin,
            "dataset": self.dataset,
            "versions": provenance.versions(),
            "code": self.code,
            "cpu": provenance.cpu_name(),
            "cores": cores.usable(),
            "gpu": provenance.gpu_name(),
            "files": hashes,
            "metrics": self.metrics,
            "wall_s": round(self.wall_s(), 1),
            "peak_rss_mb": provenance.peak_rss_mb(),
        }
        text = json.dumps(sealed(manifest), indent=1, ensure_ascii=False) + "\n"
        # A directory's name may hold bytes that are no text: written as JSON escapes them.
        (self.dir / "stage.json").write_text(text, encoding="utf-8", errors="backslashreplace")
        config = read_json(self.dir / "config.json")
        if "id2label" in config and config.get("model_type") != TABLE:  # a model, neither lessons nor a table of answers
            (self.dir / card.NAME).write_text(card.of_checkpoint(manifest, config, self.usage), encoding="utf-8", errors="backslashreplace")
        for path in [p for p in self.dir.rglob("*") if p.is_file()] + [self.dir]:
            _flush(path)
        target = _unique(self.run_dir / "models", f"{self.prefix}_{now:%Y%m%d_%H%M%S}")
        os.rename(self.dir, target)
        _flush(target.parent)
        if self.link:
            point(self.run_dir / self.link, target)
        say(f"published {target}")
        return target


def begin(args, name: str, prefix: str, dataset: dict, parents: list[Checkpoint], *,
          variant: str = "published", link: str | None = None, decides: dict | None = None, origin: dict | None = None) -> Stage:
    """Opens a stage: finds its finished result (`stage.done`), or its half-done directory, or makes a new one.

    `args` are the resolved flags; those in NOT_IN_KEY place a run and don't decide its result. `decides` adds what
    the flags don't show (the hash of a foreign model, say). `origin` says where a model came from that the stage starts from, and isn't
    what its first parent was.
    """
    distributed.join()
    asked = {k: str(v) if isinstance(v, Path) else v for k, v in sorted(vars(args).items()) if k not in NOT_IN_KEY}
    asked |= ({"variant": variant} if hasattr(args, "variant") else {}) | (decides or {})
    asked |= {"processes": distributed.WORLD} if distributed.WORLD > 1 else {}  # sums in another order
    key = sha256_json({"stage": name, "asked": asked, "parents": [p.key for p in parents], "data": dataset["sha256"]})[:16]
    stage = Stage(name, prefix, variant, args.run_dir, key, asked, parents, dataset, args.seed, args.mode, link,
                  origin or next((p.manifest.get("origin") for p in parents[:1]), None))

    def finished() -> Checkpoint | None:
        return None if args.force else next((c for c in published(args.run_dir) if c.asked_key == key), None)

    def finished_or_claimed() -> Checkpoint | None:
        if done := finished():
            return done
        again = stage.dir.exists()
        claim(stage.dir)
        if done := finished():  # another process has published it since we looked
            stage.dir.rmdir()
            give_back(stage.dir)
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


def claim(folder: Path) -> None:
    """Makes a directory, a stage's as a rule, this process's own until it gives it back or ends, however it ends.

    The lock lies beside the directory, which is renamed under it. Raises UserError while another process works there.
    """
    import filelock

    folder = folder.absolute()  # "." has no name
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder not in _locks:  # else it is ours since an earlier try
        lock = filelock.FileLock(folder.parent / f"{folder.name}.lock", blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UserError(f"another process is at work in {folder}: wait for it, or stop it; the same command then goes on") from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            warn(f"{folder.parent} takes no locks ({error.strerror}): don't start this command there a second time before it ends")
        _locks[folder] = lock
    folder.mkdir(exist_ok=True)


def give_back(folder: Path) -> None:
    """Ends the claim to a directory, with its file: who waits for one that is gone looks again."""
    lock = _locks.pop(folder.absolute())
    with contextlib.suppress(OSError):  # Windows removes no file that is open, and it does no harm there
        Path(lock.lock_file).unlink()
    lock.release()


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A claim for as long as something is done. Directories that it made go again where nothing was written into them."""
    absent = [path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists()]
    claim(folder)
    try:
        yield
    finally:
        give_back(folder)
        for path in absent:
            with contextlib.suppress(OSError):  # it isn't empty
                path.rmdir()


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

"""What a run's models lose against the run's teacher, on held-out sentences: what --within goes by, and what is said in the end."""

import argparse
from pathlib import Path

import numpy as np

from common import checkpoints, data, lineage, sources
from common.checkpoints import Checkpoint
from common.cli import UserError
from common.facts import sha256_file
from report import before_after, claims

SHIPS = ("pruned_onnx_int8", "pruned_ptq_onnx_int8", "pruned_qkd_onnx_int8", "distilled_onnx_int8")  # the last where none of these is


class Judge:
    """Of a run directory and a seed; `margin` is the loss allowed, a share. `columns` are the data's, as flags name them."""

    def __init__(self, run_dir: Path, data_dir: Path | None, source: str, seed: int, margin: float, **columns: str | None):
        self.run_dir, self.seed, self.margin = run_dir, seed, margin
        self.corpus = data.load(argparse.Namespace(run_dir=run_dir, data_dir=data_dir, source=source, **columns))
        self.teacher = checkpoints.find(run_dir, "teacher", seed=seed)

    def refuse_another_teacher(self, start: str) -> None:
        """Raises UserError where the newest teacher of the run, from which stages go on, wasn't made from the model at `start`."""
        path, made = Path(start), self.teacher.manifest
        asked = sources.identity(path) if path.is_dir() else sha256_file(path)[:16] if path.is_file() else None
        other = made["args"].get("start") != asked if asked else (made.get("origin") or {}).get("name") not in (None, start)
        if other:
            raise UserError(f"{self.run_dir} has a newer teacher, made from another model than {start}: give another --run-dir")

    @property
    def before(self) -> Checkpoint:
        """What a file that ships is compared with: the teacher, or where that is a file of answers the student that learnt them whole."""
        if not checkpoints.is_a_table(self.teacher.path):
            return self.teacher
        return checkpoints.find(self.run_dir, "distilled", variant="published", seed=self.seed)

    def pruned(self, name: str) -> Checkpoint:
        """The model of that name, as it was pruned."""
        return checkpoints.find(self.run_dir, "pruned", variant=name, seed=self.seed)

    def shipped(self, name: str) -> Checkpoint:
        """The newest int8 file of that name."""
        made = [c for c in checkpoints.published(self.run_dir)
                if c.stage in SHIPS and c.variant == name and c.manifest["seed"] == self.seed]
        if not made:
            raise UserError(f"no int8 export of '{name}' and seed {self.seed} under {self.run_dir / 'models'}: run it again with --force")
        return min(made, key=lambda c: c.stage == SHIPS[-1])  # of equals, the first: the newest

    def claim(self, name: str) -> dict:
        """`claims.of_task` of the file of that name against the teacher."""
        ours, theirs = (before_after.answers(checkpoint, self.corpus, self.run_dir, "held_out")
                        for checkpoint in (self.shipped(name), self.before))
        return claims.of_task(self.corpus.task, [ours], [theirs], np.array(self.corpus.held_out.labels), self.margin)

    def seconds(self, names: list[str]) -> float:
        """What all stages took that the files of these names were made by, each once."""
        found = checkpoints.published(self.run_dir)
        stages = {c.key: c.manifest["wall_s"] for name in names for c in lineage.line(self.shipped(name), found)}
        return sum(stages.values())

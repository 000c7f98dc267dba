"""The teacher's hidden states over the labelled lessons, computed once and kept on disk, in parts of PART sentences; a batch's answers.

`models/.teacher_<key>/` is a part: hidden.npy (tokens of all sentences, layers, D) in half precision with offsets.npy (sentences + 1,):
0.7 GB a layer for SST-2 at 384 wide, read as a memory map.
A run that was killed loses a part at most, and one that asks for more sentences than the last pays for the new ones alone.
`hashes.json` tells whether a part is as it was written: a damaged one is computed again.
"""

import bisect
import json
import os
import shutil
from pathlib import Path

import numpy as np
import psutil
import torch

from common import distributed, tasks
from common.architectures.classifiers import load_config
from common.architectures.layout import hidden_layers_to_match
from common.checkpoints import Checkpoint
from common.cli import UserError, say, warn
from common.data import Collator, Split, tokenise
from common.facts import is_sealed, read_json, sealed, sha256_file, sha256_json
from common.opening import load_tokenizer
from common.texts.splits import Row
from training import precision
from training.lessons import PART, Lessons, ask

HASHES = "hashes.json"
UNLIKE = "own_vocabulary"  # a metric: true where a model reads other word pieces than its teacher, whose states then pair with none


class HiddenStates:
    """The teacher's hidden states after some of its layers, of the lessons that have a label; made-up ones have none."""

    def __init__(self, folders: list[Path], rows: np.ndarray):
        """`folders` are the parts, `rows` (S,) says which of their sentences each lesson is, -1 where it is none."""
        self.folders, self.rows = folders, rows
        self.offsets = [np.load(folder / "offsets.npy") for folder in folders]
        self.starts = np.cumsum([0, *(len(offsets) - 1 for offsets in self.offsets)])  # (parts + 1,)
        self.states = [np.load(folder / "hidden.npy", mmap_mode="r") for folder in folders]

    def of(self, index: int) -> np.ndarray:
        """(N, layers, D) in half precision of a lesson; of no tokens where none are kept."""
        row = self.rows[index]
        if row < 0:
            return self.states[0][:0]
        part = bisect.bisect_right(self.starts, row) - 1
        row -= self.starts[part]
        return self.states[part][self.offsets[part][row]:self.offsets[part][row + 1]]


class TeacherCollator(Collator):
    """Adds teacher_logits (B, K) and, where given, teacher_hidden (B, N, layers, D) to a batch of numbered lessons.

    `logits` (S, K) are those of all lessons. paired_mask (B, N) is 1 where a token has a hidden state of the teacher's.
    """

    def __init__(self, pad_token_id: int, logits: np.ndarray, hidden: HiddenStates | None = None):
        super().__init__(pad_token_id)
        self.logits, self.hidden = logits, hidden

    def __call__(self, rows: list[dict]) -> dict:
        batch = super().__call__(rows)
        if "index" not in batch:  # held-out sentences: nobody taught these
            return batch
        index = batch.pop("index").tolist()
        batch["teacher_logits"] = torch.from_numpy(self.logits[index])
        if self.hidden is not None:
            states = [self.hidden.of(i) for i in index]
            padded = np.zeros((len(index), batch["input_ids"].shape[1], *states[0].shape[1:]), dtype=np.float16)
            batch["paired_mask"] = batch["attention_mask"].clone()
            for row, state in enumerate(states):
                # A student of fewer word pieces spells some sentences in more of them: there no state has a partner.
                if len(state) == int(batch["attention_mask"][row].sum()):
                    padded[row, :len(state)] = state
                else:
                    batch["paired_mask"][row] = 0
            batch["teacher_hidden"] = torch.from_numpy(padded)
        return batch


def unlike(source: Checkpoint) -> dict[str, bool]:
    """What the manifest of a model's descendants says of its vocabulary; empty where it is its teacher's, or a part of that."""
    return {UNLIKE: True} if source.manifest["metrics"].get(UNLIKE) else {}


def paired_layers(source: Checkpoint, config, teacher: Checkpoint, hidden_weight: float) -> list[int] | None:
    """The teacher's layers that a model of this configuration learns from, one for each of its own; None where hidden states don't count.

    A model that was pruned goes on with those from which `source` learnt before whole layers were cut.
    """
    if hidden_weight and unlike(source):
        say(f"{source.path} reads other word pieces than its teacher: logits alone are distilled")
        return None
    known = source.manifest["metrics"].get("teacher_layers")
    if known and hidden_weight:
        return known[:config.n_layers]
    return hidden_layers_to_match(config, load_config(teacher.path), hidden_weight)


def hidden_states(lessons: Lessons, max_length: int, run_dir: Path, layers: list[int] | None,
                  matmul_precision: str = "highest") -> HiddenStates | None:
    """The teacher's hidden states of the labelled ones of `lessons`, after each of `layers` (1 = after the first layer).

    None where no layers are asked for, or no lesson is labelled. Keyed by teacher, what it is shown and in which precision, so a stage
    that asks for the same finds them. Raises UserError for a precision that this processor has no units for, and for states beyond
    half precision.
    """
    known = tasks.known(lessons.sentences.labels)
    labelled = np.flatnonzero(known)
    if not layers or not len(labelled):
        return None
    precision.check(matmul_precision)
    rows = np.full(len(known), -1)
    rows[labelled] = np.arange(len(labelled))
    rows_shown = lessons.sentences.chosen(labelled).rows
    with distributed.first_alone():
        return HiddenStates(_parts(lessons.teacher, rows_shown, max_length, run_dir, layers, matmul_precision), rows)


def _parts(teacher: Checkpoint, texts: list[Row], max_length: int, run_dir: Path, layers: list[int], matmul_precision: str) -> list[Path]:
    """Where the states stand; computed where they don't."""
    tokenizer = load_tokenizer(teacher.path)
    folders = []
    for start in range(0, len(texts), PART):
        part = texts[start:start + PART]
        shown = sha256_json([part, max_length, layers, matmul_precision])[:8]
        folder = run_dir / "models" / f".teacher_{teacher.key}_{shown}"
        if folder.is_dir() and (spoilt := damaged(folder)):
            warn(f"{spoilt} is damaged: computed again")
            shutil.rmtree(folder)
        if not folder.is_dir():
            _sweep(folder)
            fresh = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
            fresh.mkdir(parents=True)
            _compute(teacher, tokenise(tokenizer, Split.of(part, [0] * len(part)), max_length), tokenizer.pad_token_id, fresh, layers,
                     matmul_precision)
            hashes = sealed({"files": {file.name: sha256_file(file) for file in sorted(fresh.iterdir())}})
            (fresh / HASHES).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
            if folder.is_dir():
                shutil.rmtree(fresh)  # another run was faster; it says the same
            else:
                os.rename(fresh, folder)
                say(f"teacher's hidden states kept in {folder}")
        folders.append(folder)
    return folders


def _sweep(folder: Path) -> None:
    """Throws away what killed processes, or an earlier one of this one's number, had begun of a part."""
    for begun in folder.parent.glob(f"{folder.name}.*.partial"):
        process = int(begun.name.split(".")[-2])
        if process == os.getpid() or not psutil.pid_exists(process):
            shutil.rmtree(begun)


def damaged(folder: Path) -> Path | None:
    """The first file of a part that isn't as it was written; None where all are."""
    hashes = read_json(folder / HASHES)
    if not is_sealed(hashes):
        return folder / HASHES
    files = {folder / name: hash for name, hash in hashes["files"].items()}
    return next((file for file, hash in files.items() if not file.is_file() or sha256_file(file) != hash), None)


def _compute(teacher: Checkpoint, shown, pad_token_id: int, folder: Path, layers: list[int], matmul_precision: str) -> None:
    lengths = [len(ids) for ids in shown["input_ids"][:]]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    np.save(folder / "offsets.npy", offsets)
    shape = (int(offsets[-1]), len(layers), load_config(teacher.path).hidden_size)
    hidden = np.lib.format.open_memmap(folder / "hidden.npy", mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a disk that fills up under a memory map ends the process without a word
        with open(folder / "hidden.npy", "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, (folder / "hidden.npy").stat().st_size)
    for rows, out in ask(teacher, shown, pad_token_id, matmul_precision, hidden_states=True):
        states = torch.stack([out.hidden_states[layer] for layer in layers], dim=2).half().cpu().numpy()  # (B, N, layers, D)
        if not np.isfinite(states).all():
            raise UserError(f"{teacher.path} has hidden states beyond half precision (65,504), in which they are kept: "
                            "--hidden-weight 0 leaves them out")
        for row, i in enumerate(rows):
            hidden[offsets[i]:offsets[i + 1]] = states[row, :lengths[i]]
    hidden.flush()

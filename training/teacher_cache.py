"""The teacher's outputs over the training set, computed once and kept on disk, in parts of PART sentences.

`models/.teacher_<key>/` is a part: logits.npy (sentences, K) and, where a loss wants them, hidden.npy (tokens of all sentences,
layers, D) in half precision with offsets.npy (sentences + 1,): 0.7 GB a layer for SST-2 at 384 wide, read as a memory map.
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
from tqdm import tqdm

from common import distillation, distributed
from common.checkpoints import Checkpoint, load_model, load_tokenizer
from common.cli import UserError, say, warn
from common.data import Collator, Split, tokenise
from common.facts import is_sealed, read_json, sealed, sha256_file, sha256_json
from training import precision

BATCH = 128
PART = 50_000
HASHES = "hashes.json"


class TeacherOutputs:
    """What the teacher said of each training sentence, by the sentence's `index`."""

    def __init__(self, folders: list[Path]):
        self.folders = folders
        logits = [np.load(folder / "logits.npy") for folder in folders]
        self.logits = np.concatenate(logits)
        self.starts = np.cumsum([0, *map(len, logits)])  # (parts + 1,)
        self.offsets = [np.load(folder / "offsets.npy") for folder in folders]
        states = [folder / "hidden.npy" for folder in folders]
        self.hidden: list = [np.load(path, mmap_mode="r") if path.exists() else None for path in states]

    def joined(self, more: "TeacherOutputs") -> "TeacherOutputs":
        """These outputs and behind them another's, some of which may have no hidden states."""
        return TeacherOutputs(self.folders + more.folders)

    @property
    def has_hidden(self) -> bool:
        return self.hidden[0] is not None

    def hidden_states(self, index: int) -> np.ndarray:
        """(N, layers, D) in half precision; of no tokens where none are kept."""
        part = bisect.bisect_right(self.starts, index) - 1
        states, row = self.hidden[part], index - self.starts[part]
        if states is None:
            return self.hidden[0][:0]
        return states[self.offsets[part][row]:self.offsets[part][row + 1]]


class TeacherCollator(Collator):
    """Adds teacher_logits (B, K) and, where kept, teacher_hidden (B, N, layers, D) to a batch of numbered sentences.

    paired_mask (B, N) is 1 where a token has a hidden state of the teacher's.
    """

    def __init__(self, pad_token_id: int, outputs: TeacherOutputs):
        super().__init__(pad_token_id)
        self.outputs = outputs

    def __call__(self, rows: list[dict]) -> dict:
        batch = super().__call__(rows)
        if "index" not in batch:  # held-out sentences: nobody taught these
            return batch
        index = batch.pop("index").tolist()
        batch["teacher_logits"] = torch.from_numpy(self.outputs.logits[index])
        if self.outputs.has_hidden:
            states = [self.outputs.hidden_states(i) for i in index]
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


def outputs(teacher: Checkpoint, sentences: Split, max_length: int, run_dir: Path, layers: list[int] | None = None,
            matmul_precision: str = "highest") -> TeacherOutputs:
    """The teacher's logits for every one of `sentences`, and its hidden states after each of `layers` (1 = after the first layer).

    It reads them in its own spelling. Keyed by teacher, what it is shown and in which precision, so a stage that asks for the same
    finds them. Raises UserError for a precision that this processor has no units for, and where the teacher answers no numbers.
    """
    precision.check(matmul_precision)
    with distributed.first_alone():
        return TeacherOutputs(_parts(teacher, sentences, max_length, run_dir, layers, matmul_precision))


def _parts(teacher: Checkpoint, sentences: Split, max_length: int, run_dir: Path, layers: list[int] | None,
           matmul_precision: str) -> list[Path]:
    """Where the outputs stand; computed where they don't."""
    tokenizer = load_tokenizer(teacher.path)
    folders = []
    for start in range(0, len(sentences), PART):
        part = Split(sentences.texts[start:start + PART], sentences.labels[start:start + PART])
        shown = sha256_json([part.texts, max_length, layers, matmul_precision])[:8]
        folder = run_dir / "models" / f".teacher_{teacher.key}_{shown}"
        if folder.is_dir() and (spoilt := damaged(folder)):
            warn(f"{spoilt} is damaged: computed again")
            shutil.rmtree(folder)
        if not folder.is_dir():
            _sweep(folder)
            fresh = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
            fresh.mkdir(parents=True)
            _compute(teacher, tokenise(tokenizer, part, max_length), tokenizer.pad_token_id, fresh, layers, matmul_precision)
            hashes = sealed({"files": {file.name: sha256_file(file) for file in sorted(fresh.iterdir())}})
            (fresh / HASHES).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
            if folder.is_dir():
                shutil.rmtree(fresh)  # another run was faster; it says the same
            else:
                os.rename(fresh, folder)
                say(f"teacher's outputs kept in {folder}")
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


def lessons(teacher: Checkpoint, sentences: Split, made_up: list[str], max_length: int, run_dir: Path,
            layers: list[int] | None = None, matmul_precision: str = "highest") -> tuple[Split, TeacherOutputs]:
    """The training sentences and behind them `made_up` ones, which the teacher alone labels, with what it says of each."""
    taught = outputs(teacher, sentences, max_length, run_dir, layers, matmul_precision)
    if not made_up:
        return sentences, taught
    new = Split(made_up, [distillation.UNKNOWN] * len(made_up))
    taught = taught.joined(outputs(teacher, new, max_length, run_dir, matmul_precision=matmul_precision))
    return Split(sentences.texts + new.texts, sentences.labels + new.labels), taught


@torch.no_grad()
def _compute(teacher: Checkpoint, train, pad_token_id: int, folder: Path, layers: list[int] | None,
             matmul_precision: str) -> None:
    model = load_model(teacher.path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    columns = {name: train[name][:] for name in train.column_names}  # a row at a time costs as long as the teacher takes on a GPU
    lengths = [len(ids) for ids in columns["input_ids"]]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    np.save(folder / "offsets.npy", offsets)
    logits = np.empty((len(train), model.config.num_labels), dtype=np.float32)
    hidden = None
    if layers:
        shape = (int(offsets[-1]), len(layers), model.config.hidden_size)
        hidden = np.lib.format.open_memmap(folder / "hidden.npy", mode="w+", dtype=np.float16, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a disk that fills up under a memory map ends the process without a word
            with open(folder / "hidden.npy", "r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, (folder / "hidden.npy").stat().st_size)
    collate = Collator(pad_token_id)
    order = sorted(range(len(train)), key=lambda i: -lengths[i])
    with precision.products(matmul_precision, model), precision.kept_short(matmul_precision, device.type):
        for start in tqdm(range(0, len(order), BATCH), desc="teacher", unit="batch"):
            rows = order[start:start + BATCH]
            batch = collate([{name: column[i] for name, column in columns.items()} for i in rows])
            out = model(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device),
                        output_hidden_states=bool(layers))
            logits[rows] = out.logits.float().cpu().numpy()
            if not np.isfinite(logits[rows]).all():
                raise UserError(f"{teacher.path} answers with NaN or infinite numbers: its weights are broken, give another teacher")
            if layers and hidden is not None:
                states = torch.stack([out.hidden_states[layer] for layer in layers], dim=2).half().cpu().numpy()  # (B, N, layers, D)
                if not np.isfinite(states).all():
                    raise UserError(f"{teacher.path} has hidden states beyond half precision (65,504), in which they are kept: "
                                    "--hidden-weight 0 leaves them out")
                for row, i in enumerate(rows):
                    hidden[offsets[i]:offsets[i + 1]] = states[row, :lengths[i]]
    if hidden is not None:
        hidden.flush()
    np.save(folder / "logits.npy", logits)

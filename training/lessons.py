"""Lessons: texts to learn from with the teacher's answer to each, as make_lessons.py publishes them.

`lessons.parquet` has a row a text: text (string), of pairs second (string), label (as the task has it; see `common.tasks`), logits
(list of K float32).
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import checkpoints, recipes
from common.architectures import layout
from common.architectures.classifiers import load_config
from common.checkpoints import Checkpoint
from common.cli import UserError
from common.data import TYPES, Split, inputs, longest_first, tokenise
from common.facts import sha256_json
from common.opening import load_model, load_tokenizer
from common.texts.splits import Row
from training import precision, soft_labels

FILE = "lessons.parquet"
BATCH = 128
PART = 50_000  # texts that a kill costs at most
Runtime = Callable[..., Iterator[tuple[list[int], np.ndarray]]]  # (tokenised texts, pad_token_id) -> (rows, their logits), until all are


@dataclass(frozen=True)
class Lessons:
    """What a checkpoint of make_lessons.py holds: S texts with their labels, the teacher's logits (S, K), and who that teacher is."""

    checkpoint: Checkpoint
    sentences: Split
    logits: np.ndarray
    teacher: Checkpoint

    @property
    def given(self) -> Split:
        """The texts that nobody made up: the training set's, and one's own without labels."""
        return self.sentences.chosen(range(len(self.sentences) - self.checkpoint.manifest["metrics"]["made_up"]))

    def answers_others(self, source: Checkpoint) -> Checkpoint:
        """Who can answer texts that aren't among these: the teacher, or where that is a file of answers what learnt from it, `source`."""
        return source if checkpoints.is_a_table(self.teacher.path) else self.teacher


# --- reading and writing

def find(run_dir: Path, named: Path | None, variant: str, seed: int | None = None, model: Checkpoint | None = None) -> Checkpoint:
    """The lessons named by a flag, else the newest of a variant and of the teacher of `model`; those of `seed` come first. Verified.

    A model's teacher is the one that it learnt from, a teacher's is itself, and without a model it is the newest (of the seed, if there
    is one). Raises UserError where there are none, and where the named ones are another teacher's.
    """
    if named is not None:
        lessons = checkpoints.find(run_dir, "lessons", named)
        if model is not None:
            same_teacher(lessons, model)
        return lessons
    if model is None:
        model = checkpoints.find(run_dir, "teacher", seed=seed)
    answered = [c for c in checkpoints.published(run_dir)
                if c.stage == "lessons" and c.variant == variant and c.parent_key("teacher") == teacher_key(model)]
    if answered:
        return checkpoints.verify(min(answered, key=lambda c: c.manifest["seed"] != seed).path)  # of equals, the first: the newest
    preset = next((recipe.name for recipe in recipes.read().values() if recipe.lessons == variant), None)
    whose = f"the teacher {model.path.name}" if model.stage == "teacher" else f"the teacher of {model.path.name}"
    raise UserError(f"no lessons of variant '{variant}' of {whose} under {Path(run_dir) / 'models'}: run python make_lessons.py" +
                    (f" --preset {preset}" if preset else "") + " first")


def learnt(run_dir: Path, start: str, seed: int, variant: str) -> Checkpoint:
    """What stage 8 is to start from, `checkpoints.meant`; of several students the newest that learnt lessons of this variant."""
    if start == "student":
        taught = {c.key for c in checkpoints.published(run_dir) if c.stage == "lessons" and c.variant == variant}
        found = [c for c in checkpoints.published(run_dir)
                 if (c.stage, c.variant, c.manifest["seed"]) == ("distilled", "published", seed) and c.parent_key("lessons") in taught]
        if found:
            return checkpoints.verify(found[0].path)
    return checkpoints.meant(run_dir, start, seed)


def teacher_key(model: Checkpoint) -> str | None:
    """The key of the teacher that a model learnt from; a teacher's is its own."""
    return model.key if model.stage == "teacher" else model.parent_key("teacher")


def same_teacher(lessons: Checkpoint, model: Checkpoint) -> None:
    """Refuses lessons of another teacher than a model's own."""
    if lessons.parent_key("teacher") != teacher_key(model):
        raise UserError(f"{lessons.path} holds the answers of another teacher than {model.path} has: leave --lessons out, or ask that "
                        "teacher (python make_lessons.py --teacher DIR)")


def read(run_dir: Path, checkpoint: Checkpoint, dataset: dict | None = None) -> Lessons:
    """What a checkpoint holds. Raises UserError where its teacher is gone, and where it was made from other data than `dataset`."""
    import pyarrow.parquet

    if dataset is not None:
        checkpoints.same_data(checkpoint, dataset)
    table = pyarrow.parquet.read_table(checkpoint.path / FILE)
    logits = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    seconds = table["second"].to_pylist() if "second" in table.column_names else None
    sentences = Split(table["text"].to_pylist(), table["label"].to_pylist(), seconds)
    return Lessons(checkpoint, sentences, logits.reshape(len(sentences), -1), checkpoints.parent(run_dir, checkpoint, "teacher"))


def write(sentences: Split, logits: np.ndarray, folder: Path) -> None:
    """Writes the texts, their labels and the teacher's logits (S, K) as `folder`/lessons.parquet: the same bytes for the same lessons."""
    import pyarrow.parquet

    ends = pyarrow.array(np.arange(0, logits.size + 1, logits.shape[1], dtype=np.int32))
    seconds = {} if sentences.seconds is None else {"second": pyarrow.array(sentences.seconds, pyarrow.string())}
    columns = {"text": pyarrow.array(sentences.texts, pyarrow.string()), **seconds, "label": pyarrow.array(sentences.labels),
               "logits": pyarrow.ListArray.from_arrays(ends, pyarrow.array(logits.ravel(), pyarrow.float32()))}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / FILE, compression="zstd")


# --- asking the teacher

def answers(teacher: Checkpoint, texts: list[Row], max_length: int, folder: Path, matmul_precision: str = "highest",
            runtime: Runtime | None = None) -> np.ndarray:
    """The teacher's logits (S, K) for `texts`, each cut at `max_length` tokens; it reads them in its own spelling.

    Every PART texts they are kept in `folder`, where another try finds them. `runtime` answers in torch's place. A file of answers is
    looked up. Raises UserError for a precision that this processor has no units for, and where the teacher answers no numbers, or
    hasn't answered a text.
    """
    precision.check(matmul_precision)
    if checkpoints.is_a_table(teacher.path):
        return soft_labels.answers(teacher, texts)
    tokenizer, parts = load_tokenizer(teacher.path), []
    for start in range(0, len(texts), PART):
        part = texts[start:start + PART]
        file = folder / f"{sha256_json(part)[:16]}.npy"
        if not file.is_file():
            shown = tokenise(tokenizer, Split.of(part, [0] * len(part)), max_length)
            logits = np.empty((len(part), load_config(teacher.path).num_labels), dtype=np.float32)
            for rows, found in (runtime(shown, tokenizer.pad_token_id) if runtime else
                                _in_torch(teacher, shown, tokenizer.pad_token_id, matmul_precision)):
                if not np.isfinite(found).all():
                    raise UserError(_broken(teacher))
                logits[rows] = found
            _keep(file, logits)
        parts.append(np.load(file))
    return np.concatenate(parts)


def _keep(file: Path, logits: np.ndarray) -> None:
    """Writes an array so that a kill, or a machine that goes down, leaves all of it or none."""
    fresh = file.with_suffix(".new")
    with open(fresh, "wb") as handle:
        np.save(handle, logits)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(fresh, file)


def _broken(teacher: Checkpoint) -> str:
    return f"{teacher.path} answers with NaN or infinite numbers: its weights are broken, give another teacher"


def _in_torch(teacher: Checkpoint, shown, pad_token_id: int, matmul_precision: str) -> Iterator[tuple[list[int], np.ndarray]]:
    for rows, out in ask(teacher, shown, pad_token_id, matmul_precision):
        yield rows, out.logits.float().cpu().numpy()


@torch.no_grad()
def ask(teacher: Checkpoint, shown, pad_token_id: int, matmul_precision: str, hidden_states: bool = False) -> Iterator[tuple]:
    """Yields (rows of `shown`, the teacher's outputs on them), longest sentences first, until it has answered all.

    `shown` are sentences as `data.tokenise` gives them. Raises UserError where the teacher answers NaN or infinite numbers.
    """
    model, half = load_model(teacher.path), contextlib.nullcontext()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if hidden_states:
        half = precision.kept_short(matmul_precision, device.type)
    else:
        model = precision.shortened(matmul_precision, layout.quickest(model, TYPES in shown.column_names))
    model.to(device)
    batches = longest_first(shown, pad_token_id, BATCH)
    with precision.products(matmul_precision, model), half:
        for rows, batch in tqdm(batches, desc="teacher", unit="batch", total=math.ceil(len(shown) / BATCH)):
            asked = {name: value.to(device) for name, value in inputs(batch, model.config).items()}
            out = model(**asked, output_hidden_states=hidden_states)
            if not torch.isfinite(out.logits).all():
                raise UserError(_broken(teacher))
            yield rows, out

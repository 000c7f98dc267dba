"""What a student learns from: the training sentences, behind them more that were made of them, and what the teacher says of each.

`models/.made_<key>.json` keeps the made ones: it takes a minute to draw 300,000, and seeds and presets share them.
"""

import json
import os
from pathlib import Path

from common import data, distillation, distributed
from common.checkpoints import Checkpoint, load_model, load_tokenizer
from common.data import Split
from common.facts import is_sealed, read_json, sealed, sha256_file, sha256_json
from common.teacher_cache import TeacherOutputs, outputs
from compress import augmentation


def lessons(teacher: Checkpoint, sentences: Split, augment: int | None, max_length: int, run_dir: Path,
            layers: list[int] | None = None, matmul_precision: str = "highest") -> tuple[Split, TeacherOutputs]:
    """`sentences` and behind them `augment` made ones, which the teacher alone labels, with what it says of each: of `sentences` its
    hidden states after each of `layers` too. Raises UserError for a precision that this processor has no units for.
    """
    taught = outputs(teacher, sentences, max_length, run_dir, layers, matmul_precision)
    if augment is None:
        return sentences, taught
    with distributed.first_alone():
        made = made_of(teacher, sentences, augment, run_dir)
    new = Split(made, [distillation.UNKNOWN] * len(made))
    taught = taught.joined(outputs(teacher, new, max_length, run_dir, matmul_precision=matmul_precision))
    return Split(sentences.texts + new.texts, sentences.labels + new.labels), taught


def made_of(teacher: Checkpoint, sentences: Split, count: int, run_dir: Path) -> list[str]:
    """`count` new sentences; drawn where this code hasn't yet drawn them of this teacher's words and these sentences."""
    key = sha256_json([teacher.key, sentences.texts, count, sha256_file(Path(augmentation.__file__))])[:16]
    kept = run_dir / "models" / f".made_{key}.json"
    known = read_json(kept)
    if not is_sealed(known):
        table = load_model(teacher.path).get_input_embeddings().weight.detach()
        drawn = augmentation.new_sentences(sentences.texts, list(data.phrases_inside(sentences.texts)), table,
                                           load_tokenizer(teacher.path).get_vocab(), count)
        known = sealed({"sentences": drawn})
        fresh = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
        fresh.write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
        os.replace(fresh, kept)
    return known["sentences"]

"""What a student learns from: the training sentences, behind them more that were made of them, and what teachers say of each.

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


def lessons(teachers: list[Checkpoint], sentences: Split, augment: int | None, max_length: int, run_dir: Path,
            layers: list[int] | None = None, matmul_precision: str = "highest") -> tuple[Split, TeacherOutputs]:
    """`sentences` and behind them `augment` made ones, which teachers alone label, with what they say of each.

    That is the mean of all teachers' logits: an ensemble errs less often than its members (Hinton et al. 2015, section 3). Hidden
    states, after each of `layers`, are the first one's, of `sentences` alone. Raises UserError for a precision that this processor
    has no units for.
    """
    shown, new = sentences, Split()
    if augment is not None:
        with distributed.first_alone():
            made = made_of(teachers[0], sentences, augment, run_dir)
        new = Split(made, [distillation.UNKNOWN] * len(made))
        shown = Split(sentences.texts + new.texts, sentences.labels + new.labels)

    def said_by(teacher: Checkpoint, layers: list[int] | None) -> TeacherOutputs:
        said = outputs(teacher, sentences, max_length, run_dir, layers, matmul_precision)
        return said.joined(outputs(teacher, new, max_length, run_dir, matmul_precision=matmul_precision)) if len(new) else said

    first, *others = teachers
    return shown, said_by(first, layers).averaged([said_by(other, None) for other in others])


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

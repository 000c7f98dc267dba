"""What a student learns from: sentences, made ones drawn once, and what the teacher says of them."""

import json

import numpy as np

from common import checkpoints, data, distillation, teacher_cache
from compress import augmentation, lessons


def texts_of(run, count: int) -> data.Split:
    return data.Split(data.read_tsv(run.data_dir / "train.tsv")[0].texts[:count], [0] * count)


def test_what_the_teacher_says_stands_beside_each_sentence(stages, tmp_path):
    (tmp_path / "models").mkdir()
    teacher = checkpoints.read(stages.checkpoint("teacher"))
    shown, taught = lessons.lessons(teacher, texts_of(stages, 30), 20, 48, tmp_path, [1])
    new = data.Split(shown.texts[30:], [0] * 20)
    said = [teacher_cache.outputs(teacher, part, 48, tmp_path).logits for part in (texts_of(stages, 30), new)]
    assert np.allclose(taught.logits, np.concatenate(said), atol=1e-5) and len(shown) == 50
    assert shown.labels[:30] == [0] * 30 and set(shown.labels[30:]) == {distillation.UNKNOWN}
    assert len(taught.hidden_states(3)) and not len(taught.hidden_states(33)), "hidden states are kept of the training sentences alone"


def test_made_sentences_are_drawn_once_and_again_if_damaged(stages, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    teacher = checkpoints.read(stages.checkpoint("teacher"))
    made = lessons.made_of(teacher, texts_of(stages, 40), 25, tmp_path)
    (kept,) = (tmp_path / "models").glob(".made_*.json")
    whole = kept.read_bytes()
    with monkeypatch.context() as context:
        context.setattr(augmentation, "new_sentences", None)
        assert lessons.made_of(teacher, texts_of(stages, 40), 25, tmp_path) == made
    assert len(lessons.made_of(teacher, texts_of(stages, 40), 26, tmp_path)) == 26
    kept.write_text(json.dumps(json.loads(whole) | {"sentences": ["spoilt"]}))
    assert lessons.made_of(teacher, texts_of(stages, 40), 25, tmp_path) == made and kept.read_bytes() == whole

"""What a student learns from: made sentences drawn once, and the mean of what its teachers say."""

import json

import numpy as np
import pytest

from common import checkpoints, cli, data, teacher_cache
from compress import augmentation, lessons


@pytest.fixture(scope="module")
def two_teachers(stages, tmp_path_factory):
    """A run directory that holds the teacher and a co-teacher of another seed."""
    run = stages.copy(tmp_path_factory.mktemp("two") / "run", "teacher")
    run.run("5_finetune_teacher.py", "--seed", 7, "--epochs", 1, "--co-teacher")
    return run


def texts_of(run, count: int) -> data.Split:
    return data.Split(data.read_tsv(run.data_dir / "train.tsv")[0].texts[:count], [0] * count)


def test_a_lesson_is_the_mean_of_what_teachers_say(two_teachers):
    teachers = [checkpoints.read(two_teachers.checkpoint(stage)) for stage in ("teacher", "co_teacher")]
    shown, taught = lessons.lessons(teachers, texts_of(two_teachers, 30), 20, 48, two_teachers.run_dir, [1])
    new = data.Split(shown.texts[30:], [0] * 20)
    said = [np.concatenate([teacher_cache.outputs(teacher, part, 48, two_teachers.run_dir, layers).logits
                            for part, layers in ((texts_of(two_teachers, 30), [1] if teacher is teachers[0] else None), (new, None))])
            for teacher in teachers]
    assert np.abs(said[0] - said[1]).max() > 0.1, "they differ"
    assert np.allclose(taught.logits, (said[0] + said[1]) / 2) and len(shown) == len(taught.logits) == 50
    first = teacher_cache.outputs(teachers[0], texts_of(two_teachers, 30), 48, two_teachers.run_dir, [1])
    assert np.array_equal(taught.hidden_states(3), first.hidden_states(3)), "hidden states are the teacher's own"


def test_stage_8_names_both_teachers_as_parents(two_teachers):
    two_teachers.run("8_pruning_with_finetuning.py", "--from-teacher", "--hidden-weight", 0, "--co-teachers", 1, "--prune-epochs", 0.3,
                     "--epochs", 0.3)
    made = checkpoints.read(two_teachers.checkpoint("pruned"))
    assert {parent["stage"] for parent in made.manifest["parents"]} == {"teacher", "co_teacher"}


def test_of_too_few_co_teachers_stage_8_says_how_to_make_one(two_teachers):
    with pytest.raises(cli.UserError, match="1 co_teacher checkpoints .*: run python 5_finetune_teacher.py --co-teacher --seed N"):
        checkpoints.find_several(two_teachers.run_dir, "co_teacher", 2)


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

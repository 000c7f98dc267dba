"""The teacher's hidden states on disk: in parts, found again, and what the teacher says; made-up lessons have none."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import torch

from common import checkpoints, cli, data, opening
from training import lessons, teacher_cache


@pytest.fixture
def lessons_of(stages, tmp_path):
    """(texts, labels) -> Lessons of the pipeline's teacher, without logits: nobody reads them here."""
    (tmp_path / "models").mkdir()
    teacher = checkpoints.read(stages.checkpoint("teacher"))
    return lambda texts, labels: lessons.Lessons(teacher, data.Split(texts, labels), np.empty((len(texts), 2)), teacher)


@pytest.fixture
def texts(stages):
    return data.read_tsv(stages.data_dir / "train.tsv")[0].texts


def test_teachers_cache_comes_in_parts(lessons_of, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "PART", 8)

    def hidden(count, unlabelled=()):
        shown = lessons_of(texts[:count], [-100 if i in unlabelled else 0 for i in range(count)])
        return teacher_cache.hidden_states(shown, 48, tmp_path, [1, 2])

    def parts():
        return {folder: (folder / "hidden.npy").stat().st_mtime_ns for folder in (tmp_path / "models").iterdir()}

    hidden(16)
    before = parts()
    more = hidden(21)
    assert len(before) == 2 and len(parts()) == 3 and before.items() <= parts().items(), "the first two parts are found again"
    teacher = lessons_of([], []).teacher
    model, tokenizer = opening.load_model(teacher.path), opening.load_tokenizer(teacher.path)

    def told(index):
        with torch.no_grad():
            out = model(**tokenizer(texts[index], return_tensors="pt"), output_hidden_states=True)
        return torch.stack(out.hidden_states[1:3], 2)[0]

    for index in (0, 7, 8, 20):
        assert np.allclose(more.of(index), told(index), atol=1e-2)
    some = hidden(21, unlabelled=(0, 5, 20))
    for index in (1, 9, 19):
        assert np.allclose(some.of(index), told(index), atol=1e-2)
    assert [len(some.of(index)) for index in (0, 5, 20)] == [0, 0, 0]
    assert teacher_cache.hidden_states(lessons_of(texts[:3], [-100] * 3), 48, tmp_path, [1]) is None
    assert teacher_cache.hidden_states(lessons_of(texts[:3], [0] * 3), 48, tmp_path, None) is None


def test_states_of_another_precision_are_kept_apart(lessons_of, texts, tmp_path, monkeypatch):
    said = lessons_of(texts[:9], [0] * 9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    exact = teacher_cache.hidden_states(said, 48, tmp_path, [2]).of(3).copy()
    rounded = teacher_cache.hidden_states(said, 48, tmp_path, [2], "medium").of(3)
    assert not np.array_equal(rounded, exact) and np.allclose(rounded, exact, atol=0.1)
    assert np.array_equal(teacher_cache.hidden_states(said, 48, tmp_path, [2]).of(3), exact)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(cli.UserError, match="no unit for bfloat16 products"):
        teacher_cache.hidden_states(said, 48, tmp_path, [2], "medium")


def test_damaged_states_are_asked_for_again(lessons_of, texts, tmp_path, capsys):
    said = lessons_of(texts[:5], [0] * 5)

    def hidden():
        return teacher_cache.hidden_states(said, 48, tmp_path, [1])

    whole = hidden()
    before = whole.of(3).copy()
    for name in ("hidden.npy", "offsets.npy", "hashes.json"):
        file = whole.folders[0] / name
        spoilt = bytearray(file.read_bytes())
        spoilt[-5] ^= 4
        file.write_bytes(spoilt)
        again = hidden()
        assert f"{file} is damaged: computed again" in capsys.readouterr().err
        assert np.array_equal(again.of(3), before)
    hidden()
    assert "damaged" not in capsys.readouterr().err


def test_states_beyond_half_precision_are_refused(lessons_of, tmp_path, monkeypatch):
    said = lessons_of(["a film"], [0])
    model = opening.load_model(said.teacher.path)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.LayerNorm.bias.fill_(1e5)
    monkeypatch.setattr(lessons, "load_model", lambda path: model)
    with pytest.raises(cli.UserError, match="beyond half precision"):
        teacher_cache.hidden_states(said, 48, tmp_path, [1])


def test_what_a_killed_process_had_begun_goes(lessons_of, tmp_path):
    said = lessons_of(["a film", "a dull film"], [0] * 2)
    (folder,) = teacher_cache.hidden_states(said, 48, tmp_path, [1]).folders
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    begun = {process: folder.with_name(f"{folder.name}.{process}.partial") for process in (dead, os.getppid())}
    for path in begun.values():
        path.mkdir()
    shutil.rmtree(folder)
    teacher_cache.hidden_states(said, 48, tmp_path, [1])
    assert folder.is_dir() and not begun[dead].exists() and begun[os.getppid()].exists(), "one may be at work"

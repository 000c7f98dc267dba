"""The teacher's outputs on disk: in parts, found again, and what the teacher says."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import torch

from common import checkpoints, cli, data
from training import teacher_cache


def test_teachers_cache_comes_in_parts(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "PART", 8)
    (tmp_path / "models").mkdir()
    teacher = checkpoints.read(stages.checkpoint("teacher"))
    texts = data.read_tsv(stages.data_dir / "train.tsv")[0].texts[:21]

    def outputs(count, layers=None):
        return teacher_cache.outputs(teacher, data.Split(texts[:count], [0] * count), 48, tmp_path, layers)

    def parts():
        return {folder: (folder / "logits.npy").stat().st_mtime_ns for folder in (tmp_path / "models").iterdir()}

    whole = outputs(16, [1, 2])
    before = parts()
    more = outputs(21, [1, 2])
    assert len(before) == 2 and len(parts()) == 3 and before.items() <= parts().items(), "the first two parts are found again"
    assert np.array_equal(more.logits[:16], whole.logits)
    model, tokenizer = checkpoints.load_model(teacher.path), checkpoints.load_tokenizer(teacher.path)
    joined = more.joined(outputs(3))
    for index in (0, 7, 8, 20):
        with torch.no_grad():
            out = model(**tokenizer(texts[index], return_tensors="pt"), output_hidden_states=True)
        assert np.allclose(joined.logits[index], out.logits[0], atol=1e-4)
        assert np.allclose(joined.hidden_states(index), torch.stack(out.hidden_states[1:3], 2)[0], atol=1e-2)
    assert np.allclose(joined.logits[21:], whole.logits[:3], atol=1e-5) and len(joined.hidden_states(22)) == 0


def test_answers_of_another_precision_are_kept_apart(stages, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    teacher = checkpoints.read(stages.checkpoint("teacher"))
    said = data.Split(data.read_tsv(stages.data_dir / "train.tsv")[0].texts[:9], [0] * 9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    exact = teacher_cache.outputs(teacher, said, 48, tmp_path).logits
    rounded = teacher_cache.outputs(teacher, said, 48, tmp_path, matmul_precision="medium").logits
    assert not np.array_equal(rounded, exact) and np.allclose(rounded, exact, atol=0.05)
    assert np.array_equal(teacher_cache.outputs(teacher, said, 48, tmp_path).logits, exact)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(cli.UserError, match="no unit for bfloat16 products"):
        teacher_cache.outputs(teacher, said, 48, tmp_path, matmul_precision="medium")


def test_damaged_answers_are_asked_for_again(stages, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    teacher = checkpoints.read(stages.checkpoint("teacher"))
    said = data.Split(data.read_tsv(stages.data_dir / "train.tsv")[0].texts[:5], [0] * 5)

    def outputs():
        return teacher_cache.outputs(teacher, said, 48, tmp_path, [1])

    whole = outputs()
    for name in ("logits.npy", "hidden.npy", "offsets.npy", "hashes.json"):
        file = whole.folders[0] / name
        spoilt = bytearray(file.read_bytes())
        spoilt[-5] ^= 4
        file.write_bytes(spoilt)
        again = outputs()
        assert f"{file} is damaged: computed again" in capsys.readouterr().err
        assert np.array_equal(again.logits, whole.logits) and np.array_equal(again.hidden_states(3), whole.hidden_states(3))
    outputs()
    assert "damaged" not in capsys.readouterr().err


def test_what_a_killed_process_had_begun_goes(stages, tmp_path):
    teacher = checkpoints.read(stages.checkpoint("teacher"))
    said = data.Split(["a film", "a dull film"], [0] * 2)
    (folder,) = teacher_cache.outputs(teacher, said, 48, tmp_path).folders
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    begun = {process: folder.with_name(f"{folder.name}.{process}.partial") for process in (dead, os.getppid())}
    for path in begun.values():
        path.mkdir()
    shutil.rmtree(folder)
    teacher_cache.outputs(teacher, said, 48, tmp_path)
    assert folder.is_dir() and not begun[dead].exists() and begun[os.getppid()].exists(), "one may be at work"

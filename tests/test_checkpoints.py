"""A stage's directory: whole or not there, found again by its key, never changed afterwards."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from scripts import rewrite_manifest

from common import checkpoints, facts, opening, publishing
from common.cli import UserError
from common.facts import sha256_file
from report import files

DATASET = {"name": "made-up", "source": "tsv", "sha256": "d" * 64, "train": 3, "validation": 1, "dev": 2}


def arguments(run_dir: Path, **more):
    return SimpleNamespace(
        **{"run_dir": run_dir, "seed": 42, "mode": "fast", "fast": True, "force": False, "lr": 1e-3, "data_dir": None, "source": "auto"}
        | more
    )


def begun(run_dir: Path, name="teacher", parents=(), dataset=DATASET, decides=None, **more):
    return publishing.begin(
        arguments(run_dir, **more), name, f"prefix_{name}", dataset, list(parents), link=f"{name}_link", decides=decides
    )


def made(run_dir: Path, name="teacher", contents="weights of it", **more) -> checkpoints.Checkpoint:
    stage = begun(run_dir, name, **more)
    assert stage.done is None
    (stage.dir / "model.safetensors").write_text(contents)
    (stage.work("train") / "optimizer.pt").write_bytes(b"only for resuming")
    stage.metrics["validation_accuracy"] = 0.5
    return checkpoints.read(stage.publish())


def test_partial_is_never_visible(tmp_path):
    stage = begun(tmp_path)
    (stage.dir / "model.safetensors").write_bytes(b"half")
    (stage.dir / "stage.json").write_text(json.dumps({"stage": "teacher"}))
    assert stage.dir.name.startswith(".partial") and checkpoints.published(tmp_path) == []
    with pytest.raises(UserError, match="run python 5_finetune_teacher.py first"):
        checkpoints.find(tmp_path, "teacher")


def test_publishing_leaves_a_whole_checkpoint_and_nothing_else(tmp_path):
    checkpoint = made(tmp_path)
    assert {p.name for p in checkpoint.path.iterdir()} == {"model.safetensors", "stage.json"}, "what resuming needs must go"
    assert {p.name for p in (tmp_path / "models").iterdir()} == {checkpoint.path.name}
    facts = checkpoint.manifest["files"]["model.safetensors"]
    assert facts == {"bytes": 13, "sha256": sha256_file(checkpoint.path / "model.safetensors")}
    assert checkpoints.find(tmp_path, "teacher").path == checkpoint.path
    link = tmp_path / "teacher_link"
    assert link.is_symlink() and link.resolve() == checkpoint.path.resolve() and not Path(link.readlink()).is_absolute()


def test_manifest_has_what_the_design_promises(tmp_path):
    teacher = made(tmp_path)
    manifest = made(tmp_path, "distilled", parents=[teacher]).manifest
    assert set(manifest) >= {
        "schema",
        "stage",
        "variant",
        "created",
        "key",
        "args",
        "seed",
        "mode",
        "parents",
        "dataset",
        "versions",
        "code",
        "cpu",
        "cores",
        "gpu",
        "files",
        "metrics",
        "wall_s",
        "peak_rss_mb",
    }
    assert manifest["parents"] == [{"stage": "teacher", "key": teacher.key, "path": f"models/{teacher.path.name}"}]
    assert manifest["dataset"] == DATASET and manifest["metrics"] == {"validation_accuracy": 0.5}
    assert set(manifest["versions"]) >= {"python", "torch", "transformers", "bitsandbytes"} and manifest["peak_rss_mb"] > 10


def test_same_command_is_up_to_date_and_force_makes_another(tmp_path, capsys):
    first = made(tmp_path)
    before = {p: p.read_bytes() for p in first.path.iterdir()}
    assert begun(tmp_path).done.path == first.path
    assert f"up to date: {first.path}" in capsys.readouterr().out
    again = made(tmp_path, force=True)
    assert again.key == first.key and again.path != first.path
    assert {p: p.read_bytes() for p in first.path.iterdir()} == before, "published directories never change"
    assert checkpoints.find(tmp_path, "teacher").path == again.path, "the newest is taken"
    another = made(tmp_path, force=True, contents="other weights")
    assert another.asked_key == first.asked_key and another.key != first.key, "another result of the same command"
    assert begun(tmp_path).done.path == another.path
    assert begun(tmp_path, "student", parents=[another]).key != begun(tmp_path, "student", parents=[first]).key


def test_older_code_is_said(tmp_path, capsys):
    first = made(tmp_path)
    rewrite_manifest(first.path, code={"commit": None, "sha256": "0" * 64})
    assert begun(tmp_path).done
    assert "made by older code; --force redoes it" in capsys.readouterr().out


def test_key_is_a_function_of_what_decides_the_result(tmp_path):
    def key(where="run", **more):
        return begun(tmp_path / where, **more).key

    first = key()
    assert key() == key(where="elsewhere") == key(data_dir=Path("/some/where")) == key(source="package") == first
    teacher, other = made(tmp_path / "t"), made(tmp_path / "t", lr=7.0)
    different = [
        key(lr=2e-3),
        key(seed=1),
        key(name="distilled"),
        key(dataset=DATASET | {"sha256": "e" * 64}),
        key(decides={"start": "x"}),
        key(parents=[teacher]),
        key(parents=[other]),
    ]
    assert len({first, *different}) == 8


def test_a_run_cut_short_finds_its_directory_again(tmp_path, capsys):
    stage = begun(tmp_path)
    (stage.work("train") / "step").write_text("7")
    stage.earlier_s = 100.0
    stage.keep_time()
    again = begun(tmp_path)
    assert again.dir == stage.dir and (again.work("train") / "step").read_text() == "7" and again.wall_s() >= 100
    assert "continuing" in capsys.readouterr().out


def test_every_flipped_bit_of_a_manifest_is_noticed(tmp_path):
    manifest = made(tmp_path).path / "stage.json"
    whole = manifest.read_bytes()
    for at in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << at % 8
        manifest.write_bytes(spoilt)
        with pytest.raises(UserError, match="stage.json is damaged"):
            checkpoints.read(manifest.parent)


def test_manifests_without_a_hash_of_their_own_are_still_read(tmp_path):
    checkpoint = made(tmp_path)
    earlier = {name: value for name, value in checkpoint.manifest.items() if name != "sha256"} | {"schema": 1}
    (checkpoint.path / "stage.json").write_text(json.dumps(earlier))
    assert checkpoints.verify(checkpoint.path).key == checkpoint.key


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stage": "teacher"}', b"\xff\xfe"])
def test_damaged_manifest_is_said_and_passed_over(tmp_path, content, capsys):
    whole, spoilt = made(tmp_path), made(tmp_path, force=True)
    (spoilt.path / "stage.json").write_bytes(content)
    with pytest.raises(UserError, match="stage.json is damaged"):
        checkpoints.read(spoilt.path)
    assert checkpoints.find(tmp_path, "teacher").path == whole.path
    assert f"skipped: {spoilt.path / 'stage.json'} is damaged" in capsys.readouterr().err


def test_a_file_that_changed_or_went_is_found_out(tmp_path):
    checkpoint = made(tmp_path)
    file = checkpoint.path / "model.safetensors"
    file.write_bytes(b"Weights of teacher")  # as long as before
    for attempt in (
        lambda: checkpoints.verify(checkpoint.path),
        lambda: checkpoints.find(tmp_path, "teacher"),
        lambda: checkpoints.find(tmp_path, "teacher", checkpoint.path),
        lambda: opening.load_model(checkpoint.path),
    ):
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            attempt()
    file.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        checkpoints.verify(checkpoint.path)


def test_wrong_stage_missing_checkpoint_and_foreign_directory_are_refused(tmp_path):
    teacher = made(tmp_path)
    with pytest.raises(UserError, match="made by the stage 'teacher', not 'distilled'.*6_distill_student.py"):
        checkpoints.find(tmp_path, "distilled", teacher.path)
    with pytest.raises(UserError, match="no checkpoint at"):
        checkpoints.find(tmp_path, "teacher", tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no stage.json"):
        checkpoints.find(tmp_path, "teacher", tmp_path)


def test_parent_is_the_very_one_it_was_made_from(tmp_path):
    old = made(tmp_path)
    student = made(tmp_path, "distilled", parents=[old])
    made(tmp_path, lr=5.0)  # a newer teacher that this student never met
    assert checkpoints.parent(tmp_path, student, "teacher").path == old.path
    far = made(tmp_path / "another", "distilled", parents=[old])
    assert checkpoints.parent(tmp_path / "another", far, "teacher").path.resolve() == old.path, "of another run"
    assert checkpoints.parent(tmp_path / "a-third", far, "teacher").path.resolve() == old.path
    stranger = checkpoints.Checkpoint(student.path, student.manifest | {"parents": [{"stage": "teacher", "key": "gone", "path": "x"}]})
    for flag, way_on in ((None, "put it back$"), ("--teacher", "put it back, or name one with --teacher$")):
        with pytest.raises(UserError, match=way_on):
            checkpoints.parent(tmp_path, stranger, "teacher", flag=flag)


def test_data_sets_are_not_mixed(tmp_path):
    checkpoint = made(tmp_path)
    checkpoints.same_data(checkpoint, DATASET)
    with pytest.raises(UserError, match="was made from made-up"):
        checkpoints.same_data(checkpoint, DATASET | {"sha256": "e" * 64})


def test_link_moves_to_the_newest_in_one_step(tmp_path):
    first, second = made(tmp_path), made(tmp_path, lr=9.0)
    link = tmp_path / "teacher_link"
    assert link.resolve() == second.path.resolve()
    begun(tmp_path)  # the first command again: up to date, and the link says what it answers
    assert link.resolve() == first.path.resolve()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_two_published_within_a_second_have_names_of_their_own(tmp_path):
    paths = {made(tmp_path, lr=float(i)).path for i in range(1, 5)}
    assert len(paths) == 4 and [c.path for c in checkpoints.published(tmp_path)] == sorted(
        paths, key=lambda p: checkpoints.read(p).manifest["created"], reverse=True
    )


@pytest.fixture
def zone(monkeypatch):
    """A function that moves this process to another time zone."""
    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def test_names_and_dates_are_in_utc_and_the_newest_is_so_in_any_time_zone(tmp_path, zone):
    zone("Asia/Shanghai")
    before = datetime.now(UTC).replace(microsecond=0)
    older = made(tmp_path)
    zone("America/Los_Angeles")
    newer = made(tmp_path, lr=9.0)
    assert [c.path for c in checkpoints.published(tmp_path)] == [newer.path, older.path]
    for checkpoint in (older, newer):
        named = datetime.strptime("_".join(checkpoint.path.name.split("_")[2:4]), "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
        assert before <= named <= checkpoint.created < named + timedelta(seconds=1) < datetime.now(UTC) + timedelta(seconds=2)
        assert checkpoint.manifest["created"].endswith("+00:00")
    assert files.now().endswith("+00:00")


def test_dates_of_earlier_code_are_local_ones(tmp_path, zone):
    zone("Asia/Shanghai")
    older, newer = made(tmp_path), made(tmp_path, lr=9.0)
    rewrite_manifest(older.path, created="2026-11-01T09:00:00.000001")  # at one o'clock in UTC
    rewrite_manifest(newer.path, created="2026-11-01T02:00:00.000001+00:00")
    assert [c.path for c in checkpoints.published(tmp_path)] == [newer.path, older.path]


def test_a_checkpoint_dated_in_the_future_is_said_and_is_not_the_newest(tmp_path, capsys):
    future, older, newer = made(tmp_path), made(tmp_path, lr=8.0), made(tmp_path, lr=9.0)
    rewrite_manifest(future.path, created="2099-01-01T00:00:00.000000+00:00")
    assert [c.path for c in checkpoints.published(tmp_path)] == [newer.path, older.path, future.path]
    checkpoints.published(tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{future.path} is dated in the future (2099-01-01 00:00 UTC)" in said
    assert checkpoints.find(tmp_path, "teacher").path == newer.path
    assert checkpoints.find(tmp_path, "teacher", future.path).path == future.path, "named, it is taken"


@pytest.mark.parametrize("created", ["yesterday", "", "99999-01-01T00:00:00", "2026-13-01T00:00:00", "0001-01-01T00:00:00"])
def test_a_date_that_is_none_is_damage(tmp_path, created):
    checkpoint = made(tmp_path)
    manifest = checkpoint.manifest | {"created": created}
    (checkpoint.path / "stage.json").write_text(json.dumps(facts.sealed(manifest)), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.read(checkpoint.path)

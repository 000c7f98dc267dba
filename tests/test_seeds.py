"""The same seed gives the same bytes; --seeds makes a stage several times, and one row of mean and spread in the report."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import REPORT_FLAGS
from scripts import REPORT, report_of, rows_of

from common import checkpoints, data, inference, lineage


@pytest.fixture(scope="module")
def seeds(made_once, stages):
    """A run whose pruned model and PTQ were made with three seeds, the second's PTQ spoilt since, and reported."""

    def make(folder):
        run = stages.copy(folder / "run", "teacher", "distilled", "pruned")
        for script in ("8_pruning_with_finetuning.py", "9_quantize_pruned_model.py"):
            run.run(script, "--seeds", 3)
        (spoilt(run).path / "model.safetensors").write_bytes(b"spoilt")
        run.run(REPORT, "--max-length", 48, *REPORT_FLAGS)
        return run

    return made_once("three_seeds", make)


def made(run, stage: str) -> list:
    return [c for c in checkpoints.published(run.run_dir) if c.stage == stage]


def spoilt(run):
    return next(c for c in made(run, "pruned_ptq") if c.manifest["seed"] == 43)


@pytest.mark.slow
def test_each_seed_is_made_once_from_its_own_parents(seeds):
    assert "up to date" in seeds.said["8_pruning_with_finetuning.py"].stdout  # of the first seed, which stood there
    pruned, rounded = ({c.manifest["seed"]: c for c in made(seeds, stage)} for stage in ("pruned", "pruned_ptq"))
    assert pruned.keys() == rounded.keys() == {42, 43, 44}
    assert all(rounded[seed].parent_key("pruned") == pruned[seed].key for seed in pruned)
    assert pruned[42].manifest["files"]["model.safetensors"] != pruned[43].manifest["files"]["model.safetensors"]


@pytest.mark.slow
def test_the_report_has_every_seed_its_mean_and_its_spread(seeds):
    rows = rows_of(seeds)
    corpus = data.load(type("Args", (), {"data_dir": seeds.data_dir, "run_dir": seeds.run_dir, "source": "auto"}))
    labels = np.array(corpus.dev.labels)
    right = {c.manifest["seed"]: inference.open_classifier(c.path, threads=1).classify(corpus.dev.texts).argmax(-1) == labels
             for c in made(seeds, "pruned_ptq") if c.path != spoilt(seeds).path}
    row = rows["pruned_ptq"]
    assert row["seeds"] == [{"seed": seed, **dict.fromkeys(("score", "accuracy"), pytest.approx(right[seed].mean()))} for seed in (42, 44)]
    assert row["accuracy"] == row["seeds"][1]["accuracy"]  # the newest is the row's own
    assert row["score_mean"] == pytest.approx((right[42].mean() + right[44].mean()) / 2)
    assert row["score_sd"] == pytest.approx(abs(right[42].mean() - right[44].mean()) / 2**0.5)
    baseline = rows["distilled"]["accuracy"]
    assert row["no_loss"]["mean"] == pytest.approx(row["score_mean"] - baseline)
    assert len(rows["distilled"]["seeds"]) == 1 and "score_sd" not in rows["distilled"]
    text = (seeds.run_dir / "final_report.md").read_text(encoding="utf-8")
    assert f"{100 * row['score_mean']:.1f} ± {100 * row['score_sd']:.1f} (2)" in text


@pytest.mark.slow
def test_what_was_asked_for_otherwise_is_no_other_seed(seeds):
    """Of another recipe, of another stage, or from a parent of another recipe."""
    found = checkpoints.published(seeds.run_dir)
    newest = next(c for c in found if c.stage == "pruned_ptq")
    assert [c.manifest["seed"] for c in lineage.of_other_seeds(newest, found)] == [42, 43]

    def changed(stage: str):
        return [replace(c, manifest=c.manifest | {"args": c.manifest["args"] | {"lr": 0.5}}) if c.stage == stage and
                c.manifest["seed"] == 42 else c for c in found]

    for stage in ("pruned_ptq", "pruned"):
        assert [c.manifest["seed"] for c in lineage.of_other_seeds(newest, changed(stage))] == [43]


@pytest.mark.slow
def test_a_damaged_seed_is_left_out_and_named(seeds):
    assert [seed["seed"] for seed in rows_of(seeds)["pruned_ptq"]["seeds"]] == [42, 44]
    assert spoilt(seeds).path.name in {entry["key"] for entry in report_of(seeds)["skipped"]}


@pytest.mark.parametrize(("script", "parents", "made"), [
    ("5_finetune_teacher.py", (), ["teacher"]),
    ("make_lessons.py", ("teacher",), ["lessons"]),
    ("6_distill_student.py", ("teacher",), ["distilled"]),
    ("8_pruning_with_finetuning.py", ("teacher", "distilled"), ["pruned"]),
    ("9_quantize_pruned_model.py", ("distilled", "pruned"), ["distilled_ptq", "pruned_ptq"]),
    ("10_qat_kd_4bit.py", ("teacher", "distilled", "pruned"), ["pruned_qkd"]),
    ("11_export_onnx.py", ("distilled", "pruned", "pruned_qkd"), ["distilled_onnx_int8", "pruned_qkd_onnx", "pruned_qkd_onnx_int8"])])
def test_the_same_seed_gives_the_same_bytes(pipeline, tmp_path, script, parents, made):
    again = pipeline.copy(tmp_path / "run", *parents, lessons=made != ["lessons"])
    again.run(script, "--max-length", 48)
    for stage in made:
        one, other = (run.checkpoint(stage) for run in (pipeline, again))
        weights = [path.name for path in one.iterdir() if path.suffix in (".safetensors", ".onnx", ".parquet")]
        assert weights and all((one / name).read_bytes() == (other / name).read_bytes() for name in weights), stage

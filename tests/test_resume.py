"""A stage killed with -9 in mid-training and started again publishes the undisturbed run's weights, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment, manifests

SCRIPT = {"distilled": "6_distill_student.py", "pruned": "8_pruning_with_finetuning.py", "pruned_qkd": "10_qat_kd_4bit.py"}
PARENTS = {"distilled": ["teacher"], "pruned": ["teacher", "distilled"], "pruned_qkd": ["teacher", "distilled", "pruned"]}


def kill_in(script: str, flags: tuple, models: Path, training: str) -> str:
    """Runs a stage and kills it once the first step checkpoint of `training` is whole; returns what it had said."""
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / script), *map(str, flags)],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 120
    while not list(models.glob(f".partial_*/work_{training}/checkpoint-*/WHOLE")):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"{script} wrote no step checkpoint of '{training}':\n{process.communicate()[0]}")
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, f"too late: it had ended\n{said}"
    return said


@pytest.mark.parametrize(("stage", "trainings"), [("distilled", ["train"]), ("pruned", ["prune", "recover"]), ("pruned_qkd", ["train"])])
def test_killed_and_started_again_gives_the_same_weights(stages, tmp_path, stage, trainings):
    run = stages.copy(tmp_path / "run", *PARENTS[stage])
    models = run.run_dir / "models"
    for training in trainings:
        kill_in(SCRIPT[stage], run.flags(SCRIPT[stage]), models, training)
        assert stage not in {name for name, _ in manifests(run.run_dir)}, "a checkpoint was visible before it was whole"
    done = run.run(SCRIPT[stage])
    assert "continuing from step" in done.stdout
    ours, undisturbed = run.checkpoint(stage), stages.checkpoint(stage)
    one, other = (json.loads((path / "stage.json").read_text()) for path in (ours, undisturbed))
    assert one["key"] == other["key"]
    assert one["files"]["model.safetensors"] == other["files"]["model.safetensors"]
    assert (ours / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert one["metrics"] == other["metrics"]
    assert not list(models.glob(".partial_*")), "what resuming needs must go at publishing"
    shutil.rmtree(run.run_dir)

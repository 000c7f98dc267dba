"""A stage killed with -9 in mid-training and started again publishes the undisturbed run's weights, bit for bit."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment, heed_interrupts, manifests

SCRIPT = {"distilled": "6_distill_student.py", "pruned": "8_pruning_with_finetuning.py", "pruned_qkd": "10_qat_kd_4bit.py"}
PARENTS = {"distilled": ["teacher"], "pruned": ["teacher", "distilled"], "pruned_qkd": ["teacher", "distilled", "pruned"]}


def start(script: str, flags: tuple, models: Path, training: str) -> subprocess.Popen:
    """Runs a stage until the first step checkpoint of `training` is whole."""
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / script), *map(str, flags)],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    )
    end = time.monotonic() + 120
    while not list(models.glob(f".partial_*/work_{training}/checkpoint-*/WHOLE")):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"{script} wrote no step checkpoint of '{training}':\n{process.communicate()[0]}")
        time.sleep(0.002)
    return process


def end(process: subprocess.Popen, by: signal.Signals, code: int) -> str:
    """Sends a signal, checks that it ended the process with this code, and returns what it had said."""
    process.send_signal(by)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code, f"too late: it had ended\n{said}"
    return said


@pytest.mark.parametrize(("stage", "trainings"), [("distilled", ["train"]), ("pruned", ["prune", "recover"]), ("pruned_qkd", ["train"])])
def test_killed_and_started_again_gives_the_same_weights(stages, tmp_path, stage, trainings):
    run = stages.copy(tmp_path / "run", *PARENTS[stage])
    models = run.run_dir / "models"
    for training in trainings:
        end(start(SCRIPT[stage], run.flags(SCRIPT[stage]), models, training), signal.SIGKILL, -signal.SIGKILL)
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


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_behind_a_step_that_is_saved(stages, tmp_path, by, code):
    run = stages.copy(tmp_path / "run", "teacher")
    models = run.run_dir / "models"
    said = end(start(SCRIPT["distilled"], run.flags(SCRIPT["distilled"]), models, "train"), by, code)
    step = re.search(r"stopped behind step (\d+), which is saved: the same command goes on from there", said)[1]
    assert "Traceback" not in said and "distilled" not in {name for name, _ in manifests(run.run_dir)}
    done = run.run(SCRIPT["distilled"])
    assert f"continuing from step {step}" in done.stdout
    assert (run.checkpoint("distilled") / "model.safetensors").read_bytes() == (
        stages.checkpoint("distilled") / "model.safetensors").read_bytes()


def test_two_processes_are_not_at_work_in_one_directory(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    script, flags = SCRIPT["distilled"], run.flags(SCRIPT["distilled"])
    first = start(script, flags, run.run_dir / "models", "train")
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run([sys.executable, str(REPOSITORY / script), *map(str, flags)], cwd=REPOSITORY, env=environment(),
                            capture_output=True, text=True, check=False)
    assert (second.returncode, second.stderr.count("\n")) == (2, 1) and "another process is at work in" in second.stderr
    first.send_signal(signal.SIGCONT)
    end(first, signal.SIGKILL, -signal.SIGKILL)
    assert "continuing from step" in run.run(script).stdout, "a lock ends with its process"

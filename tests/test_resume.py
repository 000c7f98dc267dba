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
from chaos import PARENTS, SCRIPTS, weights
from scripts import REPOSITORY, environment, heed_interrupts, manifests


def begin(script: str, *flags) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / script), *map(str, flags)],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    )


def start(script: str, flags: tuple, models: Path, training: str) -> subprocess.Popen:
    """Runs a stage until the first step checkpoint of `training` is whole."""
    process = begin(script, *flags)
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


def stopped_behind(said: str) -> int:
    """The step that a stage says it saved when a signal ended it."""
    return int(re.search(r"stopped behind step (\d+), which is saved: the same command goes on from there", said)[1])


@pytest.mark.parametrize(("stage", "trainings"), [("pruned", ["prune", "recover"]),
                                                  pytest.param("distilled", ["train"], marks=pytest.mark.long),
                                                  pytest.param("pruned_qkd", ["train"], marks=pytest.mark.long)])
def test_killed_and_started_again_gives_the_same_weights(stages, tmp_path, stage, trainings):
    run = stages.copy(tmp_path / "run", *PARENTS[stage])
    models = run.run_dir / "models"
    for training in trainings:
        end(start(SCRIPTS[stage], run.flags(SCRIPTS[stage]), models, training), signal.SIGKILL, -signal.SIGKILL)
        assert stage not in {name for name, _ in manifests(run.run_dir)}, "a checkpoint was visible before it was whole"
    done = run.run(SCRIPTS[stage])
    assert "continuing from step" in done.stdout
    ours, undisturbed = run.checkpoint(stage), stages.checkpoint(stage)
    one, other = (json.loads((path / "stage.json").read_text()) for path in (ours, undisturbed))
    assert one["key"] == other["key"]
    assert one["files"]["model.safetensors"] == other["files"]["model.safetensors"]
    assert weights(ours) == weights(undisturbed)
    assert one["metrics"] == other["metrics"]
    assert not list(models.glob(".partial_*")), "what resuming needs must go at publishing"
    shutil.rmtree(run.run_dir)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)])
def test_a_signal_ends_it_behind_a_step_that_is_saved(stages, tmp_path, by, code):
    run = stages.copy(tmp_path / "run", "teacher")
    models = run.run_dir / "models"
    said = end(start(SCRIPTS["distilled"], run.flags(SCRIPTS["distilled"]), models, "train"), by, code)
    step = stopped_behind(said)
    assert "Traceback" not in said and "distilled" not in {name for name, _ in manifests(run.run_dir)}
    done = run.run(SCRIPTS["distilled"])
    assert f"continuing from step {step}" in done.stdout
    assert weights(run.checkpoint("distilled")) == weights(stages.checkpoint("distilled"))


@pytest.mark.slow
def test_a_signal_loses_nothing_where_the_best_look_is_not_kept(stages, tmp_path):
    """While pruning, and with --patience 0: there the library threw the newest step away beside an older one that had looked better."""
    run = stages.copy(tmp_path / "run", *PARENTS["pruned"])
    models, script = run.run_dir / "models", SCRIPTS["pruned"]
    step = stopped_behind(end(start(script, run.flags(script), models, "prune"), signal.SIGINT, 130))
    assert [path.parent.name for path in models.glob(".partial_*/work_prune/*/WHOLE")] == [f"checkpoint-{step}"]


@pytest.mark.slow
def test_two_processes_are_not_at_work_in_one_directory(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    script, flags = SCRIPTS["distilled"], run.flags(SCRIPTS["distilled"])
    first = start(script, flags, run.run_dir / "models", "train")
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run([sys.executable, str(REPOSITORY / script), *map(str, flags)], cwd=REPOSITORY, env=environment(),
                            capture_output=True, text=True, check=False)
    assert (second.returncode, second.stderr.count("\n")) == (2, 1) and "another process is at work in" in second.stderr
    first.send_signal(signal.SIGCONT)
    end(first, signal.SIGKILL, -signal.SIGKILL)
    assert "continuing from step" in run.run(script).stdout, "a lock ends with its process"


@pytest.mark.slow
def test_the_same_command_twice_at_once_gives_one_checkpoint(stages, tmp_path):
    run = stages.copy(tmp_path / "run", *PARENTS["pruned_qkd"])
    script = SCRIPTS["pruned_qkd"]
    both = [begin(script, *run.flags(script)) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 2]), said  # whichever comes late finds the other at work, or what it made
    assert codes == [0, 0] or any("another process is at work in" in text.splitlines()[-1] for text in said), said
    assert weights(run.checkpoint("pruned_qkd")) == weights(stages.checkpoint("pruned_qkd"))
    assert len(list((run.run_dir / "models").glob("*qkd*"))) == 1 and not list((run.run_dir / "models").glob(".partial_*"))


@pytest.mark.long
def test_two_seeds_at_once_give_two_checkpoints(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    script = SCRIPTS["distilled"]
    both = [begin(script, *run.flags(script), "--epochs", 1, "--seed", seed) for seed in (1, 2)]
    for process in both:
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, said
    made = [json.loads(path.read_text())["seed"] for path in (run.run_dir / "models").glob("distilled_student_*/stage.json")]
    assert sorted(made) == [1, 2] and not list((run.run_dir / "models").glob(".partial_*"))

"""Two processes that train one model, by torchrun and gloo: the same cut as one process makes, published once, killed and resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from scripts import REPOSITORY, environment

SCRIPTS = {"teacher": "5_finetune_teacher.py", "distilled": "6_distill_student.py", "pruned": "8_pruning_with_finetuning.py",
           "pruned_qkd": "10_qat_kd_4bit.py"}
PARENTS = {"teacher": (), "distilled": ("teacher",), "pruned": ("teacher", "distilled"), "pruned_qkd": ("teacher", "distilled", "pruned")}

# Nothing by chance, and no last batch that is smaller: then two processes' sums are one's, but for their order.
EVEN = ("--dropout", 0, "--hidden-weight", 0)
EVEN_LESSONS = ("--train-sentences", 224)


def begin(run, stage: str, *more) -> subprocess.Popen:
    """Two processes of a stage under torchrun; short ones."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPTS[stage],
               *map(str, run.flags(SCRIPTS[stage])), "--epochs", "2", *map(str, more)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def together(run, stage: str, *more) -> str:
    process = begin(run, stage, *more)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    return said


def left_over(run) -> list:
    return list((run.run_dir / "models").glob(".partial*"))


@pytest.fixture(scope="module")
def pruned_by_two(made_once, stages):
    """A run whose pruned model two processes made, without dropout."""

    def make(folder):
        run = stages.copy(folder / "run", *PARENTS["pruned"])
        run.run("make_lessons.py", *EVEN_LESSONS)
        run.said["torchrun"] = subprocess.CompletedProcess(["torchrun"], 0, together(run, "pruned", *EVEN))
        return run

    return made_once("two_processes", make)


@pytest.mark.parametrize("stage", ["teacher", "distilled", "pruned_qkd"])
@pytest.mark.long
def test_a_stage_of_two_processes_publishes_once(stages, tmp_path, stage):
    run = stages.copy(tmp_path / "run", *PARENTS[stage])
    said = together(run, stage)
    assert said.count("published ") == 1 and left_over(run) == [], said
    assert (run.checkpoint(stage) / "model.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_cut_what_one_cuts(stages, pruned_by_two, tmp_path):
    run, said = pruned_by_two, pruned_by_two.said["torchrun"].stdout
    assert said.count("published ") == 1 and said.count("cut to heads") == 1 and left_over(run) == [], said
    alone = stages.copy(tmp_path / "run", *PARENTS["pruned"])
    alone.run("make_lessons.py", *EVEN_LESSONS)
    alone.run(SCRIPTS["pruned"], "--epochs", 2, *EVEN)
    one, two = (load_file(each.checkpoint("pruned") / "model.safetensors") for each in (alone, run))
    assert {name: weight.shape for name, weight in one.items()} == {name: weight.shape for name, weight in two.items()}
    # Sums of another order, made larger by AdamW at so high a rate; an odd last batch alone made it .004.
    gaps = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    assert gaps.mean() < 1e-4, gaps.mean()


@pytest.mark.long
def test_a_killed_process_ends_all_and_the_same_command_goes_on(stages, pruned_by_two, tmp_path):
    run = stages.copy(tmp_path / "run", *PARENTS["pruned"])
    run.run("make_lessons.py", *EVEN_LESSONS)
    process = begin(run, "pruned", *EVEN)
    work = run.run_dir / "models"
    while process.poll() is None and not list(work.glob(".partial*/work_prune/checkpoint-*/WHOLE")):
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    workers = [int(pid) for pid in children.split()]
    os.kill(workers[1], signal.SIGKILL)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "published" not in said
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    said = together(run, "pruned", *EVEN)
    assert "continuing" in said and left_over(run) == []
    names = [each.checkpoint("pruned") / "model.safetensors" for each in (run, pruned_by_two)]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_one_line(stages, tmp_path):
    run = stages.copy(tmp_path / "run", *PARENTS["pruned"])
    process = begin(run, "pruned", "--batch-size", 15)
    said = process.communicate(timeout=300)[0]
    assert process.returncode != 0 and "error: --batch-size 15 can't be shared evenly by 2 processes" in said
    shutil.rmtree(run.run_dir)

"""Structures in stage 8: found by a search that a kill doesn't change, taken over from another model, and closed in time."""

import json
import re
import shutil
import signal

import pytest
from scripts import call_script, load_script, manifests, rewrite_manifest
from test_errors import refused
from test_resume import end, start

from common import checkpoints, opening
from common.architectures import layout
from compress import costs, schedule
from compress.gates import Gates
from training import teacher_cache
from training.trainer import StageTrainer

PRUNE = "8_pruning_with_finetuning.py"
BRIEF = ("--epochs", 0.2, "--prune-epochs", 0.5)


def pruned(run, *flags, variant: str = "published"):
    """Runs stage 8 here: (what it made, what it said)."""
    code, out, err = call_script(PRUNE, *run.flags(PRUNE), *flags)
    assert code == 0, err
    return checkpoints.read(run.checkpoint("pruned", variant)), out


def structure(checkpoint) -> dict:
    """What is written for others, after a look that it is the model's own."""
    written = json.loads((checkpoint.path / "structure.json").read_text())
    config = opening.load_model(checkpoint.path).config
    assert [heads for heads, neurons in zip(written["heads"], written["neurons"], strict=True) if heads or neurons] == config.heads
    return written


# --- a search

SEARCH = ("--start", "teacher", "--budget", "flops=0.4", "--tries", 4, "--epochs", 2, "--prune-epochs", 1, "--hidden-weight", 0)


def would_spend(run, best: dict, heads: list[int], neurons: list[int]) -> float:
    """The share of the teacher's FLOPs that another structure than the best would take, at the length at which that is more."""
    teacher = layout.compact_of_teacher(opening.load_model(run.checkpoint("teacher")), list(run.classes)).config
    found = []
    for budget in checkpoints.read(run.checkpoint("pruned")).manifest["metrics"]["budgets"]:
        prices = costs.Flops(int(re.search(r"at (\d+) tokens", budget["name"])[1]), teacher)
        found.append(budget["spent"] * costs.total(prices, heads, neurons) / costs.total(prices, best["heads"], best["neurons"]))
    return max(found)


def one_more(heads: list[int], neurons: list[int]):
    """The structures with a head or a neuron more."""
    for i, n in enumerate(heads + neurons):
        if n < (4 if i < len(heads) else 48):
            kept = [*heads, *neurons]
            kept[i] += 1
            yield kept[:len(heads)], kept[len(heads):]


@pytest.fixture(scope="module")
def searched(made_once, stages):
    """A run whose pruned model's structure was searched, undisturbed."""

    def make(folder):
        run = stages.copy(folder / "run", "teacher")
        run.in_processes = True
        run.run(PRUNE, *SEARCH)
        return run

    return made_once("searched", make)


@pytest.mark.slow
def test_a_search_keeps_what_it_tried_and_goes_on_with_the_best(searched):
    made = checkpoints.read(searched.checkpoint("pruned"))
    found = made.manifest["metrics"]["structure"]
    assert found["found_by"] == "search" and 2 <= len(found["tried"]) <= 4
    rounds = [len(each["kl"]) for each in found["tried"]]
    assert max(rounds) == (2 if len(rounds) > 2 else 1) and min(rounds) == 1 and all(kl > 0 for each in found["tried"] for kl in each["kl"])
    best = min((each for each in found["tried"] if len(each["kl"]) == max(rounds)), key=lambda each: each["kl"][-1])
    assert structure(made) == {"heads": best["heads"], "neurons": best["neurons"]}
    budgets = made.manifest["metrics"]["budgets"]
    assert len(budgets) == 2 and all(budget["name"].startswith("of the teacher's FLOPs at ") for budget in budgets)
    spent = max(budget["spent"] for budget in budgets)
    assert {budget["asked"] for budget in budgets} == {0.4} and spent <= 0.4
    dearer = [would_spend(searched, best, *kept) for kept in one_more(best["heads"], best["neurons"])]
    assert spent >= 0.98 * 0.4 or min(dearer) > 0.4, "of so small a model the next unit may be too dear"
    assert searched.said[PRUNE].stdout.count("  tried heads [") == sum(rounds)
    assert not list((searched.run_dir / "models").glob("*/work_*")), "what the tries trained is gone"


@pytest.mark.slow
def test_a_search_killed_in_mid_try_ends_as_an_undisturbed_one(searched, stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher")
    run.in_processes = True
    flags, models = (*run.flags(PRUNE), *SEARCH), run.run_dir / "models"
    for training in ("try0_recover0", "try1_prune", "try1_recover0", "prune"):
        end(start(PRUNE, flags, models, training), signal.SIGKILL, -signal.SIGKILL)
        assert "pruned" not in {stage for stage, _ in manifests(run.run_dir)}
    said = run.run(PRUNE, *SEARCH).stdout
    assert "try0_prune: trained already" in said and "try1_recover0: trained already" in said
    ours, theirs = (checkpoints.read(each.checkpoint("pruned")) for each in (run, searched))
    assert structure(ours) == structure(theirs) and ours.manifest["metrics"] == theirs.manifest["metrics"]
    assert ours.manifest["files"]["model.safetensors"] == theirs.manifest["files"]["model.safetensors"] and ours.key == theirs.key
    shutil.rmtree(run.run_dir)


# --- a structure of another's

@pytest.fixture
def run(stages, tmp_path):
    return stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")


@pytest.mark.parametrize("by", ["name", "directory"])
def test_a_structure_of_anothers_is_kept_to_the_unit(run, by):
    first = checkpoints.read(run.checkpoint("pruned"))
    named = "published" if by == "name" else first.path
    made, out = pruned(run, *BRIEF, "--structure-of", named, "--name", "second", variant="second")
    assert structure(made) == structure(first) and f"cut to heads {structure(first)['heads']}" in out
    keys = [run.checkpoint(stage) for stage in ("distilled", "teacher", "lessons", "pruned")]
    assert [parent["key"] for parent in made.manifest["parents"]] == [checkpoints.read(path).key for path in keys]
    assert made.manifest["metrics"]["structure"] == {"found_by": "another's", "tried": []}
    kept = structure(first)
    assert [(each["name"], each["asked"], each["spent"]) for each in made.manifest["metrics"]["budgets"]] == [
        (f"{kind} kept", sum(kept[kind]), sum(kept[kind])) for kind in ("heads", "neurons")]


def test_a_structure_is_of_this_very_seed_where_it_is_named_and_of_any_where_its_directory_is(run):
    line = refused(PRUNE, (*run.flags(PRUNE), "--structure-of", "published", "--seed", 5), run.run_dir)
    assert "no 'published' of seed 5" in line and "give --seed 42" in line
    line = refused(PRUNE, (*run.flags(PRUNE), "--start", "publishd"), run.run_dir)
    assert "no 'publishd' under" in line and "those here are published\n" in line
    first = checkpoints.read(run.checkpoint("pruned"))
    made, _ = pruned(run, *BRIEF, "--structure-of", first.path, "--seed", 5, "--name", "fifth", variant="fifth")
    assert made.manifest["seed"] == 5 and structure(made) == structure(first)


def test_a_structure_of_another_depth_is_refused(run):
    line = refused(PRUNE, (*run.flags(PRUNE), "--start", "teacher", "--structure-of", "published"), run.run_dir)
    assert "the structure is of 2 layers" in line and "the model has 4" in line
    line = refused(PRUNE, (*run.flags(PRUNE), "--first-layers", 1, "--structure-of", "published"), run.run_dir)
    assert "the structure is of 2 layers" in line and "the model has 1" in line


def test_a_structure_that_keeps_more_than_there_is_or_none_is_refused(run):
    line = refused(PRUNE, (*run.flags(PRUNE), "--structure-of", run.checkpoint("distilled")), run.run_dir)
    assert "holds no structure.json: give a model that stage 8 has pruned" in line
    more, _ = pruned(run, "--epochs", 0.2, "--prune-epochs", 0, "--name", "whole", variant="whole")
    assert structure(more) == {"heads": [4, 4], "neurons": [48, 48]}
    line = refused(PRUNE, (*run.flags(PRUNE), "--start", "published", "--structure-of", "whole"), run.run_dir)
    assert "the structure keeps heads [4, 4], the model has" in line
    assert "no checkpoint at" in refused(PRUNE, (*run.flags(PRUNE), "--structure-of", run.run_dir / "nowhere"), run.run_dir)
    line = refused(PRUNE, (*run.flags(PRUNE), "--structure-of", "nowhere"), run.run_dir)
    assert "no 'nowhere' under" in line


def test_a_preset_takes_a_structure_that_is_given_instead_of_its_budget(run):
    assert call_script("make_lessons.py", *run.flags("make_lessons.py"), "--preset", "near", "--augment", 20)[0] == 0
    flags = (*run.flags(PRUNE), *BRIEF, "--start", "student", "--structure-of", "published", "--preset", "near")
    args = load_script(PRUNE).parse_args([str(flag) for flag in flags if flag != "--fast"])
    assert args.tries == 1 and args.budget is None
    code, out, err = call_script(PRUNE, *(flag for flag in flags if flag != "--fast"))
    assert code == 0 and "tried" not in out, err
    made = checkpoints.read(run.checkpoint("pruned", "near"))
    assert structure(made) == structure(checkpoints.read(run.checkpoint("pruned")))


# --- when gates close

@pytest.mark.parametrize("epochs", [1, 4])
def test_nothing_closes_while_warming_up_and_rankings_follow_from_the_steps(run, monkeypatch, epochs):
    stage, closings, steps = load_script(PRUNE), [], [0]
    close, step = Gates.close, StageTrainer.training_step

    def counted(trainer, *args, **kwargs):
        steps.append(trainer.state.global_step)
        return step(trainer, *args, **kwargs)

    def watched(gates, masks):
        closings.append((steps[-1], sum(int((mask == 0).sum()) for mask in masks)))
        close(gates, masks)

    monkeypatch.setattr(StageTrainer, "training_step", counted)
    monkeypatch.setattr(Gates, "close", watched)
    _, out = pruned(run, "--prune-epochs", epochs, "--epochs", 0.2, "--sparsity", 0.5, 0.5, "--name", "watched", variant="watched")
    total = max(at for at, _ in closings) + 1
    first, last = (round(share * total) for share in (stage.WARM_UP, 0.7))
    assert min(at for at, _ in closings) > first > 0
    every = max(1, round((0.7 - stage.WARM_UP) * total / stage.RANKINGS))
    assert all(at % every == 0 for at, _ in closings[:-1]) and len(closings) <= total
    whole = 4 + 48  # of 8 heads and 96 neurons half
    for at, closed in closings:
        assert closed == pytest.approx(whole * schedule.cubic_sparsity(1.0, schedule.progress(at, first, last)), abs=2.01)
    assert all(closed == whole for at, closed in closings if at >= last) and closings[-1][1] == whole


# --- hidden states behind a cut

@pytest.mark.slow
def test_a_start_without_some_layers_goes_on_with_the_teachers_layers_that_it_knew(run, monkeypatch):
    path = run.checkpoint("pruned")
    known = checkpoints.read(path).manifest["metrics"]
    assert known["teacher_layers"] == [2, 4]
    rewrite_manifest(path, metrics=known | {"teacher_layers": [1, 3]})
    shown, compute = [], teacher_cache.hidden_states
    monkeypatch.setattr(teacher_cache, "hidden_states", lambda *args: shown.append(args[3]) or compute(*args))
    made, _ = pruned(run, *BRIEF, "--start", "published", "--sparsity", 0, 0, "--name", "on", variant="on")
    assert shown == [[1, 3]] and made.manifest["metrics"]["teacher_layers"] == [1, 3]
    fewer, _ = pruned(run, *BRIEF, "--start", "published", "--first-layers", 1, "--sparsity", 0, 0, "--name", "one", variant="one")
    assert shown[1:] == [[1]] and fewer.manifest["metrics"]["teacher_layers"] == [1]
    without, _ = pruned(run, *BRIEF, "--start", "published", "--hidden-weight", 0, "--sparsity", 0, 0, "--name", "no", variant="no")
    assert shown[2:] == [None] and without.manifest["metrics"]["teacher_layers"] is None


# --- lessons

@pytest.mark.slow
def test_a_preset_wants_lessons_of_its_own(run):
    line = refused(PRUNE, (*run.flags(PRUNE), *BRIEF, "--preset", "near"), run.run_dir)
    assert "no lessons of variant 'augmented'" in line and "run python make_lessons.py --preset near first" in line
    named, _ = pruned(run, *BRIEF, "--preset", "near", "--lessons", run.checkpoint("lessons"), "--budget", "flops=.5", variant="near")
    assert checkpoints.read(run.checkpoint("lessons")).key in {parent["key"] for parent in named.manifest["parents"]}
    assert call_script("make_lessons.py", *run.flags("make_lessons.py"), "--preset", "near", "--augment", 20)[0] == 0
    own, _ = pruned(run, *BRIEF, "--preset", "near", "--budget", "flops=.5", variant="near")
    assert checkpoints.read(run.checkpoint("lessons", "augmented")).key in {parent["key"] for parent in own.manifest["parents"]}
    assert own.asked_key != named.asked_key

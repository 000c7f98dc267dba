"""--report-to: curves go where people look at them, by the library's own means, and change nothing else."""

import json
import os
import subprocess
import sys

import pytest
from scripts import call_script, load_script, manifests, run_script

from common import forms, plan
from common.publishing import NOT_IN_KEY

TEACHER = "5_finetune_teacher.py"


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_one_line(name, monkeypatch):
    monkeypatch.setattr(forms.importlib.util, "find_spec", lambda asked: None)
    code, _, err = call_script(TEACHER, "--report-to", name)
    assert code == 2 and f"{name} isn't installed here: pip install {name}" in err and err.count("\n") == 1
    code, _, err = call_script("shrink.py", "--report-to", "paper")
    assert code == 2 and "paper is none of tensorboard, wandb" in err and err.count("\n") == 1


def test_the_library_knows_every_one_that_may_be_named():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(forms.RECORDERS) <= INTEGRATION_TO_CALLBACK.keys() and "report_to" in NOT_IN_KEY


def test_shrink_hands_it_to_what_trains_alone(monkeypatch):
    monkeypatch.setattr(forms.importlib.util, "find_spec", lambda asked: asked)
    script = load_script("shrink.py")
    steps = script.whole_plan(script.parse_args(["--preset", "published", "--report-to", "trackio"]))
    said = {step.script for step in steps if "--report-to" in step.flags}
    assert said == {TEACHER, *(plan.SCRIPTS[stage][1] for stage in plan.TRAINS)}
    for step in steps:
        load_script(step.script).parse_args(list(step.flags))
    assert "trackio" not in script.typed(script.parse_args(["--report-to", "trackio"])), "a card says what decides the result"


@pytest.mark.long
def test_tensorboard_shows_what_the_log_says_and_the_weights_are_the_same(bert_local, tmp_path):
    from made_up import write_data

    packages = tmp_path / "packages"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", packages, "tensorboard"], check=True)
    data, keys = write_data(tmp_path / "data", ("negative", "positive"), 200, 40), []
    for name, more in (("with", ("--report-to", "tensorboard")), ("without", ())):
        run = tmp_path / name
        run.mkdir()
        os.symlink(bert_local, run / "bert-local")
        short = ("--fast", "--epochs", 1, "--evals-per-epoch", 2, "--run-dir", run, "--data", data)
        run_script(TEACHER, *short, *more, PYTHONPATH=str(packages))
        keys.append(manifests(run)["teacher", "published"][1]["key"])
    assert keys[0] == keys[1]
    folder = next((tmp_path / "with/results/curves").iterdir())
    assert folder.name == f"finetuned_teacher_{keys[0].split('-')[0]}" and not (tmp_path / "without/results").exists()
    read = ("import json, sys; from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as E; "
            "e = E(sys.argv[1]); e.Reload(); print(json.dumps([[s.step, s.value] for s in e.Scalars('eval/accuracy')]))")
    shown = subprocess.run([sys.executable, "-c", read, folder / "train"], capture_output=True, text=True, check=True,
                           env=os.environ | {"PYTHONPATH": str(packages)}).stdout
    log = json.loads((manifests(tmp_path / "with")["teacher", "published"][0] / "training_log.json").read_text())["train"]
    told = [(entry["step"], entry["eval_accuracy"]) for entry in log if "eval_accuracy" in entry]
    assert [(step, pytest.approx(value)) for step, value in json.loads(shown)] == told and len(told) >= 2

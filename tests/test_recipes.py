"""recipes.toml: each operating point is one recipe, and all that it says is what the stages take."""

import re

import pytest
from scripts import REPOSITORY, load_script

from common import plan, recipes

SCRIPTS = {stage: script for stage, (_, script) in plan.SCRIPTS.items()} | {"lessons": "make_lessons.py"}
PRESETS = sorted(recipes.read())


@pytest.mark.parametrize("fast", [False, True], ids=["full", "fast"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_stage_takes_the_flags_of_every_recipe(name, fast):
    recipe = recipes.read()[name]
    for stage in recipe.stages:
        load_script(SCRIPTS[stage]).parse_args(recipe.words(stage, fast) + (["--fast"] if fast else []))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_recipe_and_what_is_typed_counts_more(name):
    trains = "prune" if "prune" in recipes.read()[name].stages else "distil"
    for stage in ("lessons", trains):
        script, words = load_script(SCRIPTS[stage]), recipes.read()[name].words(stage, fast=False)
        by_name, typed = (vars(script.parse_args(flags)) for flags in (["--preset", name], ["--preset", name, *words]))
        assert by_name == typed
    assert load_script(SCRIPTS[trains]).parse_args(["--preset", name, "--epochs", "0.125"]).epochs == 0.125


def test_what_a_recipe_says_is_said_nowhere_else():
    """No number of an operating point in the Makefile or in a script: there its name stands."""
    assert not re.search(r"--(heads|neurons|sparsity|budget|epochs|lr|augment)\b", (REPOSITORY / "Makefile").read_text(encoding="utf-8"))
    for recipe in recipes.read().values():
        assert set(recipe.flags) <= {"lessons", *SCRIPTS} and recipe.stages[0] == "lessons" and recipe.stages[-1] == "export"
        assert recipe.about and {"distil", "prune"} & set(recipe.stages)

"""The Makefile's recipes against the scripts: every stage command that a target would run is one that the script takes."""

import re
import shlex
import subprocess

import pytest
from conftest import REPOSITORY, load_script

STAGE = re.compile(r"\.venv/bin/python (\w+\.py)\b(.*)")


def stage_commands(*make: str) -> list[tuple[str, list[str]]]:
    """(script, flags) of each stage that `make` would run, in order; a loop's commands once, for seed 1."""
    said = subprocess.run(["make", "--dry-run", *make], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    commands = re.split(r"&&|;|\n", said.replace("\\\n", " ").replace("$seed", "1").replace("$variant", "deep"))
    found = [STAGE.search(command.split("||")[0]) for command in commands]
    return [(match[1], shlex.split(match[2])) for match in found if match]


@pytest.mark.parametrize("make", [("fast",), ("full",), ("shape",), ("box",), ("presets", "LAYERS=6"), ("presets", "LAYERS=12"),
                                  ("frontier",), ("presets", "LONG=1", "LAYERS=6"),
                                  ("frontier", "LONG=1", "DATA_DIR=.", "MATMUL=medium"),
                                  ("presets", "LONG=1", "KEEPS_10=--target-flops 0.099 --target-speedup 16")], ids=" ".join)
def test_stages_take_the_flags_that_make_gives_them(make):
    commands = stage_commands(*make)
    assert commands
    for script, flags in commands:
        load_script(script).parse_args(flags)


def test_known_structures_are_for_a_teacher_of_six_layers():
    for layers, structures in (("6", {(6, "near"), (4, "balanced"), (6, "max")}), ("12", set())):
        pruned = [load_script(script).parse_args(flags) for script, flags in stage_commands("presets", f"LAYERS={layers}")
                  if script.startswith("8_")]
        assert {(len(args.heads), args.variant) for args in pruned if args.heads} == structures
        assert all(args.heads or args.target_flops for args in pruned)


def test_what_goes_on_from_a_name_finds_it_made():
    """Of `make frontier`, short and long: each --after names what a command before has made."""
    for make, own in ((("frontier",), "balanced"), (("frontier", "LONG=1"), "flops17")):
        made = set()
        for script, flags in stage_commands(*make):
            if script.startswith("8_"):
                args = load_script(script).parse_args(flags)
                assert args.after is None or args.after in made
                made.add(args.variant)
            elif script.startswith("11_"):
                assert load_script(script).parse_args(flags).variant in made
        assert made == {own, "near", "max", "flops04", "flops05", "flops03", "flops02"}

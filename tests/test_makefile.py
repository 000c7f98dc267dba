"""The Makefile's recipes against the scripts: every stage command that a target would run is one that the script takes."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment, load_script

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


# --- what a shell would take apart

NASTY = ["my reviews", "o'brien", 'the "best"', "a$b $(c) `d`", "x&y; z", "-leading", "评论", "{a,b} *?", "back\\slash", "a#b", "~tilde",
         "$$HOME%"]
TARGETS = ["fast", "full", "presets", "frontier", "bench", "ablation", "box", "shape", "chaos", "test"]
STUB = '#!/bin/sh\n{ for word in "$@"; do printf "%s\\037" "$word"; done; echo; } >> "$ARGUMENTS"\n'


@pytest.fixture(scope="module")
def stubbed(tmp_path_factory):
    """A function: a target and variables of make -> the arguments of each Python that it starts, by a checkout whose path has a blank."""
    folder = tmp_path_factory.mktemp("a checkout")
    shutil.copy(REPOSITORY / "Makefile", folder)
    installed = [".venv", *(f"runs/peers/{peer}" for peer in ("openvino", "torchao", "neural-compressor", "torch-pruning"))]
    for place in installed:
        (folder / place / "bin").mkdir(parents=True)
        (folder / place / "bin/python").write_text(STUB)
        (folder / place / "bin/python").chmod(0o755)

    def started(target: str, *variables: str, **env: str) -> list[list[str]]:
        log = folder / "arguments"
        log.write_text("")
        keep = [flag for place in installed for flag in ("-o", f"{place}/.installed")]
        subprocess.run(["make", "-s", *keep, target, "LAYERS=12", *variables], cwd=folder, check=True, capture_output=True,
                       env=environment(ARGUMENTS=str(log), **env))
        return [line.split("\037")[:-1] for line in log.read_text().splitlines()]

    return started


@pytest.mark.parametrize("target", TARGETS)
def test_a_directory_of_any_name_reaches_the_scripts_whole(stubbed, target):
    plain = stubbed(target, "DATA_DIR=reviews")
    takes = [words.index("--data-dir=reviews") for words in plain if "--data-dir=reviews" in words]
    assert plain and bool(takes) == (target not in ("fast", "chaos", "test"))
    for name in NASTY:
        expected = [[word.replace("--data-dir=reviews", f"--data-dir={name}") for word in words] for words in plain]
        assert stubbed(target, f"DATA_DIR={name}") == expected
    assert stubbed(target, DATA_DIR=NASTY[3]) == stubbed(target, f"DATA_DIR={NASTY[3]}"), "from the environment too"


def test_scripts_take_a_directory_whose_name_begins_with_a_dash(stubbed):
    for script, *flags in stubbed("full", "DATA_DIR=-leading"):
        assert load_script(script).parse_args(flags).data_dir == Path("-leading")


def test_an_interpreter_and_an_index_of_any_name_reach_the_shell_whole():
    make = ["make", "--no-print-directory", "--dry-run", "--always-make", "test",
            "PYTHON=/opt/my $python's/bin/python3", "TORCH_INDEX=https://a/b?c=1&d=2"]
    lines = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    assert shlex.split(lines[0]) == ["/opt/my $python's/bin/python3", "-m", "venv", ".venv"]
    assert "https://a/b?c=1&d=2" in shlex.split(lines[1])

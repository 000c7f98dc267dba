"""The Makefile's recipes against the scripts: every stage command that a target would run is one that the script takes."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from scripts import REPOSITORY, environment, load_script

COMMAND = re.compile(r"\.venv/bin/python (-m bench\.)?([\w.]+)\b(.*)")
STAGE = re.compile(r"(shrink|download_model|make_lessons|\d+_\w+)\.py")


def started_by(*make: str) -> list[tuple[str, list[str]]]:
    """(script or bench, flags) of each command that `make` would run, in order; a loop's once, for seed 1."""
    said = subprocess.run(["make", "--dry-run", *make], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    commands = re.split(r"&&|;|\n", said.replace("\\\n", " ").replace("$seed", "1").replace("$share", ".06"))
    found = [COMMAND.search(command.split("||")[0]) for command in commands]
    return [(match[2], shlex.split(match[3])) for match in found if match and (match[1] or STAGE.fullmatch(match[2]))]


@pytest.mark.parametrize("make", [("fast",), ("full",), ("box",), ("presets",), ("frontier",), ("full", "DATA_DIR=.", "SOURCE=package"),
                                  ("presets", "MATMUL=medium", "TEACHER=my-bert")], ids=" ".join)
def test_stages_take_the_flags_that_make_gives_them(make):
    commands = [(script, flags) for script, flags in started_by(*make) if STAGE.fullmatch(script)]
    assert commands
    for script, flags in commands:
        args = load_script(script).parse_args(flags)
        if script == "shrink.py":
            for step in load_script(script).whole_plan(args):
                load_script(step.script).parse_args(list(step.flags))


def test_stages_take_the_flags_that_the_bench_of_distilberts_shape_gives_them(tmp_path):
    from bench import distilbert_shape

    stages = distilbert_shape.commands(tmp_path)
    assert {script[:2] for script, _ in stages} == {"5_", "ma", "6_", "8_", "9_", "10", "11", "7_"}
    for script, flags in stages:
        load_script(script).parse_args(flags)


def test_the_makefile_has_targets_of_a_line_or_two_and_no_recipe():
    """Where a bench needs more it is Python. Making a venv is make's own work, and `make bench` starts four benches."""
    rules = re.split(r"\n(?=\S)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"))
    lines = {rule.split(":")[0]: rule.replace("\\\n", " ").count("\n\t") for rule in rules if "\n\t" in rule and not rule.startswith("#")}
    assert {"fast", "full", "presets", "frontier", "box", "shape", "ablation", "chaos"} < set(lines)
    longer = {target for target, count in lines.items() if count > 2}
    assert longer <= {"bench", "test", ".venv/.installed", "runs/peers/%/.installed"}


def test_teacher_reaches_what_shrinks_it():
    for target in ("full", "presets"):
        assert all("--teacher=my bert" in flags for script, flags in started_by(target, "TEACHER=my bert") if script == "shrink.py")


# --- what a shell would take apart

NASTY = ["my reviews", "o'brien", 'the "best"', "a$b $(c) `d`", "x&y; z", "-leading", "评论", "{a,b} *?", "back\\slash", "a#b", "~tilde",
         "$$HOME%"]
TARGETS = ["fast", "full", "presets", "frontier", "bench", "ablation", "box", "ship", "shape", "chaos", "test"]
STUB = '#!/bin/sh\n{ for word in "$@"; do printf "%s\\037" "$word"; done; echo; } >> "$ARGUMENTS"\n'


@pytest.fixture(scope="module")
def stubbed(tmp_path_factory):
    """A function: a target and variables of make -> the arguments of each Python that it starts, by a checkout whose path has a blank."""
    folder = tmp_path_factory.mktemp("a checkout")
    shutil.copy(REPOSITORY / "Makefile", folder)
    peers = re.search(r"^PEERS := (.*)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    installed = [".venv", *(f"runs/peers/{peer}" for peer in peers)]
    for place in installed:
        (folder / place / "bin").mkdir(parents=True)
        (folder / place / "bin/python").write_text(STUB)
        (folder / place / "bin/python").chmod(0o755)

    def started(target: str, *variables: str, **env: str) -> list[list[str]]:
        log = folder / "arguments"
        log.write_text("")
        keep = [flag for place in installed for flag in ("-o", f"{place}/.installed")]
        subprocess.run(["make", "-s", *keep, target, *variables], cwd=folder, check=True, capture_output=True,
                       env=environment(ARGUMENTS=str(log), **env))
        return [line.split("\037")[:-1] for line in log.read_text().splitlines()]

    return started


@pytest.mark.parametrize("target", TARGETS)
def test_a_directory_of_any_name_reaches_the_scripts_whole(stubbed, target):
    plain = stubbed(target, "DATA_DIR=reviews")
    flags = ("--data=reviews", "--data-dir=reviews")
    takes = [word for words in plain for word in words if word in flags]
    assert plain and bool(takes) == (target not in ("fast", "chaos", "test"))
    for name in NASTY:
        expected = [[word.replace("=reviews", f"={name}") if word in flags else word for word in words] for words in plain]
        assert stubbed(target, f"DATA_DIR={name}") == expected
    assert stubbed(target, DATA_DIR=NASTY[3]) == stubbed(target, f"DATA_DIR={NASTY[3]}"), "from the environment too"


def test_scripts_take_a_directory_whose_name_begins_with_a_dash(stubbed):
    for script, *flags in stubbed("full", "DATA_DIR=-leading"):
        assert load_script(script).parse_args(flags).data == Path("-leading")


def test_an_interpreter_and_an_index_of_any_name_reach_the_shell_whole():
    make = ["make", "--no-print-directory", "--dry-run", "--always-make", "test",
            "PYTHON=/opt/my $python's/bin/python3", "TORCH_INDEX=https://a/b?c=1&d=2"]
    lines = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    assert shlex.split(lines[0]) == ["/opt/my $python's/bin/python3", "-m", "venv", ".venv"]
    assert "https://a/b?c=1&d=2" in shlex.split(lines[1])

"""Terminals of other encodings, and streams that are closed, full or broken off."""

import argparse
import ast
import io
import os
import sys
from types import SimpleNamespace

import pytest
from scripts import REPOSITORY, call_script, load_script
from shell import labels, one_line, shell

from common import checkpoints, cli, provenance, publishing

BOX = REPOSITORY / "pretrained/sst2-max/onnx"
SCRIPTS = sorted(path.name for path in REPOSITORY.glob("*.py"))
ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "gbk", "shift-jis"]


# --- encodings

@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_printed_in_any_encoding(monkeypatch, script, encoding):
    paper = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(paper, encoding=encoding))
    with pytest.raises(SystemExit) as ended:
        load_script(script).parse_args(["--help"])
    assert ended.value.code == 0 and "usage: " in paper.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_messages_are_printed_in_any_encoding(monkeypatch, encoding):
    paper = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(paper, encoding=encoding))
    cli.run(lambda args: cli.say("Δ −0.3 × … 评论 \udcff é"), argparse.Namespace(seed=1))
    said = paper.getvalue().decode(encoding)
    assert said.count("\n") == 1 and "\\udcff" in said
    if encoding == "ascii":
        assert said == "delta -0.3 x ... \\u8bc4\\u8bba \\udcff \\xe9\n"


def test_a_real_terminal_of_ascii_shows_help_and_a_refusal(tmp_path):
    line = "$PY 6_distill_student.py --help && $PY predict.py --run-dir $RUN x"
    done = shell(line, PYTHONIOENCODING="ascii", RUN=str(tmp_path / "评论"))
    assert done.returncode == 2 and "alpha*T^2*KL" in done.stdout
    assert "\\u8bc4\\u8bba" in done.stderr and "Traceback" not in done.stderr


def test_answers_are_utf8_whatever_the_terminal_is():
    assert shell("$PY predict.py 评论", PYTHONIOENCODING="ascii").stdout.endswith("\t评论\n")


@pytest.mark.slow
def test_a_stage_publishes_under_a_name_of_another_script(stages, tmp_path):
    run = stages.copy(tmp_path / "评论", "teacher", "distilled", "pruned")
    flags = " ".join(f"'{flag}'" for flag in run.flags("9_quantize_pruned_model.py"))
    done = shell(f"$PY 9_quantize_pruned_model.py {flags} >$OUT", PYTHONIOENCODING="ascii", OUT=str(tmp_path / "log"))
    assert done.returncode == 0 and run.checkpoint("pruned_ptq").is_dir(), done.stderr
    assert "published" in (tmp_path / "log").read_text() and "\\u8bc4\\u8bba" in (tmp_path / "log").read_text()


def test_a_path_that_is_no_text_is_refused_before_any_work(tmp_path):
    named = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    code, _, err = call_script("5_finetune_teacher.py", "--run-dir", named)
    assert code == 2 and "a path that isn't UTF-8" in err and err.count("\n") == 1
    done = shell("$PY -X utf8=0 predict.py --run-dir 评论 x", LC_ALL="C")
    assert "PYTHONUTF8=1" in one_line(done)


def test_a_manifest_keeps_a_name_that_is_no_text(tmp_path):
    args = SimpleNamespace(run_dir=tmp_path, seed=1, mode="fast", force=False)
    dataset = {"name": "caf\udce9 评论", "source": "tsv", "sha256": "d" * 64, "train": 3, "validation": 1, "dev": 2}
    stage = publishing.begin(args, "teacher", "finetuned_teacher", dataset, [])
    (stage.dir / "model.safetensors").write_bytes(b"weights")
    assert checkpoints.verify(stage.publish()).manifest["dataset"] == dataset


def test_no_file_and_no_process_is_read_in_the_machines_encoding():
    """Files are ruff's matter (PLW1514)."""
    folders = [REPOSITORY, *(REPOSITORY / name for name in (*provenance.PACKAGES, "bench"))]
    for path in (path for folder in folders for path in folder.glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            given = {keyword.arg for keyword in call.keywords} if isinstance(call, ast.Call) else set()
            assert not given & {"text", "universal_newlines"} or "encoding" in given, f"{path.name}:{call.lineno}"


# --- closed, full and broken streams

@pytest.mark.parametrize(("line", "answers"), [
    ("$PY predict.py lovely <&-", 1), ("$PY predict.py lovely 2>&-", 1), ("$PY predict.py lovely <&- 2>&-", 1),
    ("$PY predict.py lovely 2>/dev/full", 1), ("echo lovely | $PY predict.py --file /dev/stdin", 1),
    ("echo lovely | $PY predict.py --file -", 1), ("$PY predict.py --file <(echo lovely; echo dull)", 2),
    ("echo lovely | $PY predict.py 2>&-", 1), ("$PY predict.py --file /dev/null", 0),
    ("mkfifo $PIPE; (echo lovely >$PIPE &); $PY predict.py --file $PIPE", 1)])
def test_texts_are_answered_whichever_streams_there_are(tmp_path, line, answers):
    assert labels(shell(line, PIPE=str(tmp_path / "pipe"))) == ["positive", "negative"][:answers]


@pytest.mark.parametrize(("line", "says"), [
    ("$PY predict.py --checkpoint $BOX <&-", "standard input is closed"),
    ("$PY predict.py --checkpoint $BOX x >&-", "standard output is closed"),
    ("$PY predict.py --checkpoint $BOX x >/dev/full", "standard output takes nothing more (No space left on device)"),
    ("$PY predict.py --checkpoint $BOX x 1</dev/null", "standard output takes nothing more"),
    ("$PY predict.py --file .", ". is a directory"), ("$PY predict.py --file nowhere", "nowhere not found"),
    ("$PY predict.py --file $(printf 'a%.0s' {1..400})", "can't be read (File name too long)")])
def test_predict_says_in_one_line_what_it_cannot_read_or_write(line, says):
    assert says in one_line(shell(line, BOX=str(BOX)))


@pytest.mark.parametrize("line", ["$PY predict.py x <&- >&- 2>&-", "$PY predict.py --no-such-flag 2>/dev/full",
                                  "$PY 6_distill_student.py --lr 0 2>&-"])
def test_an_exit_code_is_kept_where_nobody_can_be_told(line):
    assert shell(line).returncode == 2


@pytest.mark.parametrize("line", ["$PY 8_pruning_with_finetuning.py --help | head -1; exit ${PIPESTATUS[0]}",
                                  "$PY predict.py --help >/dev/full", "$PY predict.py --help >&-"])
def test_help_ends_well_where_nobody_reads_it(line):
    done = shell(line)
    assert (done.returncode, done.stderr) == (0, "")


WORK = """
import argparse, os, sys
from pathlib import Path
from common import cli
def main(args):
    cli.say("first")
    kept = open(os.environ["KEPT"], "w", encoding="utf-8")
    assert kept.fileno() > 2
    for number in range(2000):
        cli.say(f"line {number} of a long training")
        cli.warn("and what else there is")
    kept.write("whole")
cli.run(main, argparse.Namespace(seed=1))
"""


@pytest.mark.parametrize("streams", ["| head -1 >/dev/null; exit ${PIPESTATUS[0]}", "2>&1 | head -1 >/dev/null; exit ${PIPESTATUS[0]}",
                                     ">/dev/full", ">/dev/full 2>/dev/full", "<&- >&- 2>&-", "<&- 2>&-", ">&-"])
def test_work_goes_on_where_nobody_reads_what_it_says(tmp_path, streams):
    done = shell(f"$PY -c \"$WORK\" {streams}", WORK=WORK, KEPT=str(tmp_path / "kept"), PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "kept").read_text() == "whole"
    if streams == ">/dev/full":
        assert done.stderr.count("standard output takes nothing more (No space left on device)") == 1


@pytest.mark.slow
def test_a_stage_publishes_though_all_three_streams_are_closed(stages, tmp_path):
    run = stages.copy(tmp_path / "run", "teacher", "distilled", "pruned")
    flags = " ".join(f"'{flag}'" for flag in run.flags("9_quantize_pruned_model.py"))
    assert shell(f"$PY 9_quantize_pruned_model.py {flags} <&- >&- 2>&-").returncode == 0
    assert checkpoints.verify(run.checkpoint("pruned_ptq"))

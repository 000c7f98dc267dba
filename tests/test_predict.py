"""predict.py: text in by three ways, labels out by name, as columns or JSON."""

import json
import shutil
import subprocess
import sys
import threading

import pytest
from scripts import REPOSITORY, call_script, environment, manifests, run_script

from common import inference
from common.cli import UserError

GOOD, BAD = "a very lovely film from start to finish", "a rather dull story with a familiar plot"


@pytest.fixture(scope="module")
def onnx(pipeline):
    """The quickest checkpoint to open: most of these tests are about words, not weights."""
    return manifests(pipeline.run_dir)["distilled_onnx_int8", "published"][0]


def columns(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


@pytest.mark.parametrize("stage", ["teacher", "pruned", "pruned_qkd", "pruned_qkd_onnx_int8"])
def test_any_checkpoint_answers_with_names(pipeline, stage):
    done = run_script("predict.py", "--checkpoint", manifests(pipeline.run_dir)[stage, "published"][0], GOOD, BAD)
    (good, p_good, text), (bad, p_bad, _) = columns(done.stdout)
    assert (good, bad, text) == ("positive", "negative", GOOD)
    assert 0.5 <= float(p_good) <= 1 and 0.5 <= float(p_bad) <= 1
    assert done.stderr == ""


def test_checkpoint_is_chosen_where_none_is_named(pipeline):
    assert columns(run_script("predict.py", "--run-dir", pipeline.run_dir, GOOD).stdout)[0][0] == "positive"


def test_file_and_standard_input_answer_alike(onnx, tmp_path):
    lines = [GOOD, BAD, "", "café 电影 lovely"]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    by_file = run_script("predict.py", "--checkpoint", onnx, "--file", tmp_path / "texts.txt")
    by_pipe = run_script("predict.py", "--checkpoint", onnx, stdin="\n".join(lines) + "\n")
    assert by_file.stdout == by_pipe.stdout
    found = columns(by_file.stdout)
    assert [row[2] for row in found] == lines, "answers stay beside their lines"
    assert found[2][:2] == ["", ""] and [found[0][0], found[1][0]] == ["positive", "negative"]


def test_json_lines(onnx):
    done = run_script("predict.py", "--checkpoint", onnx, "--json", "a lovely\tfilm", "电影")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["text"] for a in answers] == ["a lovely\tfilm", "电影"] and "电影" in done.stdout
    assert all(a["label"] in ("negative", "positive") and 0.5 <= a["probability"] <= 1 for a in answers)


def test_a_tab_in_a_text_makes_no_column(onnx):
    assert [len(row) for row in columns(run_script("predict.py", "--checkpoint", onnx, "a\tlovely\nfilm").stdout)] == [3]


def test_answers_do_not_depend_on_the_batch(onnx):
    texts = "\n".join([GOOD, BAD, "dull", "a lovely film in every scene that runs for two hours"] * 20) + "\n"
    one, many = (run_script("predict.py", "--checkpoint", onnx, "--batch-size", size, stdin=texts).stdout for size in (1, 32))
    assert [row[0] for row in columns(one)] == [row[0] for row in columns(many)]


def test_a_text_of_ten_megabytes_is_cut_and_said_once(onnx, tmp_path):
    long = "a fine film " * 900_000
    (tmp_path / "texts.txt").write_text(f"{long}\ndull\n{long[:6000]}\n")
    done = run_script("predict.py", "--checkpoint", onnx, "--file", tmp_path / "texts.txt")
    whole, _, beginning = columns(done.stdout)
    assert whole[:2] == beginning[:2] and whole[2] == long.strip("\n")
    assert done.stderr == "2 texts longer than the model's 48 tokens: what follows these wasn't read\n"


@pytest.mark.parametrize("text", ["nul \0 byte", "\u202eright to left \u05e9\u05dc\u05d5\u05dd", "\U0001f600 film \U0001f44d\U0001f3fd",
                                  "a\u0301 combining", "\x07 bell"])
def test_any_text_is_answered_in_its_line(onnx, text):
    answers = columns(run_script("predict.py", "--checkpoint", onnx, stdin=f"before\n{text}\nafter\n").stdout)
    assert [row[2] for row in answers] == ["before", text, "after"] and answers[1][0] in ("negative", "positive")


def test_a_line_that_shows_nothing_has_an_empty_label(onnx):
    answers = columns(run_script("predict.py", "--checkpoint", onnx, stdin="before\n\u200b\n  after \n").stdout)
    assert [row[2] for row in answers] == ["before", "\u200b", "  after "] and answers[1][0] == "" and answers[2][0] != ""


def test_closed_pipe_ends_quietly(onnx):
    command = [sys.executable, str(REPOSITORY / "predict.py"), "--checkpoint", str(onnx), "--batch-size", "1"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # as `| head` does once it has enough
    _, err = process.communicate("\n".join([GOOD] * 5000), timeout=120)
    assert "Traceback" not in err and "BrokenPipe" not in err, err
    assert process.returncode in (0, 141)


PEAK = """
import runpy, sys
sys.argv = ["predict.py", *sys.argv[1:]]
runpy.run_path("predict.py", run_name="__main__")
from common import provenance
print(provenance.peak_rss_mb(), file=sys.stderr)
"""


@pytest.mark.long
def test_a_million_lines_are_answered_in_order_and_in_bounded_memory(onnx):
    def peak_of(lines: int) -> float:
        process = subprocess.Popen([sys.executable, "-c", PEAK, "--checkpoint", str(onnx)], cwd=REPOSITORY, env=environment(),
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def ask():
            for number in range(lines):
                process.stdin.write(f"{number} lovely films\n")
            process.stdin.close()

        writer = threading.Thread(target=ask)
        writer.start()
        for number, line in enumerate(process.stdout):
            assert line.endswith(f"\t{number} lovely films\n")
        writer.join()
        assert process.wait() == 0 and number == lines - 1
        return float(process.stderr.read().split()[-1])

    few, many = peak_of(20_000), peak_of(1_000_000)
    assert many < few + 50, (few, many)


def test_three_classes_by_name(three_classes):
    path = manifests(three_classes.run_dir)["pruned_qkd_onnx_int8", "published"][0]
    texts = ["a very lovely film in every scene", "a very awful film in every scene", "a very recent film in every scene"]
    assert [row[0] for row in columns(run_script("predict.py", "--checkpoint", path, *texts).stdout)] == ["positive", "negative", "neutral"]


def test_bytes_that_are_no_text_are_refused_by_line(onnx, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"fine\ncaf\xe9\n")
    done = run_script("predict.py", "--checkpoint", onnx, "--file", tmp_path / "texts.txt", check=False)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'texts.txt'}:2: ")


def test_missing_file_and_missing_checkpoint_are_one_line(onnx, tmp_path):
    for flags in (("--checkpoint", onnx, "--file", tmp_path / "none.txt"), ("--run-dir", tmp_path, GOOD), ("--checkpoint", tmp_path, GOOD)):
        done = run_script("predict.py", *flags, check=False)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1 and str(tmp_path) in done.stderr


@pytest.mark.parametrize("stage", ["pruned", "pruned_qkd", "pruned_qkd_onnx_int8"])
@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_damaged_file_is_named_before_a_library_dies_on_it(pipeline, tmp_path, stage, name):
    spoilt = tmp_path / "model"
    shutil.copytree(pipeline.checkpoint(stage), spoilt)
    (spoilt / name).write_bytes((spoilt / name).read_bytes()[:-9])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        inference.open_classifier(spoilt, threads=1)


def test_a_notebook_that_shows_what_is_printed_has_the_answers():
    texts = ["a gripping film", "caf\u00e9 \u65e5"]
    code, out, err = call_script("predict.py", "--checkpoint", REPOSITORY / "pretrained/sst2-max/onnx", *texts)
    assert code == 0, err
    assert [line.split("\t")[2] for line in out.splitlines()] == texts

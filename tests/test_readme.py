"""The README's commands, run as they are written there, in its order, in a directory with a small data set of one's own.

Minutes: `make test-all` runs them, `make test` leaves them out. Placeholders (`<ts>`, PATH_OR_ID) are filled in, and the presets'
commands are told of these sentences and to make few more of them; nothing else is changed. `make fast`, which takes a real encoder
from a package, has a test of its own, for `make test-long`. Not run: what needs SST-2 from a hub, and `make test` itself.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, make_sentences, make_tokenizer, tiny_bert, write_data

from common import provenance, sources

ELSEWHERE = ("make fast", "make test", "make full")
BLOCK = re.compile(r"^```\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The shell commands of a page's code blocks."""
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines() if line.startswith(("make ", "python ", "cat "))]
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def pages() -> tuple[list[str], list[str]]:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    english, chinese = text.split("\n## 中文\n")
    return commands(english), commands(chinese)


def clone(folder: Path) -> Path:
    """The repository and the environment that these tests run in, in a directory of its own."""
    for path in REPOSITORY.iterdir():
        if path.suffix == ".py" or path.name in (*provenance.PACKAGES, "bench", "pretrained", "Makefile", "docs"):
            (folder / path.name).symlink_to(path)
    for path in REPOSITORY.glob("requirements*.txt"):
        (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (Path(sys.prefix) / ".installed").touch()  # these tests run in it: it is installed
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """What stands in a clone after download_model.py, with a tiny encoder, and the reader's own sentences."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    tokenizer = make_tokenizer(folder / "tokenizer")
    tiny_bert(vocab_size=len(tokenizer)).bert.save_pretrained(folder / "bert-local")
    tokenizer.save_pretrained(folder / "bert-local")
    sources.note(folder / "bert-local", name="tiny", source="package")
    write_data(folder / "made-up", ("negative", "neutral", "positive"), n_dev=40).rename(folder / "reviews")
    (folder / "reviews.txt").write_text("".join(f"{text}\n" for text, _ in make_sentences(50, ("negative", "positive"), 9)))
    return folder


def filled_in(command: str, place: Path) -> str:
    newest = sorted(place.glob("models/onnx_int8_*"))
    command = command.replace("models/onnx_int8_<ts>", str(newest[-1].relative_to(place)) if newest else "models/none")
    return command.replace("PATH_OR_ID", "teacher_model")


def run(command: str, folder: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_both_languages_have_the_same_commands():
    english, chinese = pages()
    assert english == chinese and len(english) > 10


@pytest.mark.slow
def test_every_command_does_as_it_is_written(place):
    ran = []
    for command in pages()[0]:
        own_data = "DATA_DIR=reviews" in command
        if command.startswith(ELSEWHERE) and not own_data:
            continue
        # The presets go on from the teacher of `make full`, here that of the reader's own sentences.
        beside = " --data-dir reviews" if re.match(r"python (8|11)_", command) else ""
        beside += " --augment 2000" if command.startswith("python 8_") else ""
        run(filled_in(command, place) + beside, place)
        ran.append(command)
    assert (place / "final_report.md").is_file() and len(ran) > 8, ran


@pytest.mark.long
def test_make_fast_goes_through_every_stage_on_real_sentences(tmp_path):
    assert "make fast" in pages()[0]
    run("make fast", clone(tmp_path))
    rows = {row["key"]: row for row in json.loads((tmp_path / "runs/fast/final_report.json").read_text(encoding="utf-8"))["models"]}
    assert {"teacher", "distilled", "pruned", "pruned_ptq", "pruned_qkd", "pruned_qkd_onnx_int8"} <= set(rows)
    assert all(row["accuracy"] > 0.8 for row in rows.values())

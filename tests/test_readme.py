"""The commands of README and guide, run as they are written there, in their order, in a directory with a small data set of one's own.

Minutes: `make test-all` runs them, `make test` leaves them out. shrink.py is told to be fast, and the stages to
make few sentences and to try few structures; nothing else is changed. `make fast`, which takes a real encoder from a
package, has a test of its own, for `make test-long`. Not run: what needs SST-2 from a hub, and `make test` itself.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import make_sentences, write_data
from scripts import REPOSITORY
from tiny import make_tokenizer, tiny_bert

from common import provenance, sources
from deploy import card

ELSEWHERE = ("make fast", "make test", "make full")
SHORT = {"python shrink.py": " --fast", "python make_lessons.py": " --augment 2000", "python 8_": " --tries 2"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
CLASSES = ("negative", "neutral", "positive")


def commands(text: str) -> list[str]:
    """The shell commands of the code blocks."""
    blocks = [block for language, block in BLOCK.findall(text) if not language]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith(("make ", "python ", "cat "))]
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def pages() -> list[str]:
    """README and guide in English, and in Chinese."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("\n## 中文\n")
    guides = [(REPOSITORY / "docs" / name).read_text(encoding="utf-8") for name in ("GUIDE.md", "GUIDE.zh.md")]
    return [f"{half}\n{guide}" for half, guide in zip(readme, guides, strict=True)]


def examples(text: str) -> list[str]:
    """The Python of the code blocks."""
    return [block for language, block in BLOCK.findall(text) if language == "python"]


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
    """A clone with what the reader has: sentences, and a teacher that was fine-tuned on them; and a tiny encoder, as if downloaded."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    tokenizer = make_tokenizer(folder / "tokenizer")
    tiny_bert(vocab_size=len(tokenizer)).bert.save_pretrained(folder / "bert-local")
    tokenizer.save_pretrained(folder / "bert-local")
    sources.note(folder / "bert-local", name="tiny", source="package")
    shutil.copytree(folder / "bert-local", folder / "runs/speedup20-reviews-fast/bert-local")
    write_data(folder / "made-up", CLASSES, n_dev=40).rename(folder / "reviews")
    (folder / "reviews.txt").write_text("".join(f"{text}\n" for text, _ in make_sentences(50, ("negative", "positive"), 9)))
    flags = "--data-dir reviews --init bert-local --run-dir elsewhere --epochs 12 --lr 1e-3 --batch-size 16"
    run(f"python 5_finetune_teacher.py {flags}", folder)
    shutil.copytree(folder / "elsewhere/teacher_model", folder / "my-bert")
    (folder / "my-bert/stage.json").unlink()
    return folder


def filled_in(text: str) -> str:
    """A command's text with the run directories of shrink.py --fast."""
    return re.sub(r"runs/([\w-]+)/(compressed|teacher_model)", r"runs/\1-fast/\2", text)


def run(command: str, folder: Path) -> str:
    """What a command prints."""
    environment = os.environ | {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_both_languages_have_the_same_commands():
    english, chinese = map(commands, pages())
    assert english == chinese and len(english) > 10


def test_the_example_is_the_one_that_is_handed_over():
    english, chinese = map(examples, pages())
    assert english == chinese == [card.example('"runs/within1-my-bert-reviews/compressed"', "a gripping film")]


@pytest.mark.slow
def test_every_command_does_as_it_is_written(place):
    ran = []
    for command in commands(pages()[0]):
        if command.startswith(ELSEWHERE) and "DATA_DIR=reviews" not in command:
            continue
        short = next((flags for start, flags in SHORT.items() if command.startswith(start) and "--structure-of" not in command), "")
        run(filled_in(command) + short, place)
        ran.append(command)
    assert (place / "final_report.md").is_file() and len(ran) > 8, ran
    labels = run(f"python -c {shlex.quote(filled_in(examples(pages()[0])[0]))}", place)
    assert labels.strip() in [f"['{name}']" for name in CLASSES]


@pytest.mark.long
def test_make_fast_goes_through_every_stage_on_real_sentences(tmp_path):
    assert "make fast" in commands(pages()[0])
    run("make fast", clone(tmp_path))
    rows = {row["key"]: row for row in json.loads((tmp_path / "runs/fast/final_report.json").read_text(encoding="utf-8"))["models"]}
    assert {"teacher", "distilled", "pruned", "pruned_ptq", "pruned_qkd", "pruned_qkd_onnx_int8"} <= set(rows)
    assert all(row["accuracy"] > 0.8 for row in rows.values())

"""The directory that is handed over: an exported model with all that it takes to use it, a card and an example; none of our code."""

import json
import os
import shutil
from pathlib import Path

from common.checkpoints import Checkpoint, verify
from deploy import card

HERE = "os.path.dirname(os.path.abspath(__file__))"


def write(export: Checkpoint, folder: Path, figures: dict) -> None:
    """`folder` anew: the files of a published export, README.md, card.json and example.py. Whoever looks finds the old one or the new.

    Raises UserError where the export is damaged.
    """
    verify(export.path)
    fresh, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(export.path, fresh)
    (fresh / "README.md").write_text(card.of_shrunk(figures), encoding="utf-8")
    (fresh / "card.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")
    (fresh / "example.py").write_text(card.example_of(HERE, figures["dataset"]), encoding="utf-8")
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)

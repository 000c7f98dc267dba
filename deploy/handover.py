"""The directory that is handed over: an exported model with all that it takes to use it, a card and an example; none of our code.

The model lies there under the name that transformers.js looks for too: a hard link, so that its bytes lie there once. It is no part of
the export and may be deleted.
"""

import json
import os
import shutil
from pathlib import Path

from common.checkpoints import Checkpoint, verify
from deploy import card, layouts

HERE = "os.path.dirname(os.path.abspath(__file__))"


def write(export: Checkpoint, folder: Path, figures: dict) -> None:
    """`folder` anew: the files of a published export, README.md, card.json and example.py. A kill leaves the old one or the new.

    Raises UserError where the export is damaged.
    """
    verify(export.path)
    fresh, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    if old.exists() and not folder.exists():  # killed between the two
        os.rename(old, folder)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    layouts.copied(export.path, fresh)
    layouts.for_transformers_js(fresh)
    oldest = export.manifest["metrics"]["onnxruntime"].removeprefix(">=")
    figures = figures | {"onnxruntime": oldest}
    (fresh / "README.md").write_text(card.of_shrunk(figures), encoding="utf-8")
    (fresh / "card.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")
    (fresh / "example.py").write_text(card.refusal(oldest) + card.example_of(HERE, figures["dataset"]), encoding="utf-8")
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)

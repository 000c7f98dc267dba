"""A model that somebody else made, as tests make one: saved, changed, handed to stages 5 and 6."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from scripts import call_script, listing

TEACHER, DISTIL, PRUNE = "5_finetune_teacher.py", "6_distill_student.py", "8_pruning_with_finetuning.py"
NAMES = ["negative", "positive"]
SHORT = ("--fast", "--epochs", 1, "--lr", 1e-3, "--batch-size", 16, "--evals-per-epoch", 1, "--max-length", 48)


def at(folder: Path) -> tuple:
    return ("--run-dir", folder / "run", "--data-dir", folder / "data")


def refused(place: Path, script: str, *flags) -> str:
    """The one line with which a command ends that may write nothing."""
    before = listing(place)
    code, _, err = call_script(script, *at(place), *SHORT, *flags)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, (code, err)
    assert listing(place) == before, "something was written"
    return err


def rewrite(folder: Path, change) -> None:
    """Puts what `change` makes of its weights into a model's directory."""
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path, metadata={"format": "pt"})


def edit(path: Path, **fields) -> None:
    """Changes fields of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

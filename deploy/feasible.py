"""How small a model can get, and how long a text it can read: told from files on this disk, before the first step of shrink.py."""

import json
import math
from pathlib import Path

from common import plan, recipes
from common.plan import BASE


def begins_as(args) -> Path:
    """The directory of what is pruned: the teacher, what it is fine-tuned from, or where it can't be pruned what a student starts from."""
    if plan.why_not_pruned(args.teacher, args.soft_labels) is None:
        return Path(args.teacher or args.run_dir / "bert-local")
    fetched = args.run_dir / "distilbert-local"
    return args.init or (fetched if fetched.is_dir() else args.run_dir / "bert-local")


def floors(args) -> tuple[float, float]:
    """The least share of FLOPs and the least megabytes of what is pruned, the teacher or the student in its place; zeros where it isn't on
    this disk.

    FLOPs at 128 tokens, from the first second on; and at the texts' own length as soon as that is known.
    """
    from compress import floor

    folder, tokens = args.known or (begins_as(args), floor.TOKENS)
    file = folder / "config.json"
    spare = recipes.read()[BASE].flags["prune"].get("spare-pieces", 0)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return floor.smallest_share(config, tokens), floor.smallest_mb(config, spare)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, ZeroDivisionError):  # stage 5 says what is wrong with it
        return 0.0, 0.0


def positions(args) -> float:
    """Tokens that the teacher reads at most; any number where it isn't on this disk or doesn't say."""
    from common.texts import lengths

    file = Path(args.teacher or args.run_dir / "bert-local") / "config.json"
    try:
        return lengths.positions(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # stage 5 says what is wrong with it
        return math.inf

"""What a flag's value may be: functions that argparse calls with what was typed, and that say what is wrong with it."""

import argparse
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from common import cores

MOST = 10**9  # of whatever is counted: libraries count no further than 2^63, nor lasts any machine
LAST_SEED = 2**32 - 1  # as numpy has it
THREADS_A_CORE = 8
RECORDERS = ("tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "swanlab", "clearml", "dvclive")  # packages that the library knows
MOST_EPOCHS = 10_000  # of the smallest sets: what a typed zero too many exceeds


def fraction(text: str) -> float:
    """A share in [0, 1), e.g. a sparsity."""
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is outside [0, 1)")
    return value


def share(text: str) -> float:
    """A share in (0, 1], e.g. of FLOPs that may stay."""
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is outside (0, 1]")
    return value


def weight(text: str) -> float:
    """A share in [0, 1], e.g. the weight of a loss term."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is outside [0, 1]")
    return value


def name(text: str) -> str:
    """What files and rows can be called: letters, digits, '.', '_' and '-'."""
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"'{text}' is more than letters, digits, '.', '_' and '-'")
    if text.startswith((".", "-")):
        raise argparse.ArgumentTypeError(f"'{text}' begins with '{text[0]}': a name begins with a letter, a digit or '_'")
    return text


def positive(text: str) -> float:
    """A number above zero."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


def named(text: str) -> str:
    """A name that isn't empty, as that of a shell's variable is that isn't set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def recorder(text: str) -> str:
    """A package that the library's trainer hands curves to, which is installed; or none."""
    if text not in ("none", *RECORDERS):
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(RECORDERS)} and none")
    if text != "none" and importlib.util.find_spec(text) is None:
        raise argparse.ArgumentTypeError(f"{text} isn't installed here: pip install {text.replace('_', '-')}")
    return text


def path(text: str) -> Path:
    """A path; an empty one would be taken for the directory that one works in."""
    return Path(named(text))


def seed(text: str) -> int:
    """A whole number that numpy's generators take."""
    value = int(text)
    if not 0 <= value <= LAST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is outside 0…{LAST_SEED}")
    return value


def threads(text: str) -> int:
    """A whole number of one or more, within reason: threads without a core wait for each other, and a thousand stop a machine."""
    value, usable = count(text), cores.usable()
    if value > THREADS_A_CORE * usable:
        raise argparse.ArgumentTypeError(f"{text} are too many for {usable} core{'s' if usable > 1 else ''}: {usable} or fewer are fastest")
    return value


def temperature(text: str) -> float:
    """A softmax's temperature: beyond these bounds soft targets are hard, or all alike."""
    value = float(text)
    if not 0.01 <= value <= 1000.0:
        raise argparse.ArgumentTypeError(f"{text} is outside [0.01, 1000]")
    return value


def span(kind: Callable[[str], float]) -> Callable[[str], tuple[float, float]]:
    """Of `START:END`, or one number for both, the two numbers, each of `kind`."""
    def parse(text: str) -> tuple[float, float]:
        start, colon, end = text.partition(":")
        return kind(start), kind(end if colon else start)

    return parse


def passes(text: str) -> float:
    """Epochs: a number above zero, and no typing error."""
    value = positive(text)
    if value > MOST_EPOCHS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_EPOCHS:,} passes over the training set")
    return value


def passes_or_none(text: str) -> float:
    """As `passes`, or zero."""
    return passes(text) if not_negative(text) else 0.0


def not_negative(text: str) -> float:
    """Zero or a number above it."""
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not zero or a number above it")
    return value


def count(text: str) -> int:
    """A whole number of one or more."""
    value = int(text)
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of one or more" + (f", up to {MOST:,}" if value > MOST else ""))
    return value


def count_or_share(text: str) -> float:
    """A whole number of one or more, or a share in (0, 1)."""
    value = positive(text)
    if value > 1 and value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is neither a whole number nor a share below 1")
    return value


def tokens(text: str) -> int:
    """A whole number of three or more: two are the marks at a sentence's ends."""
    value = int(text)
    if value < 3:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of three or more (two are the marks at a sentence's ends)")
    return value


def not_negative_count(text: str) -> int:
    """A whole number, or zero."""
    value = int(text)
    if not 0 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not zero or a whole number above it" + (f", up to {MOST:,}" if value > MOST else ""))
    return value

"""Flags and presets that the stages share, one-line errors, logging. Imports nothing heavy: a wrong flag fails at once."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import distributed
from common.obstacles import obstacle

# Fetches code from a hub and runs it: bitsandbytes does so unasked where it is installed, and a foreign model's configuration may ask.
NOT_TO_BE_IMPORTED: dict[str, Any] = {"kernels": None}  # an import then ends as if it weren't installed, which both take well
MOST = 10**9  # of whatever is counted: libraries count no further than 2^63, nor lasts any machine
MOST_EPOCHS = 10_000  # of the smallest sets: what a typed zero too many exceeds
FAST_SENTENCES = 6000  # --fast learns from so many at most, whatever the set: minutes on two cores


class UserError(Exception):
    """Something the user can mend. Its text is one line: what is wrong, where, and what to do."""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


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


def temperature(text: str) -> float:
    """A softmax's temperature: beyond these bounds soft targets are hard, or all alike."""
    value = float(text)
    if not 0.01 <= value <= 1000.0:
        raise argparse.ArgumentTypeError(f"{text} is outside [0.01, 1000]")
    return value


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


def not_negative_count(text: str) -> int:
    """A whole number, or zero."""
    value = int(text)
    if not 0 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not zero or a whole number above it" + (f", up to {MOST:,}" if value > MOST else ""))
    return value


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help and a wrong flag as one line."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False)

    def error(self, message: str):
        self.exit(2, f"error: {message} (--help lists the flags)\n")


class StageParser(Parser):
    """The flags of one stage: the shared ones, and presets that differ between a full run and `--fast`."""

    def __init__(self, description: str | None):
        super().__init__(description)
        self._presets: dict[str, tuple[object, object]] = {}
        shared = self.add_argument_group("shared by all stages")
        shared.add_argument("--fast", action="store_true", help="the short recipe: minutes instead of hours, to iterate")
        shared.add_argument("--seed", type=int, default=42, help="seed of initialisation, batches and dropout")
        shared.add_argument("--run-dir", type=Path, default=Path("."), metavar="DIR", help="where models/ and the rest stand")
        shared.add_argument("--source", choices=["auto", "hub", "package"], default="auto",
                            help="where models and data come from; auto asks the hub for at most 10 seconds")
        shared.add_argument("--data-dir", type=Path, metavar="DIR", default=None,
                            help="own data: train.tsv and dev.tsv (sentence<TAB>label, header line), labels.txt optional; "
                                 "else DIR is RUN_DIR/sst2_data")
        shared.add_argument("--max-length", type=count, default=128, metavar="TOKENS", help="longer sentences are cut here")
        shared.add_argument("--force", action="store_true", help="do it again although an up-to-date result stands")

    def training_flags(self, *, epochs: tuple[float, float], lr: float, batch_size: int = 32, what: str = "training"):
        """Flags of every stage that trains; `epochs` is (full, fast), `what` the training that they count."""
        group = self.add_argument_group("training")
        self.preset(group, "--epochs", type=passes, full=epochs[0], fast=epochs[1], help=f"passes of {what} over the training set")
        self.preset(group, "--train-sentences", type=count, full=None, fast=FAST_SENTENCES, metavar="N",
                    help="learn from a random N of the training sentences only")
        group.add_argument("--lr", type=positive, default=lr, help="peak learning rate (AdamW, linear warm-up and decay)")
        group.add_argument("--batch-size", type=count, default=batch_size, metavar="SENTENCES", help="sentences a step")
        group.add_argument("--weight-decay", type=weight, default=0.01, help="AdamW's decoupled weight decay")
        group.add_argument("--warmup", type=weight, default=0.06, metavar="SHARE", help="share of the steps with a rising learning rate")
        group.add_argument("--evals-per-epoch", type=count, default=4, metavar="N",
                           help="looks at the held-out split an epoch; the weights of the best one are published")
        group.add_argument("--patience", type=not_negative_count, default=6, metavar="N",
                           help="stop after N looks without a better one; 0 trains to the end and keeps the last weights")
        precision_flag(group)
        self.seeds_flag(group)
        return group

    def seeds_flag(self, group) -> None:
        """--seeds, which `run` heeds."""
        group.add_argument("--seeds", dest="n_seeds", type=count, default=1, metavar="N",
                           help="make it N times, of the seeds SEED, SEED + 1, …, each from its own seed's parents where there are such; "
                                "the report then gives their mean and spread")

    def preset(self, group, flag: str, *, full, fast, help: str, unset: str = "all", **kwargs) -> None:
        """A flag whose default depends on `--fast`; a default of None is shown as `unset`."""
        name = flag.lstrip("-").replace("-", "_")
        self._presets[name] = (full, fast)
        full, fast = (unset if value is None else value for value in (full, fast))
        shown = f"{help} (default: {full}; with --fast: {fast})"
        group.add_argument(flag, default=argparse.SUPPRESS, help=shown, **kwargs)

    def parse(self, argv: list[str] | None = None, recipes: dict[str, dict] | None = None, fast: dict | None = None) -> argparse.Namespace:
        """The flags; `recipes` are defaults by `variant`, and `fast` replaces what a recipe says where --fast is given."""
        if recipes:
            for name, value in recipes[self.parse_args(argv).variant].items():
                if name in self._presets:
                    self._presets[name] = (value, (fast or {}).get(name, value))
                else:
                    self.set_defaults(**{name: value})
        args = self.parse_args(argv)
        for name, (full, short) in self._presets.items():
            if not hasattr(args, name):
                setattr(args, name, short if args.fast else full)
        args.mode = "fast" if args.fast else "full"
        return args


def precision_flag(group) -> None:
    """--matmul-precision, for whatever trains."""
    group.add_argument("--matmul-precision", choices=["highest", "medium"], default="highest",
                       help="medium trains, and asks the teacher, with bfloat16 products and full sums: for processors with AMX or "
                            "AVX512-BF16, and GPUs")


def say(text: str) -> None:
    """One line for the user; of several processes the first speaks."""
    if distributed.is_first():
        print(text, flush=True)


def warn(text: str) -> None:
    """One line beside the output, for what a user should know and no program reads."""
    if distributed.is_first():
        print(text, file=sys.stderr, flush=True)


def run(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Calls a stage, once a seed; what the user can mend, a full disk too, ends as one line on standard error, exit code 2,
    and Ctrl-C as one, exit code 130.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises a kernel from a hub at every import
    # Bars and the libraries' chatter are for people: a log file gets our own lines only.
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what fails in the end is said once, by us
    sys.modules.update(NOT_TO_BE_IMPORTED)
    try:
        for more in range(getattr(args, "n_seeds", 1)):
            main(argparse.Namespace(**vars(args) | {"seed": args.seed + more}) if more else args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        mendable = obstacle(error)
        if mendable is None:
            raise
        print(f"error: {mendable}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        stage = hasattr(args, "mode")
        print("stopped" + (": the same command goes on from what is saved" if stage else ""), file=sys.stderr)
        sys.exit(130)

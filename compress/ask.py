"""Budgets as they are typed. Imports nothing heavy: a wrong flag fails at once."""

import argparse
import math
from typing import NamedTuple

BATCHES = ("1", "32")  # for which latencies are measured
FORMS = "flops=SHARE, mb=MEGABYTES or speedup=TIMES (at batch 1; speedup=TIMES@32 at 32)"


class Ask(NamedTuple):
    """A budget as it is typed: flops (a share of the teacher's), mb (megabytes in 4 bits) or speedup (times the teacher's, at a batch)."""

    kind: str
    amount: float
    batch: str = "1"

    def __str__(self) -> str:
        return f"{self.kind}={self.amount:g}" + (f"@{self.batch}" if self.kind == "speedup" and self.batch != "1" else "")


def parse_budget(text: str) -> Ask:
    """ "flops=.1", "mb=5", "speedup=24" or "speedup=24@32" -> Ask. Raises argparse.ArgumentTypeError for everything else."""
    kind, _, rest = text.partition("=")
    number, at, batch = rest.partition("@")
    if kind not in ("flops", "mb", "speedup"):
        raise argparse.ArgumentTypeError(f"'{text}' is no budget: give {FORMS}")
    try:
        amount = float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' has no number behind '{kind}=': give {FORMS}") from None
    if not 0 < amount < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}': give a number above 0, as in {FORMS}")
    if kind == "flops" and amount > 1:
        raise argparse.ArgumentTypeError(f"'{text}': it is a share of the teacher's FLOPs, give at most 1")
    if at and (kind != "speedup" or batch not in BATCHES):
        raise argparse.ArgumentTypeError(f"'{text}': '@' says the batch of a speedup, 1 or 32: give {FORMS}")
    return Ask(kind, amount, batch or "1")


def budget(text: str) -> str:
    """For argparse: a budget in its shortest spelling, "flops=.10" -> "flops=0.1"."""
    return str(parse_budget(text))


class Together(argparse.Action):
    """Budgets that hold together, one of a kind: of two the larger says nothing, and may be a slip."""

    def __call__(self, parser, namespace, values, option_string=None):
        asked = [(each.kind, each.batch) for each in map(parse_budget, values)]
        if len(set(asked)) < len(asked):
            parser.error(f"{option_string} {' '.join(values)}: two budgets of one kind: give the smaller alone")
        setattr(namespace, self.dest, values)

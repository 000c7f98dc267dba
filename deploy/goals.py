"""How much of a model is to be left, as flags ask for it, made into what stage 8 prunes to: a goal of `compress.target`."""

import json
from pathlib import Path

from common import checkpoints, cores, facts, measure
from common.checkpoints import Checkpoint
from common.cli import UserError
from common.splits import Row
from compress import ask, costs, target
from compress.budget import Budget
from deploy import latency_table

FILE = "structure.json"  # what a pruned model keeps, in layers of what it was pruned from
TOKENS = 128  # at which FLOPs are counted, or fewer where the model reads fewer


def of(args, shape, teacher: Checkpoint, texts: list[Row]) -> tuple:
    """(the goal of --sparsity, --budget or --structure-of for a model of this shape, the checkpoint whose structure it is or None).

    A speed-up is priced by a table of latencies, measured on `texts` where this run has none yet. Raises UserError for what can't be had.
    """
    other = checkpoints.meant(args.run_dir, args.structure_of, args.seed) if args.structure_of and args.prune_epochs else None
    goal: target.Target
    if not args.prune_epochs:
        goal = target.Structure(shape.heads, shape.ffn)
    elif other:
        goal = _structure_of(other)
    elif args.sparsity:
        goal = target.Sparsities(*args.sparsity)
    else:
        goal = target.Budgets([_budget(ask.parse_budget(text), shape, teacher, texts, args.run_dir) for text in args.budget])
    try:
        goal.check(shape.heads, shape.ffn, args.importance)
    except ValueError as error:
        raise UserError(str(error)) from None
    return goal, other


def _structure_of(other: Checkpoint) -> target.Structure:
    """The structure that another pruned model was cut to. Raises UserError where it has none."""
    file = other.path / FILE
    if not file.is_file():
        raise UserError(f"{other.path} holds no {FILE}: give a model that stage 8 has pruned")
    return target.Structure(**facts.read_json(file))


def _budget(asked, shape, teacher: Checkpoint, texts: list[Row], run_dir) -> Budget:
    if asked.kind == "flops":
        tokens = min(TOKENS, shape.max_position_embeddings)
        whole = measure.flops(measure.countable_twin(teacher.path), tokens)
        return Budget(costs.Flops(tokens, shape), asked.amount, whole, "of the teacher's FLOPs")
    if asked.kind == "mb":
        return Budget(costs.Bytes(shape, shape.vocab_size), asked.amount, 1e6, "MB in 4 bits")
    table = latency_table.of(shape, teacher, texts, run_dir, cores.usable())["batches"][asked.batch]
    return Budget(costs.Latency(table), table["teacher"] / asked.amount, 1.0, f"ms at batch {asked.batch}")


def latencies(goal) -> dict:
    """What of this machine decides a structure: its latencies, where the goal is a speed."""
    tables = [budget.prices.table for budget in getattr(goal, "budgets", []) if isinstance(budget.prices, costs.Latency)]
    return {"latencies": facts.sha256_json(tables)[:16]} if tables else {}


def write(structure: target.Structure, folder: Path) -> None:
    """What `--structure-of` reads."""
    (folder / FILE).write_text(json.dumps({"heads": structure.heads, "neurons": structure.neurons}) + "\n", encoding="utf-8")


def kept(budgets: list[str], spent: list[target.Spent]) -> dict:
    """For a manifest: what was asked for and what is spent of it; and by batch the speed-ups that the table of latencies promises."""
    asked = list(zip(map(ask.parse_budget, budgets), spent, strict=False))
    promised = {budget.batch: budget.amount * ms.asked / ms.spent for budget, ms in asked if budget.kind == "speedup"}
    return {"budgets": [one._asdict() for one in spent]} | ({"predicted_speedup": promised} if promised else {})

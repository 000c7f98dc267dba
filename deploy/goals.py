"""How much of a model is to be left, as flags ask for it, made into what stage 8 prunes to: a goal of `compress.target`."""

import json
from pathlib import Path

from common import checkpoints, cores, facts, measure
from common.checkpoints import Checkpoint
from common.cli import UserError, say
from common.texts import lengths
from compress import ask, costs, target
from compress.budget import Budget
from compress.floor import TOKENS
from deploy import latency_table

FILE = "structure.json"  # what a pruned model keeps, in layers of what it was pruned from


def of(args, shape, teacher: Checkpoint, whole: Checkpoint, tokenizer, corpus) -> tuple:
    """(the goal of --sparsity, --budget or --structure-of for a model of this shape, the checkpoint whose structure it is or None).

    `tokenizer` is that of what is pruned, and counts the training texts' tokens where FLOPs are asked for, which are a share of those of
    `whole`. A speed-up is priced by a table of latencies, measured on held-out texts where this run has none yet. Raises UserError for
    what can't be had.
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
        asked = [_budgets(ask.parse_budget(text), args, shape, teacher, whole, tokenizer, corpus) for text in args.budget]
        goal = target.Budgets([first for first, *_ in asked] + [other for _, *others in asked for other in others])
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


def _budgets(asked, args, shape, teacher: Checkpoint, whole: Checkpoint, tokenizer, corpus) -> list[Budget]:
    """What one --budget asks for; of FLOPs a budget at the length of the texts, and behind it one at that of the report's figures."""
    if asked.kind == "flops":
        twin = measure.countable_twin(whole.path)
        most = min(lengths.positions(model.to_dict()) for model in (shape, twin.config))
        own = min(most, lengths.of_texts(tokenizer, corpus.train, args.max_length))
        whose = "teacher" if whole == teacher else "student"
        both = list(dict.fromkeys((own, min(most, TOKENS))))
        say(f"{asked}: counted at {own} tokens, which {lengths.MOST_TEXTS} % of the training texts don't exceed"
            + "".join(f", and at {tokens}, as the report counts" for tokens in both[1:]))
        return [Budget(costs.Flops(tokens, shape), asked.amount, measure.flops(twin, tokens), f"of the {whose}'s FLOPs at {tokens} tokens")
                for tokens in both]
    if asked.kind == "mb":
        return [Budget(costs.Bytes(shape, shape.vocab_size), asked.amount, 1e6, "MB in 4 bits")]
    if checkpoints.is_a_table(teacher.path):
        raise UserError(f"--budget {asked.kind}: {teacher.path} is a file of answers, which has no speed: give flops or mb")
    table = latency_table.of(shape, teacher, corpus.validation.rows, args.run_dir, cores.usable())["batches"][asked.batch]
    return [Budget(costs.Latency(table), table["teacher"] / asked.amount, 1.0, f"ms at batch {asked.batch}")]


def latencies(goal) -> dict:
    """What of this machine decides a structure: its latencies, where the goal is a speed."""
    tables = [budget.prices.table for budget in getattr(goal, "budgets", []) if isinstance(budget.prices, costs.Latency)]
    return {"latencies": facts.sha256_json(tables)[:16]} if tables else {}


def write(structure: target.Structure, folder: Path) -> None:
    """What `--structure-of` reads."""
    (folder / FILE).write_text(json.dumps({"heads": structure.heads, "neurons": structure.neurons}) + "\n", encoding="utf-8")


def kept(budgets: list[str], spent: list[target.Spent]) -> dict:
    """For a manifest: what was asked for and what is spent of it; and by batch the speed-ups that the table of latencies promises.

    Of `spent` the first are those of `budgets`, each of its own, as `of` puts them.
    """
    asked = list(zip(map(ask.parse_budget, budgets), spent, strict=False))
    promised = {budget.batch: budget.amount * ms.asked / ms.spent for budget, ms in asked if budget.kind == "speedup"}
    return {"budgets": [one._asdict() for one in spent]} | ({"predicted_speedup": promised} if promised else {})

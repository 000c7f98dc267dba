"""The one command: a fine-tuned text classifier -> the smallest model that loses no more than you allow, and a directory to use it from.

    python shrink.py --teacher my-bert/ --data reviews/                   the smallest that is no more than 1 point worse
    python shrink.py --teacher my-bert/ --data reviews/ --preset max      or near, balanced, conv, published, deep
    python shrink.py --data reviews/ --speedup 20                         or --mb 5, --flops .1; a teacher is fine-tuned first
    python shrink.py --soft-labels answers.csv --data reviews/            the teacher is a file of its answers

Runs the numbered stages as processes in a directory of its own, runs/<name>/: --dry-run prints the very commands. Stopped or killed, the
same command goes on. Ends with a table, Before -> After, and runs/<name>/compressed/, which holds all that it takes to use the model.
"""

import argparse
import itertools
import json
import math
import os
import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms, hub, plan, recipes, upload
from common.architectures import model_files
from common.plan import BASE, Target, of_flops
from common.steps import Ended, Step, run
from deploy import demo, feasible

SHARES = (0.5, 0.35, 0.25, 0.18, 0.125, 0.085, 0.06, 0.04)  # of the teacher's FLOPs, in which --within goes down
WITHIN = 1.0  # points that are allowed where nothing else is said
CONV = Target("conv", "conv")  # smaller and faster than anything that is pruned: --within tries it first


def speedup(text: str) -> tuple[float, int]:
    """`20` or `20@32`: how many times as fast, and at which batch size."""
    times, at, batch = text.partition("@")
    if batch not in (("1", "32") if at else ("",)):
        raise argparse.ArgumentTypeError(f"{text}: speeds are known at batch 1 and 32, as in 20@32")
    return forms.positive(times), int(batch or 1)


def points(text: str) -> float:
    """Points of accuracy, of which there are a hundred."""
    value = forms.positive(text)
    if value >= 100:
        raise argparse.ArgumentTypeError(f"{text} points are all there are: give fewer")
    return value


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--teacher", type=forms.named, metavar="DIR", help="your fine-tuned classifier, or a hub's id; else one is made")
    parser.add_argument("--soft-labels", type=forms.path, metavar="FILE",
                        help="instead, answers: a table of texts with a column of probabilities a class, called as the class is")
    parser.add_argument("--unlabelled", type=forms.path, metavar="FILE", help="texts of your own without labels, to learn from as well")
    parser.add_argument("--init", type=forms.path, metavar="DIR",
                        help="the pretrained encoder from which a student starts, where there is one; else the teacher, or a fetched one")
    cli.data_flags(parser, "data")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--preset", choices=recipes.read(), nargs="+", default=[], help="an operating point of recipes.toml, or several")
    group.add_argument("--flops", type=forms.share, metavar="SHARE", help="this share of the teacher's FLOPs")
    group.add_argument("--mb", type=forms.positive, metavar="MB", help="so many megabytes in 4 bits")
    group.add_argument("--speedup", type=speedup, metavar="TIMES[@BATCH]", help="so many times as fast as the teacher in torch")
    group.add_argument("--within", type=points, metavar="POINTS",
                       help=f"the smallest that is no more than so many points worse; without any of these {WITHIN:g} point")
    parser.add_argument("--fast", action="store_true", help="the short recipe: minutes instead of hours, to try it")
    parser.add_argument("--seed", type=forms.seed, default=42, help="of everything: teacher, lessons, structure, order")
    parser.add_argument("--run-dir", type=forms.path, metavar="DIR", default=None, help="where everything goes; else runs/<name>")
    parser.add_argument("--source", choices=["auto", "hub", "package"], default="auto", help="where models and data come from")
    parser.add_argument("--max-length", type=forms.tokens, metavar="TOKENS", help="longer texts are cut here")
    cli.precision_flag(parser)
    cli.curves_flag(parser)
    cli.trust_flag(parser)
    parser.add_argument("--demo", action="store_true", help=demo.FLAG.format("RUN_DIR/compressed/demo/index.html"))
    upload.flag(parser)
    parser.add_argument("--no-sentences", action="store_true", help="leave out of the report the dev sentences that show what changed")
    parser.add_argument("--force", action="store_true", help="make everything again although it stands")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    args = parser.parse_args(argv)
    if args.teacher and args.soft_labels:
        parser.error("give --teacher or --soft-labels: they exclude each other")
    if args.speedup and args.soft_labels:
        parser.error("--speedup is times the teacher's speed, and --soft-labels has none: give --flops or --mb")
    if not any((args.preset, args.flops, args.mb, args.speedup, args.within)):
        args.within = WITHIN
    for dest in ("teacher", "soft_labels", "unlabelled", "init", "data"):
        if value := getattr(args, dest):
            setattr(args, dest, type(value)(os.path.expanduser(value)))  # no shell expands --data=~/…
    args.mode = "fast" if args.fast else "full"
    args.known = None  # (the teacher's directory, the texts' own length in tokens), once there is a teacher
    args.run_dir = args.run_dir or Path("runs") / default_name(args)
    return args


def targets(args) -> list[Target]:
    """What the flags ask for; nothing where a size is to be searched for."""
    if args.flops:
        return [of_flops(args.flops)]
    if args.mb:
        return [Target(f"mb{args.mb:g}", BASE, f"mb={args.mb:g}")]
    if args.speedup:
        times, batch = args.speedup
        at = {1: ""}.get(batch, f"{batch}")
        return [Target(f"speedup{times:g}" + (at and f"-{at}"), BASE, f"speedup={times:g}" + (at and f"@{at}"))]
    return [Target(preset, preset) for preset in dict.fromkeys(args.preset)]


def default_name(args) -> str:
    """A run's name: what was asked for, of which teacher, on which data."""
    size = "-".join(target.name for target in targets(args)) or f"within{args.within:g}"
    of = [Path(os.path.abspath(path)).name for path in (args.teacher or args.soft_labels, args.data) if path]
    how = [word for word, said in (("fast", args.fast), (f"{args.max_length}-tokens", args.max_length),
                                   (args.matmul_precision, args.matmul_precision != "highest")) if said]
    how += [f"{word}-{path.name}" for word, path in (("and", args.unlabelled), ("from", args.init)) if path]
    how += [value for dest in cli.DATA_FLAGS.values() if (value := getattr(args, dest))]
    return re.sub(r"[^\w.-]+", "-", "-".join([size, *of, *how]))


# --- the plan

def searched(args) -> list[Target]:
    """The budgets of --within, each model made from the one before, as far as the teacher has so much to give."""
    least, _ = feasible.floors(args)
    found = [of_flops(share) for share in SHARES if share > least]
    return found[:1] + [replace(target, start=larger.name) for larger, target in itertools.pairwise(found)]


def tried(args) -> list[Target]:
    """All that is wanted, or that a search may make; what a file of answers is compared with is made with its first pruned model."""
    return targets(args) or [*([] if args.soft_labels else [CONV]), *searched(args)]


def whole_plan(args) -> list[Step]:
    """All steps in their order, each once; of a search those of all that it may make."""
    wanted = tried(args)
    ships = None if args.within else wanted[-1].name  # which of a search's it is, is found out
    steps = [*plan.beginning(args, wanted), *(step for target in wanted for step in plan.making(args, target)), plan.report(args, ships)]
    return list(dict.fromkeys(steps))


# --- before the first step

def refuse_what_cannot_be(args) -> None:
    """Raises UserError for what would only fail later, behind hours of work."""
    if args.data and not os.path.lexists(args.data):
        hub.set_named(str(args.data))
    for model in (args.teacher, args.init):
        if model is not None and model_files.is_path(str(model)):
            model_files.directory(model)
    for file in (args.soft_labels, args.unlabelled):
        if file and not file.is_file():
            raise cli.UserError(f"{file} is no file: give a table of texts")
    if args.init and not any(plan.distils(args, target) for target in targets(args) or searched(args)):
        raise cli.UserError("--init is what a student starts from, and there is none here: the teacher itself is pruned; leave it out")
    if args.max_length and args.max_length > (longest := feasible.positions(args)):
        raise cli.UserError(f"--max-length {args.max_length}: the model reads at most {longest} tokens")
    least, least_mb = feasible.floors(args)
    if args.mb and args.mb <= least_mb:  # what the texts use of the vocabulary comes on top, and stage 8 knows how much
        raise cli.UserError(f"--mb {args.mb:g} can't be had: one head and nothing else of this teacher takes {least_mb:.2f} MB or more")
    if args.flops and args.flops <= least:
        at = f" at {args.known[1]} tokens, which most of these texts don't exceed" if args.known else ""
        raise cli.UserError(f"--flops {args.flops:g} can't be had: one head and nothing else is {least:.4f} of this teacher's FLOPs{at}; "
                            f"the smallest that can is --flops {math.ceil(1000 * least) / 1000:.3f}")
    if args.within and not searched(args):
        raise cli.UserError(f"--within: one head and nothing else is {least:.2f} of this teacher's FLOPs: there is nothing to search for")


def look_at_the_texts(args, judge) -> None:
    """Raises UserError for what these texts' own length leaves no room for: known once there is a teacher, before anything learns."""
    from common import opening
    from common.texts import lengths

    own = plan.why_not_pruned(args.teacher, args.soft_labels) is None
    folder = judge.teacher.path if own else feasible.begins_as(args)
    tokenizer = opening.load_tokenizer(folder)
    args.known = folder, lengths.of_texts(tokenizer, judge.corpus.train, lengths.read_by(judge.teacher))
    refuse_what_cannot_be(args)


# --- the run

def search(args, judge, go) -> list[Target]:
    """Tries the convolution, and where that loses more than is allowed prunes on and on, each model from the last, until more is surely
    lost. Returns what was made, the chosen one last: the smallest whose held-out loss is within the margin.
    """
    from report import claims

    def claim_of(target: Target) -> dict:
        claim = judge.claim(target.name)
        cli.say(f"{target.name}: {claims.said(claim)}")
        return claim

    made, held, sure, room = [], [], [], float("inf")
    if CONV in tried(args):
        for step in plan.making(args, CONV):
            go(step)
        if claim_of(CONV)["mean"] >= -judge.margin:
            return [CONV]
    for target in searched(args):
        share = float(target.budget.partition("=")[2])
        if room <= share:
            continue  # the last has no more than this already
        for step in plan.making(args, replace(target, start=made[-1].name if made else None)):
            go(step)
        made.append(target)
        room = max(budget["spent"] for budget in judge.pruned(target.name).manifest["metrics"]["budgets"])
        claim = claim_of(target)
        held += [target] if claim["mean"] >= -judge.margin else []
        sure += [target] if claim["holds"] else []
        if claims.surely_lost(claim):
            break
    if not held:
        raise cli.UserError(f"no budget held: {made[0].name} costs more than {args.within:g} already: allow more (--within)")
    if sure and sure[-1] != held[-1]:
        cli.say(f"{held[-1].name} is the smallest as it seems, {sure[-1].name} the smallest of which that is shown")
    return [*(target for target in made if target != held[-1]), held[-1]]


def hand_over(args, judge, made: list[Target], began: float) -> None:
    """The table, the sentence, and compressed/, of the last that was made."""
    from common import provenance
    from deploy import handover
    from report import before_after, claims, files

    name = made[-1].name
    shipped, final = judge.shipped(name), files.read(args.run_dir / "final_report.json")
    before, after = (before_after.figures(checkpoint, judge.corpus, args.run_dir, final) for checkpoint in (judge.before, shipped))
    verdict = claims.verdict(judge.claim(name), before_after.JUDGED)
    if judge.before != judge.teacher:
        verdict += " Before is the student that learnt the file's answers whole: the file itself answers no other texts."
    minutes = max(time.monotonic() - began, judge.seconds([target.name for target in made])) / 60
    shape = json.loads((shipped.path / "config.json").read_text(encoding="utf-8"))
    handover.write(shipped, args.run_dir / "compressed", {
        "name": name, "command": typed(args), "commit": provenance.code_identity()["commit"], "origin": shipped.manifest.get("origin"),
        "dataset": judge.corpus.facts,
        "labels": judge.corpus.label_names,
        "structure": {name: shape[name] for name in ("heads", "ffn", "window", "filters") if name in shape} | {
            "vocab": shape["vocab_size"]},
        "before": before, "after": after, "minutes": minutes, "verdict": verdict,
        "table": before_after.table(before, after, minutes, judge.corpus.task.metric_name, "github")})
    cli.say(f"\n{before_after.table(before, after, minutes, judge.corpus.task.metric_name)}\n\n{verdict}\n\n"
            f"{args.run_dir / 'compressed'}: the model, its card, and example.py, which uses it")
    if args.demo:
        table = before_after.table(before, after, minutes, judge.corpus.task.metric_name, "html")
        cli.say(str(demo.write(shipped.path, args.run_dir / "compressed/demo", f"{judge.corpus.name}, {name}", table)))
    if args.push_to_hub:
        cli.say(upload.push(args.run_dir / "compressed", args.push_to_hub))


def typed(args) -> str:
    """The command as a card shows it: what decides the result, and of paths their names alone."""
    named = (("--teacher", args.teacher), ("--soft-labels", args.soft_labels), ("--data", args.data), ("--unlabelled", args.unlabelled),
             ("--init", args.init))
    words = ["python", "shrink.py", *(word for flag, path in named if path
                                      for word in (flag, Path(os.path.abspath(path)).name if os.path.lexists(path) else str(path)))]
    words += [*cli.columns_typed(args), *(["--preset", *args.preset] if args.preset else [])]
    words += [word for flag in ("flops", "mb", "within", "max_length") if (value := getattr(args, flag))
              for word in (f"--{flag.replace('_', '-')}", f"{value:g}")]
    words += ["--speedup", "{:g}@{}".format(*args.speedup)] if args.speedup else []
    return shlex.join([*words, *(["--fast"] if args.fast else []), "--seed", str(args.seed), *plan.training(args)])


def main(args):
    refuse_what_cannot_be(args)
    steps = whole_plan(args)
    if (why := plan.why_not_pruned(args.teacher, args.soft_labels)) and any(map(plan.no_student, tried(args))):
        cli.warn(f"{args.teacher or args.soft_labels} {why}; a student learns from it first, and is pruned in its place")
    if args.dry_run:
        for step in steps:
            cli.say(step.typed())
        return
    upload.refuse(args.push_to_hub)
    if args.demo:
        demo.refuse_without_npm()
    began, numbers = time.monotonic(), iter(range(1, len(steps) + 1))

    def go(step: Step) -> None:
        run(step, args.run_dir, f"[{next(numbers)}/{len(steps)}] {step.title}")

    try:
        made = targets(args)
        first = plan.beginning(args, tried(args))
        made_by = "make_lessons.py" if args.soft_labels else plan.TEACHER
        teacher = next(number for number, step in enumerate(first, 1) if step.script == made_by)
        for step in first[:teacher]:
            go(step)

        from report.judge import Judge

        judge = Judge(args.run_dir, args.data, args.source, args.seed, (args.within or WITHIN) / 100,
                      **{dest: getattr(args, dest) for dest in cli.DATA_FLAGS.values()})
        judge.refuse_another_teacher(str(args.soft_labels or args.teacher or args.run_dir / "bert-local"))
        if args.within or args.flops:
            look_at_the_texts(args, judge)
        for step in first[teacher:]:
            go(step)
        if args.within:
            made = search(args, judge, go)
        else:
            for step in steps[len(first):-1]:
                go(step)
        run(plan.report(args, made[-1].name), args.run_dir, f"[{len(steps)}/{len(steps)}] measuring")
    except Ended as ended:
        if ended.code != 2:  # its own line says all
            cli.warn(f"{ended}: the same command goes on from what is saved")
        sys.exit(ended.code)
    hand_over(args, judge, made, began)


if __name__ == "__main__":
    cli.run(main, parse_args())

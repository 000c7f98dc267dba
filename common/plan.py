"""The stages that make a model, in their order, each as anyone would type it: from a recipe of recipes.toml, or a budget of one's own."""

import os
from dataclasses import dataclass

from common import cli, recipes
from common.steps import Step

TEACHER = "5_finetune_teacher.py"
BASE = "near"  # the recipe by which budgets are met
SCRIPTS = {"distil": ("distilling", "6_distill_student.py"), "prune": ("pruning", "8_pruning_with_finetuning.py"),
           "ptq": ("rounding to 4 bits", "9_quantize_pruned_model.py"), "qkd": ("training in 4 bits", "10_qat_kd_4bit.py"),
           "export": ("exporting", "11_export_onnx.py")}
TRAINS = ("distil", "prune", "qkd")


@dataclass(frozen=True)
class Target:
    """A model that is to be made: its name, its recipe, and where it isn't the recipe's own its budget, and the model it goes on from."""

    name: str
    preset: str
    budget: str | None = None
    start: str | None = None


def of_flops(share: float) -> Target:
    return Target(f"flops{share:g}".replace("0.", ".", 1), BASE, f"flops={share:g}")


def shared(args, *, seeded: bool = True) -> list[str]:
    """The flags that every stage takes. As one word each: a name may begin with '-'."""
    words = [f"--run-dir={args.run_dir}", *([f"--data={args.data}"] if args.data else []), *cli.columns_typed(args)]
    words += ["--source", args.source] if args.source != "auto" else []
    words += ["--seed", str(args.seed)] if seeded else []
    return words + (["--fast"] if args.fast else []) + (["--force"] if args.force else [])


def training(args) -> list[str]:
    return ["--matmul-precision", args.matmul_precision] if args.matmul_precision != "highest" else []


def beginning(args, wanted: list[Target]) -> list[Step]:
    """What all targets share: models and data where they aren't the user's own, the teacher, its lessons."""
    steps = []
    if not (args.teacher and args.data) or not (os.path.isdir(args.teacher) or all(no_student(target) for target in wanted)):
        steps.append(Step("models and data", "download_model.py", tuple(shared(args, seeded=False))))
    teacher = [f"--model={args.teacher}"] if args.teacher else training(args)
    teacher += ["--max-length", str(args.max_length)] if args.max_length else []
    steps.append(Step("the teacher" if args.teacher else "fine-tuning a teacher", TEACHER, (*shared(args), *teacher)))
    presets = {recipes.read()[target.preset].lessons: target.preset for target in reversed(wanted)}
    return steps + [Step("lessons", "make_lessons.py", (*shared(args), "--preset", preset, *training(args))) for preset in presets.values()]


def no_student(target: Target) -> bool:
    """Whether the teacher itself is pruned."""
    return "distil" not in recipes.read()[target.preset].stages


def making(args, target: Target) -> list[Step]:
    """The stages of a target's recipe."""
    recipe, steps = recipes.read()[target.preset], []
    for stage in recipe.stages[1:]:  # behind the lessons
        words = shared(args) + (training(args) if stage in TRAINS else [])
        if stage == "prune":
            words += ["--preset", target.preset, *(["--name", target.name] if target.name != target.preset else [])]
            words += (["--budget", target.budget] if target.budget else []) + (["--start", target.start] if target.start else [])
        elif stage == "distil":
            # A student takes layers of the pretrained encoder, or where none was fetched of the teacher.
            own = args.teacher and args.data and os.path.isdir(args.teacher)
            words += recipe.words(stage, args.fast) + ([f"--init={args.teacher}"] if own else [])
        else:
            words += ["--variant", target.name, *recipe.words(stage, args.fast)]
        steps.append(Step(SCRIPTS[stage][0], SCRIPTS[stage][1], tuple(words)))
    return steps


def report(args) -> Step:
    return Step("measuring", "7_evaluate_and_generate_report.py", tuple(shared(args, seeded=False)))

"""The stages that make a model, in their order, each as anyone would type it: from a recipe of recipes.toml, or a budget of one's own."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common import cli, hub, recipes
from common.architectures import model_files
from common.checkpoints import TABLE
from common.facts import read_json
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
    words += ["--trust-remote-code"] if args.trust_remote_code else []
    words += ["--seed", str(args.seed)] if seeded else []
    return words + (["--fast"] if args.fast else []) + (["--force"] if args.force else [])


def training(args) -> list[str]:
    return ["--matmul-precision", args.matmul_precision] if args.matmul_precision != "highest" else []


def curves(args) -> list[str]:
    return ["--report-to", args.report_to] if args.report_to != "none" else []


@cache
def why_not_pruned(teacher: str | None, soft_labels: Path | None) -> str | None:
    """Why a teacher itself can't be pruned, to stand behind its name; None where it can, and where nothing is known of it yet.

    Of a hub's model its config.json is fetched.
    """
    if soft_labels:
        return model_files.not_prunable({"model_type": TABLE})
    if teacher is None:
        return None
    said = read_json(Path(teacher) / model_files.CONFIG) if model_files.is_path(teacher) else hub.config_of(teacher)
    return model_files.not_prunable(said) if said.get("model_type") else None  # stage 5 says what is wrong with it


def distils(args, target: Target) -> bool:
    """Whether a student is made: by the recipe, or because the teacher itself can't be pruned."""
    return not no_student(target) or why_not_pruned(args.teacher, args.soft_labels) is not None


def takes_layers(args, target: Target) -> bool:
    """Whether a student is made that needs a pretrained encoder: of a convolution the teacher's word table is enough, where it has one."""
    of_words = recipes.read()[target.preset].flags["distil"].get("architecture") == "conv"
    return distils(args, target) and (not of_words or args.soft_labels is not None)


def start_of_students(args) -> str | None:
    """Where a student starts that isn't to start from a fetched encoder: the one that a flag names, or where no data are fetched either a
    teacher on this disk whose layers can be taken.
    """
    if args.init:
        return str(args.init)
    own = args.teacher and args.data and os.path.isdir(args.teacher) and why_not_pruned(args.teacher, args.soft_labels) is None
    return args.teacher if own else None


def beginning(args, wanted: list[Target]) -> list[Step]:
    """What all targets share: models and data where they aren't the user's own, the teacher, its lessons."""
    steps, own = [], args.teacher or args.soft_labels
    if not (own and args.data) or not start_of_students(args) and any(takes_layers(args, target) for target in wanted):
        steps.append(Step("models and data", "download_model.py", tuple(shared(args, seeded=False))))
    teacher = [f"--model={args.teacher}"] if args.teacher else training(args) + curves(args)
    cut = ["--max-length", str(args.max_length)] if args.max_length else []
    if not args.soft_labels:
        steps.append(Step("the teacher" if args.teacher else "fine-tuning a teacher", TEACHER,
                          (*shared(args), *teacher, *cut)))
    texts = [f"--{name.replace('_', '-')}={file}" for name in ("soft_labels", "unlabelled") if (file := getattr(args, name))]
    texts += cut if args.soft_labels else []
    presets = {recipes.read()[target.preset].lessons: target.preset for target in reversed(wanted)}
    return steps + [Step("lessons", "make_lessons.py", (*shared(args), "--preset", preset, *texts, *training(args)))
                    for preset in presets.values()]


def no_student(target: Target) -> bool:
    """Whether by its recipe the teacher itself is pruned."""
    return "distil" not in recipes.read()[target.preset].stages


def making(args, target: Target) -> list[Step]:
    """The stages of a target's recipe."""
    recipe, steps = recipes.read()[target.preset], []
    instead = no_student(target) and distils(args, target) and target.start is None
    for stage in [*(["distil"] if instead else []), *recipe.stages[1:]]:  # behind the lessons
        words = shared(args) + (training(args) + curves(args) if stage in TRAINS else [])
        if stage == "prune":
            words += ["--preset", target.preset, *(["--name", target.name] if target.name != target.preset else [])]
            start = target.start or ("student" if instead else None)
            words += (["--budget", target.budget] if target.budget else []) + (["--start", start] if start else [])
        elif stage == "distil":
            words += ["--preset", target.preset] if instead or "prune" not in recipe.stages else recipe.words(stage, args.fast)
            start = start_of_students(args) if takes_layers(args, target) else args.init
            words += [f"--init={start}"] if start else []
        else:
            words += ["--variant", target.name, *recipe.words(stage, args.fast)]
        steps.append(Step(SCRIPTS[stage][0], SCRIPTS[stage][1], tuple(words)))
    return steps


def report(args, ships: str | None) -> Step:
    """The report, about the model of that name first of all."""
    return Step("measuring", "7_evaluate_and_generate_report.py", (*shared(args, seeded=False), *(["--ships", ships] if ships else []),
                                                                   *(["--no-sentences"] if args.no_sentences else [])))

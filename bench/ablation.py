"""Does the method earn its name? Each of its parts against what it replaces, over seeds, everything else alike.

    python -m bench.ablation RUN_DIR docs/results/ablation [--data-dir DIR] [--train-sentences 4000] [--seeds 1 2 3]

Prunes RUN_DIR's teacher with stage 8 itself, scored in four ways, and once without the teacher's word; then rounds what the joint
score left to 4, 3 and 2 bits, with stage 10's training through the rounding and without (k bits: the 2^k levels of a normal
distribution's quantiles, as NF4's). Judged on the held-out sentences and their phrases, the dev set stays unseen: accuracy, and the
KL divergence from the teacher, which decides sooner. Stages are made under RUN_DIR/runs/trained/ and found again there.
"""

import statistics
from pathlib import Path

from bench import finished
from common import cli, cores, forms
from compress.costs import NF4_BYTES

SPARSITY = 0.7  # of heads, and of neurons
JOINT = "l2+kd_grad"
PRUNED = {"random": ["--importance", "random"], "l2": ["--importance", "l2"], "gradient": ["--importance", "kd_grad"],
          "joint": ["--importance", JOINT], "joint-without-kd": ["--importance", JOINT, "--alpha", 0]}
BITS = (4, 3, 2)


def grid(bits: int):
    """The 2^bits levels of a normal distribution's quantiles in [−1, 1], one of them 0, ascending: (2^bits,).

    Dettmers et al. 2023, section 3: half of them below zero, one more above; at 4 bits these are NF4's to 1e-6.
    """
    import torch
    from scipy.stats import norm

    half, tail = 2 ** (bits - 1), 0.9677083  # the outermost quantile, as theirs
    above = norm.ppf(torch.linspace(tail, 0.5, half + 1, dtype=torch.double))[:-1]
    below = -norm.ppf(torch.linspace(tail, 0.5, half, dtype=torch.double))[:-1]
    levels = torch.tensor(sorted([*above, 0.0, *below]), dtype=torch.double)
    return (levels / levels.max()).float()


def use_grid(bits: int) -> None:
    """Lets `compact.nf4` round to 2^bits levels; the codes of 4 bits that are not needed stand for the largest again."""
    import torch

    from compact import nf4

    levels = grid(bits)
    padded = torch.cat([levels, levels[-1:].expand(16 - len(levels))])
    nf4.levels = lambda device: padded.to(device)
    nf4.byte_levels.cache_clear()


def megabytes(model, bits: int) -> float:
    """What a file of this model takes with its quantisable weights at `bits`: codes and their scales, the rest in float32."""
    rounded = sum(module.weight.numel() for _, _, module in model.quantisable())
    whole = sum(p.numel() for p in model.parameters())
    return (rounded * (NF4_BYTES + (bits - 4) / 8) + 4 * (whole - rounded)) / 1e6


class Judge:
    """Accuracy on the held-out sentences and their phrases, and the mean KL(teacher ‖ model) there, in nats."""

    def __init__(self, corpus, teacher):
        self.corpus = corpus
        self.teacher = self._log_probabilities(teacher)

    def _log_probabilities(self, checkpoint, model=None):
        """(n, K) of a checkpoint, or of `model` with its spelling."""
        import torch

        from common import inference

        classifier = inference.open_classifier(checkpoint.path)
        if model is not None:
            classifier.model = model.eval()
        return torch.log_softmax(torch.from_numpy(classifier.classify(self.corpus.held_out.texts, 64)).double(), -1)

    def __call__(self, checkpoint, model=None) -> dict[str, float]:
        import torch

        found = self._log_probabilities(checkpoint, model)
        right = found.argmax(-1) == torch.tensor(self.corpus.held_out.labels)
        return {"accuracy": float(right.double().mean()), "kl": float((self.teacher.exp() * (self.teacher - found)).sum(-1).mean())}


def rounded_to(bits: int, pruned, judge: Judge, work: Path, flags: list) -> dict[str, dict]:
    """{way: its figures} of a pruned checkpoint at `bits`, without and with training through the rounding (stage 10)."""
    from common import checkpoints, opening
    from compact import nf4

    folder = work / f"{bits}-bits"  # a run of its own: to stage 10 the grid is always the same
    finished.run_stage("10_qat_kd_4bit.py", *flags, "--run-dir", folder, "--pruned", pruned.path, "--epochs", 1,
                       before=f"from bench import ablation; ablation.use_grid({bits}); ")
    own = nf4.levels
    use_grid(bits)
    model = opening.load_model(pruned.path)
    size = {"size_mb": megabytes(model, bits)}
    trained = next(c for c in checkpoints.published(folder) if c.parent_key("pruned") == pruned.key)
    found = {"PTQ": judge(pruned, model.packed_twin()) | size, "QKD": judge(trained) | size}
    nf4.levels = own
    nf4.byte_levels.cache_clear()
    return found


def table(rows: dict[str, list[dict]]) -> str:
    """A line each: mean ± spread over seeds of accuracy and KL, and megabytes where sizes differ."""
    from tabulate import tabulate

    def spread(seeds: list[dict], name: str, factor: float, digits: int) -> str:
        values = [factor * seed[name] for seed in seeds]
        return f"{statistics.mean(values):.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")

    sized = any("size_mb" in seed for seeds in rows.values() for seed in seeds)
    lines = [[name, spread(seeds, "accuracy", 100, 1), spread(seeds, "kl", 1, 3), *([f"{seeds[0]['size_mb']:.2f}"] if sized else [])]
             for name, seeds in rows.items()]
    return tabulate(lines, headers=["", "accuracy %", "KL to the teacher", *(["MB"] if sized else [])], tablefmt="github",
                    disable_numparse=True)


def page(result: dict) -> str:
    """ablation.md, all of it drawn from ablation.json."""
    teacher = result["teacher"]
    return "\n\n".join([
        f"# {result['dataset']['name']}: what each part of the method is worth",
        f"{result['train_sentences']:,} training sentences, seeds {', '.join(map(str, result['seeds']))}; judged on {result['judged']:,} "
        f"held-out sentences and phrases, of which the teacher gets {100 * teacher['accuracy']:.1f} %. Made at {result['code']['commit']} "
        f"(source hash {result['code']['sha256'][:16]}) by `python -m bench.ablation`.",
        f"## What scores, at {100 * SPARSITY:.0f} % of heads and of neurons pruned", table(result["pruned"]),
        "## Training through the rounding (QKD) or not (PTQ), on what the joint score left", table(result["rounded"])]) + "\n"


def main(args) -> None:
    from common import checkpoints

    corpus = finished.corpus(args)
    teacher = checkpoints.find(args.run_dir, "teacher")
    checkpoints.same_data(teacher, corpus.facts)
    conditions = finished.conditions(corpus, cores.usable())
    judge, work = Judge(corpus, teacher), args.run_dir / "runs" / "trained" / "ablation"
    shared = [f"--data-dir={args.data_dir or args.run_dir / 'sst2_data'}", "--matmul-precision", args.matmul_precision]
    learning = [*shared, "--hidden-weight", 0, "--patience", 0]
    pruned: dict[str, list[dict]] = {name: [] for name in PRUNED}
    rounded: dict[str, list[dict]] = {f"{way}, {bits} bits": [] for bits in BITS for way in ("PTQ", "QKD")}
    for seed in args.seeds:
        finished.run_stage("make_lessons.py", *shared, "--run-dir", work, "--teacher", teacher.path, "--seed", seed, "--train-sentences",
                           args.train_sentences)
        taught = ["--lessons", checkpoints.find(work, "lessons", seed=seed).path]
        for name, flags in PRUNED.items():
            finished.run_stage("8_pruning_with_finetuning.py", *learning, *taught, "--run-dir", work, "--start", teacher.path, "--seed",
                               seed, "--name", name, *flags, "--sparsity", SPARSITY, SPARSITY, "--epochs", 1)
            pruned[name].append({"seed": seed, **judge(checkpoints.find(work, "pruned", variant=name, seed=seed))})
        joint = checkpoints.find(work, "pruned", variant="joint", seed=seed)
        for bits in BITS:
            for way, figures in rounded_to(bits, joint, judge, work, [*learning, *taught, "--seed", seed]).items():
                rounded[f"{way}, {bits} bits"].append({"seed": seed, **figures})
    result = {**conditions, "train_sentences": args.train_sentences, "seeds": args.seeds, "judged": len(corpus.held_out),
              "teacher": judge(teacher), "pruned": pruned, "rounded": rounded}
    finished.write(result, args.output / "ablation.json")
    (args.output / "ablation.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    parser = finished.parser(__doc__, "DIR", "where the results go")
    parser.add_argument("--train-sentences", type=forms.count, default=4000, metavar="N", help="training sentences of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of each run")
    cli.precision_flag(parser)
    cli.run(main, parser.parse_args())

"""Stage 6: QKD-4bit, quantisation-aware training with distillation.

The forward pass uses every weight rounded to the very grid that ships (NF4, block 64, double quantisation, embedding tables
too); the gradient passes straight through the rounding (Bengio et al. 2013) to the full-precision weights, all of which train,
while the teacher keeps teaching (Hinton et al. 2015). At the end the weights are packed: the logits stay the trained ones.

    python 10_qat_kd_4bit.py [--fast] [--variant deep]        pruned + lessons -> models/pruned_qkd4bit_<mode>_<ts>/

Ten minutes on two cores for the whole of SST-2 and a student of three layers; a minute with --fast on the package sentences.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("quantisation-aware training")
    group.add_argument("--pruned", type=forms.path, metavar="DIR", default=None, help="the pruned checkpoint; else the variant's newest")
    group.add_argument("--lessons", type=forms.path, metavar="DIR", default=None, help="lessons to learn from; else the pruned one's")
    group.add_argument("--variant", default="published", help="the operating point whose pruned checkpoint is taken")
    parser.distillation_flags(None)
    parser.training_flags(epochs=(1, 1), lr=3e-5, from_lessons=True)
    args = parser.parse(argv)
    parser.refuse_idle(("--temperature", args.alpha == 0, "with --alpha 0, which leaves the soft targets out"))
    return parser.inheriting(args, "--pruned")


def as_pruned(args, learnt: dict):
    """The flags, and for those of distillation that weren't typed the values that stage 8 ended with, of whose arguments `learnt` are."""
    ended = {"temperature": learnt.get("temperature", [2.0])[-1], "alpha": learnt.get("alpha", [0.7])[-1],
             "hidden_weight": learnt.get("hidden_weight", 1.0), "dropout": learnt.get("dropout")}
    return cli.replaced(args, **{name: value for name, value in ended.items() if getattr(args, name) is None})


def main(args):
    import compact
    from common import checkpoints, data, distillation, inspection, opening, publishing
    from common.architectures import classifiers
    from common.texts import lengths
    from compress import qat
    from training import lessons, teacher_cache
    from training.trainer import StageTrainer, fit, make_trainer, prepare

    # --- 1. load
    corpus = data.load(args)
    pruned = checkpoints.find(args.run_dir, "pruned", args.pruned, args.variant, args.seed)
    answered = checkpoints.parent(args.run_dir, pruned, "lessons", args.lessons, "--lessons")
    lessons.same_teacher(answered, pruned)
    checkpoints.same_data(pruned, corpus.facts)
    taught = lessons.read(args.run_dir, answered, corpus.facts)
    teacher = taught.teacher
    model = opening.load_model(pruned.path)
    length = lengths.trained_on(args.max_length, [pruned, answered, teacher], model.config, classifiers.load_config(teacher.path))
    args = as_pruned(cli.replaced(args, max_length=length), pruned.manifest["args"])
    args = cli.replaced(args, seed=pruned.manifest["seed"] if args.seed is None else args.seed)
    stage = publishing.begin(args, "pruned_qkd", f"pruned_qkd4bit_{args.mode}", corpus.facts, [pruned, teacher, answered],
                             variant=pruned.variant)
    if stage.done:
        return
    prepare(args.seed, args.matmul_precision)
    tokenizer = opening.load_tokenizer(pruned.path)
    train = data.tokenise(tokenizer, taught.sentences, args.max_length, numbered=True)
    validation = data.tokenise(tokenizer, corpus.validation, args.max_length)
    layers = teacher_cache.paired_layers(pruned, model.config, teacher, args.hidden_weight)
    hidden = teacher_cache.hidden_states(taught, args.max_length, args.run_dir, layers, args.matmul_precision)
    collator = teacher_cache.TeacherCollator(tokenizer.pad_token_id, taught.logits, hidden)

    # --- 2. from here on every weight is rounded whenever it is used
    qat.fake_quantised(model)

    # --- 3. train through the rounding
    class Distiller(StageTrainer):
        def stage_loss(self, model, inputs, outputs):
            return distillation.lesson(corpus.task, outputs, inputs, temperature=args.temperature, alpha=args.alpha,
                                       hidden_weight=args.hidden_weight if hidden else 0.0)

    trainer = make_trainer(Distiller, corpus.task, stage, "train", model, args, train, validation, collator, epochs=args.epochs)
    fit(trainer, stage)

    # --- 4. pack: the file's logits are the trained ones
    packed = model.packed_twin()
    gap = inspection.logits_gap(model, packed, collator([validation[i] for i in range(min(32, len(validation)))]))
    if not gap <= 1e-5:
        raise RuntimeError(f"the packed model's logits differ from the trained one's by {gap:.1e}")

    # --- 5. save
    stage.metrics |= inspection.judged(corpus.task, packed, validation, collator)
    compact.save(packed, stage.dir)
    opening.save_tokenizer(tokenizer, stage.dir, args.max_length)
    target = stage.publish()
    sizes = [(path / "model.safetensors").stat().st_size / 1e6 for path in (pruned.path, target)]
    cli.say(f"pruned_qkd: {sizes[0]:.1f} -> {sizes[1]:.1f} MB, held-out {corpus.task.metric_name} {stage.validation:.4f} "
            f"(in full precision: {pruned.validation:.4f})")


if __name__ == "__main__":
    cli.run(main, parse_args())

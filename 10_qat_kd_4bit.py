"""Stage 5: QKD-4bit, quantisation-aware training with distillation.

The forward pass uses every weight rounded to the very grid that ships (NF4, block 64, double quantisation, embedding tables
too); the gradient passes straight through the rounding (Bengio et al. 2013) to the full-precision weights, all of which train,
while the teacher keeps teaching (Hinton et al. 2015). At the end the weights are packed: the logits stay the trained ones.

    python 10_qat_kd_4bit.py [--fast] [--variant deep]        pruned + teacher -> models/pruned_qkd4bit_<mode>_<ts>/

Ten minutes on two cores for the whole of SST-2 and a student of three layers; a minute with --fast on the package sentences.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("quantisation-aware training")
    group.add_argument("--pruned", type=cli.path, metavar="DIR", default=None, help="the pruned checkpoint; else the newest of the variant")
    group.add_argument("--teacher", type=cli.path, metavar="DIR", default=None, help="the teacher's checkpoint; else the pruned one's own")
    group.add_argument("--variant", default="published", help="the operating point whose pruned checkpoint is taken")
    group.add_argument("--temperature", type=cli.temperature, default=2.0, help="T of the soft targets")
    group.add_argument("--alpha", type=cli.weight, default=0.7, help="weight of the soft targets; 1 − alpha is the labels'")
    group.add_argument("--hidden-weight", type=cli.not_negative, default=1.0, help="weight of the hidden-state loss; 0 leaves it out")
    parser.training_flags(epochs=(1, 1), lr=3e-5)
    args = parser.parse(argv)
    parser.refuse_idle(("--temperature", args.alpha == 0, "with --alpha 0, which leaves the soft targets out"))
    return parser.inheriting(args, "--pruned")


def main(args):
    import compact
    from common import checkpoints, data, distillation, encoders, inspection, lengths
    from compress import qat
    from training import teacher_cache
    from training.trainer import StageTrainer, fit, make_trainer, prepare

    # --- 1. load
    corpus = data.load(args)
    pruned = checkpoints.find(args.run_dir, "pruned", args.pruned, args.variant, args.seed)
    teacher = checkpoints.parent(args.run_dir, pruned, "teacher", args.teacher)
    checkpoints.same_data(pruned, corpus.facts)
    checkpoints.same_data(teacher, corpus.facts)
    model = checkpoints.load_model(pruned.path)
    length = lengths.trained_on(args.max_length, [pruned, teacher], model.config, encoders.load_config(teacher.path))
    args = cli.replaced(args, max_length=length, seed=pruned.manifest["seed"] if args.seed is None else args.seed)
    stage = checkpoints.begin(args, "pruned_qkd", f"pruned_qkd4bit_{args.mode}", corpus.facts, [pruned, teacher], variant=pruned.variant)
    if stage.done:
        return
    prepare(args.seed)
    tokenizer = checkpoints.load_tokenizer(pruned.path)
    sentences = data.part(corpus.train, args.train_sentences, args.seed)
    train = data.tokenise(tokenizer, sentences, args.max_length, numbered=True)
    validation = data.tokenise(tokenizer, corpus.validation, args.max_length)
    layers = encoders.hidden_layers_to_match(model.config, encoders.load_config(teacher.path), args.hidden_weight)
    taught = teacher_cache.outputs(teacher, sentences, args.max_length, args.run_dir, layers, args.matmul_precision)
    collator = teacher_cache.TeacherCollator(tokenizer.pad_token_id, taught)

    # --- 2. from here on every weight is rounded whenever it is used
    qat.fake_quantised(model)

    # --- 3. train through the rounding
    class Distiller(StageTrainer):
        def stage_loss(self, model, inputs, outputs):
            return distillation.lesson(outputs, inputs, temperature=args.temperature, alpha=args.alpha,
                                       hidden_weight=args.hidden_weight if layers else 0.0)

    trainer = make_trainer(Distiller, stage, "train", model, args, train, validation, collator, epochs=args.epochs)
    fit(trainer, stage)

    # --- 4. pack: the file's logits are the trained ones
    packed = model.packed_twin()
    gap = inspection.logits_gap(model, packed, collator([validation[i] for i in range(min(32, len(validation)))]))
    if not gap <= 1e-5:
        raise RuntimeError(f"the packed model's logits differ from the trained one's by {gap:.1e}")

    # --- 5. save
    compact.save(packed, stage.dir)
    checkpoints.save_tokenizer(tokenizer, stage.dir, args.max_length)
    stage.metrics["validation_accuracy"] = inspection.accuracy(packed, validation, collator)
    target = stage.publish()
    sizes = [(path / "model.safetensors").stat().st_size / 1e6 for path in (pruned.path, target)]
    cli.say(f"pruned_qkd: {sizes[0]:.1f} -> {sizes[1]:.1f} MB, held-out accuracy {stage.metrics['validation_accuracy']:.4f} "
            f"(in full precision: {pruned.manifest['metrics']['validation_accuracy']:.4f})")


if __name__ == "__main__":
    cli.run(main, parse_args())

"""Stage 3: a shallower student learns from the teacher.

The student starts from DistilBERT, or from every other layer of a pretrained encoder in DistilBERT's layout (Sanh et al. 2019),
and learns the teacher's logits (Hinton et al. 2015) and, where both read the same word pieces in layers of the same kind, hidden states
(Jiao et al. 2020, equation 8):

    L = alpha·T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)) + (1 − alpha)·CE(y, z_s) + hidden_weight·MSE(LN(h_t), LN(h_s))

    python 6_distill_student.py [--fast]        lessons + distilbert-local/ | bert-local/ -> models/distilled_student_<ts>/
    python 6_distill_student.py --preset conv   a student without attention: see compact/modeling_conv.py

Writes models/distilled_student_<ts>/ and the link student_model.
A quarter of an hour on two cores for the whole of SST-2 and three layers; three minutes with --fast on the package sentences.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms, recipes


def layer_list(text: str) -> list[int] | str:
    return text if text == "all" else [int(part) for part in text.split(",")]


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("student")
    group.add_argument("--preset", dest="variant", choices=recipes.read(), default="published",
                       help="the operating point that the student is, or is the start of: it learns its lessons, with its recipe's flags")
    group.add_argument("--lessons", type=forms.path, metavar="DIR", default=None,
                       help="the lessons it learns from; else the newest of the preset's and of the newest teacher")
    group.add_argument("--init", type=forms.path, metavar="DIR", default=None,
                       help="pretrained encoder to start from; else RUN_DIR/distilbert-local, else RUN_DIR/bert-local; of conv the teacher")
    group.add_argument("--architecture", choices=["layers", "conv"], default="layers",
                       help="layers of the encoder, or a convolution over its word table")
    group.add_argument("--layers", type=layer_list, metavar="all|I,J,…", default=None,
                       help="layers of the encoder to take; else every other")
    parser.distillation_flags(("2", "0.7"))
    parser.training_flags(epochs=(3, 3), lr=1e-4, from_lessons=True)
    args = parser.parse(argv, stage="distil")
    args.recipe = args.variant
    if "distil" not in (stages := recipes.read()[args.recipe].stages) or "prune" in stages:
        del args.variant  # the student is known as the student, whatever is made of it
    parser.refuse_idle(("--temperature", args.alpha == 0, "with --alpha 0, which leaves the soft targets out"),
                       ("--layers --hidden-weight", args.architecture == "conv", "with --architecture conv, which has no layers"))
    return args


def main(args):
    import compact
    from common import checkpoints, data, distillation, inspection, opening, publishing, sources
    from common.architectures import classifiers, layout
    from common.texts import lengths
    from training import lessons, students, teacher_cache
    from training.trainer import StageTrainer, fit, make_trainer, prepare

    # --- 1. load
    corpus = data.load(args)
    answered = args.lessons and checkpoints.find(args.run_dir, "lessons", args.lessons)
    teacher = (checkpoints.parent(args.run_dir, answered, "teacher") if answered
               else checkpoints.find(args.run_dir, "teacher", seed=args.seed))
    checkpoints.same_data(teacher, corpus.facts)
    prepare(args.seed, args.matmul_precision)
    conv = args.architecture == "conv"
    if not conv:
        begun = students.of_layers(args, corpus, teacher)
    answered = answered or lessons.find(args.run_dir, None, recipes.read()[args.recipe].lessons, args.seed, teacher)
    taught = lessons.read(args.run_dir, answered, corpus.facts)
    if conv:  # whose word table keeps the pieces of the lessons
        begun = students.of_words(args, corpus, teacher, taught)
    student, tokenizer = begun.model, begun.tokenizer
    if begun.unlike:
        cli.say(f"{begun.unlike}: the student reads texts in its own, and learns logits alone")
    if begun.unlike or conv:
        args = cli.replaced(args, hidden_weight=0.0)
    student.config.update({"pad_token_id": tokenizer.pad_token_id, "problem_type": corpus.task.in_config})
    args = cli.replaced(args, max_length=lengths.trained_on(args.max_length, [taught.checkpoint, teacher], student.config,
                                                            classifiers.load_config(teacher.path)))
    if conv:
        student.config.max_position_embeddings = args.max_length
    stage = publishing.begin(args, "distilled", "distilled_student", corpus.facts, [teacher, taught.checkpoint],
                             variant=getattr(args, "variant", "published"), link=None if conv else "student_model",
                             decides={"start": sources.identity(begun.start)}, origin=sources.origin(begun.start))
    if stage.done:
        return
    train = data.tokenise(tokenizer, taught.sentences, args.max_length, numbered=True)
    validation = data.tokenise(tokenizer, corpus.validation, args.max_length)

    # --- 2. what the teacher thinks on the way to its answers
    layers = layout.hidden_layers_to_match(student.config, classifiers.load_config(teacher.path), args.hidden_weight)
    hidden = teacher_cache.hidden_states(taught, args.max_length, args.run_dir, layers, args.matmul_precision)
    collator = teacher_cache.TeacherCollator(tokenizer.pad_token_id, taught.logits, hidden)

    # --- 3. distil
    class Distiller(StageTrainer):
        def stage_loss(self, model, inputs, outputs):
            return distillation.lesson(corpus.task, outputs, inputs, temperature=args.temperature, alpha=args.alpha,
                                       hidden_weight=args.hidden_weight if hidden else 0.0)

    trainer = make_trainer(Distiller, corpus.task, stage, "train", student, args, train, validation, collator, epochs=args.epochs)
    fit(trainer, stage)

    # --- 4. save
    stage.metrics |= inspection.judged(corpus.task, student, validation, collator) | ({teacher_cache.UNLIKE: True} if begun.unlike else {})
    compact.save(student, stage.dir)
    opening.save_tokenizer(tokenizer, stage.dir, args.max_length)
    stage.publish()
    cli.say(f"student: {student.num_parameters():,} parameters, held-out {corpus.task.metric_name} {stage.validation:.4f} "
            + (f"(its teacher: {teacher.validation:.4f})" if teacher.validation is not None else "(its teacher is a file of answers)"))


if __name__ == "__main__":
    cli.run(main, parse_args())

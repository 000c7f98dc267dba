"""Stage 1: fine-tune the teacher, or register a fine-tuned one.

A pretrained BERT, or another encoder, with a new classification head learns the task by cross-entropy (Devlin et al. 2019, section 4.1).
A classifier that is fine-tuned already may be of any architecture that the installed transformers knows.

    python 5_finetune_teacher.py [--fast]                     bert-local/ + sst2_data/ -> models/finetuned_teacher_<ts>/
    python 5_finetune_teacher.py --model PATH_OR_ID           a fine-tuned model: checked, measured, taken as it is

Reads bert-local/ and sst2_data/ (or --data-dir). Writes models/finetuned_teacher_<ts>/ and the link teacher_model.
Twenty minutes on two cores for the whole of SST-2 with the 6-layer, 384-wide encoder; three minutes with --fast on the package sentences.
"""

import math
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms

TRAINING = ("--epochs", "--train-sentences", "--lr", "--batch-size", "--weight-decay", "--warmup", "--evals-per-epoch", "--patience",
            "--matmul-precision", "--report-to")
PASSES, LEAST_STEPS = 2, 2_000  # what a large set needs, and a small one, of many classes above all


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("teacher")
    group.add_argument("--model", metavar="PATH_OR_ID", default=None,
                       help="a fine-tuned classifier to register instead of training one")
    group.add_argument("--revision", default=None, help="revision of a hub id given with --model")
    group.add_argument("--init", type=forms.path, metavar="DIR", default=None, help="pretrained encoder; else DIR is RUN_DIR/bert-local")
    parser.training_flags(epochs=(None, 2), lr=5e-5, unset=f"{PASSES}, or as many as make {LEAST_STEPS:,} steps")
    args = parser.parse(argv)
    parser.refuse_idle(("--revision", args.model is None or os.path.isdir(args.model), "but on a hub id that --model gives"),
                       ("--init --seeds", args.model is not None, "with --model, which is taken as it is"))
    if args.model is not None and (idle := parser.typed(TRAINING)):
        cli.say(f"{', '.join(idle)}: of no effect with --model, which is taken as it is")
        usual = parser.parse(["--fast"] if args.fast else [])
        args = cli.replaced(args, **{name: getattr(usual, name) for name in map(parser.name_of, idle)})  # nor on the key
    return args


def passes(args, sentences: int) -> float:
    """Epochs over so many training sentences: as asked for, else PASSES, or what makes LEAST_STEPS."""
    return args.epochs or max(PASSES, math.ceil(LEAST_STEPS * args.batch_size / min(sentences, args.train_sentences or sentences)))


def main(args):
    from common import data, hub, inspection, opening, publishing, sources
    from common.architectures import classifiers, encoders, families, spelling
    from common.tasks import Regression, SingleLabel
    from common.texts import lengths
    from training.trainer import StageTrainer, fit, make_trainer, prepare

    # --- 1. load
    corpus = data.load(args)
    if args.model is not None:
        cli.refuse_unspeakable(args.model)
        sources.refuse_mixture(args.model, corpus)  # before a hub is asked
        start, commit = hub.here(args.model, args.revision, classifiers.refuse_unknown)
    else:
        start, commit = sources.local_model(args.run_dir, args.init, "bert-local"), None
    if args.model is not None or args.init is not None:
        sources.refuse_mixture(start, corpus)
    named = start if args.model is None else args.model
    prepare(args.seed, args.matmul_precision)
    model = (classifiers.load(start, named, corpus.task) if args.model is not None else
             encoders.load_classifier(start, corpus.label_names, named, corpus.task))
    tokenizer = spelling.load(start, model.config, corpus.train.texts, named, pairs=corpus.train.seconds is not None)
    model.config.pad_token_id = tokenizer.pad_token_id
    args = cli.replaced(args, max_length=lengths.of_start(args.max_length, model.config, tokenizer, named, corpus.train))
    args = cli.replaced(args, epochs=passes(args, len(corpus.train)))
    foreign = model.config.model_type not in families.FAMILIES
    if foreign:
        classifiers.try_out(model, tokenizer, corpus.validation.rows, args.max_length, named)
    if args.model is not None and not isinstance(corpus.task, Regression):
        order = encoders.match_classes(model, corpus.label_names, named, classifiers.map_onto_classes if foreign else None)
    model.config.update(encoders.labels(corpus.label_names) | {"problem_type": corpus.task.in_config})
    stage = publishing.begin(args, "teacher", "finetuned_teacher", corpus.facts, [], link="teacher_model",
                             decides={"start": sources.identity(start)} | ({"commit": commit} if commit else {})
                             | (classifiers.code(start) if args.model is not None else {}),
                             origin=sources.origin(start, args.model, commit))
    if stage.done:
        return
    train = data.tokenise(tokenizer, data.part(corpus.train, args.train_sentences, args.seed), args.max_length)
    validation = data.tokenise(tokenizer, corpus.validation, args.max_length)
    data.count_tokens(train, args.max_length)

    # --- 2. fine-tune
    collator = data.Collator(tokenizer.pad_token_id)
    trainer = make_trainer(StageTrainer, corpus.task, stage, "train", model, args, train, validation, collator, epochs=args.epochs)
    if args.model is None:
        fit(trainer, stage)

    # --- 3. save
    stage.metrics |= inspection.judged(corpus.task, model, validation, collator)
    model.save_pretrained(stage.dir)
    if "code" in stage.asked:
        classifiers.keep_code(start, stage.dir)
    opening.save_tokenizer(tokenizer, stage.dir, args.max_length)
    stage.publish()
    if args.model is not None and isinstance(corpus.task, SingleLabel):
        inspection.warn_of_a_poor_teacher(model, validation, collator, corpus.label_names, order)
    cli.say(f"teacher: held-out {corpus.task.metric_name} {stage.validation:.4f} on {len(corpus.validation)} {corpus.validation.called}")


if __name__ == "__main__":
    cli.run(main, parse_args())

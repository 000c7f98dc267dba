"""Stage 2: lessons, texts to learn from with the teacher's answer to each.

The training texts, and where the recipe says so others made of them and of the teacher's own words (after Jiao et al. 2020): what counts
for a small student is how many different texts it hears the teacher on. The teacher answers each once; its logits are what students,
pruned models and quantised ones learn (Hinton et al. 2015).

    python make_lessons.py [--fast] [--preset near]        teacher_model + training texts -> models/lessons_<ts>/lessons.parquet

Presets that learn from the same lessons share them. Three minutes on two cores for the whole of SST-2 and a teacher of six layers 384
wide, and in proportion more where texts are made up; half a minute with --fast on the package sentences.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, recipes

LEAST = 200_000  # texts that are made where they are asked for by the training text: a small set's students need so many to learn at all


def made_up(text: str) -> int | str:
    """How many texts are to be made: a count, or as many for each training text, as in 30x."""
    number = text.removesuffix("x")
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of texts nor, as 30x is, one for each training text")
    return cli.count(text) if number == text else f"{cli.count(number)}x"


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("lessons")
    group.add_argument("--preset", dest="variant", choices=recipes.read(), default="published",
                       help="the operating point that is to learn from them: its recipe says how many are made up")
    group.add_argument("--teacher", type=cli.path, metavar="DIR", default=None, help="the teacher's checkpoint; else the newest")
    parser.sentences_flag(group)
    group.add_argument("--augment", type=made_up, default=None, metavar="N|Nx",
                       help="N more texts, made of the training texts and the teacher's words, which nobody but the teacher labels; "
                            f"30x: thirty for each training text, and {LEAST:,} at least; else as many as the recipe says")
    cli.precision_flag(group)
    parser.seeds_flag(group)
    args = parser.parse(argv, stage="lessons")
    return cli.replaced(args, variant=recipes.read()[args.variant].lessons)


def main(args):
    import numpy as np

    from common import checkpoints, data, distillation, distributed, encoders, lengths
    from compress import augmentation
    from training import lessons, precision
    from training.trainer import prepare

    # --- 1. load
    corpus = data.load(args)
    teacher = checkpoints.find(args.run_dir, "teacher", args.teacher, seed=args.seed)
    checkpoints.same_data(teacher, corpus.facts)
    precision.check(args.matmul_precision)
    sentences = data.part(corpus.train, args.train_sentences, args.seed)
    if isinstance(args.augment, str):
        args = cli.replaced(args, augment=max(LEAST, int(args.augment[:-1]) * len(sentences)))
    args = cli.replaced(args, max_length=lengths.trained_on(args.max_length, [teacher], encoders.load_config(teacher.path)))
    stage = checkpoints.begin(args, "lessons", "lessons", corpus.facts, [teacher], variant=args.variant)
    if stage.done:
        return
    prepare(args.seed, args.matmul_precision)

    # --- 2. texts: those of the training set, and behind them new ones
    new = []
    if args.augment is not None:
        table = checkpoints.load_model(teacher.path).get_input_embeddings().weight.detach()
        new = augmentation.new_sentences(sentences.texts, list(data.phrases_inside(sentences.texts)), table,
                                         checkpoints.load_tokenizer(teacher.path).get_vocab(), args.augment, args.seed)
        if len(new) < args.augment:
            cli.say(f"--augment {args.augment}: {len(new):,} new sentences can be made of these texts and the teacher's whole-word "
                    "pieces; training goes on with " + ("these" if new else "the texts alone"))
    shown = data.Split(sentences.texts + new, sentences.labels + [distillation.UNKNOWN] * len(new))

    # --- 3. the teacher answers, once
    if distributed.is_first():
        logits = lessons.answers(teacher, shown.texts, args.max_length, stage.work("answers"), args.matmul_precision)
        right = logits[:len(sentences)].argmax(-1) == np.array(sentences.labels)

        # --- 4. save
        lessons.write(shown, logits, stage.dir)
        stage.metrics |= {"texts": len(shown), "made_up": len(new), "teacher_accuracy": float(right.mean())}
        cli.say(f"lessons: {len(shown):,} texts, {len(new):,} of them made up; the teacher labels {100 * right.mean():.2f} % of the "
                "others as they are")
    stage.publish()


if __name__ == "__main__":
    cli.run(main, parse_args())

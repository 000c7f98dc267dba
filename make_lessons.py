"""Stage 2: lessons, texts to learn from with the teacher's answer to each.

The training texts, those of one's own that nobody labelled, and where the recipe says so others made of them and of the teacher's own
words (after Jiao et al. 2020): what counts for a small student is how many different texts it hears the teacher on. The teacher, a model
or a file of answers, answers each once; its logits are what students, pruned models and quantised ones learn (Hinton et al. 2015).

    python make_lessons.py [--fast] [--preset near]        teacher_model + training texts -> models/lessons_<ts>/lessons.parquet

Presets that learn from the same lessons share them. Three minutes on two cores for the whole of SST-2 and a teacher of six layers 384
wide, and in proportion more where texts are made up; half a minute with --fast on the package sentences.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms, recipes

# Texts that are made where they are asked for by the training text. A small set's students need the first number to learn at all; more than
# the second takes hours where a set is large.
LEAST, MOST = 200_000, 400_000


def made_up(text: str) -> int | str:
    """How many texts are to be made: a count, or as many for each training text, as in 30x."""
    number = text.removesuffix("x")
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of texts nor, as 30x is, one for each training text")
    return forms.count(text) if number == text else f"{forms.count(number)}x"


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("lessons")
    group.add_argument("--preset", dest="variant", choices=recipes.read(), default="published",
                       help="the operating point that is to learn from them: its recipe says how many are made up")
    group.add_argument("--teacher", type=forms.path, metavar="DIR", default=None, help="the teacher's checkpoint; else the newest")
    parser.sentences_flag(group)
    group.add_argument("--augment", type=made_up, default=None, metavar="N|Nx",
                       help="N more texts, made of the training texts and the teacher's words, which nobody but the teacher labels; "
                            f"30x: thirty for each training text, but {LEAST:,} at least and {MOST:,} at most; else as the recipe says")
    group.add_argument("--unlabelled", type=forms.path, metavar="FILE", default=None,
                       help="texts of one's own that nobody labelled, one a line of a .txt, or a table's; they come before made-up ones")
    group.add_argument("--soft-labels", type=forms.path, metavar="FILE", default=None,
                       help="instead of a teacher, its answers: a table of texts with a column of probabilities a class, called as the "
                            "class is, or one column of lists")
    cli.precision_flag(group)
    parser.seeds_flag(group)
    args = parser.parse(argv, stage="lessons")
    if args.teacher and args.soft_labels:
        parser.error("give --teacher or --soft-labels: they exclude each other")
    return cli.replaced(args, variant=recipes.read()[args.variant].lessons)


def main(args):
    import numpy as np

    from common import checkpoints, data, distributed, opening, publishing
    from common.architectures import classifiers
    from common.facts import sha256_file
    from common.texts import lengths, unlabelled
    from common.texts.columns import Wanted
    from compress import augmentation, words
    from deploy import onnx_teacher
    from training import lessons, precision, soft_labels
    from training.trainer import prepare

    # --- 1. load
    corpus = data.load(args)
    teacher = (soft_labels.register(args, corpus) if args.soft_labels else
               checkpoints.find(args.run_dir, "teacher", args.teacher, seed=args.seed))
    in_a_file = checkpoints.is_a_table(teacher.path)
    checkpoints.same_data(teacher, corpus.facts)
    precision.check(args.matmul_precision)
    sentences = data.part(corpus.train, args.train_sentences, args.seed)
    own = unlabelled.read(args.unlabelled, Wanted.of(args), sentences.seconds is not None) if args.unlabelled else []
    if args.augment is not None and in_a_file:
        cli.say("no texts are made up: a file has no answer to them")
        args = cli.replaced(args, augment=None)
    elif isinstance(args.augment, str):
        args = cli.replaced(args, augment=min(MOST, max(LEAST, int(args.augment[:-1]) * len(sentences))))
    args = cli.replaced(args, max_length=lengths.trained_on(args.max_length, [teacher], classifiers.load_config(teacher.path)))
    stage = publishing.begin(args, "lessons", "lessons", corpus.facts, [teacher], variant=args.variant,
                             decides={"unlabelled": sha256_file(args.unlabelled)[:16]} if args.unlabelled else None)
    if stage.done:
        return
    prepare(args.seed, args.matmul_precision)

    # --- 2. texts: those of the training set, behind them one's own without labels, and behind these new ones
    own = unlabelled.new(own, corpus, args.unlabelled.name) if own else own
    if in_a_file:
        sentences, own = soft_labels.with_answers(teacher, sentences, own, corpus)
    if args.fast and len(own) > cli.FAST_SENTENCES:
        own = random.Random(args.seed).sample(own, cli.FAST_SENTENCES)
    new: list = []
    wanted = max(0, (args.augment or 0) - len(own))
    if wanted:
        known = data.Split.of([*sentences.rows, *own], [])
        table = opening.load_model(teacher.path).get_input_embeddings().weight.detach()
        tokenizer = opening.load_tokenizer(teacher.path).backend_tokenizer
        material = (list(data.phrases_inside(known.every_text)), table, words.vocabulary(tokenizer), wanted, args.seed,
                    words.reader(tokenizer))
        new = (augmentation.new_sentences(known.texts, *material) if known.seconds is None else
               augmentation.new_pairs(known.texts, known.seconds, *material))
        if len(new) < wanted:
            cli.say(f"--augment {args.augment}: {len(new):,} new {sentences.called} can be made of these texts and the teacher's whole "
                    "words" + ("; training goes on with these" if new else
                       ", for its vocabulary has next to none of their language; training goes on with the texts alone"))
    shown = data.Split.of([*sentences.rows, *own, *new], sentences.labels + [corpus.task.unknown] * len([*own, *new]))

    # --- 3. the teacher answers, once
    if distributed.is_first():
        runtime = onnx_teacher.runtime(teacher) if args.matmul_precision == "highest" else None
        logits = lessons.answers(teacher, shown.rows, args.max_length, stage.work("answers"), args.matmul_precision, runtime)

        # --- 4. save
        lessons.write(shown, logits, stage.dir)
        stage.metrics |= {"texts": len(shown), "made_up": len(new)} | ({"unlabelled": len(own)} if own else {})
        said = f"lessons: {len(shown):,} texts" + (f", {len(own):,} of them unlabelled" if own else "") + f", {len(new):,} of them made up"
        if len(sentences):
            score = corpus.task.scores(logits[:len(sentences)], np.array(sentences.labels))[corpus.task.metric]
            stage.metrics[f"teacher_{corpus.task.metric}"] = score
            said += f"; the teacher's {corpus.task.metric_name} on the others is {score:.4f}"
        cli.say(said)
    stage.publish()


if __name__ == "__main__":
    cli.run(main, parse_args())

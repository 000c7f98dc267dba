"""Label texts with any checkpoint: label, probability and text, a line each; of a table beside its other columns.

Of several labels at once all that are said stand there, parted by commas; a score stands where a label would, and has no probability.
A model that was made from pairs reads TEXT<TAB>TEXT.

    python predict.py "a gripping film" "dull"
    python predict.py --file reviews.txt --json
    python predict.py --file reviews.csv --output labelled.parquet
    tail -f log | python predict.py --checkpoint models/onnx_int8_20250101_120000
    python predict.py --file reviews.txt --sure .98 --fall-back teacher_model

An empty line is answered with an empty label and no probability, so that answers stay beside their lines.
"""

import contextlib
import errno
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms, streams

IN_THE_BOX = Path(__file__).resolve().parent / "pretrained" / "sst2-max" / "onnx"  # an SST-2 model that came with this file
BATCHES_AT_ONCE = 32  # read, sorted by length and answered together: bounds memory


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to label; without any, --file or standard input")
    parser.add_argument("--file", type=forms.named, default=None,
                        help="texts, one a line, UTF-8; a pipe too; - is standard input. Or a table: .csv, .tsv, .jsonl, .json, .parquet")
    parser.add_argument("--text-column", metavar="NAME", default=None, help="the table's column of texts; else its name or its cells tell")
    parser.add_argument("--pair-column", metavar="NAME", default=None, help="that of the second texts, of a model that reads pairs")
    parser.add_argument("--output", type=forms.path, metavar="FILE", default=None,
                        help="write a table there, whole or not at all: all columns of --file, and behind them the answers', which begin "
                             "with predicted_; .csv, .tsv, .jsonl or .parquet")
    parser.add_argument("--checkpoint", type=forms.path, metavar="DIR", default=None,
                        help="a checkpoint or an ONNX directory; else RUN_DIR/compressed, or the model of the fewest bytes in "
                             "RUN_DIR/models, its int8 ONNX export before its fp32 one before the torch model; "
                             "where nothing was trained yet, pretrained/sst2-max, a model of film reviews")
    parser.add_argument("--run-dir", type=forms.path, default=Path("."), metavar="DIR", help="where compressed/ or models/ stands")
    parser.add_argument("--batch-size", type=forms.count, default=32, metavar="TEXTS", help="texts a batch; answers don't depend on it")
    parser.add_argument("--threads", type=forms.threads, default=None, metavar="N", help="CPU threads; else the runtime's own choice")
    parser.add_argument("--all-scores", action="store_true", help="the probability of every label too, the likeliest first")
    parser.add_argument("--sure", type=forms.fraction, metavar="SHARE", default=None,
                        help="mark what the model is less sure of; the report says how often answers above are the teacher's")
    parser.add_argument("--fall-back", type=forms.path, metavar="DIR", default=None,
                        help="a checkpoint, the teacher's as a rule, that answers instead what is below --sure")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of tab-separated columns")
    args = parser.parse_args(argv)
    if args.texts and args.file:
        parser.error("give texts or --file, not both")
    if args.output and args.json:
        parser.error("--json is for standard output: an --output that ends in .jsonl has it")
    if args.fall_back and args.sure is None:
        parser.error("--fall-back answers what is below --sure: give that too")
    return args


def choose(run_dir: Path) -> Path:
    """The checkpoint to use where none is named: the model in the box where nothing was made. Raises UserError where neither is there."""
    from common import checkpoints, lineage

    if (run_dir / "compressed" / "stage.json").is_file():
        return run_dir / "compressed"  # the smallest may have lost more than was allowed
    with contextlib.redirect_stdout(sys.stderr):  # what it says of damaged ones isn't an answer
        smallest = lineage.smallest(checkpoints.published(run_dir))
    if smallest:
        return smallest.path
    if run_dir == Path(".") and IN_THE_BOX.is_dir():
        cli.warn("nothing trained here yet: pretrained/sst2-max answers (English film reviews, positive or negative)")
        return IN_THE_BOX
    raise cli.UserError(f"no checkpoint under {run_dir / 'models'}: run python 5_finetune_teacher.py first, or name one with --checkpoint")


def show(rows, said, as_json: bool) -> bool:
    """Prints a line for each row and whether anybody still reads. Raises UserError where standard output takes no more."""
    from common.texts import outputs

    number = streams.put("".join(f"{outputs.line(*both, as_json)}\n" for both in zip(rows, said, strict=True)), sys.stdout)
    if number not in (0, errno.EPIPE):
        raise cli.UserError(f"standard output takes nothing more ({os.strerror(number)})")
    return number == 0


def main(args):
    from common.texts import columns, inputs, outputs

    if "stdout" in streams.closed:
        raise cli.UserError("standard output is closed: there is nowhere to answer")
    wanted, most = columns.Wanted(args.text_column, args.pair_column), args.batch_size * BATCHES_AT_ONCE
    table = inputs.table(args.file, wanted)
    lines = inputs.lines(args.texts, args.file, most) if table is None else []
    if args.output:
        outputs.refuse(args.output, table)
    from common import cascade, inference
    from training import memory

    # --- 1. load
    memory.keep_shapes(0)
    classifier = inference.open_classifier(args.checkpoint or choose(args.run_dir), args.threads)
    teacher = inference.open_classifier(args.fall_back, args.threads) if args.fall_back else None
    model = cascade.Cascade(classifier, args.sure, teacher)
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's takes any text as it is
        sys.stdout.reconfigure(encoding="utf-8", errors=streams.LEGIBLE)  # answers are data: of one encoding wherever they are read

    # --- 2. answer, chunk by chunk
    name = "argument" if args.texts else args.file or "standard input"
    pairs = bool(classifier.checkpoint.manifest["dataset"].get("pairs"))
    chunks = inputs.of_lines(lines, name, pairs, hints=not args.texts) if table is None else inputs.of_table(table, wanted, pairs, most)
    every, answers, empty = [], [], 0
    for rows in chunks:
        said = model.answers(rows, args.batch_size, args.all_scores)
        empty += sum(map(cascade.empty, rows))
        if args.output:
            every += rows
            answers += said
        elif not show(rows, said, args.json):
            return  # the reader has enough (… | head)

    # --- 3. write what goes into a file, and what is to be known of it
    if args.output:
        outputs.write(args.output, every, answers, classifier.label_names, table)
    for line in (model.summary(), f"{empty:,} empty {'line' if empty == 1 else 'lines'} answered with an empty label" if empty else None,
                 f"{classifier.cut_short} {'text' if classifier.cut_short == 1 else 'texts'} longer than the model's "
                 f"{classifier.max_length} tokens: what follows these wasn't read" if classifier.cut_short else None):
        if line:
            cli.warn(line)


if __name__ == "__main__":
    cli.run(main, parse_args())

"""Label tables of any size with an exported model: Parquet, CSV or JSON lines in, Parquet out, all other columns kept.

By Ray Data where Ray is installed (requirements-scale.txt), on this machine or on the cluster that RAY_ADDRESS names; else by a process a
core. A file of answers is whole or not there: the same command, given again after a kill, makes the missing ones. docs/SCALE.md has more.

    python score.py reviews/ labelled/ --checkpoint compressed
    python score.py pairs.parquet labelled/ --checkpoint compressed --text-column question1 --pair-column question2
    RAY_ADDRESS=head:6379 python score.py /shared/reviews/ /shared/labelled/ --checkpoint /shared/compressed

Each row has the answer in columns of its own, as predict.py --json calls them. Rows without a text, and lines that are none of the
table's, go to labelled/_bad_rows/ with the reason. Reads a directory that 11_export_onnx.py or shrink.py made.
"""

import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("data", type=forms.path, metavar="INPUT", help="a .parquet, .csv or .jsonl, or a directory of such, at any depth")
    parser.add_argument("output", type=forms.path, metavar="OUTPUT", help="a directory for the answers: a new one, or an earlier try's")
    parser.add_argument("--checkpoint", type=forms.path, metavar="DIR", required=True, help="an exported model")
    parser.add_argument("--text-column", type=forms.named, metavar="NAME", default=None,
                        help="where the text stands, or the first of two; else guessed, and said. Columns without a header are 1, 2, …")
    parser.add_argument("--pair-column", type=forms.named, metavar="NAME", default=None, help="where the second of two texts stands")
    parser.add_argument("--bad-rows", choices=["aside", "stop"], default="aside",
                        help="what becomes of rows that can't be answered: put aside with the reason, or the first one ends the run")
    parser.add_argument("--rows-per-file", type=forms.count, default=100_000, metavar="ROWS",
                        help="rows of a file of answers: what a process does at a time, and what is lost where one is killed")
    parser.add_argument("--engine", choices=["ray", "local"], default=None, help="who does the work; else ray where it is installed")
    parser.add_argument("--threads", type=forms.threads, default=1, metavar="N",
                        help="CPU threads a process, or CPUs a Ray actor; more than one pays for large models alone")
    return parser.parse_args(argv)


def main(args):
    from common import publishing
    from common.texts.columns import Wanted
    from deploy import engines, scoring

    # --- 1. what is to be done, and what of it is done already
    engine = engines.chosen(args.engine)
    with publishing.claimed(args.output):
        job, tasks = scoring.plan(args.data, args.output, args.checkpoint, Wanted(args.text_column, args.pair_column), args.rows_per_file,
                                  args.bad_rows == "stop")

        # --- 2. do it
        start = time.perf_counter()
        try:
            with contextlib.closing(engines.outcomes(engine, job, tasks, args.threads)) as outcomes:
                total = scoring.tally(outcomes, sum(task.shard.rows for task in tasks))
        finally:
            scoring.clear(args.output)
        seconds = time.perf_counter() - start

    # --- 3. what came of it
    cli.say(f"{total.rows:,} rows answered in {seconds:,.1f} s ({total.rows / max(seconds, 1e-9):,.0f} a second): {args.output}")
    if total.bad:
        cli.warn(f"{total.bad:,} bad {'row' if total.bad == 1 else 'rows'} put aside: {args.output / scoring.BAD_ROWS}")
    if total.cut:
        cli.warn(f"{total.cut:,} {'text' if total.cut == 1 else 'texts'} longer than the model reads: what follows wasn't read")


if __name__ == "__main__":
    cli.run(main, parse_args())

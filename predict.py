"""Label texts with any checkpoint: label, probability and text, a line each.

    python predict.py "a gripping film" "dull"
    python predict.py --file reviews.txt --json
    cat reviews.txt | python predict.py --checkpoint models/onnx_int8_20250101_120000

An empty line is answered with an empty label and no probability, so that answers stay beside their lines.
"""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from common import cli

STAGES = ["pruned_qkd", "pruned_ptq", "pruned", "distilled", "distilled_ptq", "teacher"]  # the most compressed lineage first
RUNTIMES = ["_onnx_int8", "_onnx", ""]  # of each, what a CPU runs fastest
IN_THE_BOX = Path(__file__).resolve().parent / "pretrained" / "sst2-max" / "onnx"  # an SST-2 model that came with this file
BATCHES_AT_ONCE = 32  # read, sorted by length and answered together: bounds memory


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to label; without any, --file or standard input")
    parser.add_argument("--file", type=Path, default=None, help="texts, one a line, UTF-8")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", default=None,
                        help="a checkpoint or an ONNX directory; else the newest in RUN_DIR of the first stage there is of "
                             f"{', '.join(STAGES)}: "
                             "its int8 ONNX export before its fp32 one before the torch model, the published variant before others; "
                             "where nothing was trained yet, pretrained/sst2-max, a model of film reviews")
    parser.add_argument("--run-dir", type=Path, default=Path("."), metavar="DIR", help="where models/ stands")
    parser.add_argument("--batch-size", type=cli.count, default=32, metavar="TEXTS", help="texts a batch; answers don't depend on it")
    parser.add_argument("--threads", type=cli.count, default=None, metavar="N", help="CPU threads; else the runtime's own choice")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of tab-separated columns")
    args = parser.parse_args(argv)
    if args.texts and args.file:
        parser.error("give texts or --file, not both")
    return args


def choose(run_dir: Path) -> Path:
    """The checkpoint to use where none is named: the model in the box where nothing was made. Raises UserError where neither is there."""
    from common import checkpoints

    with contextlib.redirect_stdout(sys.stderr):  # what it says of damaged ones isn't an answer
        made = checkpoints.published(run_dir)
    made.sort(key=lambda c: c.variant != "published")  # stable: newest first within each
    for stage in (stage + runtime for stage in STAGES for runtime in RUNTIMES):
        for checkpoint in made:
            if checkpoint.stage == stage:
                return checkpoint.path
    if run_dir == Path(".") and IN_THE_BOX.is_dir():
        print("nothing trained here yet: pretrained/sst2-max answers (English film reviews, positive or negative)", file=sys.stderr)
        return IN_THE_BOX
    raise cli.UserError(f"no checkpoint under {run_dir / 'models'}: run python 5_finetune_teacher.py first, or name one with --checkpoint")


def decoded(handle, name: str) -> Iterator[str]:
    """The lines of a binary stream without their ends. Raises UserError with name and line where one isn't UTF-8."""
    for number, line in enumerate(handle, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise cli.UserError(f"{name}:{number}: bytes that aren't UTF-8: save the text as UTF-8") from None


def row(text: str, label: str, probability: float | None, as_json: bool) -> str:
    if as_json:
        return json.dumps({"label": label, "probability": probability, "text": text}, ensure_ascii=False)
    shown = "" if probability is None else f"{probability:.4f}"
    return f"{label}\t{shown}\t{' '.join(text.splitlines()).replace(chr(9), ' ')}"


def answer(classifier, texts: Iterator[str], args) -> None:
    """Prints a row for each text, in order, chunk by chunk."""
    import numpy as np

    empty = 0
    while chunk := list(itertools.islice(texts, args.batch_size * BATCHES_AT_ONCE)):
        full = [text for text in chunk if text.strip()]
        empty += len(chunk) - len(full)
        logits = iter(classifier.classify(full, args.batch_size))
        for text in chunk:
            if not text.strip():
                print(row(text, "", None, args.json))
                continue
            scores = next(logits)  # (K,)
            exponentials = np.exp(scores - scores.max())
            best = int(scores.argmax())
            print(row(text, classifier.label_names[best], round(float(exponentials[best] / exponentials.sum()), 6), args.json))
        sys.stdout.flush()
    if empty:
        print(f"{empty} empty {'line' if empty == 1 else 'lines'} answered with an empty label", file=sys.stderr)
    if classifier.cut_short:
        print(f"{classifier.cut_short} {'text' if classifier.cut_short == 1 else 'texts'} longer than the model's {classifier.max_length} "
              "tokens: what follows these wasn't read", file=sys.stderr)


def main(args):
    if args.file and not args.file.is_file():
        raise cli.UserError(f"{args.file} not found: --file needs a text file, one text a line")
    from common import inference, memory

    # --- 1. load
    memory.forget_shapes()
    classifier = inference.open_classifier(args.checkpoint or choose(args.run_dir), args.threads)
    sys.stdout.reconfigure(encoding="utf-8")

    # --- 2. answer
    try:
        with contextlib.ExitStack() as stack:
            if args.texts:
                # What the shell handed over as other bytes becomes bytes again, to be refused like a file's.
                texts = decoded((os.fsencode(text) for text in args.texts), "argument")
            elif args.file:
                texts = decoded(stack.enter_context(open(args.file, "rb")), str(args.file))
            else:
                texts = decoded(sys.stdin.buffer, "standard input")
            answer(classifier, texts, args)
    except BrokenPipeError:  # the reader has enough (… | head): nothing to say, and nothing left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    cli.run(main, parse_args())

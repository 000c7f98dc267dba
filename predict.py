"""Label texts with any checkpoint: label, probability and text, a line each.

Of several labels at once all that are said stand there, parted by commas; a score stands where a label would, and has no probability.
A model that was made from pairs reads TEXT<TAB>TEXT.

    python predict.py "a gripping film" "dull"
    python predict.py --file reviews.txt --json
    cat reviews.txt | python predict.py --checkpoint models/onnx_int8_20250101_120000

An empty line is answered with an empty label and no probability, so that answers stay beside their lines.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms, streams

STAGES = ["pruned_qkd", "pruned_ptq", "pruned", "distilled", "distilled_ptq", "teacher"]  # the most compressed lineage first
RUNTIMES = ["_onnx_int8", "_onnx", ""]  # of each, what a CPU runs fastest
IN_THE_BOX = Path(__file__).resolve().parent / "pretrained" / "sst2-max" / "onnx"  # an SST-2 model that came with this file
BATCHES_AT_ONCE = 32  # read, sorted by length and answered together: bounds memory


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to label; without any, --file or standard input")
    parser.add_argument("--file", type=forms.named, default=None, help="texts, one a line, UTF-8; a pipe too; - is standard input")
    parser.add_argument("--checkpoint", type=forms.path, metavar="DIR", default=None,
                        help="a checkpoint or an ONNX directory; else the newest in RUN_DIR of the first stage there is of "
                             f"{', '.join(STAGES)}: "
                             "its int8 ONNX export before its fp32 one before the torch model, the published variant before others; "
                             "where nothing was trained yet, pretrained/sst2-max, a model of film reviews")
    parser.add_argument("--run-dir", type=forms.path, default=Path("."), metavar="DIR", help="where models/ stands")
    parser.add_argument("--batch-size", type=forms.count, default=32, metavar="TEXTS", help="texts a batch; answers don't depend on it")
    parser.add_argument("--threads", type=forms.threads, default=None, metavar="N", help="CPU threads; else the runtime's own choice")
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
        cli.warn("nothing trained here yet: pretrained/sst2-max answers (English film reviews, positive or negative)")
        return IN_THE_BOX
    raise cli.UserError(f"no checkpoint under {run_dir / 'models'}: run python 5_finetune_teacher.py first, or name one with --checkpoint")


def decoded(handle, name: str) -> Iterator[str]:
    """The lines of a binary stream without their ends. Raises UserError with name and line where one isn't UTF-8 or can't be read."""
    number = 0
    try:
        for number, line in enumerate(handle, 1):
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise cli.UserError(f"{name}:{number}: bytes that aren't UTF-8: save the text as UTF-8") from None
    except OSError as error:
        raise cli.UserError(f"{name}:{number + 1}: can't be read ({error.strerror})") from None


def watched(texts: Iterator[str], name: str) -> Iterator[str]:
    """The texts, with a word about those that look like something else than a text a line."""
    hints = {
        "carriage returns stand inside a line, which ends with a line feed here: it is answered as one text (tr '\\r' '\\n' parts it)":
            lambda text, number: "\r" in text,
        "its lines look like JSON: each is answered as it stands, names and brackets too; hand over the texts alone": _is_json,
        "its first line looks like a table's header: each line is answered as it stands, with all columns": _is_header}
    for number, text in enumerate(texts, 1):
        for hint in [hint for hint, fits in hints.items() if fits(text, number)]:
            cli.warn(f"{name}:{number}: {hint}")
            del hints[hint]
        yield text


def _is_json(text: str, number: int) -> bool:
    if number > 1 or not text.startswith(("{", "[{")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_header(text: str, number: int) -> bool:
    cells = [cell.strip(' "').lower() for cell in re.split(r"[\t,;]", text)]
    names = all(cell.isidentifier() for cell in cells)
    return number == 1 and len(cells) > 1 and names and not {"sentence", "text", "label"}.isdisjoint(cells)


def opened(file: str | None):
    """What texts are read from where none were given. Raises UserError where nothing can be."""
    if file in (None, "-"):
        if "stdin" in streams.closed:
            raise cli.UserError("no texts, and standard input is closed: give texts, or --file")
        return sys.stdin.buffer
    try:
        if os.path.isdir(file):
            raise cli.UserError(f"{file} is a directory: --file needs a text file, one text a line")
        return open(file, "rb")  # a pipe too, named or of the shell's <(…)
    except FileNotFoundError:
        raise cli.UserError(f"{file} not found: --file needs a text file, one text a line") from None
    except OSError as error:
        raise cli.UserError(f"{file} can't be read ({error.strerror}): --file needs a text file, one text a line") from None


def row(read, said: dict, as_json: bool) -> str:
    """A line of output: an answer as `common.tasks` gives it, and what was read, a text or two."""
    texts = [read] if isinstance(read, str) else list(read)
    if as_json:
        return json.dumps(said | dict(zip(("text", "second"), texts, strict=False)), ensure_ascii=False)
    answer, sureness = [cell(value) for value in said.values()] if len(said) > 1 else [cell(*said.values()), ""]
    return "\t".join([answer, sureness, *(" ".join(text.splitlines()).replace("\t", " ") for text in texts)])


def cell(value: str | float | list | None) -> str:
    """A value in a column; those of several labels parted by commas."""
    if isinstance(value, list):
        return ",".join(map(cell, value))
    return value if isinstance(value, str) else "" if value is None else f"{value:.4f}"


def paired(texts: Iterator[str], name: str) -> Iterator:
    """The two texts of each line, TEXT<TAB>TEXT; an empty line as it is. Raises UserError for any other."""
    for number, text in enumerate(texts, 1):
        both = tuple(text.split("\t"))
        if text.strip() and (len(both) != 2 or not all(part.strip() for part in both)):
            raise cli.UserError(f"{name}:{number}: this model reads pairs of texts: give TEXT<TAB>TEXT, one tab between them")
        yield both if text.strip() else text


def answer(classifier, texts: Iterator, args) -> None:
    """Prints a row for each text or pair, in order, chunk by chunk. Raises UserError where standard output takes no more."""
    empty = 0
    while chunk := list(itertools.islice(texts, args.batch_size * BATCHES_AT_ONCE)):
        full = [text for text in chunk if not isinstance(text, str) or text.strip()]
        empty += len(chunk) - len(full)
        logits = iter(classifier.classify(full, args.batch_size))
        rows = []
        for text in chunk:
            blank = isinstance(text, str) and not text.strip()
            rows.append(row(text, classifier.task.said(None if blank else next(logits), classifier.thresholds), args.json))
        number = streams.put("".join(f"{one}\n" for one in rows), sys.stdout)
        if number == errno.EPIPE:
            return  # the reader has enough (… | head)
        if number:
            raise cli.UserError(f"standard output takes nothing more ({os.strerror(number)})")
    if empty:
        cli.warn(f"{empty} empty {'line' if empty == 1 else 'lines'} answered with an empty label")
    if classifier.cut_short:
        cli.warn(f"{classifier.cut_short} {'text' if classifier.cut_short == 1 else 'texts'} longer than the model's "
                 f"{classifier.max_length} tokens: what follows these wasn't read")


def main(args):
    if "stdout" in streams.closed:
        raise cli.UserError("standard output is closed: there is nowhere to answer")
    # What the shell handed over as other bytes becomes bytes again, to be refused like a file's.
    lines = [os.fsencode(text) for text in args.texts] or opened(args.file)
    from common import inference
    from training import memory

    # --- 1. load
    memory.keep_shapes(0)
    classifier = inference.open_classifier(args.checkpoint or choose(args.run_dir), args.threads)
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's takes any text as it is
        sys.stdout.reconfigure(encoding="utf-8", errors=streams.LEGIBLE)  # answers are data: of one encoding wherever they are read

    # --- 2. answer
    name = "argument" if args.texts else args.file or "standard input"
    texts = decoded(lines, name)
    texts = texts if args.texts else watched(texts, name)
    answer(classifier, paired(texts, name) if classifier.checkpoint.manifest["dataset"].get("pairs") else texts, args)


if __name__ == "__main__":
    cli.run(main, parse_args())

"""What the benches share: the arguments that name a finished run, and the data it was made from."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import cli


def parser(doc: str, metavar: str, output: str) -> cli.Parser:
    """RUN_DIR, where to write (`output` says what), and the flags of the data."""
    made = cli.Parser(doc)
    made.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="where models/ stand")
    made.add_argument("output", type=Path, metavar=metavar, help=output)
    cli.data_flags(made)
    return made


def corpus(args: argparse.Namespace):
    """The sentences that these arguments name, whatever source they came from."""
    from common import data

    return data.load(argparse.Namespace(**vars(args) | {"source": "auto"}))


def conditions(corpus, threads: int) -> dict:
    """What every result says of how it came about. To be asked at the start: files may be edited while a bench runs."""
    from common import provenance

    return {"dataset": corpus.facts, "code": provenance.code_identity(), "cpu": provenance.cpu_name(), "threads": threads,
            "versions": provenance.versions()}


def run_stage(script: str, *flags, before: str = "") -> None:
    """A stage in a process of its own, with its output shown; `before` is Python to run there first. Raises UserError where it fails."""
    code = f"import runpy, sys; {before}sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, script, *map(str, flags)], check=False)
    if done.returncode:
        raise cli.UserError(f"{script} {' '.join(map(str, flags))} ended with code {done.returncode}: its own line above says why")


def earlier(path: Path) -> dict:
    """What stands in a JSON file that a bench adds to; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(result: dict, path: Path) -> None:
    """A result as its JSON file, in a directory that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def how_measured(result: dict) -> str:
    """One paragraph for a page: the machine, how often what was timed, and the code that did it."""
    return (f"{result['cpu']}, {result['threads']} threads; {result['sentences']} dev sentences, {result['repeats']} repeats, "
            f"taking turns. Measured at {result['code']['commit']} (source hash {result['code']['sha256'][:16]}).")

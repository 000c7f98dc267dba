"""Running the product's scripts, in processes of their own or in this one, and reading what they left behind."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# As cli.run does for a script whose output is no terminal: here the libraries are imported long before it is called.
QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
# What makes coverage count in processes that are started: taken out of the environment, and given to those of `run_script` alone. A
# process that is counted takes five seconds longer to import its libraries, and a hundred of them would do nothing else.
COUNTING: dict[str, str] = {}
REPORT = "7_evaluate_and_generate_report.py"


def environment(**extra: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in QUIET}  # scripts must be quiet by themselves
    return inherited | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | extra


def heed_interrupts() -> None:
    """For `preexec_fn`: what a shell started in the background ignores SIGINT, these tests maybe, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_script(name: str, *flags, stdin: str | None = None, check: bool = True, **env: str):
    """A script of the product in a process of its own, from the repository root: a CompletedProcess with text."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / name), *map(str, flags)],
        cwd=REPOSITORY,
        env=environment(**COUNTING, **env),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{name} {' '.join(map(str, flags))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def load_script(name: str):
    """A script of the top level as a module."""
    spec = importlib.util.spec_from_file_location("stage_" + name.removesuffix(".py"), REPOSITORY / name)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def call_script(name: str, *flags) -> tuple[int, str, str]:
    """The same without a process of its own, which would spend seconds on importing torch: (exit code, stdout, stderr)."""
    from common import cli

    script = load_script(name)
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.run(script.main, script.parse_args([str(f) for f in flags]))
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


def run_here(name: str, *flags, check: bool = True) -> subprocess.CompletedProcess:
    """`run_script` in this process."""
    code, out, err = call_script(name, *flags)
    if check and code:
        raise AssertionError(f"{name} {' '.join(map(str, flags))} ended with {code}\n{out}\n{err}")
    return subprocess.CompletedProcess([name], code, out, err)


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every path below a folder with size and time: what a command must not have touched."""
    return sorted((p.relative_to(folder).as_posix(), p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*"))


def rewrite_manifest(checkpoint: Path, **fields) -> None:
    """Changes fields of a published stage.json as a stage would have written them."""
    from common import checkpoints, facts

    manifest = checkpoints.read(checkpoint).manifest | fields
    (checkpoint / "stage.json").write_text(json.dumps(facts.sealed(manifest)), encoding="utf-8")


def manifests(run_dir: Path) -> dict[tuple[str, str], tuple[Path, dict]]:
    """{(stage, variant): (directory, stage.json)} of what a run has published."""
    found = {}
    for path in sorted((run_dir / "models").glob("[!.]*/stage.json")):
        if not path.parent.is_symlink():
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found[manifest["stage"], manifest["variant"]] = (path.parent, manifest)
    return found


def report_of(run) -> dict:
    return json.loads((run.run_dir / "final_report.json").read_text(encoding="utf-8"))


def rows_of(run) -> dict[str, dict]:
    return {row["key"]: row for row in report_of(run)["models"]}

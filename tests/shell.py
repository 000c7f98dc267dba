"""Programs as a user's shell runs them, and what they said."""

import os
import subprocess
import sys
import time
from pathlib import Path

from scripts import REPOSITORY, environment


def shell(line: str, cwd: Path = REPOSITORY, **env: str) -> subprocess.CompletedProcess:
    """A line of bash in which $PY is this Python and $AT the repository."""
    return subprocess.run(["bash", "-c", line], cwd=cwd, capture_output=True, encoding="utf-8", check=False, timeout=120,
                          env=environment(PY=sys.executable, AT=str(REPOSITORY), **env))


def one_line(done) -> str:
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (done.returncode, done.stderr)
    return done.stderr


def labels(done) -> list[str]:
    assert done.returncode == 0 and "Traceback" not in done.stderr, (done.returncode, done.stderr)
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def killed(task) -> None:
    """What becomes of a process where memory ends. It stands here since one that is started for it imports little then."""
    os._exit(9)


def by_whom(task):
    """An outcome that says which process it is of."""
    from deploy.scoring import Outcome

    time.sleep(1)
    return Outcome(os.getpid())


def killed_at_the_second(task):
    """The second shard ends its process, while another is still at the first."""
    from deploy.scoring import Outcome

    if task.shard.index == 1:
        os._exit(9)
    time.sleep(1)
    return Outcome(task.shard.rows)

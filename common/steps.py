"""Stages as processes: what a step of a plan is, as it is typed, and running one after the other."""

import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import progress
from common.cli import say
from common.provenance import REPOSITORY

SAID_EVERY_S = 60  # how long is left, and of nothing that takes less in all
FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(frozen=True)
class Step:
    """A stage that a plan runs: what it does in a word or two, its script, its flags."""

    title: str
    script: str
    flags: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return [sys.executable, str(REPOSITORY / self.script), *self.flags]

    def typed(self) -> str:
        """The command for this system's shell."""
        return subprocess.list2cmdline(self.words) if sys.platform == "win32" else shlex.join(self.words)


class Ended(Exception):
    """A step ended with another code than 0: `code`, as its shell would have it."""

    def __init__(self, step: Step, code: int):
        super().__init__(f"{step.script} ended with code {code}")
        self.code = code if code >= 0 else 128 - code  # below 0: by that signal


def run(step: Step, run_dir: Path, title: str) -> None:
    """A step in a process of its own, its output passed on; about once a minute a line says how long its training still takes.

    Raises Ended where it ends with another code than 0.
    """
    say(f"{title} …")
    began, said = time.time(), time.monotonic()
    with _forwarding() as started:
        # In a group of its own it hears a signal once, from here, though a terminal sends Ctrl-C to all of a group.
        apart: dict = {} if sys.platform == "win32" else {"process_group": 0}
        process = subprocess.Popen(step.words, stdin=subprocess.DEVNULL, **apart)
        started.append(process)
        while process.poll() is None:
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                if time.monotonic() - said < SAID_EVERY_S:
                    continue
                now = progress.newest(run_dir, began)
                if now is not None and now.whole_s >= SAID_EVERY_S:
                    said = time.monotonic()
                    say(f"{title}: {now.training}, step {now.step:,} of {now.of:,}, about {progress.span(now.left_s)} left")
    if process.returncode:
        raise Ended(step, process.returncode)


@contextmanager
def _forwarding():
    """Of the process that is put into the list it gives: signals that would end this one go there, where what is done is saved first."""
    started: list[subprocess.Popen] = []

    def forward(number, frame) -> None:
        if not started:
            before[number](number, frame) if callable(before[number]) else sys.exit(128 + number)
        elif sys.platform != "win32":  # where Ctrl-C reaches both
            started[0].send_signal(number)

    numbers = [getattr(signal, name) for name in FORWARDED if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}  # as nohup and a shell's & leave it
    for number in before:
        signal.signal(number, forward)
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in started:
            if process.poll() is None:  # an error here: nobody would wait for it
                process.kill()
                process.wait()

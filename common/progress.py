"""How far a training is: noted by the stage that trains, read by whoever waits for it in another process.

The note stands in the stage's partial directory and goes at publishing, as all that begins with `work_`.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from common.facts import a_number, has_form, read_json

NOTE = "work_progress"
FORM = {"training": str, "step": int, "of": int, "seconds_a_step": a_number}


@dataclass(frozen=True)
class Progress:
    """A training at a step of so many; `seconds_a_step` as measured in this run of it."""

    training: str
    step: int
    of: int
    seconds_a_step: float

    @property
    def whole_s(self) -> float:
        return self.of * self.seconds_a_step

    @property
    def left_s(self) -> float:
        return (self.of - self.step) * self.seconds_a_step


def note(progress: Progress, folder: Path) -> None:
    """Writes it into a stage's partial directory."""
    fresh = folder / f"{NOTE}.new"
    fresh.write_text(json.dumps(asdict(progress)), encoding="utf-8")
    os.replace(fresh, folder / NOTE)  # a reader finds a whole one


def newest(run_dir: Path, since: float) -> Progress | None:
    """What the stage at work in a run noted last; None where nothing was noted after `since`, a time of `time.time()`."""
    notes = []
    for path in (run_dir / "models").glob(f".partial_*/{NOTE}"):
        try:
            notes.append((path.stat().st_mtime, path))
        except FileNotFoundError:  # published meanwhile
            continue
    facts = read_json(max(notes)[1]) if notes and max(notes)[0] >= since else {}
    return Progress(**{name: facts[name] for name in FORM}) if has_form(facts, FORM) else None


def span(seconds: float) -> str:
    """About how long, in words: '40 seconds', '7 minutes', '2.5 hours'."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"

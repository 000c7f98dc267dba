"""A full disk, a full memory and a place without rights end in one line that says what to do, however a library puts it; bugs raise."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from chaos import PARENTS, SCRIPTS, weights
from scripts import REPOSITORY, call_script

from common.obstacles import obstacle

TENSOR = torch.zeros(100_000)
WORDS = {  # of a disk that is full: safetensors replaces what it writes to, so that /dev/full would go
    "python": OSError(errno.ENOSPC, "No space left on device"), "numpy": OSError("1000000 requested and 262112 written"),
    "safetensors": safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")}


@pytest.mark.parametrize("library", WORDS)
def test_a_full_disk_is_known_by_the_words_of(library):
    assert "no space left on the disk" in obstacle(WORDS[library])


@pytest.mark.parametrize("write", [lambda: TENSOR.numpy().tofile("/dev/full"), lambda: torch.save(TENSOR, "/dev/full"),
                                   lambda: Path("/dev/full").write_text("x" * 100_000)])
def test_a_full_disk_is_known_where_it_is_met(write):
    with pytest.raises((OSError, RuntimeError)) as caught:
        write()
    assert "no space left on the disk" in obstacle(caught.value)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**14), lambda: np.empty(10**14), lambda: bytearray(10**14)])
def test_a_full_memory_is_known_whoever_meets_it(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert "smaller --batch-size" in obstacle(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("the size of tensor a must match"), OSError(2, "No such file or directory"), KeyError("x")])
def test_other_errors_are_about_something_else(error):
    assert obstacle(error) is None


def test_an_allocation_that_fails_is_one_line():
    script = "import torch; from common import cli; cli.run(lambda args: torch.zeros(10**9), None)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9)))
    assert done.returncode == 2 and done.stderr.startswith("error: not enough memory") and done.stderr.count("\n") == 1


class FailingDisk:
    """Python's own writing, told from the `room`-th new file or directory below `folder` on that it can't be; None: never.

    The interpreter asks an audit hook about each (PEP 578), whichever library begins it, and a hook stays until the process ends.
    Libraries that write without Python, safetensors and torch, are met by the real small disks of `make chaos`, which need root.
    """

    def __init__(self):
        self.folder, self.room, self.begun, self.errno = "", None, 0, errno.ENOSPC
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        links = event in ("os.link", "os.symlink")
        new = links or event == "os.mkdir" or event == "open" and args[2] & os.O_ACCMODE != os.O_RDONLY
        if not self.folder or not new:
            return
        path = args[1] if links else args[0]
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return
        self.begun += 1
        if self.room is not None and self.begun > self.room:
            raise OSError(self.errno, os.strerror(self.errno), path)

    def run(self, script: str, flags: tuple, folder: Path, room: int | None, number: int = errno.ENOSPC) -> tuple[int, str, str]:
        """A script's exit code and what it said, where writing ends with this error's number."""
        self.folder, self.room, self.begun, self.errno = str(folder), room, 0, number
        try:
            return call_script(script, *flags)
        finally:
            self.folder = ""


@pytest.fixture(scope="module")
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.mark.parametrize(("stage", "moments"), [pytest.param("pruned", 4, marks=pytest.mark.slow), ("pruned_ptq", 4)] +
                         [pytest.param(stage, 40, marks=pytest.mark.long) for stage in SCRIPTS])
def test_a_disk_that_fills_up_anywhere_loses_nothing(stages, tmp_path, disk, stage, moments):
    """Each try goes on from the last one's, and gets further: what it begins with is what the disk had room for before."""
    script, undisturbed = SCRIPTS[stage], stages.copy(tmp_path / "undisturbed", *PARENTS[stage], lessons=stage != "lessons")
    assert disk.run(script, undisturbed.flags(script), undisturbed.run_dir, None)[0] == 0
    run, every = stages.copy(tmp_path / "run", *PARENTS[stage], lessons=stage != "lessons"), max(1, disk.begun // moments)
    stood = {path: path.read_bytes() for path in run.run_dir.rglob("*") if path.is_file()}
    room, full = 0, 0
    while (ended := disk.run(script, run.flags(script), run.run_dir, room))[0] != 0:
        code, _, err = ended
        assert (code, err.count("\n")) == (2, 1) and "no space left on the disk" in err, f"room for {room}: {err}"
        assert all(path.read_bytes() == was for path, was in stood.items())
        room, full = room + every, full + 1
    assert full >= 2
    assert weights(run.checkpoint(stage)) == weights(undisturbed.checkpoint(stage))
    assert not list((run.run_dir / "models").glob("*.partial*"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("room", [0, 5])
def test_a_directory_that_cannot_be_written_is_one_line(stages, tmp_path, disk, number, room):
    run = stages.copy(tmp_path / "run", *PARENTS["pruned_ptq"])
    code, _, err = disk.run(SCRIPTS["pruned_ptq"], run.flags(SCRIPTS["pruned_ptq"]), run.run_dir, room, number)
    assert (code, err.count("\n")) == (2, 1) and err.startswith(f"error: {run.run_dir}") and "name another directory" in err

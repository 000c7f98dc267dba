"""A full disk and a full memory end in one line that says what to do, however a library puts it; bugs still raise."""

import errno
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from conftest import REPOSITORY

from common.shortage import shortage

TENSOR = torch.zeros(100_000)
WORDS = {  # of a disk that is full: safetensors replaces what it writes to, so that /dev/full would go
    "python": OSError(errno.ENOSPC, "No space left on device"), "numpy": OSError("1000000 requested and 262112 written"),
    "safetensors": safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")}


@pytest.mark.parametrize("library", WORDS)
def test_a_full_disk_is_known_by_the_words_of(library):
    assert "no space left on the disk" in shortage(WORDS[library])


@pytest.mark.parametrize("write", [lambda: TENSOR.numpy().tofile("/dev/full"), lambda: torch.save(TENSOR, "/dev/full"),
                                   lambda: Path("/dev/full").write_text("x" * 100_000)])
def test_a_full_disk_is_known_where_it_is_met(write):
    with pytest.raises((OSError, RuntimeError)) as caught:
        write()
    assert "no space left on the disk" in shortage(caught.value)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**14), lambda: np.empty(10**14), lambda: bytearray(10**14)])
def test_a_full_memory_is_known_whoever_meets_it(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert "smaller --batch-size" in shortage(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("the size of tensor a must match"), OSError(2, "No such file or directory"), KeyError("x")])
def test_other_errors_are_about_something_else(error):
    assert shortage(error) is None


def test_an_allocation_that_fails_is_one_line():
    script = "import torch; from common import cli; cli.run(lambda args: torch.zeros(10**9), None)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9)))
    assert done.returncode == 2 and done.stderr.startswith("error: not enough memory") and done.stderr.count("\n") == 1

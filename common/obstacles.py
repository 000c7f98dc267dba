"""What isn't these programs' fault, told from bugs: a disk or a memory that is full, a place that can't be written, a GPU that can't be
used, a library that isn't there. Libraries raise these as whatever they like.
"""

import errno
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DISK = {  # words, and the kind of error that they are in: the system's, safetensors', torch's (two) and numpy's, who counts items
    "No space left on device": Exception, "os error 28": Exception, "file write failed": RuntimeError, "unexpected pos": RuntimeError,
    "requested and": OSError}
MEMORY = ("can't allocate memory", "out of memory", "std::bad_alloc")  # torch's on a CPU and on a GPU, C++'s
FORBIDDEN = ("os error 13", "os error 30")  # safetensors' for a place without the right to write, and for a disk that is read-only

# Of CUDA's errors (and ROCm's) those of a machine: a driver, a chip or a library that torch wasn't built for, a GPU that is taken or
# broken. Others, "device-side assert triggered" or "an illegal memory access was encountered", are a program's.
GPU = ("no kernel image is available", "device kernel image is invalid", "invalid device function", "unsupported toolchain",
       "driver version is insufficient", "driver on your system is too old", "Found no NVIDIA driver", "no CUDA-capable device",
       "No CUDA GPUs are available", "No HIP GPUs are available", "invalid device ordinal", "busy or unavailable",
       "CUDA error: out of memory", "HIP error: out of memory", "CUDA unknown error", "CUDA error: unknown error",
       "CUDA error: initialization error", "system not yet initialized",
       "system has unsupported display driver", "forward compatibility was attempted", "uncorrectable ECC error", "GPU is lost",
       "CUDNN_STATUS_", "unable to find an engine", "Unable to find a valid cuDNN", "CUBLAS_STATUS_NOT_INITIALIZED",
       "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ARCH_MISMATCH", "CUBLAS_STATUS_INTERNAL_ERROR", "CUSOLVER_STATUS_NOT_INITIALIZED",
       "libnvrtc", "libcudnn", "libcublas")
NO_LIBRARY = ("cannot open shared object file", "DLL load failed", "[WinError 126]", "Library not loaded")  # of a library's own library
INSTALLED = "activate the environment that make sets up (source .venv/bin/activate), or pip install -r requirements.txt"


def obstacle(error: BaseException) -> str | None:
    """What is in the way and what to do, in one line; None where an error is about something else."""
    text, number = str(error), getattr(error, "errno", None)
    if isinstance(error, PermissionError) or number == errno.EROFS or any(words in text for words in FORBIDDEN):
        return f"{getattr(error, 'filename', None) or text}: not allowed here: change its permissions, or name another directory"
    if number in (errno.ENOSPC, errno.EDQUOT) or \
            any(words in text and isinstance(error, kind) for words, kind in DISK.items()):
        return "no space left on the disk: free some, and the same command goes on from what is saved"
    if isinstance(error, OSError) and (taken := _taken(error)):
        return taken
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in text:
        return "no directory for temporary files can be written: name one with TMPDIR=DIR"
    if isinstance(error, (RuntimeError, OSError, AssertionError)) and any(words in text for words in GPU):
        return f"the GPU can't be used ({_first_line(text)}): mend its driver or take the torch that fits it, wait until it is free, or " \
               "put CUDA_VISIBLE_DEVICES= before the command, which then runs on the CPU"
    if isinstance(error, MemoryError) or any(words in text for words in MEMORY):
        return "not enough memory: try a smaller --batch-size or --max-length, and the same command goes on from what is saved"
    if isinstance(error, ImportError) or isinstance(error, OSError) and any(words in text for words in NO_LIBRARY):
        return _not_installed(error)
    return None


def _taken(error: OSError) -> str | None:
    """What of another kind stands at a path, or above it; None where nothing does."""
    named = [Path(os.fsdecode(name)) for name in (error.filename2, error.filename) if isinstance(name, (str, bytes))]
    if isinstance(error, IsADirectoryError) and named:
        return f"{named[0]} is a directory, and a file is to stand there: move it away"
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        for path in named:
            for place in (path, *path.parents):
                if os.path.lexists(place) and not place.is_dir():
                    return f"{place} is no directory, and one is to stand there: move it away, or name another place"
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) and named:
        return f"{str(named[0])[:200]}: {error.strerror}: name another place"
    return None


def _not_installed(error: ImportError | OSError) -> str | None:
    """Which library is missing, broken or of another version; None where the import is our own code's mistake."""
    module = getattr(error, "name", None) or ""
    package, python = module.split(".")[0], f"this Python ({sys.executable})"
    ours = (REPOSITORY / package).is_dir() or (REPOSITORY / f"{package}.py").is_file() if package else _raised_by_us(error)
    if ours:
        return None
    if package and isinstance(error, ModuleNotFoundError):
        if package in sys.stdlib_module_names:
            return f"{python} was built without its own module {module}: take another one"
        return f"{python} has no module {module}: {INSTALLED}"
    return f"{python} can't import {package or 'a library'} ({_first_line(str(error.__cause__ or error))}): {INSTALLED}"


def _raised_by_us(error: BaseException) -> bool:
    """Whether the innermost place of a traceback is a file of this project."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    path = Path(trace.tb_frame.f_code.co_filename)
    return path.is_relative_to(REPOSITORY) and "site-packages" not in path.parts


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")

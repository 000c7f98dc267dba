"""A disk or a memory that is full, told from other errors: libraries raise it as whatever they like."""

import errno

DISK = {  # words, and the kind of error that they are in: the system's, safetensors', torch's (two) and numpy's, who counts items
    "No space left on device": Exception, "os error 28": Exception, "file write failed": RuntimeError, "unexpected pos": RuntimeError,
    "requested and": OSError}
MEMORY = ("can't allocate memory", "out of memory", "std::bad_alloc")  # torch's on a CPU and on a GPU, C++'s


def shortage(error: BaseException) -> str | None:
    """What is short and what to do, in one line; None where an error is about something else."""
    text = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or \
            any(words in text and isinstance(error, kind) for words, kind in DISK.items()):
        return "no space left on the disk: free some, and the same command goes on from what is saved"
    if isinstance(error, MemoryError) or any(words in text for words in MEMORY):
        return "not enough memory: try a smaller --batch-size or --max-length, and the same command goes on from what is saved"
    return None

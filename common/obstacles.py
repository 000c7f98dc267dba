"""A disk or a memory that is full, and a place that can't be written, told from bugs: libraries raise them as whatever they like."""

import errno

DISK = {  # words, and the kind of error that they are in: the system's, safetensors', torch's (two) and numpy's, who counts items
    "No space left on device": Exception, "os error 28": Exception, "file write failed": RuntimeError, "unexpected pos": RuntimeError,
    "requested and": OSError}
MEMORY = ("can't allocate memory", "out of memory", "std::bad_alloc")  # torch's on a CPU and on a GPU, C++'s


FORBIDDEN = ("os error 13", "os error 30")  # safetensors' for a place without the right to write, and for a disk that is read-only


def obstacle(error: BaseException) -> str | None:
    """What is in the way and what to do, in one line; None where an error is about something else."""
    text, number = str(error), getattr(error, "errno", None)
    if isinstance(error, PermissionError) or number == errno.EROFS or any(words in text for words in FORBIDDEN):
        return f"{getattr(error, 'filename', None) or text}: not allowed here: change its permissions, or name another directory"
    if number in (errno.ENOSPC, errno.EDQUOT) or \
            any(words in text and isinstance(error, kind) for words, kind in DISK.items()):
        return "no space left on the disk: free some, and the same command goes on from what is saved"
    if isinstance(error, MemoryError) or any(words in text for words in MEMORY):
        return "not enough memory: try a smaller --batch-size or --max-length, and the same command goes on from what is saved"
    return None

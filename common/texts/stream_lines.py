"""The lines of a file, a pipe or a terminal in chunks: as many as fit, or at once what came within a moment."""

import itertools
import os
import queue
import stat
import threading
import time
from collections.abc import Iterator

MOMENT = 0.02  # seconds in which more lines may come before those that are there are answered
BLOCK = 1 << 16  # bytes that are read at once, as many as a pipe holds


def chunks(handle, most: int) -> Iterator[list[bytes]]:
    """The lines of a binary stream, up to `most` at once: of a file always as many, of anything else what came within a MOMENT, so that
    whoever types one is answered. May raise OSError.
    """
    if not hasattr(handle, "raw") or stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        while chunk := list(itertools.islice(handle, most)):
            yield chunk
        return
    came: queue.Queue[list[bytes] | OSError | None] = queue.Queue(maxsize=4)
    # Past the buffer, whose lock a thread that waits for a line would hold for ever, at the program's end too.
    threading.Thread(target=_read, args=(handle.raw, came), daemon=True).start()
    waiting: list[bytes] = []
    end: OSError | bool = False
    while waiting or not end:
        while not end and len(waiting) < most:
            try:
                found = came.get(timeout=MOMENT if waiting else None)
            except queue.Empty:
                break
            if isinstance(found, list):
                waiting += found
            else:
                end = found or True
        if waiting:
            yield waiting[:most]
            waiting = waiting[most:]
    if isinstance(end, OSError):
        raise end


def _read(raw, came: queue.Queue) -> None:
    """Puts the lines of an unbuffered stream into a queue, as they come; None behind the last, or the error that ends it."""
    begun: list[bytes] = []
    try:
        while (block := raw.read(BLOCK)) != b"":
            if block is None:  # a stream that doesn't wait
                time.sleep(MOMENT)
                continue
            *lines, rest = block.split(b"\n")
            if lines:
                lines[0] = b"".join([*begun, lines[0]])
                came.put(lines)
                begun = []
            begun.append(rest)
        if any(begun):
            came.put([b"".join(begun)])
        came.put(None)
    except OSError as error:
        came.put(error)

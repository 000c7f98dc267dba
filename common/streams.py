"""Standard input, output and error whatever they are: closed, full, broken off, or of an encoding that hasn't our signs."""

import codecs
import errno
import os
import sys

# What these programs print beyond ASCII, in letters that every encoding has.
IN_ASCII = {"…": "...", "→": "->", "−": "-", "–": "-", "—": "-", "×": "x", "÷": "/", "·": "*", "‖": "||", "±": "+-", "Δ": "delta",
            "∂": "d", "’": "'", "²": "^2", "³": "^3", "ᵀ": "^T"}
LEGIBLE = "legible"  # the name under which `_legible` is registered
closed: list[str] = []  # names of those that were closed when the program began


def _legible(error: UnicodeError) -> tuple[str, int]:
    """For a codec that hasn't a sign: our own in ASCII, all others, bytes of a file's name too, as Python escapes them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start:error.end]
    return "".join(IN_ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs), error.end


codecs.register_error(LEGIBLE, _legible)


def prepare() -> None:
    """Makes all three usable, before anything is printed or opened.

    A closed one becomes the null device, or the next file that is opened would take its number, and what libraries print would land in
    a checkpoint.
    """
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        stream = getattr(sys, name)
        if stream is None:
            # As long as the program runs.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
            closed.append(name)
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=LEGIBLE)


def put(text: str, stream) -> int:
    """Prints a text, and what stands in the stream before it. Returns 0, or the number of the error of a stream that takes no more.

    The error itself would keep the caller's variables alive, with files that nobody then closes.
    """
    try:
        print(text, end="", file=stream, flush=True)
    except OSError as error:
        give_up(stream)
        return error.errno or errno.EIO
    return 0


def give_up(stream) -> None:
    """Lets whatever is printed from now on go nowhere, what the stream still holds too: a try at exit would change the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

"""Plumbing that two or more scripts share. Knows nothing of `compress/`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    # Said before a newer grammar is met: older ones read this file, and the scripts, without an error.
    print(f"error: Python {sys.version.split()[0]} ({sys.executable}) is too old: take 3.11 or newer, such as the one in .venv that make "
          "sets up (source .venv/bin/activate)", file=sys.stderr)
    sys.exit(2)

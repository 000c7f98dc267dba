"""Plumbing that two or more scripts share. Knows nothing of `compress/`.

Whoever imports any of it sends nothing unasked. Libraries look at these variables when they are imported; onnxruntime keeps a
device id and asks for its maker's host unless it finds its own then (`disable_telemetry_events()` comes too late, seen).
"""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036
    # Said before a newer grammar is met: older ones read this file, and the scripts, without an error.
    print(f"error: Python {sys.version.split()[0]} ({sys.executable}) is too old: take 3.11 or newer, such as the one in .venv that make "
          "sets up (source .venv/bin/activate)", file=sys.stderr)
    sys.exit(2)

UNASKED = dict.fromkeys(("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK", "DO_NOT_TRACK"), "1")
os.environ |= UNASKED

"""Plumbing that two or more scripts share. Knows nothing of `compress/`.

Whoever imports any of it sends nothing unasked: libraries look at these when they are imported themselves, and onnxruntime keeps a device
id and asks for its maker's host unless it finds this one then (its own `disable_telemetry_events()` comes too late, seen).
"""

import os

UNASKED = dict.fromkeys(("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK", "DO_NOT_TRACK"), "1")
os.environ |= UNASKED

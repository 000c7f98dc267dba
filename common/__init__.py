"""Plumbing that two or more scripts share. Knows nothing of `compress/`."""

"""The method: one idea a file, named as its paper names it. Knows nothing of `common/`."""

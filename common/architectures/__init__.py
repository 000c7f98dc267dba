"""Models as others made them: which encoders can be pruned, what their parts are called, and what is taken by its answers alone."""

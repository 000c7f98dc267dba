"""An exported model opened as others would open it, each place in an environment of its own: `bench.ship` writes down what came of it."""

"""Where randomness enters a model: its stochastic operations are found and intercepted; the model stays as it is."""

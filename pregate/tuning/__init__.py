"""Settings for a model, a machine and a trace: what to choose, what it gains, and whether the trace has moved since."""

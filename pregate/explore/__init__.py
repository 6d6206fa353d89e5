"""Many questions at once: sweeps, optima, crossovers, and explanations of one answer."""

"""One design executed on the machine at hand: which back end, how much memory, and what the run came to."""

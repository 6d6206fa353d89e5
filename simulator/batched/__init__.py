"""One schedule on many machines at once: the recurrence, with the metrics taken on the way."""

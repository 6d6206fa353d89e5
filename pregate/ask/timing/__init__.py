"""From a schedule to times and metrics: part by part, on many machines at once, with intervals."""

"""What a run came to, virtual or real: the metrics that every result has, and what was brought ahead of its gate."""

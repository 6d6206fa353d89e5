"""What a recorded trace says without any timing: hit rates of caches, and how often a predictor is right."""

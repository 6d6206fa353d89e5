"""What a cache keeps and gives up: evictions, admissions, their ranks, and the replay of a trace through them."""

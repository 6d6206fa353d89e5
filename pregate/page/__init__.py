"""The page one can play with: one HTML file of schedules, prices and answers, and the recurrence to run them."""

DESIGNS = ("gpu_only", "on_demand", "on_demand+lru", "prefetch_all", "pregate", "pregate+lru")
"""What a page compares unless it is told."""
